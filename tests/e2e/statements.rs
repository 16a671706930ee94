//! `capfilt sql`, and other commands that print.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::{Place, root, text};

#[test]
fn statements_print_in_every_format() {
    let place = Place::new();
    let query = "SELECT * FROM (VALUES (1, 'a;b'), (2, NULL)) AS v(n, s) ORDER BY n";
    let run = |format| place.ok(&["sql", "--format", format, "-c", query]);
    assert_eq!(run("csv"), "n,s\n1,a;b\n2,\n");
    assert_eq!(run("nd-json"), "{\"n\":1,\"s\":\"a;b\"}\n{\"n\":2,\"s\":null}\n");
    assert_eq!(run("json"), "[{\"n\":1,\"s\":\"a;b\"},{\"n\":2,\"s\":null}]\n");
    assert!(run("table").contains("| 1 | a;b |"));
    let empty = "SELECT 1 AS n WHERE false";
    assert_eq!(place.ok(&["sql", "--format", "json", "-c", empty]), "[]\n");
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", empty]), "n\n");
    assert_eq!(place.ok(&["sql", "-c", "SET capfilt.seed = 3"]), "");
}

#[test]
fn bytes_are_shown_as_their_number() {
    let place = Place::new();
    let out = place.ok(&[
        "sql",
        "-c",
        "SELECT X'0102' AS b, named_struct('bytes', X'01', 'path', 'p') AS s, [X'010203'] AS l",
    ]);
    assert!(out.contains("| <2 bytes> | {bytes: <1 bytes>, path: p} | [<3 bytes>] |"), "{out}");
    let csv = place.ok(&["sql", "--format", "csv", "-c", "SELECT [1, 2] AS l, named_struct('a', 'x') AS s"]);
    assert_eq!(csv, "l,s\n\"[1, 2]\",{a: x}\n");
}

#[test]
fn statements_are_split_as_sql_says() {
    let place = Place::new();
    let text = "-- a comment; with a semicolon\nSELECT ';' AS a; /* ; */ SELECT 2 AS b -- end\n;";
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", text]), "a\n;\nb\n2\n");
}

/// A filter that a program wrote may have thousands of terms (<https://github.com/apache/datafusion/issues/22229>).
#[test]
fn a_long_expression_has_stack_enough() {
    let place = Place::new();
    let long = format!("SELECT {} AS n", vec!["1"; 1500].join(" + "));
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", &long]), "n\n1500\n");
}

#[test]
fn scripts_run_in_the_order_given() {
    let place = Place::new();
    fs::write(place.path("two.sql"), "SELECT 2 AS two;").unwrap();
    let out =
        place.ok(&["sql", "--format", "csv", "-c", "SELECT 1 AS one", "-f", "two.sql", "-c", "SELECT 3 AS three"]);
    assert_eq!(out, "one\n1\ntwo\n2\nthree\n3\n");
}

#[test]
fn standard_input_is_a_script() {
    let place = Place::new();
    fs::write(place.path("in.sql"), "SELECT 7 AS n;\n").unwrap();
    for args in [&["sql", "--format", "csv"][..], &["sql", "--format", "csv", "-f", "-"]] {
        let input = fs::File::open(place.path("in.sql")).unwrap();
        let output = place.command(args).stdin(input).output().unwrap();
        assert!(output.status.success());
        assert_eq!(text(&output.stdout), "n\n7\n");
    }
}

