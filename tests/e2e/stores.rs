//! Sources in an S3 server (moto), also behind a proxy that fails every few requests (tests/stores/server.py). Skipped
//! if moto is not installed (`make setup-stores`).

mod credentials;
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

/// A recipe without models, which returns the image's SHA-256 and the text unchanged.
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

/// Both servers, which stop with the test.
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

    /// Asserts that each kind of failure occurred.
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

/// `capfilt run` with an endpoint.
fn job(place: &Place, endpoint: &str, args: &[&str]) -> Command {
    command(place, endpoint, &[&["run"][..], args, &["--recipe", "recipe.sql", "--write-images", "all"]].concat())
}

/// A command with an endpoint, in an environment without other store settings.
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

/// Four files in Hive-partitioned folders, on disk and in the bucket, beside files that must be ignored.
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

    // A single object, and some of the folders.
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
        ("csv", "a.csv", &["--image-column", "path", "--image-is", "path", "--image-root", "/"]),
        ("lines", "a.jsonl", &["--image-column", "path", "--image-is", "path", "--image-root", "/"]),
    ] {
        stores.put(&place, &format!("{folder}/{name}"), &format!("{folder}/{name}"));
        let (disk, store, url) = (format!("{folder}-disk"), format!("{folder}-store"), format!("s3://data/{folder}/"));
        ok(job(&place, "", &[&[folder, disk.as_str(), "--checkpoint-rows", "7"][..], more].concat()));
        ok(job(&place, &stores.flaky, &[&[url.as_str(), store.as_str(), "--checkpoint-rows", "7"][..], more].concat()));
        assert!(place.rows(&store, ROWS) == place.rows(&disk, ROWS), "{folder}");
    }
    stores.were_flaky();
}

#[test]
fn a_folder_of_images_in_a_store_is_read() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    fs::create_dir_all(place.path("photos/style=flat")).unwrap();
    let mut names = Vec::new();
    for n in 0..40 {
        let picture = ["emoji_cat_face_google.png", "emoji_fox_twitter.png"][n % 2];
        let name = format!("photos/style=flat/{n}.png");
        fs::copy(root(&format!("tests/fixtures/images/{picture}")), place.path(&name)).unwrap();
        names.push(name);
        if n % 3 == 0 {
            let name = format!("photos/style=flat/{n}.{}", ["txt", "TXT"][n % 2]);
            fs::write(place.path(&name), format!("picture {n}")).unwrap();
            names.push(name);
        }
    }
    names.iter().for_each(|name| stores.put(&place, name, name));
    stores.put(&place, "recipe.sql", "photos/notes.md");
    ok(job(&place, "", &["photos", "disk", "--checkpoint-rows", "7"]));
    ok(job(&place, &stores.flaky, &["s3://data/photos/", "store", "--checkpoint-rows", "7"]));
    stores.were_flaky();
    assert_eq!(place.number("store", "SELECT count(text) FROM t WHERE style = 'flat'"), 14);
    assert!(place.rows("store", ROWS) == place.rows("disk", ROWS));

    // A new picture is read, and no other one; a changed one is refused.
    stores.put(&place, &names[0], "photos/style=flat/00.png");
    ok(command(&place, &stores.well, &["update", "store"]));
    assert_eq!(place.number("store", "SELECT count(*) FROM t"), 41);
    assert_eq!(place.number("store", "SELECT count(*) FROM t WHERE key = '00.png' AND provenance['row'] = 0"), 1);
    stores.put(&place, "recipe.sql", "photos/style=flat/5.png");
    let said = fails(command(&place, &stores.well, &["update", "store"]));
    assert!(said.contains("photos/style=flat") && said.contains("has changed"), "{said}");

    // SQL has no tables of images; a job takes neither a single image nor a pattern of them.
    let said = fails(job(&place, &stores.well, &["s3://data/photos/style=flat/*.png", "some"]));
    assert!(said.contains("of images give their folder"), "{said}");
    let said = fails(command(&place, &stores.well, &["sql", "-c", "SELECT * FROM 's3://data/photos/'"]));
    assert!(said.contains("folder of images"), "{said}");
    let said = fails(job(&place, &stores.well, &["s3://data/photos/style=flat/1.png", "one"]));
    assert!(said.contains("of images give their folder"), "{said}");
}

