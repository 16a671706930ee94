//! Files by their names in SQL, which a job reads too: both find the same rows, columns, types and values.

use std::fs;
use std::process::Command;

use super::{CAT, KEEP_ALL as RECIPE, Place, root, text};

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    place
}

/// Arguments of a job over paths of images, which are beside the recipe.
fn run(source: &str) -> Vec<&str> {
    let images = ["--image-column", "path", "--image-is", "path", "--image-root", "."];
    [&["run", source, "pairs", "--recipe", "recipe.sql"][..], &images].concat()
}

/// What a query says, as CSV.
fn rows(place: &Place, sql: &str) -> String {
    place.ok(&["sql", "--format", "csv", "-c", sql])
}

/// Columns of CSV and JSON lines are found by their names, and have the types that a job finds, whatever DataFusion's own
/// readers make of such files.
#[test]
fn text_files_are_read_in_sql_as_in_jobs() {
    let place = place();
    let all = |from: &str| rows(&place, &format!("SELECT a, b, c FROM {from} ORDER BY a"));
    let create = |more: &str| format!("CREATE EXTERNAL TABLE t {more}; SELECT a, b, c FROM t ORDER BY a");
    fs::create_dir(place.path("csv")).unwrap();
    fs::write(place.path("csv/1.csv"), "a,b\n1,007\n").unwrap();
    fs::write(place.path("csv/2.csv"), "\u{feff}\"b\",\"c\",\"a\"\r\n2026-02-30,x,10\r\n").unwrap();
    let wanted = "a,b,c\n1,007,\n10,2026-02-30,x\n";
    assert_eq!(all("'csv'"), wanted);
    assert_eq!(rows(&place, &create("STORED AS CSV LOCATION 'csv/'")), wanted);
    fs::create_dir(place.path("whole")).unwrap();
    fs::write(place.path("whole/1.csv"), "a,b\n1,2\n").unwrap();
    fs::write(place.path("whole/2.csv"), "b,a\n20,10\n").unwrap();
    let said = place.fails(
        1,
        &["sql", "-c", "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'whole/' OPTIONS ('format.has_header' 'true')"],
    );
    assert!(said.contains("whole/2.csv: its columns are not those of") && said.contains("by position"), "{said}");
    let declared = "CREATE EXTERNAL TABLE t (a TEXT, b TEXT) STORED AS CSV LOCATION 'whole/' OPTIONS ('format.has_header' 'false')";
    place.ok(&["sql", "-c", declared]);
    fs::remove_file(place.path("whole/2.csv")).unwrap();
    let said = place.fails(1, &["sql", "-c", "CREATE EXTERNAL TABLE t (b INT, a INT) STORED AS CSV LOCATION 'whole/'"]);
    assert!(said.contains("whole/1.csv: its column a is not where the statement declares it"), "{said}");
    place.ok(&["sql", "-c", "CREATE EXTERNAL TABLE t (a INT, b INT) STORED AS CSV LOCATION 'whole/'"]);
    fs::write(place.path("whole/2.csv"), "b,a\n20,10\n").unwrap();
    // Files without a header: the first row of each would pass for names.
    fs::create_dir(place.path("bare")).unwrap();
    fs::write(place.path("bare/1.csv"), "1,2\n").unwrap();
    fs::write(place.path("bare/2.csv"), "3,4\n").unwrap();
    let said = place.fails(1, &["sql", "-c", "SELECT * FROM 'bare'"]);
    assert!(said.contains("bare/2.csv: its header has no column in common with"), "{said}");

    for (folder, packed) in [("csv", "packed"), ("whole", "whole-packed")] {
        fs::create_dir(place.path(packed)).unwrap();
        for name in ["1.csv", "2.csv"] {
            let copy = place.path(&format!("{packed}/{name}"));
            fs::copy(place.path(&format!("{folder}/{name}")), &copy).unwrap();
            assert!(Command::new("gzip").arg(copy).status().unwrap().success());
        }
    }
    assert_eq!(all("'packed'"), wanted);
    let said = place.fails(
        1,
        &[
            "sql",
            "-c",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'whole-packed/' OPTIONS ('format.compression' 'gzip')",
        ],
    );
    assert!(said.contains("whole-packed/2.csv.gz: its columns are not those of"), "{said}");

    // What Python's json module and editors write.
    fs::write(place.path("a.json"), "\u{feff}[{\"n\": 1, \"x\": NaN},\n {\"n\": 2, \"x\": 0.5}]").unwrap();
    assert_eq!(rows(&place, "SELECT n, x FROM 'a.json' ORDER BY n"), "n,x\n1,\n2,0.5\n");
    let external = "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'a.json'; SELECT n, x FROM t ORDER BY n";
    assert_eq!(rows(&place, external), "n,x\n1,\n2,0.5\n");
    fs::write(place.path("b.jsonl"), "{\"tags\": [\"x\"]}\n{\"tags\": \"y\"}\n{\"tags\": [\"z\"]}\n").unwrap();
    let output = place.run(&["sql", "--format", "csv", "-c", "SELECT tags FROM 'b.jsonl'"]);
    assert_eq!(text(&output.stdout), "tags\n[x]\n\"\"\n[z]\n");
    assert!(text(&output.stderr).contains("b.jsonl, row 1: line 2: "), "{}", text(&output.stderr));
}

