//! Devices that models run on.

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::value::{DynTensor, DynValue};

/// Images of each run on a device, by default. A run of fewer computes as many: the kernels, and so the last bits of a
/// result, are chosen by shapes, and a result must not depend on its neighbours.
pub(crate) const RUN_IMAGES: usize = 64;

/// Images of each run on a device with `memory` bytes, where one takes `image` bytes: `most`, or the largest power of two
/// that fits. Half of the memory is for a run; weights and embeddings share the other ([`memory_for_models`]).
/// `None` if not even one image fits.
pub(crate) fn run_images(memory: usize, image: usize, most: usize) -> Option<usize> {
    let fit = memory / 2 / image.max(1);
    if fit >= most { Some(most) } else { (fit > 0).then(|| 1 << fit.ilog2()) }
}

/// Bytes of a device with `memory` bytes for weights and embeddings.
pub(crate) fn memory_for_models(memory: usize) -> usize {
    memory - memory / 2
}

/// Device that a model runs on, and where its tensors lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Device {
    /// The host's processor: tensors lie in the host's memory.
    Cpu,
    /// A GPU: tensors stay in its memory from run to run.
    Cuda(i32),
    /// The processor, with tensors kept apart as if on a device. For tests; no setting chooses it.
    Fake(i32),
}

impl Device {
    /// Kind of device: results may differ between kinds.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Fake(_) => "fake",
        }
    }

    /// Memory in which the device's tensors lie.
    pub(crate) fn memory(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, id) = match self {
            Self::Cpu | Self::Fake(_) => (AllocationDevice::CPU, 0),
            Self::Cuda(id) => (AllocationDevice::CUDA, id),
        };
        MemoryInfo::new(device, id, AllocatorType::Device, MemoryType::Default)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(id) => write!(f, "cuda:{id}"),
            Self::Fake(id) => write!(f, "fake:{id}"),
        }
    }
}

/// A value on a device. ONNX Runtime accepts an initialiser only where it is needed: given elsewhere, it is ignored, and
/// the file that the graph names is read instead (issue 29009 of microsoft/onnxruntime).
pub(crate) fn on_device(value: DynValue, device: Device) -> ort::Result<DynValue> {
    match device {
        Device::Cpu | Device::Fake(_) => Ok(value),
        Device::Cuda(id) => {
            let tensor: DynTensor = value.downcast()?;
            Ok(tensor.to(AllocationDevice::CUDA, id)?.into_dyn())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_sized_by_memory() {
        const MB: usize = 1 << 20;
        for (memory, image, most, images) in [
            (80 << 30, 90 * MB, 64, Some(64)),
            (80 << 30, 90 * MB, 256, Some(256)),
            (24 << 30, 90 * MB, 256, Some(128)),
            (80 << 30, 90 * MB, 100, Some(100)),
            (16 << 30, 90 * MB, 64, Some(64)),
            (8 << 30, 90 * MB, 64, Some(32)),
            (8 << 30, 90 * MB, 20, Some(20)),
            (180 * MB, 90 * MB, 64, Some(1)),
            (179 * MB, 90 * MB, 64, None),
            (0, 90 * MB, 64, None),
            (1, 0, 64, None),
            (usize::MAX, 1, 64, Some(64)),
        ] {
            assert_eq!(run_images(memory, image, most), images, "{memory} bytes, {image} an image, {most} at most");
        }
        assert_eq!([0, 1, 7, 8].map(memory_for_models), [0, 1, 4, 4]);
    }
}
