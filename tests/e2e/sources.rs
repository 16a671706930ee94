//! Sources other than Parquet and WebDataset.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use super::{Place, root, verb};

/// A recipe without models, which returns the image's SHA-256 and the text unchanged.
const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

const CAT: &str = "tests/fixtures/images/emoji_cat_face_google.png";
const FOX: &str = "tests/fixtures/images/emoji_fox_twitter.png";

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
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

#[test]
fn texts_with_paths_are_sources() {
    for (name, lines) in [
        ("web.csv", "id,path,text\n1,cat.png,\"a cat, smiling\"\n2,fox.png,a fox\n3,lost.png,nobody\n4,,no path\n"),
        (
            "web.jsonl",
            "{\"id\": 1, \"path\": \"cat.png\", \"text\": \"a cat, smiling\"}\n{\"id\": 2, \"path\": \"fox.png\", \"text\": \"a fox\"}\n\
             {\"id\": 3, \"path\": \"lost.png\", \"text\": \"nobody\"}\n\n{\"id\": 4, \"text\": \"no path\"}\n",
        ),
    ] {
        let place = place();
        fs::create_dir(place.path("data")).unwrap();
        fs::copy(root(CAT), place.path("data/cat.png")).unwrap();
        fs::copy(root(FOX), place.path("data/fox.png")).unwrap();
        fs::write(place.path("data").join(name), lines).unwrap();
        let source = format!("data/{name}");
        place.ok(&run(&source, &["--image-column", "path", "--image-is", "path", "--checkpoint-rows", "3"]));
        assert_eq!(column(&place, "id"), ["1", "2", "3", "4"], "{name}");
        assert_eq!(column(&place, "text"), ["a cat, smiling", "a fox", "nobody", "no path"]);
        assert_eq!(column(&place, "kept"), ["true", "true", "false", "false"]);
        let errors = column(&place, "error");
        assert_eq!((errors[0].as_str(), errors[3].as_str()), ("NULL", "no image"));
        assert!(errors[2].starts_with("file: No such file"), "{errors:?}");
        let sizes = [CAT, FOX].map(|file| fs::metadata(root(file)).unwrap().len().to_string());
        assert_eq!(column(&place, "octet_length(encode(image, 'hex')) / 2")[..2], sizes);
        assert_eq!(place.number("pairs", "SELECT max(provenance['row']) FROM t"), 3);

        // Columns are named by options.
        let said = place.fails(1, &["run", &source, "other", "--recipe", "recipe.sql"]);
        assert!(said.contains("no image column") && said.contains("path"), "{said}");
        // CSV and JSON paths are read as text, even if they look like numbers; in files with types the column must be
        // text.
        place.ok(&[
            "run",
            &source,
            "other",
            "--recipe",
            "recipe.sql",
            "--image-column",
            "id",
            "--image-is",
            "path",
            "--overwrite",
        ]);
        assert_eq!(place.number("other", "SELECT count(*) FROM t WHERE error LIKE 'file: No such file%'"), 4);
        place.ok(&["sql", "-c", &format!("COPY (SELECT id, text FROM '{source}') TO 'typed.parquet'")]);
        let said = place.fails(
            1,
            &["run", "typed.parquet", "typed", "--recipe", "recipe.sql", "--image-column", "id", "--image-is", "path"],
        );
        assert!(said.contains("a URL or path must be Utf8"), "{said}");
        // A changed text in a finished file makes it another source.
        fs::write(place.path("data").join(name), lines.replace("smiling", "asleep!")).unwrap();
        let said = place.fails(1, &["update", "pairs"]);
        assert!(said.contains("has changed"), "{said}");
    }
}

