//! Delta tables in an in-memory store with injected failures.

use std::fs;
use std::path::Path;

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use crate::lake::contract::TableFormat as _;
use crate::lake::delta::snapshot::Delta;
use crate::lake::location::Lake;
use crate::layout;
use crate::source::files::Source;
use crate::source::known::OpenOptions;
use crate::split::Units;
use crate::store::address::Address;
use crate::store::location::tests::{flaky, put};
use crate::store::problem::Advice;
use crate::store::retrying::*;
use crate::store::url::shown;

/// The key has a space and a percent sign, and must be decoded neither in the URL nor in the log.
const URL: &str = "s3://bucket/top %41/lake";

/// Writes a table of three versions: one file, a second one, and rows deleted from the first.
fn lake(folder: &Path, first: i64) {
    let write = |name: &str, from: i64| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 30));
        let batch = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        fs::metadata(&path).unwrap().len()
    };
    let add = |path: &str, split: Value, bytes: u64, vector: Value| {
        let mut add = json!({"path": path, "partitionValues": {"split": split}, "size": bytes, "modificationTime": 0,
            "dataChange": true, "stats": "{\"numRecords\":30}"});
        if !vector.is_null() {
            add["deletionVector"] = vector;
        }
        json!({ "add": add })
    };
    let commit = |version: u64, lines: &[Value]| {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        fs::write(folder.join(format!("{}/{version:020}.json", layout::DELTA_LOG)), text).unwrap();
    };
    fs::create_dir_all(folder.join(layout::DELTA_LOG)).unwrap();
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [field("n", "long"), field("split", "string")]}).to_string();
    let features = ["deletionVectors"];
    let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features,
        "writerFeatures": features}});
    let metadata = json!({"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}},
        "schemaString": schema, "partitionColumns": ["split"], "configuration": {}, "createdTime": 0}});
    let bytes = write("split=a%20b/x.parquet", first);
    commit(0, &[protocol, metadata, add("split=a%2520b/x.parquet", json!("a b"), bytes, Value::Null)]);
    let other = write("split=__HIVE_DEFAULT_PARTITION__/y.parquet", first + 30);
    commit(1, &[add("split=__HIVE_DEFAULT_PARTITION__/y.parquet", Value::Null, other, Value::Null)]);
    // Example of the Delta protocol: removes rows 3, 4, 7, 11, 18 and 29.
    let vector = json!({"storageType": "i", "sizeInBytes": 44, "cardinality": 6,
        "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"});
    let remove = json!({"remove": {"path": "split=a%2520b/x.parquet", "deletionTimestamp": 0, "dataChange": true,
        "partitionValues": {"split": "a b"}, "size": bytes, "extendedFileMetadata": true}});
    commit(2, &[remove, add("split=a%2520b/x.parquet", json!("a b"), bytes, vector)]);
}

/// Collects the names and contents of all files below a folder.
fn files(folder: &Path, below: &str, all: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            files(&entry.path(), &name, all);
        } else {
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
}

fn in_store(store: &Arc<Store>, url: &str) -> Lake {
    let location = Location { url: shown(url), address: Address::parse(url).unwrap(), store: Arc::clone(store) };
    assert!(location.has_folder(layout::DELTA_LOG, &crate::format::register::ROLES).unwrap());
    Lake::Store(location)
}

/// File name, row numbers and rows of each file.
fn rows(source: &Source) -> Vec<(String, Vec<u64>, RecordBatch)> {
    let units = Units { rows: 1000, shard: 0, shards: 1 };
    let read = |(file, record): (usize, crate::file_record::FileRecord)| {
        let (mut batches, mut numbers) = (Vec::new(), Vec::new());
        let mut send = |chunk: Result<crate::source::chunk::Chunk>| {
            let chunk = chunk.unwrap();
            numbers.extend(chunk.numbers);
            batches.push(chunk.rows);
            true
        };
        source.read_ranges(file, units, &[(0, record.rows)], 1000, &mut send).unwrap();
        (record.name, numbers, concat_batches(&source.schema, &batches).unwrap())
    };
    source.records().into_iter().enumerate().map(read).collect()
}

#[track_caller]
fn same(disk: &Lake, store: &Lake, version: Option<&str>) {
    let [disk, store] = [disk, store].map(|lake| {
        Source::of_lake(&Delta, lake, Path::new(URL), OpenOptions { version, ..OpenOptions::default() }).unwrap()
    });
    assert_eq!((disk.version, disk.records()), (store.version, store.records()), "{version:?}");
    assert_eq!(rows(&disk), rows(&store), "{version:?}");
}

