use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::class_rows::ClassTensor;
use super::{StateDict, WeightLayout};
use crate::model::Detector;

/// The weights of a detector under another library's names and in its order, for [`StateDict::write`].
///
/// Counters and histories of norms are left out: no other library has them. The backbone is in PyTorch's style unless the detector was
/// configured otherwise. Where a norm has another epsilon than the other library's, that must be set there.
pub fn export_detector(detector: &Detector, layout: WeightLayout) -> StateDict {
    let boxes = &detector.roi.boxes;
    let mut exporter = Exporter {
        layout,
        cells_per_roi: boxes.cells_per_roi(),
        num_classes: boxes.num_classes(),
        has_box_convs: !boxes.head.convs.is_empty(),
        path: Vec::new(),
        tensors: BTreeMap::new(),
    };
    detector.visit(&mut exporter);
    StateDict::new(exporter.tensors)
}

struct Exporter {
    layout: WeightLayout,
    cells_per_roi: usize,
    num_classes: usize,
    /// torchvision calls the first fully connected layer after convolutions by another name.
    has_box_convs: bool,
    path: Vec<String>,
    tensors: BTreeMap<String, TensorData>,
}

impl Exporter {
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
        self.tensors.insert(name, tensor);
    }
}
