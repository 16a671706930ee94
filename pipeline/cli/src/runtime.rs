//! The runtime that commands run on.

use anyhow::Result;

/// Planning recurses deeply, and unoptimised frames are large.
pub(crate) const STACK: usize = 64 << 20;

/// Runs `work`, and then shuts its runtime down within two seconds, since abandoned blocking work must not keep the process
/// alive.
pub(crate) fn with_runtime<T>(work: impl FnOnce(&tokio::runtime::Runtime) -> Result<T>) -> Result<T> {
    let runtime = runtime()?;
    let ended = work(&runtime);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ended
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build()?)
}
