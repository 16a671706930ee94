use crate::lake::contract::TableFormat as _;
use crate::lake::delta::snapshot::Delta;
use crate::layout::is_delta;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;

use crate::lake::delta::commit::*;
use crate::lake::location::Lake;
use crate::source::files::Source;

fn schema(n: DataType) -> Schema {
    Schema::new(vec![Field::new("n", n, true)])
}

fn file(folder: &Path, name: &str) -> Added {
    let path = folder.join(name);
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..30));
    let batch = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    Added { name: name.to_owned(), bytes: fs::metadata(&path).unwrap().len(), rows: 30 }
}

fn put(folder: &Path, name: &str, app_version: i64, replaces: Replaces<'_>, n: DataType) -> Result<Outcome> {
    let files = [file(folder, name)];
    let about = r#"{"recipe": "r.sql"}"#;
    commit(folder, &Commit { schema: &schema(n), files: &files, app_id: "job", app_version, replaces, about })
}

fn names(folder: &Path, at: &str) -> Result<Vec<String>> {
    let found = Source::open_at(folder, Some(at))?;
    Ok((0..found.files()).map(|file| found.name(file).to_owned()).collect())
}

#[test]
fn a_commit_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(!is_delta(path));
    assert_eq!(transaction_version(path, "job").unwrap(), None);
    for (name, app_version, replaces, version) in [
        ("a b.parquet", 1, Replaces::None, 0),
        ("a b.parquet", 1, Replaces::None, 0),
        ("c.parquet", 2, Replaces::None, 1),
        ("d.parquet", 3, Replaces::All, 2),
    ] {
        let outcome = put(path, name, app_version, replaces, DataType::Int64).unwrap();
        assert_eq!(outcome, Outcome::Version(version));
    }
    assert_eq!(transaction_version(path, "job").unwrap(), Some(3));
    assert_eq!(names(path, "0").unwrap(), ["a b.parquet"]);
    assert_eq!(names(path, "1").unwrap(), ["a b.parquet", "c.parquet"]);
    assert_eq!(names(path, "2200-01-01 00:00:00").unwrap(), ["d.parquet"]);
    assert!(names(path, "1999-01-01T00:00:00Z").unwrap_err().to_string().contains("oldest"));
    assert!(names(path, "3").unwrap_err().to_string().contains("the latest is 2"));
    fs::remove_file(path.join("a b.parquet")).unwrap();
    assert!(names(path, "1").unwrap_err().to_string().contains("gone"));
    let error = put(path, "e.parquet", 4, Replaces::None, DataType::Utf8).unwrap_err();
    assert!(error.to_string().contains("column n is Utf8, and the table's is Int64"), "{error}");
}

#[test]
fn files_that_are_there_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let put = |name, version, replaces| put(path, name, version, replaces, DataType::Int64).unwrap();
    let lacks = |outcome, words: &str| match outcome {
        Outcome::Lacking(reason) => assert!(reason.contains(words) && reason.contains("--overwrite"), "{reason}"),
        version => panic!("{version:?}"),
    };
    // A missing table is not created.
    lacks(put("a.parquet", 1, Replaces::Files(&["z.parquet"])), "no longer has the job's file z.parquet");
    assert!(!is_delta(path));
    for (name, version) in [("a.parquet", 1), ("b.parquet", 2), ("c.parquet", 3)] {
        put(name, version, Replaces::None);
    }
    let old = ["a.parquet", "c.parquet"];
    assert_eq!(crate::lake::delta::commit::lacks(path, &old).unwrap(), None);
    let said = crate::lake::delta::commit::lacks(path, &["a.parquet", "d.parquet"]).unwrap();
    assert!(said.as_ref().is_some_and(|said| said.contains("d.parquet")), "{said:?}");
    for _ in 0..2 {
        assert_eq!(put("d.parquet", 4, Replaces::Files(&old)), Outcome::Version(3));
    }
    assert_eq!(names(path, "2").unwrap(), ["a.parquet", "b.parquet", "c.parquet"]);
    assert_eq!(names(path, "3").unwrap(), ["b.parquet", "d.parquet"]);
    lacks(put("e.parquet", 5, Replaces::Files(&["b.parquet", "a.parquet"])), "the job's file a.parquet");
    assert_eq!(Delta.snapshot(&Lake::Disk(path.to_owned()), None).unwrap().version, 3);
}