/// Late fractions, and columns that come late, are beyond the rows of which DataFusion's own reader infers types.
#[test]
fn types_hold_all_values_of_a_file() {
    let place = place();
    let lines = "{\"n\": 1}\n".repeat(1_500) + "{\"n\": 1.75, \"late\": 2}\n";
    fs::create_dir(place.path("j")).unwrap();
    fs::write(place.path("j/a.json"), lines).unwrap();
    let sums = "SELECT sum(n) AS n, sum(late) AS late FROM";
    assert_eq!(rows(&place, &format!("{sums} 'j/a.json'")), "n,late\n1501.75,2\n");
    let external = format!("CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'j/'; {sums} t");
    assert_eq!(rows(&place, &external), "n,late\n1501.75,2\n");
    // What DataFusion writes stays DataFusion's.
    let insert = "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'j/'; INSERT INTO t SELECT 0.25, 3; SELECT sum(n) AS n, sum(late) AS late FROM 'j'";
    assert_eq!(rows(&place, insert), "count\n1\nn,late\n1502.0,5\n");
}

/// A whole number that a fraction cannot hold is refused, at any depth: rounded, an id might become another one.
#[test]
fn whole_numbers_are_not_rounded() {
    let place = place();
    let of = |n: &str| format!("{{\"path\": \"cat.png\", \"text\": \"a\", {n}}}\n");
    let cases = [
        (of("\"n\": 12345678901234567890"), "column n: "),
        (of("\"n\": 9007199254740993") + &of("\"n\": 0.5"), "column n: "),
        (of("\"m\": {\"id\": 12345678901234567890}"), "column m: "),
        (of("\"l\": [9007199254740993, 1.5]"), "column l: "),
    ];
    for (number, (lines, column)) in cases.iter().enumerate() {
        let name = format!("{number}.jsonl");
        fs::write(place.path(&name), lines).unwrap();
        let query = format!("SELECT * FROM '{name}'");
        for args in [run(&name), vec!["sql", "-c", &query]] {
            let said = place.fails(1, &args);
            assert!(said.contains(&name) && said.contains(column) && said.contains("would be rounded"), "{said}");
        }
    }
    fs::write(place.path("c.csv"), "n\n9007199254740993\n0.5\n").unwrap();
    assert!(place.fails(1, &["sql", "-c", "SELECT * FROM 'c.csv'"]).contains("would be rounded"));
    fs::write(place.path("d.jsonl"), of("\"l\": [9007199254740992, 1.5], \"m\": {\"x\": 0.5}")).unwrap();
    assert_eq!(rows(&place, "SELECT l, m['x'] AS x FROM 'd.jsonl'"), "l,x\n\"[9007199254740992.0, 1.5]\",0.5\n");
    place.ok(&run("d.jsonl"));
    let same = "SELECT count(*) FROM t WHERE l[1] = 9007199254740992 AND l[2] = 1.5 AND m['x'] = 0.5";
    assert_eq!(place.number("pairs", same), 1);
}

