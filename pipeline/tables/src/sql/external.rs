//! CREATE EXTERNAL TABLE.

use std::io::{Cursor, Read as _};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{DFSchema, Result, internal_datafusion_err, plan_err};
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use datafusion::object_store::{ObjectMeta, ObjectStoreExt as _};
use futures::TryStreamExt as _;
use futures::future::ready;

use crate::adapt;
use crate::format::contract::{FileFormat, InSql};
use crate::format::register;
use crate::halt;
use crate::lake::contract::TableFormat;
use crate::lake::location::Lake;
use crate::lake::register as lakes;
use crate::sql::hive;
use crate::sql::named::{check_finished, check_listing, literal, one_schema, shown_of};
use crate::sql::rows_format::RowsFormat;
use crate::store::url::is_url;

/// The factory behind CREATE EXTERNAL TABLE, which also reads stores. It refuses a Delta table's folder: only the log
/// says which of the files in it are current.
#[derive(Debug)]
pub(crate) struct ExternalTables(pub(crate) Arc<dyn TableProviderFactory>);

#[async_trait]
impl TableProviderFactory for ExternalTables {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let mut cmd = cmd.clone();
        // DataFusion leaves the quotes of PARTITIONED BY ("a b") in the name.
        for column in &mut cmd.table_partition_cols {
            if let Some(name) = column.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
                *column = name.replace("\"\"", "\"");
            }
        }
        for location in &mut cmd.locations {
            let path = location.strip_prefix("file://").unwrap_or(location);
            let failed = |e| DataFusionError::External(Box::new(e));
            if let Some(table) = lakes::of(&Lake::Disk(path.into())).map_err(failed)? {
                let name = table.name();
                return plan_err!(
                    "{location} is a {name} table, and not all files below it are of its latest version: name it as it is, \
                     FROM '{path}', or register it with --table NAME={path}"
                );
            }
            if is_url(path) {
                let asked = path.to_owned();
                let found = halt::aside(move |_| {
                    let at = Lake::open(Path::new(&asked))?;
                    match (lakes::of(&at)?, &at) {
                        (None, Lake::Store(store)) => store.files(&register::ROLES),
                        (table, _) => {
                            let name = table.map_or("local", TableFormat::name);
                            Err(at.error(format!("it is a {name} table: name it as it is, FROM '..', or with --table")))
                        }
                    }
                });
                let (store, url, _) = found.await.map_err(failed)?;
                state.runtime_env().register_object_store(&url, store);
                *location = url.to_string();
            } else {
                check_finished(Path::new(path)).map_err(failed)?;
                *location = literal(Path::new(path));
            }
        }
        let is_inferred = cmd.schema.fields().is_empty();
        let of_rows = as_named(&cmd).filter(|_| is_inferred && state.config_options().catalog.has_header);
        let by_rows = match of_rows {
            Some(format) => common(state, &cmd, format).await?,
            None => None,
        };
        let table = match by_rows {
            Some(table) => table,
            None => match self.0.create(state, &cmd).await {
                // DataFusion accepts only files with the same types; a named table merges their types.
                Err(error) if is_inferred && let Some(format) = typed(&cmd.file_type) => {
                    common(state, &cmd, format).await?.ok_or(error)?
                }
                table => table?,
            },
        };
        let Some(listed) = table.downcast_ref::<ListingTable>() else { return Ok(table) };
        for location in listed.table_paths() {
            check_listing(state, listed.options(), location).await?;
        }
        check_headers(state, listed, &cmd.schema).await?;
        if let Some(format) = typed(&cmd.file_type).filter(|_| !cmd.schema.fields().is_empty()) {
            check_types(state, &cmd, format).await?;
        }
        hive::table(listed.clone())
    }
}

/// Format whose files declare their types, by its name after `STORED AS`.
fn typed(name: &str) -> Option<&'static dyn FileFormat> {
    let is_it = |known: InSql| match known {
        InSql::DataFusion(format) => format.eq_ignore_ascii_case(name),
        InSql::Rows | InSql::NamedRows | InSql::None => false,
    };
    register::find(|format| is_it(format.about().in_sql))
}

