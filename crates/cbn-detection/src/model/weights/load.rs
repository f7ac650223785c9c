use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use super::class_rows::ClassTensor;
use super::{BackboneStyle, StateDict, StateMismatch, WeightLayout, WeightsError};
use crate::model::{Detector, backbone::ResNet};

/// How weights are taken. The default finds the layout in the names and wants every tensor to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadConfig {
    /// Whose names. Default: the file's names tell.
    pub layout: Option<WeightLayout>,
    /// What the backbone was trained on and where its strides are. Default: what is usual for the layout.
    pub style: Option<BackboneStyle>,
    /// Whether the tensors that count classes keep the model's values, so that the weights may be of any number of classes. Default: no.
    pub replace_class_heads: bool,
}

/// A module with its new weights, and what was not taken over.
#[derive(Clone, Debug)]
pub struct Loaded<M> {
    /// The module.
    pub module: M,
    /// Whose names the weights had.
    pub layout: WeightLayout,
    /// Module paths of the tensors that keep the model's values, because class heads were to be replaced.
    pub anew: Vec<String>,
    /// Names in the file that stand for no weights of the module: constants of the other library, the rest of a detector around a backbone.
    pub unused: Vec<String>,
}

/// Loads a whole detector of any layout, with [`LoadConfig::default`].
///
/// # Errors
///
/// As [`LoadConfig::load_detector`].
pub fn load_detector(detector: Detector, weights: &StateDict) -> Result<Detector, WeightsError> {
    Ok(LoadConfig::default().load_detector(detector, weights)?.module)
}

/// Loads the backbone from a file of any layout, with [`LoadConfig::default`].
///
/// # Errors
///
/// As [`LoadConfig::load_backbone`].
pub fn load_backbone(backbone: ResNet, weights: &StateDict) -> Result<ResNet, WeightsError> {
    Ok(LoadConfig::default().load_backbone(backbone, weights)?.module)
}

impl LoadConfig {
    /// Loads a whole Faster or Mask R-CNN.
    ///
    /// Our label k is the k-th class that is not the background, wherever the layout has that. Parameters keep whether they train. Counters and
    /// histories of norms start anew.
    ///
    /// # Errors
    ///
    /// No layout has such names; names that the detector needs and the file lacks, the reverse, shapes that differ; another number
    /// of classes; a backbone of the other style.
    pub fn load_detector(&self, detector: Detector, weights: &StateDict) -> Result<Loaded<Detector>, WeightsError> {
        let layout = self.layout_of(weights)?;
        let style = self.style.unwrap_or_else(|| BackboneStyle::usual(layout));
        style.check(&detector.backbone, layout)?;
        let mut loader = Loader {
            cells_per_roi: detector.roi.boxes.cells_per_roi(),
            num_classes: detector.roi.boxes.num_classes(),
            ..Loader::new(weights, layout, style, self.replace_class_heads)
        };
        let module = detector.map(&mut loader);
        loader.finish(module, |_| true)
    }

    /// Loads a backbone from a file of the network alone, or of a detector around one. Of a classifier or a detector, the rest is not taken.
    ///
    /// # Errors
    ///
    /// As [`LoadConfig::load_detector`].
    pub fn load_backbone(&self, backbone: ResNet, weights: &StateDict) -> Result<Loaded<ResNet>, WeightsError> {
        let layout = self.layout_of(weights)?;
        let style = self.style.unwrap_or_else(|| BackboneStyle::usual(layout));
        style.check(&backbone, layout)?;
        let prefix = layout.backbone_prefix();
        let is_alone = !weights.iter().any(|(name, _)| name.starts_with(prefix));
        let mut loader = Loader::new(weights, layout, style, false);
        loader.path.push("backbone".to_owned());
        loader.stripped = if is_alone { prefix } else { "" };
        let module = backbone.map(&mut loader);
        let prefix = if is_alone { "" } else { prefix };
        loader.finish(module, |name| name.strip_prefix(prefix).is_some_and(|name| !is_classifier(name)))
    }

    /// Classes that the weights tell apart, background not counted; none if they are of a backbone alone.
    ///
    /// # Errors
    ///
    /// No layout has such names.
    pub fn num_classes(&self, weights: &StateDict) -> Result<Option<usize>, WeightsError> {
        let layout = self.layout_of(weights)?;
        let path = ["roi", "boxes", "head", "class_logits", "bias"].map(str::to_owned);
        let bias = weights.first_of(&layout.names(&path));
        Ok(bias.and_then(|(_, bias)| ClassTensor::Logits.num_classes(layout, *bias.shape().first()?)))
    }

    fn layout_of(&self, weights: &StateDict) -> Result<WeightLayout, WeightsError> {
        let names = || weights.iter().map(|(name, _)| name);
        let first = names().next().ok_or(WeightsError::NoTensors)?;
        let found = self.layout.or_else(|| WeightLayout::of(names()));
        found.ok_or_else(|| WeightsError::UnknownLayout { len: names().count(), first: first.to_owned() })
    }
}

/// Name, the module's shape, the shape found.
type ShapeMismatch = (String, Vec<usize>, Vec<usize>);

/// The fully connected layer of torchvision's ResNets, and detectron2's and Caffe2's names for it.
fn is_classifier(name: &str) -> bool {
    ["fc.", "linear.", "fc1000_", "pred_"].iter().any(|start| name.starts_with(start))
}

