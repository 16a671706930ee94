//! Conversion of PyTorch's pickled checkpoints to folders that [`super::Checkpoint`] opens.
//!
//! Many checkpoints are distributed as a pickle: `pytorch_model.bin` in Hugging Face's layout, or one `.pth` file of
//! the authors' release. No code in such a file is run ([`machine`]); tensors are copied one at a time from the mapped
//! file.

mod archive;
mod machine;
mod names;
mod pickle;
#[cfg(test)]
mod tests;
mod tokenizer;
mod zip;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::config::{BlipConfig, Tying};
use super::files::{CONFIG, lacking, present, shards};
use crate::error::{Error, Result};
use crate::text::{SpecialIds, tokenizer_json};
use archive::{Archive, Stored};
use names::Fate;

/// Summary of a [`convert`] run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// Tensors written.
    pub tensors: usize,
    /// Size of the tensors written, in bytes.
    pub bytes: u64,
    /// Tensors omitted as equal copies of a tensor that they are tied to.
    pub tied: usize,
    /// Tensors omitted because they are unused here or needed only for training.
    pub left_out: usize,
}

/// Files that are copied unchanged.
const ALONG: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Converts `source` to the checkpoint folder `out`. `source` is a folder in Hugging Face layout with pytorch_model.bin
/// (single or sharded), or a file of BLIP's own release, such as model_base_caption_capfilt_large.pth. `tokenizer` is a
/// folder with tokenizer.json or vocab.txt, or one of these files; it is required for a single file. `progress`
/// receives the bytes written and the total.
///
/// The folder is built next to `out` under a name ending in `.part`, opened as a check, and finally renamed.
///
/// # Errors
/// A non-empty `out`, a damaged file, a pickle that would run code, and an unsupported model; the error names the file.
pub fn convert(source: &Path, out: &Path, tokenizer: Option<&Path>, progress: &dyn Fn(u64, u64)) -> Result<Converted> {
    if out.is_file() || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::checkpoint(out, "it is there already and not empty: give the name of a folder that is not"));
    }
    let folder = source.is_dir();
    let files = if folder { files(source)? } else { vec![source.to_path_buf()] };
    let archives = files.iter().map(|file| Archive::open(file)).collect::<Result<Vec<_>>>()?;
    let mut tensors = BTreeMap::new();
    for archive in &archives {
        for (name, tensor) in archive.tensors()? {
            if tensors.insert(name, tensor).is_some() {
                return Err(Error::checkpoint(archive.path(), format!("tensor {name} is in another file too")));
            }
        }
    }
    let plan = if folder { hugging_face(source, &tensors, tokenizer)? } else { blip(source, &tensors, tokenizer)? };
    let longest: usize = archives.iter().map(Archive::len).sum();
    plan.check(longest).map_err(|reason| Error::checkpoint(source, reason))?;

    let part = Part::create(out)?;
    for (name, text) in &plan.texts {
        write(&part.0.join(name), text)?;
    }
    let bytes = plan.write(&part.0, progress)?;
    drop(Checkpoint::open(&part.0).map_err(|e| named(e, &part.0, source))?);
    part.finish(out)?;
    Ok(Converted { tensors: plan.tensors.len(), bytes, tied: plan.tied, left_out: plan.left_out })
}

/// Replaces the temporary folder's path in an error by the source's, since the folder is deleted.
fn named(error: Error, part: &Path, source: &Path) -> Error {
    match error {
        Error::Checkpoint { path, reason } => match path.strip_prefix(part) {
            Ok(rest) if rest.as_os_str().is_empty() => Error::checkpoint(source, reason),
            Ok(rest) => Error::checkpoint(source.join(rest), reason),
            Err(_) => Error::Checkpoint { path, reason },
        },
        other => other,
    }
}

/// Weight files of a folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    if ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).is_file()) {
        return Err(Error::checkpoint(dir, "its weights are safetensors already: it can be used as it is"));
    }
    let (whole, index) = (dir.join("pytorch_model.bin"), dir.join("pytorch_model.bin.index.json"));
    let found = if whole.is_file() {
        vec![whole]
    } else if index.is_file() {
        shards(&index)?
    } else {
        let plain = "neither pytorch_model.bin nor pytorch_model.bin.index.json is in the folder; a .pth file is given by its own name";
        return Err(lacking(dir, plain));
    };
    if !present(&dir.join(CONFIG)) {
        let reason = "config.json, which says the model's sizes, is not in the folder: fetch it with the weights";
        return Err(Error::checkpoint(dir, reason));
    }
    Ok(found)
}

