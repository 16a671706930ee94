//! `capfilt run` from source to pair table.

use std::fs;

use serde_json::Value;

use super::{BOOKKEEPING, PAIR_COLUMNS, Place, ids, web};

#[test]
fn a_job_writes_the_pair_table() {
    let place = Place::new();
    let slice = place.slice();
    let said = place.job_ok(&[slice, "pairs"]);
    assert!(said.contains("read       40 rows in 1 file"), "{said}");
    assert_eq!(place.names("pairs"), [BOOKKEEPING, "part-00000.parquet"]);
    let kept = place.names("pairs/_capfilt/shard-1-of-1");
    assert_eq!(kept, ["lock", "manifest.json"], "and nothing temporary");

    let columns = place.rows("pairs", "SELECT column_name FROM information_schema.columns WHERE table_name = 't'");
    let columns: Vec<_> = columns.iter().map(|row| row["column_name"].as_str().unwrap()).collect();
    assert_eq!(columns, PAIR_COLUMNS);

    // One web pair and one synthetic pair per row, adjacent, in source order.
    let source = ids(&place.rows(slice, "SELECT id FROM t"));
    let pairs = place.rows(
        "pairs",
        "SELECT id, source, text, itm_score, kept, error, image_sha256, octet_length(encode(image, 'hex')) AS n FROM t",
    );
    assert_eq!(pairs.len(), 80);
    for (id, both) in source.iter().zip(pairs.chunks(2)) {
        assert_eq!(
            (ids(both), both[0]["source"].as_str(), both[1]["source"].as_str()),
            (vec![*id; 2], Some("web"), Some("synthetic"))
        );
        assert_eq!(both[0]["image_sha256"], both[1]["image_sha256"]);
    }
    for pair in &pairs {
        // The score determines the verdict, and a missing score has a reason.
        let score = pair["itm_score"].as_f64();
        assert_eq!(pair["kept"], Value::Bool(pair["error"].is_null() && score.is_some_and(|s| s >= 0.5)), "{pair}");
        assert!(score.is_some() || pair["error"].is_string(), "{pair}");
        // Dropped pairs carry no image.
        assert_eq!(pair["kept"], Value::Bool(pair["n"].is_number()), "{pair}");
    }
    assert!(
        pairs.iter().any(|p| p["kept"] == true) && pairs.iter().any(|p| p["kept"] == false && p["error"].is_null())
    );
    for reason in ["no image", "no text"] {
        assert!(pairs.iter().any(|p| p["error"] == reason), "{reason}");
    }
    assert!(said.contains("unusable   12 rows\n"), "{said}");

    // The source's own columns are unchanged.
    let same = place.ok(&[
        "sql", "--table", "t=pairs", "--table", "s=slice.parquet", "--format", "csv", "-c",
        "SELECT count(*) AS n FROM t JOIN s ON t.id = s.id WHERE t.source = 'web' AND (t.text IS NOT DISTINCT FROM s.text) \
         AND (t.url IS NOT DISTINCT FROM s.url) AND (t.text_is_true IS NOT DISTINCT FROM s.text_is_true) \
         AND (t.image_sha256 IS NOT DISTINCT FROM encode(sha256(s.image), 'hex')) \
         AND (t.image = s.image OR NOT t.kept)",
    ]);
    let rows = place.number(slice, "SELECT sum(n * n) FROM (SELECT count(*) AS n FROM t GROUP BY id)");
    assert_eq!(same, format!("n\n{rows}\n"));
}

#[test]
fn a_job_may_leave_things_out() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "all", "--write-images", "all"]);
    assert_eq!(
        place.number("all", "SELECT count(*) FROM t WHERE image IS NULL"),
        2 * place.number(slice, "SELECT count(*) FROM t WHERE image IS NULL")
    );
    place.job_ok(&[slice, "none", "--write-images", "none"]);
    assert!(place.fails(1, &["sql", "--table", "t=none", "-c", "SELECT image FROM t"]).contains("image"));
    assert_eq!(place.number("none", "SELECT count(*) FROM t"), 80);
    let said = place.job_ok(&[slice, "kept", "--write-pairs", "kept"]);
    let kept = place.number("all", "SELECT count(*) FROM t WHERE kept");
    assert!(kept > 0 && kept < 80);
    assert_eq!(place.number("kept", "SELECT count(*) FROM t"), kept);
    assert_eq!(place.number("kept", "SELECT count(*) FROM t WHERE kept AND image IS NOT NULL"), kept);
    assert!(said.contains("of 40 texts kept"), "the summary counts dropped pairs: {said}");
}

