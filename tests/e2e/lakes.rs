//! Tables of other programs, read and written in SQL: NaN, Hive partitions, Delta constraints, names with brackets.

use std::fs;

use serde_json::{Value, json};

use super::Place;

const CSV: [&str; 3] = ["sql", "--format", "csv"];

#[track_caller]
fn csv(place: &Place, sql: &str) -> String {
    place.ok(&[&CSV[..], &["-c", sql]].concat())
}

#[track_caller]
fn refused(place: &Place, sql: &str) -> String {
    place.fails(1, &["sql", "-c", sql])
}

/// A Delta table of files in its folder, each with its log statistics, as written by deltalake.
fn delta(place: &Place, table: &str, fields: &Value, configuration: &Value, files: &[(&str, Value)]) {
    fs::create_dir_all(place.path(table).join("_delta_log")).unwrap();
    let schema = json!({ "type": "struct", "fields": fields }).to_string();
    let protocol = json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 3 } });
    let metadata = json!({ "metaData": {
        "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9", "format": { "provider": "parquet", "options": {} },
        "schemaString": schema, "partitionColumns": [], "configuration": configuration, "createdTime": 1_587_968_585_495_u64,
    } });
    let adds = files.iter().map(|(name, stats)| {
        let size = fs::metadata(place.path(table).join(name)).unwrap().len();
        json!({ "add": { "path": name, "partitionValues": {}, "size": size, "modificationTime": 1_587_968_586_000_u64,
                         "dataChange": true, "stats": stats.to_string() } })
    });
    let lines: Vec<String> = [protocol, metadata].into_iter().chain(adds).map(|line| line.to_string()).collect();
    fs::write(place.path(table).join("_delta_log/00000000000000000000.json"), lines.join("\n") + "\n").unwrap();
}

fn field(name: &str, of: &str) -> Value {
    json!({ "name": name, "type": of, "nullable": true, "metadata": {} })
}

const NAN: &str = "(VALUES (1, 0.5, 7), (2, 'NaN'::DOUBLE, 7), (3, 0.5, 7)) AS v(id, f, n)";

#[test]
fn nan_is_nan_in_every_table() {
    let place = Place::new();
    place.ok(&[
        "sql",
        "-c",
        &format!("COPY (SELECT * FROM {NAN}) TO 'nan.parquet'; COPY (SELECT * FROM {NAN}) TO 'd/a.parquet'"),
    ]);
    place.ok(&[
        "sql",
        "-c",
        &format!("COPY (SELECT * FROM {NAN}) TO 'p/day=1/a.parquet'; COPY (SELECT * FROM {NAN}) TO 'lake/a.parquet'"),
    ]);
    let least = json!({ "id": 1, "f": 0.5, "n": 7 });
    let stats = json!({ "numRecords": 3, "minValues": least, "maxValues": { "id": 3, "f": 0.5, "n": 7 },
                        "nullCount": { "id": 0, "f": 0, "n": 0 } });
    let fields = json!([field("id", "long"), field("f", "double"), field("n", "long")]);
    delta(&place, "lake", &fields, &json!({}), &[("a.parquet", stats)]);
    let url = format!("file://{}", place.path("nan.parquet").display());
    for table in ["nan.parquet", "d", "d/*.parquet", "p", "lake", "lake@0", url.as_str()] {
        let t = format!("'{table}'");
        assert_eq!(
            csv(&place, &format!("SELECT id, f, n FROM {t} ORDER BY id")),
            "id,f,n\n1,0.5,7\n2,NaN,7\n3,0.5,7\n",
            "{table}"
        );
        for (filter, ids) in [
            ("isnan(f)", "2\n"),
            ("f > 0.9", "2\n"),
            ("f = 0.5", "1\n3\n"),
            ("f <> 0.5", "2\n"),
            ("n = 7", "1\n2\n3\n"),
            ("n > 7", ""),
        ] {
            let found = csv(&place, &format!("SELECT id FROM {t} WHERE {filter} ORDER BY id"));
            assert_eq!(found, format!("id\n{ids}"), "{table}: {filter}");
        }
        assert_eq!(
            csv(&place, &format!("SELECT avg(f) AS a, max(f) AS m, count(*) AS n FROM {t}")),
            "a,m,n\nNaN,NaN,3\n",
            "{table}"
        );
        assert_eq!(csv(&place, &format!("SELECT id FROM {t} ORDER BY f DESC LIMIT 1")), "id\n2\n", "{table}");
        place.ok(&["sql", "-c", &format!("COPY (SELECT * FROM {t}) TO 'copy.parquet'")]);
        assert_eq!(place.number("copy.parquet", "SELECT count(*) FROM t WHERE isnan(f)"), 1, "{table}");
    }
    let create = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'd'; SELECT count(*) AS n FROM t WHERE isnan(f)";
    assert_eq!(csv(&place, create), "n\n1\n");
}

