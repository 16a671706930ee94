//! CREATE EXTERNAL TABLE.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Result, internal_datafusion_err, plan_err};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use futures::TryStreamExt as _;

use crate::format::contract::{FileFormat, InSql};
use crate::format::register;
use crate::halt;
use crate::lake::contract::TableFormat;
use crate::lake::location::Lake;
use crate::lake::register as lakes;
use crate::sql::hive;
use crate::sql::named::{check_finished, literal, one_schema};
use crate::store::url::is_url;

/// The factory behind CREATE EXTERNAL TABLE, which also reads stores. It refuses a Delta table's folder: only the log
/// says which of the files in it are current.
#[derive(Debug)]
pub(crate) struct ExternalTables(pub(crate) Arc<dyn TableProviderFactory>);

#[async_trait]
impl TableProviderFactory for ExternalTables {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let mut cmd = cmd.clone();
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
        let table = match self.0.create(state, &cmd).await {
            // DataFusion accepts only files with the same types; a named table merges their types.
            Err(error)
                if cmd.schema.fields().is_empty()
                    && let Some(format) = typed(&cmd.file_type) =>
            {
                common(state, &cmd, format).await?.ok_or(error)?
            }
            table => table?,
        };
        match table.downcast_ref::<ListingTable>() {
            Some(listed) => hive::table(listed.clone()),
            None => Ok(table),
        }
    }
}

/// Format whose files declare their types, by its name after `STORED AS`.
fn typed(name: &str) -> Option<&'static dyn FileFormat> {
    let is_it = |known: InSql| match known {
        InSql::DataFusion { format, is_typed, .. } => is_typed && format.eq_ignore_ascii_case(name),
        InSql::Rows | InSql::None => false,
    };
    register::find(|format| is_it(format.in_sql()))
}

/// Table over files whose types differ, with the types that a named table of them would have, and with the order
/// and partition columns of the statement; `None` for locations in several stores, which DataFusion refuses.
async fn common(
    state: &dyn Session,
    cmd: &CreateExternalTable,
    format: &dyn FileFormat,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let state: &SessionState =
        state.as_any().downcast_ref().ok_or_else(|| internal_datafusion_err!("no SessionState"))?;
    let factory = state.get_file_format_factory(&cmd.file_type.to_ascii_lowercase());
    let factory = factory.ok_or_else(|| internal_datafusion_err!("no {}", cmd.file_type))?;
    // The type that DataFusion gives such columns.
    let text = DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8));
    let partitions = cmd.table_partition_cols.iter().map(|column| (column.clone(), text.clone())).collect();
    // As DataFusion does: several locations may be files of any name.
    let extension = match cmd.locations.as_slice() {
        [_] => format!(".{}", format.extensions().first().unwrap_or(&"")),
        _ => String::new(),
    };
    let options = ListingOptions::new(factory.create(state, &cmd.options)?)
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
            return plan_err!("{location}: there are no {} files", format.name());
        }
        drop(files);
        locations.push(location);
    }
    let schema = one_schema(state, &options, &locations).await?;
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