#[test]
fn settings_and_thresholds_reach_the_recipe() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "loose", "--min-itm", "0"]);
    place.job_ok(&[slice, "strict", "--min-itm", "1", "--set", "capfilt.seed=7"]);
    let scored = place.number("loose", "SELECT count(*) FROM t WHERE error IS NULL");
    assert_eq!(place.number("loose", "SELECT count(*) FROM t WHERE kept"), scored);
    assert!(place.number("strict", "SELECT count(*) FROM t WHERE kept") < scored);
}

#[test]
fn batches_and_partitions_change_nothing() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "one"]);
    place.job_ok(&[
        slice,
        "many",
        "--set",
        "datafusion.execution.batch_size=3",
        "--set",
        "datafusion.execution.target_partitions=5",
    ]);
    let query = "SELECT id, source, text, kept, error, round(itm_score, 4) AS score FROM t";
    assert_eq!(place.rows("one", query), place.rows("many", query));
}

#[test]
fn a_folder_is_read_file_by_file() {
    let place = Place::new();
    place.slice();
    let halves = "COPY (SELECT * FROM 'slice.parquet' WHERE id % 2 = 0) TO 'in/b.parquet'; \
                  COPY (SELECT * FROM 'slice.parquet' WHERE id % 2 = 1) TO 'in/a.parquet'";
    place.ok(&["sql", "-c", halves]);
    fs::write(place.path("in/notes.txt"), "no table").unwrap();
    let said = place.job_ok(&["in", "pairs"]);
    assert!(said.contains("read       40 rows in 2 files"), "{said}");
    assert_eq!(place.parts("pairs"), ["part-00000.parquet"], "small files are joined");
    let rows = place.rows("pairs", "SELECT provenance['file'] AS file, id % 2 AS odd FROM t WHERE source = 'web'");
    assert_eq!(rows.len(), 40);
    let odd = rows.iter().filter(|row| row["odd"] == 1).count();
    assert!(rows[..odd].iter().all(|row| row["file"] == "a.parquet" && row["odd"] == 1), "in the order of the files");
    assert!(rows[odd..].iter().all(|row| row["file"] == "b.parquet" && row["odd"] == 0));
    place.job_ok(&["in", "cut", "--checkpoint-rows", "10", "--target-file-size", "1"]);
    assert_eq!(place.parts("cut").len(), odd.div_ceil(10) + (40 - odd).div_ceil(10), "a file for each unit");
    assert_eq!(place.rows("cut", "SELECT id, text FROM t"), place.rows("pairs", "SELECT id, text FROM t"));
}