struct Loader<'a> {
    weights: &'a StateDict,
    layout: WeightLayout,
    style: BackboneStyle,
    replaces_class_heads: bool,
    /// What the layout's names begin with and this file's do not.
    stripped: &'static str,
    /// Feature cells that a fully connected layer reads, in PyTorch's order channels first.
    cells_per_roi: usize,
    num_classes: usize,
    path: Vec<String>,
    used: BTreeSet<&'a str>,
    mismatch: StateMismatch,
    /// Tensors of another number of classes: that number, and how their shapes differ.
    other_classes: Vec<(usize, ShapeMismatch)>,
    anew: Vec<String>,
}

impl<'a> Loader<'a> {
    fn new(weights: &'a StateDict, layout: WeightLayout, style: BackboneStyle, replaces_class_heads: bool) -> Self {
        let (path, used, mismatch, other_classes, anew) = Default::default();
        Self {
            weights,
            layout,
            style,
            replaces_class_heads,
            stripped: "",
            cells_per_roi: 1,
            num_classes: 0,
            path,
            used,
            mismatch,
            other_classes,
            anew,
        }
    }

    /// The module, if everything fitted and no name for which `is_ours` holds was left over.
    fn finish<M>(mut self, module: M, is_ours: impl Fn(&str) -> bool) -> Result<Loaded<M>, WeightsError> {
        let layout = self.layout;
        let names = self.weights.iter().map(|(name, _)| name);
        let left = names.filter(|name| !self.used.contains(name)).map(str::to_owned);
        let (unexpected, unused) = left.partition(|name| is_ours(name) && !layout.is_constant(name));
        self.mismatch.unexpected = unexpected;
        if !self.mismatch.is_empty() {
            self.mismatch.shapes.extend(self.other_classes.into_iter().map(|(_, shapes)| shapes));
            return Err(WeightsError::Mismatch { layout, mismatch: self.mismatch });
        }
        if let Some(&(found, _)) = self.other_classes.first() {
            let tensors = self.other_classes.into_iter().map(|(_, (name, ..))| name).collect();
            return Err(WeightsError::ClassCount { found, expected: self.num_classes, tensors });
        }
        Ok(Loaded { module, layout, anew: self.anew, unused })
    }

    /// The values for a parameter of this shape at the present path.
    fn values_for(&mut self, shape: &[usize]) -> Option<TensorData> {
        let names = self.layout.names(&self.path);
        let names: Vec<String> =
            names.into_iter().map(|name| name.strip_prefix(self.stripped).unwrap_or(&name).to_owned()).collect();
        let newest = names.first()?;
        let Some((name, data)) = self.weights.first_of(&names) else {
            if self.is_replaced() {
                self.anew.push(self.path.join("."));
            } else {
                self.mismatch.missing.push(newest.clone());
            }
            return None;
        };
        self.used.insert(name);
        if self.is_replaced() {
            self.anew.push(self.path.join("."));
            return None;
        }
        self.converted(name, data, shape)
    }

    fn is_replaced(&self) -> bool {
        self.replaces_class_heads && ClassTensor::of(&self.path).is_some()
    }

    /// The file's values in the order of a parameter of this shape.
    fn converted(&mut self, name: &str, data: &TensorData, shape: &[usize]) -> Option<TensorData> {
        let layout = self.layout;
        // Burn stores fully connected layers as [in, out], PyTorch as [out, in].
        let is_linear = shape.len() == 2 && layout != WeightLayout::Cbn;
        let mut stored: Vec<usize> = if is_linear { vec![shape[1], shape[0]] } else { shape.to_vec() };
        let found: Vec<usize> = data.shape().to_vec();
        let counted = ClassTensor::of(&self.path);
        let class_axis = if is_linear || shape.len() != 2 { 0 } else { 1 };
        if let Some(counted) = counted {
            stored[class_axis] = counted.num_rows(layout, self.num_classes);
        }
        if found != stored {
            let is_alike = found.len() == stored.len()
                && (0..stored.len()).all(|axis| axis == class_axis || found[axis] == stored[axis]);
            let num_classes = counted.filter(|_| is_alike).and_then(|c| c.num_classes(layout, found[class_axis]));
            let shapes = (name.to_owned(), stored, found);
            match num_classes {
                Some(num_classes) => self.other_classes.push((num_classes, shapes)),
                None => self.mismatch.shapes.push(shapes),
            }
            return None;
        }
        let mut values = data.try_to_vec::<f32>().expect("state dicts hold f32");
        if let Some(counted) = counted.filter(|_| layout != WeightLayout::Cbn) {
            values = counted.to_ours(layout, &values, self.num_classes);
        }
        if self.path.ends_with(&["backbone".to_owned(), "stem".to_owned(), "weight".to_owned()]) {
            self.style.fit_stem(&mut values, shape);
        }
        if is_linear {
            let reads_roi = self.path.ends_with(&["fcs".to_owned(), "0".to_owned(), "weight".to_owned()]);
            let cells = if reads_roi { self.cells_per_roi } else { 1 };
            values = channels_last(&values, [shape[1], shape[0] / cells, cells]);
        }
        Some(TensorData::new(values, shape.to_vec()))
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
        // Nothing here draws a weight that is then replaced.
        let Some(data) = self.values_for(&param.lazy_shape()) else { return param };
        let (id, new) = (param.id, Tensor::from_data(data, &param.lazy_device()));
        param.transform_for_load(new, id)
    }
}