/// Planned contents of the output folder.
struct Plan<'a> {
    tensors: BTreeMap<String, &'a Stored<'a>>,
    /// Other files: names and texts.
    texts: Vec<(&'static str, String)>,
    tied: usize,
    left_out: usize,
}

fn hugging_face<'a>(dir: &Path, tensors: &'a BTreeMap<&str, Stored<'a>>, tokenizer: Option<&Path>) -> Result<Plan<'a>> {
    let config = BlipConfig::read(dir)?;
    let mut plan = Plan { tensors: BTreeMap::new(), texts: vec![], tied: 0, left_out: 0 };
    for (name, tensor) in tensors {
        // Old versions stored 0, 1, 2, ..; transformers no longer does.
        if name.ends_with(".position_ids") {
            plan.left_out += 1;
        } else {
            plan.tensors.insert((*name).into(), tensor);
        }
    }
    if config.tying != Tying::Untied {
        plan.drop_tied();
    }
    for name in ALONG {
        let path = dir.join(name);
        if path.is_file() {
            plan.texts.push((name, fs::read_to_string(&path).map_err(|e| Error::checkpoint(path, e.to_string()))?));
        }
    }
    if tokenizer.is_some() || !dir.join("tokenizer.json").is_file() {
        plan.texts.retain(|(name, _)| *name != "tokenizer.json");
        plan.texts.push(("tokenizer.json", tokenizer_json(tokenizer.unwrap_or(dir))?));
    }
    Ok(plan)
}

fn blip<'a>(path: &Path, tensors: &'a BTreeMap<&str, Stored<'a>>, tokenizer: Option<&Path>) -> Result<Plan<'a>> {
    let broken = |reason: String| Error::checkpoint(path, reason);
    let architecture = names::architecture(tensors.keys().copied()).map_err(broken)?;
    let tokenizer = tokenizer.ok_or_else(|| {
        broken(
            "the file has no tokenizer: give --tokenizer, a folder of bert-base-uncased or of any converted BLIP with tokenizer.json \
             or vocab.txt"
                .into(),
        )
    })?;
    let json =
        tokenizer::with_blips_tokens(&tokenizer_json(tokenizer)?).map_err(|e| Error::checkpoint(tokenizer, e))?;
    let ids = SpecialIds::from_json(&json).map_err(|e| Error::checkpoint(tokenizer, e))?;
    let mut plan = Plan { tensors: BTreeMap::new(), texts: vec![], tied: 0, left_out: 0 };
    for (name, tensor) in tensors {
        match names::rename(name) {
            // ITC's temperature is needed only to continue training the whole MED.
            Fate::Named(name) if name != "temp" || architecture == "CapFiltMed" => {
                plan.tensors.insert(name, tensor);
            }
            Fate::Unknown => {
                log::warn!("{}: tensor {name} is not one of BLIP's and is left out", path.display());
                plan.left_out += 1;
            }
            _ => plan.left_out += 1,
        }
    }
    let tied = plan.drop_tied();
    let config = names::config(architecture, &plan.tensors, &ids, tied).map_err(broken)?;
    let texts = [
        ("config.json", &config),
        ("preprocessor_config.json", &names::preprocessor(&config)),
        ("generation_config.json", &names::generation(&ids)),
    ];
    plan.texts = texts.map(|(name, value): (_, &Value)| (name, format!("{value:#}\n"))).into();
    plan.texts.push(("tokenizer.json", json));
    Ok(plan)
}

