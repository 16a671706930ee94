use std::fs::File;
use std::path::Path;

use datafusion::arrow::array::{ArrayRef, BinaryArray, Float32Array, Float64Array, Int64Array, StringArray};
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::arrow::encode_arrow_schema;
use datafusion::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};
use datafusion::prelude::{ParquetReadOptions, SessionConfig};

use super::*;

fn write(path: &Path, batch: &RecordBatch, options: ArrowWriterOptions) {
    let mut writer = ArrowWriter::try_new_with_options(File::create(path).unwrap(), batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

async fn ask(ctx: &SessionContext, sql: &str) -> Result<String> {
    Ok(pretty_format_batches(&ctx.sql(sql).await?.collect().await?)?.to_string())
}

/// Row groups and pages whose minima and maxima hide the NaN in them.
#[tokio::test]
async fn no_nan_is_lost() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.parquet");
    let nan = f64::NAN;
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(Int64Array::from_iter_values(1..=8))),
        ("same", Arc::new(Float64Array::from(vec![0.5, nan, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]))),
        ("most", Arc::new(Float32Array::from(vec![0.1, 0.2, f32::NAN, 0.3, -0.0, 0.0, 0.7, f32::INFINITY]))),
        ("all", Arc::new(Float64Array::from(vec![nan; 8]))),
        ("zero", Arc::new(Float64Array::from(vec![0.0, -0.0, 0.0, 0.0, -nan, 0.0, 0.0, 0.0]))),
        ("n", Arc::new(Int64Array::from(vec![7; 8]))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).set_data_page_row_count_limit(2);
    let properties = properties.set_write_batch_size(1).build();
    write(&path, &batch, ArrowWriterOptions::new().with_properties(properties));

    for pushdown in [false, true] {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.pushdown_filters = pushdown;
        let ctx = crate::session(config)?;
        ctx.register_parquet("file", path.to_str().unwrap(), ParquetReadOptions::new()).await?;
        ctx.register_table("memory", Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch.clone()]])?))?;
        let mut asked = vec![
            "SELECT * FROM t".to_owned(),
            "SELECT avg(same), max(same), min(same), max(most), min(zero), max(\"all\") FROM t".to_owned(),
        ];
        for column in ["same", "most", "\"all\"", "zero"] {
            for filter in
                ["isnan(c)", "c > 0.9", "c < 0.1", "c = 0", "c <> 0.5", "NOT c <= 0.5", "c BETWEEN 0.4 AND 0.6"]
            {
                asked.push(format!("SELECT id FROM t WHERE {} ORDER BY id", filter.replace('c', column)));
            }
            asked.push(format!("SELECT id, {column} FROM t ORDER BY {column} DESC, id LIMIT 2"));
            asked.push(format!("SELECT id, {column} FROM t ORDER BY {column}, id LIMIT 2"));
        }
        for sql in asked {
            let [file, memory] = ["file", "memory"].map(|table| sql.replace("FROM t", &format!("FROM {table} AS t")));
            assert_eq!(ask(&ctx, &file).await?, ask(&ctx, &memory).await?, "{sql}");
        }
        // Statistics of other columns are still used.
        let plan = ask(&ctx, "EXPLAIN SELECT max(n), count(*) FROM file").await?;
        assert!(!plan.contains("DataSourceExec"), "{plan}");
    }
    Ok(())
}

