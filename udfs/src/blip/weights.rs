//! Tensors of a checkpoint: mapped files, resolved names, checked shapes, one copy shared by all sessions.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use memmap2::Mmap;
use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynValue, Shape, Tensor, TensorRefMut};
use safetensors::{Dtype, SafeTensors};

use super::device::{Device, on_device};
use super::files;
use super::graph::tensors::{Form, Shapes, WeightRef};
use crate::error::{Error, Result};

struct Stored {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// A mapped safetensors file.
pub(crate) struct Mapped {
    pub(crate) path: PathBuf,
    pub(crate) handle: File,
    pub(crate) map: Mmap,
}

/// The tensors of one checkpoint.
pub(crate) struct Weights {
    dir: PathBuf,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Stored>,
    /// Values given to sessions, by device. Dropped before `files`, because float32 values on the CPU point into the
    /// mappings.
    values: Mutex<HashMap<(WeightRef, Device), Arc<DynValue>>>,
}

// `values` must be dropped first, but Rust drops fields in order of declaration; so clear it explicitly.
impl Drop for Weights {
    fn drop(&mut self) {
        if let Ok(values) = self.values.get_mut() {
            values.clear();
        }
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({}, {} tensors)", self.dir.display(), self.tensors.len())
    }
}

impl Shapes for Weights {
    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|t| t.shape.as_slice())
    }
}

