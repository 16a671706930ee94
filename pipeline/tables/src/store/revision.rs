//! Revisions of datasets on the Hugging Face hub, which stand for one commit while a job reads them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::store::contract::StoreProvider;
use crate::store::providers;

/// Makes the revision that `source` names stand for `commit` in this process; without one, for the commit that it has when
/// it is opened next. Without effect on sources of other kinds.
pub fn pin(source: &Path, commit: Option<&str>) -> Result<()> {
    match store(source) {
        Some((store, url)) => (store.pin)(url, commit).map_err(|reason| Error::source(source, reason)),
        None => Ok(()),
    }
}

/// Commit of the dataset that `source` names, if it is one that this process has opened.
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
