//! Snapshots of Delta tables: files and rows at a version, local or in a store.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use deltalake_core::kernel::engine::arrow_conversion::TryFromKernel as _;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::halt;
use crate::lake::contract::{LakeFile, Snapshot, TableFormat};
use crate::lake::delta::open::{Failed, apart};
use crate::lake::delta::provider::LakeTable;
use crate::lake::delta::schema::check_readable;
use crate::lake::location::Lake;
use crate::layout::DELTA_LOG;
use crate::store::object::Store;

/// Concurrent reads of commit times.
const AT_ONCE: usize = 8;
/// Bytes first read of a commit to get its time; more if its first line is longer.
const BEGINNING: u64 = 4 << 10;

/// Selection of a table's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Version(u64),
    /// Last version at or before a time: RFC 3339, or `YYYY-MM-DD HH:MM:SS` in UTC.
    Time(String),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(version) => Ok(Self::Version(version)),
            Err(_) => parse_time(text).map(|_| Self::Time(text.to_owned())),
        }
    }
}

/// Parses a time, to milliseconds since 1970.
fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = |_| format!("{text:?} is neither a version nor a time: give 12 or \"2025-01-31 12:00:00\" (UTC)");
    string_to_timestamp_nanos(text).map(|nanos| nanos.div_euclid(1_000_000)).map_err(wrong)
}

/// Delta tables.
#[derive(Debug)]
pub(crate) struct Delta;

#[async_trait]
impl TableFormat for Delta {
    fn name(&self) -> &'static str {
        "Delta"
    }

    fn is_here(&self, at: &Lake) -> Result<bool> {
        at.has_folder(DELTA_LOG)
    }

    fn snapshot(&self, lake: &Lake, version: Option<&str>) -> Result<Snapshot> {
        let at = parsed(lake, version)?;
        apart(|| read(lake, at.as_ref())).and_then(|read| read.map_err(|e| failed(lake, &*e)))
    }

    async fn in_sql(&self, ctx: &SessionContext, at: Lake, version: Option<String>) -> Result<Arc<dyn TableProvider>> {
        let (wanted, lake) = (parsed(&at, version.as_deref())?, at);
        let name = match &lake {
            Lake::Disk(path) => path.display().to_string(),
            Lake::Store(location) => location.root().display().to_string(),
        };
        let table = halt::aside(move |_| {
            apart(|| open(&lake, wanted.as_ref())).and_then(|table| table.map_err(|e| failed(&lake, &*e)))
        });
        let table = table.await?.table_provider().with_session(Arc::new(ctx.state())).await?;
        Ok(Arc::new(LakeTable { table, name }))
    }
}

fn parsed(lake: &Lake, version: Option<&str>) -> Result<Option<At>> {
    version.map(str::parse).transpose().map_err(|e: String| lake.error(e))
}

fn failed(lake: &Lake, error: &(dyn std::error::Error + Send + Sync)) -> Error {
    match lake {
        Lake::Disk(_) => lake.error(error),
        Lake::Store(location) => lake.error(reason(&location.store, error.to_string())),
    }
}

/// Reason for the library's `error`: the store's own error if the message contains it, else the message.
fn reason(store: &Store, error: String) -> String {
    let problem = store.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The library may have recovered from the store's error and failed later.
    problem.map(|problem| problem.to_string()).filter(|problem| error.contains(problem)).unwrap_or(error)
}

/// Latest version; `None` if there is none yet.
async fn newest(lake: &Lake) -> Result<Option<DeltaTable>, Failed> {
    let location = match lake {
        Lake::Disk(path) => return Ok(crate::lake::delta::open::load(path).await?),
        Lake::Store(location) => location,
    };
    let (store, url) = location.seen_as("", location.key("")?, None)?;
    let below = PrefixStore::new(Arc::clone(&store), url.path());
    let mut table = DeltaTable::new(default_logstore(Arc::new(below), store, &url, &StorageConfig::default()));
    match table.load().await {
        Err(DeltaTableError::NotATable(_)) => Ok(None),
        loaded => Ok(loaded.map(|()| Some(table))?),
    }
}

/// Opens the table at `at`, or at its latest version.
async fn open(lake: &Lake, at: Option<&At>) -> Result<DeltaTable, Failed> {
    let mut table = newest(lake).await?.ok_or("no Delta table: its _delta_log holds no version")?;
    let latest = table.version().unwrap_or_default();
    let version = match at {
        None => return Ok(table),
        Some(At::Version(version)) => *version,
        Some(At::Time(time)) => version_at(&table, time).await?,
    };
    if version > latest {
        return Err(format!("there is no version {version} of the Delta table: the latest is {latest}").into());
    }
    let lost =
        |e: DeltaTableError| format!("version {version} can no longer be read, give a later one up to {latest}: {e}");
    table.load_version(version).await.map_err(lost)?;
    Ok(table)
}

