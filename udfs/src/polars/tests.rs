//! Types, pointers and lifetimes of columns that cross between Polars and Arrow, and the functions on frames.

use std::path::Path;
use std::ptr::NonNull;

use datafusion::arrow::array::{
    AsArray, FixedSizeListArray, Float16Array, Float32Array, Int64Array, ListArray, StringArray, TimestampSecondArray,
};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::{ParquetReadOptions, SessionConfig};
use half::f16;
use polars_core::df;
use polars_core::prelude::{Categories, IntoSeries, NamedFrom, PolarsResult, StructChunked, TimeUnit as PolarsUnit};
use polars_core::utils::arrow::array::PrimitiveArray;

use super::*;
use crate::{BATCH_SIZE, session};

type Outcome = std::result::Result<(), Box<dyn Error>>;

const LONG: &str = "a text that no view holds whole";

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    path.to_str().unwrap().to_string()
}

async fn sql(ctx: &SessionContext, query: &str) -> Result<DataFrame> {
    collect(ctx.sql(query).await?).await
}

async fn error(ctx: &SessionContext, query: &str) -> String {
    match sql(ctx, query).await {
        Err(e) => e.to_string(),
        Ok(frame) => panic!("{query} gave {frame:?}"),
    }
}

/// Three rows of every common type, with NULLs.
fn everything() -> PolarsResult<DataFrame> {
    let whole = Series::new("int64".into(), [Some(1i64), None, Some(-3)]);
    let text = Series::new("string".into(), [Some("short"), None, Some(LONG)]);
    let floats = |values: [f32; 2]| Some(Series::new("".into(), values));
    let list = Series::new("list".into(), [floats([1.0, 2.0]), None, floats([-0.5, f32::MAX])]);
    let point = StructChunked::from_series("struct".into(), 3, [whole.clone(), list.clone(), text.clone()].iter())?;
    let mut columns = vec![
        Series::new("bool".into(), [Some(true), None, Some(false)]),
        Series::new("int8".into(), [Some(-1i8), None, Some(1)]),
        Series::new("uint8".into(), [0u8, 1, 255]),
        Series::new("int16".into(), [Some(-1i16), None, Some(1)]),
        Series::new("uint16".into(), [0u16, 1, 65535]),
        Series::new("int32".into(), [Some(-1i32), None, Some(1)]),
        Series::new("uint32".into(), [0u32, 1, u32::MAX]),
        Series::new("uint64".into(), [0u64, 1, u64::MAX]),
        Series::new("float32".into(), [Some(0.5f32), None, Some(f32::MAX)]),
        Series::new("float64".into(), [Some(0.5f64), None, Some(f64::MIN)]),
        Series::new("binary".into(), [Some(b"".as_slice()), None, Some(LONG.as_bytes())]),
        Series::new_null("null".into(), 3),
        list.cast(&PolarsType::Array(Box::new(PolarsType::Float32), 2))?.with_name("array".into()),
        text.cast(&PolarsType::from_categories(Categories::global()))?.with_name("categorical".into()),
        point.into_series(),
    ];
    for (name, dtype) in [
        ("date", PolarsType::Date),
        ("time", PolarsType::Time),
        ("datetime", PolarsType::Datetime(PolarsUnit::Microseconds, None)),
        ("zoned", PolarsType::Datetime(PolarsUnit::Nanoseconds, Some(TimeZone::UTC))),
        ("duration", PolarsType::Duration(PolarsUnit::Milliseconds)),
        ("decimal", PolarsType::Decimal(10, 2)),
    ] {
        let values = Series::new(name.into(), [Some(0i64), None, Some(19_000)]);
        columns.push(values.cast(&dtype)?);
    }
    columns.extend([whole, text, list]);
    DataFrame::new(3, columns.into_iter().map(Column::from).collect())
}

