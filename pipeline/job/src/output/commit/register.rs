//! The committers, one for each kind of table.

use std::path::Path;

use capfilt_tables::error::Result;

use crate::options::OutputFormat;
use crate::output::commit::contract::Committer;
use crate::output::commit::folder::FolderCommitter;

/// The committer of a table in the folder `table` of the given format.
pub(crate) fn committer(format: OutputFormat, table: &Path) -> Result<Box<dyn Committer>> {
    let table = table.to_owned();
    match format {
        OutputFormat::Parquet | OutputFormat::WebDataset | OutputFormat::JsonLines => {
            Ok(Box::new(FolderCommitter { table }))
        }
        #[cfg(feature = "delta")]
        OutputFormat::Delta => Ok(Box::new(crate::output::commit::delta::DeltaCommitter { table })),
        #[cfg(not(feature = "delta"))]
        OutputFormat::Delta => {
            let reason = "this capfilt is built without the feature delta, which --table-format delta needs";
            Err(capfilt_tables::error::Error::Option(reason.to_owned()))
        }
    }
}
