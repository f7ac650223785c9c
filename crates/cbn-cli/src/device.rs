//! Where the arithmetic happens.

use burn::tensor::Device;
use clap::ValueEnum;

/// A backend by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// Burn Flex with this project's kernels
    Cpu,
    /// Vulkan, Metal or DirectX 12
    Wgpu,
    /// NVIDIA
    Cuda,
}

impl DeviceKind {
    /// The device, or which feature this binary lacks.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Wgpu => wgpu(),
            Self::Cuda => cuda(),
        }
    }
}

#[cfg(feature = "wgpu")]
fn wgpu() -> anyhow::Result<Device> {
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> anyhow::Result<Device> {
    Err(missing("wgpu"))
}

#[cfg(feature = "cuda")]
fn cuda() -> anyhow::Result<Device> {
    Ok(Device::cuda(burn::tensor::DeviceIndex::Default))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> anyhow::Result<Device> {
    Err(missing("cuda"))
}

#[cfg(not(all(feature = "wgpu", feature = "cuda")))]
fn missing(feature: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "--device {feature}: this binary was built without it; \
         build with cargo build --release -p cbn-cli --features {feature}"
    )
}
