//! Snapshots from the cache or from the hub.

use capfilt_hub::{Client, Name, Progress, Snapshot};

use crate::hub::progress::OnBytes;

/// Snapshot of a model, which is fetched if it is not in the cache.
pub(super) fn snapshot(name: &Name, progress: OnBytes<'_>) -> Result<Snapshot, String> {
    let fetch = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let client = Client::from_env().map_err(|e| e.to_string())?;
        let report = |step: Progress<'_>| progress(step.file, step.done, step.total.unwrap_or(0));
        runtime.block_on(client.checkpoint(name, true, &report)).map_err(|e| e.to_string())
    };
    // The calling thread may be one of an async runtime, which must not block on another.
    std::thread::scope(|scope| scope.spawn(fetch).join()).unwrap_or_else(|_| Err("the download panicked".to_owned()))
}