#[tokio::test]
async fn every_type_comes_back() -> Outcome {
    let ctx = session(SessionConfig::new())?;
    let frame = everything()?;
    register(&ctx, "t", &frame)?;
    let back = sql(&ctx, "SELECT * FROM t").await?;
    for (column, sent) in back.columns().iter().zip(frame.columns()) {
        assert_eq!(column.dtype(), sent.dtype(), "{}", sent.name());
        assert!(column.equals_missing(sent), "{}", sent.name());
    }
    assert!(back.equals_missing(&frame));

    register(&ctx, "empty", &frame.slice(0, 0))?;
    for query in ["SELECT * FROM empty", "SELECT * FROM t WHERE false"] {
        let none = sql(&ctx, query).await?;
        assert_eq!((none.height(), none.dtypes()), (0, frame.dtypes()), "{query}");
    }
    // Rows that begin within a byte of every bitmap.
    register(&ctx, "slice", &frame.slice(1, 2))?;
    assert!(sql(&ctx, "SELECT * FROM slice").await?.equals_missing(&frame.slice(1, 2)));
    Ok(())
}

#[test]
fn types_that_polars_lacks_become_others() -> Outcome {
    let columns: [(&str, ArrayRef); 3] = [
        ("half", Arc::new(Float16Array::from(vec![f16::from_f32(0.5), f16::INFINITY]))),
        ("seconds", Arc::new(TimestampSecondArray::from(vec![Some(3), None]))),
        (
            "codes",
            cast_with_options(
                &Int64Array::from(vec![7, 8]),
                &DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Int64)),
                &CastOptions::default(),
            )?,
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let frame = to_frame(&batch.schema(), &[batch])?;
    let milliseconds = PolarsType::Datetime(PolarsUnit::Milliseconds, None);
    assert_eq!(frame.dtypes(), [PolarsType::Float32, milliseconds.clone(), PolarsType::Int64]);
    let expected = df!("half" => [0.5f32, f32::INFINITY], "seconds" => [Some(3000i64), None], "codes" => [7i64, 8])?;
    let seconds = expected.column("seconds")?.cast(&milliseconds)?;
    assert!(frame.column("half")?.equals_missing(expected.column("half")?));
    assert!(frame.column("seconds")?.equals_missing(&seconds));
    assert!(frame.column("codes")?.equals_missing(expected.column("codes")?));

    // 2^60 seconds are more than 2^63 milliseconds.
    let far: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1i64 << 60]));
    let batch = RecordBatch::try_from_iter([("far", far)])?;
    let message = to_frame(&batch.schema(), &[batch]).unwrap_err().to_string();
    assert!(message.contains("column \"far\" of type Timestamp"), "{message}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_cross_is_named() -> Outcome {
    let ctx = session(SessionConfig::new())?;
    let wide = Series::new("wide".into(), [1i64]).cast(&PolarsType::Int128)?;
    let inner = Series::new("zero\0byte".into(), [1i64, 2]);
    let odd = StructChunked::from_series("odd".into(), 2, [inner.clone()].iter())?.into_series();
    for (series, words) in [(wide, "column \"wide\" of Polars' type i128"), (odd, "a field's name has a zero byte")] {
        let frame = DataFrame::new(series.len(), vec![series.into()])?;
        let message = register(&ctx, "refused", &frame).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    // A column's own name may be any string.
    register(&ctx, "t", &DataFrame::new(2, vec![inner.into()])?)?;
    let taken = register(&ctx, "t", &df!("x" => [1i64])?).unwrap_err().to_string();
    assert!(taken.contains("already exists"), "{taken}");

    register(&ctx, "a", &df!("x" => [1i64, 2])?)?;
    for (query, words) in [
        ("SELECT INTERVAL '1 month' AS span FROM a", "column \"span\" is of type Interval"),
        ("SELECT map(['k'], [x]) AS pairs FROM a", "column \"pairs\" is of type Map"),
        ("SELECT a.x, b.x FROM a JOIN a AS b ON a.x = b.x", "AS in the query"),
    ] {
        let message = error(&ctx, query).await;
        assert!(message.contains(words), "{query}: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn chunks_need_not_line_up() -> Outcome {
    let mut n = Series::new("n".into(), vec![0i64, 1, 2]);
    n.append(&Series::new("n".into(), (3..200).collect::<Vec<i64>>()))?;
    let squares = Series::new("square".into(), (0..200).map(|i| i * i).collect::<Vec<i64>>());
    let frame = DataFrame::new(200, vec![n.into(), squares.into()])?;
    let (_, batches) = to_batches(&frame)?;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 197]);
    let squares = frame.column("square")?.i64()?.cont_slice()?.as_ptr();
    assert_eq!(batches[1].column(1).as_primitive::<Int64Type>().values().as_ptr(), squares.wrapping_add(3));

    let ctx = session(SessionConfig::new())?;
    register(&ctx, "t", &frame)?;
    assert!(sql(&ctx, "SELECT * FROM t ORDER BY n").await?.equals_missing(&frame));
    // DataFusion splits a table's batches to the session's size.
    let batches = ctx.sql("SELECT * FROM t").await?.collect().await?;
    assert!(batches.iter().all(|batch| batch.num_rows() <= BATCH_SIZE));
    assert_eq!(sql(&ctx, "SELECT * FROM t").await?.height(), 200);
    Ok(())
}

#[test]
fn rows_need_no_columns() -> Outcome {
    let (schema, batches) = to_batches(&DataFrame::empty_with_height(5))?;
    assert_eq!(to_frame(&schema, &batches)?.shape(), (5, 0));
    Ok(())
}

/// Address of a column's numbers.
fn numbers(frame: &DataFrame, name: &str) -> PolarsResult<*const i64> {
    Ok(frame.column(name)?.i64()?.cont_slice()?.as_ptr())
}

/// Addresses of a column's string views and of its long strings.
fn strings(frame: &DataFrame, name: &str) -> PolarsResult<(*const u8, *const u8)> {
    let view = frame.column(name)?.str()?.downcast_iter().next().unwrap();
    Ok((view.views().as_ptr().cast(), view.data_buffers()[0].as_ptr()))
}

#[tokio::test]
async fn nothing_is_copied_on_the_way_to_sql_and_back() -> Outcome {
    let frame = df!("n" => [1i64, 2, 3], "text" => [Some(LONG), None, Some("short")])?;
    let (_, batches) = to_batches(&frame)?;
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values().as_ptr(), numbers(&frame, "n")?);
    let text = batches[0].column(1).as_string_view();
    assert_eq!((text.views().as_ptr().cast::<u8>(), text.data_buffers()[0].as_ptr()), strings(&frame, "text")?);

    let ctx = session(SessionConfig::new())?;
    register(&ctx, "t", &frame)?;
    let back = sql(&ctx, "SELECT * FROM t").await?;
    assert_eq!(numbers(&back, "n")?, numbers(&frame, "n")?);
    assert_eq!(strings(&back, "text")?, strings(&frame, "text")?);
    Ok(())
}

