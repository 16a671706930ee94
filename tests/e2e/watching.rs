//! Monitoring jobs: `--metrics-addr`, and `--dry-run` beforehand.

mod dry_run;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Place, root, text};

const PATIENCE: Duration = Duration::from_secs(120);
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;version=0.0.4\r\n\r\n";
/// Number of rows in [`watched`]'s source before the one with the late picture.
const BEFORE: u64 = 7;
const LATE: &str = "late.png";

/// A job that is killed at the end of the test.
struct Watched {
    child: Child,
    address: String,
    /// Its messages after the first lines.
    rest: thread::JoinHandle<String>,
}

/// Serves the files of a folder; a request for the late picture waits until it exists.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let folder = folder.clone();
            thread::spawn(move || answer(&folder, stream.unwrap()));
        }
    });
    address
}

fn answer(folder: &Path, mut stream: TcpStream) {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request).unwrap() > 0 {}
    let path = folder.join(request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/'));
    let patience = Instant::now();
    while path.ends_with(LATE) && !path.exists() && patience.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let (status, body) = match fs::read(&path) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may be gone: some tests kill the job at their end.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Starts a job over a few pictures, the last of which comes late; meanwhile all other rows get done.
fn watched(place: &Place) -> Watched {
    let pictures = ["emoji_cat_face_google", "emoji_house_twitter", "emoji_pizza_twitter", "emoji_red_heart_google"];
    for name in pictures.iter().chain(&["emoji_fox_twitter"]) {
        fs::copy(root(&format!("tests/fixtures/images/{name}.png")), place.path(&format!("{name}.png"))).unwrap();
    }
    let mut rows: Vec<_> = pictures.iter().map(|name| (format!("{name}.png"), Some("a picture"))).collect();
    // A repeated row, a missing file, and a picture without a text.
    rows.push(rows[0].clone());
    rows.push(("missing.png".to_owned(), Some("nothing")));
    rows.push(("emoji_fox_twitter.png".to_owned(), None));
    rows.push((LATE.to_owned(), Some("late")));
    let server = serve(place.path(""));
    let line = |(file, text): &(String, Option<&str>)| {
        format!("{}\n", serde_json::json!({ "url": format!("http://{server}/{file}"), "text": text }))
    };
    fs::write(place.path("web.jsonl"), rows.iter().map(line).collect::<String>()).unwrap();

    let args = [
        "web.jsonl",
        "pairs",
        "--image-column",
        "url",
        "--image-is",
        "url",
        "--checkpoint-rows",
        "1",
        "--metrics-addr",
        "127.0.0.1:0",
    ];
    let patient = ["allow_private=true", "timeout=120", "read_timeout=120"].map(|setting| format!("fetch.{setting}"));
    let patient: Vec<&str> = patient.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
    let args = place.job(&[&args[..], &patient].concat());
    let mut command = place.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    while !first.contains("/metrics") {
        assert!(said.read_line(&mut first).unwrap() > 0, "{first}");
    }
    let (_, address) = first.split_once("http://").unwrap();
    let address = address.split_once("/metrics").unwrap().0.to_owned();
    let rest = thread::spawn(move || {
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        rest
    });
    Watched { child, address, rest }
}

impl Watched {
    /// Response on a new connection, which may be cut off if the request is refused.
    fn answer(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        text(&answer)
    }

    fn scrape(&self) -> String {
        let answer = self.answer(SCRAPE);
        let (head, page) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", page.len())), "{head}");
        page.to_owned()
    }

    /// The metrics once all rows are done except the last.
    fn waiting(&mut self) -> String {
        let patience = Instant::now();
        loop {
            let page = self.scrape();
            if value(&page, "capfilt_rows_done_total") == BEFORE as f64 {
                return page;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the job ended");
            assert!(patience.elapsed() < PATIENCE, "{page}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the job finish, and returns all its messages.
    fn end(mut self, place: &Place) -> String {
        // Renamed into place, so that it is complete when it appears.
        fs::copy(place.path("emoji_fox_twitter.png"), place.path("late.tmp")).unwrap();
        fs::rename(place.path("late.tmp"), place.path(LATE)).unwrap();
        let ended = self.child.wait().unwrap();
        let said = std::mem::replace(&mut self.rest, thread::spawn(String::new)).join().unwrap();
        assert!(ended.success(), "{said}");
        said
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sum of a metric's values over the series whose labels contain `of`.
fn sum(page: &str, name: &str, of: &str) -> f64 {
    let lines = page.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(of));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}:\n{page}")).parse().unwrap()
}

#[test]
fn a_job_tells_its_numbers() {
    let place = Place::new();
    let mut job = watched(&place);
    let page = job.waiting();
    let counts =
        [("source_rows", 8.0), ("rows_done_total", 7.0), ("rows_done_before", 0.0), ("failed_rows_total", 2.0)];
    for (name, wanted) in counts {
        assert_eq!(value(&page, &format!("capfilt_{name}")), wanted, "{page}");
    }
    assert_eq!(value(&page, "capfilt_source_bytes"), fs::metadata(place.path("web.jsonl")).unwrap().len() as f64);
    assert!(value(&page, "capfilt_elapsed_seconds") > 0.0);
    for source in ["web", "synthetic"] {
        assert_eq!(sum(&page, "capfilt_pairs_total", &format!("source=\"{source}\"")), BEFORE as f64, "{page}");
    }
    assert_eq!(sum(&page, "capfilt_failed_total", "reason=\"no text\""), 1.0, "{page}");
    assert_eq!(sum(&page, "capfilt_failed_total", "reason=\"fetch: "), 1.0, "{page}");
    // Five distinct pictures; one came twice.
    assert_eq!(sum(&page, "capfilt_captions_total", "model=\"captioner\""), 5.0, "{page}");
    for model in ["captioner", "matcher"] {
        let model = format!("model=\"{model}\"");
        assert_eq!(sum(&page, "capfilt_images_encoded_total", &model), 5.0, "{page}");
        assert!(sum(&page, "capfilt_memo_hits_total", &model) >= 1.0, "{page}");
        for stage in ["decode", "encode", "generate", "score", "wait"] {
            let lines = page
                .lines()
                .filter(|line| line.starts_with("capfilt_stage_seconds_total") && line.contains(&model))
                .filter(|line| line.contains(&format!("stage=\"{stage}\"")));
            assert_eq!(lines.count(), 1, "{page}");
        }
    }
    assert!(sum(&page, "capfilt_stage_seconds_total", "stage=\"encode\"") > 0.0, "{page}");
    assert!(
        sum(&page, "capfilt_tokens_decoded_total", "fp32") > 0.0
            && sum(&page, "capfilt_texts_scored_total", "fp32") > 0.0
    );

    // Each metric's HELP and TYPE precede its values, and no series occurs twice.
    let (mut known, mut series) = (String::new(), Vec::new());
    for line in page.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, ..] => known = name.to_owned(),
            ["#", "TYPE", name, "gauge" | "counter"] => assert_eq!(name, known),
            _ => {
                let (name, _) = line.split_once(['{', ' ']).unwrap();
                assert_eq!(name, known, "{line}");
                series.push(line.rsplit_once(' ').unwrap().0);
            }
        }
    }
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "{page}");

    let said = job.end(&place);
    assert!(said.contains("read       8 rows in 1 file") && said.contains("unusable   2 rows"), "{said}");
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 16);
}