/// A byte column with a row of invalid UTF-8, in any way declared as text, is an error and not a text.
#[tokio::test]
async fn bytes_become_texts_only_if_they_are() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let texts = |second: &'static [u8]| -> ArrayRef {
        Arc::new(BinaryArray::from_vec(vec![&b"a caf\xc3\xa9 at night"[..], second]))
    };
    let plain = || ArrowWriterOptions::new().with_skip_arrow_metadata(true);
    let bad: &[u8] = b"caf\xe9, that is Latin-1 \xff\xfe";
    for (name, second) in [("good", &b"fine"[..]), ("bad", bad)] {
        let batch = RecordBatch::try_from_iter([("text", texts(second))])?;
        write(&place(&format!("{name}.parquet")), &batch, plain());
        // DuckDB's JSON.
        let json = Type::primitive_type_builder("text", Physical::BYTE_ARRAY)
            .with_logical_type(Some(LogicalType::Json))
            .with_converted_type(ConvertedType::JSON)
            .with_repetition(Repetition::REQUIRED)
            .build()?;
        let json = Type::group_type_builder("schema").with_fields(vec![Arc::new(json)]).build()?;
        let json = plain().with_parquet_schema(SchemaDescriptor::new(Arc::new(json)));
        write(&place(&format!("{name}-json.parquet")), &batch, json);
        // An Arrow schema that contradicts the Parquet schema, at top level and in a struct.
        let says = |schema: &Schema| {
            let says = KeyValue::new("ARROW:schema".to_owned(), encode_arrow_schema(schema));
            plain().with_properties(WriterProperties::builder().set_key_value_metadata(Some(vec![says])).build())
        };
        let text = Arc::new(Field::new("text", DataType::Utf8, false));
        write(&place(&format!("{name}-arrow.parquet")), &batch, says(&Schema::new(vec![Arc::clone(&text)])));
        let outer = Field::new_struct("s", vec![text], false);
        let inner: ArrayRef = Arc::new(datafusion::arrow::array::StructArray::from(batch));
        let nested = RecordBatch::try_from_iter([("s", inner)])?;
        write(&place(&format!("{name}-nested.parquet")), &nested, says(&Schema::new(vec![outer])));
    }
    let ctx = crate::session(SessionConfig::new())?;
    ctx.sql("SET datafusion.execution.parquet.binary_as_string = true").await?;
    for name in ["good", "bad", "good-json", "bad-json", "good-arrow", "bad-arrow", "good-nested", "bad-nested"] {
        let path = place(&format!("{name}.parquet"));
        ctx.register_parquet(name, path.to_str().unwrap(), ParquetReadOptions::new()).await?;
    }
    ctx.sql("SET datafusion.execution.parquet.binary_as_string = false").await?;
    for name in ["good", "bad"] {
        let path = place(&format!("{name}.parquet"));
        let create = format!(
            "CREATE EXTERNAL TABLE \"{name}-declared\" (text VARCHAR) STORED AS PARQUET LOCATION '{}'",
            path.display()
        );
        ctx.sql(&create).await?;
        ctx.register_parquet(format!("{name}-bytes"), path.to_str().unwrap(), ParquetReadOptions::new()).await?;
    }
    for how in ["", "-json", "-arrow", "-declared"] {
        let select = |name: &str| format!("SELECT upper(text) AS text FROM \"{name}{how}\"");
        let good = ask(&ctx, &select("good")).await?;
        assert!(good.contains("A CAFÉ AT NIGHT") && good.contains("FINE"), "{how}: {good}");
        let error = ask(&ctx, &select("bad")).await.unwrap_err().to_string().to_lowercase();
        assert!(error.contains("utf-8") || error.contains("utf8"), "{how}: {error}");
    }
    for name in ["good", "bad"] {
        let error = ask(&ctx, &format!("SELECT s['text'] FROM \"{name}-nested\"")).await.unwrap_err().to_string();
        assert!(error.contains("nested.parquet: ") && error.contains("takes bytes for text"), "{error}");
    }
    // The workaround suggested to users.
    for cast in ["CAST(text AS VARCHAR)", "arrow_cast(text, 'Utf8')"] {
        assert!(ask(&ctx, &format!("SELECT {cast} AS text FROM \"good-bytes\"")).await?.contains("a café at night"));
        let error = ask(&ctx, &format!("SELECT {cast} AS text FROM \"bad-bytes\"")).await.unwrap_err().to_string();
        assert!(error.to_lowercase().contains("utf-8") || error.to_lowercase().contains("utf8"), "{error}");
    }
    let kept = StringArray::from(vec!["x"]);
    write(&place("text.parquet"), &RecordBatch::try_from_iter([("text", Arc::new(kept) as ArrayRef)])?, plain());
    ctx.register_parquet("text", place("text.parquet").to_str().unwrap(), ParquetReadOptions::new()).await?;
    assert!(ask(&ctx, "SELECT text FROM text WHERE text = 'x'").await?.contains("| x"));
    Ok(())
}

/// Rows without a score are not the best, unless the query asks for that order.
#[tokio::test]
async fn null_comes_last() -> Result<()> {
    let ctx = crate::session(SessionConfig::new())?;
    let best = "SELECT n FROM (VALUES (1), (NULL), (3)) AS v(n) ORDER BY n DESC LIMIT 1";
    assert!(ask(&ctx, best).await?.contains("| 3 |"));
    let first = "SELECT n FROM (SELECT n, rank() OVER (ORDER BY n DESC) AS r FROM (VALUES (1), (NULL), (3)) AS v(n)) WHERE r = 1";
    assert!(ask(&ctx, first).await?.contains("| 3 |"));
    let mut config = SessionConfig::new();
    "nulls_first".clone_into(&mut config.options_mut().sql_parser.default_null_ordering);
    assert!(!ask(&crate::session(config)?, best).await?.contains("| 3 |"));
    Ok(())
}
