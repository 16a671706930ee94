//! `capfilt select`: a finished table with other thresholds.

use std::fs;

use super::{BOOKKEEPING, Place};

#[test]
fn thresholds_can_be_chosen_anew() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    place.job_ok(&[slice, "loose", "--min-itm", "0.1"]);
    // As if the job had run with the other threshold: images of formerly dropped pairs come from the source.
    place.ok(&["select", "pairs", "selected", "--min-itm", "0.1"]);
    super::kills::same_table(&place, "loose", "selected");
    assert_eq!(place.number("selected", "SELECT count(*) FROM t WHERE kept <> (image IS NOT NULL)"), 0);
    assert!(place.fails(1, &["select", "pairs", "selected", "--min-itm", "0.1"]).contains("finished"));
    place.ok(&[
        "select",
        "pairs",
        "selected",
        "--min-itm-of",
        "web=0.9",
        "--min-itm-of",
        "synthetic=0.3",
        "--overwrite",
    ]);
    let wrong = "SELECT count(*) FROM t WHERE kept <> (error IS NULL AND itm_score >= CASE source WHEN 'web' THEN 0.9 ELSE 0.3 END)";
    assert_eq!(place.number("selected", wrong), 0);

    place.ok(&["select", "pairs", "best", "--keep-fraction", "0.25", "--write-pairs", "kept"]);
    let scored = place.number("pairs", "SELECT count(*) FROM t WHERE error IS NULL AND itm_score IS NOT NULL");
    let best = place.number("best", "SELECT count(*) FROM t");
    assert!(best >= (scored + 3) / 4 && best <= scored / 4 + 3, "{best} of {scored}");
    let least = "SELECT CAST(1e6 * min(itm_score) AS BIGINT) FROM t";
    let above =
        format!("SELECT count(*) FROM t WHERE error IS NULL AND 1e6 * itm_score >= {}", place.number("best", least));
    assert_eq!(place.number("pairs", &above), best);
    // The result is a pair table like any other.
    place.ok(&["report", "selected", "-o", "report.html"]);
}

