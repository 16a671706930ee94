//! The manifests of all shards of a table.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::layout::is_delta;
use capfilt_tables::pair_table::{self, State};

use crate::checkpoint::manifest::Manifest;
use crate::options::Mode;

/// Manifests of all shards that have begun, sorted by folder name.
pub(crate) fn manifests(table: &Path) -> Result<Vec<Manifest>> {
    pair_table::manifest_paths(table)?.iter().filter_map(|path| Manifest::read(path).transpose()).collect()
}

/// Manifests, at least one, of a finished table of Parquet files.
///
/// # Errors
/// Refuses an unfinished table, and one of other files with the message `wanted`, such as "a report is made of Parquet".
pub(crate) fn of_parquet(table: &Path, wanted: &str) -> Result<Vec<Manifest>> {
    let manifests = manifests(table)?;
    let Some(first) = manifests.first() else {
        return Err(Error::dest(table, "there is no pair table of capfilt run: give the DEST of one"));
    };
    if let Some(reason) = pair_table::unfinished(table)? {
        return Err(Error::dest(table, reason));
    }
    if !matches!(first.job.format.as_str(), "parquet" | "delta") {
        return Err(Error::dest(table, format!("{wanted}, and this table is {}", first.job.format)));
    }
    check_parts(table, &manifests)?;
    Ok(manifests)
}

/// Refuses a table that is read by its folder if other Parquet files lie beside its parts, which would count as pairs.
fn check_parts(table: &Path, manifests: &[Manifest]) -> Result<()> {
    if is_delta(table) {
        return Ok(());
    }
    let known: HashSet<&str> = manifests.iter().flat_map(Manifest::part_names).collect();
    let read = |e| Error::dest(table, e);
    for entry in fs::read_dir(table).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".parquet") && !name.starts_with(['.', '_']) && !known.contains(&*name) {
            let reason = "it is not part of the pair table, and would be read with it: take it out of the folder";
            return Err(Error::dest(table.join(&*name), reason));
        }
    }
    Ok(())
}

/// The manifest that fixes the version of `source` for a job: its own shard's, or else another shard's. `None` if the job
/// may read the newest version.
pub(crate) fn begun_with<'a>(all: &'a [Manifest], shard: u64, source: &Path, mode: Mode) -> Option<&'a Manifest> {
    let begun = match all.iter().find(|manifest| manifest.shard == shard) {
        Some(own) if own.state == State::Finished && mode != Mode::Retry => None,
        Some(own) => Some(own),
        None if mode == Mode::Create => all.first(),
        None => None,
    };
    begun.filter(|manifest| manifest.source == source)
}
