//! Delta tables: the files that one has at a version, and files of ours that become a version of one.
//!
//! The log is read and written by deltalake-core. The files that it names are read and written as all others are.

mod read;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use deltalake_core::kernel::engine::arrow_conversion::{TryFromArrow as _, TryFromKernel as _};
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, StructType, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use serde_json::{Value, json};
use url::Url;

use crate::error::{Error, Result};
use crate::table::{DELTA_LOG, is_delta};
use read::check_readable;
pub(crate) use read::{register, snapshot};

/// Beginnings of the settings that rule what rows a table takes.
const RULES: [&str; 4] = ["delta.constraints.", "delta.generationExpression", "delta.identity.", "delta.invariants"];
/// How often a commit is tried in all where others come first.
const TRIES: usize = 20;

/// What went wrong; the callers name the table.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Files that become a version of a table.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    /// Of the files, as their readers see it.
    pub(crate) schema: &'a Schema,
    pub(crate) files: &'a [Added],
    pub(crate) app_id: &'a str,
    /// A commit counts where this is above that of the application's last.
    pub(crate) app_version: i64,
    /// The files that the table has go.
    pub(crate) replace: bool,
    /// JSON that describes the job.
    pub(crate) about: &'a str,
}

/// A file that is in the table's folder already.
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The version of the last commit of `app_id`.
pub(crate) fn transaction_version(table: &Path, app_id: &str) -> Result<Option<i64>> {
    let version = || async {
        match load(table).await? {
            Some(opened) => recorded(&opened, app_id).await,
            None => Ok(None),
        }
    };
    apart(version).and_then(|version| version.map_err(|e| Error::dest(table, e)))
}

/// Refuses columns that a Delta table cannot have, and those that the table there does not.
pub(crate) fn check_table(table: &Path, schema: &Schema) -> Result<()> {
    let check = || async {
        let new = Commit { schema, files: &[], app_id: "", app_version: 0, replace: false, about: "" };
        let schema = delta_schema(schema)?;
        match load(table).await? {
            Some(opened) => check_fits(opened.snapshot()?, &schema, &new),
            None => Ok(()),
        }
    };
    apart(check).and_then(|checked| checked.map_err(|e| Error::dest(table, e)))
}

/// Makes files the next version of a table, or the first of a new one. It is one file of the log, of which a kill leaves all or
/// nothing. Of what the log has already nothing is done, and the latest version comes back.
pub(crate) fn commit(table: &Path, new: &Commit<'_>) -> Result<u64> {
    apart(|| write(table, new)).and_then(|version| version.map_err(|e| Error::dest(table, e)))
}

/// Runs the library on a thread and a runtime of its own: its callers may stand on any thread.
fn apart<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Ok(runtime.map_err(|e| Error::Internal(e.to_string()))?.block_on(work()))
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(Error::Internal("a thread of the Delta library panicked".to_owned())))
}

/// The newest version; `None` where there is none yet.
async fn load(path: &Path) -> Result<Option<DeltaTable>, DeltaTableError> {
    if !is_delta(path) {
        return Ok(None);
    }
    match builder(path)?.load().await {
        // Whoever made the folder was killed before the first version.
        Err(DeltaTableError::NotATable(_)) => Ok(None),
        loaded => loaded.map(Some),
    }
}

fn builder(path: &Path) -> Result<DeltaTableBuilder, DeltaTableError> {
    let url = Url::from_directory_path(fs::canonicalize(path).map_err(DeltaTableError::generic)?);
    DeltaTableBuilder::from_url(url.map_err(|()| DeltaTableError::InvalidTableLocation(path.display().to_string()))?)
}

async fn recorded(table: &DeltaTable, app_id: &str) -> Result<Option<i64>, DeltaTableError> {
    table.snapshot()?.transaction_version(&table.log_store(), app_id).await
}

/// The schema that readers of a Delta table see whose files have `schema`.
fn delta_schema(schema: &Schema) -> Result<Schema, Failed> {
    let fields = schema.fields().iter().map(|field| delta_field(field.name(), field)).collect::<Result<Fields, _>>()?;
    Ok(Schema::try_from_kernel(&StructType::try_from_arrow(&Schema::new(fields))?)?)
}