#[test]
fn an_empty_table_gives_an_empty_table() {
    let place = Place::new();
    let table = format!("web={}", web());
    place.ok(&["sql", "--table", &table, "-c", "COPY (SELECT * FROM web WHERE false) TO 'empty.parquet'"]);
    place.job_ok(&["empty.parquet", "pairs"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE kept"), 0);
}

#[test]
fn hugging_faces_struct_is_an_image() {
    let place = Place::new();
    let table = format!("web={}", web());
    let copy = "COPY (SELECT named_struct('bytes', image, 'path', url) AS image, text AS caption FROM web \
                WHERE image_error(image) IS NULL ORDER BY id LIMIT 10) TO 'human.parquet'";
    place.ok(&["sql", "--table", &table, "-c", copy]);
    let message = place.job_fails(&["human.parquet", "pairs"]);
    assert!(message.contains("--text-column") && message.contains("image, caption"), "{message}");
    place.job_ok(&["human.parquet", "pairs", "--text-column", "caption", "--write-images", "all"]);
    assert_eq!(
        place.number(
            "pairs",
            "SELECT count(*) FROM t WHERE source = 'web' AND image IS NOT NULL AND image_path IS NOT NULL"
        ),
        10
    );
}

#[test]
fn columns_are_checked_before_anything_is_written() {
    let place = Place::new();
    let slice = place.slice();
    let missing = place.job_fails(&[slice, "pairs", "--image-column", "picture"]);
    assert!(
        missing.contains("\"picture\"") && missing.contains("--image-column") && missing.contains("id, url, image"),
        "{missing}"
    );
    let number = place.job_fails(&[slice, "pairs", "--text-column", "id"]);
    assert!(number.contains("column id is Int64") && number.contains("--text-column"), "{number}");
    let text = place.job_fails(&[slice, "pairs", "--image-column", "url"]);
    assert!(text.contains("column url is Utf8") && text.contains("--image-column"), "{text}");
    assert!(!place.path("pairs").exists());
}

#[test]
fn names_of_the_pair_table_are_taken() {
    let place = Place::new();
    place.slice();
    place.ok(&["sql", "-c", "COPY (SELECT *, 'x' AS source, true AS kept FROM 'slice.parquet') TO 'taken.parquet'"]);
    place.ok(&["sql", "-c", "COPY (SELECT *, 'x' AS provenance FROM 'slice.parquet') TO 'from.parquet'"]);
    let message = place.job_fails(&["from.parquet", "pairs"]);
    assert!(message.contains("--rename provenance="), "{message}");
    let message = place.job_fails(&["taken.parquet", "pairs"]);
    assert!(message.contains("--rename source="), "{message}");
    let message = place.job_fails(&["taken.parquet", "pairs", "--rename", "source=crawl"]);
    assert!(message.contains("--rename kept="), "{message}");
    assert!(place.job_fails(&["taken.parquet", "pairs", "--rename", "nope=x"]).contains("nope"));
    place.job_ok(&["taken.parquet", "pairs", "--rename", "source=crawl", "--rename", "kept=chosen"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE crawl = 'x' AND chosen"), 80);
}

#[test]
fn a_destination_that_holds_data_is_refused() {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("pairs")).unwrap();
    fs::write(place.path("pairs/mine.txt"), "mine").unwrap();
    let message = place.job_fails(&[slice, "pairs"]);
    assert!(message.contains("holds 1 file: give --overwrite or another folder"), "{message}");
    assert_eq!(place.names("pairs"), ["mine.txt"], "what is refused leaves nothing");
    fs::copy(place.path(slice), place.path("pairs/part-00003.parquet")).unwrap();
    place.job_ok(&[slice, "pairs", "--overwrite"]);
    assert_eq!(place.parts("pairs"), ["mine.txt", "part-00000.parquet"], "old parts go, others' files stay");
    assert_eq!(place.number("pairs/part-00000.parquet", "SELECT count(*) FROM t"), 80);

    // A failed job leaves the old table unchanged.
    let before = fs::read(place.path("pairs/part-00000.parquet")).unwrap();
    let message = place.job_fails(&[slice, "pairs", "--overwrite", "--set", "capfilt.on_error=fail"]);
    assert!(message.contains("as it was"), "{message}");
    assert_eq!(place.parts("pairs"), ["mine.txt", "part-00000.parquet"]);
    assert!(before == fs::read(place.path("pairs/part-00000.parquet")).unwrap());
}

#[test]
fn a_destination_must_be_a_folder_of_its_own() {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("in")).unwrap();
    fs::copy(place.path(slice), place.path("in/a.parquet")).unwrap();
    assert!(place.job_fails(&["in", "in"]).contains("it is the source"));
    assert!(place.job_fails(&["in", "in/pairs"]).contains("inside the source"));
    assert!(place.job_fails(&["in/a.parquet", "in", "--overwrite"]).contains("the source lies inside it"));
    assert!(place.job_fails(&["in", slice]).contains("it is a file"));
    assert_eq!(place.names("in"), ["a.parquet"]);
}

#[test]
fn a_source_must_be_parquet() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("junk.parquet"), "PAR1 and no more").unwrap();
    assert!(place.job_fails(&["missing.parquet", "pairs"]).contains("missing.parquet"));
    assert!(place.job_fails(&["empty", "pairs"]).contains("no .parquet, .tar, .csv or .jsonl file"));
    assert!(place.job_fails(&["junk.parquet", "pairs"]).contains("not a Parquet file"));
    place.ok(&["sql", "-c", "COPY (SELECT 1 AS a) TO 'mix/a.parquet'; COPY (SELECT 'x' AS a) TO 'mix/b.parquet'"]);
    let message = place.job_fails(&["mix", "pairs"]);
    assert!(message.contains("b.parquet: its column a is Utf8, and Int64 in"), "{message}");
    assert!(!place.path("pairs").exists());
}

#[test]
fn models_must_be_checkpoints() {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("model")).unwrap();
    let message = place.fails(1, &["run", slice, "pairs", "--captioner", "model", "--filter", "model"]);
    assert!(message.contains("model"), "{message}");
    let message = place.fails(1, &["run", slice, "pairs"]);
    assert!(message.contains("give --captioner DIR"), "{message}");
    assert!(!place.path("pairs").exists(), "a job that wrote nothing leaves nothing");
}

