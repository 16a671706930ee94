//! Tables that are all files in their folder.

use std::path::PathBuf;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::layout::is_delta;
use datafusion::arrow::datatypes::Schema;

use crate::output::commit::contract::Committer;

/// A table without a log: a part is in it once it lies in the folder.
pub(crate) struct FolderCommitter {
    pub(crate) table: PathBuf,
}

impl Committer for FolderCommitter {
    fn check(&self, _: &Schema) -> Result<()> {
        if is_delta(&self.table) {
            return Err(Error::dest(&self.table, "it is a Delta table: give --table-format delta or another folder"));
        }
        Ok(())
    }
}