/// Refuses declared types that would cut values of the files, such as INT over fractions.
async fn check_types(state: &dyn Session, cmd: &CreateExternalTable, format: &'static dyn FileFormat) -> Result<()> {
    let Some((state, options, locations)) = located(state, cmd, format).await? else { return Ok(()) };
    let Some(schema) = one_schema(state, &options, &locations).await? else { return Ok(()) };
    for declared in cmd.schema.fields() {
        let (name, wanted) = (declared.name(), declared.data_type());
        let Some((_, field)) = schema.column_with_name(name) else {
            if !cmd.table_partition_cols.contains(name) {
                log::warn!("{}: no file has the declared column {name}, which is NULL", cmd.name);
            }
            continue;
        };
        let has = field.data_type();
        let holds_all = match adapt::common(has, wanted) {
            // A whole number that does not fit is refused as it is read.
            _ if has.is_integer() && wanted.is_integer() => true,
            // Some whole numbers would be rounded.
            Some(DataType::Float64) if has.is_integer() => has.primitive_width() < Some(8),
            Some(both) => same(&both, wanted),
            None => wanted.is_string() && !has.is_nested() && !adapt::is_binary(has),
        };
        if !holds_all {
            return plan_err!(
                "{name} is {has} in the files, and {wanted} would cut its values: declare it as it is, or leave the columns out and CAST in \
                 the query"
            );
        }
    }
    Ok(())
}

/// Whether two types differ in the encoding of texts or bytes alone.
fn same(a: &DataType, b: &DataType) -> bool {
    a == b || (a.is_string() && b.is_string()) || (adapt::is_binary(a) && adapt::is_binary(b))
}

