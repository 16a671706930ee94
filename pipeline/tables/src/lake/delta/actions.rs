//! What a commit adds and removes.

use std::collections::HashMap;

use datafusion::arrow::datatypes::Schema;
use deltalake_core::table::state::DeltaTableState;

/// Files to commit as a version of a table.
#[derive(Debug)]
pub struct Commit<'a> {
    /// Schema of the files, as their readers see it.
    pub schema: &'a Schema,
    /// Files that the version adds, which are in the table's folder already.
    pub files: &'a [Added],
    /// Application id of the Delta transaction.
    pub app_id: &'a str,
    /// Transaction version, for idempotent commits: a commit takes effect only if it exceeds the application's last
    /// one.
    pub app_version: i64,
    /// Files that the version removes.
    pub replaces: Replaces<'a>,
    /// JSON that describes the job.
    pub about: &'a str,
}

/// Files that a commit removes from the table.
#[derive(Debug, Clone, Copy)]
pub enum Replaces<'a> {
    /// No file.
    None,
    /// All files of the latest version.
    All,
    /// Files by name; if the table lacks any of them, there is no commit.
    Files(&'a [&'a str]),
}

/// Outcome of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The version that was written, or that already had the transaction.
    Version(u64),
    /// No commit, as the table lacks a file to be removed; holds the reason.
    Lacking(String),
}

/// A file that is in the table's folder already.
#[derive(Debug)]
pub struct Added {
    /// Path relative to the table.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
}

impl Replaces<'_> {
    pub(crate) fn takes(&self, file: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Files(files) => files.contains(&file),
        }
    }

    /// Reports which of the files the table lacks. Programs that compact it or update rows remove files; programs that
    /// delete rows may keep a file and add a deletion vector.
    pub(crate) fn lacking(&self, state: Option<&DeltaTableState>) -> Option<String> {
        let Self::Files(files) = self else { return None };
        let vectors: HashMap<String, bool> = state
            .into_iter()
            .flat_map(|state| state.log_data())
            .map(|file| (file.path().into_owned(), file.deletion_vector_descriptor().is_some()))
            .collect();
        let file = files.iter().find(|file| vectors.get(**file) != Some(&false))?;
        let what = if vectors.contains_key(*file) { "has rows deleted from" } else { "no longer has" };
        Some(format!(
            "the latest version of the Delta table {what} the job's file {file}, as after OPTIMIZE, DELETE or UPDATE, \
             and `capfilt retry` replaces the job's own files alone: restore a version that has them as they were, or give \
             --overwrite, which does all rows anew"
        ))
    }
}
