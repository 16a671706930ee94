//! WebDataset: in SQL, as a source, as the pair table's format.

use std::fs;

use super::{BOOKKEEPING, Place};

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
    // A row without image and text is no sample: nothing of it but its url is there to be written.
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
    let said = place.job_ok(&["shards", "tar", "--unit-rows", "7"]);
    assert!(said.contains("read       40 rows in 2 files"), "{said}");
    let by = |table: &str, id: &str| {
        let query = format!(
            "SELECT {id} AS id, source, text, kept, round(itm_score, 4) AS score, image_sha256 FROM t ORDER BY id, image_sha256, source"
        );
        place.rows(table, &query)
    };
    assert_eq!(by("tar", "CAST(key AS BIGINT)"), by("parquet", "id"));
    // From shards to shards nothing is lost either: the sample's own json stands within the pair's.
    place.job_ok(&["shards", "again", "--format", "webdataset"]);
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
    let args = [slice, "tar", "--format", "webdataset", "--unit-rows", "7"];
    place.job_ok(&[&args[..], &["--file-size", "20kB"]].concat());
    let parts = place.parts("tar");
    assert!(parts.len() > 1 && parts.iter().all(|name| name.ends_with(".tar")), "{parts:?}");
    assert_eq!(place.names(&format!("tar/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"]);
    assert_eq!(place.number("tar", "SELECT count(DISTINCT key) FROM t"), 80);
    // The same pairs: what is no image or text is in the json.
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