#[test]
fn images_of_every_arrow_type_are_judged_alike() {
    let place = Place::new();
    let slice = place.slice();
    let usable = "image_error(image) IS NULL AND text IS NOT NULL";
    let copy = |name: &str, image: &str, rows: &str| {
        let sql =
            format!("COPY (SELECT id, {image} AS image, text FROM web WHERE {usable} AND {rows}) TO '{name}.parquet'");
        place.ok(&["sql", "--table", &format!("web={slice}"), "-c", &sql]);
        place.job_ok(&[&format!("{name}.parquet"), name]);
        let ids = place.rows(name, "SELECT id, source, text, round(itm_score, 4) AS score, kept, image_sha256 FROM t");
        assert!(!ids.is_empty(), "{name}");
        ids
    };
    let few = format!("id IN (SELECT id FROM web WHERE {usable} ORDER BY id LIMIT 5)");
    let plain = copy("plain", "image", &few);
    for (name, kind) in [("large", "LargeBinary"), ("dictionary", "Dictionary(Int32, Binary)")] {
        assert_eq!(copy(name, &format!("arrow_cast(image, '{kind}')"), &few), plain, "{kind}");
    }
    // FixedSizeBinary needs images of the same length, so use a single image.
    let one = format!("id = (SELECT min(id) FROM web WHERE {usable})");
    let bytes = place.number(
        slice,
        &format!("SELECT octet_length(encode(image, 'hex')) / 2 FROM t WHERE {}", one.replace("FROM web", "FROM t")),
    );
    let fixed = copy("fixed", &format!("arrow_cast(arrow_cast(image, 'Binary'), 'FixedSizeBinary({bytes})')"), &one);
    assert_eq!(fixed, plain[..2], "FixedSizeBinary");
    let bytes_and_path = copy("struct", "named_struct('bytes', image, 'path', 'a.png')", &few);
    assert_eq!(bytes_and_path, plain, "Hugging Face's struct");
}

#[test]
fn texts_of_every_plane_and_length_are_judged() {
    // Both ends of every plane and code points in between (including unassigned, private-use and non-characters),
    // characters that confuse terminals and tokenizers, and lengths from 0 to 10,000 characters.
    let plane =
        |p: u32| (0..0x1_0000).step_by(0x0abd).filter_map(move |c| char::from_u32(p << 16 | c)).collect::<String>();
    let mut texts: Vec<String> = (0..=16).map(plane).collect();
    texts.extend((0..=16).map(|p| format!("a dog {}", char::from_u32(p << 16 | 0xffff).unwrap())));
    texts.extend(
        [
            "\u{1}\u{7f}\u{85}",
            "a\u{301}\u{327}\u{fe0f}",
            "👩🏽‍🚀🏳️‍🌈",
            "\u{202e}backwards",
            "\u{feff}",
            "[SEP] [MASK]",
            "{{{'\";--",
            "\n\t ",
        ]
        .map(str::to_owned),
    );
    texts.extend([String::new(), "word ".repeat(2_000), "x".repeat(10_000), "猫".repeat(10_000)]);

    let place = Place::new();
    let lines: String = texts
        .iter()
        .enumerate()
        .map(|(id, text)| format!("{}\n", serde_json::json!({ "id": id, "text": text })))
        .collect();
    fs::write(place.path("texts.json"), lines).unwrap();
    let copy = "COPY (SELECT t.id, w.image, t.text FROM t CROSS JOIN (SELECT image FROM w WHERE id = 1) AS w ORDER BY t.id) \
                TO 'texts.parquet'";
    place.ok(&["sql", "--table", "t=texts.json", "--table", &format!("w={}", web()), "-c", copy]);
    place.job_ok(&["texts.parquet", "pairs"]);
    let pairs = place.rows("pairs", "SELECT id, text, itm_score, error FROM t WHERE source = 'web'");
    assert_eq!(pairs.len(), texts.len());
    for (pair, text) in pairs.iter().zip(&texts) {
        let score = pair["itm_score"].as_f64();
        assert_eq!(pair["text"].as_str(), Some(text.as_str()), "nothing of a text is lost");
        if text.trim().is_empty() {
            assert!(pair["error"].is_string() || score.is_some(), "{pair}");
        } else {
            assert!(score.is_some_and(|s| (0.0..=1.0).contains(&s)), "{pair}");
        }
    }
}