#[test]
fn nothing_is_copied_from_arrows_older_types() -> Outcome {
    let texts = StringArray::from(vec![LONG, "short"]);
    let floats = Float32Array::from(vec![1.0, 2.0, 3.0, 4.0]);
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let offsets = OffsetBuffer::from_lengths([3, 1]);
    let lists = ListArray::try_new(Arc::clone(&item), offsets, Arc::new(floats.clone()), None)?;
    let vectors = FixedSizeListArray::try_new(item, 2, Arc::new(floats.clone()), None)?;
    let columns: [(&str, ArrayRef); 3] =
        [("text", Arc::new(texts.clone())), ("list", Arc::new(lists)), ("vector", Arc::new(vectors))];
    let batch = RecordBatch::try_from_iter(columns)?;
    let frame = to_frame(&batch.schema(), &[batch])?;
    assert_eq!(strings(&frame, "text")?.1, texts.values().as_ptr());
    let list = frame.column("list")?.list()?.downcast_iter().next().unwrap().values();
    let vector = frame.column("vector")?.array()?.downcast_iter().next().unwrap().values();
    for values in [list, vector] {
        let values = values.as_any().downcast_ref::<PrimitiveArray<f32>>().unwrap().values();
        assert_eq!(values.as_ptr(), floats.values().as_ptr());
        assert_eq!(values.as_slice(), [1.0, 2.0, 3.0, 4.0]);
    }
    Ok(())
}

