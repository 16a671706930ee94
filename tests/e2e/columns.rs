//! A table has a single schema, whatever files are added to its source.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, BinaryArray, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;

use super::{CAT, KEEP_ALL as RECIPE, Place, root};

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("data/cat.png")).unwrap();
    place
}

/// Runs a job over the file `first`, killed at its second unit or run to its end; then adds the file `second`, and
/// updates, retries and reads the table.
fn keeps_its_schema(place: &Place, options: &[&str], come: &dyn Fn(&str), first: &str, second: &str, rows: i64) {
    let job = |more: &[&str]| -> Vec<String> {
        let fixed =
            ["run", "data", "pairs", "--recipe", "recipe.sql", "--write-images", "none", "--checkpoint-rows", "4"];
        [&fixed[..], options, more].concat().into_iter().map(str::to_owned).collect()
    };
    let ok = |more: &[&str]| {
        let words = job(more);
        place.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    for is_stopped in [true, false] {
        let _ = fs::remove_dir_all(place.path("pairs"));
        let _ = fs::remove_file(place.path("data").join(second));
        come(first);
        if is_stopped {
            let words = job(&[]);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = place.command(&words).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
            assert_eq!(output.status.signal(), Some(9));
        } else {
            ok(&[]);
        }
        come(second);
        place.ok(&["update", "pairs"]);
        assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), rows, "stopped: {is_stopped}");
        place.ok(&["retry", "pairs"]);
        assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), rows);
        place.ok(&["report", "pairs", "-o", "report.html"]);
        place.ok(&["select", "pairs", "chosen", "--min-itm", "0", "--overwrite"]);
    }
}

#[test]
fn keys_in_another_order_are_the_same_columns() {
    let place = place();
    let line = |keys: &str| format!("{{\"path\": \"cat.png\", \"text\": \"a cat\", {keys}}}\n");
    let come = |name: &str| {
        // In a file that sorts before the first one, with its keys in another order.
        let keys =
            if name == "b.jsonl" { ["\"n\": 1", "\"n\": 2, \"alt\": \"x\""] } else { ["\"alt\": \"y\", \"n\": 3"; 2] };
        fs::write(place.path("data").join(name), keys.map(line).concat().repeat(6)).unwrap();
    };
    keeps_its_schema(&place, &["--image-column", "path", "--image-is", "path"], &come, "b.jsonl", "a.jsonl", 24);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE alt = 'y' AND n = 3"), 12);
}