/// The field without what tells one way of keeping its values from another. The library itself would also take types that Delta
/// lacks, UInt64 as Int64.
fn delta_field(name: &str, field: &Field) -> Result<Field, String> {
    use DataType::*;
    let lacks = |what: &DataType| {
        format!("column {name} is {what}, which Delta tables do not have: cast it in the recipe, or leave it out")
    };
    let data_type = match field.data_type() {
        same @ (Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Date32) => same.clone(),
        same @ Decimal128(_, 0..) => same.clone(),
        Utf8 | LargeUtf8 | Utf8View => Utf8,
        Binary | LargeBinary | BinaryView => Binary,
        // Files keep an instant the same way, whatever zone it is shown in.
        Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, zone) => {
            Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        Struct(parts) => {
            let parts = parts.iter().map(|part| delta_field(&format!("{name}.{}", part.name()), part));
            Struct(parts.collect::<Result<Fields, _>>()?)
        }
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) | FixedSizeList(item, _) => {
            List(Arc::new(delta_field(&format!("{name}[]"), item)?))
        }
        Map(entries, sorted) => {
            let entries = delta_field(name, entries)?;
            let Struct(parts) = entries.data_type() else { return Err(lacks(field.data_type())) };
            let parts = Schema::new(parts.clone());
            // Of a time without a zone in a map the library would not tell the log, and then not read it.
            let unzoned = |part: &&Field| matches!(part.data_type(), Timestamp(_, None));
            let odd_key = parts.fields().first().is_none_or(|key| key.data_type().is_nested());
            if odd_key || parts.flattened_fields().iter().any(unzoned) {
                return Err(lacks(field.data_type()));
            }
            Map(Arc::new(entries), *sorted)
        }
        other => return Err(lacks(other)),
    };
    Ok(Field::new(field.name(), data_type, field.is_nullable()))
}

