//! Tables by their path or URL: `FROM 'web.parquet'`, and `capfilt sql --table`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use capfilt_udfs::engine::blocking;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::prelude::SessionContext;
use futures::future::ready;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result, message};
use crate::format::contract::{FileFormat, InSql};
use crate::format::register::{ROLES, of_extension};
use crate::halt::{self, Halt};
use crate::lake::contract::TableFormat;
use crate::lake::location::Lake;
use crate::lake::register;
use crate::pair_table::{BOOKKEEPING, is_part, unfinished};
use crate::schema::{Conflict, Merged, plain, with_partitions};
use crate::source::discover::walk;
use crate::source::files::Source;
use crate::sql::hive;
use crate::sql::rows_format::RowsFormat;
use crate::store::location::Location;
use crate::store::url::{MAGIC, is_url, shown};

const NO_MATCH: &str = "nothing matches this pattern (of folders name=value it matches the files' names alone)";
const BELOW: &str = "it is in a folder whose name is not name=value: name that folder, or \
                     SET datafusion.execution.listing_table_ignore_subdirectory = false";

/// Table that a path or URL names; `None` if nothing has that name or it is not a table.
///
/// Supports files and folders of every registered format, local or in a store; local patterns; and
/// Delta tables, at their latest version or, with `@` and a version or time after the name, at an earlier one.
///
/// # Errors
/// Names a table that exists but cannot be read, or a store that does not answer.
pub async fn named_table(ctx: &SessionContext, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let on_disk = url::Url::parse(name).ok().filter(|url| url.scheme() == "file");
    let on_disk = on_disk.and_then(|url| url.to_file_path().ok()).map(|path| path.to_string_lossy().into_owned());
    let name = on_disk.as_deref().unwrap_or(name);
    let asked = name.to_owned();
    let (location, kind) = match halt::aside(move |halt| found(&asked, halt)).await? {
        Found::Nothing => return Ok(None),
        Found::Lake(table, lake, version) => return table.in_sql(ctx, lake, version).await.map(Some),
        Found::Objects { store, url, kind } => {
            ctx.register_object_store(&url, store);
            (url.to_string(), kind)
        }
        Found::Files(kind) => (name.to_owned(), kind),
    };
    let Some(kind) = kind else { return Ok(None) };
    let table = files(&ctx.state(), &location, &kind).await;
    table.map(Some).map_err(|e| {
        let e = match e {
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(ours) => return *ours,
                Err(inner) => DataFusionError::External(inner),
            },
            other => other,
        };
        let mut reason = message(&e);
        // DataFusion's message names a URL, which for a store is an internal alias.
        if reason.starts_with("No files found") {
            reason = if !is_url(name) && name.contains(MAGIC) { NO_MATCH } else { BELOW }.to_owned();
        }
        Error::source(shown(name), reason)
    })
}

/// What a name stands for.
enum Found {
    Nothing,
    /// A lakehouse table, and the version that the name asks for.
    Lake(&'static dyn TableFormat, Lake, Option<String>),
    Objects {
        store: Arc<dyn ObjectStore>,
        url: url::Url,
        kind: Option<Kind>,
    },
    Files(Option<Kind>),
}

/// Looks for `name` on the disk or in its store, whose answer it waits for.
fn found(name: &str, halt: &Halt) -> Result<Found> {
    if let Some(((table, lake), version)) = lake(name)? {
        return Ok(Found::Lake(table, lake, version.map(str::to_owned)));
    }
    if is_url(name) {
        let (store, url, first) = Location::open(name)?.files(&ROLES)?;
        return Ok(Found::Objects { store, url, kind: Kind::of(&first) });
    }
    let path = Path::new(name);
    if path.is_dir() {
        check_finished(path)?;
        return Ok(Found::Files(kind_in(path, halt)?));
    }
    Ok(if path.exists() || name.contains(MAGIC) { Found::Files(Kind::of(name)) } else { Found::Nothing })
}

/// Refuses an unfinished pair table without a file and the working folder of a job; warns if some files of the pair table
/// are still to come.
pub(crate) fn check_finished(path: &Path) -> Result<()> {
    if let Some(job) = path.ancestors().find(|path| path.ends_with(BOOKKEEPING)) {
        let table = job.parent().unwrap_or(path).display();
        return Err(Error::source(
            path,
            format!("it belongs to the job that writes the table {table}: name the table"),
        ));
    }
    let Some(reason) = unfinished(path)? else { return Ok(()) };
    let is_part =
        |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| is_part(&entry.file_name().to_string_lossy()));
    if !fs::read_dir(path).is_ok_and(|mut entries| entries.any(is_part)) {
        return Err(Error::source(path, reason));
    }
    log::warn!("{}: {reason}; what is read is not the whole table", path.display());
    Ok(())
}

