//! The committers, one for each kind of table.

use std::path::Path;

use capfilt_tables::error::Result;

use crate::options::Parts;
use crate::output::commit::contract::Committer;
use crate::output::commit::folder::FolderCommitter;

/// The committer of a table in the folder `table` whose files are `parts`.
pub(crate) fn committer(parts: Parts, table: &Path) -> Result<Box<dyn Committer>> {
    let table = table.to_owned();
    match parts {
        Parts::Parquet | Parts::WebDataset | Parts::JsonLines => Ok(Box::new(FolderCommitter { table })),
        #[cfg(feature = "delta")]
        Parts::Delta => Ok(Box::new(crate::output::commit::delta::DeltaCommitter { table })),
        #[cfg(not(feature = "delta"))]
        Parts::Delta => {
            let reason = "this capfilt is built without the feature delta, which --table-format delta needs";
            Err(capfilt_tables::error::Error::Option(reason.to_owned()))
        }
    }
}
