//! Revisions of datasets on the Hugging Face hub, which stand for one commit while a job reads them.

use std::path::Path;

use crate::error::Result;
#[cfg(feature = "hub")]
use crate::store::providers::hugging_face;

/// Makes the revision that `source` names stand for `commit` in this process; without one, for the commit that it has when
/// it is opened next. Without effect on other sources.
#[cfg_attr(not(feature = "hub"), expect(unused_variables, reason = "without the feature there are no datasets"))]
pub fn pin(source: &Path, commit: Option<&str>) -> Result<()> {
    #[cfg(feature = "hub")]
    if let Some(url) = dataset(source) {
        return hugging_face::pin(url, commit).map_err(|reason| crate::Error::source(source, reason));
    }
    Ok(())
}

/// Commit of the dataset that `source` names, if it is one that this process has opened.
#[cfg_attr(not(feature = "hub"), expect(unused_variables, reason = "without the feature there are no datasets"))]
pub fn commit_of(source: &Path) -> Option<String> {
    #[cfg(feature = "hub")]
    return hugging_face::commit_of(dataset(source)?);
    #[cfg(not(feature = "hub"))]
    None
}

#[cfg(feature = "hub")]
fn dataset(source: &Path) -> Option<&str> {
    source.to_str().filter(|url| url.starts_with("hf://"))
}
