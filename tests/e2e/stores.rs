//! Sources in a store: an S3 server (moto), also behind one that fails every few requests (tests/stores/server.py). Where moto is
//! not installed (`make setup-stores`) they are skipped.

mod lake;
mod sql;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use serde_json::Value;

use super::{BOOKKEEPING, Place, ROOT, root, text};

/// A recipe without models: the image's sha256 and the text come out as they went in.
const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";
const SECRET: &str = "the-secret-of-the-test";
const ROWS: &str = "SELECT * EXCLUDE (provenance, image), encode(sha256(image), 'hex') AS image, provenance['file'] AS file, \
                    provenance['row'] AS row FROM t";

/// Python with moto.
fn python() -> Option<PathBuf> {
    let found = match std::env::var_os("CAPFILT_TEST_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(ROOT).join(".deps/stores/bin/python"),
    };
    let found = found.exists().then_some(found);
    if found.is_none() {
        eprintln!("skipped: there is no moto, which `make setup-stores` installs");
    }
    found
}

/// Both servers. They end with the test.
struct Stores {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    well: String,
    flaky: String,
}

impl Stores {
    fn start() -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg(root("tests/stores/server.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (asks, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut stores = Self { child, asks, answers, well: String::new(), flaky: String::new() };
        let ready = stores.answer();
        [stores.well, stores.flaky] = ["well", "flaky"].map(|name| ready[name].as_str().unwrap().to_owned());
        Some(stores)
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the server said {line:?}: {e}"))
    }

    fn ask(&mut self, words: &[&str]) -> Value {
        writeln!(self.asks.as_mut().unwrap(), "{}", words.join("\t")).unwrap();
        self.answer()
    }

    /// Puts a file into the bucket `data`.
    fn put(&mut self, place: &Place, file: &str, key: &str) {
        self.ask(&["put", "data", key, place.path(file).to_str().unwrap()]);
    }

    /// Each way to fail was met.
    #[track_caller]
    fn were_flaky(&mut self) {
        let faults = self.ask(&["faults"]);
        for fault in ["500", "503", "cut", "hangup"] {
            assert!(faults[fault].as_u64().unwrap() > 0, "{faults}");
        }
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.asks = None;
        self.child.wait().ok();
    }
}

fn place() -> Place {
    let place = Place::new();
    place.slice();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    place
}

/// `capfilt run` against an endpoint.
fn job(place: &Place, endpoint: &str, args: &[&str]) -> Command {
    command(place, endpoint, &[&["run"][..], args, &["--recipe", "recipe.sql", "--image", "all"]].concat())
}

/// A command against an endpoint, in an environment that says nothing else of stores.
fn command(place: &Place, endpoint: &str, args: &[&str]) -> Command {
    let mut command = place.command(args);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("AWS_") || name.to_lowercase().ends_with("_proxy") {
            command.env_remove(&*name);
        }
    }
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", SECRET);
    command
}

#[track_caller]
fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}");
    said
}

#[track_caller]
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && !said.contains("panicked") && !said.contains(SECRET), "{said}");
    said
}

/// Four files in folders that tell columns, on the disk and in the bucket, with what is no part of them.
fn folders(place: &Place, stores: &mut Stores) {
    for day in 0..4 {
        let lang = if day % 2 == 0 { "d%2Fe" } else { "__HIVE_DEFAULT_PARTITION__" };
        let file = format!("web/day={day}/lang={lang}/a.parquet");
        place.ok(&["sql", "-c", &format!("COPY (SELECT * FROM 'slice.parquet' WHERE id % 4 = {day}) TO '{file}'")]);
        stores.put(place, &file, &file);
    }
    for other in ["web/_capfilt/unit.parquet", "web/.hidden.parquet", "web/notes.txt", "webs/other.parquet"] {
        stores.put(place, "recipe.sql", other);
    }
}

