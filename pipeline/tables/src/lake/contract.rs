//! What a lakehouse table is: a folder whose log says which of its files belong to a version.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;

use crate::error::Result;
use crate::lake::location::Lake;

/// A format of lakehouse tables; [`crate::lake::register`] has the list of them.
///
/// Only names of files and Arrow schemas cross this trait: the files are read as all others.
#[async_trait]
pub trait TableFormat: fmt::Debug + Sync {
    /// Name in messages, such as `Delta`.
    fn name(&self) -> &'static str;

    /// Whether a folder is a table of this format.
    ///
    /// # Errors
    /// A store that does not answer.
    fn is_here(&self, at: &Lake) -> Result<bool>;

    /// Files of a table at a version, given as a number or a time, or at its latest version.
    ///
    /// # Errors
    /// A version that does not exist, or a table that cannot be read as its files alone.
    fn snapshot(&self, at: &Lake, version: Option<&str>) -> Result<Snapshot>;

    /// Table of a version for SQL, which does not write it.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    async fn in_sql(&self, ctx: &SessionContext, at: Lake, version: Option<String>) -> Result<Arc<dyn TableProvider>>;
}

/// A table at one version.
#[derive(Debug)]
pub struct Snapshot {
    /// Version.
    pub version: u64,
    /// Schema including the partition columns, which the files lack.
    pub schema: SchemaRef,
    /// Files, sorted by name.
    pub files: Vec<LakeFile>,
}

/// A Parquet file of a table.
#[derive(Debug)]
pub struct LakeFile {
    /// Path relative to the table.
    pub name: String,
    /// Partition values as in the log, in the order of the partition columns.
    pub partitions: Vec<(String, Option<String>)>,
    /// Sorted numbers of the rows that are deleted.
    pub deleted: Vec<u64>,
}