/// A time with a zone and one without are not the same kind of value.
#[test]
fn times_with_and_without_a_zone_are_texts() {
    let place = place();
    for (name, time) in [("a", "2020-06-01 12:00:00"), ("b", "2020-06-01T12:00:00+02:00")] {
        fs::create_dir_all(place.path("t")).unwrap();
        fs::write(place.path(&format!("t/{name}.csv")), format!("at\n{time}\n")).unwrap();
    }
    assert_eq!(rows(&place, "SELECT at FROM 't' ORDER BY at"), "at\n2020-06-01 12:00:00\n2020-06-01T12:00:00+02:00\n");
    assert_eq!(rows(&place, "SELECT at FROM 't/b.csv'"), "at\n2020-06-01T10:00:00Z\n");
    assert_eq!(rows(&place, "SELECT at FROM 't/a.csv'"), "at\n2020-06-01T12:00:00\n");
}

/// Shards of JSON lines may differ in the fields of objects, in what lists hold, and may be empty.
#[test]
fn shards_of_json_lines_are_one_table() {
    let place = place();
    fs::create_dir(place.path("s")).unwrap();
    let row = |more: &str| format!("{{\"path\": \"cat.png\", \"text\": \"a\"{more}}}\n");
    for (name, lines) in [
        ("a", row(", \"k\": {\"a\": 1}, \"l\": [1], \"o\": [{\"a\": 1}], \"e\": []")),
        ("b", row(", \"k\": {\"b\": 0.5}, \"l\": [1.5], \"o\": [{\"a\": 1.5}], \"e\": [1]")),
        ("c", row("")),
        ("d", String::new()),
        ("e", "\n\n".to_owned()),
    ] {
        fs::write(place.path(&format!("s/{name}.jsonl")), lines).unwrap();
    }
    place.ok(&run("s"));
    let both = "SELECT count(*) FROM t WHERE (k['a'] = 1 AND l[1] = 1 AND o[1]['a'] = 1 AND cardinality(e) = 0) OR (k['b'] = 0.5 AND l[1] = 1.5 \
                AND o[1]['a'] = 1.5 AND e[1] = 1) OR k IS NULL";
    assert_eq!(place.number("pairs", both), 3);
    assert_eq!(rows(&place, &format!("{} ", both.replace("FROM t", "FROM 's'"))), "count(*)\n3\n");
    // Nothing in any of them.
    fs::create_dir(place.path("none")).unwrap();
    fs::write(place.path("none/a.jsonl"), "").unwrap();
    let said = place.fails(1, &run("none"));
    assert!(said.contains("the source has no path column \"path\""), "{said}");
}

