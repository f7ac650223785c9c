//! Weights in the kernels' own order, kept between calls of inference.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use cbn_kernels::{PackedWeight, WeightShape};

/// A place beside a layer for its packed weight. It fills at the layer's first call without autodiff, on the CPU.
///
/// What is kept belongs to one weight tensor: a layer whose weight was replaced packs anew. A clone starts empty, so that a
/// training module and the copies it is evaluated by do not hold weights twice. Takes the memory of the weight once, of
/// 3x3 weights with stride 1 five or eight times, by the size of the map.
#[derive(Debug, Default)]
pub struct PackedWeightCache(Arc<Slot>);

impl Clone for PackedWeightCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PackedWeightCache {
    /// The same place, for an operation to fill.
    pub(super) fn share(&self) -> SharedCache {
        SharedCache(Some(self.0.clone()))
    }
}

/// The place, or none: then a weight is packed for one call.
#[derive(Clone, Debug, Default)]
pub struct SharedCache(Option<Arc<Slot>>);

#[derive(Debug, Default)]
struct Slot(Mutex<Option<(FlexTensor, Arc<PackedWeight>)>>);

impl SharedCache {
    /// The packed form of `weight`, of any layout, if there is a place for it.
    pub(super) fn get(&self, weight: &FlexTensor, shape: WeightShape) -> Option<Arc<PackedWeight>> {
        let mut slot = self.0.as_ref()?.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some((of, packed)) if are_same(of, weight) && packed.shape() == shape => Some(packed.clone()),
            _ => {
                let packed = Arc::new(PackedWeight::new(shape, weight.to_contiguous().as_slice()?));
                // The kept tensor shares its memory, which is therefore neither freed nor written to.
                *slot = Some((weight.clone(), packed.clone()));
                Some(packed)
            }
        }
    }
}

/// Whether both are the same look at the same memory.
fn are_same(a: &FlexTensor, b: &FlexTensor) -> bool {
    let is_f32 = a.dtype() == DType::F32 && b.dtype() == DType::F32;
    is_f32 && a.layout() == b.layout() && a.storage::<f32>().as_ptr() == b.storage::<f32>().as_ptr()
}
