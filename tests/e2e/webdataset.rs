//! WebDataset in SQL, as a source, and as the pair table's format.

use std::fs;

use super::{BOOKKEEPING, Place, root, text};

/// A recipe without models.
const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

/// Shards of the slice: `shards/a.tar` and `shards/b.tar`, with the id as key.
fn shards(place: &Place) {
    place.slice();
    let copy = "COPY (SELECT CAST(id AS VARCHAR) AS key, image, text, url FROM 'slice.parquet' WHERE id % 2 = 0) TO 'shards/a.tar'; \
                COPY (SELECT CAST(id AS VARCHAR) AS key, image, text, url FROM 'slice.parquet' WHERE id % 2 = 1) TO 'shards/b.tar' \
                STORED AS WEBDATASET";
    place.ok(&["sql", "-c", copy]);
}

#[test]
fn sql_reads_what_it_wrote() {
    let place = Place::new();
    shards(&place);
    // A row without image and text is not a sample: only its url would be left to write.
    let same = "SELECT count(*) AS n FROM s JOIN t ON s.key = CAST(t.id AS VARCHAR) \
                WHERE (s.image IS NOT DISTINCT FROM t.image) AND (s.text IS NOT DISTINCT FROM t.text) AND s.json LIKE '{%'";
    let rows = place.number("slice.parquet", "SELECT sum(n * n) FROM (SELECT count(*) AS n FROM t GROUP BY id)");
    for location in ["shards", "shards/"] {
        let create = format!("CREATE EXTERNAL TABLE s STORED AS WEBDATASET LOCATION '{location}'; {same}");
        let out = place.ok(&["sql", "--table", "t=slice.parquet", "--format", "csv", "-c", &create]);
        assert_eq!(out, format!("n\n{rows}\n"));
    }
    assert_eq!(place.number("shards", "SELECT count(*) FROM t"), 40);
    assert_eq!(place.number("shards/a.tar", "SELECT count(*) FROM t WHERE CAST(key AS BIGINT) % 2 = 1"), 0);
    let out = place.ok(&[
        "sql",
        "--format",
        "csv",
        "-c",
        "SELECT count(key) AS n FROM 'shards/b.tar' WHERE image_error(image) IS NULL",
    ]);
    assert!(out.starts_with("n\n"), "{out}");
    let plan = place.ok(&["sql", "-c", "EXPLAIN SELECT key FROM 'shards/a.tar'"]);
    assert!(plan.contains("file_type=webdataset") && plan.contains("projection=[key]"), "{plan}");

    fs::write(place.path("broken.tar"), &fs::read(place.path("shards/a.tar")).unwrap()[..5000]).unwrap();
    let message = place.fails(1, &["sql", "-c", "SELECT count(*) FROM 'broken.tar'"]);
    assert!(message.contains("broken.tar") && message.contains("broken"), "{message}");
    let message = place.fails(1, &["sql", "-c", "COPY (SELECT 1 AS a) TO 'x.tar' OPTIONS ('format.level' '3')"]);
    assert!(message.contains("no options"), "{message}");
}

#[test]
fn shards_are_a_source() {
    let place = Place::new();
    shards(&place);
    place.job_ok(&["slice.parquet", "parquet"]);
    let said = place.job_ok(&["shards", "tar", "--checkpoint-rows", "7"]);
    assert!(said.contains("read       40 rows in 2 files"), "{said}");
    let by = |table: &str, id: &str| {
        let query = format!(
            "SELECT {id} AS id, source, text, kept, round(itm_score, 4) AS score, image_sha256 FROM t ORDER BY id, image_sha256, source"
        );
        place.rows(table, &query)
    };
    assert_eq!(by("tar", "CAST(key AS BIGINT)"), by("parquet", "id"));
    // From shards to shards nothing is lost either: the pair's json contains the sample's own.
    place.job_ok(&["shards", "again", "--table-format", "webdataset"]);
    assert_eq!(
        place.number("again", "SELECT count(*) FROM t WHERE json LIKE '%\"kept\":%' AND json LIKE '%\"json\":%'"),
        80
    );
    let truncated = &fs::read(place.path("shards/a.tar")).unwrap()[..5000];
    fs::write(place.path("shards/a.tar"), truncated).unwrap();
    let message = place.job_fails(&["shards", "other"]);
    assert!(message.contains("a.tar") && message.contains("cut off"), "{message}");
    fs::copy(place.path("slice.parquet"), place.path("shards/c.parquet")).unwrap();
    fs::remove_file(place.path("shards/a.tar")).unwrap();
    let message = place.job_fails(&["shards", "other"]);
    assert!(message.contains("c.parquet") && message.contains("of one kind"), "{message}");
}

