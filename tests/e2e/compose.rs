//! Several captions, captioners and filters; thresholds by source; a cheap first stage.

use std::fs;

use serde_json::Value;

use super::{Place, root};

fn model(name: &str) -> String {
    root(&format!("tests/fixtures/models/{name}"))
}

/// A copy of a model with other image normalisation, and so with other results.
fn other(place: &Place, name: &str) -> String {
    let folder = place.path(name);
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
    }
    let file = folder.join("preprocessor_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["image_mean"] = serde_json::json!([0.2, 0.6, 0.3]);
    fs::write(file, config.to_string()).unwrap();
    folder.display().to_string()
}

fn run(place: &Place, dest: &str, more: &[&str]) {
    let (captioner, matcher) = (model("captioner"), model("matcher"));
    let args = ["run", "slice.parquet", dest, "--captioner", &captioner, "--filter", &matcher];
    let output = place.run(&[&args[..], more].concat());
    assert!(output.status.success(), "{more:?}: {}", super::text(&output.stderr));
}

fn count(place: &Place, table: &str, condition: &str) -> i64 {
    place.number(table, &format!("SELECT count(*) FROM t WHERE {condition}"))
}

#[test]
fn captions_of_several_captioners_are_pairs() {
    let place = Place::new();
    place.slice();
    let other = other(&place, "captioner");
    run(&place, "plain", &[]);
    run(&place, "many", &["--candidates", "3", "--captioner", &other]);
    let rows = place.number("slice.parquet", "SELECT count(*) FROM t");
    assert_eq!(count(&place, "many", "source = 'web'"), rows);
    assert_eq!(count(&place, "many", "source = 'synthetic' AND captioner = 1"), 3 * rows);
    assert_eq!(count(&place, "many", "source = 'synthetic' AND captioner = 2"), 3 * rows);
    assert_eq!(count(&place, "many", "captioner IS NULL AND source = 'synthetic'"), 0);
    // The results of one captioner do not depend on the others.
    let join = "SELECT count(*) FROM t JOIN 'plain/part-00000.parquet' AS p ON t.id = p.id AND t.source = p.source \
                WHERE t.source = 'web' AND (t.itm_score IS NOT DISTINCT FROM p.itm_score) AND t.kept = p.kept \
                AND (t.error IS NOT DISTINCT FROM p.error)";
    assert_eq!(place.number("many", join), rows);
    let first = "SELECT count(DISTINCT t.id) FROM t JOIN 'plain/part-00000.parquet' AS p ON t.id = p.id AND t.source = p.source \
                 WHERE t.captioner = 1 AND (t.text IS NOT DISTINCT FROM p.text) AND (t.itm_score IS NOT DISTINCT FROM p.itm_score)";
    assert_eq!(place.number("many", first), rows);
    assert_eq!(
        count(&place, "many", "provenance['captioner'] LIKE '%;%' AND provenance['filter'] NOT LIKE '%;%'"),
        7 * rows
    );

    run(&place, "best", &["--candidates", "3", "--captioner", &other, "--best"]);
    let best =
        "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM t WHERE kept AND source = 'synthetic' GROUP BY id)";
    assert_eq!(place.number("best", best), 1);
    let lost = "SELECT count(*) FROM (SELECT id FROM 'many/part-00000.parquet' WHERE kept AND source = 'synthetic' \
                EXCEPT SELECT id FROM t WHERE kept AND source = 'synthetic')";
    assert_eq!(place.number("best", lost), 0, "who had a caption has one");
    assert!(place.number("many", best) > 1);

    place.ok(&["report", "many", "-o", "report.html"]);
    let page = std::fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.contains("\"captioner\":2") && !page.contains("\"captioner\":3"));
}

#[test]
fn several_filters_judge_together() {
    let place = Place::new();
    place.slice();
    let other = other(&place, "matcher");
    run(&place, "one", &[]);
    let (captioner, matcher) = (model("captioner"), model("matcher"));
    place.ok(&["run", "slice.parquet", "other", "--captioner", &captioner, "--filter", &other]);
    let twice = ["recipe", "--filter", &matcher, "--set", "capfilt.filter=x"];
    assert!(place.fails(2, &twice).contains("--set"), "a recipe does not depend on settings");
    let twice = ["run", "slice.parquet", "twice", "--filter", &matcher, "--set", "capfilt.filter=x"];
    assert!(place.fails(1, &twice).contains("--filter and --set capfilt.filter set the same"));
    let both = "FROM t JOIN 'one/part-00000.parquet' AS a ON t.id = a.id AND t.source = a.source \
                JOIN 'other/part-00000.parquet' AS b ON t.id = b.id AND t.source = b.source";
    let all = place.number("one", "SELECT count(*) FROM t");
    for (combine, score, kept) in [
        ("mean", "(a.itm_score + b.itm_score) / 2", "t.itm_score >= 0.5"),
        ("min", "least(a.itm_score, b.itm_score)", "a.kept AND b.kept"),
        ("max", "greatest(a.itm_score, b.itm_score)", "a.kept OR b.kept"),
        ("vote", "(a.itm_score + b.itm_score) / 2", "a.kept AND b.kept"),
    ] {
        run(&place, combine, &["--filter", &other, "--combine", combine]);
        let same = format!(
            "SELECT count(*) {both} WHERE (t.itm_score IS NULL AND a.itm_score IS NULL OR abs(t.itm_score - ({score})) < 1e-5) \
             AND t.kept = coalesce({kept}, false)"
        );
        assert_eq!(place.number(combine, &same), all, "{combine}");
    }
}

#[test]
fn thresholds_and_a_first_stage() {
    let place = Place::new();
    place.slice();
    run(&place, "plain", &["--min-itm-of", "web=1", "--min-itm-of", "synthetic=0"]);
    assert_eq!(count(&place, "plain", "source = 'web' AND kept"), 0);
    assert_eq!(count(&place, "plain", "source = 'synthetic' AND NOT kept AND error IS NULL"), 0);
    run(&place, "staged", &["--itc-gate", "0.1,0.3"]);
    let wrong = "CASE WHEN error IS NOT NULL THEN kept WHEN itc_score < 0.1 THEN kept OR itm_score IS NOT NULL \
                 WHEN itc_score >= 0.3 THEN NOT kept OR itm_score IS NOT NULL ELSE kept <> (itm_score >= 0.5) END";
    assert_eq!(count(&place, "staged", wrong), 0);
    assert!(count(&place, "staged", "error IS NULL AND itm_score IS NULL") > 0);

    let sql = place.ok(&["recipe", "--candidates", "2", "--captioner", "a", "--captioner", "b's"]);
    assert!(sql.contains("-- $captioner_2 = 'b''s'") && sql.contains("captions(image, 2"), "{sql}");
    let said = place.fails(2, &["run", "x", "y", "--recipe", "r.sql", "--candidates", "2"]);
    assert!(said.contains("--recipe"), "{said}");
    let said = place.fails(1, &["select", "staged", "other", "--min-itm", "0"]);
    assert!(said.contains("--itc-gate"), "{said}");
    let said = place.fails(1, &["recipe", "--min-itm-of", "webb=1"]);
    assert!(said.contains("web=P or synthetic=P"), "{said}");
    let said = place.fails(2, &["run", "x", "y", "--itc-gate", "0.5,0.1"]);
    assert!(said.contains("LOW,HIGH"), "{said}");
    let said = place.fails(1, &["sql", "--captioner", "a", "--captioner", "b", "-c", "SELECT 1"]);
    assert!(said.contains("one --captioner"), "{said}");
}
