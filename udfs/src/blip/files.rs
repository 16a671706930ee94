//! Files of a checkpoint folder in the layouts of other programs, and advice for a folder that is not a checkpoint.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::image::Preprocessor;

/// Dimensions and special tokens.
pub(crate) const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const PROCESSOR: &str = "processor_config.json";

/// Maximum folder entries examined for a better error message; more would not improve it.
const MOST_ENTRIES: usize = 1000;

/// Instructions for merging PEFT adapters into a plain model.
pub(crate) const MERGE: &str = "merge the adapter into its base model first, with peft: \
     PeftModel.from_pretrained(base_model, DIR).merge_and_unload().save_pretrained(OUT)";

/// Sources of safetensors for weights that are pickles.
const CONVERT: &str = "a pickle can run any code when it is read, so it is not; `capfilt model convert SOURCE OUT` writes its tensors as \
     safetensors; of a model of the hub give the name, such as hf:Salesforce/blip-itm-base-coco, and that is done for you";

/// Whether `path` exists, even as a dangling link, which reading it then reports.
pub(crate) fn present(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Reads a text file of a checkpoint.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| unreadable(path, &e))?;
    if let Some(what) = stand_in(&bytes) {
        return Err(Error::checkpoint(path, what));
    }
    String::from_utf8(bytes).map_err(|e| Error::checkpoint(path, format!("it is not UTF-8: {e}")))
}

/// Reads a JSON file of a checkpoint.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&read(path)?).map_err(|e| Error::checkpoint(path, e.to_string()))
}

/// Error for a file that cannot be opened or read.
pub(crate) fn unreadable(path: &Path, e: &io::Error) -> Error {
    let reason = match (e.kind(), fs::read_link(path)) {
        (ErrorKind::NotFound, Ok(target)) => format!(
            "a link to {}, which is not there: its download was cut short, or the cache was pruned; fetch the file again",
            target.display()
        ),
        (ErrorKind::NotFound, Err(_)) => match path.parent().and_then(unfinished) {
            Some(part) => {
                format!("{e}; {} is a download that was not finished: fetch the checkpoint again", part.display())
            }
            None => e.to_string(),
        },
        _ => e.to_string(),
    };
    Error::checkpoint(path, reason)
}

/// Description of a placeholder file, such as a Git LFS pointer, with advice; `None` for other contents.
pub(crate) fn stand_in(bytes: &[u8]) -> Option<String> {
    let start: Vec<u8> = bytes.trim_ascii_start().iter().take(16).map(u8::to_ascii_lowercase).collect();
    if bytes.starts_with(b"version https://git-lfs") {
        return Some(
            "a Git LFS pointer, not the file that it stands for: run `git lfs pull`, or fetch the file again".into(),
        );
    }
    if start.starts_with(b"<!doctype") || start.starts_with(b"<html") {
        return Some("a web page, not the file: fetch the file again".into());
    }
    let zip_or_pickle = bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]);
    zip_or_pickle.then(|| format!("not what its name says but a pickle of PyTorch's: {CONVERT}"))
}

/// Partial download that the hub's client did not finish, in `.cache` of a plain folder or among the blobs of a
/// snapshot's cache.
fn unfinished(dir: &Path) -> Option<PathBuf> {
    let mut places = vec![dir.join(".cache/huggingface/download")];
    if let Some(snapshots) = dir.parent().filter(|parent| parent.ends_with("snapshots")) {
        places.push(snapshots.with_file_name("blobs"));
    }
    places.iter().flat_map(|place| entries(place)).find(|path| path.extension() == Some(OsStr::new("incomplete")))
}

/// First entries of a folder, sorted; empty if the folder does not exist.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = all.take(MOST_ENTRIES).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Safetensors files of a folder: a single one, or the shards in its index.
pub(crate) fn safetensors(dir: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
    if !present(&single) && !present(&index) {
        return Err(lacking(dir, &format!("neither {WEIGHTS} nor {INDEX} is in the folder")));
    }
    if present(&dir.join(ADAPTER)) {
        log::warn!("checkpoint {}: its {ADAPTER} is ignored, the weights count as merged", dir.display());
    }
    if present(&single) {
        return Ok(vec![single]);
    }
    shards(&index)
}