/// Folder names that Spark and DuckDB use for these values.
const FOLDERS: [(&str, &str); 10] = [
    ("A%2FA", "A/A"),
    ("B%20B", "B B"),
    ("R%26D", "R&D"),
    ("a%3Db", "a=b"),
    ("K%C3%B6ln", "Köln"),
    ("100%25", "100%"),
    ("x%3Ay", "x:y"),
    ("it%27s", "it's"),
    ("plain", "plain"),
    // A folder named by hand.
    ("c=d", "c=d"),
];

#[test]
fn folders_of_hive_say_what_they_said() {
    let place = Place::new();
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS id) TO 'a.parquet'; COPY (SELECT 1 AS id) TO 'a.csv'"]);
    for (root, kind) in [("web", "parquet"), ("text", "csv")] {
        for folder in FOLDERS.iter().map(|(folder, _)| *folder).chain(["__HIVE_DEFAULT_PARTITION__"]) {
            fs::create_dir_all(place.path(&format!("{root}/cat={folder}"))).unwrap();
            fs::copy(place.path(&format!("a.{kind}")), place.path(&format!("{root}/cat={folder}/0.{kind}"))).unwrap();
        }
        let count = |filter: &str| csv(&place, &format!("SELECT count(*) AS n FROM '{root}' WHERE {filter}"));
        for (_, value) in FOLDERS {
            let value = value.replace('\'', "''");
            assert_eq!(count(&format!("cat = '{value}'")), "n\n1\n", "{value}");
            assert_eq!(count(&format!("'{value}' = cat AND id = 1")), "n\n1\n", "{value}");
            assert_eq!(count(&format!("cat IN ('{value}', 'none')")), "n\n1\n", "{value}");
        }
        for (filter, rows) in [
            ("cat IS NULL", 1),
            ("cat IS NOT NULL", 10),
            ("cat <> 'plain'", 9),
            ("cat = '__HIVE_DEFAULT_PARTITION__'", 0),
            ("cat LIKE '%''%'", 1),
            ("cat = 'none'", 0),
            ("NOT cat = 'none'", 10),
        ] {
            assert_eq!(count(filter), format!("n\n{rows}\n"), "{filter}");
        }
        let counts =
            csv(&place, &format!("SELECT count(*) AS a, count(cat) AS b, count(DISTINCT cat) AS c FROM '{root}'"));
        assert_eq!(counts, "a,b,c\n11,10,10\n");
        assert_eq!(csv(&place, &format!("SELECT id, cat FROM '{root}' WHERE cat IS NULL")), "id,cat\n1,\n");
        assert_eq!(
            csv(&place, &format!("SELECT cat FROM '{root}' ORDER BY cat NULLS FIRST LIMIT 2")),
            "cat\n\"\"\n100%\n"
        );
    }
    // Numeric values are inferred in a query, or declared by a table.
    for n in ["1", "12", "__HIVE_DEFAULT_PARTITION__"] {
        fs::create_dir_all(place.path(&format!("numbers/n={n}"))).unwrap();
        fs::copy(place.path("a.parquet"), place.path(&format!("numbers/n={n}/0.parquet"))).unwrap();
    }
    assert_eq!(csv(&place, "SELECT count(*) AS c FROM 'numbers' WHERE n = 1"), "c\n1\n");
    let create = "CREATE EXTERNAL TABLE t (id BIGINT, n INT) STORED AS PARQUET PARTITIONED BY (n) LOCATION 'numbers/'";
    let asked = "SELECT n, arrow_typeof(n) AS t FROM t ORDER BY n; SELECT sum(n) AS s, max(n) AS m, count(n) AS c FROM t; \
                 SELECT count(*) AS c FROM t WHERE n > 1; SELECT count(*) AS c FROM t WHERE n IS NULL";
    let found = csv(&place, &format!("{create}; {asked}"));
    assert_eq!(found, "n,t\n1,Int32\n12,Int32\n,Int32\ns,m,c\n13,12,2\nc\n1\nc\n1\n");
    fs::rename(place.path("numbers/n=12"), place.path("numbers/n=twelve")).unwrap();
    let said = refused(&place, &format!("{create}; SELECT * FROM t"));
    assert!(said.contains("numbers/n=twelve/0.parquet: its folder n=twelve cannot be read as Int32"), "{said}");
}

