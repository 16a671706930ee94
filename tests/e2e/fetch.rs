//! `fetch(url)` against a server with realistic behaviour, and jobs whose images are at URLs.

mod requests;
mod server;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::server::{Server, ZIPPED, picture};
use super::Place;

const PRIVATE: [&str; 4] = ["--set", "fetch.allow_private=true", "--set", "fetch.backoff=0.01"];

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Results of `fetch` for all URLs in one query: its struct's fields, with the bytes in hexadecimal.
#[track_caller]
fn fetched(place: &Place, urls: &[String], settings: &[&str]) -> Vec<Value> {
    let rows: Vec<_> = urls.iter().enumerate().map(|(n, url)| format!("({n}, '{url}')")).collect();
    let query = format!(
        "SELECT n, f['status'] AS status, f['error'] AS error, f['sha256'] AS sha256, f['url'] AS url, \
         encode(f['bytes'], 'hex') AS bytes \
         FROM (SELECT n, fetch_url(url) AS f FROM (VALUES {}) AS t(n, url)) ORDER BY n",
        rows.join(", ")
    );
    let mut args = [&["sql", "--format", "json", "-c", &query][..], &PRIVATE].concat();
    args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let rows: Vec<Value> = serde_json::from_str(&place.ok(&args)).unwrap();
    assert_eq!(rows.len(), urls.len());
    rows
}

#[track_caller]
fn has(row: &Value, bytes: &[u8]) {
    let is = [&row["status"], &row["error"], &row["sha256"], &row["bytes"]];
    assert_eq!(is, [&Value::from(200), &Value::Null, &sha256(bytes).into(), &hex::encode(bytes).into()], "{row}");
}

#[track_caller]
fn lacks(row: &Value, reason: &str) {
    assert!(row["error"].as_str().is_some_and(|error| !error.is_empty() && error.contains(reason)), "{reason}: {row}");
    assert!(row["bytes"].is_null() && row["sha256"].is_null(), "{row}");
}

#[test]
fn what_is_fetched_is_whole() {
    let place = Place::new();
    let server = Server::new();
    let paths = ["/ok/a", "/image/emoji_cat_face_google.png", "/zipped", "/bytes/0", "/agent"];
    let rows = fetched(&place, &server.urls(&paths), &["fetch.user_agent=me/1.0 (+https://example.org/bot)"]);
    let cat = picture("emoji_cat_face_google.png");
    let bodies: [&[u8]; 5] = [b"/ok/a", &cat, ZIPPED, b"", b"me/1.0 (+https://example.org/bot)"];
    for ((row, body), path) in rows.iter().zip(bodies).zip(paths) {
        has(row, body);
        assert_eq!(row["url"], server.url(path));
        assert_eq!(server.requests(path), 1);
    }
    let rows = fetched(&place, &server.urls(&["/agent", "/not-zipped"]), &[]);
    let agent = String::from_utf8(hex::decode(rows[0]["bytes"].as_str().unwrap()).unwrap()).unwrap();
    assert!(agent.to_lowercase().contains("capfilt"), "{agent}");
    lacks(&rows[1], "");

    let query = "SELECT fetch(NULL) IS NULL AS a, fetch_url(url) IS NULL AS b, fetch_url(url)['status'] AS c \
                 FROM (VALUES (CAST(NULL AS VARCHAR))) AS t(url)";
    assert_eq!(place.ok(&["sql", "--format", "csv", "-c", query]), "a,b,c\ntrue,true,\n");
}

#[test]
fn private_addresses_are_refused() {
    let place = Place::new();
    let server = Server::new();
    let here = "127.0.0.1 localhost [::1] 0.0.0.0 [::] [::ffff:127.0.0.1] 2130706433 0x7f000001 127.1 127.8.8.8 me:secret@127.0.0.1";
    let mut urls: Vec<_> = here.split(' ').map(|host| format!("http://{host}:{}/ok/a", server.port())).collect();
    let elsewhere = ["10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]"];
    urls.extend(elsewhere.iter().map(|host| format!("http://{host}/")));
    for row in fetched(&place, &urls, &["fetch.allow_private=false"]) {
        lacks(&row, "private address");
        assert!(row["status"].is_null(), "{row}");
    }
    assert_eq!(server.connections(), 0);

    // That is the default; SET allows it.
    let url = server.url("/ok/a");
    let query = format!(
        "SELECT fetch('{url}')['error'] AS e; SET fetch.allow_private = true; SELECT fetch('{url}')['status'] AS s"
    );
    let out = place.ok(&["sql", "--format", "csv", "-c", &query]);
    assert!(out.contains("private address") && out.ends_with("s\n200\n"), "{out}");
    assert_eq!(server.connections(), 1);
}