/// Files in an index of shards, which are next to it.
pub(crate) fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let broken = |e: String| Error::checkpoint(index, e);
    let json = read_json(index)?;
    let map = json["weight_map"].as_object().ok_or_else(|| broken("no \"weight_map\" in it".into()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    if names.is_empty() {
        return Err(broken("its \"weight_map\" names no file".into()));
    }
    if let Some(name) = names.iter().find(|n| Path::new(n).components().count() != 1 || n.starts_with('.')) {
        return Err(broken(format!("file name {name:?} leads out of the folder")));
    }
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}

/// Image preprocessing of a folder, and the file that defines it: preprocessor_config.json or, since transformers 5,
/// `image_processor` in processor_config.json.
pub(crate) fn preprocessor(dir: &Path) -> Result<(PathBuf, Preprocessor)> {
    let (own, shared) = (dir.join(PREPROCESSOR), dir.join(PROCESSOR));
    let parse = |path: &Path, value| Preprocessor::from_value(value).map_err(|e| Error::checkpoint(path, e));
    let alone = if present(&own) { Some(parse(&own, read_json(&own)?)?) } else { None };
    // transformers 4 also writes this file for some processors, without the image processor.
    let nested = if present(&shared) { read_json(&shared)?.get_mut("image_processor").map(Value::take) } else { None };
    let nested = nested.filter(|value| !value.is_null()).map(|value| parse(&shared, value)).transpose()?;
    match (alone, nested) {
        (Some(alone), Some(nested)) if alone != nested => {
            let reason = format!(
                "{PREPROCESSOR} and the image_processor in {PROCESSOR} differ: transformers 4 reads the former, transformers 5 the \
                 latter; delete the one that the weights were not made with"
            );
            Err(Error::checkpoint(dir, reason))
        }
        (Some(alone), _) => Ok((own, alone)),
        (None, Some(nested)) => Ok((shared, nested)),
        (None, None) => {
            let reason = format!(
                "neither {PREPROCESSOR} nor a {PROCESSOR} with an image_processor is in the folder; write it there with the \
                 processor's save_pretrained(DIR)"
            );
            Err(Error::checkpoint(dir, reason))
        }
    }
}

/// Error for a folder without a required file: describes what the folder seems to be, else says `plain`.
pub(crate) fn lacking(dir: &Path, plain: &str) -> Error {
    let adapter = dir.join(ADAPTER);
    if present(&adapter) {
        let base = read_json(&adapter).ok().and_then(|a| Some(a["base_model_name_or_path"].as_str()?.to_owned()));
        let of = base.map(|base| format!(" of {base:?}")).unwrap_or_default();
        return Error::checkpoint(dir, format!("it holds an adapter{of} ({ADAPTER}), not a model: {MERGE}"));
    }
    let below = checkpoints_below(dir);
    if let [first, ..] = &below[..] {
        let what = if first.parent().is_some_and(|parent| parent.ends_with("snapshots")) {
            "it is a folder of the hub's cache; give a snapshot in it"
        } else {
            "it is not a checkpoint, but holds some; give one of them"
        };
        const MOST: usize = 5;
        let shown: Vec<String> = below.iter().take(MOST).map(|path| path.display().to_string()).collect();
        let more = if below.len() > MOST { format!(" and {} more", below.len() - MOST) } else { String::new() };
        return Error::checkpoint(dir, format!("{what}: {}{more}", shown.join(", ")));
    }
    let files = entries(dir);
    let with = |extensions: &[&str]| {
        let is_one =
            |path: &&PathBuf| path.extension().and_then(OsStr::to_str).is_some_and(|e| extensions.contains(&e));
        // Other files that transformers' Trainer writes beside a model.
        let other = ["training_args", "optimizer", "scheduler", "rng_state", "scaler"];
        let weights = |path: &&PathBuf| !other.iter().any(|name| named(path).starts_with(name));
        files.iter().filter(is_one).find(weights)
    };
    if let Some(part) = unfinished(dir) {
        let reason =
            format!("{plain}; {} is a download that was not finished: fetch the checkpoint again", part.display());
        return Error::checkpoint(dir, reason);
    }
    if let (true, Some(other)) = (present(&dir.join(CONFIG)), with(&["safetensors"])) {
        let reason =
            format!("{plain}, but {} is: give it that name, or fetch the index of a file in shards", named(other));
        return Error::checkpoint(dir, reason);
    }
    if let Some(pickle) = with(&["bin", "pth", "pt", "ckpt"]) {
        return Error::checkpoint(pickle, CONVERT);
    }
    if let Some(other) = with(&["h5", "msgpack"]) {
        return Error::checkpoint(other, format!("weights of TensorFlow or Flax are not read; {plain}"));
    }
    Error::checkpoint(dir, plain)
}

fn named(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Folders with a config.json directly below `dir`, and snapshots if `dir` is a hub cache or a repository's folder in
/// one; the snapshot of `refs/main` comes first.
fn checkpoints_below(dir: &Path) -> Vec<PathBuf> {
    let mut parents = vec![dir.to_owned(), dir.join("snapshots")];
    parents.extend(entries(dir).into_iter().filter(|path| path.is_dir()).map(|path| path.join("snapshots")));
    let mut found: Vec<PathBuf> =
        parents.iter().flat_map(|parent| entries(parent)).filter(|path| present(&path.join(CONFIG))).collect();
    let main = |path: &PathBuf| {
        let repository = path.parent().and_then(Path::parent);
        let main = repository.and_then(|repository| fs::read_to_string(repository.join("refs/main")).ok());
        main.is_some_and(|main| path.ends_with(main.trim()))
    };
    found.sort_by_cached_key(|path| !main(path));
    found
}