#[test]
fn images_of_a_path_column_are_found_again() {
    let place = Place::new();
    let slice = place.slice();
    fs::write(place.path("cat.png"), fs::read(super::root("tests/fixtures/images/emoji_cat_face_google.png")).unwrap())
        .unwrap();
    let paths = "SELECT * EXCLUDE (image), 'cat.png' AS path FROM t LIMIT 3";
    place.ok(&["sql", "--table", &format!("t={slice}"), "-c", &format!("COPY ({paths}) TO 'paths.parquet'")]);
    place.job_ok(&["paths.parquet", "pairs", "--image-column", "path", "--image-is", "path", "--min-itm", "1"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE image IS NOT NULL"), 0);
    place.ok(&["report", "pairs", "-o", "report.html"]);
    let page = fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.contains("data:image/") && !page.contains("\"src\":null"), "pictures of dropped pairs");
    let select = ["select", "pairs", "selected", "--min-itm", "0"];
    place.ok(&select);
    assert_eq!(place.number("selected", "SELECT count(*) FROM t WHERE kept AND image IS NULL"), 0);
    assert!(place.number("selected", "SELECT count(*) FROM t WHERE kept") >= 3);
    // The root of paths does not depend on the working directory.
    fs::create_dir(place.path("elsewhere")).unwrap();
    place.job_ok(&[
        "paths.parquet",
        "rooted",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        ".",
        "--min-itm",
        "1",
    ]);
    let from = ["select", "../rooted", "../chosen", "--min-itm", "0"];
    let output = place.command(&from).current_dir(place.path("elsewhere")).output().unwrap();
    assert!(output.status.success(), "{}", super::text(&output.stderr));
    // Another picture under that name is not accepted.
    fs::write(place.path("cat.png"), "no cat").unwrap();
    let said = place.fails(1, &[&select[..], &["--overwrite"]].concat());
    assert!(said.contains("another one in its place"), "{said}");
}

/// A tar file is read from its beginning, but only once for all pairs.
#[test]
fn images_of_a_tar_file_are_found_again() {
    let place = Place::new();
    let slice = place.slice();
    let copy = "COPY (SELECT image AS png, text AS txt FROM t) TO 'web.tar' STORED AS WEBDATASET";
    place.ok(&["sql", "--table", &format!("t={slice}"), "-c", copy]);
    place.job_ok(&["web.tar", "pairs", "--min-itm", "1"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE image IS NOT NULL"), 0);
    place.ok(&["select", "pairs", "selected", "--min-itm", "0"]);
    let right = "SELECT count(*) FROM t WHERE kept AND image_sha256 = encode(sha256(image), 'hex')";
    let kept = place.number("selected", "SELECT count(*) FROM t WHERE kept");
    // 64 pairs are judged at a time.
    assert_eq!(place.number("selected", "SELECT count(*) FROM t"), 80);
    assert!(kept > 40 && place.number("selected", right) == kept, "{kept}");
}

#[test]
fn the_other_source_keeps_its_threshold() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs", "--min-itm", "0.4", "--write-images", "all"]);
    place.ok(&["select", "pairs", "stricter", "--min-itm-of", "web=0.6"]);
    let kept = |table: &str, source: &str| {
        place.number(table, &format!("SELECT count(*) FROM t WHERE source = '{source}' AND kept"))
    };
    let wanted =
        place.number("pairs", "SELECT count(*) FROM t WHERE source = 'web' AND error IS NULL AND itm_score >= 0.6");
    assert_eq!((kept("stricter", "web"), kept("stricter", "synthetic")), (wanted, kept("pairs", "synthetic")));
    assert!(
        kept("pairs", "synthetic") < place.number("pairs", "SELECT count(itm_score) FROM t WHERE source = 'synthetic'")
    );
    // If the job had thresholds by source, the threshold of the other source must be given.
    place.job_ok(&[slice, "own", "--min-itm-of", "web=0.6", "--write-images", "all"]);
    assert!(place.fails(1, &["select", "own", "x", "--min-itm-of", "web=0.7"]).contains("--min-itm is missing"));
    let said = place.fails(1, &["select", "pairs", "x", "--min-itm-of", "wbe=0.7"]);
    assert!(said.contains("--min-itm-of wbe") && said.contains("synthetic and web"), "{said}");
    assert!(place.fails(2, &["select", "pairs", "x"]).contains("--min-itm"));
}

#[test]
fn an_image_that_is_gone_is_named() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    fs::rename(place.path(slice), place.path("moved.parquet")).unwrap();
    let message = place.fails(1, &["select", "pairs", "selected", "--min-itm", "0"]);
    assert!(message.contains("left its image out") && message.contains("give --source"), "{message}");
    // A renamed source is another source: its files are identified by name.
    fs::create_dir(place.path("elsewhere")).unwrap();
    fs::rename(place.path("moved.parquet"), place.path("elsewhere/slice.parquet")).unwrap();
    place.ok(&["select", "pairs", "selected", "--min-itm", "0", "--source", "elsewhere/slice.parquet"]);
    assert_eq!(place.number("selected", "SELECT count(*) FROM t WHERE kept AND image IS NULL"), 0);
    // A selection that needs no images needs no source.
    fs::remove_file(place.path("elsewhere/slice.parquet")).unwrap();
    place.ok(&["select", "pairs", "strict", "--min-itm", "0.9"]);
    assert!(place.fails(1, &["select", "elsewhere", "x", "--min-itm", "0.5"]).contains("no pair table"));
    let manifest = format!("pairs/{BOOKKEEPING}/shard-1-of-1/manifest.json");
    let text = fs::read_to_string(place.path(&manifest)).unwrap().replace("\"finished\"", "\"running\"");
    fs::write(place.path(&manifest), text).unwrap();
    assert!(place.fails(1, &["select", "pairs", "x", "--min-itm", "0.5"]).contains("unfinished"));
    assert!(place.fails(2, &["select", "pairs", "x", "--keep-fraction", "30"]).contains("from 0 to 1"));
}

#[test]
fn pairs_that_were_left_out_are_not_selected_silently() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs", "--write-pairs", "kept", "--min-itm", "0.5"]);
    for more in [["--min-itm", "0.1"], ["--min-itm-of", "web=0.1"], ["--keep-fraction", "0.5"]] {
        let said = place.fails(1, &[&["select", "pairs", "selected"][..], &more].concat());
        assert!(said.contains("--write-pairs kept and has left out"), "{said}");
    }
    place.ok(&["select", "pairs", "selected", "--min-itm", "0.9"]);
    assert!(place.number("selected", "SELECT count(*) FROM t") > 0);
    assert_eq!(place.number("selected", "SELECT count(*) FROM t WHERE kept <> (itm_score >= 0.9)"), 0);
    // A selected table does not record what it left out: its pairs are selected, with a warning.
    let output = place.run(&["select", "selected", "again", "--min-itm", "0.6"]);
    let said = super::text(&output.stderr);
    assert!(output.status.success() && said.contains("left pairs out"), "{said}");
    assert_eq!(place.number("again", "SELECT count(*) FROM t WHERE kept <> (itm_score >= 0.6)"), 0);
}

#[test]
fn a_source_is_known_under_another_name() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs", "--min-itm", "0.5"]);
    fs::rename(place.path(slice), place.path("renamed.parquet")).unwrap();
    assert!(place.fails(1, &["select", "pairs", "selected", "--min-itm", "0.1"]).contains("give --source"));
    place.ok(&["select", "pairs", "selected", "--min-itm", "0.1", "--source", "renamed.parquet", "--overwrite"]);
    assert_eq!(place.number("selected", "SELECT count(*) FROM t WHERE kept AND image IS NULL"), 0);
    // Different pictures are not taken for them.
    place.ok(&["sql", "-c", "COPY (SELECT * FROM 'renamed.parquet' ORDER BY text) TO 'other.parquet'"]);
    let other = ["select", "pairs", "selected", "--min-itm", "0.1", "--source", "other.parquet", "--overwrite"];
    assert!(place.fails(1, &other).contains("is kept now, and the table left its image out"));
}

#[test]
fn a_file_beside_the_parts_is_no_pair_table() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    fs::copy(place.path(slice), place.path("pairs/extra.parquet")).unwrap();
    for args in [&["select", "pairs", "selected", "--min-itm", "0.5"][..], &["report", "pairs", "-o", "report.html"]] {
        let said = place.fails(1, args);
        assert!(said.contains("extra.parquet: it is not part of the pair table"), "{said}");
    }
    fs::remove_file(place.path("pairs/extra.parquet")).unwrap();
    place.ok(&["select", "pairs", "selected", "--min-itm", "0.5"]);
}
