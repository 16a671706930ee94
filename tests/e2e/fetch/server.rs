//! A small HTTP server. The first segment of a path selects the behaviour, and the next ones its arguments; a further
//! segment distinguishes repeated URLs within a test.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::super::root;

/// Decompressed body of `/zipped`.
pub(super) const ZIPPED: &[u8] = b"what was zipped";
const ZIPPED_GZ: &str = "1f8b08000000000002032bcf482c51284f2c56a8ca2c28484d0100d41c50660f000000";
/// 10,000 zeros.
const BOMB_GZ: &str = "1f8b0800000000000203edc1010d000000c2a0f74f6d0e37a0000000000000000000e0df002eca3b4d10270000";
/// Time limit of waits, so that a misbehaving client makes a test fail instead of hang.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn picture(name: &str) -> Vec<u8> {
    fs::read(root(&format!("tests/fixtures/images/{name}"))).unwrap()
}

/// The server; it stops with the process.
pub(super) struct Server {
    address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Times of the requests for each path.
    requests: Mutex<HashMap<String, Vec<Instant>>>,
    crowd: Mutex<Crowd>,
    grown: Condvar,
    well: AtomicBool,
}

/// Connections that have no response yet; a client may open another connection once it has one.
#[derive(Default)]
struct Crowd {
    open: usize,
    most: usize,
    ever: usize,
}

impl Server {
    pub(super) fn new() -> Self {
        Self::at("127.0.0.1")
    }

    pub(super) fn at(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen::default());
        let server = Self { address, seen: Arc::clone(&seen) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                seen.come();
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    let asked = request(&stream);
                    if let Some((path, _)) = &asked {
                        seen.wait_at_gate(path);
                    }
                    seen.crowd.lock().unwrap().open -= 1;
                    if let Some((path, agent)) = asked {
                        let times = seen.note(&path);
                        // A client that hangs up is not an error.
                        answer(&stream, &seen, &path, &agent, times).ok();
                    }
                });
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn urls(&self, paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| self.url(path)).collect()
    }

    pub(super) fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    /// Number of requests for `path`.
    pub(super) fn requests(&self, path: &str) -> usize {
        self.seen.requests.lock().unwrap().get(path).map_or(0, Vec::len)
    }

    pub(super) fn all_requests(&self) -> usize {
        self.seen.requests.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Time between the first two requests for `path`.
    pub(super) fn gap(&self, path: &str) -> Duration {
        let requests = self.seen.requests.lock().unwrap();
        requests[path][1] - requests[path][0]
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.crowd.lock().unwrap().ever
    }

    /// Maximum number of concurrent connections.
    pub(super) fn most(&self) -> usize {
        self.seen.crowd.lock().unwrap().most
    }

    /// From now on, `/moody` and `/garbled` return their pictures.
    pub(super) fn recover(&self) {
        self.seen.well.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    fn come(&self) {
        let mut crowd = self.crowd.lock().unwrap();
        crowd.open += 1;
        crowd.ever += 1;
        crowd.most = crowd.most.max(crowd.open);
        self.grown.notify_all();
    }

    fn note(&self, path: &str) -> usize {
        let mut requests = self.requests.lock().unwrap();
        let times = requests.entry(path.to_owned()).or_default();
        times.push(Instant::now());
        times.len()
    }

    /// Blocks `/gate/N/..` until N requests are in flight, and then long enough for one too many to show up.
    fn wait_at_gate(&self, path: &str) {
        let Some(rest) = path.strip_prefix("/gate/") else { return };
        let least: usize = rest.split('/').next().unwrap().parse().unwrap();
        let crowd = self.crowd.lock().unwrap();
        drop(self.grown.wait_timeout_while(crowd, PATIENCE, |crowd| crowd.most < least).unwrap());
        thread::sleep(Duration::from_millis(30));
    }
}

/// Path and user agent of a request.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut agent = String::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("user-agent")
        {
            agent = value.to_owned();
        }
    }
    Some((path, agent))
}

