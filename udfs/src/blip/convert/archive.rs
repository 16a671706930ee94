//! Files written by `torch.save`: tensors of a state dict and the location of their elements.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;

use super::machine;
use super::pickle::{Pickle, Storage, Tensor, Value};
use super::zip;
use crate::error::{Error, Result};

/// Start of a file in the format before torch 1.6: a pickle of this number, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// A memory-mapped torch file.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    map: Mmap,
}

/// A tensor's type, shape and elements in the file.
#[derive(Debug, Clone)]
pub(super) struct Stored<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    strides: Vec<usize>,
    /// Bytes of the storage, from the tensor's first element on.
    bytes: &'a [u8],
}

impl Archive {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::checkpoint(path, e.to_string());
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() || metadata.len() == 0 {
            let reason = if metadata.is_file() { "the file is empty; fetch it again" } else { "it is not a file" };
            return Err(Error::checkpoint(path, reason));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: a mapping faults if another process truncates the file. A file is not written while it is converted;
        // the alternative, reading gigabytes into memory, is what the mapping avoids.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.into(), map })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// State dict: the dictionary under "model" or "state_dict", where training scripts save it beside an optimiser's,
    /// or the whole file's. Entries other than tensors are omitted.
    ///
    /// # Errors
    /// A file that is damaged, not written by torch or would run code; the error names it.
    pub(super) fn tensors(&self) -> Result<BTreeMap<&str, Stored<'_>>> {
        read(&self.map).map_err(|reason| Error::checkpoint(&self.path, reason))
    }
}

/// State dict of a file's contents.
pub(super) fn read(file: &[u8]) -> Result<BTreeMap<&str, Stored<'_>>, String> {
    if file.starts_with(b"PK") {
        return zipped(file);
    }
    let safetensors = file.get(8) == Some(&b'{');
    if file.first() == Some(&0x80) && !safetensors {
        return legacy(file);
    }
    Err(if safetensors {
        "it is a safetensors file and no pickle: nothing to convert"
    } else if file.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS and not the file itself: fetch it with `git lfs pull` or `hf download`"
    } else if file.starts_with(b"<") {
        "it is a web page, as a site may send in place of a file: fetch it again"
    } else if file.get(257..262) == Some(b"ustar") {
        "it is a tar archive, as torch before 0.2 wrote; load it with a newer torch and save it again"
    } else {
        "torch did not write it: it begins neither as a zip file nor as a pickle"
    }
    .into())
}

fn zipped(file: &[u8]) -> Result<BTreeMap<&str, Stored<'_>>, String> {
    let members = zip::members(file)?;
    // All members are in one folder, named after the file when it was saved.
    let folders = members.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let folder = folders.filter(|folder| folder.is_empty() || folder.ends_with('/')).min_by_key(|folder| folder.len());
    let folder = folder.ok_or("it is a zip file without data.pkl: torch did not write it")?;
    let member = |name: &str| members.get(&*format!("{folder}{name}"));
    if member("constants.pkl").is_some() {
        return Err(
            "it is a TorchScript program; the weights alone are needed: torch.save(model.state_dict(), FILE)".into()
        );
    }
    if let Some(order) = member("byteorder")
        && order.checked(file, "byteorder")? != b"little"
    {
        return Err("its numbers are big-endian: load and save it again on a usual machine".into());
    }
    let Some(data) = member("data.pkl") else { return Err("it has no data.pkl".into()) };
    let pickle = machine::read(data.checked(file, "data.pkl")?)?;
    let (mut checked, mut hashed) = (HashMap::new(), 0);
    collect(file, &pickle, |storage: &Storage<'_>| {
        let key = format!("data/{}", storage.key);
        let Some(member) = member(&key) else { return Err(format!("it has no {key}")) };
        // Tied tensors share a storage, which is hashed once.
        if let Some(bytes) = checked.get(&member.range.start) {
            return Ok(*bytes);
        }
        hashed += member.range.len();
        if hashed > file.len() {
            return Err("its members overlap: damaged".into());
        }
        let bytes = member.checked(file, &key)?;
        checked.insert(member.range.start, bytes);
        Ok(bytes)
    })
}

