use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use super::torchvision::{backbone_names, detector_names, is_backbone_name};
use super::{StateDict, StateMismatch, WeightsError};
use crate::model::{Detector, backbone::ResNet};

/// Loads a whole torchvision Faster or Mask R-CNN (`fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn`, and the same of
/// other depths or norms).
///
/// Classes keep their places: torchvision's class k, background being 0, is our label k - 1. Parameters keep whether they
/// train. Files of torchvision's own detectors go with frozen norms whose epsilon is 0.
///
/// # Errors
///
/// Names that the detector needs and the file lacks, the reverse, and shapes that differ.
pub fn load_detector(detector: Detector, weights: &StateDict) -> Result<Detector, WeightsError> {
    let mut loader = Loader::new(weights, detector_names, detector.roi.boxes.cells_per_roi());
    let detector = detector.map(&mut loader);
    loader.finish(detector, |_| true)
}

/// Loads the backbone from a file of a torchvision ResNet, or of a detector on top of one. The rest of the file is not
/// looked at.
///
/// # Errors
///
/// As [`load_detector`].
pub fn load_backbone(backbone: ResNet, weights: &StateDict) -> Result<ResNet, WeightsError> {
    let mut loader = Loader::new(weights, backbone_names, 1);
    let backbone = backbone.map(&mut loader);
    loader.finish(backbone, is_backbone_name)
}

struct Loader<'a> {
    weights: &'a StateDict,
    names_of: fn(&[String]) -> Vec<String>,
    /// Feature cells that a fully connected layer reads, in PyTorch's order channels first.
    cells_per_roi: usize,
    path: Vec<String>,
    used: BTreeSet<&'a str>,
    mismatch: StateMismatch,
}

impl<'a> Loader<'a> {
    fn new(weights: &'a StateDict, names_of: fn(&[String]) -> Vec<String>, cells_per_roi: usize) -> Self {
        let (path, used, mismatch) = Default::default();
        Self { weights, names_of, cells_per_roi, path, used, mismatch }
    }

    /// The module, if everything fitted and no name for which `is_ours` holds was left over.
    fn finish<M>(mut self, module: M, is_ours: fn(&str) -> bool) -> Result<M, WeightsError> {
        let names = self.weights.iter().map(|(name, _)| name);
        let unused = names.filter(|name| is_ours(name) && !self.used.contains(name));
        self.mismatch.unexpected = unused.map(str::to_owned).collect();
        if self.mismatch.is_empty() { Ok(module) } else { Err(WeightsError::Mismatch(self.mismatch)) }
    }

    /// The values for a parameter of this shape at the present path.
    fn values_for(&mut self, shape: &[usize]) -> Option<TensorData> {
        let names = (self.names_of)(&self.path);
        let newest = names.first()?;
        let Some((name, data)) = self.weights.first_of(&names) else {
            self.mismatch.missing.push(newest.clone());
            return None;
        };
        self.used.insert(name);
        // Burn stores fully connected layers as [in, out], PyTorch as [out, in].
        let stored: Vec<usize> = if shape.len() == 2 { vec![shape[1], shape[0]] } else { shape.to_vec() };
        if data.shape().as_slice() != stored.as_slice() {
            self.mismatch.shapes.push((name.to_owned(), stored, data.shape().to_vec()));
            return None;
        }
        let &[inputs, outputs] = shape else { return Some(data.clone()) };
        let reads_roi = self.path.ends_with(&["fcs".to_owned(), "0".to_owned(), "weight".to_owned()]);
        let cells = if reads_roi { self.cells_per_roi } else { 1 };
        let values = data.as_slice::<f32>().expect("state dicts hold f32");
        Some(TensorData::new(channels_last(values, [outputs, inputs / cells, cells]), [inputs, outputs]))
    }
}

/// `[out, channel, cell]` to `[cell, channel, out]`.
fn channels_last(values: &[f32], [outputs, channels, cells]: [usize; 3]) -> Vec<f32> {
    let mut reordered = Vec::with_capacity(values.len());
    for cell in 0..cells {
        for channel in 0..channels {
            reordered.extend((0..outputs).map(|output| values[(output * channels + channel) * cells + cell]));
        }
    }
    reordered
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.values_for(&param.dims()) else { return param };
        let (id, old, mapper) = param.consume();
        let new = Tensor::from_data(data, &old.device()).set_require_grad(old.is_require_grad());
        Param::from_mapped_value(id, new, mapper)
    }
}