#[test]
fn whoever_asks_for_metrics_the_job_goes_on() {
    let place = Place::new();
    let mut job = watched(&place);
    job.waiting();
    // A client that never completes its request.
    let started = Instant::now();
    let mut slow = TcpStream::connect(&job.address).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let garbage: [&[u8]; 10] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /metrics/more HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"HEAD /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"\r\n\r\n",
        b"\0\xff\xfe\x80 \xc3\x28\r\n\r\n",
        b"",
        b"GET /metr",
        &[b'x'; 100_000],
    ];
    for request in garbage {
        let answer = job.answer(request);
        let (start, whole) =
            (text(&request[..request.len().min(40)]), request.ends_with(b"\n") || request.ends_with(b"c"));
        assert!(answer.starts_with("HTTP/1.1 404 ") || (answer.is_empty() && !whole), "{start:?}: {answer}");
        assert!(!answer.contains("capfilt_"), "{start:?}: {answer}");
        assert_eq!(value(&job.scrape(), "capfilt_rows_done_total"), BEFORE as f64);
    }
    thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| value(&job.scrape(), "capfilt_source_rows")));
        assert!(both.into_iter().all(|rows| rows.join().unwrap() == 8.0));
    });
    // Idle connections leave room for others.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&job.address).unwrap()).collect();
    let asked = Instant::now();
    job.scrape();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    drop(silent);
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    assert!(answer.is_empty() && started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let said = job.end(&place);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let place = Place::new();
    let slice = place.slice();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    for address in [taken.0.as_str(), "nonsense", "127.0.0.1", "127.0.0.1:99999", "192.0.2.1:9464"] {
        let message = place.job_fails(&[slice, "pairs", "--metrics-addr", address]);
        assert!(message.contains(&format!("--metrics-addr {address}: ")) && message.contains("HOST:PORT"), "{message}");
        assert!(!message.contains("rows to read") && !place.path("pairs").exists(), "{message}");
    }
}