/// SQL lists a folder at each query, and as a job does.
#[test]
fn no_file_of_a_folder_is_left_out_silently() {
    let place = place();
    fs::create_dir_all(place.path("t/sub")).unwrap();
    let twice = "SELECT count(*) AS n FROM 't'; COPY (SELECT 2 AS n) TO 't/b.csv'; SELECT count(*) AS n FROM 't'";
    fs::write(place.path("t/a.csv"), "n\n1\n").unwrap();
    assert_eq!(rows(&place, twice), "n\n1\ncount\n1\nn\n2\n");

    for (from, to) in [("csv", "t/sub/c.csv"), ("parquet", "t/sub/c.parquet")] {
        place.ok(&["sql", "-c", &format!("COPY (SELECT 3 AS n) TO '{to}'; COPY (SELECT 3 AS n) TO 't/x.{from}'")]);
        for query in ["SELECT n FROM 't'", &format!("CREATE EXTERNAL TABLE t STORED AS {from} LOCATION 't/'")] {
            let said = place.fails(1, &["sql", "-c", query]);
            assert!(said.contains(&format!("{to}: it is in a folder whose name is not name=value")), "{said}");
        }
        // The next kind of file comes first then.
        for name in place.names("t").iter().filter(|name| name.ends_with(from)) {
            fs::remove_file(place.path(&format!("t/{name}"))).unwrap();
        }
        fs::remove_file(place.path(to)).unwrap();
    }
    let sub = "SET datafusion.execution.listing_table_ignore_subdirectory = false; SELECT count(*) AS n FROM 't'";
    fs::write(place.path("t/a.csv"), "n\n1\n").unwrap();
    fs::write(place.path("t/sub/c.csv"), "n\n1\n").unwrap();
    assert_eq!(rows(&place, sub), "n\n2\n");
    // Bookkeeping and empty files.
    fs::rename(place.path("t/sub"), place.path("t/_sub")).unwrap();
    fs::write(place.path("t/empty.csv"), "").unwrap();
    let output = place.run(&["sql", "--format", "csv", "-c", "SELECT count(*) AS n FROM 't'"]);
    assert_eq!(text(&output.stdout), "n\n1\n");
    assert!(text(&output.stderr).contains("t/empty.csv: it is empty"), "{}", text(&output.stderr));

    // A job names compressed files of a folder.
    fs::create_dir(place.path("packed")).unwrap();
    fs::write(place.path("packed/a.csv"), "path,text\ncat.png,a\n").unwrap();
    fs::write(place.path("packed/b.csv.gz"), "of any content").unwrap();
    let said = text(&place.run(&run("packed")).stderr);
    assert!(said.contains("packed/b.csv.gz: not read") && said.contains("to be unpacked"), "{said}");
}

/// Thousands of damaged rows are not as many warnings.
#[test]
fn few_of_many_damaged_rows_are_named() {
    let place = place();
    fs::write(place.path("a.jsonl"), "{\"n\": 1}\n".to_owned() + &"[]\n".repeat(50)).unwrap();
    let output = place.run(&["sql", "--format", "csv", "-c", "SELECT count(n) AS n FROM 'a.jsonl'"]);
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "n\n1\n");
    assert_eq!((said.matches(", row ").count(), said.matches("further rows of this kind").count()), (5, 1), "{said}");
}

/// A job reads shards of CSV whose columns are in another order.
#[test]
fn csv_shards_are_joined_by_name_in_jobs() {
    let place = place();
    fs::create_dir(place.path("csv")).unwrap();
    fs::write(place.path("csv/1.csv"), "path,text,n\ncat.png,a cat,1\n").unwrap();
    fs::write(place.path("csv/2.csv"), "n,text,path,more\n2,a dog,cat.png,x\n").unwrap();
    place.ok(&run("csv"));
    let both = "SELECT count(*) FROM t WHERE (n = 1 AND text = 'a cat' AND more IS NULL) OR (n = 2 AND text = 'a dog' AND more = 'x')";
    assert_eq!(place.number("pairs", both), 2);
}