/// Format of several pickles: a magic number, a version, the writer's system, the object, the keys of its storages;
/// then the storages.
fn legacy(file: &[u8]) -> Result<BTreeMap<&str, Stored<'_>>, String> {
    let mut at = 0;
    let mut next = || {
        let pickle = machine::read(&file[at..])?;
        at += pickle.len;
        Ok::<_, String>((pickle, at))
    };
    let (magic, _) = next()?;
    if !matches!(magic.root, Some(Value::Long(number)) if number == MAGIC) {
        return Err("it is a pickle, but torch.save did not write it".into());
    }
    let (version, _) = next()?;
    if !matches!(version.root, Some(Value::Int(1001))) {
        return Err("it is of a version of torch's format that is not known".into());
    }
    let (system, _) = next()?;
    if let Some(Value::Bool(false)) = system.root.and_then(|root| system.get(root, "little_endian")) {
        return Err("its numbers are big-endian: load and save it again on a usual machine".into());
    }
    let (pickle, _) = next()?;
    let (keys, mut at) = next()?;

    let known: HashMap<&str, &Storage<'_>> = pickle.storages.iter().map(|storage| (storage.key, storage)).collect();
    let mut storages = HashMap::new();
    for key in keys.root.map_or(&[][..], |root| keys.list(root)) {
        let storage = match key {
            Value::Str(key) => known.get(key),
            _ => None,
        };
        let storage = storage.ok_or("it has a storage that its pickle does not name")?;
        let cut = || format!("it ends in storage {}; was its download cut short? Fetch it again", storage.key);
        let len =
            file.get(at..).and_then(|rest| rest.first_chunk()).map(|len| u64::from_le_bytes(*len)).ok_or_else(cut)?;
        if len != storage.len as u64 {
            return Err(format!("its storage {} has {len} numbers, its pickle says {}", storage.key, storage.len));
        }
        let bytes = bytes_of(storage.dtype, storage.len).ok_or_else(cut)?;
        let data = file.get(at + 8..).and_then(|rest| rest.get(..bytes)).ok_or_else(cut)?;
        storages.insert(storage.key, data);
        at += 8 + bytes;
    }
    collect(file, &pickle, |storage| {
        storages.get(storage.key).copied().ok_or_else(|| format!("it has no storage {}", storage.key))
    })
}

fn bytes_of(dtype: Dtype, numbers: usize) -> Option<usize> {
    numbers.checked_mul(dtype.bitsize() / 8)
}

/// Maximum total size of tensors relative to their file, where tied ones count once per name.
const MOST_TIED: usize = 8;

/// Tensors of the state dict; `storage` resolves their storages.
fn collect<'a>(
    file: &[u8],
    pickle: &Pickle<'a>,
    mut storage: impl FnMut(&Storage<'a>) -> Result<&'a [u8], String>,
) -> Result<BTreeMap<&'a str, Stored<'a>>, String> {
    let root = pickle.root.ok_or("its pickle holds nothing")?;
    let inner = ["model", "state_dict"].into_iter().find_map(|key| match pickle.get(root, key) {
        Some(inner @ Value::Dict(_)) => Some(inner),
        _ => None,
    });
    let (mut tensors, mut bytes) = (BTreeMap::new(), 0usize);
    for (key, value) in pickle.entries(inner.unwrap_or(root)) {
        let (Value::Str(name), Some(tensor)) = (key, pickle.tensor(*value)) else { continue };
        let stored = stored(tensor, &mut storage).map_err(|e| format!("tensor {name}: {e}"))?;
        bytes = bytes.saturating_add(stored.len());
        if bytes / MOST_TIED > file.len() {
            return Err(format!("its tensors overlap: {bytes} bytes of them in a file of {}", file.len()));
        }
        tensors.insert(*name, stored);
    }
    if tensors.is_empty() {
        return Err("it holds no state dict: neither it nor its \"model\" or \"state_dict\" has tensors by name".into());
    }
    Ok(tensors)
}

fn stored<'a>(
    tensor: &Tensor<'a>,
    storage: &mut impl FnMut(&Storage<'a>) -> Result<&'a [u8], String>,
) -> Result<Stored<'a>, String> {
    let Tensor { storage: of, offset, shape, strides } = tensor;
    let bytes = storage(of)?;
    if bytes_of(of.dtype, of.len) != Some(bytes.len()) {
        let (key, len, dtype) = (of.key, of.len, of.dtype);
        return Err(format!("its storage {key} has {} bytes, its pickle says {len} numbers of {dtype:?}", bytes.len()));
    }
    // An expanded tensor, which repeats the same numbers, could be of any size.
    let numbers: usize = shape.iter().product();
    if numbers > of.len {
        return Err(format!(
            "it has {numbers} numbers, its storage {} has {}: expanded, and so no weight",
            of.key, of.len
        ));
    }
    let first = if numbers == 0 { 0 } else { offset * (of.dtype.bitsize() / 8) };
    Ok(Stored { dtype: of.dtype, shape: shape.clone(), strides: strides.clone(), bytes: &bytes[first..] })
}

impl Stored<'_> {
    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == step;
            step *= size;
            fits
        })
    }

    /// Size of the elements in bytes.
    pub(super) fn len(&self) -> usize {
        self.numbers() * (self.dtype.bitsize() / 8)
    }

    /// Whether type, shape and elements are equal.
    pub(super) fn equals(&self, other: &Self) -> bool {
        (self.dtype, &self.shape) == (other.dtype, &other.shape) && self.data() == other.data()
    }

    /// Elements in row-major order, as safetensors requires; copied only if stored in another order.
    pub(super) fn data(&self) -> Cow<'_, [u8]> {
        let len = self.len();
        if len == 0 || self.is_contiguous() {
            return Cow::Borrowed(&self.bytes[..len]);
        }
        let width = self.dtype.bitsize() / 8;
        let mut data = Vec::with_capacity(len);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..self.numbers() {
            let at: usize = index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
            data.extend_from_slice(&self.bytes[at * width..][..width]);
            for (i, size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        Cow::Owned(data)
    }
}
