//! `--dedupe`: rows that repeat an earlier one are in the table, but were not passed to the models.

use std::fs::{self, File};
use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use image::ImageFormat;
use image::imageops::FilterType;
use serde_json::Value;

use super::{BOOKKEEPING, Place, root};

type Row = (Option<Vec<u8>>, Option<&'static str>);

/// Duplicates: file and row, and file and row of the original.
type Repeats = &'static [(&'static str, i64, &'static str, i64)];

const EXACT: Repeats = &[
    ("a.parquet", 2, "a.parquet", 0),
    ("a.parquet", 7, "a.parquet", 6),
    ("b.parquet", 2, "b.parquet", 1),
    ("b.parquet", 4, "b.parquet", 0),
];
const NEAR: Repeats = &[
    ("a.parquet", 2, "a.parquet", 0),
    ("a.parquet", 3, "a.parquet", 0),
    ("a.parquet", 7, "a.parquet", 6),
    ("b.parquet", 0, "a.parquet", 0),
    ("b.parquet", 1, "a.parquet", 1),
    ("b.parquet", 2, "a.parquet", 1),
    ("b.parquet", 4, "a.parquet", 0),
];

/// Duplicates among the same rows by text.
const TEXTS: Repeats = &[
    ("a.parquet", 2, "a.parquet", 0),
    ("a.parquet", 7, "a.parquet", 6),
    ("b.parquet", 0, "a.parquet", 0),
    ("b.parquet", 2, "b.parquet", 1),
    ("b.parquet", 4, "a.parquet", 0),
];

fn picture(name: &str) -> Option<Vec<u8>> {
    Some(fs::read(root(&format!("tests/fixtures/{name}"))).unwrap())
}

/// Half the size, and recompressed.
fn smaller(bytes: &[u8]) -> Vec<u8> {
    let picture = image::load_from_memory(bytes).unwrap();
    let small = picture.resize_exact(picture.width() / 2, picture.height() / 2, FilterType::Triangle).to_rgb8();
    let mut file = Cursor::new(Vec::new());
    image::DynamicImage::from(small).write_to(&mut file, ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

fn write(place: &Place, name: &str, first: i64, rows: &[Row]) {
    let id: ArrayRef = Arc::new((first..first + rows.len() as i64).collect::<Int64Array>());
    let image: ArrayRef = Arc::new(rows.iter().map(|(image, _)| image.as_deref()).collect::<BinaryArray>());
    let text: ArrayRef = Arc::new(rows.iter().map(|(_, text)| *text).collect::<StringArray>());
    let columns = [("id", id, false), ("image", image, true), ("text", text, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(place.path(name)).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Two files with duplicate rows, `web/a.parquet` and `web/b.parquet`.
fn source() -> Place {
    let place = Place::new();
    let coffee = picture("images/coffee.png");
    let astronaut = picture("images/astronaut_gray.png");
    let broken = picture("bad/zeros.png");
    let small = coffee.as_deref().map(smaller);
    fs::create_dir(place.path("web")).unwrap();
    let a: [Row; 9] = [
        (coffee.clone(), Some("a cup of coffee")),
        (astronaut.clone(), Some("an astronaut")),
        (coffee.clone(), Some("a cup of coffee")),
        (coffee, Some("a mug")),
        (None, Some("nothing to see")),
        (None, Some("nothing to see")),
        (broken.clone(), Some("broken")),
        (broken.clone(), Some("broken")),
        (broken, Some("broken too")),
    ];
    write(&place, "web/a.parquet", 0, &a);
    let b: [Row; 5] = [
        (small.clone(), Some("a cup of coffee")),
        (astronaut.clone(), None),
        (astronaut, None),
        (picture("images/emoji_pizza_twitter_white.png"), Some("a pizza")),
        (small, Some("a cup of coffee")),
    ];
    write(&place, "web/b.parquet", 100, &b);
    place
}

/// The same for texts: boilerplate, and texts that are missing or have no usable picture.
fn shop() -> Place {
    let place = Place::new();
    let coffee = picture("images/coffee.png");
    let astronaut = picture("images/astronaut_gray.png");
    let pizza = picture("images/emoji_pizza_twitter_white.png");
    fs::create_dir(place.path("web")).unwrap();
    let a: [Row; 7] = [
        (coffee.clone(), Some("Buy now at SHOP | photo 123")),
        (pizza.clone(), Some("BUY NOW at shop: photo 4567!")),
        (coffee.clone(), Some("")),
        (astronaut.clone(), Some("")),
        (picture("bad/zeros.png"), Some("a red car")),
        (None, Some("a red car")),
        (coffee.clone(), Some("a red car")),
    ];
    write(&place, "web/a.parquet", 0, &a);
    let b: [Row; 4] = [
        (pizza.clone(), Some("a slice of pizza on a plate")),
        (coffee, Some("  A red\u{a0}car.")),
        (astronaut, None),
        (pizza, Some("buy now at Shop – photo 9")),
    ];
    write(&place, "web/b.parquet", 100, &b);
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    place
}

#[test]
fn a_picture_that_fails_takes_no_text_with_it() {
    let place = Place::new();
    fs::create_dir(place.path("web")).unwrap();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    let text = Some("a red dog runs through the deep snow");
    let rows = ["bad/truncated.png", "bad/truncated.jpg", "images/coffee.png", "images/astronaut_gray.png"];
    write(&place, "web/a.parquet", 0, &rows.map(|name| (picture(name), text)));
    for how in ["texts", "near,texts"] {
        place.ok(&["run", "web", "pairs", "--recipe", "recipe.sql", "--dedupe", how, "--overwrite"]);
        let errors = place.rows("pairs", "SELECT coalesce(error, '') AS error FROM t ORDER BY id");
        let errors: Vec<&str> = errors.iter().map(|row| row["error"].as_str().unwrap()).collect();
        assert!(errors[0].contains("truncated") && errors[1].contains("truncated"), "{errors:?}");
        assert_eq!(errors[2..], ["", "duplicate of a.parquet, row 2"], "{how}");
    }
}

const SHOP: Repeats =
    &[("a.parquet", 1, "a.parquet", 0), ("b.parquet", 1, "a.parquet", 6), ("b.parquet", 3, "a.parquet", 0)];
/// Duplicates by picture too. The pizza came with boilerplate first, so it stays where it has a text of its own.
const SHOP_NEAR: Repeats = &[
    ("a.parquet", 1, "a.parquet", 0),
    ("a.parquet", 2, "a.parquet", 0),
    ("a.parquet", 6, "a.parquet", 0),
    ("b.parquet", 1, "a.parquet", 6),
    ("b.parquet", 2, "a.parquet", 3),
    ("b.parquet", 3, "a.parquet", 0),
];

const QUERY: &str = "SELECT id, source, text, itm_score, kept, error, image_sha256, provenance['file'] AS file, \
                     provenance['row'] AS row, encode(sha256(image), 'hex') AS image FROM t ORDER BY file, row, source DESC";

/// Asserts that the table marks exactly these duplicates.
#[track_caller]
fn marks(rows: &[Value], repeats: Repeats) {
    for row in rows {
        let at = (row["file"].as_str().unwrap(), row["row"].as_i64().unwrap());
        let first = repeats.iter().find(|(file, number, ..)| at == (*file, *number));
        match first {
            Some((_, _, file, number)) => {
                assert_eq!(row["error"], format!("duplicate of {file}, row {number}"), "{row}");
                assert_eq!(row["kept"], false, "{row}");
                for nothing in ["itm_score", "image", "image_sha256"] {
                    assert!(row[nothing].is_null(), "{nothing}: {row}");
                }
            }
            None => assert!(!row["error"].as_str().is_some_and(|error| error.contains("duplicate")), "{row}"),
        }
    }
}

#[test]
fn the_models_do_not_see_what_repeats() {
    let place = source();
    place.job_ok(&["web", "all", "--min-itm", "0", "--write-images", "all"]);
    let all = place.rows("all", QUERY);
    marks(&all, &[]);
    for (how, repeats, wanted) in
        [("exact", EXACT, &[0, 1, 3, 100, 103][..]), ("near", NEAR, &[0, 1, 103]), ("texts", TEXTS, &[0, 1, 3, 103])]
    {
        place.job_ok(&["web", how, "--min-itm", "0", "--write-images", "all", "--dedupe", how]);
        let rows = place.rows(how, QUERY);
        assert_eq!(rows.len(), 28, "each row has its two pairs");
        marks(&rows, repeats);
        for (before, now) in all.iter().zip(&rows) {
            if !now["error"].as_str().is_some_and(|error| error.starts_with("duplicate of ")) {
                let same = |name: &str| assert_eq!(before[name], now[name], "{name}: {now}");
                ["file", "row", "source", "text", "kept", "error", "image_sha256", "image"].into_iter().for_each(same);
            } else {
                assert!(now["source"] == "web" || now["text"].is_null(), "a caption of a duplicate: {now}");
                assert!(now["source"] == "synthetic" || now["text"] == before["text"], "{now}");
            }
        }
        let scored = rows.iter().filter(|row| row["source"] == "web" && row["itm_score"].is_number());
        assert_eq!(scored.map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>(), wanted, "{how}");
    }
    // The option is part of the job's identity.
    let message = place.job_fails(&["web", "exact", "--min-itm", "0", "--write-images", "all"]);
    assert!(message.contains("dedupe was exact"), "{message}");
}

#[test]
fn an_option_that_is_none_is_refused() {
    let place = source();
    for wrong in ["far", "near=99", "exact=1", "texts=0.4", "texts=2", "texts,texts=0.9", "near,far"] {
        let message = place.fails(2, &["run", "web", "pairs", "--dedupe", wrong]);
        assert!(message.contains("--dedupe") && message.contains("near=BITS"), "{message}");
        assert!(message.contains("texts=SIMILARITY, from 0.5 to 1"), "{message}");
    }
    let message = place.fails(2, &["run", "web", "pairs", "--dedupe", "texts", "--dry-run"]);
    assert!(message.contains("cannot be used with"), "{message}");
    assert!(!place.path("pairs").exists());
}

/// A recipe without models.
const RECIPE: &str = "SELECT * EXCLUDE (image), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, \
    CAST(NULL AS FLOAT) AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

fn job<'a>(dest: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["run", "web", dest, "--recipe", "recipe.sql", "--checkpoint-rows", "3", "--write-images", "all"];
    [&args[..], more].concat()
}

fn with_recipe() -> Place {
    let place = source();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    place
}

#[test]
fn bits_decide_what_looks_alike() {
    let place = with_recipe();
    place.ok(&job("same", &["--dedupe", "near=0"]));
    let rows = place.rows("same", QUERY);
    // With zero differing bits, the same picture is still a duplicate, whatever its text.
    let same = |row: &&Value| row["error"].as_str().is_some_and(|error| error.starts_with("duplicate of "));
    let ids: Vec<_> = rows.iter().filter(same).map(|row| row["id"].as_i64().unwrap()).collect();
    assert!([2, 3, 7, 101, 102, 104].iter().all(|id| ids.contains(id)), "{ids:?}");
    assert!([0, 1, 4, 5, 6, 8, 103].iter().all(|id| !ids.contains(id)), "{ids:?}");
}

#[test]
fn a_text_is_found_again_however_it_is_written() {
    let place = shop();
    let same: Repeats = &[("b.parquet", 1, "a.parquet", 6)];
    for (dest, how, repeats) in [
        ("usual", "texts", SHOP),
        ("half", "texts=0.5", SHOP),
        // At similarity 1, numbers make a difference.
        ("whole", "texts=1", same),
        ("both", "texts,near", SHOP_NEAR),
        ("named", "near=6,texts=0.8", SHOP_NEAR),
    ] {
        place.ok(&job(dest, &["--dedupe", how]));
        let rows = place.rows(dest, QUERY);
        assert_eq!(rows.len(), 11, "{how}");
        marks(&rows, repeats);
        // An unusable row is neither a duplicate nor an original.
        let broken = rows.iter().find(|row| row["id"] == 4).unwrap();
        assert!(broken["error"].is_string() && broken["kept"] == false, "{broken}");
    }
    let message = place.fails(1, &job("usual", &["--dedupe", "texts=0.9"]));
    assert!(message.contains("dedupe was texts=0.8"), "{message}");
    // The order of the criteria does not matter.
    let said = place.fails(1, &job("both", &["--dedupe", "near,texts"]));
    assert!(said.contains("is finished"), "{said}");
}

#[test]
fn a_struct_of_bytes_and_path_keeps_its_path() {
    let place = with_recipe();
    fs::rename(place.path("web"), place.path("plain")).unwrap();
    let copy = |name: &str| {
        format!(
            "COPY (SELECT id, named_struct('bytes', image, 'path', CAST(id AS VARCHAR) || '.png') AS image, text FROM 'plain/{name}' \
             ORDER BY id) TO 'web/{name}'"
        )
    };
    place.ok(&["sql", "-c", &format!("{}; {}", copy("a.parquet"), copy("b.parquet"))]);
    place.ok(&job("pairs", &["--dedupe", "near"]));
    marks(&place.rows("pairs", QUERY), NEAR);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE image_path = CAST(id AS VARCHAR) || '.png'"), 14);
}

#[test]
fn each_shard_looks_at_the_whole_source() {
    let place = with_recipe();
    for shard in ["1/3", "2/3", "3/3"] {
        place.ok(&job("pairs", &["--dedupe", "near", "--shard", shard]));
    }
    let rows = place.rows("pairs", QUERY);
    assert_eq!(rows.len(), 14);
    marks(&rows, NEAR);

    let place = shop();
    for shard in ["2/2", "1/2"] {
        place.ok(&job("pairs", &["--dedupe", "near,texts", "--shard", shard]));
    }
    let rows = place.rows("pairs", QUERY);
    assert_eq!(rows.len(), 11);
    marks(&rows, SHOP_NEAR);
}

#[test]
fn what_is_new_may_repeat_what_was_there() {
    for (place, how, repeats, count) in [(with_recipe(), "near", NEAR, 14), (shop(), "texts", SHOP, 11)] {
        fs::rename(place.path("web/b.parquet"), place.path("b.parquet")).unwrap();
        place.ok(&job("pairs", &["--dedupe", how]));
        fs::rename(place.path("b.parquet"), place.path("web/b.parquet")).unwrap();
        place.ok(&["update", "pairs"]);
        let rows = place.rows("pairs", QUERY);
        assert_eq!(rows.len(), count);
        marks(&rows, repeats);
        // A duplicate is not a failure that a retry could fix.
        place.ok(&["retry", "pairs"]);
        assert_eq!(place.rows("pairs", QUERY), rows);
    }
}

#[cfg(unix)]
#[test]
fn a_pass_that_is_killed_goes_on() {
    // Within a hash file, after one, before and after the duplicates are known, and in the middle of the table.
    let near = ["hashes:1", "hashes:2", "duplicates:1", "duplicates-done:1", "pairs:3", "unit-done:2", "manifest:1"];
    killed_at("near", &near);
    // With temporary files of the text comparison left behind, twice.
    let texts = ["hashes:1", "hashes:2", "bands:1", "bands:1", "duplicates:1", "duplicates-done:1", "pairs:3"];
    killed_at("near,texts", &texts);
}

/// Asserts that a job killed at each of these points in turn makes the same table. With both criteria, the duplicates
/// are the same as with pictures alone.
#[cfg(unix)]
fn killed_at(how: &str, points: &[&str]) {
    use std::os::unix::process::ExitStatusExt as _;

    let place = with_recipe();
    let args = |dest: &'static str| {
        let more = ["--dedupe", how, "--set", "datafusion.execution.batch_size=2"];
        job(dest, &more).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let command = |dest: &'static str| place.command(&args(dest).iter().map(String::as_str).collect::<Vec<_>>());
    let ok = |dest: &'static str, kill: &str| {
        let output = command(dest).env("CAPFILT_KILL_AT", kill).output().unwrap();
        assert!(output.status.success(), "{}", super::text(&output.stderr));
    };
    ok("whole", "");
    marks(&place.rows("whole", QUERY), NEAR);
    let killed = |dest: &'static str, at: &str| {
        let output = command(dest).env("CAPFILT_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{how}, {at}: {}", super::text(&output.stderr));
    };
    for at in points {
        killed("pairs", at);
    }
    ok("pairs", "");
    super::kills::same_table(&place, "whole", "pairs");

    // A finished hash file is not hashed again: in the second run only one is left, so the kill point is not reached
    // twice.
    killed("again", "hashes-done:1");
    let folder = format!("again/{BOOKKEEPING}/shard-1-of-1/dedupe");
    assert_eq!(place.names(&folder), ["hashes-00000000.parquet"]);
    ok("again", "hashes:2");
    super::kills::same_table(&place, "whole", "again");
}
