use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use cbn::Norm;
use cbn::norm::EpsilonPlace;

use super::class_rows::ClassTensor;
use super::{StateDict, WeightLayout};
use crate::model::Detector;

/// The weights of a detector under another library's names and in its order, for [`StateDict::write`].
///
/// Counters and histories of norms are left out: no other library has them. The pixels are in PyTorch's style; strides are as the detector was
/// configured. The other libraries add 1e-5 to the variance: a norm that adds something else, or adds it to the standard deviation, gets
/// another gamma, with which it computes the same there. In mmdetection's layout of the released CBN code a norm that adds 1e-5 to the
/// standard deviation stays as it is, because that code's norm does so.
pub fn export_detector(detector: &Detector, layout: WeightLayout) -> StateDict {
    let boxes = &detector.roi.boxes;
    let mut exporter = Exporter {
        layout,
        cells_per_roi: boxes.cells_per_roi(),
        num_classes: boxes.num_classes(),
        has_box_convs: !boxes.head.convs.is_empty(),
        path: Vec::new(),
        tensors: BTreeMap::new(),
        norms: Vec::new(),
    };
    detector.visit(&mut exporter);
    for (part, norm) in norms(detector) {
        if let Some(epsilon) = norm.and_then(Norm::running_epsilon) {
            exporter.fit_epsilon(part, epsilon);
        }
    }
    StateDict::new(exporter.tensors)
}

/// The detector's parts, by the beginning of their paths, and a norm of each: all of a part are alike.
fn norms(detector: &Detector) -> [(&'static str, Option<&Norm>); 4] {
    let Detector { backbone, neck, roi, .. } = detector;
    let mask = roi.mask.as_ref().and_then(|mask| mask.head.convs.first());
    [
        ("backbone.", Some(&backbone.stem.norm)),
        ("neck.", neck.laterals.first().map(|conv| &conv.norm)),
        ("roi.boxes.", roi.boxes.head.convs.first().map(|conv| &conv.norm)),
        ("roi.mask.", mask.map(|conv| &conv.norm)),
    ]
}

/// What the other libraries add to the variance.
const EPSILON: f64 = 1e-5;

struct Exporter {
    layout: WeightLayout,
    cells_per_roi: usize,
    num_classes: usize,
    /// torchvision calls the first fully connected layer after convolutions by another name.
    has_box_convs: bool,
    path: Vec<String>,
    tensors: BTreeMap<String, TensorData>,
    /// The path of each running variance, and its name there.
    norms: Vec<(String, String)>,
}

impl Exporter {
    /// Gives the norms of a part, which add `value` at `place`, the gamma with which they compute the same where [`EPSILON`] is added
    /// to the variance.
    fn fit_epsilon(&mut self, part: &str, (value, place): (f64, EpsilonPlace)) {
        let is_own = self.layout == WeightLayout::Mmdet && place == EpsilonPlace::OutsideRoot;
        if self.layout == WeightLayout::Cbn || (value == EPSILON && (is_own || place == EpsilonPlace::InsideRoot)) {
            return;
        }
        for (_, name) in self.norms.iter().filter(|(path, _)| path.starts_with(part)) {
            let Some(norm) = name.strip_suffix("running_var") else { continue };
            let vars: Vec<f32> = self.tensors[name].iter::<f32>().collect();
            let Some(gamma) = self.tensors.get_mut(&format!("{norm}weight")) else { continue };
            let fitted = gamma.iter::<f32>().zip(vars).map(|(gamma, var)| {
                let var = f64::from(var);
                let divisor = match place {
                    EpsilonPlace::InsideRoot => (var + value).sqrt(),
                    EpsilonPlace::OutsideRoot => var.sqrt() + value,
                };
                (f64::from(gamma) * (var + EPSILON).sqrt() / divisor) as f32
            });
            *gamma = TensorData::new(fitted.collect::<Vec<f32>>(), gamma.shape().to_vec());
        }
    }

    fn name(&self) -> Option<String> {
        let names = self.layout.names(&self.path);
        let is_first_fc = self.path[..self.path.len() - 1].ends_with(&["fcs".to_owned(), "0".to_owned()]);
        let chosen = if is_first_fc && self.has_box_convs { names.last() } else { names.first() };
        chosen.cloned()
    }

    fn converted(&self, mut values: Vec<f32>, shape: &[usize]) -> TensorData {
        if self.layout == WeightLayout::Cbn {
            return TensorData::new(values, shape.to_vec());
        }
        let mut shape = shape.to_vec();
        if let &[inputs, outputs] = shape.as_slice() {
            let reads_roi = self.path.ends_with(&["fcs".to_owned(), "0".to_owned(), "weight".to_owned()]);
            let cells = if reads_roi { self.cells_per_roi } else { 1 };
            values = channels_first(&values, [outputs, inputs / cells, cells]);
            shape = vec![outputs, inputs];
        }
        if let Some(counted) = ClassTensor::of(&self.path) {
            values = counted.to_theirs(self.layout, &values, self.num_classes);
            shape[0] = counted.num_rows(self.layout, self.num_classes);
        }
        TensorData::new(values, shape)
    }
}

/// `[cell, channel, out]` to `[out, channel, cell]`.
fn channels_first(values: &[f32], [outputs, channels, cells]: [usize; 3]) -> Vec<f32> {
    let mut reordered = Vec::with_capacity(values.len());
    for output in 0..outputs {
        for channel in 0..channels {
            reordered.extend((0..cells).map(|cell| values[(cell * channels + channel) * outputs + output]));
        }
    }
    reordered
}

impl ModuleVisitor for Exporter {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = self.name() else { return };
        let shape = param.dims();
        let values = param.val().into_data().convert::<f32>().try_to_vec().expect("the data was converted to f32");
        let tensor = self.converted(values, &shape);
        if self.path.last().is_some_and(|leaf| leaf == "running_var") {
            self.norms.push((self.path.join("."), name.clone()));
        }
        self.tensors.insert(name, tensor);
    }
}
