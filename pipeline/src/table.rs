//! Layout of a pair table's folder.
//!
//! Beside the table's parts is `_capfilt/`, which table readers skip. It has a folder for each shard of the job, with
//! its manifest and, while the shard runs, the finished units and the parts made of them. The parts are moved to their
//! places when all exist.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::{Manifest, State};
use crate::prepare::Again;

/// Folder of a job's bookkeeping beside its table.
pub(crate) const BOOKKEEPING: &str = "_capfilt";
pub(crate) const MANIFEST: &str = "manifest.json";

/// Folder of shard `shard` (from 1) of `shards`.
pub(crate) fn shard_folder(table: &Path, shard: u64, shards: u64) -> PathBuf {
    table.join(BOOKKEEPING).join(format!("shard-{shard}-of-{shards}"))
}

/// Manifests of all shards that have begun, sorted by folder name.
pub(crate) fn manifests(table: &Path) -> Result<Vec<Manifest>> {
    let folder = table.join(BOOKKEEPING);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = |e| Error::dest(&folder, e);
    let mut paths = fs::read_dir(&folder)
        .map_err(read)?
        .map(|entry| entry.map(|e| e.path()).map_err(read))
        .collect::<Result<Vec<_>>>()?;
    // A stray file, of a file manager or a network file system, is not a shard.
    paths.retain(|path| path.is_dir());
    paths.sort();
    paths.iter().filter_map(|path| Manifest::read(&path.join(MANIFEST)).transpose()).collect()
}

/// Refuses Parquet files beside the parts of a table that is read by its folder: they would count as pairs.
pub(crate) fn check_parts(table: &Path, manifests: &[Manifest]) -> Result<()> {
    if is_delta(table) {
        return Ok(());
    }
    let known: HashSet<&str> = manifests.iter().flat_map(Manifest::part_names).collect();
    let read = |e| Error::dest(table, e);
    for entry in fs::read_dir(table).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".parquet") && !name.starts_with(['.', '_']) && !known.contains(&*name) {
            let reason = "it is no part of the pair table, and would be read with it: take it out of the folder";
            return Err(Error::dest(table.join(&*name), reason));
        }
    }
    Ok(())
}

/// Folder of a Delta table's log.
pub(crate) const DELTA_LOG: &str = "_delta_log";

/// Whether the folder is a Delta table.
pub(crate) fn is_delta(path: &Path) -> bool {
    path.join(DELTA_LOG).is_dir()
}

/// Version of `source` with which a job at `dest` must continue: the one that its shard, or else another one, began
/// with.
pub(crate) fn begun_with(dest: &Path, shard: u64, source: &Path, again: Again) -> Result<Option<String>> {
    if again == Again::Overwrite {
        return Ok(None);
    }
    let all = manifests(dest)?;
    let begun = match all.iter().find(|manifest| manifest.shard == shard) {
        Some(own) if own.state == State::Finished && again != Again::RetryFailed => None,
        Some(own) => Some(own),
        None if again == Again::No => all.first(),
        None => None,
    };
    let version = begun.filter(|manifest| manifest.source == source).and_then(|manifest| manifest.source_version);
    Ok(version.map(|version| version.to_string()))
}

/// Reason why a pair table must not be read yet: a shard of it has not ended. `None` for a complete table, and for
/// anything else.
pub fn unfinished(table: &Path) -> Result<Option<String>> {
    let manifests = manifests(table)?;
    let Some(first) = manifests.first() else { return Ok(None) };
    let (all, begun) = (first.job.shards, manifests.len() as u64);
    let running: Vec<_> =
        manifests.iter().filter(|m| m.state != State::Finished).map(|m| m.shard.to_string()).collect();
    if let Some(other) = manifests.iter().find(|m| m.job.difference(&first.job).is_some() || m.files != first.files) {
        let shards = (first.shard, other.shard);
        return Ok(Some(format!(
            "its shards {} and {} are of two jobs or two sources: run both with --update, or write it anew",
            shards.0, shards.1
        )));
    }
    let why = match (running.as_slice(), all) {
        ([], _) if begun >= all => return Ok(None),
        ([], _) => format!("only {begun} of its {all} shards have begun"),
        (_, 1) => "its job has not ended".to_owned(),
        (some, _) => format!("shard {} of {all} has not ended", some.join(", ")),
    };
    Ok(Some(format!("an unfinished pair table: {why}; run the same capfilt run again, and it goes on")))
}

/// Whether `name` is the file name of a part.
pub(crate) fn is_part(name: &str) -> bool {
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
pub(crate) fn part_name(number: usize, shard: u64, shards: u64, run: Option<&str>, extension: &str) -> String {
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