#[test]
fn files_of_text_need_not_agree_on_types() {
    let place = place();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    let line = |fields: &str| format!("{{\"path\": \"cat.png\", \"text\": \"a cat\", {fields}}}\n");
    let source = |name: &str, fields: &str| fs::write(place.path("data").join(name), line(fields)).unwrap();
    let job = |more: &[&'static str]| {
        [
            &run(
                "data",
                &["--image-column", "path", "--image-is", "path", "--image-root", ".", "--write-images", "none"],
            )[..],
            more,
        ]
        .concat()
    };
    source("a.jsonl", "\"width\": 1, \"id\": 7, \"alt\": null");
    source("b.jsonl", "\"width\": 1.5, \"id\": \"b\", \"alt\": \"cat\", \"only\": true");
    place.ok(&job(&[]));
    assert_eq!(column(&place, "width"), ["1.0", "1.5"]);
    assert_eq!(column(&place, "id"), ["7", "b"]);
    assert_eq!(column(&place, "alt"), ["NULL", "cat"]);
    assert_eq!(column(&place, "only"), ["NULL", "true"]);

    // The table's columns are fixed.
    source("c.jsonl", "\"width\": \"wide\", \"id\": \"c\"");
    let said = place.fails(1, &verb("update", &job(&[])));
    assert!(said.contains("changes the table's column width"), "{said}");
    source("c.jsonl", "\"width\": [1], \"id\": \"c\"");
    let said = place.fails(1, &verb("update", &job(&[])));
    assert!(said.contains("c.jsonl") && said.contains("its width is") && said.contains("a.jsonl"), "{said}");
    source("c.jsonl", "\"width\": 3, \"id\": 9");
    place.ok(&verb("update", &job(&[])));
    assert_eq!(column(&place, "id"), ["7", "b", "9"]);
}

/// JSON lines of twelve rows with the given `width`.
fn lines(place: &Place, name: &str, width: &str) {
    let line = format!("{{\"path\": \"cat.png\", \"text\": \"a cat\", \"width\": {width}}}\n");
    fs::write(place.path("data").join(name), line.repeat(12)).unwrap();
}

#[test]
fn a_stopped_job_keeps_its_columns() {
    let place = place();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    lines(&place, "a.jsonl", "1");
    let job = |more: &[&'static str]| {
        let options = [
            "--image-column",
            "path",
            "--image-is",
            "path",
            "--image-root",
            ".",
            "--write-images",
            "none",
            "--checkpoint-rows",
            "4",
        ];
        [&run("data", &options)[..], more].concat()
    };
    for format in ["parquet", "jsonl"] {
        let job = |more: &[&'static str]| [&job(more)[..], &["--table-format", format]].concat();
        let output = place.command(&job(&["--overwrite"])).env("CAPFILT_KILL_AT", "unit-done:1").output().unwrap();
        assert_eq!(output.status.signal(), Some(9));
        lines(&place, "b.jsonl", "1.5");
        let said = place.fails(1, &verb("update", &job(&[])));
        assert!(said.contains("changes the table's column width") && said.contains("--overwrite"), "{said}");
        lines(&place, "b.jsonl", "2");
        place.ok(&verb("update", &job(&[])));
        fs::remove_file(place.path("data/b.jsonl")).unwrap();
    }
    // A retry ignores new files, and the schema changes they would cause.
    place.ok(&job(&["--overwrite"]));
    lines(&place, "c.jsonl", "1.5");
    place.ok(&verb("retry", &job(&[])));
    assert_eq!(column(&place, "width"), ["1"; 12]);
    // An integer that has no exact f64 is not rounded.
    lines(&place, "a.jsonl", "9007199254740993");
    let said = place.fails(1, &job(&["--overwrite"]));
    assert!(said.contains("a.jsonl") && said.contains("column width: the whole number 9007199254740993"), "{said}");
}

#[test]
fn the_same_path_is_the_same_image_to_dedupe() {
    let place = place();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    let lines = "id,path,text\n1,cat.png,a cat\n2,cat.png,a cat\n3,cat.png,A cat!\n4,lost.png,a cat\n5,,a cat\n";
    fs::write(place.path("web.csv"), lines).unwrap();
    let job = |how: &'static str, more: &[&'static str]| {
        [&run("web.csv", &["--image-column", "path", "--image-is", "path", "--dedupe", how])[..], more].concat()
    };
    place.ok(&job("exact", &[]));
    let errors = column(&place, "error");
    assert_eq!((errors[1].as_str(), errors[2].as_str()), ("duplicate of web.csv, row 0", "NULL"));
    assert!(errors[3].starts_with("file: "), "{errors:?}");
    assert_eq!(errors[4], "no image");
    // Its path remains, and its file was not read.
    assert_eq!(column(&place, "path")[1], "cat.png");
    assert_eq!(column(&place, "image_sha256 IS NULL"), ["false", "true", "false", "true", "true"]);
    for how in ["near", "texts"] {
        assert!(place.fails(1, &job(how, &["--overwrite"])).contains("look at pictures"));
    }
}

