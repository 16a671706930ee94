//! A store's files as SQL tables.

use super::*;

fn sql(place: &Place, endpoint: &str, query: &str) -> Command {
    command(place, endpoint, &["sql", "--format", "csv", "-c", query])
}

#[track_caller]
fn rows(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}:\n{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn sql_reads_files_of_a_store_as_those_on_a_disk() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    folders(&place, &mut stores);
    let lines = |n: i32| format!("{{\"n\": {n}, \"text\": \"{}\"}}\n", "y".repeat(100));
    let row = |n: i32| format!("{n},\"text, {n} {}\"\n", "x".repeat(1000));
    for (file, content) in [
        ("csv/a b.csv", format!("n,text\n{}", (0..3000).map(row).collect::<String>())),
        ("csv/c.csv", format!("n,text\n{}", (3000..3010).map(row).collect::<String>())),
        // The same name and size in another folder.
        ("more/c.csv", format!("n,text\n{}", (4000..4010).map(row).collect::<String>())),
        ("lines/a.jsonl", (0..2000).map(lines).collect()),
    ] {
        fs::create_dir_all(place.path(file).parent().unwrap()).unwrap();
        fs::write(place.path(file), content).unwrap();
        stores.put(&place, file, file);
    }
    place.ok(&[
        "sql",
        "-c",
        "COPY (SELECT CAST(id AS VARCHAR) AS key, image, text FROM 'slice.parquet') TO 'tars/a.tar'",
    ]);
    stores.put(&place, "tars/a.tar", "tars/a.tar");
    let image = "encode(sha256(image), 'hex') AS image";
    for query in [
        &*format!("SELECT id, text, day, lang, {image} FROM '@web' ORDER BY id"),
        &*format!("SELECT id, text, day, {image} FROM '@web/' WHERE day IN ('1', '3') ORDER BY id"),
        &*format!("SELECT id, text, {image} FROM '@web/day=1/lang=__HIVE_DEFAULT_PARTITION__/a.parquet' ORDER BY id"),
        "SELECT count(*) AS c, sum(n) AS s, sum(length(text)) AS l FROM '@csv'",
        "SELECT n, sum(length(text)) AS l FROM '@csv/a b.csv' GROUP BY n ORDER BY n",
        "SELECT n FROM '@csv/c.csv' UNION ALL SELECT n FROM '@more/c.csv' UNION ALL SELECT n FROM '@more/' ORDER BY n",
        "SELECT count(*) AS c, sum(n) AS s, max(text) AS m FROM '@lines/a.jsonl'",
        &*format!("SELECT key, text, {image} FROM '@tars/a.tar' ORDER BY key"),
        &*format!("SELECT key, text, {image} FROM '@tars' ORDER BY key"),
    ] {
        let wanted = rows(sql(&place, "", &query.replace('@', "")));
        assert!(wanted.lines().count() > 1, "{query}: {wanted}");
        let got = rows(sql(&place, &stores.flaky, &query.replace('@', "s3://data/")));
        assert!(got == wanted, "{query}: {got}\n{wanted}");
    }
    stores.were_flaky();

    let signed = stores.ask(&["sign", "data", "csv/c.csv"])["url"].as_str().unwrap().to_owned();
    let got = rows(sql(&place, "", &format!("SELECT min(n) AS a, max(n) AS z FROM '{signed}'")));
    assert_eq!(got.lines().last(), Some("3000,3009"));
}

#[test]
fn what_sql_cannot_read_of_a_store_is_named() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    stores.put(&place, "recipe.sql", "web/junk.parquet");
    stores.put(&place, "recipe.sql", "texts/a.txt");
    for (url, words) in [
        ("s3://nobody/web/", &["there is no such bucket"][..]),
        ("s3://data/none.parquet", &["no such object"]),
        ("s3://data/web/*.parquet", &["no pattern"]),
        ("s3://data/texts", &["none ends in .parquet"]),
        ("s3://data/texts/a.txt", &["not found"]),
        ("s3://data/web/junk.parquet", &["junk.parquet"]),
        ("ftp://data/web", &["ftp", "s3"]),
    ] {
        let said = fails(sql(&place, &stores.well, &format!("SELECT count(*) FROM '{url}'")));
        assert!(words.iter().all(|word| said.contains(word)), "{url}: {said}");
    }
    let mut unsigned = sql(&place, &stores.well, "SELECT count(*) FROM 's3://data/web/junk.parquet'");
    unsigned.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_SKIP_SIGNATURE", "true");
    let said = fails(unsigned);
    assert!(said.contains("access denied") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}