/// Declared types that would cut values are refused.
#[test]
fn declared_types_do_not_cut_values() {
    let place = place();
    place.ok(&["sql", "-c", "COPY (SELECT 3.5 AS x, arrow_cast('2026-01-01T00:00:00.123', 'Timestamp(Millisecond, None)') AS t, 7 AS n, 'a' AS s, CAST(1.25 AS DECIMAL(5,2)) AS d) TO 'a.parquet'"]);
    let create = |columns: &str| {
        format!("CREATE EXTERNAL TABLE a ({columns}) STORED AS PARQUET LOCATION 'a.parquet'; SELECT * FROM a")
    };
    for (columns, name) in [
        ("x INT", "x"),
        ("t TIMESTAMP(0)", "t"),
        ("t DATE", "t"),
        ("x REAL", "x"),
        ("x BOOLEAN", "x"),
        ("d INT", "d"),
        ("d DECIMAL(5,1)", "d"),
        ("n DOUBLE", "n"),
    ] {
        let said = place.fails(1, &["sql", "-c", &create(columns)]);
        assert!(said.contains(&format!("{name} is ")) && said.contains("would cut its values"), "{said}");
    }
    let output = place.run(&["sql", "-c", &create("x DOUBLE, n INT, s TEXT, d DECIMAL(9,3), more TEXT")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("a: no file has the declared column more"), "{}", text(&output.stderr));
}

#[test]
fn columns_of_folders_have_any_name_and_one_place() {
    let place = place();
    fs::create_dir_all(place.path("t/K L=a")).unwrap();
    fs::create_dir_all(place.path("u/n=5")).unwrap();
    place.ok(&[
        "sql",
        "-c",
        "COPY (SELECT 1 AS x) TO 't/K L=a/0.parquet'; COPY (SELECT 1 AS x, 2 AS n) TO 'u/n=5/0.parquet'",
    ]);
    let declared = "CREATE EXTERNAL TABLE t (x INT, \"K L\" TEXT) STORED AS PARQUET PARTITIONED BY (\"K L\") LOCATION 't/'; SELECT * FROM t";
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", declared]), "x,K L\n1,a\n");
    let said = place.fails(1, &["sql", "-c", "SELECT n FROM 'u'"]);
    assert!(said.contains("u: its folder n=.. gives it a column n, and it has one of its own"), "{said}");
}

/// A name that no table has can be given to one, whatever is beside it on the disk.
#[test]
fn a_new_table_may_have_the_name_of_a_folder() {
    let place = place();
    fs::create_dir(place.path("photos")).unwrap();
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS n) TO 'photos/0.parquet'"]);
    for create in [
        "TABLE photos",
        "TABLE IF NOT EXISTS photos",
        "OR REPLACE TABLE photos",
        "VIEW photos",
        "OR REPLACE VIEW photos",
    ] {
        let sql = format!("CREATE {create} AS SELECT 5 AS n; SELECT n FROM photos");
        assert_eq!(place.ok(&["sql", "--format", "csv", "-c", &sql]), "n\n5\n", "{create}");
    }
    let twice = "CREATE TABLE IF NOT EXISTS photos AS SELECT 5 AS n; CREATE TABLE IF NOT EXISTS photos AS SELECT 6 AS n; SELECT n FROM photos";
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", twice]), "n\n5\n");
    let said =
        place.fails(1, &["sql", "-c", "CREATE TABLE photos AS SELECT 5 AS n; CREATE TABLE photos AS SELECT 6 AS n"]);
    assert!(said.contains("already exists"), "{said}");
    place.ok(&["sql", "-c", "COPY (SELECT 2 AS n) TO 'b.parquet'"]);
    let external = "CREATE EXTERNAL TABLE photos STORED AS PARQUET LOCATION 'b.parquet'; SELECT n FROM photos";
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", external]), "n\n2\n");
}

/// A folder of several kinds of files is not read in part silently.
#[test]
fn files_of_a_folder_that_are_not_read_are_named() {
    let place = place();
    fs::create_dir(place.path("mixed")).unwrap();
    fs::write(place.path("mixed/1.jsonl"), "{\"text\": \"a\", \"path\": \"x.png\"}\n").unwrap();
    for other in ["2.json", "3.json"] {
        fs::write(place.path(&format!("mixed/{other}")), "{\"text\": \"b\", \"path\": \"y.png\"}\n").unwrap();
    }
    let output = place.run(&["sql", "-c", "SELECT count(*) FROM 'mixed'"]);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("2.json: not read") && said.contains("2 in all"), "{said}");
    let said = text(&place.run(&run("mixed")).stderr);
    assert!(said.contains("2.json: not read") && said.contains("ends in .jsonl"), "{said}");
}