#[test]
fn times_of_text_fit_a_delta_table() {
    let place = place();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    fs::write(place.path("web.csv"), "path,text,seen\ncat.png,a cat,2026-05-01T10:20:30\n").unwrap();
    place.ok(&run("web.csv", &["--image-column", "path", "--image-is", "path", "--table-format", "delta"]));
    assert_eq!(column(&place, "seen"), ["2026-05-01T10:20:30"]);
}

#[test]
fn a_broken_line_is_named() {
    let place = place();
    fs::write(place.path("a.csv"), "id,text\n1,x\n2\n").unwrap();
    let said = place.fails(1, &run("a.csv", &["--image-column", "id", "--image-is", "path"]));
    assert!(said.contains("a.csv") && said.contains("line"), "{said}");
    fs::write(place.path("a.jsonl"), "{\"id\": \n[1]\n").unwrap();
    let said = place.fails(1, &run("a.jsonl", &["--image-column", "id", "--image-is", "path"]));
    assert!(said.contains("a.jsonl") && said.contains("JSON"), "{said}");
    fs::write(place.path("empty.csv"), "").unwrap();
    assert!(place.fails(1, &run("empty.csv", &[])).contains("no columns"));
}

#[test]
fn a_folder_of_images_is_a_source() {
    let place = place();
    for folder in ["pictures", "pictures/style=flat", "pictures/.hidden", "pictures/texts"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    fs::write(place.path("pictures/texts/readme.txt"), "no image here").unwrap();
    fs::copy(root(FOX), place.path("pictures/.hidden/no.png")).unwrap();
    fs::remove_dir_all(place.path("pictures/style=flat")).unwrap();
    fs::copy(root(CAT), place.path("pictures/b.PNG")).unwrap();
    fs::copy(root(FOX), place.path("pictures/a.jpg")).unwrap();
    fs::write(place.path("pictures/a.txt"), "a fox\n").unwrap();
    fs::write(place.path("pictures/c.webp"), "no image at all").unwrap();
    place.ok(&run("pictures", &[]));
    assert_eq!(column(&place, "key"), ["a.jpg", "b.PNG", "c.webp"]);
    assert_eq!(column(&place, "text"), ["a fox", "NULL", "NULL"]);
    assert_eq!(column(&place, "kept"), ["true", "true", "false"]);

    // Folder names give columns here too.
    fs::create_dir_all(place.path("more/style=flat")).unwrap();
    fs::copy(root(CAT), place.path("more/style=flat/cat.png")).unwrap();
    place.ok(&["run", "more", "flat", "--recipe", "recipe.sql"]);
    assert_eq!(place.number("flat", "SELECT count(*) FROM t WHERE style = 'flat' AND kept"), 1);
    let said = place.fails(1, &run("pictures/texts", &[]));
    assert!(said.contains("no image"), "{said}");

    // The names of macOS have ü as two characters; a text that no image has the name of is named.
    fs::create_dir(place.path("names")).unwrap();
    fs::copy(root(CAT), place.path("names/ku\u{308}che.png")).unwrap();
    for (name, content) in [("k\u{fc}che.txt", "a cat"), ("b.txt", "no image of it"), ("c.txt", "none of it")] {
        fs::write(place.path("names").join(name), content).unwrap();
    }
    let output = place.run(&run("names", &["--overwrite"]));
    let said = super::text(&output.stderr);
    assert!(said.contains("names/b.txt and 1 more: passed over, a text without an image of the same name"), "{said}");
    assert_eq!(column(&place, "text"), ["a cat"]);
}

/// New images in a folder are added, wherever their names sort among the others.
#[test]
fn a_folder_of_images_is_updated() {
    let place = place();
    fs::create_dir_all(place.path("pictures/style=flat")).unwrap();
    let picture = |from: &str, name: &str, text: &str| {
        let path = place.path("pictures").join(name);
        fs::copy(root(from), &path).unwrap();
        fs::write(path.with_extension("txt"), text).unwrap();
    };
    picture(CAT, "style=flat/m.png", "a cat");
    picture(FOX, "style=flat/p.png", "a fox");
    place.ok(&run("pictures", &[]));
    picture(CAT, "style=flat/a.png", "the first cat");
    picture(FOX, "style=flat/o.png", "a second fox");
    let said = place.fails(1, &run("pictures", &[]));
    assert!(said.contains("capfilt update"), "{said}");
    place.ok(&verb("update", &run("pictures", &[])));
    let keys = column(&place, "key || ' ' || style || ' ' || text");
    assert_eq!(keys, ["m.png flat a cat", "p.png flat a fox", "a.png flat the first cat", "o.png flat a second fox"]);
    // A second update, and a folder that is new as a whole.
    picture(CAT, "style=flat/b.png", "a third cat");
    fs::create_dir(place.path("pictures/style=line")).unwrap();
    picture(CAT, "style=line/a.png", "a cat in lines");
    place.ok(&verb("update", &run("pictures", &[])));
    assert_eq!(column(&place, "text")[4..], ["a third cat", "a cat in lines"]);
    assert_eq!(column(&place, "provenance['row']"), ["0", "1", "0", "1", "0", "0"]);
    place.ok(&verb("update", &run("pictures", &[])));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 6);

    // Images that the table left out are found again by their SHA-256.
    fs::write(place.path("none.sql"), RECIPE.replace("image_error(image) IS NULL AS kept", "false AS kept")).unwrap();
    place.ok(&["run", "pictures", "plain", "--recipe", "none.sql"]);
    picture(CAT, "style=flat/0.png", "a cat before all others");
    place.ok(&["update", "plain"]);
    assert_eq!(place.number("plain", "SELECT count(image) FROM t"), 0);
    place.ok(&["select", "plain", "chosen", "--min-itm", "0"]);
    let wrong = "SELECT count(*) FROM t WHERE encode(sha256(image), 'hex') IS DISTINCT FROM image_sha256";
    assert_eq!((place.number("chosen", "SELECT count(*) FROM t"), place.number("chosen", wrong)), (7, 0));

    // A deleted image does not shift the others.
    let (there, away) = (place.path("pictures/style=flat/p.png"), place.path("p.png"));
    fs::rename(&there, &away).unwrap();
    let said = place.fails(1, &["select", "plain", "fewer", "--min-itm", "0"]);
    assert!(said.contains("p.png") || said.contains("row 4"), "{said}");
    assert!(said.contains("the source has it no more"), "{said}");
    let said = place.fails(1, &verb("update", &run("pictures", &[])));
    assert!(said.contains("style=flat/p.png: it was part of the source, and is gone"), "{said}");
    fs::rename(&away, &there).unwrap();
    place.ok(&verb("update", &run("pictures", &[])));

    // A table from before the names were recorded reports that.
    let manifest = place.path("plain/_capfilt/shard-1-of-1/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for file in json["files"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("images").unwrap();
    }
    fs::write(&manifest, json.to_string()).unwrap();
    let said = place.fails(1, &["update", "plain"]);
    assert!(said.contains("earlier version of capfilt"), "{said}");

    // Neither images nor texts that are already in the table may change.
    fs::write(place.path("pictures/style=flat/m.txt"), "a cat, changed").unwrap();
    let said = place.fails(1, &verb("update", &run("pictures", &[])));
    assert!(said.contains("style=flat") && said.contains("has changed"), "{said}");
    fs::remove_dir_all(place.path("pictures/style=flat")).unwrap();
    let said = place.fails(1, &verb("update", &run("pictures", &[])));
    assert!(said.contains("is gone"), "{said}");
}