#[test]
fn a_folder_in_a_store_is_as_one_on_a_disk() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    folders(&place, &mut stores);
    ok(job(&place, "", &["web", "disk"]));
    let wanted = place.rows("disk", ROWS);
    assert_eq!(wanted.len(), 40);
    for (url, dest) in
        [("s3://data/web/", "store"), ("s3://data/web", "again"), ("s3://data/web/day=*/*/*.parquet", "glob")]
    {
        let said = ok(job(&place, &stores.flaky, &[url, dest]));
        assert!(said.contains("read       40 rows in 4 files"), "{said}");
        assert!(place.rows(dest, ROWS) == wanted, "{url}");
    }
    stores.were_flaky();
    let manifest =
        fs::read_to_string(place.path("store").join(BOOKKEEPING).join("shard-1-of-1/manifest.json")).unwrap();
    assert!(manifest.contains("\"s3://data/web/\"") && !manifest.contains(SECRET), "{manifest}");

    // One object of it, and a part of the folders.
    ok(job(&place, &stores.flaky, &["s3://data/web/day=1/lang=__HIVE_DEFAULT_PARTITION__/a.parquet", "one"]));
    assert_eq!(
        place.number("one", "SELECT count(*) FROM t"),
        place.number("disk", "SELECT count(*) FROM t WHERE day = '1'")
    );
    ok(job(&place, &stores.flaky, &["s3://data/web/day=[12]", "two"]));
    let of = "SELECT count(*) FROM t WHERE day IN ('1', '2')";
    assert_eq!(place.number("two", of), place.number("disk", of));
}

#[test]
fn shards_and_texts_in_a_store_are_read() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    place.ok(&[
        "sql",
        "-c",
        "COPY (SELECT CAST(id AS VARCHAR) AS key, image, text FROM 'slice.parquet') TO 'tars/a.tar'",
    ]);
    let cat = root("tests/fixtures/images/emoji_cat_face_google.png");
    fs::create_dir(place.path("csv")).unwrap();
    let lines: String = (0..300).map(|n| format!("{n},{cat},\"text, {n} {}\"\n", "x".repeat(10_000))).collect();
    fs::write(place.path("csv/a.csv"), format!("id,path,text\n{lines}")).unwrap();
    let lines: String = (0..30).map(|n| format!("{{\"id\": {n}, \"path\": \"{cat}\", \"text\": \"{n}\"}}\n")).collect();
    fs::create_dir(place.path("lines")).unwrap();
    fs::write(place.path("lines/a.jsonl"), lines).unwrap();
    for (folder, name, more) in [
        ("tars", "a.tar", &[][..]),
        ("csv", "a.csv", &["--path-column", "path", "--path-root", "/"]),
        ("lines", "a.jsonl", &["--path-column", "path", "--path-root", "/"]),
    ] {
        stores.put(&place, &format!("{folder}/{name}"), &format!("{folder}/{name}"));
        let (disk, store, url) = (format!("{folder}-disk"), format!("{folder}-store"), format!("s3://data/{folder}/"));
        ok(job(&place, "", &[&[folder, disk.as_str(), "--unit-rows", "7"][..], more].concat()));
        ok(job(&place, &stores.flaky, &[&[url.as_str(), store.as_str(), "--unit-rows", "7"][..], more].concat()));
        assert!(place.rows(&store, ROWS) == place.rows(&disk, ROWS), "{folder}");
    }
    stores.were_flaky();
}

#[test]
fn a_killed_job_goes_on_from_a_store() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    folders(&place, &mut stores);
    ok(job(&place, "", &["web", "disk"]));
    let args = ["s3://data/web", "store", "--unit-rows", "4"];
    for kill in ["unit:3", "unit-done:2"] {
        let output = job(&place, &stores.flaky, &args).env("CAPFILT_KILL_AT", kill).output().unwrap();
        assert!(!output.status.success(), "{kill}: {}", text(&output.stderr));
    }
    let said = ok(job(&place, &stores.flaky, &args));
    assert!(said.contains("going on after"), "{said}");
    assert!(place.rows("store", ROWS) == place.rows("disk", ROWS));

    // What is new is taken in; what has changed, or is gone, is refused.
    let update = ["s3://data/web", "store", "--unit-rows", "4", "--update"];
    stores.put(&place, "slice.parquet", "web/day=9/lang=x/b.parquet");
    let said = fails(job(&place, &stores.well, &args));
    assert!(said.contains("--update"), "{said}");
    ok(job(&place, &stores.well, &update));
    assert_eq!(place.number("store", "SELECT count(*) FROM t"), 80);
    stores.put(&place, "slice.parquet", "web/day=0/lang=d%2Fe/a.parquet");
    let said = fails(job(&place, &stores.well, &update));
    assert!(said.contains("s3://data/web/day=0/lang=d%2Fe/a.parquet") && said.contains("has changed"), "{said}");
    stores.ask(&["delete", "data", "web/day=0/lang=d%2Fe/a.parquet"]);
    let said = fails(job(&place, &stores.well, &update));
    assert!(said.contains("day=0") && said.contains("is gone"), "{said}");

    // So it is with what has no footer: by the store's tag.
    fs::write(
        place.path("a.csv"),
        format!("id,path,text\n1,{},a\n", root("tests/fixtures/images/emoji_cat_face_google.png")),
    )
    .unwrap();
    let args = ["s3://data/texts/a.csv", "texts", "--path-column", "path", "--path-root", "/"];
    let update = [&args[..], &["--update"]].concat();
    stores.put(&place, "a.csv", "texts/a.csv");
    ok(job(&place, &stores.well, &args));
    ok(job(&place, &stores.well, &update));
    fs::write(place.path("a.csv"), fs::read_to_string(place.path("a.csv")).unwrap().replace(",a\n", ",b\n")).unwrap();
    stores.put(&place, "a.csv", "texts/a.csv");
    assert!(fails(job(&place, &stores.well, &update)).contains("has changed"));
}