impl Plan<'_> {
    /// Omits duplicates: an LM head equal to the word embedding, and tensors of a MED's decoder equal to its encoder's.
    /// Returns whether the head is tied.
    fn drop_tied(&mut self) -> bool {
        let same = |a: &str, b: &str| {
            let pair = self.tensors.get(a).zip(self.tensors.get(b));
            pair.is_some_and(|(a, b)| a.equals(b))
        };
        let (decoder, encoder, head) = ("text_decoder.bert.", "text_encoder.", "text_decoder.cls.predictions.");
        let (weight, bias) = (format!("{head}decoder.weight"), format!("{head}decoder.bias"));
        let tied = !self.tensors.contains_key(&weight)
            || same(&weight, &format!("{decoder}embeddings.word_embeddings.weight"));
        let mut twice: Vec<String> = vec![];
        // transformers does not tie the bias of an untied head.
        if tied {
            twice.extend(self.tensors.contains_key(&weight).then_some(weight));
            twice.extend(same(&bias, &format!("{head}bias")).then_some(bias));
        }
        let shared = self
            .tensors
            .keys()
            .filter(|name| name.strip_prefix(decoder).is_some_and(|rest| same(name, &format!("{encoder}{rest}"))));
        twice.extend(shared.cloned());
        for name in &twice {
            self.tensors.remove(name);
        }
        self.tied = twice.len();
        tied
    }

    /// Checks that the tensors' types are supported and that their total size fits a source file of `most` bytes.
    fn check(&self, most: usize) -> Result<(), String> {
        let mut bytes = 0usize;
        for (name, tensor) in &self.tensors {
            if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(format!("tensor {name} is of type {:?}; f32, f16 and bf16 are supported", tensor.dtype));
            }
            bytes = bytes.saturating_add(tensor.len());
        }
        // Factor 2: a tied head that config.json declares untied is written twice.
        if bytes / 2 > most {
            return Err(format!("its tensors overlap: {bytes} bytes of them in a file of {most}"));
        }
        Ok(())
    }

    /// Writes model.safetensors into `dir`, and returns the bytes of its tensors.
    fn write(&self, dir: &Path, progress: &dyn Fn(u64, u64)) -> Result<u64> {
        let path = dir.join("model.safetensors");
        let bytes = self.tensors.values().map(|tensor| tensor.len() as u64).sum();
        let done = Cell::new(0);
        let ready = |len: usize| {
            done.set(done.get() + len as u64);
            progress(done.get(), bytes);
        };
        let views = self.tensors.iter().map(|(name, tensor)| (name, Counted { tensor, ready: &ready }));
        // transformers requires the framework's name.
        let metadata = [("format".to_string(), "pt".to_string())].into();
        let failed = |e: String| Error::checkpoint(&path, e);
        safetensors::serialize_to_file(views, Some(metadata), &path).map_err(|e| failed(e.to_string()))?;
        // safetensors creates it as a temporary file, private to its owner; the other files have the folder's usual
        // rights.
        let usual = fs::metadata(dir.join("config.json")).map_err(|e| failed(e.to_string()))?.permissions();
        fs::set_permissions(&path, usual).map_err(|e| failed(e.to_string()))?;
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|e| failed(e.to_string()))?;
        Ok(bytes)
    }
}

/// A tensor that reports its size when it is written.
struct Counted<'a> {
    tensor: &'a Stored<'a>,
    ready: &'a dyn Fn(usize),
}

impl View for Counted<'_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.ready)(self.tensor.len());
        self.tensor.data()
    }

    fn data_len(&self) -> usize {
        self.tensor.len()
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let synced = || {
        let mut file = fs::File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    synced().map_err(|e: std::io::Error| Error::checkpoint(path, e.to_string()))
}

/// Unfinished output folder, deleted if the conversion fails.
struct Part(PathBuf);

impl Part {
    fn create(out: &Path) -> Result<Self> {
        let failed = |path: &Path, e: std::io::Error| Error::checkpoint(path, e.to_string());
        let Some(name) = out.file_name() else { return Err(Error::checkpoint(out, "it names no folder")) };
        let parent = out.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        }
        let mut name = name.to_os_string();
        name.push(".part");
        let part = parent.join(name);
        match fs::create_dir(&part) {
            Ok(()) => Ok(Self(part)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::checkpoint(part, "another conversion is writing it, or one was killed: if so, remove it"))
            }
            Err(e) => Err(failed(&part, e)),
        }
    }

    fn finish(mut self, out: &Path) -> Result<()> {
        // Also replaces an empty folder.
        fs::rename(&self.0, out).map_err(|e| Error::checkpoint(out, e.to_string()))?;
        self.0.clear();
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Only the error that ended the conversion is reported.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
