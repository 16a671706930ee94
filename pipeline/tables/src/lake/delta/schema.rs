//! Conversion of schemas to Delta's types, and checks whether files fit an existing table.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::{TryFromArrow as _, TryFromKernel as _};
use deltalake_core::table::state::DeltaTableState;

use crate::error::Result;
use crate::lake::delta::actions::Commit;
use crate::lake::delta::open::Failed;

/// Prefixes of the settings that constrain a table's rows.
const RULES: [&str; 4] = ["delta.constraints.", "delta.generationExpression", "delta.identity.", "delta.invariants"];

/// Schema that readers of a Delta table see if its files have `schema`.
pub(crate) fn delta_schema(schema: &Schema) -> Result<Schema, Failed> {
    let fields = schema.fields().iter().map(|field| delta_field(field.name(), field)).collect::<Result<Fields, _>>()?;
    Ok(Schema::try_from_kernel(&StructType::try_from_arrow(&Schema::new(fields))?)?)
}

/// Field with Delta's type, whatever the encoding of its values. The library alone would also accept types that Delta
/// lacks, such as UInt64 as Int64.
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
        // Files store an instant the same way, whatever its time zone.
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
            // The library would not declare a timestamp without zone inside a map in the log, and would then fail to
            // read it.
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

/// Fails if the files cannot be added to the table.
pub(crate) fn check_fits(state: &DeltaTableState, schema: &Schema, new: &Commit<'_>) -> Result<(), Failed> {
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

/// Reader features that are supported.
pub(crate) const READ: [&str; 5] =
    ["columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];

/// Fails if readers would see something else than the files hold.
pub(crate) fn check_readable(state: &DeltaTableState) -> Result<(), String> {
    let mode = state.metadata().configuration().get("delta.columnMapping.mode");
    if let Some(mode) = mode.filter(|mode| *mode != "none") {
        return Err(format!("its columns are mapped (delta.columnMapping.mode = {mode}): write it anew without"));
    }
    let mut features = state.protocol().reader_features().unwrap_or_default().iter().map(ToString::to_string);
    match features.find(|feature| !READ.contains(&feature.as_str())) {
        Some(feature) => Err(format!("it has the Delta feature {feature}, which capfilt lacks: write it anew without")),
        None => Ok(()),
    }
}