#[test]
fn files_of_windows_editors_run() {
    let place = Place::new();
    let sql = "\u{feff}SELECT 7 AS n;\r\n";
    fs::write(place.path("bom.sql"), sql).unwrap();
    assert_eq!(place.ok(&["sql", "--format", "csv", "-f", "bom.sql"]), "n\n7\n");
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", sql]), "n\n7\n");
    let input = fs::File::open(place.path("bom.sql")).unwrap();
    let output = place.command(&["sql", "--format", "csv"]).stdin(input).output().unwrap();
    assert_eq!(text(&output.stdout), "n\n7\n");
    fs::write(place.path("utf16.sql"), sql.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let said = place.fails(1, &["sql", "-f", "utf16.sql"]);
    assert!(said.contains("utf16.sql: it is UTF-16") && said.contains("save it as UTF-8"), "{said}");
    let said = place.fails(1, &["run", "web.parquet", "pairs", "--recipe", "utf16.sql"]);
    assert!(said.contains("utf16.sql: it is UTF-16"), "{said}");
}

#[test]
fn a_wrong_argument_is_one_sentence() {
    let place = Place::new();
    let t = "(VALUES (X'00', 'a')) AS t(image, text)";
    for (call, message) in [
        ("itm_score(image)", "itm_score takes itm_score(image, text [, options]), but was called with 1 arguments"),
        (
            "itm_score(image, 5)",
            "itm_score: argument text must be a string (Utf8, LargeUtf8, Utf8View or a dictionary of them), not Int64",
        ),
        ("captions(image, 'x')", "captions: argument n must be a whole number, not Utf8"),
        ("bleu4(text)", "bleu4 takes bleu4(candidate, refs), but was called with 1 arguments"),
        ("hamming(text, 1)", "hamming: argument a must be a whole number, not Utf8"),
    ] {
        let output = place.run(&["sql", "-c", &format!("SELECT {call} FROM {t}")]);
        assert_eq!(text(&output.stderr).trim_end(), format!("error: -c: {message}"));
    }
    let output = place.run(&["sql", "-c", "SET capfilt.seed = 'x'"]);
    assert_eq!(
        text(&output.stderr).trim_end(),
        "error: -c: capfilt.seed must be a whole number of at least 0, not \"x\""
    );
}

#[test]
fn functions_are_shown() {
    let place = Place::new();
    let out = place.ok(&["sql", "--format", "nd-json", "-c", "SHOW FUNCTIONS LIKE 'itm%'"]);
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2, "{out}");
    assert!(rows.iter().all(|row| row["function_name"] == "itm_score" && row["return_type"] == "Float32"), "{out}");
    assert!(place.ok(&["sql", "-c", "SHOW FUNCTIONS LIKE 'fetch_url'"]).contains("| [url]"));
}

