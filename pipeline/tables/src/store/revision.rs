//! Revisions of datasets on the Hugging Face hub, which stand for one commit while a job reads them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::store::contract::StoreProvider;
use crate::store::providers;

/// Fixes the commit of the dataset revision in `source` for this process. `None` removes the fixed commit: the next opening
/// takes the newest. Other sources are unaffected.
pub fn pin(source: &Path, commit: Option<&str>) -> Result<()> {
    match store(source) {
        Some((store, url)) => (store.pin)(url, commit).map_err(|reason| Error::source(source, reason)),
        None => Ok(()),
    }
}

/// Commit at which this process opened the dataset `source`. `None` for other sources, and before the first opening.
pub fn commit_of(source: &Path) -> Option<String> {
    let (store, url) = store(source)?;
    (store.version)(url)
}

fn store(source: &Path) -> Option<(&'static StoreProvider, &str)> {
    let url = source.to_str()?;
    let (scheme, _) = url.split_once("://")?;
    // An unknown scheme is an error where the source is opened.
    Some((providers::of(scheme).ok()?, url))
}