/// The format of the tables that BLIP's authors published: objects with a URL and a caption.
#[test]
fn json_lines_have_url_and_caption() {
    let place = place();
    place.slice();
    let lines = ["--table-format", "jsonl", "--target-file-size", "4kB", "--checkpoint-rows", "16"];
    place.ok(&run("slice.parquet", &[&lines[..], &["--write-pairs", "kept"]].concat()));
    let names = place.parts("pairs");
    assert!(names.len() > 1 && names.iter().all(|name| name.ends_with(".jsonl")), "{names:?}");
    let all: String = names.iter().map(|name| fs::read_to_string(place.path("pairs").join(name)).unwrap()).collect();
    let pairs: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kept = "SELECT count(*) FROM t WHERE image_error(image) IS NULL";
    assert_eq!(pairs.len() as i64, place.number("slice.parquet", kept));
    // The size limit applies to the final file, not to the intermediate Parquet.
    let sized = ["--table-format", "jsonl", "--target-file-size", "4kB", "--checkpoint-rows", "2", "--overwrite"];
    place.ok(&run("slice.parquet", &sized));
    let sizes: Vec<u64> =
        place.parts("pairs").iter().map(|name| fs::metadata(place.path("pairs").join(name)).unwrap().len()).collect();
    let (_, whole) = sizes.split_last().unwrap();
    assert!(whole.len() > 1 && whole.iter().all(|size| (4000..6000).contains(size)), "{sizes:?}");
    place.ok(&run("slice.parquet", &[&lines[..], &["--write-pairs", "kept", "--overwrite"]].concat()));
    let said = place.fails(1, &run("slice.parquet", &["--table-format", "jsonl", "--write-images", "all"]));
    assert!(said.contains("jsonl has no images"), "{said}");
    for pair in &pairs {
        assert!(pair["kept"] == true && pair.get("image").is_none(), "{pair}");
        assert!(pair["provenance"]["row"].is_number() && pair.get("text").is_none(), "{pair}");
    }
    for (name, column) in [("caption", "text"), ("url", "url")] {
        let there = format!("SELECT count({column}) FROM t WHERE image_error(image) IS NULL");
        let found = pairs.iter().filter(|pair| pair[name].is_string()).count();
        assert_eq!(found as i64, place.number("slice.parquet", &there), "{name}");
    }
    // The output can be a source again.
    place.ok(&["sql", "--table", "t=pairs", "-c", "SELECT caption, source FROM t LIMIT 1"]);
    let said = place.fails(1, &["report", "pairs", "-o", "x.html"]);
    assert!(said.contains("a report is made of Parquet"), "{said}");
}

