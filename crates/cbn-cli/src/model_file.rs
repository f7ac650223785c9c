//! A detector from its checkpoint alone.

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use cbn_detection::data::Category;
use cbn_detection::model::Detector;
use cbn_detection::recipe::Plan;
use cbn_detection::train::Checkpoint;

/// A trained detector, and what its checkpoint says about it.
pub struct TrainedModel {
    pub detector: Detector,
    pub plan: Plan,
    pub categories: Vec<Category>,
}

impl TrainedModel {
    /// Reads a checkpoint for inference.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_as(path, Ok, device)
    }

    /// The same under another plan, made from the one that the checkpoint carries.
    pub fn load_as(path: &Path, plan_of: impl FnOnce(Plan) -> Result<Plan>, device: &Device) -> Result<Self> {
        let mut checkpoint = Checkpoint::load(path)?;
        let saved: Plan = serde_json::from_value(checkpoint.info.plan.clone())
            .with_context(|| format!("checkpoint {} carries no plan that this version reads", path.display()))?;
        let plan = plan_of(saved)?;
        let detector = checkpoint.restore_for_inference(path, Detector::init_to_load(&plan.model, device))?.valid();
        Ok(Self { detector, plan, categories: checkpoint.info.categories })
    }
}