#[test]
fn a_delta_table_is_read_as_one_on_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    lake(folder.path(), 0);
    let mut all = Vec::new();
    files(folder.path(), "top %41/lake", &mut all);
    let objects: Vec<(&str, Vec<u8>)> = all.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let (inner, unwell) = flaky(&objects);
    let disk = Lake::Disk(folder.path().to_owned());
    same(&disk, &in_store(&unwell, URL), None);
    let store = Arc::new(Store::new(Arc::clone(&inner) as Arc<dyn ObjectStore>, &Advice::UNKNOWN));
    let lake = in_store(&store, "s3://bucket/top %41/lake/");
    for version in ["0", "1", "2", "2200-01-01 00:00:00"] {
        same(&disk, &lake, Some(version));
    }
    let open = |version: &str| {
        Source::of_lake(&Delta, &lake, Path::new(URL), OpenOptions { version: Some(version), ..OpenOptions::default() })
    };
    assert_eq!(open("2").unwrap().rows(), 54);
    for (version, words) in
        [("7", "the latest is 2"), ("1999-01-01", "is younger than"), ("soon", "neither a version nor a time")]
    {
        let error = open(version).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("s3://bucket/top %41/lake"), "{error}");
    }
    let y = "top %41/lake/split=__HIVE_DEFAULT_PARTITION__/y.parquet";
    remove(&inner, y);
    let error = open("1").unwrap_err().to_string();
    assert!(
        error.contains("version 1 has the file split=__HIVE_DEFAULT_PARTITION__/y.parquet, which is gone"),
        "{error}"
    );
    open("0").unwrap();
    put(&inner, y, vec![0; 100]);
    let error = open("1").unwrap_err().to_string();
    assert!(error.contains("s3://bucket/top %41/lake/split=") && error.contains("not a Parquet file"), "{error}");
}

fn remove(inner: &Arc<InMemory>, key: &str) {
    let (inner, key) = (Arc::clone(inner), Key::parse(key).unwrap());
    wait(async move { inner.delete(&key).await.map_err(|e| Problem::new(e.to_string())) }).unwrap().unwrap();
}

/// Tables whose files have the same names and sizes are not taken for one another.
#[test]
fn sql_reads_delta_tables_in_stores() {
    let mut all = Vec::new();
    for (table, first) in [("one", 0), ("two", 1000)] {
        let folder = tempfile::tempdir().unwrap();
        lake(folder.path(), first);
        files(folder.path(), table, &mut all);
    }
    let objects: Vec<(&str, Vec<u8>)> = all.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let (_, store) = flaky(&objects);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let ctx = SessionContext::new();
        for (name, url, at) in
            [("a", "s3://bucket/one", Some("1")), ("b", "s3://bucket/two", Some("1")), ("c", "s3://bucket/one", None)]
        {
            let at = at.map(str::to_owned);
            let table = Delta.in_sql(&ctx, in_store(&store, url), at).await.unwrap();
            ctx.register_table(name, table).unwrap();
        }
        for (name, rows, sum) in [("a", 60, 1770), ("b", 60, 61_770), ("c", 54, 1698)] {
            let sql =
                format!("SELECT count(*) = {rows} AND sum(n) = {sum} AND count(split) < {rows} AS yes FROM {name}");
            let found = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
            let shown = datafusion::arrow::util::pretty::pretty_format_batches(&found).unwrap().to_string();
            assert!(shown.contains("true"), "{name}: {shown}");
        }
    });
}

#[test]
fn nothing_is_written() {
    let (inner, store) = flaky(&[("lake/_delta_log/00000000000000000000.json", vec![1])]);
    let Lake::Store(location) = in_store(&store, "s3://bucket/lake") else { unreachable!() };
    let (folder, url) = location.seen_as("", location.key("").unwrap(), None).unwrap();
    let at = Key::from(format!("{}x", url.path()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(folder.put(&at, vec![1].into())).unwrap_err().to_string();
    assert!(error.contains("read only"), "{error}");
    runtime.block_on(folder.delete(&at)).unwrap_err();
    assert!(runtime.block_on(inner.head(&Key::from("lake/x"))).is_err());
    // Objects outside the folder are not accessible through it.
    assert!(runtime.block_on(folder.get(&Key::from("lake/_delta_log/00000000000000000000.json"))).is_err());
}