#[test]
fn what_a_store_does_not_give_is_named() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    stores.put(&place, "recipe.sql", "web/notes.txt");
    stores.put(&place, "recipe.sql", "web/junk.parquet");
    stores.put(&place, "slice.parquet", "mix/a.parquet");
    stores.put(&place, "recipe.sql", "mix/b.csv");
    stores.put(&place, "recipe.sql", "texts/a.txt");
    for (url, words) in [
        ("s3://nobody/web/", &["there is no such bucket"][..]),
        ("s3://nobody/web.parquet", &["there is no such bucket"]),
        ("s3://data/web/none.parquet", &["no such object"]),
        ("s3://data/none/", &["no such object"]),
        ("s3://data/web/none*", &["nothing matches"]),
        ("s3://data/texts", &["none ends in .parquet"]),
        ("s3://data/web/junk.parquet", &["not a Parquet file"]),
        ("s3://data/mix", &["one kind"]),
        ("s3:///web", &["no bucket"]),
        ("ftp://data/web", &["ftp", "s3"]),
    ] {
        let said = fails(job(&place, &stores.well, &[url, "pairs"]));
        assert!(said.contains(url), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{url}: {said}");
    }

    // Where there are no credentials of any kind.
    let mut none = job(&place, &stores.well, &["s3://data/web/", "pairs"]);
    none.env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    let said = fails(none);
    assert!(said.contains("no credentials") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    let mut half = job(&place, &stores.well, &["s3://data/web/", "pairs"]);
    half.env_remove("AWS_ACCESS_KEY_ID");
    let said = fails(half);
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    let mut unsigned = job(&place, &stores.well, &["s3://data/web/junk.parquet", "pairs"]);
    unsigned.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_SKIP_SIGNATURE", "true");
    let said = fails(unsigned);
    assert!(said.contains("access denied") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    let mut secure = job(&place, &stores.well, &["s3://data/web/", "pairs"]);
    secure.env_remove("AWS_ALLOW_HTTP");
    let said = fails(secure);
    assert!(said.contains("AWS_ALLOW_HTTP=true"), "{said}");
    let said = fails(job(&place, "http://127.0.0.1:1", &["s3://data/web/", "pairs"]));
    assert!(said.contains("no connection to the store"), "{said}");
    assert!(!place.path("pairs").exists(), "a job that wrote nothing leaves nothing");
}

#[test]
fn a_file_is_read_over_http() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    stores.put(&place, "slice.parquet", "slice.parquet");
    let signed = stores.ask(&["sign", "data", "slice.parquet"])["url"].as_str().unwrap().to_owned();
    let (plain, query) = signed.split_once('?').unwrap();
    ok(job(&place, "", &["slice.parquet", "disk"]));
    ok(job(&place, "", &[signed.as_str(), "store"]));
    assert!(place.rows("store", ROWS) == place.rows("disk", ROWS));
    // The signature stands nowhere.
    let said = ok(job(&place, "", &[signed.as_str(), "store", "--update"]));
    let manifest =
        fs::read_to_string(place.path("store").join(BOOKKEEPING).join("shard-1-of-1/manifest.json")).unwrap();
    assert!(manifest.contains(plain) && !manifest.contains(query) && !said.contains(query), "{manifest}");
    let said = fails(job(&place, "", &[plain, "other"]));
    assert!(said.contains(plain) && said.contains("access denied"), "{said}");
    let said = fails(job(&place, "", &[format!("{}/data/", stores.well).as_str(), "other"]));
    assert!(said.contains("a single file"), "{said}");
    let said = fails(job(&place, "", &[format!("{}/x.parquet", whole()).as_str(), "other"]));
    assert!(said.contains("does not give parts of a file"), "{said}");
}

/// The address of a server that knows no parts of files. It ends with the process.
fn whole() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nPAR1").ok();
        }
    });
    address
}