#[tokio::test]
async fn buffers_live_as_long_as_either_side_holds_them() -> Outcome {
    let values = Arc::new(vec![1i64, 2, 3]);
    let held = || Arc::strong_count(&values) - 1;
    let bytes = NonNull::from(values.as_slice()).cast::<u8>();
    // SAFETY: the buffer owns the vector, which is never changed.
    let buffer = unsafe {
        Buffer::from_custom_allocation(bytes, size_of_val(values.as_slice()), Arc::<Vec<i64>>::clone(&values))
    };
    let array: ArrayRef = Arc::new(Int64Array::new(ScalarBuffer::from(buffer), None));
    let batch = RecordBatch::try_from_iter([("n", array)])?;
    let frame = to_frame(&batch.schema(), &[batch])?;
    assert_eq!((held(), numbers(&frame, "n")?), (1, values.as_ptr()));

    // The table outlives the frame ..
    let ctx = session(SessionConfig::new())?;
    register(&ctx, "t", &frame)?;
    drop(frame);
    assert_eq!(held(), 1);
    let back = sql(&ctx, "SELECT n FROM t").await?;
    // .. and a frame outlives the table.
    ctx.deregister_table("t")?;
    drop(ctx);
    assert_eq!((held(), numbers(&back, "n")?), (1, values.as_ptr()));
    assert!(back.equals_missing(&df!("n" => [1i64, 2, 3])?));
    drop(back);
    assert_eq!(held(), 0);
    Ok(())
}

/// A session with the fixture `web` from Parquet, and the same rows as `frame`.
async fn web() -> Result<SessionContext> {
    let ctx = session(SessionConfig::new())?;
    ctx.register_parquet("web", fixture("web.parquet"), ParquetReadOptions::default()).await?;
    let frame = sql(&ctx, "SELECT * FROM web").await?;
    register(&ctx, "frame", &frame)?;
    Ok(ctx)
}

#[tokio::test]
async fn pictures_read_alike_from_a_frame_and_from_parquet() -> Outcome {
    let ctx = web().await?;
    let query = |table: &str| {
        format!(
            "SELECT id, image_info(image) AS info, image_error(image) AS error, image_phash(image) AS phash \
             FROM {table} WHERE id < 200 OR image_info(image) IS NULL ORDER BY id"
        )
    };
    let (frame, parquet) = (sql(&ctx, &query("frame")).await?, sql(&ctx, &query("web")).await?);
    assert!(frame.height() >= 200);
    assert_eq!(frame.dtypes(), parquet.dtypes());
    assert!(frame.equals_missing(&parquet));
    let info = frame.column("info")?;
    assert!(info.null_count() < frame.height() / 2);
    let fields: Vec<String> = info.struct_()?.fields_as_series().iter().map(|f| f.dtype().to_string()).collect();
    assert_eq!(fields, ["str", "u32", "u32", "u8"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_read_a_frame() -> Outcome {
    let ctx = web().await?;
    for (setting, value) in [
        ("captioner", fixture("models/captioner")),
        ("filter", fixture("models/matcher")),
        ("device", "cpu".to_string()),
    ] {
        ctx.sql(&format!("SET capfilt.{setting} = '{value}'")).await?;
    }
    let query = |table: &str| {
        format!(
            "SELECT id, caption(image) AS caption, itm_score(image, text) AS itm, embed_image(image) AS embedding \
             FROM {table} WHERE id < 8 ORDER BY id"
        )
    };
    let (frame, parquet) = (sql(&ctx, &query("frame")).await?, sql(&ctx, &query("web")).await?);
    assert_eq!(frame.height(), 8);
    assert!(frame.equals_missing(&parquet));
    assert_eq!(frame.columns().iter().map(Column::null_count).sum::<usize>(), 0);
    assert!(frame.column("itm")?.f32()?.iter().flatten().all(|score| (0.0..=1.0).contains(&score)));
    let embedding = frame.column("embedding")?.dtype();
    assert!(matches!(embedding, PolarsType::Array(item, _) if **item == PolarsType::Float32), "{embedding}");
    Ok(())
}