#[test]
fn a_pair_table_may_be_shards() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "parquet"]);
    let args = [slice, "tar", "--table-format", "webdataset", "--checkpoint-rows", "7"];
    place.job_ok(&[&args[..], &["--target-file-size", "20kB"]].concat());
    let parts = place.parts("tar");
    assert!(parts.len() > 1 && parts.iter().all(|name| name.ends_with(".tar")), "{parts:?}");
    assert_eq!(place.names(&format!("tar/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"]);
    assert_eq!(place.number("tar", "SELECT count(DISTINCT key) FROM t"), 80);
    // The same pairs, with all columns other than image and text in the json.
    let rows = place.rows("tar", "SELECT key, text, json, encode(sha256(image), 'hex') AS image FROM t");
    let pairs = place.rows(
        "parquet",
        "SELECT source, text, kept, id, error, image_sha256, encode(sha256(image), 'hex') AS image FROM t",
    );
    for (sample, pair) in rows.iter().zip(&pairs) {
        let json: serde_json::Value = serde_json::from_str(sample["json"].as_str().unwrap()).unwrap();
        for name in ["source", "kept", "id", "error", "image_sha256"] {
            assert_eq!(json[name], pair[name], "{name}");
        }
        assert_eq!((&sample["text"], &sample["image"]), (&pair["text"], &pair["image"]));
        assert!(sample["key"].as_str().unwrap().ends_with(pair["source"].as_str().unwrap()));
    }
    assert!(place.fails(1, &["report", "tar", "-o", "x.html"]).contains("is made of Parquet"));
}