/// Runs in a network namespace, if this user may create one, where a server can have a public address.
#[cfg(target_os = "linux")]
#[test]
fn a_redirect_to_a_private_address_is_refused() {
    use std::process::Command;

    const NETWORK: &str = "ip link set lo up && ip addr add 11.22.33.44/32 dev lo";
    if std::env::var_os("CAPFILT_TEST_NETWORK").is_none() {
        let within = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
            command
        };
        if !within(NETWORK).output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: unshare makes no network here");
            return;
        }
        let module = module_path!().split_once("::").unwrap().1;
        let output = within(&format!("{NETWORK} && exec \"$0\" \"$@\""))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::a_redirect_to_a_private_address_is_refused")])
            .env("CAPFILT_TEST_NETWORK", "1")
            .output()
            .unwrap();
        let said = super::text(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{}", super::text(&output.stderr));
        return;
    }
    let place = Place::new();
    let [public, private] = [Server::at("11.22.33.44"), Server::new()];
    let mut urls =
        vec![public.url("/ok/a"), public.url("/redirect/2"), public.url(&format!("/to/{}", private.url("/")))];
    for host in ["localhost", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"] {
        urls.push(public.url(&format!("/to/http://{host}:{}/", private.port())));
    }
    urls.push(public.url("/to/http://169.254.169.254/"));
    let rows = fetched(&place, &urls, &["fetch.allow_private=false"]);
    has(&rows[0], b"/ok/a");
    has(&rows[1], b"/ok/end");
    rows[2..].iter().for_each(|row| lacks(row, "private address"));
    assert_eq!(private.connections(), 0);
}

#[test]
fn what_may_pass_is_tried_again() {
    let place = Place::new();
    let server = Server::new();
    // Path, status, reason if any, number of requests.
    let cases = [
        ("/status/404", 404, Some("404"), 1),
        ("/status/403", 403, Some("403"), 1),
        ("/status/410", 410, Some("410"), 1),
        ("/status/500", 500, Some("500"), 3),
        ("/status/502", 502, Some("502"), 3),
        ("/status/503", 503, Some("503"), 3),
        ("/status/429", 429, Some("429"), 3),
        ("/flaky/500/1", 200, None, 2),
        ("/flaky/503/2", 200, None, 3),
        ("/flaky/429/2", 200, None, 3),
        ("/flaky/502/3", 502, Some("502"), 3),
        ("/cut/1", 200, None, 2),
        ("/cut/9", 200, Some("broke off"), 3),
        ("/cut-chunks", 200, Some("broke off"), 3),
    ];
    let rows = fetched(&place, &server.urls(&cases.map(|case| case.0)), &[]);
    for (row, (path, status, reason, requests)) in rows.iter().zip(cases) {
        assert_eq!((&row["status"], server.requests(path)), (&status.into(), requests), "{row}");
        match reason {
            Some(reason) => lacks(row, reason),
            None => has(row, path.as_bytes()),
        }
    }
    let rows = fetched(&place, &server.urls(&["/status/500/b", "/cut/1/b"]), &["fetch.retries=0"]);
    lacks(&rows[0], "500");
    lacks(&rows[1], "broke off");
    assert_eq!((server.requests("/status/500/b"), server.requests("/cut/1/b")), (1, 1));
}

#[test]
fn no_answer_has_no_status() {
    let place = Place::new();
    let server = Server::new();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    for row in fetched(&place, &[server.url("/hangup"), nobody], &[]) {
        lacks(&row, "");
        assert!(row["status"].is_null(), "{row}");
    }
}