fn answer(mut stream: &TcpStream, seen: &Seen, path: &str, agent: &str, times: usize) -> io::Result<()> {
    let names: Vec<&str> = path.split('/').skip(1).collect();
    let number = |at: usize| names.get(at).and_then(|name| name.parse::<usize>().ok()).unwrap_or(0);
    let well = seen.well.load(Ordering::Relaxed);
    let ok = || whole(stream, 200, "", path.as_bytes());
    let location =
        |to: &str| whole(stream, [301, 302, 303, 307, 308][to.len() % 5], &format!("Location: {to}\r\n"), b"");
    let gzip = |body: &[u8]| whole(stream, 200, "Content-Encoding: gzip\r\n", body);
    match names[0] {
        "ok" | "gate" => ok(),
        "image" => whole(stream, 200, "", &picture(names[1])),
        "bytes" => whole(stream, 200, "", &vec![b'x'; number(1)]),
        "agent" => whole(stream, 200, "", agent.as_bytes()),
        // /status/CODE; /flaky/CODE/N: fails the first N times.
        "status" => whole(stream, number(1), "", b"no"),
        "flaky" if times <= number(2) => whole(stream, number(1), "", b"no"),
        "flaky" => ok(),
        // /busy/SECONDS; /soon/SECONDS: busy the first time only.
        "soon" if times > 1 => ok(),
        "busy" | "soon" => whole(stream, 429, &format!("Retry-After: {}\r\n", number(1)), b"no"),
        // /cut/N: cut off the first N times.
        "cut" if times > number(1) => ok(),
        "cut" => part(stream, 1000),
        "cut-chunks" => {
            head(stream, 200, "Transfer-Encoding: chunked\r\n")?;
            stream.write_all(b"a\r\n0123456789\r\n")
        }
        "hangup" => Ok(()),
        // /long/N: announces N bytes.
        "long" => part(stream, number(1)).and_then(|()| hold(stream)),
        "endless" => {
            head(stream, 200, "Transfer-Encoding: chunked\r\n")?;
            (0..100_000).try_for_each(|_| stream.write_all(b"a\r\n0123456789\r\n"))
        }
        "silent" => hold(stream),
        "drip" => head(stream, 200, "Content-Length: 1000000\r\n").and_then(|()| drip(stream, "x")),
        "drip-head" => stream.write_all(b"HTTP/1.1 200 OK\r\n").and_then(|()| drip(stream, "X-Drip: x\r\n")),
        // /redirect/N: N redirects in a row; /to/URL: a redirect to URL.
        "redirect" if number(1) == 1 => location("/ok/end"),
        "redirect" => location(&format!("/redirect/{}", number(1) - 1)),
        "loop" => location("/loop"),
        "to" => location(&path["/to/".len()..]),
        // One header for each part between semicolons, with _ for spaces.
        "robots" => {
            let header = |value: &str| format!("X-Robots-Tag: {}\r\n", value.replace('_', " "));
            let headers: String = names[1].split(';').map(header).collect();
            whole(stream, 200, &headers, path.as_bytes())
        }
        "zipped" => gzip(&hex::decode(ZIPPED_GZ).unwrap()),
        "bomb" => gzip(&hex::decode(BOMB_GZ).unwrap()),
        "not-zipped" => gzip(b"no gzip"),
        // /coding/NAME: gzip under another name; /brotli.
        "coding" => {
            whole(stream, 200, &format!("Content-Encoding: {}\r\n", names[1]), &hex::decode(ZIPPED_GZ).unwrap())
        }
        "brotli" => whole(stream, 200, "Content-Encoding: br\r\n", b"x"),
        // Redirects with non-ASCII bytes, in UTF-8 and in Latin-1.
        "to-utf8" => raw(stream, "302 Found", "Location: /ok/é\r\n".as_bytes(), b""),
        "to-latin1" => raw(stream, "302 Found", b"Location: /ok/\xe9\r\n", b""),
        "proxied" => raw(stream, "203 Non-Authoritative Information", b"", path.as_bytes()),
        // /range/LAST: bytes 0 to LAST of 10.
        "range" => {
            let header = format!("Content-Range: bytes 0-{}/10\r\n", number(1));
            raw(stream, "206 Partial Content", header.as_bytes(), &b"0123456789"[..=number(1)])
        }
        "bad-header" => {
            raw(stream, "200 OK", b"Bad Header With Spaces: x\r\nX-Latin: caf\xe9\r\nnoColon\r\n", path.as_bytes())
        }
        "moody" if !well => whole(stream, 503, "", b"no"),
        "garbled" if !well => whole(stream, 200, "", b"no picture"),
        "moody" | "garbled" => whole(stream, 200, "", &picture(names[1])),
        _ => whole(stream, 404, "", b"no"),
    }
}

fn head(mut stream: &TcpStream, status: usize, headers: &str) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 {status} -\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

/// Sends headers verbatim, and a body.
fn raw(mut stream: &TcpStream, status: &str, headers: &[u8], body: &[u8]) -> io::Result<()> {
    stream.write_all(
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len()).as_bytes(),
    )?;
    stream.write_all(&[headers, b"\r\n", body].concat())
}

fn whole(mut stream: &TcpStream, status: usize, headers: &str, body: &[u8]) -> io::Result<()> {
    head(stream, status, &format!("{headers}Content-Length: {}\r\n", body.len()))?;
    stream.write_all(body)
}

/// Sends ten bytes of an announced `length`.
fn part(mut stream: &TcpStream, length: usize) -> io::Result<()> {
    head(stream, 200, &format!("Content-Length: {length}\r\n"))?;
    stream.write_all(b"0123456789")
}

/// Sends nothing more, and waits until the client hangs up.
fn hold(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn drip(mut stream: &TcpStream, bit: &str) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        stream.write_all(bit.as_bytes())?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
