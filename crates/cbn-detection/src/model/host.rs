//! The border between tensors and the host's slices.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// The values of a tensor in memory order, without gradient. This waits for the device.
pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().expect("the data was converted to f32")
}

/// Indices or labels as a tensor.
pub(super) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> =
        values.iter().map(|&value| i64::try_from(value).expect("an index into memory fits i64")).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// One row of four numbers for each of `values`.
pub(super) fn rows(values: Vec<[f32; 4]>, device: &Device) -> Tensor<2> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values.into_flattened(), [len, 4]), device)
}