/// Google's store speaks S3's protocol too, except for credentials; the same server answers.
#[test]
fn a_folder_in_googles_store_is_read() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    folders(&place, &mut stores);
    stores.ask(&["open", "data"]);
    let key = serde_json::json!({
        "gcs_base_url": stores.flaky, "disable_oauth": true, "client_email": "", "private_key": SECRET, "private_key_id": ""
    });
    fs::write(place.path("key.json"), key.to_string()).unwrap();
    let google = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("GOOGLE_SERVICE_ACCOUNT", place.path("key.json")).env_remove("HTTP_PROXY").env_remove("http_proxy");
        command
    };
    ok(job(&place, "", &["web", "disk"]));
    ok(google(&["run", "gs://data/web", "google", "--recipe", "recipe.sql", "--write-images", "all"]));
    stores.were_flaky();
    assert!(place.rows("google", ROWS) == place.rows("disk", ROWS));
    let said = fails(google(&["run", "gs://data/nothing", "none", "--recipe", "recipe.sql"]));
    assert!(said.contains("gs://data/nothing") && said.contains("no such object"), "{said}");
}

/// A table that names its pictures by keys below its folder, or by full URLs.
#[test]
fn pictures_in_a_store_are_read_by_their_paths() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    let pictures = ["emoji_cat_face_google.png", "emoji_fox_twitter.png"];
    for picture in pictures {
        fs::copy(root(&format!("tests/fixtures/images/{picture}")), place.path(picture)).unwrap();
        stores.put(&place, picture, &format!("crawl/pictures/{picture}"));
    }
    stores.put(&place, pictures[0], "private/no.png");
    fs::write(place.path("empty"), "").unwrap();
    stores.put(&place, "empty", "crawl/pictures/empty.png");
    let names: Vec<String> = (0..60)
        .map(|n| match n % 6 {
            0 => "pictures/gone.png".to_owned(),
            1 => "../private/no.png".to_owned(),
            2 => ["s3://data/private/no.png", "pictures/empty.png"][n / 6 % 2].to_owned(),
            3 => format!("s3://data/crawl/./pictures/{}", pictures[n % 2]),
            _ => format!("pictures/{}", pictures[n % 2]),
        })
        .collect();
    let lines: String = names.iter().enumerate().map(|(n, name)| format!("{n},{name},text {n}\n")).collect();
    fs::write(place.path("list.csv"), format!("id,path,text\n{lines}")).unwrap();
    stores.put(&place, "list.csv", "crawl/list.csv");
    let columns = ["--image-column", "path", "--image-is", "path", "--checkpoint-rows", "25", "--write-images", "none"];
    let args = [&["s3://data/crawl/list.csv", "store"][..], &columns, &["--recipe", "recipe.sql"]].concat();
    ok(command(&place, &stores.flaky, &[&["run"][..], &args].concat()));
    stores.were_flaky();
    let wrong = |dest: &str, rest: &str, error: &str| {
        let query = format!("SELECT count(*) FROM t WHERE id % 6 IN ({rest}) AND error NOT LIKE '%{error}%'");
        place.number(dest, &query)
    };
    assert_eq!(wrong("store", "0", "there is no such object"), 0);
    assert_eq!(place.number("store", "SELECT count(*) FROM t WHERE id % 12 = 8 AND error LIKE '%empty%'"), 5);
    assert_eq!(wrong("store", "1", "it is not below s3://data/crawl/: --image-root names another folder"), 0);
    assert_eq!(place.number("store", "SELECT count(*) FROM t WHERE kept AND id % 6 > 2"), 30);
    assert_eq!(place.number("store", "SELECT count(*) FROM t WHERE kept"), 30);
    assert_eq!(place.number("store", "SELECT count(DISTINCT image_sha256) FROM t WHERE kept"), 2);

    // A local table with pictures in the store; those that it left out are found again.
    fs::write(place.path("none.sql"), RECIPE.replace("image_error(image) IS NULL AS kept", "false AS kept")).unwrap();
    let rooted = [
        "run",
        "list.csv",
        "rooted",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        "s3://data/crawl",
        "--recipe",
        "none.sql",
    ];
    ok(command(&place, &stores.well, &rooted));
    assert_eq!(place.number("rooted", "SELECT count(image) FROM t"), 0);
    ok(command(&place, &stores.well, &["select", "rooted", "chosen", "--min-itm", "0", "--write-pairs", "kept"]));
    let found = "SELECT count(*) FROM t WHERE encode(sha256(image), 'hex') = image_sha256";
    assert_eq!(place.number("chosen", found), 30);

    // An unavailable store ends the job, and does not mark rows as failed.
    let other = [&["run", "list.csv", "other"][..], &columns, &["--recipe", "recipe.sql"]].concat();
    let said = fails(command(&place, &stores.well, &[&other[..], &["--image-root", "s3://nowhere/crawl"]].concat()));
    assert!(said.contains("s3://nowhere/crawl") && said.contains("no such bucket"), "{said}");
    let said = fails(command(&place, &stores.well, &[&other[..], &["--image-root", "http://127.0.0.1:9/x"]].concat()));
    assert!(said.contains("--image-is url"), "{said}");
}