#[test]
fn copies_keep_null_and_the_empty_text_apart() {
    let place = Place::new();
    let values = "(VALUES (1, NULL), (2, ''), (3, 'x'), (4, 'a/b'), (5, 'a=b'), (6, '100%'), (7, 'R&D'), (8, 'Köln'), (9, 'x:y')) v(id, cat)";
    place.ok(&[
        "sql",
        "-c",
        &format!("COPY (SELECT * FROM {values}) TO 'out/' STORED AS PARQUET PARTITIONED BY (cat)"),
    ]);
    let wanted = csv(&place, &format!("SELECT id, cat, cat IS NULL AS n FROM {values} ORDER BY id"));
    let read = "SELECT id, cat, cat IS NULL AS n FROM 'out' ORDER BY id";
    assert_eq!(csv(&place, read), wanted);
    assert!(place.path("out/cat=__HIVE_DEFAULT_PARTITION__").is_dir() && place.path("out/cat=").is_dir());
    // Numbers: NULL is not 0. INSERT behaves the same.
    let numbers = "(VALUES (1, NULL), (2, 0), (3, 7)) v(id, n)";
    place.ok(&[
        "sql",
        "-c",
        &format!("COPY (SELECT * FROM {numbers}) TO 'numbers/' STORED AS PARQUET PARTITIONED BY (n)"),
    ]);
    let insert = "CREATE EXTERNAL TABLE t (id BIGINT, n INT) STORED AS PARQUET PARTITIONED BY (n) LOCATION 'numbers/'; \
                  INSERT INTO t VALUES (4, NULL), (5, 0), (6, 8)";
    place.ok(&["sql", "-c", insert]);
    let read = "SELECT id, n FROM 'numbers' ORDER BY id";
    assert_eq!(csv(&place, read), "id,n\n1,\n2,0\n3,7\n4,\n5,0\n6,8\n");
    let keep = "SET datafusion.execution.keep_partition_by_columns = true; COPY (SELECT 1 AS id, 2 AS n) TO 'kept/' STORED AS PARQUET PARTITIONED BY (n)";
    assert!(refused(&place, keep).contains("keep_partition_by_columns"));
}