#[test]
fn types_that_delta_lacks_are_refused() {
    let check = |data_type: DataType| check_table(Path::new("t"), &schema(data_type)).map_err(|e| e.to_string());
    let list = |data_type| DataType::LargeList(Arc::new(Field::new("item", data_type, true)));
    let error = check(list(DataType::UInt64)).unwrap_err();
    assert!(error.contains("column n[] is UInt64, which Delta tables do not have"), "{error}");
    assert!(check(DataType::Timestamp(TimeUnit::Nanosecond, None)).is_err());
    check(list(DataType::BinaryView)).unwrap();
}

/// The deletion vector is an example from the protocol.
#[test]
fn deleted_rows_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [field("n", "long"), field("split", "string")]}).to_string();
    let features = ["deletionVectors"];
    let vector = json!({"storageType": "i", "sizeInBytes": 44, "cardinality": 6,
        "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"});
    let log = [
        json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features,
            "writerFeatures": features}}),
        json!({"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
            "partitionColumns": ["split"], "configuration": {}, "createdTime": 0}}),
        json!({"add": {"path": "split=a%2520b/x.parquet", "partitionValues": {"split": "a b"}, "size": 1,
            "modificationTime": 0, "dataChange": true, "stats": "{\"numRecords\":30}", "deletionVector": vector}}),
    ];
    fs::create_dir_all(path.join(DELTA_LOG)).unwrap();
    fs::create_dir_all(path.join("split=a%20b")).unwrap();
    file(path, "split=a%20b/x.parquet");
    fs::write(path.join(DELTA_LOG).join(format!("{:020}.json", 0)), log.map(|line| line.to_string()).join("\n"))
        .unwrap();
    let found = Delta.snapshot(&Lake::Disk(path.to_owned()), None).unwrap();
    assert_eq!(found.files[0].deleted, [3, 4, 7, 11, 18, 29]);
    assert_eq!(found.files[0].partitions, [("split".to_owned(), Some("a b".to_owned()))]);
    assert_eq!(found.schema.field(1).data_type(), &DataType::Utf8);
    let error = put(path, "e.parquet", 1, Replaces::None, DataType::Int64).unwrap_err();
    assert!(error.to_string().contains("partitioned by split"), "{error}");
    let said = lacks(path, &["split=a%20b/x.parquet"]).unwrap();
    assert!(said.as_ref().is_some_and(|said| said.contains("has rows deleted from")), "{said:?}");
}

/// With in-commit timestamps, commits have their time in the first line, and the time of their files does not count.
#[test]
fn a_commit_is_of_the_time_that_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join(DELTA_LOG);
    fs::create_dir(&log).unwrap();
    let commit = |version: u64, lines: &[Value]| {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        fs::write(log.join(format!("{version:020}.json")), text).unwrap();
    };
    let schema = json!({"type": "struct", "fields": [{"name": "n", "type": "long", "nullable": true, "metadata": {}}]});
    let info = |time: u64, more: &str| json!({"commitInfo": {"inCommitTimestamp": time, "timestamp": time, "operation": "WRITE", "userMetadata": more}});
    let protocol =
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["inCommitTimestamp"]}});
    let metadata = json!({"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}},
        "schemaString": schema.to_string(), "partitionColumns": [], "createdTime": 0,
        "configuration": {"delta.enableInCommitTimestamps": "true"}}});
    commit(0, &[info(2000, ""), protocol, metadata]);
    // A clock that went back, and a first line that is long.
    commit(1, &[info(500, &"x".repeat(20_000))]);
    commit(2, &[info(5000, "")]);
    let lake = Lake::Disk(folder.path().to_owned());
    let at = |time: &str| Delta.snapshot(&lake, Some(time)).map(|found| found.version);
    for (time, version) in [
        ("1970-01-01 00:00:02", 0),
        ("1970-01-01 00:00:02.001", 1),
        ("1970-01-01T00:00:04Z", 1),
        ("1970-01-01 00:00:05", 2),
        ("2200-01-01", 2),
    ] {
        assert_eq!(at(time).unwrap(), version, "{time}");
    }
    let error = at("1970-01-01 00:00:01").unwrap_err().to_string();
    assert!(error.contains("version 0, the oldest in its log, is younger"), "{error}");
}
