//! huggingface_hub as the reference: what either side fetches, the other finds. Run by
//! `HUB_PYTHON=venv/bin/python cargo test --test hub python -- --ignored`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::hub::{Files, Hub, cache, git_sha1, noise, sha256};
use capfilt_hub::{Cache, Name, Settings, Snapshot};

const ONE: &str = "1111111111111111111111111111111111111111";
const REVISIONS: [&str; 2] = ["main", "refs/pr/5"];

fn files() -> Files {
    let file = |name: &str, bytes: Vec<u8>, large| (name.to_owned(), (bytes, large));
    Files::from([
        file("README.md", b"not wanted".to_vec(), false),
        file("config.json", b"{\"a\": 1}".to_vec(), false),
        file("model.safetensors", noise(3 << 20, 5), true),
        file("vocab.txt", b"[PAD]\n".to_vec(), false),
    ])
}

fn started() -> (Hub, tempfile::TempDir) {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    for revision in REVISIONS {
        hub.commit("a/b", revision, ONE, &files());
    }
    (hub, dir)
}

/// The reference, with nothing but `set` in its environment.
fn python(set: &[(&str, &str)], arguments: &[&str]) -> Command {
    let python = std::env::var_os("HUB_PYTHON").expect("HUB_PYTHON is a Python that has huggingface_hub");
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference.py")).args(arguments);
    command.env_clear().envs(set.iter().copied()).stderr(Stdio::inherit());
    command
}

fn output(set: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = python(set, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn name(revision: &str) -> Name {
    format!("hf:a/b@{revision}").parse().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn assert_same(snapshot: &Snapshot) {
    for file in ["config.json", "model.safetensors", "vocab.txt"] {
        assert!(fs::read(snapshot.folder().join(file)).unwrap() == files()[file].0, "{file}");
    }
}

#[test]
#[ignore = "needs huggingface_hub"]
fn what_python_fetches_is_found() {
    for revision in [REVISIONS[0], REVISIONS[1], ONE] {
        let (hub, dir) = started();
        let set = [("HF_ENDPOINT", &*hub.endpoint), ("HF_HUB_CACHE", text(dir.path())), ("HF_HUB_DISABLE_XET", "1")];
        let folder = output(&set, &["fetch", "a/b", revision]);
        let snapshot = cache(dir.path()).snapshot(&name(revision)).unwrap().unwrap();
        assert_eq!((text(snapshot.folder()), snapshot.commit()), (&*folder, ONE));
        assert_same(&snapshot);
        assert_eq!(snapshot.files().unwrap(), ["config.json", "model.safetensors", "vocab.txt"]);
    }
}

#[tokio::test]
#[ignore = "needs huggingface_hub"]
async fn what_is_fetched_python_finds() {
    for revision in [REVISIONS[0], REVISIONS[1], ONE] {
        let (hub, dir) = started();
        let snapshot = hub.client(dir.path()).checkpoint(&name(revision), false, &|_| {}).await.unwrap();
        let set = [("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", text(dir.path()))];
        let found = output(&set, &["find", "a/b", revision, "config.json", "model.safetensors", "vocab.txt"]);
        assert_eq!(found, text(snapshot.folder()));
    }
}

#[tokio::test]
#[ignore = "needs huggingface_hub"]
async fn what_is_fetched_python_does_not_fetch_again() {
    let (hub, dir) = started();
    hub.client(dir.path()).checkpoint(&name("main"), false, &|_| {}).await.unwrap();
    let before = hub.seen("GET", "/resolve").len() + hub.seen("GET", &sha256(&files()["model.safetensors"].0)).len();
    let set = [("HF_ENDPOINT", &*hub.endpoint), ("HF_HUB_CACHE", text(dir.path())), ("HF_HUB_DISABLE_XET", "1")];
    output(&set, &["fetch", "a/b", "main"]);
    let after = hub.seen("GET", "/resolve").len() + hub.seen("GET", &sha256(&files()["model.safetensors"].0)).len();
    assert_eq!(after, before);
}

#[tokio::test]
#[ignore = "needs huggingface_hub"]
async fn a_lock_of_python_is_waited_for() {
    let (hub, dir) = started();
    let locks = dir.path().join(".locks/models--a--b");
    fs::create_dir_all(&locks).unwrap();
    let lock = locks.join(format!("{}.lock", git_sha1(&files()["config.json"].0)));
    let mut command = python(&[], &["lock", text(&lock), "2"]);
    let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "locked");
    let begun = Instant::now();
    let snapshot = hub.client(dir.path()).checkpoint(&name("main"), false, &|_| {}).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(holder.wait().unwrap().success());
    assert_same(&snapshot);
}

#[test]
#[ignore = "needs huggingface_hub"]
fn the_environment_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir_all(home.join(".cache/huggingface")).unwrap();
    fs::write(home.join(".cache/huggingface/token"), "hf_home\n").unwrap();
    let home = ("HOME", text(&home));
    for set in [
        &[home][..],
        &[home, ("HF_HUB_CACHE", "~/x"), ("HUGGINGFACE_HUB_CACHE", "/y")],
        &[home, ("HUGGINGFACE_HUB_CACHE", "$HOME/y"), ("TRANSFORMERS_OFFLINE", "Yes")],
        &[home, ("HF_HOME", "~/${NONE}z"), ("HF_TOKEN", " hf_env\n")],
        &[home, ("XDG_CACHE_HOME", "/xdg"), ("HF_ENDPOINT", "http://hub.example:8080/sub/")],
        &[home, ("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")],
        &[home, ("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_HUB_OFFLINE", "on")],
    ] {
        let there = output(set, &["paths"]);
        let look = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        let (cache, settings) = (Cache::new(&look).unwrap(), Settings::new(&look).unwrap());
        let offline = if settings.offline { "True" } else { "False" };
        let lines: Vec<_> = there.lines().collect();
        assert_eq!(lines[..3], [text(cache.root()), settings.endpoint(), offline], "{set:?}");
        assert_eq!(Some(lines[3]).filter(|token| *token != "None"), settings.token(), "{set:?}");
    }
}
