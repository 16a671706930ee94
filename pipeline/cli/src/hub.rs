//! Names on the Hugging Face hub, resolved with progress on stderr.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use capfilt_job::JobFile;
use capfilt_tables::hub::{self, HubCheckpoint};

use crate::console;

/// Lets the functions of this process take names on the hub for checkpoints: `hf:OWNER/NAME`.
pub fn use_hub() {
    capfilt_udfs::blip::set_hub_resolver(|name| Ok(found(name)?.folder));
}

/// The checkpoint of a name, downloaded if it is not there.
pub(crate) fn found(name: &str) -> Result<HubCheckpoint, String> {
    // The bar of the file in hand.
    let bar: Mutex<Option<(String, console::Bytes)>> = Mutex::new(None);
    let progress = |file: &str, done: u64, all: u64| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_none_or(|(of, _)| of != file) {
            *bar = Some((file.to_owned(), console::Bytes::new()));
        }
        if let Some((_, bar)) = &*bar {
            bar.update(done, all);
        }
    };
    let found = hub::checkpoint(name, &progress);
    if bar.into_inner().unwrap_or_else(PoisonError::into_inner).is_some() {
        console::clear_bar();
    }
    found
}

/// The folder of a name on the hub, or of a path, which is left as it is.
pub(crate) fn folder(path: &Path) -> Result<PathBuf> {
    match path.to_str().filter(|text| hub::is_name(text)) {
        Some(name) => Ok(found(name).map_err(|e| anyhow!(e))?.folder),
        None => Ok(path.to_owned()),
    }
}

/// Replaces names on the hub in a job by names with their commits, which the job's table records.
pub(crate) fn pin(file: &mut JobFile) -> Result<()> {
    let models = ["capfilt.captioner", "capfilt.filter", "capfilt.answerer"];
    let set = file.set.iter_mut().filter(|(name, _)| models.contains(&name.as_str()));
    let names = file.captioner.iter_mut().chain(&mut file.filter).chain(set.map(|(_, value)| value));
    for name in names.filter(|name| hub::is_name(name)) {
        *name = found(name).map_err(|e| anyhow!(e))?.pinned;
    }
    Ok(())
}

/// Warns if a name stands for another commit than when the job's table was begun. Whether that is another model, its
/// content decides.
pub(crate) fn name_moved(file: &JobFile) {
    let repository = |name: &str| Some(name.rsplit_once('@').filter(|_| hub::is_name(name))?.0.to_owned());
    // Without a table there is nothing to compare.
    let recorded = capfilt_job::recorded(&file.dest).unwrap_or_default();
    for before in recorded.iter().filter_map(|shard| shard.file.as_ref()).take(1) {
        let captioners = before.captioner.iter().zip(&file.captioner);
        for (before, now) in captioners.chain(before.filter.iter().zip(&file.filter)) {
            if before != now && repository(before).is_some_and(|of| repository(now) == Some(of)) {
                log::warn!("the table was begun with {before}, and the name stands for {now} now");
            }
        }
    }
}
