//! Contract of job stores.

use std::fmt;
use std::path::{Path, PathBuf};

use capfilt_tables::error::Result;

use crate::checkpoint::manifest::{Manifest, Part};

/// Storage of one shard of a job: its manifest, its finished units, and its parts, which are staged until all rows are
/// done and then published in the table.
///
/// A change that a method has made survives a kill and a loss of power once the method returns; of `publish` and
/// `remove_part` that is true once `settle` returns. While a store is open for writing, no other process writes the
/// same shard.
pub(crate) trait JobStore: fmt::Debug + Send {
    /// The table's location, for messages.
    fn table(&self) -> &Path;

    /// The shard's number, from 1, and the number of shards.
    fn shard(&self) -> (u64, u64);

    /// Whether there is a table, or files that are not the job's.
    fn contents(&self) -> Result<Contents>;

    /// Whether another process writes the table. Processes that write it in `except` shards do not count.
    fn has_other_writer(&self, except: Option<u64>) -> Result<bool>;

    /// Manifests of all shards that have begun.
    fn manifests(&self) -> Result<Vec<Manifest>>;

    /// This shard's manifest; `None` if it is missing or unreadable.
    fn manifest(&self) -> Option<Manifest>;

    /// Replaces this shard's manifest atomically.
    fn save(&self, manifest: &Manifest) -> Result<()>;

    /// Removes this shard's manifest.
    fn remove_manifest(&self) -> Result<()>;

    /// Removes this shard's units and staged parts. The manifest of a complete table stays until the new table's
    /// replaces it.
    fn clear(&self) -> Result<()>;

    /// Removes the bookkeeping of the other shards.
    fn clear_other_shards(&self) -> Result<()>;

    /// Removes unfinished files, and staged parts that `manifest` does not name.
    fn remove_unfinished(&self, manifest: &Manifest) -> Result<()>;

    /// Local path at which the file `name` is written before it is kept or staged.
    fn scratch(&self, name: &str) -> PathBuf;

    /// Local folder of deduplication's files, which stay for a run that resumes.
    fn dedupe_folder(&self) -> PathBuf;

    /// Keeps the scratch file `name` as a finished unit. Returns the path to read it from.
    fn keep_unit(&self, name: &str) -> Result<PathBuf>;

    /// Paths of the kept units, in the order of their names.
    fn units(&self) -> Result<Vec<PathBuf>>;

    /// Stages the scratch file `part` as a part.
    fn stage(&self, part: &str) -> Result<()>;

    /// Stages a kept unit as a part. The unit stays.
    fn stage_unit(&self, unit: &Path, part: &str) -> Result<()>;

    /// Moves a staged part into the table, unless that was done before.
    fn publish(&self, part: &Part) -> Result<()>;

    /// Path of a published part. Errors unless it is as it was written.
    fn part(&self, part: &Part) -> Result<PathBuf>;

    /// Names of the parts in the table, which other jobs may have written.
    fn parts(&self) -> Result<Vec<String>>;

    /// Removes a part from the table, if it is there.
    fn remove_part(&self, name: &str) -> Result<()>;

    /// Makes the table's new and removed parts durable, once all are published.
    fn settle(&self) -> Result<()>;
}

/// Contents of a destination beside a job's bookkeeping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Whether there is a table.
    pub(crate) is_table: bool,
    /// Number of files and folders, the table's included.
    pub(crate) files: usize,
}