#[test]
fn sql_does_not_write_delta() {
    let place = Place::new();
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS id, 'a' AS text) TO 'lake/a.parquet'"]);
    let fields = json!([field("id", "long"), field("text", "string")]);
    let rules = json!({ "delta.constraints.pos": "id >= 0", "delta.appendOnly": "true" });
    delta(&place, "lake", &fields, &rules, &[("a.parquet", json!({ "numRecords": 1 }))]);
    for table in ["lake", "lake@0"] {
        for sql in [
            "INSERT INTO 't' SELECT -5 AS id, 'x' AS text",
            "INSERT INTO 't' VALUES (9, 'past')",
            "DELETE FROM 't'",
            "UPDATE 't' SET id = -1 WHERE id = 1",
        ] {
            let said = refused(&place, &sql.replace("'t'", &format!("'{table}'")));
            assert!(
                said.contains(
                    "lake is a Delta table, which SQL reads and does not write: capfilt run --table-format delta"
                ),
                "{said}"
            );
        }
    }
    for to in ["lake/b.parquet", "lake/", "lake/more/"] {
        let said = refused(&place, &format!("COPY (SELECT 2 AS id, 'b' AS text) TO '{to}' STORED AS PARQUET"));
        assert!(said.contains("is a Delta table, and a file that its log does not name is not part of it"), "{said}");
    }
    let said = refused(&place, "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'lake'");
    assert!(said.contains("lake is a Delta table") && said.contains("FROM 'lake'"), "{said}");
    assert_eq!(place.names("lake"), ["_delta_log", "a.parquet"]);
    assert_eq!(super::delta::versions(&place, "lake"), 1);
    assert_eq!(csv(&place, "SELECT * FROM 'lake'"), "id,text\n1,a\n");
}

#[test]
fn sql_does_not_write_to_stores() {
    let place = Place::new();
    for url in ["s3://lake/out.parquet", "gs://lake/out/", "az://lake/out.csv", "https://example.com/out.json"] {
        let said = refused(&place, &format!("COPY (SELECT 1 AS n) TO '{url}' STORED AS CSV"));
        assert!(said.contains(url) && said.contains("SQL writes to disks") && !said.contains("bug"), "{said}");
    }
}

#[test]
fn a_name_with_brackets_is_a_name() {
    let place = Place::new();
    fs::create_dir(place.path("d[1]")).unwrap();
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS n) TO 'a[1].parquet'; COPY (SELECT 2 AS n) TO 'd[1]/b*.csv'; COPY (SELECT 3 AS n) TO 'a1.parquet'"]);
    assert!(place.path("a[1].parquet").is_file() && place.path("d[1]/b*.csv").is_file());
    for (name, n) in [("a[1].parquet", 1), ("d[1]/b*.csv", 2), ("d[1]", 2), ("a[0-9].parquet", 3), ("a*1*.parquet", 4)]
    {
        let sum = format!("s\n{n}\n");
        assert_eq!(csv(&place, &format!("SELECT sum(n) AS s FROM '{name}'")), sum, "{name}");
        let table = format!("t={name}");
        assert_eq!(
            place.ok(&[&CSV[..], &["--table", &table, "-c", "SELECT sum(n) AS s FROM t"]].concat()),
            sum,
            "{name}"
        );
    }
    let create = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'a[1].parquet'; SELECT n FROM t";
    assert_eq!(csv(&place, create), "n\n1\n");

    // A job, a selection of its table, and the report.
    place.slice();
    fs::rename(place.path("slice.parquet"), place.path("web [x].parquet")).unwrap();
    let recipe = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                  id % 100 / 100.0 AS itm_score, id % 2 = 0 AS kept, image_error(image) AS error, image FROM web";
    fs::write(place.path("recipe.sql"), format!("\u{feff}{recipe}")).unwrap();
    place.ok(&["run", "web [x].parquet", "pairs [1]", "--recipe", "recipe.sql"]);
    place.ok(&["select", "pairs [1]", "best [2]", "--keep-fraction", "0.5", "--min-itm-of", "web=0.1"]);
    place.ok(&["report", "pairs [1]", "-o", "report.html"]);
    assert_eq!(place.number("best [2]", "SELECT count(*) FROM t"), 40);
}

const STRUCT: &str = r#"{"type": "struct", "fields": [
    {"name": "bytes", "type": "binary", "nullable": true, "metadata": {}}, {"name": "path", "type": "string", "nullable": true, "metadata": {}}]}"#;

