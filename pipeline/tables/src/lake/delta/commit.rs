//! Delta tables: reading the files of a version, and committing files as a new version.
//!
//! deltalake-core reads and writes the log. The files that it names are read and written like all others.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use datafusion::arrow::datatypes::Schema;
use deltalake_core::kernel::engine::arrow_conversion::TryFromArrow as _;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, StructType, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::lake::delta::actions::{Added, Commit, Outcome, Replaces};
use crate::lake::delta::open::{Failed, apart, builder, load, recorded};
use crate::lake::delta::schema::{check_fits, delta_schema};
use crate::layout::DELTA_LOG;

/// Maximum attempts at a commit that conflicts with other writers.
const TRIES: usize = 20;

/// Transaction version of the last commit of `app_id`.
pub fn transaction_version(table: &Path, app_id: &str) -> Result<Option<i64>> {
    let version =
        || async { if let Some(opened) = load(table).await? { recorded(&opened, app_id).await } else { Ok(None) } };
    apart(version).and_then(|version| version.map_err(|e| Error::dest(table, e)))
}

/// Whether a table has a version.
pub fn has_versions(table: &Path) -> Result<bool> {
    apart(|| load(table)).and_then(|loaded| loaded.map(|table| table.is_some()).map_err(|e| Error::dest(table, e)))
}

/// Refuses columns that Delta tables cannot have, and columns that differ from an existing table's.
pub fn check_table(table: &Path, schema: &Schema) -> Result<()> {
    let check = || async {
        let new = Commit { schema, files: &[], app_id: "", app_version: 0, replaces: Replaces::None, about: "" };
        let schema = delta_schema(schema)?;
        if let Some(opened) = load(table).await? { check_fits(opened.snapshot()?, &schema, &new) } else { Ok(()) }
    };
    apart(check).and_then(|checked| checked.map_err(|e| Error::dest(table, e)))
}

/// Reports which of `files` the latest version of a table lacks, or has with fewer rows.
pub fn lacks(table: &Path, files: &[&str]) -> Result<Option<String>> {
    let lacks = || async {
        let opened = load(table).await?;
        let state = opened.as_ref().map(DeltaTable::snapshot).transpose()?;
        Ok::<_, DeltaTableError>(Replaces::Files(files).lacking(state))
    };
    apart(lacks).and_then(|lacks| lacks.map_err(|e| Error::dest(table, e)))
}

/// Commits files as the next version of a table, or as the first of a new one. The commit is one log file, hence
/// atomic. It is idempotent: if the log has it already, nothing is done and the latest version is returned.
pub fn commit(table: &Path, new: &Commit<'_>) -> Result<Outcome> {
    apart(|| write(table, new)).and_then(|outcome| outcome.map_err(|e| Error::dest(table, e)))
}

async fn write(table: &Path, new: &Commit<'_>) -> Result<Outcome, Failed> {
    let schema = delta_schema(new.schema)?;
    let adds = new.files.iter().map(|file| add(table, file)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..TRIES {
        let done = match load(table).await? {
            None if let Some(reason) = new.replaces.lacking(None) => return Ok(Outcome::Lacking(reason)),
            None => create(table, &schema, new, adds.clone()).await.map(|()| None),
            Some(opened) => {
                let state = opened.snapshot()?;
                if recorded(&opened, new.app_id).await?.is_some_and(|last| last >= new.app_version) {
                    Ok(Some(state.version()))
                } else {
                    check_fits(state, &schema, new)?;
                    if let Some(reason) = new.replaces.lacking(Some(state)) {
                        return Ok(Outcome::Lacking(reason));
                    }
                    append(&opened, new, adds.clone()).await.map(Some)
                }
            }
        };
        match done {
            // The next iteration finds the commit in the log, or another writer's table.
            Ok(None) => {}
            Ok(Some(version)) => {
                sync(table, version)?;
                return Ok(Outcome::Version(version));
            }
            Err(error) if is_conflict(&error) => log::info!("{}: once more, after {error}", table.display()),
            Err(error) => return Err(error.into()),
        }
    }
    Err("other writers of the Delta table are faster each time: run the same again".into())
}

fn add(table: &Path, file: &Added) -> Result<Action, String> {
    let modified = fs::metadata(table.join(&file.name)).and_then(|meta| meta.modified());
    let modified = modified.map_err(|e| format!("cannot look at its file {}: {e}", file.name))?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Action::Add(Add {
        path: file.name.clone(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX),
        data_change: true,
        stats: Some(json!({ "numRecords": file.rows }).to_string()),
        ..Add::default()
    }))
}

fn properties(new: &Commit<'_>) -> CommitProperties {
    let about = serde_json::from_str(new.about).unwrap_or_else(|_| Value::from(new.about));
    CommitProperties::default()
        .with_metadata([("capfilt".to_owned(), about)])
        .with_application_transaction(Transaction::new(new.app_id, new.app_version))
}

/// Creates the first version; does nothing if another writer has created it.
async fn create(table: &Path, schema: &Schema, new: &Commit<'_>, adds: Vec<Action>) -> Result<(), DeltaTableError> {
    let columns = StructType::try_from_arrow(schema)?;
    CreateBuilder::new()
        .with_log_store(builder(table)?.build_storage()?)
        .with_columns(columns.fields().cloned())
        .with_save_mode(SaveMode::Ignore)
        .with_actions(adds)
        // On a retry the library would give these columns to another writer's table.
        .with_commit_properties(properties(new).with_max_retries(0))
        .await
        .map(drop)
}

async fn append(table: &DeltaTable, new: &Commit<'_>, adds: Vec<Action>) -> Result<u64, DeltaTableError> {
    let state = table.snapshot()?;
    let (mut actions, mut properties) = (adds, properties(new));
    let gone = state.log_data().into_iter().filter(|file| new.replaces.takes(&file.path()));
    actions.extend(gone.map(|file| Action::Remove(file.remove_action(true))));
    let write = |mode| DeltaOperation::Write { mode, partition_by: None, predicate: None };
    let operation = match new.replaces {
        Replaces::None => write(SaveMode::Append),
        Replaces::All => write(SaveMode::Overwrite),
        Replaces::Files(_) => DeltaOperation::Update { predicate: None },
    };
    if !matches!(new.replaces, Replaces::None) {
        // On a retry the library would keep files that others have added meanwhile, or not notice files that they have
        // removed.
        properties = properties.with_max_retries(0);
    }
    let commit = CommitBuilder::from(properties).with_actions(actions);
    let prepared = commit.build(Some(state), table.log_store(), operation).into_prepared_commit_future().await?;
    let committed = prepared.await?;
    let version = committed.version;
    // The commit is in the log; a checkpoint that may be due only serves speed.
    if let Err(error) = committed.await {
        log::warn!("{}: committed, but the log could not be tidied: {error}", table.table_url());
    }
    Ok(version)
}

fn is_conflict(error: &DeltaTableError) -> bool {
    use TransactionError::{CommitConflict, MaxCommitAttempts};
    matches!(error, DeltaTableError::Transaction { source: CommitConflict(_) | MaxCommitAttempts(_) })
}

/// Syncs a commit to disk; the library leaves that to the operating system.
fn sync(table: &Path, version: u64) -> io::Result<()> {
    let log = table.join(DELTA_LOG);
    match File::open(log.join(format!("{version:020}.json"))) {
        // A checkpoint has replaced it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        commit => commit?.sync_all()?,
    }
    File::open(&log)?.sync_all()?;
    File::open(table)?.sync_all()
}

#[cfg(test)]
mod tests;