#[test]
fn a_killed_job_goes_on_from_a_store() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    folders(&place, &mut stores);
    ok(job(&place, "", &["web", "disk"]));
    let args = ["s3://data/web", "store", "--checkpoint-rows", "4"];
    for kill in ["unit:3", "unit-done:2"] {
        let output = job(&place, &stores.flaky, &args).env("CAPFILT_KILL_AT", kill).output().unwrap();
        assert!(!output.status.success(), "{kill}: {}", text(&output.stderr));
    }
    let said = ok(job(&place, &stores.flaky, &args));
    assert!(said.contains("going on after"), "{said}");
    assert!(place.rows("store", ROWS) == place.rows("disk", ROWS));

    // New files are added; changed or deleted ones are refused.
    let update = ["update", "store"];
    stores.put(&place, "slice.parquet", "web/day=9/lang=x/b.parquet");
    let said = fails(job(&place, &stores.well, &args));
    assert!(said.contains("capfilt update"), "{said}");
    ok(command(&place, &stores.well, &update));
    assert_eq!(place.number("store", "SELECT count(*) FROM t"), 80);
    stores.put(&place, "slice.parquet", "web/day=0/lang=d%2Fe/a.parquet");
    let said = fails(command(&place, &stores.well, &update));
    assert!(said.contains("s3://data/web/day=0/lang=d%2Fe/a.parquet") && said.contains("has changed"), "{said}");
    stores.ask(&["delete", "data", "web/day=0/lang=d%2Fe/a.parquet"]);
    let said = fails(command(&place, &stores.well, &update));
    assert!(said.contains("day=0") && said.contains("is gone"), "{said}");

    // The same for files without a footer, by their ETag.
    fs::write(
        place.path("a.csv"),
        format!("id,path,text\n1,{},a\n", root("tests/fixtures/images/emoji_cat_face_google.png")),
    )
    .unwrap();
    let args = ["s3://data/texts/a.csv", "texts", "--image-column", "path", "--image-is", "path", "--image-root", "/"];
    let update = ["update", "texts"];
    stores.put(&place, "a.csv", "texts/a.csv");
    ok(job(&place, &stores.well, &args));
    ok(command(&place, &stores.well, &update));
    fs::write(place.path("a.csv"), fs::read_to_string(place.path("a.csv")).unwrap().replace(",a\n", ",b\n")).unwrap();
    stores.put(&place, "a.csv", "texts/a.csv");
    assert!(fails(command(&place, &stores.well, &update)).contains("has changed"));
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

    // Without credentials of any kind.
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
    // The signature is not stored anywhere.
    let said = ok(command(&place, "", &["update", "store", "--source", &signed]));
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

/// Address of a server without range requests; it stops with the process.
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