type LakeTable = (&'static dyn TableFormat, Lake);

/// Lakehouse table that a name refers to, and the version after its last `@`, if any.
fn lake(name: &str) -> Result<Option<(LakeTable, Option<&str>)>> {
    let whole = register::find(Path::new(name));
    let (before, version) = match name.rsplit_once('@') {
        // In a URL an `@` may precede the host, after a user name.
        Some((before, version)) if !is_url(name) || !version.contains('/') => (before, version),
        _ => return Ok(whole?.map(|lake| (lake, None))),
    };
    match whole {
        Ok(Some(lake)) => Ok(Some((lake, None))),
        // If the `@` is part of the name, what precedes it may not exist or may not be listable.
        whole => match register::find(Path::new(before)) {
            Ok(Some(lake)) => Ok(Some((lake, Some(version)))),
            _ => whole.map(|_| None),
        },
    }
}

/// First text that is not UTF-8 in the local Parquet files that `plan` reads, as [`Source::bad_text`] names it: the
/// Parquet reader of SQL rejects the whole page, without saying where the text is.
pub fn bad_text(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let looked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(table) = source_as_provider(&scan.source)
            && let Some(table) = table.downcast_ref::<ListingTable>()
        {
            let paths =
                table.table_paths().iter().filter_map(|path| url::Url::parse(path.as_str()).ok()?.to_file_path().ok());
            let bad = |path: PathBuf| Source::open(&path).and_then(|source| source.bad_text()).ok().flatten();
            found = blocking(|| paths.filter_map(bad).next());
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    looked.ok().and(found)
}

/// Table over files of one format, with Hive partition columns.
pub(crate) async fn files(
    state: &SessionState,
    location: &str,
    kind: &Kind,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let (format, is_typed) = match kind.format.about().in_sql {
        InSql::DataFusion(format) => {
            let factory = state.get_file_format_factory(format);
            let factory =
                factory.ok_or_else(|| DataFusionError::Plan(format!("this session reads no files of {format}")))?;
            (factory.create(state, &HashMap::new())?, true)
        }
        InSql::Rows | InSql::NamedRows | InSql::None => (Arc::new(RowsFormat::new(kind.format)) as _, false),
    };
    let options = ListingOptions::new(format).with_file_extension(&kind.ending);
    let location = ListingTableUrl::parse(literal(Path::new(location)))?;
    check_listing(state, &options, &location).await?;
    let schema = if is_typed { one_schema(state, &options, slice::from_ref(&location)).await? } else { None };
    let config = ListingTableConfig::new(location).with_listing_options(options);
    let config = config.infer_partitions_from_path(state).await?;
    let config = match schema {
        Some(schema) => config.with_schema(schema),
        None => config.infer_schema(state).await?,
    };
    let folders = config.options.iter().flat_map(|options| &options.table_partition_cols);
    let folders: Vec<_> = folders.map(|(name, _)| (name.clone(), None)).collect();
    if let Some(files) = &config.file_schema {
        with_partitions(files, &folders).map_err(DataFusionError::Plan)?;
    }
    hive::table(ListingTable::try_new(config)?)
}

/// Refuses a folder with files that DataFusion reads and `capfilt run`, pyarrow and Spark skip by name, such as macOS and
/// unfinished writers leave, and one with files that DataFusion leaves out and they read, in folders that are not
/// `name=value`. Warns of empty files.
pub(crate) async fn check_listing(
    state: &dyn Session,
    options: &ListingOptions,
    location: &ListingTableUrl,
) -> Result<(), DataFusionError> {
    if !location.is_collection() {
        return Ok(());
    }
    let store = state.runtime_env().object_store(location)?;
    let listed = location.list_all_files(state, store.as_ref(), &options.file_extension).await?;
    let listed: BTreeSet<_> = listed.map_ok(|file| file.location).try_collect().await?;
    for file in &listed {
        if is_hidden(file.filename()) {
            return Err(DataFusionError::Plan(format!(
                "{file}: a file whose name begins with . or _ is not part of a table: take it out of the folder, or name the others by a \
                 pattern such as '[a-z0-9]*{}'",
                options.file_extension
            )));
        }
    }
    let mut all = store.list(Some(location.prefix()));
    while let Some(file) = all.try_next().await? {
        let Some(mut below) = file.location.prefix_match(location.prefix()) else { continue };
        let is_of_table =
            file.location.as_ref().ends_with(&options.file_extension) && location.contains(&file.location, false);
        if !is_of_table || below.any(|part| is_hidden(Some(part.as_ref()))) {
            continue;
        }
        if file.size == 0 {
            log::warn!("{}: it is empty, and has no rows", shown_of(location, &file));
        } else if !listed.contains(&file.location) {
            return Err(DataFusionError::Plan(format!("{}: {BELOW}", shown_of(location, &file))));
        }
    }
    Ok(())
}

fn is_hidden(name: Option<&str>) -> bool {
    name.is_some_and(|name| name.starts_with(['.', '_']))
}

/// Path or URL of a listed file, for messages.
pub(crate) fn shown_of(location: &ListingTableUrl, file: &ObjectMeta) -> String {
    let on_disk = location.object_store().as_str().starts_with("file:");
    format!("{}{}", if on_disk { "/" } else { "" }, file.location)
}

/// Path in the form that DataFusion takes literally: a URL, if it exists and contains characters of a pattern.
pub fn literal(path: &Path) -> String {
    let text = path.to_string_lossy();
    let url = || if text.contains(MAGIC) && path.exists() { file_url(path, path.is_dir()) } else { None };
    url().unwrap_or_else(|| text.into_owned())
}

/// `file://` URL of a path, in which no character acts as a pattern.
pub(crate) fn file_url(path: &Path, is_folder: bool) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    let url = if is_folder { url::Url::from_directory_path(path) } else { url::Url::from_file_path(path) };
    url.ok().map(String::from)
}

/// Merged schema of all files, as in a job; `None` if there are no files.
pub(crate) async fn one_schema(
    state: &SessionState,
    options: &ListingOptions,
    locations: &[ListingTableUrl],
) -> Result<Option<SchemaRef>, DataFusionError> {
    let Some(first) = locations.first() else { return Ok(None) };
    let store = state.runtime_env().object_store(first)?;
    let mut files: Vec<ObjectMeta> = Vec::new();
    for location in locations {
        let listed = location.list_all_files(state, store.as_ref(), &options.file_extension).await?;
        let mut listed: Vec<ObjectMeta> = listed.try_filter(|file| ready(file.size > 0)).try_collect().await?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        files.append(&mut listed);
    }
    let shown = |file: &ObjectMeta| shown_of(first, file);
    let store = &store;
    let schema = |file: ObjectMeta| async move {
        let schema = options.format.infer_schema(state, store, slice::from_ref(&file)).await;
        // The reader's message names no file.
        schema.map_err(|e| DataFusionError::Plan(format!("{}: {}", shown(&file), message(&e))))
    };
    let at_once = state.config_options().execution.meta_fetch_concurrency.get();
    let schemas = stream::iter(files.clone()).map(schema).boxed().buffered(at_once);
    let schemas: Vec<SchemaRef> = schemas.try_collect().await?;
    let mut merged = Merged::default();
    for (file, schema) in files.iter().zip(&schemas) {
        merged.add(&plain(schema)).map_err(|Conflict { file: other, reason }| {
            DataFusionError::Plan(format!("{}: {reason} {}: convert one of them", shown(file), shown(&files[other])))
        })?;
    }
    Ok((!files.is_empty()).then(|| Arc::new(merged.schema())))
}

/// Kind of files, by extension.
pub(crate) struct Kind {
    format: &'static dyn FileFormat,
    /// Extension as written, with its dot.
    ending: String,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        let (stem, last) = name.rsplit_once('.')?;
        let is_compressed = ["gz", "bz2", "xz", "zst"].contains(&last.to_ascii_lowercase().as_str());
        let written = if is_compressed { stem.rsplit_once('.')?.1 } else { last };
        let format = of_extension(written, true)?;
        match format.about().in_sql {
            InSql::NamedRows => {}
            InSql::DataFusion(_) | InSql::Rows if !is_compressed => {}
            _ => return None,
        }
        let ending = if is_compressed { format!(".{written}.{last}") } else { format!(".{last}") };
        Some(Self { format, ending })
    }
}

/// Kind of a folder's files: that of the first file of a known kind, at any depth.
fn kind_in(folder: &Path, halt: &Halt) -> Result<Option<Kind>> {
    // The first file of each ending, and their number.
    let mut endings: BTreeMap<String, (PathBuf, u64)> = BTreeMap::new();
    let kind = |path: &Path| Kind::of(&path.file_name()?.to_string_lossy());
    walk(folder, halt, &mut |path| {
        let Some(Kind { ending, .. }) = kind(&path) else { return };
        let (first, count) = endings.entry(ending).or_insert_with(|| (path.clone(), 0));
        *first = path.min(std::mem::take(first));
        *count += 1;
    })?;
    let Some((ending, (first, _))) = endings.iter().min_by_key(|(_, (first, _))| first) else { return Ok(None) };
    for (other, (path, count)) in endings.iter().filter(|(other, _)| *other != ending) {
        log::warn!(
            "{}: not read, nor are other files that end in {other} ({count} in all): SQL reads a folder by the ending of its first \
             file, {ending}",
            path.display()
        );
    }
    Ok(kind(first))
}
