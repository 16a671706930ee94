//! Snapshots from the cache or from the hub.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use capfilt_hub::{Client, Name, Progress, Snapshot};

use crate::hub::progress::OnBytes;

/// Number of calls of [`interrupt`].
static INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

/// Interval between checks for an interruption.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Ends the downloads of checkpoints that are in progress, with an error; what came of a file is kept.
pub fn interrupt() {
    INTERRUPTIONS.fetch_add(1, Ordering::AcqRel);
}

/// Snapshot of a model, which is fetched if it is not in the cache.
pub(super) fn snapshot(name: &Name, progress: OnBytes<'_>) -> Result<Snapshot, String> {
    let begun = INTERRUPTIONS.load(Ordering::Acquire);
    let interrupted = async {
        while INTERRUPTIONS.load(Ordering::Acquire) == begun {
            tokio::time::sleep(CHECK_EVERY).await;
        }
        Err("the download was interrupted; it continues where it stopped".to_owned())
    };
    let fetch = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let client = Client::from_env().map_err(|e| e.to_string())?;
        let report = |step: Progress<'_>| progress(step.file, step.done, step.total.unwrap_or(0));
        runtime.block_on(async {
            tokio::select! {
                found = client.checkpoint(name, true, &report) => found.map_err(|e| e.to_string()),
                interrupted = interrupted => interrupted,
            }
        })
    };
    // The calling thread may be one of an async runtime, which must not block on another.
    std::thread::scope(|scope| scope.spawn(fetch).join())
        .unwrap_or_else(|_| Err("the download panicked; its message is on stderr".to_owned()))
}
