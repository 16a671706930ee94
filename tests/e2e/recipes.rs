//! Recipes, and invalid ones.

use std::fs;

use serde_json::Value;

use super::{Place, root};

#[test]
fn every_recipe_runs_as_it_stands() {
    let place = Place::new();
    let slice = place.slice();
    let filter = root("sql/filter_only.sql");
    let matcher = root("tests/fixtures/models/matcher");
    place.ok(&["run", slice, "filter", "--recipe", &filter, "--filter", &matcher]);
    assert_eq!(place.number("filter", "SELECT count(*) FROM t WHERE source = 'web'"), 40);
    assert_eq!(place.number("filter", "SELECT count(*) FROM t WHERE source <> 'web'"), 0);

    let vqa = root("sql/vqa_filter.sql");
    let answerer = format!("capfilt.answerer={}", root("tests/fixtures/models/answerer"));
    let mut run = vec!["run", slice, "vqa", "--recipe", &vqa, "--filter", &matcher, "--set", &answerer];
    run.extend(["--param", "question=what color is it?", "--param", "answer=red", "--param", "min_answer=0.01"]);
    place.ok(&[&run[..], &["--min-itm", "0.2"]].concat());
    let both = "SELECT count(*) FROM t WHERE (itm_score IS NOT NULL) <> coalesce(answer_score >= 0.01 AND error IS NULL, false) \
                OR kept <> coalesce(itm_score >= 0.2, false)";
    assert_eq!(place.number("vqa", both), 0);
    let asked = |more: &str| place.number("vqa", &format!("SELECT count(*) FROM t WHERE answer_score {more}"));
    assert!(
        asked(">= 0.01") > 0 && asked("< 0.01") > 0 && place.number("vqa", "SELECT count(*) FROM t WHERE kept") > 0
    );
    let message =
        place.fails(1, &["run", slice, "unasked", "--recipe", &vqa, "--filter", &matcher, "--set", &answerer]);
    assert!(message.contains("--param question"), "{message}");

    let caption = root("sql/caption_only.sql");
    let captioner = root("tests/fixtures/models/captioner");
    place.ok(&["run", slice, "caption", "--recipe", &caption, "--captioner", &captioner]);
    assert_eq!(
        place.number("caption", "SELECT count(*) FROM t WHERE itm_score IS NOT NULL OR kept <> (error IS NULL)"),
        0
    );
    assert_eq!(place.number("caption", "SELECT count(*) FROM t"), 80);

    let explicit = root("sql/capfilt.sql");
    place.job_ok(&[slice, "explicit", "--recipe", &explicit]);
    place.job_ok(&[slice, "default"]);
    let query = "SELECT id, source, text, kept, round(itm_score, 4) AS score FROM t";
    assert_eq!(place.rows("explicit", query), place.rows("default", query));

    let agreement = root("sql/agreement.sql");
    let message = place.job_fails(&[slice, "agreement", "--recipe", &agreement]);
    assert!(message.contains("--param itc_"), "{message}");
    place.job_ok(&[slice, "agreement", "--recipe", &agreement, "--param", "itc_low=0.1", "--param", "itc_high=0.9"]);
    // The expensive score exists only between the thresholds, and equals the full recipe's.
    let wrong =
        "SELECT count(*) FROM t WHERE (itm_score IS NOT NULL) <> coalesce(itc_score >= 0.1 AND itc_score < 0.9, false)";
    assert_eq!(place.number("agreement", wrong), 0);
    let differ = place.ok(&[
        "sql",
        "--table",
        "a=agreement",
        "--table",
        "d=default",
        "--format",
        "csv",
        "-c",
        "SELECT count(*) AS n FROM a JOIN d ON a.id = d.id AND a.source = d.source AND a.text = d.text \
         AND a.image_sha256 = d.image_sha256 WHERE abs(a.itm_score - d.itm_score) > 1e-4",
    ]);
    assert_eq!(differ, "n\n0\n");
}