/// Twelve rows with ids from `ids` on, or NULLs, and texts of the given type.
fn parquet(place: &Place, name: &str, ids: Option<i64>, texts: &DataType) {
    let cat = fs::read(root(CAT)).unwrap();
    let ids: Int64Array = (0..12).map(|n| ids.map(|from| from + n)).collect();
    let is_null = ids.is_valid(0);
    let field = |name: &str, of: &ArrayRef, nullable| Field::new(name, of.data_type().clone(), nullable);
    let ids: ArrayRef = Arc::new(ids);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a cat"; 12]));
    let text = cast(&text, texts).unwrap();
    let image: ArrayRef = Arc::new(BinaryArray::from(vec![cat.as_slice(); 12]));
    let fields = vec![field("id", &ids, !is_null), field("text", &text, true), field("image", &image, true)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![ids, text, image]).unwrap();
    let file = File::create(place.path("data").join(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn long_texts_and_nulls_may_come_later() {
    let place = place();
    let come = |name: &str| match name {
        "b.parquet" => parquet(&place, name, Some(0), &DataType::Utf8),
        _ => parquet(&place, name, None, &DataType::LargeUtf8),
    };
    keeps_its_schema(&place, &[], &come, "b.parquet", "a.parquet", 24);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE id IS NULL"), 12);
}

#[test]
fn whole_numbers_are_not_rounded() {
    let place = place();
    let json = |width: &str| format!("{{\"path\": \"cat.png\", \"text\": \"a cat\", \"width\": {width}}}\n");
    let csv = |width: &str| format!("cat.png,a cat,{width}\n");
    let job = |more: &[&'static str]| {
        [
            &[
                "run",
                "data",
                "pairs",
                "--recipe",
                "recipe.sql",
                "--image-column",
                "path",
                "--image-is",
                "path",
                "--overwrite",
            ][..],
            more,
        ]
        .concat()
    };
    // A number above Int64, which CSV reads as text, beside a fraction.
    for (one, other, json_is_well, csv_is_well) in [
        ("12345678901234567890", "1", false, true),
        ("9007199254740993", "1.5", false, false),
        ("-9007199254740993", "1.5", false, false),
        ("9007199254740992", "1.5", true, true),
        ("1152921504606846976", "1.5", true, true),
        ("1e300", "0.1", true, true),
    ] {
        for (name, lines, is_well) in [
            ("a.jsonl", [json(one), json(other)].concat(), json_is_well),
            ("a.csv", ["path,text,width\n".to_owned(), csv(one), csv(other)].concat(), csv_is_well),
        ] {
            fs::write(place.path("data").join(name), lines).unwrap();
            if is_well {
                place.ok(&job(&[]));
                let wanted = format!(
                    "SELECT count(*) FROM t WHERE CAST(width AS VARCHAR) = '{one}' OR width = CAST('{one}' AS DOUBLE)"
                );
                assert_eq!(place.number("pairs", &wanted), 1, "{name}, {one}");
            } else {
                let said = place.fails(1, &job(&[]));
                assert!(said.contains(name) && said.contains(&format!("the whole number {one}")), "{said}");
            }
            fs::remove_file(place.path("data").join(name)).unwrap();
        }
    }
}

#[test]
fn what_looks_like_a_number_may_be_text() {
    let place = place();
    let job = [
        "run",
        "data",
        "pairs",
        "--recipe",
        "recipe.sql",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        "pictures",
    ];
    let job = [&job[..], &["--overwrite"]].concat();
    fs::create_dir(place.path("pictures")).unwrap();
    fs::copy(root(CAT), place.path("pictures/7")).unwrap();
    // Texts and paths are text, as are numbers with a leading zero.
    for (name, lines) in [
        ("a.csv", "id,path,text,n,day\n007,7,12,5,2020-01-01\n010,7,1.5,6,2020-01-02\n"),
        (
            "a.jsonl",
            "{\"id\": \"007\", \"path\": 7, \"text\": 12, \"n\": 5}\n{\"id\": \"010\", \"path\": 7, \"text\": 1.5, \"n\": 6}\n",
        ),
    ] {
        fs::write(place.path("data").join(name), lines).unwrap();
        place.ok(&job);
        let right = "SELECT count(*) FROM t WHERE (id = '007' AND text = '12' AND n = 5) OR (id = '010' AND text = '1.5' AND n = 6)";
        assert_eq!(place.number("pairs", right), 2, "{name}");
        assert_eq!(
            place.number("pairs", "SELECT count(*) FROM t WHERE kept AND arrow_typeof(n) = 'Int64'"),
            2,
            "{name}"
        );
        fs::remove_file(place.path("data").join(name)).unwrap();
    }
    // Rows swallowed by an unbalanced quote must not be lost silently.
    let rows = "7,a cat\n7,\"12 inch pipe\n".to_owned() + &"7,a cat\n".repeat(50);
    for (text, line) in [(rows.clone(), 3), (rows + "7,a \"cat\"\n7,\"b\"\n", 3)] {
        fs::write(place.path("data/a.csv"), format!("path,text\n{text}")).unwrap();
        let said = place.fails(1, &job);
        assert!(said.contains("a.csv") && said.contains(&format!("line {line} is not closed")), "{said}");
    }
}

#[test]
fn a_retry_does_not_look_at_what_is_new() {
    let place = place();
    let job = |more: &[&'static str]| {
        [&["run", "data", "pairs", "--recipe", "recipe.sql", "--image-column", "path", "--image-is", "path"][..], more]
            .concat()
    };
    fs::write(place.path("data/a.csv"), "path,text\ncat.png,a cat\nlost.png,lost\n").unwrap();
    place.ok(&job(&["--max-failed", "99%"]));
    fs::write(place.path("data/b.csv"), "").unwrap();
    fs::copy(root(CAT), place.path("data/lost.png")).unwrap();
    place.ok(&["retry", "pairs"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE error IS NULL"), 2);
}

#[test]
fn a_job_moves_with_its_folder() {
    let place = place();
    fs::create_dir_all(place.path("one/images")).unwrap();
    fs::copy(root(CAT), place.path("one/images/cat.png")).unwrap();
    fs::write(place.path("one/a.csv"), format!("path,text\n{}", "cat.png,a cat\n".repeat(12))).unwrap();
    let words = [
        "run",
        "a.csv",
        "pairs",
        "--recipe",
        "../recipe.sql",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        "images",
    ];
    let words = [&words[..], &["--write-images", "none", "--checkpoint-rows", "4"]].concat();
    let output =
        place.command(&words).current_dir(place.path("one")).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    fs::rename(place.path("one"), place.path("two")).unwrap();
    let output = place.command(&words).current_dir(place.path("two")).output().unwrap();
    let said = super::text(&output.stderr);
    assert!(output.status.success() && said.contains("going on after"), "{said}");
    assert_eq!(place.number("two/pairs", "SELECT count(*) FROM t WHERE kept"), 12);
}