async fn write(table: &Path, new: &Commit<'_>) -> Result<u64, Failed> {
    let schema = delta_schema(new.schema)?;
    let adds = new.files.iter().map(|file| add(table, file)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..TRIES {
        let done = match load(table).await? {
            None => create(table, &schema, new, adds.clone()).await.map(|()| None),
            Some(opened) => {
                let state = opened.snapshot()?;
                if recorded(&opened, new.app_id).await?.is_some_and(|last| last >= new.app_version) {
                    Ok(Some(state.version()))
                } else {
                    check_fits(state, &schema, new)?;
                    append(&opened, new, adds.clone()).await.map(Some)
                }
            }
        };
        match done {
            // The next turn finds it in the log, or another writer's table.
            Ok(None) => {}
            Ok(Some(version)) => {
                sync(table, version)?;
                return Ok(version);
            }
            Err(error) if is_conflict(&error) => log::info!("{}: once more, after {error}", table.display()),
            Err(error) => return Err(error.into()),
        }
    }
    Err("other writers of the Delta table are faster each time: run the same again".into())
}

fn add(table: &Path, file: &Added) -> Result<Action, String> {
    let modified = fs::metadata(table.join(&file.name)).and_then(|meta| meta.modified());
    Ok(Action::Add(Add {
        path: file.name.clone(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: millis(modified.map_err(|e| format!("cannot look at its file {}: {e}", file.name))?),
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

/// The first version. Does nothing where another writer has made one.
async fn create(table: &Path, schema: &Schema, new: &Commit<'_>, adds: Vec<Action>) -> Result<(), DeltaTableError> {
    let columns = StructType::try_from_arrow(schema)?;
    CreateBuilder::new()
        .with_log_store(builder(table)?.build_storage()?)
        .with_columns(columns.fields().cloned())
        .with_save_mode(SaveMode::Ignore)
        .with_actions(adds)
        // Tried anew, the library would give these columns to another writer's table.
        .with_commit_properties(properties(new).with_max_retries(0))
        .await
        .map(drop)
}

async fn append(table: &DeltaTable, new: &Commit<'_>, adds: Vec<Action>) -> Result<u64, DeltaTableError> {
    let state = table.snapshot()?;
    let (mut actions, mut properties, mut mode) = (adds, properties(new), SaveMode::Append);
    if new.replace {
        actions.extend(state.log_data().into_iter().map(|file| Action::Remove(file.remove_action(true))));
        // Tried anew, the library would leave what others have added in the meantime.
        properties = properties.with_max_retries(0);
        mode = SaveMode::Overwrite;
    }
    let operation = DeltaOperation::Write { mode, partition_by: None, predicate: None };
    let commit = CommitBuilder::from(properties).with_actions(actions);
    let prepared = commit.build(Some(state), table.log_store(), operation).into_prepared_commit_future().await?;
    let committed = prepared.await?;
    let version = committed.version;
    // It is in the log; the checkpoint that may be due is for speed only.
    if let Err(error) = committed.await {
        log::warn!("{}: committed, but the log could not be tidied: {error}", table.table_url());
    }
    Ok(version)
}

fn is_conflict(error: &DeltaTableError) -> bool {
    use TransactionError::{CommitConflict, MaxCommitAttempts};
    matches!(error, DeltaTableError::Transaction { source: CommitConflict(_) | MaxCommitAttempts(_) })
}

/// The library leaves it to the system when a commit is safe on disk.
fn sync(table: &Path, version: u64) -> io::Result<()> {
    let log = table.join(DELTA_LOG);
    match File::open(log.join(format!("{version:020}.json"))) {
        // A checkpoint has taken its place.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        commit => commit?.sync_all()?,
    }
    File::open(&log)?.sync_all()?;
    File::open(table)?.sync_all()
}

/// Says why the files cannot be the table's.
fn check_fits(state: &DeltaTableState, schema: &Schema, new: &Commit<'_>) -> Result<(), Failed> {
    check_readable(state)?;
    let metadata = state.metadata();
    if let [column, ..] = metadata.partition_columns() {
        return Err(format!("the table is partitioned by {column}, and capfilt's is not: give another folder").into());
    }
    let old = Schema::try_from_kernel(&*state.schema())?;
    let mut settings = metadata.configuration().keys().chain(old.fields().iter().flat_map(|f| f.metadata().keys()));
    if let Some(rule) = settings.find(|key| RULES.iter().any(|rule| key.starts_with(*rule))) {
        return Err(format!("the table has the rule {rule}, which capfilt does not check: give another folder").into());
    }
    let known: HashSet<String> = state.log_data().into_iter().map(|file| file.path().into_owned()).collect();
    if let Some(file) = new.files.iter().find(|file| known.contains(&file.name)) {
        return Err(format!("its file {} is in the Delta log already", file.name).into());
    }
    Ok(fits("", old.fields(), schema.fields())?)
}

fn fits(parent: &str, old: &Fields, new: &Fields) -> Result<(), String> {
    if let Some(field) = new.iter().find(|field| old.find(field.name()).is_none()) {
        return Err(format!("the table has no column {parent}{}: leave it out, or give another folder", field.name()));
    }
    old.iter().try_for_each(|field| {
        let name = format!("{parent}{}", field.name());
        match new.find(field.name()) {
            Some((_, new)) => field_fits(&name, field, new),
            None => Err(format!("the table has a column {name}: select it in the recipe, or give another folder")),
        }
    })
}

fn field_fits(name: &str, old: &Field, new: &Field) -> Result<(), String> {
    use DataType::{List, Map, Struct};
    if new.is_nullable() && !old.is_nullable() {
        return Err(format!("column {name} may be NULL, and the table's must not: give another folder"));
    }
    match (old.data_type(), new.data_type()) {
        (Struct(old), Struct(new)) => fits(&format!("{name}."), old, new),
        (List(old), List(new)) | (Map(old, _), Map(new, _)) => field_fits(name, old, new),
        (old, new) if old == new => Ok(()),
        (old, new) => Err(format!("column {name} is {new}, and the table's is {old}: cast it in the recipe")),
    }
}

#[cfg(test)]
mod tests;
