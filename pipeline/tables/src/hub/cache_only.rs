//! A build without the feature `hub` reads the cache of the hub, and fetches nothing.

use capfilt_hub::{Cache, Name, Snapshot};

use crate::hub::progress::OnBytes;

/// Does nothing: this build downloads nothing.
pub fn interrupt() {}

/// Snapshot of a model in the cache.
pub(super) fn snapshot(name: &Name, _: OnBytes<'_>) -> Result<Snapshot, String> {
    let cache = Cache::from_env().map_err(|e| e.to_string())?;
    let snapshot = cache.snapshot(name).map_err(|e| e.to_string())?;
    snapshot.ok_or_else(|| {
        let cache = cache.root().display();
        format!(
            "it is not in {cache}, and this capfilt is built without downloads (the feature hub): `hf download` fetches it"
        )
    })
}
