//! `cbn export`: a checkpoint's detector for another runtime.

use anyhow::{Context, Result};
use burn::tensor::Device;
use cbn_detection::export::to_onnx;
use cbn_detection::files::write_atomically;

use crate::cli::{ExportArgs, ExportFormat};
use crate::model_file::TrainedModel;

pub fn run(args: &ExportArgs) -> Result<()> {
    let TrainedModel { detector, plan, categories } = TrainedModel::load(&args.checkpoint, &Device::flex())?;
    let classes = serde_json::to_string(&categories).context("the classes have no JSON form")?;
    let transform = serde_json::to_string(&plan.transform).context("the transform has no JSON form")?;
    let metadata = [("classes", classes), ("transform", transform)];
    let bytes = match args.to {
        ExportFormat::Onnx => to_onnx(&detector, &plan.model, &plan.transform, &metadata)?,
    };
    write_atomically(&args.output, &bytes).with_context(|| format!("cannot write {}", args.output.display()))?;
    println!("{}", args.output.display());
    Ok(())
}