async fn read(lake: &Lake, at: Option<&At>) -> Result<Snapshot, Failed> {
    let table = open(lake, at).await?;
    let state = table.snapshot()?;
    check_readable(state)?;
    let schema = Arc::new(Schema::try_from_kernel(&*state.schema())?);
    let partition_columns = state.metadata().partition_columns().to_vec();
    let has_vectors = state.log_data().into_iter().any(|file| file.deletion_vector_descriptor().is_some());
    let mut vectors = if has_vectors { deleted_rows(&table).await? } else { HashMap::new() };
    let mut files = Vec::new();
    for file in state.log_data() {
        let name = file.path().into_owned();
        if name.contains(":/") {
            return Err(format!("its file {name} is not in its folder: make a deep clone of the table").into());
        }
        let deleted = vectors.remove(&name);
        if deleted.is_none() && file.deletion_vector_descriptor().is_some() {
            return Err(format!("the deletion vector of its file {name} cannot be found").into());
        }
        let values = file.partition_values_map();
        // By the protocol an empty text is NULL too.
        let value = |column: &String| values.get(column).cloned().flatten().filter(|value| !value.is_empty());
        let partitions = partition_columns.iter().map(|column| (column.clone(), value(column))).collect();
        files.push(LakeFile { name, partitions, deleted: deleted.unwrap_or_default() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Snapshot { version: state.version(), schema, files })
}

/// Last version committed at or before `time`.
async fn version_at(table: &DeltaTable, time: &str) -> Result<u64, Failed> {
    let wanted = parse_time(time)?;
    let store = table.object_store();
    let features = table.snapshot()?.protocol().writer_features().unwrap_or_default();
    let has_commit_times = features.iter().any(|feature| feature.to_string() == "inCommitTimestamp");
    let listed = store.list_with_delimiter(Some(&Key::from(DELTA_LOG))).await?;
    let commits = listed.objects.into_iter().filter_map(|meta| {
        let number = meta.location.filename()?.strip_suffix(".json").filter(|number| number.len() == 20)?;
        Some((number.parse::<u64>().ok()?, meta))
    });
    let dated = |(version, meta): (u64, ObjectMeta)| {
        let store = Arc::clone(&store);
        async move {
            let own = if has_commit_times { commit_time(store.as_ref(), &meta).await? } else { None };
            Ok::<_, Failed>((version, own.unwrap_or_else(|| meta.last_modified.timestamp_millis())))
        }
    };
    let mut commits: Vec<(u64, i64)> = stream::iter(commits).map(dated).buffered(AT_ONCE).try_collect().await?;
    commits.sort_unstable();
    // Leaves out commits that others have added since the table was loaded.
    commits.retain(|(version, _)| table.version().is_none_or(|latest| *version <= latest));
    let (mut found, mut last) = (None, i64::MIN);
    for (version, at) in &commits {
        // Clocks may go back, but a later version must not have an earlier time.
        last = last.saturating_add(1).max(*at);
        if last <= wanted {
            found = Some(*version);
        }
    }
    let first = commits.first().map_or(0, |(version, _)| *version);
    found.ok_or_else(|| format!("version {first}, the oldest in its log, is younger than {time}").into())
}

/// In-commit timestamp, milliseconds. Only tables with that feature have it; for others the file's time counts.
async fn commit_time(store: &dyn ObjectStore, commit: &ObjectMeta) -> Result<Option<i64>, Failed> {
    let mut end = BEGINNING.min(commit.size);
    while end > 0 {
        let bytes = store.get_range(&commit.location, 0..end).await?;
        let line = bytes.iter().position(|byte| *byte == b'\n');
        if line.is_none() && end < commit.size {
            end = (end * 4).min(commit.size);
            continue;
        }
        let first: Value = serde_json::from_slice(&bytes[..line.unwrap_or(bytes.len())]).unwrap_or_default();
        return Ok(first["commitInfo"]["inCommitTimestamp"].as_i64());
    }
    Ok(None)
}

/// The rows that deletion vectors remove, by file.
async fn deleted_rows(table: &DeltaTable) -> Result<HashMap<String, Vec<u64>>, Failed> {
    let session = SessionContext::new().state();
    let mut found = HashMap::new();
    for vector in table.table_provider().build().await?.deletion_vectors(&session).await? {
        let name = vector.filepath.strip_prefix(table.table_url().as_str());
        let name = name.ok_or_else(|| format!("its file {} is not in its folder", vector.filepath))?;
        let rows = (0..).zip(&vector.keep_mask).filter(|(_, kept)| !**kept).map(|(row, _)| row).collect();
        found.insert(percent_decode_str(name).decode_utf8_lossy().into_owned(), rows);
    }
    Ok(found)
}