#[test]
fn generation_config_is_obeyed_where_it_can_be() {
    let place = Place::new();
    let fixture = root("tests/fixtures/models/captioner");
    let captioner = place.path("captioner");
    fs::create_dir(&captioner).unwrap();
    for entry in fs::read_dir(&fixture).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), captioner.join(entry.file_name())).unwrap();
    }
    let run = |generation: &str| {
        fs::write(captioner.join("generation_config.json"), generation).unwrap();
        let web = root("tests/fixtures/web.parquet");
        let captions = |options| format!("SELECT caption(image{options}) AS c FROM '{web}' WHERE id < 6 ORDER BY id;");
        let query = captions("") + &captions(", named_struct('max_length', 20)");
        let output = place.run(&["sql", "--format", "csv", "--captioner", "captioner", "-c", &query]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let out = text(&output.stdout);
        let (first, second) = out.split_at(out.rfind("c\n").unwrap());
        (first.to_owned(), second.to_owned(), text(&output.stderr))
    };
    let (plain, same, silent) =
        run(r#"{"_from_model_config": true, "eos_token_id": 2, "transformers_version": "5.24.0"}"#);
    assert_eq!(plain, same);
    assert!(!silent.contains("generation_config.json"), "{silent}");
    // An invalid file is ignored as a whole, like in transformers.
    let odd = r#"{"early_stopping": "never", "max_length": "long", "max_new_tokens": 2, "no_repeat_ngram_size": 2}"#;
    let (left_out, same, warning) = run(odd);
    assert_eq!((left_out.as_str(), same.as_str()), (plain.as_str(), plain.as_str()));
    for words in
        ["early_stopping (\"never\")", "max_length (\"long\")", "max_new_tokens (2", "no_repeat_ngram_size (2)"]
    {
        assert!(warning.contains(words), "{warning}");
    }
    assert_eq!(warning.matches("generation_config.json").count(), 1, "once: {warning}");
    // Its minimum yields to the maximum, its own or the call's.
    let (_, _, silent) = run(r#"{"min_length": 30}"#);
    assert!(!silent.contains("min_length"), "{silent}");
    // Options of the call take precedence over the file.
    let (short, whole, silent) = run(r#"{"max_length": 3.0}"#);
    assert_eq!(whole, plain);
    assert!(!silent.contains("generation_config.json"), "{silent}");
    assert!(short.lines().skip(1).all(|caption| caption.split_whitespace().count() <= 2), "{short}");
    assert_ne!(short, plain);
}

#[test]
fn the_first_failure_ends_it() {
    let place = Place::new();
    let output =
        place.run(&["sql", "--format", "csv", "-c", "SELECT 1 AS a; SELECT nope; SELECT 2 AS b", "-c", "SELECT 3"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "a\n1\n", "results alone, and those before the failure");
    let message = text(&output.stderr);
    assert!(message.contains("statement 2") && message.contains("nope"), "{message}");
    // This fails at run time, not while planning.
    let output = place.run(&["sql", "--format", "csv", "-c", "SELECT CAST(s AS INT) FROM (VALUES ('x')) AS v(s)"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn parameters_are_values() {
    let place = Place::new();
    let args = ["sql", "--format", "csv", "--param", "n=0.5", "--param", "s=it's; --", "--param", "q='7'"];
    let run = |query| place.ok(&[&args[..], &["-c", query]].concat());
    assert_eq!(
        run("SELECT $n + 1 AS a, $s AS b, arrow_typeof($q) AS c; SELECT 1 AS d"),
        "a,b,c\n1.5,it's; --,Utf8\nd\n1\n"
    );
    let message = place.fails(1, &["sql", "-c", "SELECT $min_itm"]);
    assert!(message.contains("--param min_itm=VALUE"), "{message}");
}

#[test]
fn tables_are_files_and_folders() {
    let place = Place::new();
    place.ok(&[
        "sql",
        "-c",
        "COPY (SELECT 1 AS n) TO 'a.parquet'; COPY (SELECT 2 AS n) TO 'b.csv'; COPY (SELECT 3 AS n) TO 'c.json'",
    ]);
    place.ok(&["sql", "-c", "COPY (SELECT 4 AS n) TO 'd/1.parquet'; COPY (SELECT 5 AS n) TO 'd/2.parquet'"]);
    let out = place.ok(&[
        "sql",
        "--table",
        "a=a.parquet",
        "--table",
        "b=b.csv",
        "--table",
        "c=c.json",
        "--table",
        "d=d",
        "--format",
        "csv",
        "-c",
        "SELECT n FROM a UNION ALL SELECT n FROM b UNION ALL SELECT n FROM c UNION ALL SELECT n FROM d \
         UNION ALL SELECT n FROM 'a.parquet' ORDER BY n",
    ]);
    assert_eq!(out, "n\n1\n1\n2\n3\n4\n5\n");

    // JSON lines under all their extensions, nested Hive folders, and a name with a space.
    std::fs::create_dir_all(place.path("in/day=3")).unwrap();
    std::fs::write(place.path("in/day=3/a b.jsonl"), "{\"n\": 6}\n").unwrap();
    for table in ["in", "in/", "in/day=3", "in/day=3/*.jsonl", "in/day=3/a b.jsonl"] {
        let query = format!("SELECT n FROM '{table}'");
        assert_eq!(place.ok(&["sql", "--format", "csv", "-c", &query]), "n\n6\n", "{table}");
        let out = place.ok(&["sql", "--table", &format!("t={table}"), "--format", "csv", "-c", "SELECT n FROM t"]);
        assert_eq!(out, "n\n6\n", "{table}");
    }
    let query = "SELECT day, n FROM t WHERE day = '3'";
    assert_eq!(place.ok(&["sql", "--table", "t=in", "--format", "csv", "-c", query]), "day,n\n3,6\n");
    std::fs::create_dir_all(place.path("deep/er")).unwrap();
    std::fs::copy(place.path("a.parquet"), place.path("deep/er/a.parquet")).unwrap();
    let deep = "SELECT n FROM 'deep'";
    let said = place.fails(1, &["sql", "-c", deep]);
    assert!(said.contains("deep/er/a.parquet: it is in a folder whose name is not name=value"), "{said}");
    let all = format!("SET datafusion.execution.listing_table_ignore_subdirectory = false; {deep}");
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", &all]), "n\n1\n");
    let url = format!("file://{}", place.path("a.parquet").display());
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", &format!("SELECT n FROM '{url}'")]), "n\n1\n");
}

#[test]
fn wrong_usage_says_what_to_do() {
    let place = Place::new();
    place.fails(2, &["sql", "--format", "xml", "-c", "SELECT 1"]);
    place.fails(2, &["sql", "--table", "t", "-c", "SELECT 1"]);
    place.fails(2, &["sql", "--param", "a b=1", "-c", "SELECT 1"]);
    place.fails(2, &["sql", "--set", "seed=1", "-c", "SELECT 1"]);
    place.fails(2, &["run", "a.parquet"]);
    place.fails(2, &["run", "a.parquet", "b", "--min-itm", "1.5"]);
    place.fails(2, &["run", "a.parquet", "b", "--write-images", "some"]);
    place.fails(2, &["nonsense"]);
    assert!(place.fails(1, &["sql", "-f", "missing.sql"]).contains("missing.sql"));
    assert!(place.fails(1, &["sql", "--table", "t=missing.parquet", "-c", "SELECT 1"]).contains("missing.parquet"));
    assert!(
        place.fails(1, &["sql", "-c", "SELECT * FROM missing"]).contains("table 'datafusion.public.missing' not found")
    );
    assert!(place.fails(1, &["sql", "-c", "SELECT * FROM 'missing.parquet'"]).contains("missing.parquet"));
    let typo = place.fails(1, &["sql", "--set", "capfilt.devise=cpu", "-c", "SELECT 1"]);
    assert!(typo.contains("devise"), "{typo}");
    assert!(place.fails(1, &["sql", "-c", "SET capfilt.devise = 'cpu'"]).contains("devise"));
    assert!(place.fails(1, &["sql", "--set", "capfilt.precision=int7", "-c", "SELECT 1"]).contains("int7"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    for format in ["csv", "json", "nd-json", "table"] {
        let query = "SELECT * FROM generate_series(1, 300000)";
        let mut child = place
            .command(&["sql", "--format", format, "-c", query])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{format}: {}", text(&output.stderr));
    }
}

#[test]
fn a_checkpoint_is_inspected() {
    let place = Place::new();
    let captioner = root("tests/fixtures/models/captioner");
    assert!(!place.ok(&["model", "inspect", &captioner]).trim().is_empty());
    let json = place.ok(&["model", "inspect", &captioner, "--format", "json"]);
    assert!(serde_json::from_str::<Value>(&json).unwrap().is_object());
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.fails(1, &["model", "inspect", "empty"]).contains("empty"));
    assert!(place.fails(1, &["model", "inspect", "missing"]).contains("missing"));
}

#[test]
fn a_checkpoint_is_converted() {
    let place = Place::new();
    let source = root("tests/fixtures/pickles/hf");
    let out = place.ok(&["model", "convert", &source, "captioner"]);
    assert!(out.contains("usable for") && out.contains("caption"), "{out}");
    assert_eq!(out, place.ok(&["model", "inspect", "captioner"]));
    let again = place.fails(1, &["model", "convert", &source, "captioner"]);
    assert!(again.contains("captioner") && again.contains("not empty"), "{again}");
    let evil = root("tests/fixtures/pickles/evil.pth");
    assert!(place.fails(1, &["model", "convert", &evil, "evil"]).contains("posix.system"));
    assert!(!place.path("evil").exists() && !place.path("owned").exists());
}