impl Weights {
    /// Maps the safetensors file or files of `dir` and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let mut weights =
            Self { dir: dir.into(), files: vec![], tensors: BTreeMap::new(), values: Mutex::new(HashMap::new()) };
        for path in files::safetensors(dir)? {
            weights.map(path)?;
        }
        Ok(weights)
    }

    fn map(&mut self, path: PathBuf) -> Result<()> {
        let io = |e: std::io::Error| files::unreadable(&path, &e);
        let file = File::open(&path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            return Err(Error::checkpoint(&path, "a folder, where a file is expected"));
        }
        // SAFETY: a mapping faults if another process truncates the file. Checkpoints are not written while they are
        // used; the alternative, reading a gigabyte per session, is what the mapping avoids.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let broken = |e| {
            let cut = || format!("no whole safetensors file ({e}); was its download cut short?");
            Error::checkpoint(&path, files::stand_in(&map).unwrap_or_else(cut))
        };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(broken)?;
        let start = header + 8;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if range.end > map.len() {
                return Err(Error::checkpoint(
                    &path,
                    format!(
                        "truncated: tensor {name} ends at byte {} of {}; fetch the file again",
                        range.end,
                        map.len()
                    ),
                ));
            }
            let stored = Stored { file: index, dtype: info.dtype, shape: info.shape.clone(), range };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::checkpoint(&path, format!("tensor {name} is in more than one file")));
            }
        }
        self.files.push(Mapped { path, handle: file, map });
        Ok(())
    }

    /// Checks that the tensors are a plain model's under transformers' names: neither wrapped nor adapted.
    pub(crate) fn check_names(&self) -> Result<()> {
        const OURS: &str = "vision_model.";
        let advice = |name: &str| {
            if name.starts_with("base_model.") || name.contains(".lora_") || name.contains(".base_layer.") {
                return Some(files::MERGE.to_string());
            }
            if name.starts_with("visual_encoder.") {
                let reason = "a name of BLIP's own release, not transformers'; `capfilt model convert SOURCE OUT` renames the tensors of \
                              its .pth files";
                return Some(reason.into());
            }
            let (prefix, _) = name.split_once(OURS).filter(|(prefix, _)| !prefix.is_empty())?;
            Some(format!("{prefix:?} is what a wrapper puts before a name; save the model that is inside the wrapper"))
        };
        match self.names().find_map(|name| Some((name, advice(name)?))) {
            Some((name, advice)) => Err(Error::checkpoint(&self.dir, format!("tensor {name}: {advice}"))),
            None => Ok(()),
        }
    }

    pub(crate) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Files, in order, for the digest.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Mapped> {
        self.files.iter()
    }

    /// Number of elements of a tensor, and the name of its type.
    pub(crate) fn size(&self, tensor: &str) -> Option<(usize, String)> {
        self.tensors.get(tensor).map(|t| (t.shape.iter().product(), format!("{:?}", t.dtype).to_lowercase()))
    }

    /// Checks that `tensor` exists with this shape.
    pub(crate) fn expect(&self, tensor: &str, shape: &[usize]) -> Result<()> {
        let Some(stored) = self.tensors.get(tensor) else {
            return Err(Error::checkpoint(&self.dir, format!("tensor {tensor} {shape:?} is missing")));
        };
        if stored.shape != shape {
            let reason = format!("tensor {tensor} has shape {:?}, but config.json asks for {shape:?}", stored.shape);
            return Err(Error::checkpoint(&self.dir, reason));
        }
        if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let reason = format!("tensor {tensor} is of type {:?}; f32, f16 and bf16 are supported", stored.dtype);
            return Err(Error::checkpoint(&self.dir, reason));
        }
        Ok(())
    }

    /// Whether two tensors hold the same values.
    pub(crate) fn equal(&self, a: &str, b: &str) -> bool {
        match (self.tensors.get(a), self.tensors.get(b)) {
            (Some(a), Some(b)) if a.dtype == b.dtype => self.bytes(a) == self.bytes(b),
            (Some(a), Some(b)) => self.floats(a) == self.floats(b),
            _ => false,
        }
    }

    fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.files[stored.file].map[stored.range.clone()]
    }

    fn floats(&self, stored: &Stored) -> Vec<f32> {
        let bytes = self.bytes(stored);
        match stored.dtype {
            Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    /// The tensor as an ONNX value on a device, created once and shared by all sessions there. On the CPU, float32 data
    /// that are aligned in the file are not copied.
    pub(crate) fn value(&self, weight: &WeightRef, device: Device) -> Result<Arc<DynValue>> {
        let values = || self.values.lock().unwrap_or_else(|e| e.into_inner());
        let key = (weight.clone(), device);
        if let Some(value) = values().get(&key) {
            return Ok(Arc::clone(value));
        }
        // Without the lock: sessions are made at the same time, and quantising takes long.
        for (made, value) in self.make(weight)? {
            let failed = |e: ort::Error| Error::Internal(format!("tensor {}: {e}", weight.tensor));
            let value = on_device(value, device).map_err(failed)?;
            values().entry((made, device)).or_insert_with(|| Arc::new(value));
        }
        let value = values().get(&key).cloned();
        value.ok_or_else(|| Error::Internal(format!("tensor {} vanished", weight.tensor)))
    }

    /// The value of a tensor on the CPU; of a quantised one also that of its scales.
    fn make(&self, weight: &WeightRef) -> Result<Vec<(WeightRef, DynValue)>> {
        let stored = self
            .tensors
            .get(&weight.tensor)
            .ok_or_else(|| Error::checkpoint(&self.dir, format!("tensor {} is missing", weight.tensor)))?;
        let failed = |e: ort::Error| Error::Internal(format!("tensor {}: {e}", weight.tensor));
        Ok(match weight.form {
            Form::Float => {
                let bytes = self.bytes(stored);
                let value = if stored.dtype == Dtype::F32 && (bytes.as_ptr() as usize).is_multiple_of(align_of::<f32>())
                {
                    mapped(bytes, &stored.shape).map_err(failed)?
                } else {
                    owned(&stored.shape, self.floats(stored)).map_err(failed)?
                };
                vec![(weight.clone(), value)]
            }
            Form::Half => {
                let halves: Vec<f16> = self.floats(stored).into_iter().map(f16::from_f32).collect();
                let shape: Vec<i64> = stored.shape.iter().map(|&d| d as i64).collect();
                vec![(weight.clone(), Tensor::from_array((shape, halves)).map_err(failed)?.into_dyn())]
            }
            Form::Int8 | Form::Int8Scale => {
                let (rows, columns) = (stored.shape[0], stored.shape[1]);
                let (bytes, scales) = super::quant::quantise(&self.floats(stored), rows, columns);
                let bytes = Tensor::from_array((vec![columns as i64, rows as i64], bytes)).map_err(failed)?.into_dyn();
                let scales = owned(&[rows], scales).map_err(failed)?;
                let of = |form| WeightRef { tensor: weight.tensor.clone(), form };
                vec![(of(Form::Int8), bytes), (of(Form::Int8Scale), scales)]
            }
        })
    }

    /// Advises the kernel to drop the mapped pages. Sessions have packed the matrices that they multiply; other data
    /// (embeddings) are paged in again on access.
    pub(crate) fn release_pages(&self) {
        for Mapped { path, map, .. } in &self.files {
            // SAFETY: the mapping is read-only and file-backed: a dropped page is read again from the file.
            let result = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(e) = result {
                log::debug!("{}: pages stay resident: {e}", path.display());
            }
        }
    }
}

/// Safetensors files of a model folder, each with a complete header: a single file, or the shards of its index.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(Weights::open(dir)?.files().map(|file| file.path.clone()).collect())
}

fn owned(shape: &[usize], data: Vec<f32>) -> ort::Result<DynValue> {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    Ok(Tensor::from_array((shape, data))?.into_dyn())
}

/// A value that points into the mapping.
fn mapped(bytes: &[u8], shape: &[usize]) -> ort::Result<DynValue> {
    let shape = Shape::new(shape.iter().map(|&d| d as i64));
    // SAFETY: the pointer is aligned (checked by the caller) and valid for the shape's bytes, and stays valid because
    // `Weights` drops its values before its mappings and each session's owner holds the `Weights` (`super::session`).
    // ONNX Runtime only reads initialisers.
    unsafe {
        let borrowed = TensorRefMut::<f32>::from_raw(MemoryInfo::default(), bytes.as_ptr().cast_mut().cast(), shape)?;
        let pointer =
            std::ptr::NonNull::new(borrowed.ptr().cast_mut()).ok_or_else(|| ort::Error::new("null tensor"))?;
        let value = DynValue::from_ptr(pointer, Some(&Allocator::default()));
        // `value` owns the handle now.
        std::mem::forget(borrowed);
        Ok(value)
    }
}
