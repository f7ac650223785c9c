//! The GPUs of one process.

use std::sync::Arc;

use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor, TensorData};

use super::{Peers, ProcessGroup, Threads};

/// Sums of fewer values go from thread to thread, like everything that is not a sum of f32.
const ON_DEVICE_FROM: usize = 8 * 1024;

/// Threads of one process, each with a GPU of its own, which add up what is large among themselves: Burn's `all_reduce`, NCCL under CUDA.
///
/// The sums have the same bits on all, in an order that NCCL chooses. This group was type-checked and never run: there was no machine with two
/// GPUs. Values pass through the host on their way, because a [`ProcessGroup`] knows no tensors.
#[derive(Debug)]
pub struct Gpus {
    threads: Threads,
    devices: Arc<[Device]>,
}

impl Gpus {
    /// A handle for the thread of each device, in their order.
    ///
    /// # Panics
    ///
    /// If there is no device.
    pub fn group(devices: Vec<Device>) -> Vec<Peers> {
        assert!(!devices.is_empty(), "a group has at least one device");
        let devices: Arc<[Device]> = devices.into();
        let threads = Threads::members(devices.len());
        threads.into_iter().map(|threads| Peers::new(Self { threads, devices: devices.clone() })).collect()
    }
}

impl ProcessGroup for Gpus {
    fn rank(&self) -> usize {
        self.threads.rank()
    }

    fn size(&self) -> usize {
        self.threads.size()
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.threads.gather(bytes)
    }

    fn sum_f32(&self, values: &mut [f32]) {
        if values.len() < ON_DEVICE_FROM || self.size() == 1 {
            return self.threads.sum_f32(values);
        }
        let own = TensorData::new(values.to_vec(), [values.len()]);
        let own = Tensor::<1>::from_data(own, &self.devices[self.rank()]);
        let sum = all_reduce(own, ReduceOperation::Sum, self.devices.to_vec()).resolve().into_data();
        values.copy_from_slice(sum.as_slice::<f32>().expect("a sum has its terms' type"));
    }

    fn abort(&self) {
        self.threads.abort();
    }
}
