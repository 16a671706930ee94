//! The stores of jobs, by destination.

use std::path::Path;

use capfilt_tables::error::Result;

use crate::checkpoint::contract::JobStore;
use crate::checkpoint::job_folder::JobFolder;

/// Opens shard `shard` of `shards` at `dest` for writing. Dropping the store before anything is written leaves the
/// destination as it was. Errors if another process writes the shard.
pub(crate) fn open(dest: &Path, (shard, shards): (u64, u64)) -> Result<Box<dyn JobStore>> {
    Ok(Box::new(JobFolder::open(dest, shard, shards)?))
}

/// Opens the shard for reading, whether or not a process writes it.
pub(crate) fn peek(dest: &Path, (shard, shards): (u64, u64)) -> Box<dyn JobStore> {
    Box::new(JobFolder::peek(dest, shard, shards))
}
