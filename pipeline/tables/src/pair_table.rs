//! Layout of a pair table's folder.
//!
//! Beside the table's parts is `_capfilt/`, which table readers skip. It has a folder for each shard of the job, with
//! its manifest and, while the shard runs, the finished units and the parts made of them. The parts are moved to their
//! places when all exist.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::file_record::FileRecord;
use crate::layout::is_delta;

/// Folder of a job's bookkeeping beside its table.
pub const BOOKKEEPING: &str = "_capfilt";
/// File of a shard's folder with the state of its job.
pub const MANIFEST: &str = "manifest.json";
/// Version of the manifest's layout.
pub const MANIFEST_FORMAT: u32 = 2;

/// Folder of shard `shard` (from 1) of `shards`.
pub fn shard_folder(table: &Path, shard: u64, shards: u64) -> PathBuf {
    table.join(BOOKKEEPING).join(format!("shard-{shard}-of-{shards}"))
}

/// Progress of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Rows are still missing.
    Running,
    /// All rows are processed, and the parts are being moved into place.
    Placing,
    /// The table is complete.
    Finished,
}

/// Part of a manifest that readers of the table need: whether it is complete.
#[derive(Debug, Deserialize)]
struct ManifestHead {
    state: State,
    shard: u64,
    /// Identity of the job; compared, not interpreted.
    job: Map<String, Value>,
    files: Vec<FileRecord>,
    parts: Vec<PartHead>,
}

/// A part as the manifest records it.
#[derive(Debug, Deserialize)]
struct PartHead {
    name: String,
    bytes: u64,
}

impl ManifestHead {
    fn shards(&self) -> u64 {
        self.job.get("shards").and_then(Value::as_u64).unwrap_or(1)
    }

    /// Whether both are of one job. The program that began a shard may have another version.
    fn is_of_job(&self, other: &Self) -> bool {
        let names = self.job.keys().chain(other.job.keys()).filter(|name| *name != "engine");
        let value = |head: &Self, name: &str| head.job.get(name).cloned().unwrap_or_default();
        names.into_iter().all(|name| value(self, name) == value(other, name))
    }
}

/// Paths of the manifests of all shards that have begun, sorted by folder name.
pub fn manifest_paths(table: &Path) -> Result<Vec<PathBuf>> {
    let folder = table.join(BOOKKEEPING);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = |e| Error::dest(&folder, e);
    let entries = fs::read_dir(&folder).map_err(read)?.map(|entry| entry.map(|entry| entry.path()).map_err(read));
    let mut paths = entries.collect::<Result<Vec<_>>>()?;
    // A stray file, of a file manager or a network file system, is not a shard.
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths.into_iter().map(|path| path.join(MANIFEST)).collect())
}

/// Reads a manifest, or the part of it that `T` is; `None` if it does not exist.
///
/// # Errors
/// A manifest of another format, in words that say what to do.
pub fn read_manifest<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::dest(path, e)),
    };
    let broken = |e: &dyn std::fmt::Display| {
        Error::dest(path, format!("the manifest is damaged ({e}): give --overwrite or another folder"))
    };
    let format = serde_json::from_slice::<Value>(&text).map_err(|e| broken(&e))?["format"].as_u64();
    if format != Some(u64::from(MANIFEST_FORMAT)) {
        let format = format.map_or_else(|| "missing".to_owned(), |format| format.to_string());
        let reason = format!(
            "another version of capfilt made this table (its format is {format}, and {MANIFEST_FORMAT} is known): read it with that version, \
             or make it anew in another folder"
        );
        return Err(Error::dest(path, reason));
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| broken(&e))
}

/// Reason why a pair table must not be read yet: a shard of it has not ended. `None` for a complete table, and for
/// anything else.
pub fn unfinished(table: &Path) -> Result<Option<String>> {
    let paths = manifest_paths(table)?;
    let heads = paths.iter().filter_map(|path| read_manifest::<ManifestHead>(path).transpose());
    let heads = heads.collect::<Result<Vec<_>>>()?;
    let Some(first) = heads.first() else { return Ok(None) };
    let (all, begun) = (first.shards(), heads.len() as u64);
    let running: Vec<_> = heads.iter().filter(|m| m.state != State::Finished).map(|m| m.shard.to_string()).collect();
    if let Some(other) = heads.iter().find(|m| !m.is_of_job(first) || m.files != first.files) {
        let shards = (first.shard, other.shard);
        return Ok(Some(format!(
            "its shards {} and {} are of two jobs or two sources, or only one of them was updated or retried: do the same \
             with the other, or write the table anew",
            shards.0, shards.1
        )));
    }
    let why = match (running.as_slice(), all) {
        ([], _) if begun >= all => return Ok(changed_part(table, &heads)),
        ([], _) => format!("only {begun} of its {all} shards have begun"),
        (_, 1) => "its job has not ended".to_owned(),
        (some, _) => format!("shard {} of {all} has not ended", some.join(", ")),
    };
    Ok(Some(format!(
        "an unfinished pair table: {why}; `capfilt resume`, or the command that began it, goes on with it"
    )))
}

/// Reason why a complete table must not be read: a part is missing or was changed. A Delta table's log says which parts
/// there are.
fn changed_part(table: &Path, heads: &[ManifestHead]) -> Option<String> {
    if is_delta(table) {
        return None;
    }
    heads.iter().flat_map(|head| &head.parts).find_map(|PartHead { name, bytes }| {
        let what = match fs::metadata(table.join(name)) {
            Ok(meta) if meta.len() == *bytes => return None,
            Ok(_) => "was changed",
            Err(_) => "is missing",
        };
        Some(format!("its part {name} {what}: put it back, or write the table anew"))
    })
}

/// Whether `name` is the file name of a part.
pub fn is_part(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((middle, "parquet" | "tar" | "jsonl")) = name.strip_prefix("part-").and_then(|n| n.rsplit_once('.'))
    else {
        return false;
    };
    let (shard, number) = middle.rsplit_once('-').map_or((None, middle), |(shard, number)| (Some(shard), number));
    let shard_is = shard.is_none_or(|shard| shard.split_once("of").is_some_and(|(i, n)| digits(i) && digits(n)));
    shard_is && number.len() >= 5 && digits(number)
}

/// File name of part `number` of a shard. With the `run` of a Delta table it is not a name for [`is_part`], since only
/// the log decides what becomes of the file.
pub fn part_name(number: usize, shard: u64, shards: u64, run: Option<&str>, extension: &str) -> String {
    let shard = if shards == 1 { String::new() } else { format!("{shard}of{shards}-") };
    match run {
        None => format!("part-{shard}{number:05}.{extension}"),
        Some(run) => format!("delta-{run}-{shard}{number:05}.{extension}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_name() {
        for (number, shard, shards) in [(0, 1, 1), (123_456, 1, 1), (7, 3, 12)] {
            assert!(["parquet", "tar"].iter().all(|kind| is_part(&part_name(number, shard, shards, None, kind))));
        }
        assert!(!is_part(&part_name(0, 1, 1, Some("5f"), "parquet")));
        for name in ["part-0.parquet", "part-0000a.parquet", "part-00000-c000.snappy.parquet", "part-of-00000.parquet"]
        {
            assert!(!is_part(name), "{name}");
        }
    }
}
