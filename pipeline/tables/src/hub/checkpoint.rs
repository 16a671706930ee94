//! The folder of a named checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use capfilt_hub::{Name, Snapshot, Wanted, wanted};

use crate::hub::progress::OnBytes;
use crate::hub::register;

/// A checkpoint of the hub on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCheckpoint {
    /// Folder with its files.
    pub folder: PathBuf,
    /// Its name with the commit: `hf:OWNER/NAME@COMMIT`.
    pub pinned: String,
}

/// A name's checkpoint, once it is found.
type Slot = Arc<Mutex<Option<HubCheckpoint>>>;

/// Checkpoints that this process has asked for: a name stands for one commit as long as the process runs. They are keyed
/// by process too: a forked one must not wait for downloads of its parent.
static KNOWN: Mutex<BTreeMap<(u32, String), Slot>> = Mutex::new(BTreeMap::new());

/// Version of what `convert` writes.
const CONVERSION: &str = "1";

/// Whether `text` is a name on the hub, well formed or not.
pub fn is_name(text: &str) -> bool {
    text.starts_with("hf:") && !text.starts_with("hf://datasets/")
}

/// Finds a checkpoint by its name, and downloads it into the hub's cache if it is not there. Weights that are a pickle
/// are converted into the user's cache; the pickle is parsed and never executed.
///
/// # Errors
/// A malformed name; a model that does not exist, is private, or has no weights that are read; a hub that cannot be
/// reached; a cache that cannot be written. The message says what to do.
pub fn checkpoint(name: &str, progress: OnBytes<'_>) -> Result<HubCheckpoint, String> {
    let parsed: Name = name.parse().map_err(|e: capfilt_hub::Error| e.to_string())?;
    let slot = slot(&parsed);
    // Two callers must not resolve a name at the same time, to two commits.
    let mut known = lock(&slot);
    if let Some(found) = &*known {
        return Ok(found.clone());
    }
    let snapshot = register::snapshot(&parsed, progress)?;
    let at_commit = parsed.at(snapshot.commit());
    let pinned = at_commit.to_string();
    let folder = match wanted(&snapshot.files().map_err(|e| e.to_string())?) {
        Wanted::Safetensors(_) => snapshot.folder().to_owned(),
        Wanted::PickleAlone(_) => converted(&snapshot, progress)?,
        Wanted::Nothing => {
            return Err(format!(
                "{}: it has no weights, or not all of them: fetch it again",
                snapshot.folder().display()
            ));
        }
    };
    let found = known.insert(HubCheckpoint { folder, pinned }).clone();
    drop(known);
    lock(&self::slot(&at_commit)).get_or_insert_with(|| found.clone());
    Ok(found)
}

fn slot(name: &Name) -> Slot {
    Arc::clone(lock(&KNOWN).entry((std::process::id(), name.to_string())).or_default())
}

/// The name with its commit of a folder that [`checkpoint`] found in this process.
pub fn name_of(folder: &Path) -> Option<String> {
    let slots: Vec<Slot> = lock(&KNOWN).values().cloned().collect();
    let found = slots.iter().filter_map(|slot| slot.try_lock().ok()?.clone());
    found.into_iter().find(|found| found.folder == folder).map(|found| found.pinned)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Folder with the snapshot's weights as safetensors, written once for a commit.
fn converted(snapshot: &Snapshot, progress: OnBytes<'_>) -> Result<PathBuf, String> {
    let cache = capfilt_udfs::cache_folder().ok_or("there is no folder for converted weights: set CAPFILT_CACHE")?;
    let parent = cache.join("converted").join(CONVERSION);
    let folder = parent.join(snapshot.commit());
    let failed = |e: std::io::Error| format!("{}: {e}: set CAPFILT_CACHE to another folder", folder.display());
    let is_there = || folder.join("config.json").is_file();
    // Checked before the first write: a shared cache may be read-only.
    if is_there() {
        return Ok(folder);
    }
    fs::create_dir_all(&parent).map_err(failed)?;
    // Another process may be converting the same.
    let lock = File::create(parent.join(format!("{}.lock", snapshot.commit()))).map_err(failed)?;
    match lock.lock() {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            log::warn!("{}: no lock ({e}): weights may be converted twice", folder.display());
        }
        locked => locked.map_err(failed)?,
    }
    if is_there() {
        return Ok(folder);
    }
    // What a killed process left.
    match fs::remove_dir_all(folder.with_added_extension("part")) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let report = |done, total| progress("model.safetensors", done, total);
    capfilt_udfs::convert(snapshot.folder(), &folder, None, &report).map_err(|e| e.to_string())?;
    Ok(folder)
}