/// Hugging Face's image struct with a field added later, and boxes with a score added later.
#[test]
fn a_struct_of_delta_that_grew_is_read() {
    let place = Place::new();
    place.slice();
    let files = [
        ("a", "named_struct('bytes', image)", "[named_struct('t', 'x')]", "id % 2 = 0"),
        ("b", "named_struct('bytes', image, 'path', 'p.jpg')", "[named_struct('t', 'x', 'score', 1.5)]", "id % 2 = 1"),
    ];
    for (name, image, boxes, which) in files {
        let rows = format!("SELECT id, text, {image} AS image, {boxes} AS boxes FROM 'slice.parquet' WHERE {which}");
        place.ok(&["sql", "-c", &format!("COPY ({rows}) TO 'lake/{name}.parquet'")]);
    }
    let [image, element]: [Value; 2] = [
        serde_json::from_str(STRUCT).unwrap(),
        json!({ "type": "struct", "fields": [field("t", "string"), field("score", "double")] }),
    ];
    let boxes = json!({ "type": "array", "elementType": element, "containsNull": true });
    let nested = |name: &str, of: Value| json!({ "name": name, "type": of, "nullable": true, "metadata": {} });
    let fields = json!([field("id", "long"), field("text", "string"), nested("image", image), nested("boxes", boxes)]);
    let stats = |n: i64| json!({ "numRecords": n });
    let count = |name: &str| place.number(&format!("lake/{name}.parquet"), "SELECT count(*) FROM t");
    delta(&place, "lake", &fields, &json!({}), &[("a.parquet", stats(count("a"))), ("b.parquet", stats(count("b")))]);
    let recipe = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                  1.0 AS itm_score, true AS kept, image_error(image) AS error, image FROM web";
    fs::write(place.path("recipe.sql"), recipe).unwrap();
    place.ok(&["run", "lake", "pairs", "--recipe", "recipe.sql"]);
    let of = |which: &str| place.number("pairs", &format!("SELECT count(*) FROM t WHERE id % 2 = {which}"));
    assert_eq!(of("0 AND image_path IS NULL AND boxes[1]['t'] = 'x' AND boxes[1]['score'] IS NULL"), count("a"));
    assert_eq!(of("1 AND image_path = 'p.jpg' AND boxes[1]['score'] = 1.5"), count("b"));
}

/// Hugging Face reads the path of a struct without bytes; a job reports that it does not, and what to do.
#[test]
fn an_image_that_is_a_path_alone_is_named() {
    let place = Place::new();
    place.slice();
    let rows = "SELECT id, text, CASE WHEN id % 2 = 0 THEN named_struct('bytes', image, 'path', 'cat.jpg') \
                ELSE named_struct('bytes', NULL::BYTEA, 'path', 'dog.jpg') END AS picture FROM 'slice.parquet'";
    place.ok(&["sql", "-c", &format!("COPY ({rows}) TO 'hf.parquet'")]);
    let recipe = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                  1.0 AS itm_score, true AS kept, image_error(image) AS error, image FROM web";
    fs::write(place.path("recipe.sql"), recipe).unwrap();
    place.ok(&["run", "hf.parquet", "pairs", "--recipe", "recipe.sql", "--image-column", "picture"]);
    let told =
        "starts_with(error, 'no bytes: only a path (dog.jpg)') AND strpos(error, 'picture[''path'']') > 0 AND NOT kept";
    let odd = place.number("hf.parquet", "SELECT count(*) FROM t WHERE id % 2 = 1");
    assert_eq!(place.number("pairs", &format!("SELECT count(*) FROM t WHERE {told} AND id % 2 = 1")), odd);
    // One of the other rows has only a path too: its image was missing from the start.
    let all = place.number("hf.parquet", "SELECT count(*) FROM t WHERE picture['bytes'] IS NULL");
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE starts_with(error, 'no bytes')"), all);
}