#[test]
fn the_best_share_is_chosen_anew() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    let top = root("sql/top_fraction.sql");
    let args = ["sql", "--table", "pairs=pairs", "--param", "fraction=0.25", "--format", "json"];
    let out = place.ok(&[&args[..], &["-f", &top]].concat());
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(rows.len(), 80);
    let mut scores: Vec<f64> =
        rows.iter().filter(|r| r["error"].is_null()).filter_map(|r| r["itm_score"].as_f64()).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    let least = scores[(scores.len() as f64 * 0.25).ceil() as usize - 1];
    for row in &rows {
        let best = row["error"].is_null() && row["itm_score"].as_f64().is_some_and(|s| s >= least);
        assert_eq!(row["kept"], Value::Bool(best), "{row}");
    }
    // Inside a COPY, as the recipe's comment suggests.
    let copy = format!("COPY ({}) TO 'best.parquet'", fs::read_to_string(&top).unwrap());
    place.ok(&[&args[..], &["-c", &copy]].concat());
    assert_eq!(place.number("best.parquet", "SELECT count(*) FROM t"), 80);
}

#[test]
fn a_recipe_can_be_read_and_run_again() {
    let place = Place::new();
    let sql = place.ok(&["recipe", "--min-itm", "0.7", "--prompt", "a picture of "]);
    assert!(sql.starts_with("-- $min_itm = 0.7\n-- $prompt = 'a picture of '\n"), "{sql}");
    assert!(sql.ends_with(&fs::read_to_string(root("sql/capfilt.sql")).unwrap()));
    let slice = place.slice();
    fs::write(place.path("mine.sql"), sql).unwrap();
    place.job_ok(&[slice, "pairs", "--recipe", "mine.sql"]);
}

#[test]
fn what_is_no_recipe_is_refused() {
    let place = Place::new();
    let slice = place.slice();
    let rest =
        "'h' AS image_sha256, 'web' AS source, text, 1.0 AS itm_score, true AS kept, NULL AS error, provenance, image";
    let cases = [
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("DROP TABLE web", "one SELECT"),
        ("SELECT id FROM web", "no column image_sha256"),
        (&format!("SELECT id, {} FROM web", rest.replace("provenance, ", "")), "no column provenance (web has it"),
        (&format!("SELECT id, {} FROM web", rest.replace("provenance", "1 AS provenance")), "must be as web has it"),
        ("SELECT * FROM web LIMIT 3", "LIMIT"),
        ("SELECT * FROM web ORDER BY id", "ORDER BY"),
        ("SELECT count(*) FROM web", "aggregate"),
        ("SELECT * FROM web UNION ALL SELECT * FROM web", "UNION"),
        ("SELECT *, row_number() OVER () FROM web", "window"),
        ("SELECT * FROM 'slice.parquet'", "none but web"),
        ("SELECT nope FROM web", "nope"),
        ("SELEC 1", "mine.sql"),
        ("", "one SELECT"),
        (&format!("SELECT id, {rest} FROM web WHERE false"), "drops none"),
        (&format!("SELECT id, {} FROM web", rest.replace("true", "1")), "kept is Int64"),
        (&format!("SELECT id, $nope, {rest} FROM web"), "--param nope="),
    ];
    for (sql, reason) in cases {
        fs::write(place.path("mine.sql"), sql).unwrap();
        let message = place.fails(1, &["run", slice, "pairs", "--recipe", "mine.sql"]);
        assert!(message.contains(reason), "{sql}: {message}");
        assert!(!place.path("pairs").exists(), "{sql}");
    }
    fs::write(place.path("mine.sql"), format!("SELECT id, {rest} FROM web")).unwrap();
    place.ok(&["run", slice, "pairs", "--recipe", "mine.sql"]);
    assert!(place.fails(1, &["run", slice, "more", "--recipe", "missing.sql"]).contains("missing.sql"));
    // A misspelt name is not ignored.
    let message = place.fails(1, &["run", slice, "more", "--recipe", "mine.sql", "--param", "min_it=0.9"]);
    assert!(message.contains("it has no parameter $min_it; its parameters are: none"), "{message}");
}