/// Refuses CSV files whose headers differ, or have the `declared` columns in another order: DataFusion reads them by
/// position.
async fn check_headers(state: &dyn Session, table: &ListingTable, declared: &DFSchema) -> Result<()> {
    /// Most bytes of a file in which its header is looked for.
    const HEADER: u64 = 64 << 10;
    let options = table.options();
    let Some(csv) = options.format.downcast_ref::<CsvFormat>() else { return Ok(()) };
    if !csv.has_header().unwrap_or(state.config_options().catalog.has_header) {
        return Ok(());
    }
    let compression = options.format.compression_type().unwrap_or(FileCompressionType::UNCOMPRESSED);
    let mut known: Option<(String, String)> = None;
    for location in table.table_paths() {
        let store = state.runtime_env().object_store(location)?;
        let files = location.list_all_files(state, store.as_ref(), &options.file_extension).await?;
        let mut files: Vec<ObjectMeta> = files.try_filter(|file| ready(file.size > 0)).try_collect().await?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        for file in files {
            let begin = store.get_range(&file.location, 0..file.size.min(HEADER)).await?;
            let mut text = Vec::new();
            // What is cut off in the middle of a compressed block is an error after the header.
            let _ = compression.convert_read(Cursor::new(begin))?.take(HEADER).read_to_end(&mut text);
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
            let line = text.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
            let (header, shown) = (String::from_utf8_lossy(line).replace('"', ""), shown_of(location, &file));
            let names = header.split(csv.delimiter() as char).map(str::trim);
            let elsewhere = |(at, name): (usize, &str)| {
                declared.fields().get(at).is_some_and(|field| field.name() != name)
                    && declared.fields().iter().any(|field| field.name() == name)
            };
            if let Some(name) = names.clone().zip(0..).map(|(name, at)| (at, name)).find(|name| elsewhere(*name)) {
                return plan_err!(
                    "{shown}: its column {} is not where the statement declares it, and STORED AS CSV reads columns by position: declare \
                     them in the order of the file",
                    name.1
                );
            }
            match &known {
                None => known = Some((header, shown)),
                Some((other, _)) if *other == header => {}
                Some((_, first)) => {
                    return plan_err!(
                        "{shown}: its columns are not those of {first} in the same order, and STORED AS CSV reads them by position: name \
                         the folder in the query, FROM '..', where columns are found by their names"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Schema on which files agree that only suggest their types.
async fn all_at_once(
    state: &SessionState,
    options: &ListingOptions,
    locations: &[ListingTableUrl],
) -> Result<Option<SchemaRef>> {
    let Some(first) = locations.first() else { return Ok(None) };
    let store = state.runtime_env().object_store(first)?;
    let mut files = Vec::new();
    for location in locations {
        let listed = location.list_all_files(state, store.as_ref(), &options.file_extension).await?;
        files.append(&mut listed.try_filter(|file| ready(file.size > 0)).try_collect().await?);
    }
    options.format.infer_schema(state, &store, &files).await.map(Some)
}

/// Options and locations of the table that a statement declares; `None` for locations in several stores.
async fn located<'a>(
    state: &'a dyn Session,
    cmd: &CreateExternalTable,
    format: &'static dyn FileFormat,
) -> Result<Option<(&'a SessionState, ListingOptions, Vec<ListingTableUrl>)>> {
    let state: &'a SessionState =
        state.as_any().downcast_ref().ok_or_else(|| internal_datafusion_err!("no SessionState"))?;
    let factory = state.get_file_format_factory(&cmd.file_type.to_ascii_lowercase());
    let factory = factory.ok_or_else(|| internal_datafusion_err!("no {}", cmd.file_type))?;
    // The type that DataFusion gives such columns.
    let text = DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8));
    let partitions = cmd.table_partition_cols.iter().map(|column| (column.clone(), text.clone())).collect();
    // As DataFusion does: locations may be files of any name, and folders are those of the format's.
    let extension = match cmd.locations.as_slice() {
        [folder] if ListingTableUrl::parse(folder)?.is_collection() => {
            format!(".{}", cmd.file_type.to_ascii_lowercase())
        }
        _ => String::new(),
    };
    let written = factory.create(state, &cmd.options)?;
    let files = match format.about().in_sql {
        InSql::NamedRows => Arc::new(RowsFormat::new(format).written_by(written)),
        _ => written,
    };
    let options = ListingOptions::new(files)
        .with_file_extension(extension)
        .with_file_sort_order(cmd.order_exprs.clone())
        .with_table_partition_cols(partitions);
    let mut locations = Vec::with_capacity(cmd.locations.len());
    for location in &cmd.locations {
        let location = ListingTableUrl::parse(location)?;
        options.validate_partitions(state, &location).await?;
        let store = state.runtime_env().object_store(&location)?;
        let mut files = location.list_all_files(state, store.as_ref(), &options.file_extension).await?;
        if locations.first().is_some_and(|first: &ListingTableUrl| first.object_store() != location.object_store()) {
            return Ok(None);
        }
        if files.try_next().await?.is_none() {
            return plan_err!("{location}: there are no {} files", format.about().name);
        }
        drop(files);
        locations.push(location);
    }
    Ok(Some((state, options, locations)))
}

/// Format that is read as if a query named its files, if the statement says nothing of how to read them.
fn as_named(cmd: &CreateExternalTable) -> Option<&'static dyn FileFormat> {
    let format =
        register::of_extension(&cmd.file_type, true).filter(|format| format.about().in_sql == InSql::NamedRows);
    format.filter(|_| cmd.options.is_empty())
}

/// Table over files whose types differ, with the types that a named table of them would have, and with the order
/// and partition columns of the statement; `None` for locations in several stores, which DataFusion refuses.
async fn common(
    state: &dyn Session,
    cmd: &CreateExternalTable,
    format: &'static dyn FileFormat,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((state, options, locations)) = located(state, cmd, format).await? else { return Ok(None) };
    let schema = match format.about().in_sql {
        InSql::NamedRows => all_at_once(state, &options, &locations).await?,
        _ => one_schema(state, &options, &locations).await?,
    };
    let Some(schema) = schema else { return Ok(None) };
    let is_known = |name: &String| schema.column_with_name(name).is_some() || cmd.table_partition_cols.contains(name);
    let ordered = cmd.order_exprs.iter().flatten().flat_map(|order| order.expr.column_refs());
    if let Some(unknown) = ordered.map(|column| &column.name).find(|name| !is_known(name)) {
        return plan_err!("WITH ORDER: the files have no column {unknown}");
    }
    let mut config = ListingTableConfig::new_with_multi_paths(locations).with_listing_options(options);
    if cmd.table_partition_cols.is_empty() {
        config = config.infer_partitions_from_path(state).await?;
    }
    let table = ListingTable::try_new(config.with_schema(schema))?
        .with_definition(cmd.definition.clone())
        .with_constraints(cmd.constraints.clone())
        .with_column_defaults(cmd.column_defaults.clone());
    Ok(Some(Arc::new(table)))
}
