//! Devices that models run on.

use ort::memory::AllocationDevice;
use ort::value::{DynTensor, DynValue};

/// Device that a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Device {
    Cpu,
    Cuda(i32),
}

impl Device {
    /// Kind of device: results may differ between kinds.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(id) => write!(f, "cuda:{id}"),
        }
    }
}

/// A value on a device. ONNX Runtime accepts an initialiser only where it is needed: given elsewhere, it is ignored, and
/// the file that the graph names is read instead (issue 29009 of microsoft/onnxruntime).
pub(crate) fn on_device(value: DynValue, device: Device) -> ort::Result<DynValue> {
    match device {
        Device::Cpu => Ok(value),
        Device::Cuda(id) => {
            let tensor: DynTensor = value.downcast()?;
            Ok(tensor.to(AllocationDevice::CUDA, id)?.into_dyn())
        }
    }
}