/// A retry does not take over a stopped replacement, nor the other way round.
#[cfg(unix)]
#[test]
fn a_retry_and_a_replacement_are_two_things() {
    let place = place();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("data/cat.png")).unwrap();
    let lines: String =
        (0..40).map(|n| format!("{n},{},text {n}\n", if n % 4 == 0 { "lost.png" } else { "cat.png" })).collect();
    fs::write(place.path("data/web.csv"), format!("id,path,text\n{lines}")).unwrap();
    let job = |more: &[&'static str]| {
        [&run("data/web.csv", &["--image-column", "path", "--image-is", "path", "--checkpoint-rows", "8"])[..], more]
            .concat()
    };
    let killed = |args: &[&str]| {
        let output = place.command(args).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
        assert!(output.status.code().is_none(), "{}", super::text(&output.stderr));
    };
    place.ok(&job(&[]));
    assert_eq!(column(&place, "kept").iter().filter(|kept| *kept == "false").count(), 10);

    fs::write(place.path("recipe.sql"), RECIPE.replace("1.0 AS", "0.5 AS")).unwrap();
    killed(&job(&["--overwrite"]));
    let said = place.fails(1, &verb("retry", &job(&[])));
    assert!(said.contains("not finished"), "{said}");
    place.ok(&job(&["--overwrite"]));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE itm_score = 0.5"), 40);

    fs::copy(root(FOX), place.path("data/lost.png")).unwrap();
    killed(&verb("retry", &job(&[])));
    // With the good pictures deleted, only the old table has them.
    fs::remove_file(place.path("data/cat.png")).unwrap();
    let said = place.fails(1, &job(&[]));
    assert!(said.contains("a retry was stopped"), "{said}");
    place.ok(&verb("retry", &job(&[])));
    assert_eq!(column(&place, "kept").iter().filter(|kept| *kept == "true").count(), 40);
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 40);
}

/// A foreign table cannot make files of this machine part of the result.
#[test]
fn paths_stay_below_their_folder() {
    let place = place();
    fs::create_dir(place.path("data")).unwrap();
    fs::copy(root(CAT), place.path("data/cat.png")).unwrap();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    let within = place.path("data/cat.png").display().to_string();
    let lines = format!("id,path,text\n1,cat.png,a\n2,../cat.png,b\n3,/etc/passwd,c\n4,{within},d\n5,.,e\n");
    fs::write(place.path("data/web.csv"), lines).unwrap();
    place.ok(&run("data/web.csv", &["--image-column", "path", "--image-is", "path", "--write-images", "all"]));
    assert_eq!(column(&place, "kept"), ["true", "false", "false", "true", "false"]);
    let errors = column(&place, "error");
    assert!(errors[1].contains("is not below") && errors[2].contains("is not below"), "{errors:?}");
    assert!(errors[4].contains("no regular file"), "{errors:?}");
    place.ok(&run(
        "data/web.csv",
        &["--image-column", "path", "--image-is", "path", "--image-root", ".", "--overwrite", "--max-failed", "99%"],
    ));
    assert_eq!(column(&place, "kept")[1..3], ["false", "false"], "above the folder stays above");
}

