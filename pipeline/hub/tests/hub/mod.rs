//! Loopback server that answers as the hub does, with faults on demand, and a second one in the part of its storage.

#![allow(dead_code, reason = "the tests of the command include this module too, and use a part of it")]

mod answers;
pub(crate) mod world;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use capfilt_hub::{Cache, Client, Settings};
use sha2::{Digest as _, Sha256};

/// Files of a commit: content, and whether it is large (LFS).
pub(crate) type Files = BTreeMap<String, (Vec<u8>, bool)>;

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Another answer: status, and headers with their line ends.
    Answer(u16, String),
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// The connection stays open and silent after so many bytes of the body.
    Stall(usize),
    /// The Range header is overlooked.
    NoRange,
    /// A byte is wrong.
    Flip,
    /// Header that replaces the one of the same name.
    Header(&'static str, String),
}

/// Request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whether it came to the storage.
    pub(crate) storage: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

#[derive(Default)]
struct Repository {
    /// Commits of branches, tags and references.
    revisions: HashMap<String, String>,
    commits: HashMap<String, Files>,
    moved_to: Option<String>,
    token: Option<String>,
}

#[derive(Default)]
struct State {
    repositories: HashMap<String, Repository>,
    /// Faults by method and a part of the path, with how often they occur.
    faults: Vec<(&'static str, String, usize, Fault)>,
    seen: Vec<Seen>,
    storage: String,
    page: usize,
}

#[derive(Clone)]
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let storage = listen(&state, true);
        state.lock().unwrap().storage = storage;
        let endpoint = listen(&state, false);
        Self { state, endpoint }
    }

    /// Adds a commit to a repository, `OWNER/NAME` or `datasets/OWNER/NAME`, and makes `revision` name it.
    pub(crate) fn commit(&self, id: &str, revision: &str, commit: &str, files: &Files) {
        let mut state = self.state.lock().unwrap();
        let repository = state.repositories.entry(id.to_owned()).or_default();
        repository.revisions.insert(revision.to_owned(), commit.to_owned());
        repository.commits.insert(commit.to_owned(), files.clone());
    }

    pub(crate) fn rename(&self, id: &str, to: &str) {
        let mut state = self.state.lock().unwrap();
        let repository = state.repositories.remove(id).unwrap();
        state.repositories.insert(to.to_owned(), repository);
        state.repositories.insert(id.to_owned(), Repository { moved_to: Some(to.to_owned()), ..Repository::default() });
    }

    pub(crate) fn close_to_all_but(&self, id: &str, token: &str) {
        self.state.lock().unwrap().repositories.get_mut(id).unwrap().token = Some(token.to_owned());
    }

    pub(crate) fn page(&self, entries: usize) {
        self.state.lock().unwrap().page = entries;
    }

    /// Makes the next `times` requests of `method` with `part` in their path go wrong.
    pub(crate) fn fault(&self, method: &'static str, part: &str, times: usize, fault: Fault) {
        self.state.lock().unwrap().faults.push((method, part.to_owned(), times, fault));
    }

    pub(crate) fn seen(&self, method: &str, part: &str) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|seen| seen.method == method && seen.path.contains(part)).cloned().collect()
    }

    /// Settings for this hub, with pauses that tests can wait for.
    pub(crate) fn settings(&self, more: &[(&str, &str)]) -> Settings {
        let mut set: HashMap<&str, &str> = more.iter().copied().collect();
        set.entry("HF_ENDPOINT").or_insert(&self.endpoint);
        set.entry("HOME").or_insert("/nowhere");
        let mut settings = Settings::new(&|name| set.get(name).map(|value| (*value).into())).unwrap();
        settings.backoff = Duration::from_millis(10);
        settings.retries = 3;
        settings
    }

    pub(crate) fn client(&self, cache: &Path) -> Client {
        Client::new(self.settings(&[]), self::cache(cache)).unwrap()
    }
}

/// The files of a folder, of which weights and tables are large.
pub(crate) fn files(folder: &Path) -> Files {
    let large = ["safetensors", "bin", "parquet"];
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let file = |path: std::path::PathBuf| {
        let is_large = large.iter().any(|ending| path.extension().is_some_and(|of| of == *ending));
        (path.file_name().unwrap().to_str().unwrap().to_owned(), (std::fs::read(&path).unwrap(), is_large))
    };
    paths.map(file).collect()
}

pub(crate) fn cache(root: &Path) -> Cache {
    Cache::new(&|name| (name == "HF_HUB_CACHE").then(|| root.into())).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    hex(&sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

/// Bytes that differ from place to place.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn etag((bytes, large): &(Vec<u8>, bool)) -> String {
    if *large { sha256(bytes) } else { git_sha1(bytes) }
}

fn listen(state: &Arc<Mutex<State>>, storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = Arc::clone(state);
    let host = address.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (state, host) = (Arc::clone(&state), host.clone());
            // The other side may have gone.
            thread::spawn(move || answer(connection, &state, &host, storage).ok());
        }
    });
    address
}

/// Status, headers with their line ends, body.
type Answer = (u16, String, Vec<u8>);

fn answer(connection: TcpStream, state: &Mutex<State>, host: &str, storage: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let seen = Seen { storage, method, path, headers };
    let (fault, (status, mut head, mut body)) = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let mut faults = state.faults.iter_mut();
        let fault = faults
            .find(|(method, part, times, _)| *times > 0 && *method == seen.method && seen.path.contains(part.as_str()));
        let fault = fault.map(|(_, _, times, fault)| {
            *times -= 1;
            fault.clone()
        });
        let found = if storage { answers::stored(&state, &seen) } else { answers::hub(&state, &seen, host) };
        (fault, found.unwrap_or_else(|missing| (404, format!("X-Error-Code: {missing}\r\n"), Vec::new())))
    };
    let (mut status, mut end) = (status, body.len());
    let range = seen.headers.get("range").filter(|_| !matches!(fault, Some(Fault::NoRange)));
    if let (200, Some(range)) = (status, range) {
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let all = body.len();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(all, |last: usize| all.min(last + 1));
        if from >= all {
            (status, body) = (416, Vec::new());
        } else {
            (status, body) = (206, body[from..to].to_vec());
            head += &format!("Content-Range: bytes {from}-{}/{all}\r\n", to - 1);
        }
        end = body.len();
    }
    let mut silent = false;
    match fault {
        Some(Fault::Answer(other, headers)) => (status, head, body, end) = (other, headers, Vec::new(), 0),
        Some(Fault::Cut(at)) => end = at.min(end),
        Some(Fault::Stall(at)) => (end, silent) = (at.min(end), true),
        Some(Fault::Flip) => body[end / 2] ^= 1,
        Some(Fault::Header(name, value)) => {
            let others = head.split_inclusive("\r\n").filter(|line| !line.starts_with(&format!("{name}:")));
            head = others.collect::<String>() + &format!("{name}: {value}\r\n");
        }
        Some(Fault::NoRange) | None => {}
    }
    let mut connection = connection;
    let length = body.len();
    write!(connection, "HTTP/1.1 {status} x\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if seen.method != "HEAD" {
        connection.write_all(&body[..end])?;
    }
    connection.flush()?;
    if silent {
        thread::sleep(Duration::from_secs(60));
    }
    connection.shutdown(Shutdown::Both)
}