#[test]
fn a_busy_server_says_when() {
    let place = Place::new();
    let server = Server::new();
    has(&fetched(&place, &server.urls(&["/soon/1"]), &[])[0], b"/soon/1");
    assert!(server.gap("/soon/1") >= Duration::from_millis(990), "{:?}", server.gap("/soon/1"));
    // Retry-After is capped at the URL's time limit.
    let begun = Instant::now();
    let row = &fetched(&place, &server.urls(&["/busy/3600"]), &["fetch.timeout=0.3", "fetch.retries=1"])[0];
    lacks(row, "");
    assert!(["429", "timed out"].iter().any(|reason| row["error"].as_str().unwrap().contains(reason)), "{row}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_is_too_large_is_not_read() {
    let place = Place::new();
    let server = Server::new();
    let paths = ["/bytes/1001", "/long/1001", "/long/10000000000", "/endless", "/bomb"];
    for (row, path) in fetched(&place, &server.urls(&paths), &["fetch.max_bytes=1000"]).iter().zip(paths) {
        lacks(row, "larger than");
        assert_eq!(server.requests(path), 1, "{path}");
    }
    has(&fetched(&place, &server.urls(&["/bytes/1000"]), &["fetch.max_bytes=1000"])[0], &[b'x'; 1000]);
    has(&fetched(&place, &server.urls(&["/bomb"]), &["fetch.max_bytes=10kB"])[0], &[0; 10_000]);
}

#[test]
fn slow_servers_are_given_up() {
    let place = Place::new();
    let server = Server::new();
    let urls = server.urls(&["/silent", "/long/1000"]);
    for row in fetched(&place, &urls, &["fetch.read_timeout=0.2", "fetch.retries=0"]) {
        lacks(&row, "timed out");
    }
    // A slow trickle of bytes does not extend the time limit.
    let urls = server.urls(&["/drip", "/drip-head", "/silent"]);
    for row in fetched(&place, &urls, &["fetch.timeout=0.4", "fetch.retries=0"]) {
        lacks(&row, "timed out");
    }
}

#[test]
fn redirects_are_followed_so_far() {
    let place = Place::new();
    let server = Server::new();
    let paths =
        ["/redirect/1", "/redirect/5", "/redirect/6", "/loop", "/to/file:///etc/passwd", "/to/ftp://127.0.0.1/a"];
    let rows = fetched(&place, &server.urls(&paths), &[]);
    for row in &rows[..2] {
        has(row, b"/ok/end");
        assert_eq!(row["url"], server.url("/ok/end"));
    }
    lacks(&rows[2], "redirects");
    lacks(&rows[3], "redirects");
    assert!(server.requests("/loop") <= 6, "no redirect is tried again");
    lacks(&rows[4], "scheme");
    lacks(&rows[5], "scheme");
    let rows = fetched(&place, &server.urls(&["/redirect/1", "/redirect/2"]), &["fetch.max_redirects=1"]);
    has(&rows[0], b"/ok/end");
    lacks(&rows[1], "redirects");
}

#[test]
fn who_opts_out_is_left_alone() {
    let place = Place::new();
    let server = Server::new();
    let paths = [
        "/robots/noai",
        "/robots/noimageai",
        "/robots/NoAI",
        "/robots/all,_noImageAI_,nofollow",
        "/robots/capfilt:_noai",
        "/robots/capfilt:_nofollow,_noai",
        "/robots/nofollow;noai",
    ];
    for (row, path) in fetched(&place, &server.urls(&paths), &[]).iter().zip(paths) {
        lacks(row, "");
        let error = row["error"].as_str().unwrap().to_lowercase();
        assert!(error.contains("noai") || error.contains("noimageai"), "{path}: {error}");
        assert_eq!(server.requests(path), 1, "{path}");
    }
    let taken = ["/robots/noindex,_nofollow", "/robots/noaim", "/robots/all"];
    for (row, path) in fetched(&place, &server.urls(&taken), &[]).iter().zip(taken) {
        has(row, path.as_bytes());
    }
    for (row, path) in fetched(&place, &server.urls(&paths), &["fetch.honour_noai=false"]).iter().zip(paths) {
        has(row, path.as_bytes());
    }
}

#[test]
fn what_is_no_web_address_is_named() {
    let place = Place::new();
    for row in fetched(&place, &["no url", "", "http://", "//127.0.0.1/a"].map(String::from), &[]) {
        lacks(&row, "not a URL");
    }
    for row in fetched(&place, &["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"].map(String::from), &[]) {
        lacks(&row, "scheme");
    }
    assert!(place.fails(1, &["sql", "--set", "fetch.timeuot=1", "-c", "SELECT 1"]).contains("timeuot"));
    assert!(place.fails(1, &["sql", "--set", "fetch.timeout=soon", "-c", "SELECT 1"]).contains("soon"));
}

#[test]
fn a_query_fetches_a_url_once() {
    let place = Place::new();
    let server = Server::new();
    for batch in ["8192", "16"] {
        let path = |n: usize| {
            if n.is_multiple_of(5) { format!("/status/404/{batch}-{n}") } else { format!("/ok/{batch}-{n}") }
        };
        let lines: String = (0..200).map(|n| server.url(&path(n % 50)) + "\n").collect();
        fs::write(place.path("urls.csv"), format!("u\n{lines}")).unwrap();
        let query = "SELECT fetch(u)['status'] AS s FROM t WHERE fetch(u)['error'] IS NULL";
        let size = format!("datafusion.execution.batch_size={batch}");
        let args = ["sql", "--table", "t=urls.csv", "--format", "csv", "--set", &size, "-c", query];
        let before = server.all_requests();
        assert_eq!(place.ok(&[&args[..], &PRIVATE].concat()), format!("s\n{}", "200\n".repeat(160)));
        assert_eq!(server.all_requests() - before, 50);
        assert!((0..50).all(|n| server.requests(&path(n)) == 1));
    }
}

#[test]
fn a_host_has_few_connections() {
    let place = Place::new();
    for (settings, most) in [
        (&[][..], 4),
        (&["fetch.concurrency_per_host=1"], 1),
        (&["fetch.concurrency_per_host=8"], 8),
        (&["fetch.concurrency_per_host=8", "fetch.concurrency=3"], 3),
    ] {
        let server = Server::new();
        let urls: Vec<_> = (0..12).map(|n| server.url(&format!("/gate/{most}/{n}"))).collect();
        let rows = fetched(&place, &urls, settings);
        assert!(rows.iter().all(|row| row["status"] == 200), "{rows:?}");
        assert_eq!(server.most(), most, "{settings:?}");
    }
}

/// A CSV file with a URL and a text in each row, numbered from 0.
fn source(place: &Place, name: &str, rows: &[(String, &str)]) {
    let line = |(id, (url, text)): (usize, &(String, &str))| format!("{id},{url},{text}\n");
    fs::write(place.path(name), format!("id,url,text\n{}", rows.iter().enumerate().map(line).collect::<String>()))
        .unwrap();
}

const PAIRS: &str = "SELECT id, url, source, text, itm_score, kept, error, image_sha256, \
                     encode(sha256(image), 'hex') AS image FROM t ORDER BY id, source";

#[test]
fn a_job_fetches_its_images() {
    let place = Place::new();
    let server = Server::new();
    let good = [
        ("emoji_cat_face_google.png", "a cat"),
        ("emoji_pizza_twitter.png", "a pizza"),
        ("cat.webp", "a cat on a sofa"),
        ("cat_baseline.jpg", "best price and free shipping"),
    ];
    let mut rows: Vec<_> = good.iter().map(|(name, text)| (server.url(&format!("/image/{name}")), *text)).collect();
    rows.push((server.url("/status/404"), "a house"));
    rows.push(("no url".into(), "a car"));
    rows.push((server.url("/ok/no-image"), "a fox"));
    source(&place, "urls.csv", &rows);
    place.ok(&["sql", "--table", "t=urls.csv", "-c", "COPY (SELECT * FROM t ORDER BY id) TO 'urls.parquet'"]);
    let json = |(id, (url, text)): (usize, &(String, &str))| {
        format!("{}\n", serde_json::json!({ "id": id, "url": url, "text": text }))
    };
    fs::write(place.path("urls.jsonl"), rows.iter().enumerate().map(json).collect::<String>()).unwrap();

    for (n, kind) in ["csv", "jsonl", "parquet"].into_iter().enumerate() {
        let file = format!("urls.{kind}");
        let said = place.job_ok(
            &[&[file.as_str(), kind, "--image-column", "url", "--image-is", "url", "--min-itm", "0"][..], &PRIVATE]
                .concat(),
        );
        assert!(said.contains("read       7 rows in 1 file") && said.contains("unusable   3 rows"), "{said}");
        let pairs = place.rows(kind, PAIRS);
        assert_eq!(pairs.len(), 14);
        for (id, both) in pairs.chunks(2).enumerate() {
            let hash = good.get(id).map(|(name, _)| sha256(&picture(name)));
            for (pair, made_by) in both.iter().zip(["synthetic", "web"]) {
                assert_eq!((&pair["id"], &pair["source"]), (&id.into(), &made_by.into()), "{pair}");
                assert_eq!(pair["url"], rows[id].0, "{pair}");
                let error = pair["error"].as_str().unwrap_or_default();
                match (&hash, id) {
                    (Some(hash), _) => {
                        assert!(error.is_empty() && pair["kept"] == true, "{pair}");
                        assert!(
                            [&pair["image_sha256"], &pair["image"]].into_iter().all(|found| found == hash),
                            "{pair}"
                        );
                        assert!(pair["itm_score"].as_f64().is_some_and(|s| (0.0..=1.0).contains(&s)), "{pair}");
                    }
                    (None, 4) => assert!(error.starts_with("fetch: ") && error.contains("404"), "{pair}"),
                    (None, 5) => assert!(error.starts_with("fetch: ") && error.contains("not a URL"), "{pair}"),
                    (None, _) => assert!(!error.is_empty() && !error.starts_with("fetch: "), "{pair}"),
                }
                assert!(hash.is_some() || (pair["kept"] == false && pair["itm_score"].is_null()), "{pair}");
            }
            assert_eq!(both[1]["text"], rows[id].1);
        }
        for (url, _) in rows.iter().filter(|(url, _)| url != "no url") {
            assert_eq!(server.requests(&url[server.url("").len()..]), n + 1, "{url}");
        }
    }

    // Private addresses are refused by default.
    place.job_ok(&["urls.csv", "refused", "--image-column", "url", "--image-is", "url"]);
    let refused =
        "SELECT count(*) FROM t WHERE error LIKE 'fetch: %private address%' AND NOT kept AND image_sha256 IS NULL";
    assert_eq!(place.number("refused", refused), 12);
}

#[test]
fn what_failed_is_fetched_again() {
    let place = Place::new();
    let server = Server::new();
    let good = ["/image/emoji_cat_face_google.png", "/image/emoji_pizza_twitter.png", "/image/emoji_fox_twitter.png"];
    let later = ["/moody/emoji_house_twitter.png", "/garbled/cat.webp", "/moody/emoji_red_apple_twitter.png"];
    let mut rows = Vec::new();
    for (one, other) in good.iter().zip(later) {
        rows.push((server.url(one), "a cat"));
        rows.push((server.url(other), "a house"));
    }
    rows.push((server.url("/status/404"), "a car"));
    // Its text is missing, which a retry cannot fix.
    rows.push((server.url("/image/emoji_guide_dog_google.png"), ""));
    source(&place, "urls.csv", &rows);
    let job = |dest: &'static str| {
        [&["urls.csv", dest, "--image-column", "url", "--image-is", "url", "--checkpoint-rows", "3"][..], &PRIVATE]
            .concat()
    };
    let good = [&good[..], &["/image/emoji_guide_dog_google.png"]].concat();
    let asked = |paths: &[&str]| paths.iter().map(|path| server.requests(path)).collect::<Vec<_>>();

    place.job_ok(&job("pairs"));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE error LIKE 'fetch: %'"), 6);
    assert_eq!((asked(&good), asked(&later)), (vec![1; 4], vec![3, 1, 3]));
    server.recover();
    place.ok(&["retry", "pairs"]);
    assert_eq!((asked(&good), asked(&later)), (vec![1; 4], vec![4, 2, 4]));
    place.ok(&["retry", "pairs"]);
    assert_eq!((asked(&good), asked(&later)), (vec![1; 4], vec![4, 2, 4]), "what came is not asked for again");
    assert_eq!(server.requests("/status/404"), 3);

    place.job_ok(&job("whole"));
    let [pairs, whole] = ["pairs", "whole"].map(|table| place.rows(table, PAIRS));
    assert_eq!((pairs.len(), whole.len()), (16, 16));
    for (pair, wanted) in pairs.iter().zip(&whole) {
        for name in ["id", "source", "text", "kept", "error", "image_sha256"] {
            assert_eq!(pair[name], wanted[name], "{name}: {pair}");
        }
        match (pair["itm_score"].as_f64(), wanted["itm_score"].as_f64()) {
            (Some(score), Some(wanted)) => assert!((score - wanted).abs() <= 1e-4, "{score} {wanted}: {pair}"),
            (score, wanted) => assert_eq!(score, wanted, "{pair}"),
        }
    }
    assert_eq!(whole.iter().filter(|pair| pair["error"].is_string()).count(), 3, "the 404's two, and no text");
}
