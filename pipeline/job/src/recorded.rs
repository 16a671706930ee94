//! The jobs that a table's manifests record, which `capfilt resume`, `update` and `retry` go on with.

use std::path::{Path, PathBuf};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::pair_table::{BOOKKEEPING, State};

use crate::checkpoint::manifests::manifests;
use crate::job_file::JobFile;
use crate::options::Mode;

/// The job of one shard of a table.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The job as it was begun, by another shard if this one has not begun; `None` if it was not recorded, or with
    /// options of another version.
    pub file: Option<JobFile>,
    /// Shard, from 1, and number of shards.
    pub shard: (u64, u64),
    /// Whether the shard has ended.
    pub is_finished: bool,
    /// Whether a retry of failed rows was stopped in the shard.
    pub is_retry: bool,
    /// Version of a Delta source that an unfinished shard reads.
    pub source_version: Option<u64>,
    /// Absolute location of the image column's root folder, if the job has one.
    pub image_root: Option<PathBuf>,
}

impl Recorded {
    /// The mode that continues the shard.
    pub fn resume(&self) -> Mode {
        if self.is_retry { Mode::Retry } else { Mode::Create }
    }
}

/// Jobs of all shards of the table at `dest`, in order, including shards that have not begun.
///
/// # Errors
/// Errors if there is no pair table, or if a manifest cannot be read.
pub fn recorded(dest: &Path) -> Result<Vec<Recorded>> {
    let all = manifests(dest)?;
    let Some(first) = all.first() else {
        if dest.join(BOOKKEEPING).is_dir() {
            let reason = "no unit of its job is done yet: the same `capfilt run` begins it anew";
            return Err(Error::dest(dest, reason));
        }
        return Err(Error::dest(dest, "there is no pair table: `capfilt run SOURCE DEST` begins one"));
    };
    if first.verdicts.selected {
        return Err(Error::dest(dest, "`capfilt select` made this table, of another one: run it again"));
    }
    let shards = first.job.shards;
    let of = |shard: u64| {
        let own = all.iter().find(|manifest| manifest.shard == shard);
        let manifest = own.unwrap_or(first);
        let file = manifest.file.clone().and_then(|file| serde_json::from_value::<JobFile>(file).ok());
        let shard_is = format!("{shard}/{shards}");
        let file = file.map(|file| JobFile { dest: dest.to_owned(), shard: shard_is, ..file });
        let is_finished = own.is_some_and(|own| own.state == State::Finished);
        Recorded {
            file,
            shard: (shard, shards),
            is_finished,
            is_retry: !is_finished && own.is_some_and(|own| own.retried.is_some()),
            source_version: manifest.source_version,
            image_root: manifest.path_root.clone(),
        }
    };
    Ok((1..=shards).map(of).collect())
}
