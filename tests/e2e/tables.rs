//! Tables written by various programs: differences between their files, and invalid values.

use std::fs::{self, File};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, NullArray, StringArray,
    StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int8Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::data_type::{ByteArray, ByteArrayType};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::parser::parse_message_type;

use super::{CAT, KEEP_ALL as RECIPE, Place, root, text};

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("data/cat.png")).unwrap();
    place
}

fn run<'a>(source: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", source, "pairs", "--recipe", "recipe.sql"][..], more].concat()
}

/// A column of the pair table as text.
fn column(place: &Place, expr: &str) -> Vec<String> {
    let rows = place.rows("pairs", &format!("SELECT coalesce(CAST({expr} AS VARCHAR), 'NULL') AS v FROM t"));
    rows.iter().map(|row| row["v"].as_str().unwrap().to_owned()).collect()
}

/// A Parquet file with an image and a text in each row, unless `columns` override them.
fn parquet(place: &Place, name: &str, columns: &[(&str, ArrayRef)]) {
    let rows = columns[0].1.len();
    let cat = fs::read(root(CAT)).unwrap();
    let image: ArrayRef = Arc::new(BinaryArray::from(vec![cat.as_slice(); rows]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a cat"; rows]));
    let has = |name: &str| columns.iter().any(|(column, _)| *column == name);
    let own = [("image", image), ("text", text)].into_iter().filter(|(name, _)| !has(name));
    let all: Vec<(&str, ArrayRef)> = own.chain(columns.iter().cloned()).collect();
    let batch = RecordBatch::try_from_iter_with_nullable(all.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let file = File::create(place.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn structs(parts: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let parts =
        parts.into_iter().map(|(name, part)| (Arc::new(Field::new(name, part.data_type().clone(), true)), part));
    Arc::new(StructArray::from(parts.collect::<Vec<_>>()))
}

/// A page that cannot be decoded costs the rows that it has values of; the file that was meant mends them.
#[test]
fn a_damaged_page_costs_its_rows() {
    let place = place();
    let rows = 400;
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("a cat, number {row}"))));
    let cat = fs::read(root(CAT)).unwrap();
    let image: ArrayRef = Arc::new(BinaryArray::from(vec![cat.as_slice(); rows as usize]));
    let batch = RecordBatch::try_from_iter([("id", id), ("image", image), ("text", text)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(20)
        .set_write_batch_size(20)
        .set_max_row_group_row_count(Some(200));
    let path = place.path("data/0.parquet");
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    let footer = writer.close().unwrap();
    let whole = fs::read(&path).unwrap();
    // In the middle of the first row group's texts.
    let texts = footer.row_group(0).column(2);
    let (start, bytes) = texts.byte_range();
    let mut broken = whole.clone();
    let middle = usize::try_from(start + bytes / 2).unwrap();
    broken[middle..middle + 40].fill(0xff);
    fs::write(&path, &broken).unwrap();
    place.ok(&run("data", &["--checkpoint-rows", "128"]));
    let failed =
        place.number("pairs", "SELECT count(*) FROM t WHERE error LIKE 'the file is damaged here: %' AND NOT kept");
    assert!((20..200).contains(&failed), "{failed}");
    // A row that fails, fails in every shard.
    for shard in ["1/2", "2/2"] {
        place.ok(&["run", "data", "shards", "--recipe", "recipe.sql", "--checkpoint-rows", "30", "--shard", shard]);
        let said = super::text(&place.run(&["sql", "-c", "SELECT count(*) FROM 'shards'"]).stderr);
        assert_eq!(said.contains("only 1 of its 2 shards have begun"), shard == "1/2", "{said}");
    }
    let which = "SELECT provenance['row'] AS row FROM t WHERE error IS NOT NULL ORDER BY row";
    assert_eq!(place.rows("shards", which), place.rows("pairs", which));
    let good = "SELECT count(*) FROM t WHERE kept AND text = 'a cat, number ' || id AND id = provenance['row']";
    assert_eq!(place.number("pairs", good), rows - failed);
    // The other row group, and what is before the page.
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE kept AND (id >= 200 OR id < 64)"), 264);
    fs::write(&path, &whole).unwrap();
    place.ok(&["retry", "pairs"]);
    assert_eq!(place.number("pairs", good), rows);
    // A budget stops a job that would lose too many.
    fs::write(&path, &broken).unwrap();
    let said = place.fails(1, &run("data", &["--overwrite", "--max-failed", "5"]));
    assert!(said.contains("cannot be used, and --max-failed allows 5"), "{said}");
}

/// Page checksums, as Spark writes them, tell of a wrong value that decodes well.
#[test]
fn a_wrong_value_fails_its_checksum() {
    let place = place();
    let mut bytes = fs::read(root("tests/fixtures/checksums.parquet")).unwrap();
    let at = bytes.windows(10).position(|bytes| bytes == b"number 055").unwrap();
    bytes[at + 7] = b'9';
    fs::write(place.path("data/0.parquet"), &bytes).unwrap();
    place.ok(&run("data", &[]));
    let failed = "SELECT count(*) FROM t WHERE error LIKE 'the file is damaged here: %CRC%' AND NOT kept";
    let failed = place.number("pairs", failed);
    assert!((10..60).contains(&failed), "{failed}");
    let good = "SELECT count(*) FROM t WHERE kept AND text = 'a cat, number ' || lpad(CAST(id AS VARCHAR), 3, '0')";
    assert_eq!(place.number("pairs", good), 100 - failed);
    let said = place.fails(1, &["sql", "-c", "SELECT sum(length(text)) FROM 'data'"]);
    assert!(said.contains("CRC"), "{said}");
}

/// What a job found damaged can be mended and tried again, also by a file of another size.
#[test]
fn a_mended_source_is_tried_again() {
    let place = place();
    let images = ["a", "b"].map(|name| place.path(&format!("folder/{name}.png")));
    fs::create_dir(place.path("folder")).unwrap();
    for image in &images {
        fs::copy(root(CAT), image).unwrap();
        fs::write(image.with_extension("txt"), "a cat").unwrap();
    }
    fs::write(&images[1], "no image").unwrap();
    place.ok(&run("folder", &[]));
    let kept = "SELECT count(*) FROM t WHERE kept";
    assert_eq!(place.number("pairs", kept), 1);
    fs::copy(root(CAT), &images[1]).unwrap();
    let said = super::text(&place.run(&["retry", "pairs"]).stderr);
    assert!(said.contains("folder") && said.contains("failed rows are read from it as it is now"), "{said}");
    assert_eq!(place.number("pairs", kept), 2);

    let table = |image: &[u8], rows: usize| {
        let cat = fs::read(root(CAT)).unwrap();
        let mut all = vec![cat.as_slice(); rows];
        all[1] = image;
        let image: ArrayRef = Arc::new(BinaryArray::from(all));
        parquet(&place, "data/0.parquet", &[("image", image)]);
    };
    table(b"no image", 3);
    place.ok(&run("data", &["--overwrite"]));
    assert_eq!(place.number("pairs", kept), 2);
    table(&fs::read(root(CAT)).unwrap(), 3);
    place.ok(&["retry", "pairs"]);
    assert_eq!(place.number("pairs", kept), 3);
    // The table knows the mended file.
    let said = place.fails(1, &run("data", &[]));
    assert!(said.contains("is finished"), "{said}");
    table(b"no image", 4);
    let said = place.fails(1, &["retry", "pairs"]);
    assert!(said.contains("0.parquet") && said.contains("has changed"), "{said}");
}

/// Dictionary keys that are wide enough for one pandas file, but not for the table of all files.
#[test]
fn categories_of_many_files_are_read_back() {
    let place = place();
    for file in 0..3 {
        let names: Vec<String> = (0..300).map(|row| format!("site{file}_{}.org", row % 100)).collect();
        let names: DictionaryArray<Int8Type> = names.iter().map(String::as_str).collect();
        let names: ArrayRef = Arc::new(names);
        let item = Arc::new(Field::new("item", names.data_type().clone(), true));
        let lists = ListArray::new(item, OffsetBuffer::from_lengths([1; 300]), Arc::clone(&names), None);
        let nested = structs(vec![("of", Arc::clone(&names))]);
        let columns: [(&str, ArrayRef); 3] = [("domain", names), ("all", Arc::new(lists)), ("part", nested)];
        parquet(&place, &format!("data/{file}.parquet"), &columns);
    }
    let found = "count(DISTINCT domain) + count(DISTINCT \"all\"[1]) + count(DISTINCT part['of'])";
    for format in ["parquet", "delta", "jsonl"] {
        let _ = fs::remove_dir_all(place.path("pairs"));
        place.ok(&run("data", &["--table-format", format, "--write-images", "none"]));
        assert_eq!(place.number("pairs", &format!("SELECT {found} FROM t")), 900, "{format}");
    }
    place.ok(&["sql", "-c", "COPY (SELECT * EXCLUDE image FROM 'data') TO 'copy.parquet'"]);
    assert_eq!(place.number("copy.parquet", &format!("SELECT {found} FROM t")), 900);
}

#[test]
fn shards_are_one_table_by_the_names_of_their_columns() {
    let place = place();
    let int32 = |values: Vec<Option<i32>>| Arc::new(Int32Array::from(values)) as ArrayRef;
    let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let nothing = || Arc::new(NullArray::new(2)) as ArrayRef;
    let second = 1_600_000_000_000_000_i64;
    parquet(
        &place,
        "data/0.parquet",
        &[
            ("id", int32(vec![Some(1), Some(2)])),
            ("width", Arc::new(Int64Array::from(vec![Some(7), None]))),
            ("licence", nothing()),
            ("seen", Arc::new(TimestampMicrosecondArray::from(vec![second; 2]))),
            ("meta", structs(vec![("path", nothing()), ("n", int32(vec![Some(5), None]))])),
        ],
    );
    // Other order, other widths, and values where the first file has none.
    parquet(
        &place,
        "data/1.parquet",
        &[
            ("licence", cast(&texts(vec![Some("MIT"), None]), &DataType::LargeUtf8).unwrap()),
            ("text", texts(vec![Some("a dog"), Some("a cow")])),
            ("meta", structs(vec![("more", nothing()), ("path", texts(vec![Some("p"), None])), ("n", nothing())])),
            ("seen", Arc::new(TimestampNanosecondArray::from(vec![second * 1000 + 1; 2]))),
            ("id", Arc::new(Int64Array::from(vec![3, 1 << 40]))),
            ("width", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
            ("only", texts(vec![Some("here"), None])),
        ],
    );
    place.ok(&run("data", &[]));
    assert_eq!(column(&place, "id"), ["1", "2", "3", "1099511627776"]);
    assert_eq!(column(&place, "width"), ["7.0", "NULL", "1.5", "NULL"]);
    assert_eq!(column(&place, "licence"), ["NULL", "NULL", "MIT", "NULL"]);
    assert_eq!(column(&place, "meta['path']"), ["NULL", "NULL", "p", "NULL"]);
    assert_eq!(column(&place, "meta['n']"), ["5", "NULL", "NULL", "NULL"]);
    assert_eq!(column(&place, "only"), ["NULL", "NULL", "here", "NULL"]);
    assert_eq!(column(&place, "text"), ["a cat", "a cat", "a dog", "a cow"]);
    assert_eq!(column(&place, "CAST(seen AS BIGINT) % 1000"), ["0", "0", "1", "1"]);
    // SQL sees the same table.
    for expr in ["id", "width", "licence", "meta['path']", "meta['n']", "only", "text", "seen"] {
        let here = place.rows("data", &format!("SELECT {expr} AS v FROM t ORDER BY id"));
        assert_eq!(here, place.rows("pairs", &format!("SELECT {expr} AS v FROM t ORDER BY id")), "{expr}");
    }

    place.ok(&[
        "sql",
        "-c",
        "CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION 'data/'",
        "-c",
        "SELECT sum(width) FROM e",
    ]);
    fs::create_dir_all(place.path("parts/day=1")).unwrap();
    fs::create_dir_all(place.path("parts/day=2")).unwrap();
    fs::copy(place.path("data/0.parquet"), place.path("parts/day=1/1.parquet")).unwrap();
    fs::copy(place.path("data/1.parquet"), place.path("parts/day=2/2.parquet")).unwrap();
    for (create, asked, answer) in [
        ("WITH ORDER (id ASC) LOCATION 'data/'", "count(*)", "4"),
        ("PARTITIONED BY (day) LOCATION 'parts/'", "sum(CAST(day AS INT))", "6"),
        ("LOCATION 'parts/'", "sum(CAST(day AS INT))", "6"),
    ] {
        let create = format!("CREATE EXTERNAL TABLE e STORED AS PARQUET {create}");
        let said = place.ok(&["sql", "--format", "csv", "-c", &create, "-c", &format!("SELECT {asked} AS n FROM e")]);
        assert_eq!(said.lines().last(), Some(answer), "{create}");
    }
    // What DataFusion refuses for other reasons than the types is refused.
    fs::create_dir(place.path("empty")).unwrap();
    for create in ["LOCATION ('data/', 'empty/')", "WITH ORDER (nothing ASC) LOCATION 'data/'"] {
        let create = format!("CREATE EXTERNAL TABLE e STORED AS PARQUET {create}");
        let said = place.fails(1, &["sql", "-c", &create]);
        assert!(said.contains("empty") || said.contains("nothing"), "{create}: {said}");
    }
    fs::create_dir(place.path("torn")).unwrap();
    fs::write(place.path("torn/0.parquet"), "PAR1 and no footer").unwrap();
    let said = place.fails(1, &["sql", "-c", "SELECT * FROM 'torn'"]);
    assert!(said.contains("torn/0.parquet"), "{said}");

    // An integer that has no exact f64 is not rounded, and texts are not parsed as numbers.
    parquet(&place, "data/2.parquet", &[("width", Arc::new(Int64Array::from(vec![(1 << 53) + 1])))]);
    let said = place.fails(1, &run("data", &["--overwrite"]));
    assert!(said.contains("2.parquet") && said.contains("column width: the whole number 9007199254740993"), "{said}");
    parquet(&place, "data/2.parquet", &[("only", Arc::new(Int64Array::from(vec![1])))]);
    let said = place.fails(1, &run("data", &["--overwrite"]));
    let words = ["2.parquet: its column only is Int64, and Utf8 in", "data/1.parquet: convert one of them"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    let said = place.fails(1, &["sql", "--table", "t=data", "-c", "SELECT count(*) FROM t"]);
    assert!(said.contains("its column only is Int64, and Utf8 in") && said.contains("1.parquet"), "{said}");
    let schema = parse_message_type("message rows { required int32 meta; required int32 meta; }").unwrap();
    let file = File::create(place.path("twice.parquet")).unwrap();
    SerializedFileWriter::new(file, Arc::new(schema), Arc::new(WriterProperties::new())).unwrap().close().unwrap();
    let said = place.fails(1, &run("twice.parquet", &["--overwrite"]));
    assert!(said.contains("two columns \"meta\": rename one"), "{said}");
}

/// Rows with bytes where the schema has texts.
fn parquet_of_bytes(place: &Place, name: &str, rows: &[[&[u8]; 3]]) {
    let schema = "message rows { required binary image; required binary text (UTF8); required group meta { required binary alt (UTF8); } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(place.path(name)).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::new())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for at in 0..3 {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row[at].to_vec())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_text_that_is_not_utf8_costs_its_row() {
    let place = place();
    let cat = fs::read(root(CAT)).unwrap();
    let row = |text: &'static [u8], alt: &'static [u8]| [&cat[..], text, alt];
    let rows = [row(b"a cat", b"x"), row(b"caf\xe9", b"y"), row(b"a dog", b"na\xefve"), row(b"a cow", b"\xff")];
    parquet_of_bytes(&place, "bad.parquet", &rows);
    let output = place.run(&run("bad.parquet", &[]));
    let said = super::text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(column(&place, "kept"), ["true", "false", "true", "true"]);
    assert_eq!(column(&place, "error")[1], "column text: bytes that are not UTF-8: \"caf\u{fffd}\"");
    assert_eq!(column(&place, "text")[1..3], ["caf\u{fffd}", "a dog"]);
    // A bad value in a column that is only passed through does not fail its row, but is reported.
    assert_eq!(column(&place, "meta['alt']")[2..], ["na\u{fffd}ve", "\u{fffd}"]);
    let words =
        ["bad.parquet, row 2, and 1 rows more: column meta: bytes that are not UTF-8", "U+FFFD stands for them"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    // SQL names the first bad value; other columns are readable.
    let sql = |query: &'static str| ["sql", "--table", "t=bad.parquet", "-c", query];
    let said = place.fails(1, &sql("SELECT max(text) FROM t"));
    let words =
        ["bad.parquet, row 1: column text: bytes that are not UTF-8", "Select the other columns by their names"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    place.ok(&sql("SELECT count(image) FROM t WHERE octet_length(encode(image, 'hex')) > 0"));
    // A row's result does not depend on the rows it is read with, and a retry changes nothing.
    place.ok(&["retry", "pairs"]);
    assert_eq!(column(&place, "kept"), ["true", "false", "true", "true"]);
    let said = place.fails(1, &run("bad.parquet", &["--overwrite", "--max-failed", "0"]));
    assert!(said.contains("column text: bytes that are not UTF-8"), "{said}");
}

#[test]
fn a_line_that_is_no_object_costs_its_row() {
    let place = place();
    let line = |more: &str| format!("{{\"path\": \"cat.png\", {more}}}\n");
    let mut lines = [line("\"text\": \"a cat \\ud83d\", \"score\": NaN"), line("\"text\": \"b\""), line("\"text\": ")]
        .concat()
        .into_bytes();
    lines.extend(b"{\"path\": \"cat.png\", \"text\": \"caf\xe9\"}\n\n");
    lines.extend(line("\"text\": \"last\", \"score\": 0.5").into_bytes());
    fs::write(place.path("data/web.jsonl"), &lines).unwrap();
    place.ok(&run("data/web.jsonl", &["--image-column", "path", "--image-is", "path", "--checkpoint-rows", "2"]));
    assert_eq!(column(&place, "kept"), ["true", "true", "false", "false", "true"]);
    assert_eq!(column(&place, "text"), ["a cat \u{fffd}", "b", "NULL", "caf\u{fffd}", "last"]);
    assert_eq!(column(&place, "score"), ["NULL", "NULL", "NULL", "NULL", "0.5"]);
    let errors = column(&place, "error");
    assert!(errors[2].starts_with("line 3: expected value at column"), "{errors:?}");
    assert_eq!(errors[3], "line 4: bytes that are not UTF-8");

    // A single array, like LLaVA's and COCO's lists.
    let array =
        "[\n  {\"path\": \"cat.png\", \"text\": \"a, [cat]\"},\n  {\"path\": \"cat.png\",\n   \"text\": \"b\"}, 7]\n";
    fs::write(place.path("data/web.json"), array).unwrap();
    place.ok(&run("data/web.json", &["--image-column", "path", "--image-is", "path", "--overwrite"]));
    assert_eq!(column(&place, "text"), ["a, [cat]", "b", "NULL"]);
    assert!(column(&place, "error")[2].starts_with("object 3: invalid type: integer `7`"));
    fs::write(place.path("data/web.json"), &array[..array.len() - 3]).unwrap();
    let said = place.fails(1, &run("data/web.json", &["--image-column", "path", "--image-is", "path", "--overwrite"]));
    assert!(said.contains("web.json") && said.contains("is not closed"), "{said}");
}

#[test]
fn a_csv_value_that_no_type_holds_makes_its_column_text() {
    let place = place();
    let lines = |last: &str| {
        let rows: String = (1..20).map(|n| format!("cat.png,cat {n},2020-01-0{},{n}\n", n % 9 + 1)).collect();
        format!("path,text,day,n\n{rows}cat.png,cat last,{last}\n")
    };
    for (last, day, n) in [
        ("2020-01-09,20", "Date32", "Int64"),
        ("0000-00-00,20", "Utf8", "Int64"),
        ("2020-02-30,9223372036854775808", "Utf8", "Utf8"),
        (",NaN", "Date32", "Utf8"),
    ] {
        fs::write(place.path("data/late.csv"), lines(last)).unwrap();
        place.ok(&run(
            "data/late.csv",
            &["--image-column", "path", "--image-is", "path", "--checkpoint-rows", "4", "--overwrite"],
        ));
        for (name, wanted) in [("day", day), ("n", n)] {
            let wrong = format!("SELECT count(*) FROM t WHERE replace(arrow_typeof({name}), 'View', '') <> '{wanted}'");
            assert_eq!(place.number("pairs", &wrong), 0, "{last}: {name} is {:?}", column(&place, name));
        }
        assert_eq!(column(&place, "kept"), ["true"; 20]);
    }
    // A CSV field that is not UTF-8 is treated like a Parquet text; a row with missing fields is named by its line in
    // the file.
    let bad = [b"path,text,alt\ncat.png,caf\xe9,x\n".as_slice(), b"cat.png,\"two\nlines\",\xff\n"].concat();
    fs::write(place.path("data/late.csv"), &bad).unwrap();
    place.ok(&run("data/late.csv", &["--image-column", "path", "--image-is", "path", "--overwrite"]));
    assert_eq!(column(&place, "kept"), ["false", "true"]);
    assert_eq!(column(&place, "error")[0], "column text: bytes that are not UTF-8: \"caf\u{fffd}\"");
    assert_eq!(column(&place, "alt"), ["x", "\u{fffd}"]);
    fs::write(place.path("data/late.csv"), [&bad[..], b"cat.png\n"].concat()).unwrap();
    let said = place.fails(1, &run("data/late.csv", &["--image-column", "path", "--image-is", "path", "--overwrite"]));
    assert!(said.contains("late.csv") && said.contains("line 5 has 1 field, and the header 3"), "{said}");
}

/// Texts from old Windows editors, tar files joined by cat, and macOS's hidden files.
#[test]
#[cfg(unix)]
fn what_others_leave_is_named() {
    let place = Place::new();
    let cat = fs::read(root(CAT)).unwrap();
    fs::create_dir(place.path("pictures")).unwrap();
    for name in ["a", "b"] {
        fs::write(place.path(&format!("pictures/{name}.png")), &cat).unwrap();
    }
    fs::write(place.path("pictures/a.txt"), b"caf\xe9 na\xefve").unwrap();
    fs::write(place.path("pictures/b.txt"), "a cat").unwrap();
    let tar = |to: &str, names: [&str; 2]| {
        let mut command = std::process::Command::new("tar");
        let done = command.args(["cf", to, "-C", "pictures"]).args(names).current_dir(place.path("")).status().unwrap();
        assert!(done.success());
    };
    tar("a.tar", ["a.png", "a.txt"]);
    tar("b.tar", ["b.png", "b.txt"]);
    fs::create_dir(place.path("tars")).unwrap();
    for name in ["a.tar", "b.tar"] {
        fs::copy(place.path(name), place.path(&format!("tars/{name}"))).unwrap();
    }
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    for (source, dest) in [("pictures", "one"), ("tars", "two")] {
        place.ok(&["run", source, dest, "--recipe", "recipe.sql"]);
        let bad = "SELECT count(*) FROM t WHERE starts_with(text, 'caf') AND NOT kept AND starts_with(error, 'text: bytes that are not UTF-8')";
        assert_eq!(place.number(dest, bad), 1, "{source}");
        assert_eq!(place.number(dest, "SELECT count(*) FROM t WHERE text = 'a cat' AND kept AND error IS NULL"), 1);
    }
    let joined = [fs::read(place.path("b.tar")).unwrap(), fs::read(place.path("a.tar")).unwrap()].concat();
    fs::write(place.path("joined.tar"), joined).unwrap();
    let output = place.run(&["run", "joined.tar", "three", "--recipe", "recipe.sql"]);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("joined.tar: bytes follow the end of its archive"), "{said}");
    let said = text(&place.run(&["run", "b.tar", "four", "--recipe", "recipe.sql"]).stderr);
    assert!(!said.contains("bytes follow"), "{said}");

    fs::create_dir(place.path("table")).unwrap();
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS n) TO 'table/0.parquet'"]);
    for name in ["._0.parquet", "_1.parquet"] {
        fs::copy(place.path("table/0.parquet"), place.path(&format!("table/{name}"))).unwrap();
        let said = place.fails(1, &["sql", "-c", "SELECT count(*) FROM 'table'"]);
        assert!(said.contains(&format!("table/{name}: a file whose name begins with . or _")), "{said}");
        fs::remove_file(place.path(&format!("table/{name}"))).unwrap();
    }
    assert_eq!(place.number("table", "SELECT count(*) FROM t"), 1);
}