#[test]
fn a_file_is_what_its_name_or_its_bytes_say() {
    let place = place();
    let web = root("tests/fixtures/web.parquet");
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    // As in a cache whose files are named by digest.
    fs::copy(&web, place.path("0f3a")).unwrap();
    place.ok(&run("0f3a", &[]));
    let lines = "\u{feff}{\"path\": \"cat.png\", \"text\": \"a cat\"}\n";
    fs::write(place.path("web.json"), lines).unwrap();
    place.ok(&run("web.json", &["--image-column", "path", "--image-is", "path", "--overwrite"]));
    assert_eq!(column(&place, "kept"), ["true"]);
    fs::write(place.path("web.json"), "\n{\"path\": 1,}\n").unwrap();
    for (name, content, words) in [
        ("web.txt", Some("cat.png a cat"), "its format is unknown"),
        ("web.csv.gz", Some("cat.png a cat"), "unpack it"),
        ("empty.tar", Some(""), "it is empty"),
        ("web.json", None, "line 2: trailing comma"),
    ] {
        if let Some(content) = content {
            fs::write(place.path(name), content).unwrap();
        }
        let said = place.fails(1, &["run", name, "other", "--recipe", "recipe.sql"]);
        assert!(said.contains(words) && said.contains(name), "{said}");
    }
    assert!(!place.path("other").exists());
}

#[test]
fn what_is_passed_over_in_a_folder_or_a_tar_is_told() {
    let place = place();
    fs::create_dir(place.path("photos")).unwrap();
    for name in ["a.png", "b.heic"] {
        fs::copy(root(CAT), place.path("photos").join(name)).unwrap();
    }
    std::os::unix::fs::symlink("nowhere", place.path("photos/c.png")).unwrap();
    fs::write(place.path("photos/a.txt"), "a cat").unwrap();
    let told = |args: &[&str]| {
        let output = place.run(args);
        assert!(output.status.success(), "{args:?}: {}", super::text(&output.stderr));
        super::text(&output.stderr)
    };
    let said = told(&run("photos", &[]));
    assert!(said.contains("passed over what is not an image by its name, or links to nothing: 2 files"), "{said}");
    assert_eq!(column(&place, "text"), ["a cat"]);
    // Of two pictures with the same key, the first counts.
    fs::rename(place.path("photos/b.heic"), place.path("photos/a.jpg")).unwrap();
    let args = ["cf", "twice.tar", "a.png", "a.jpg", "a.txt"];
    let done = std::process::Command::new("tar").args(args).current_dir(place.path("photos")).status().unwrap();
    assert!(done.success());
    let said = told(&run("photos/twice.tar", &["--overwrite"]));
    assert!(said.contains("passed over a.jpg"), "{said}");
    assert_eq!(column(&place, "kept"), ["true"]);
    // A folder counts as one of images even if all of them have JPEG's rarer extensions.
    fs::create_dir(place.path("scans")).unwrap();
    for name in ["a.jfif", "b.JPE"] {
        fs::copy(root(CAT), place.path("scans").join(name)).unwrap();
    }
    fs::write(place.path("scans/a.txt"), b"\xff\xfea\0 \0c\0a\0t\0\r\0\n\0").unwrap();
    fs::write(place.path("scans/b.txt"), vec![b'x'; 9 << 20]).unwrap();
    let limit = ["--set", "capfilt.max_image_bytes=100", "--overwrite"];
    let said = told(&run("scans", &limit[2..]));
    assert!(said.contains("scans/b.txt: passed over, a text of more than 8 MiB"), "{said}");
    assert_eq!(
        (column(&place, "kept"), column(&place, "text")),
        (vec!["true".to_owned(); 2], vec!["a cat".to_owned(), "NULL".to_owned()])
    );
    told(&run("scans", &limit));
    assert_eq!(column(&place, "error"), vec!["image: larger than 100 bytes (capfilt.max_image_bytes)"; 2]);
    assert_eq!(column(&place, "image_sha256"), ["NULL", "NULL"]);
}