/// Writes `members` to the tar file `name`, in order.
fn tar_file(place: &Place, name: &str, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(place.path(name)).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

/// Keys, texts and errors of the rows, and the job's messages.
fn rows_of(place: &Place, source: &str) -> (Vec<[String; 3]>, String) {
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    let output = place.run(&["run", source, "pairs", "--recipe", "recipe.sql", "--overwrite"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{source}: {said}");
    let rows =
        place.rows("pairs", "SELECT key, coalesce(text, 'NULL') AS text, coalesce(error, 'NULL') AS error FROM t");
    let rows = rows.iter().map(|row| ["key", "text", "error"].map(|name| row[name].as_str().unwrap().to_owned()));
    (rows.collect(), said)
}

fn row(key: &str, text: &str, error: &str) -> [String; 3] {
    [key, text, error].map(str::to_owned)
}

#[test]
fn no_member_is_passed_over_without_a_word() {
    let place = Place::new();
    let cat = fs::read(root("tests/fixtures/images/emoji_cat_face_google.png")).unwrap();
    let cat = cat.as_slice();
    // A job also reads folders of tar files; for each kind of problem, the first name and the count are reported.
    fs::create_dir(place.path("dots")).unwrap();
    tar_file(
        &place,
        "dots/a.tar",
        &[("22.00.jpg", cat), ("22.00.txt", b"a cat"), ("22.01.jpg", cat), ("22.01.txt", b"a cat")],
    );
    tar_file(
        &place,
        "dots/b.tar",
        &[("s0.input.jpg", cat), ("s0.outputs.txt", b"a cat"), ("s1.left.jpg", cat), ("s1.txt", b"two")],
    );
    let (rows, said) = rows_of(&place, "dots");
    let missing = |field: &str| format!("no image: {field} is passed over");
    assert_eq!(
        rows,
        [
            row("22", "NULL", &missing("00.jpg")),
            row("s0", "NULL", &missing("input.jpg")),
            row("s1", "two", &missing("left.jpg"))
        ]
    );
    assert!(
        said.contains("passed over 22.00.jpg in dots/a.tar and 6 more members: a sample's key ends at the first dot"),
        "{said}"
    );

    let avif = [&[0, 0, 0, 0x1c][..], b"ftypavif\0\0\0\0avifmif1miaf"].concat();
    let jp2 = [&[0, 0, 0, 12][..], b"jP  \r\n\x87\n"].concat();
    let members = [
        ("0.jfif", cat),
        ("0.txt", &b"\xef\xbb\xbf a cat \n"[..]),
        ("1.JPE", cat),
        ("1.txt", b"\xff\xfea\0 \0c\0a\0t\0"),
        ("2.avif", &avif),
        ("2.cls", b"7"),
        ("3.jp2", &jp2),
    ];
    tar_file(&place, "formats.tar", &members);
    let (rows, said) = rows_of(&place, "formats.tar");
    assert_eq!(rows[..2], [row("0", "a cat", "NULL"), row("1", "a cat", "NULL")]);
    assert!(rows[2][2].contains("AVIF") && rows[3][2].contains("JPEG 2000"), "{rows:?}");
    assert!(said.contains("passed over 2.cls in formats.tar: no image, text or json"), "{said}");

    tar_file(&place, "apart.tar", &[("0.png", cat), ("1.png", cat), ("0.txt", b"a cat"), ("1.txt", b"a cat")]);
    let (rows, said) = rows_of(&place, "apart.tar");
    assert_eq!(rows.len(), 4);
    assert!(said.contains("2 samples go on after another one has begun, the first is 0 in apart.tar"), "{said}");
    // SQL gives the same warning.
    let output = place.run(&["sql", "-c", "SELECT count(*) FROM 'apart.tar'"]);
    assert!(text(&output.stderr).contains("2 samples go on after another one has begun"), "{}", text(&output.stderr));
}

/// Sparse files as written by GNU tar, in all its formats.
#[test]
fn sparse_members_are_whole() {
    let place = Place::new();
    // A BMP of 400 x 400 pixels with three bytes each: file header and info header.
    let (side, pixels) = (400_u32, 400 * 400 * 3_u32);
    let words = [54 + pixels, 0, 54, 40, side, side, 24 << 16 | 1, 0, pixels, 0, 0, 0, 0];
    let head: Vec<u8> = b"BM".iter().copied().chain(words.into_iter().flat_map(u32::to_le_bytes)).collect();
    let file = fs::File::create(place.path("0.bmp")).unwrap();
    file.set_len(u64::from(54 + pixels)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &head, 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[200; 3000], 300_000).unwrap();
    fs::write(place.path("0.txt"), "a hole").unwrap();
    for (name, format) in [
        ("gnu.tar", &["--format=gnu"][..]),
        ("pax00.tar", &["--format=posix", "--sparse-version=0.0"]),
        ("pax01.tar", &["--format=posix", "--sparse-version=0.1"]),
        ("pax10.tar", &["--format=posix", "--sparse-version=1.0"]),
    ] {
        let mut command = std::process::Command::new("tar");
        let done =
            command.args(["-S", "-cf", name]).args(format).args(["0.bmp", "0.txt"]).current_dir(place.folder.path());
        assert!(done.status().unwrap().success(), "{name}");
        assert!(fs::metadata(place.path(name)).unwrap().len() < 100_000, "{name}: no holes");
        let (rows, _) = rows_of(&place, name);
        assert_eq!(rows, [row("0", "a hole", "NULL")], "{name}");
        let bytes = fs::read(place.path("0.bmp")).unwrap();
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
        assert_eq!(place.rows("pairs", "SELECT image_sha256 AS digest FROM t")[0]["digest"], digest, "{name}");
    }
    // Compressed, whatever its extension.
    let packed = std::process::Command::new("gzip").args(["-k", "gnu.tar"]).current_dir(place.folder.path()).status();
    assert!(packed.unwrap().success());
    for name in ["packed.tar", "packed.tgz"] {
        fs::copy(place.path("gnu.tar.gz"), place.path(name)).unwrap();
        let said = place.fails(1, &["run", name, "other", "--recipe", "recipe.sql"]);
        assert!(said.contains(name) && said.contains("it is compressed") && said.is_ascii(), "{said}");
    }
    let said = place.fails(1, &["sql", "-c", "SELECT count(*) FROM 'packed.tar'"]);
    assert!(said.contains("it is compressed (gzip)"), "{said}");
}
