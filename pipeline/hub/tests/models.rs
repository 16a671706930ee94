//! Models are found, fetched, and shared with what is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::hub::{Fault, Files, Hub, cache, git_sha1, noise, sha256};
use capfilt_hub::{Cache, Client, Error, Name, Progress, Snapshot, Wanted, wanted};

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";

fn checkpoint(seed: u64) -> Files {
    let file = |name: &str, bytes: Vec<u8>, large| (name.to_owned(), (bytes, large));
    Files::from([
        file("README.md", b"not wanted".to_vec(), false),
        file("config.json", format!("{{\"seed\": {seed}}}").into_bytes(), false),
        file("model.safetensors", noise(3 << 20, seed), true),
        file("preprocessor_config.json", b"{}".to_vec(), false),
        file("pytorch_model.bin", noise(1000, 99), true),
        file("vocab.txt", Vec::new(), false),
    ])
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn without_links(root: &Path) -> Cache {
    let look = |name: &str| match name {
        "HF_HUB_CACHE" => Some(root.into()),
        "HF_HUB_DISABLE_SYMLINKS" => Some("1".into()),
        _ => None,
    };
    Cache::new(&look).unwrap()
}

async fn fetch(client: &Client, text: &str) -> Result<Snapshot, Error> {
    client.checkpoint(&name(text), false, &|_| {}).await
}

fn contents(snapshot: &Snapshot, file: &str) -> Vec<u8> {
    fs::read(snapshot.folder().join(file)).unwrap()
}

/// All files below a folder that `fits` takes.
fn below(folder: &Path, fits: impl Fn(&str) -> bool + Copy) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let nested = |path: PathBuf| if path.is_dir() && !path.is_symlink() { below(&path, fits) } else { vec![path] };
    entries.flat_map(nested).filter(|path| fits(path.to_str().unwrap())).collect()
}

#[tokio::test]
async fn a_checkpoint_is_fetched_once_and_then_read_offline() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let files = checkpoint(1);
    hub.commit("a/b", "main", ONE, &files);
    let snapshot = fetch(&hub.client(dir.path()), "hf:a/b").await.unwrap();

    let model = dir.path().join("models--a--b");
    assert_eq!((snapshot.commit(), snapshot.folder()), (ONE, &*model.join("snapshots").join(ONE)));
    assert_eq!(
        snapshot.files().unwrap(),
        ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"]
    );
    for (file, digest) in [
        ("config.json", git_sha1(&files["config.json"].0)),
        ("vocab.txt", git_sha1(b"")),
        ("model.safetensors", sha256(&files["model.safetensors"].0)),
    ] {
        assert_eq!(contents(&snapshot, file), files[file].0);
        let link = fs::read_link(snapshot.folder().join(file)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(&digest));
        assert!(dir.path().join(".locks/models--a--b").join(format!("{digest}.lock")).is_file());
    }
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), ONE);
    assert!(below(dir.path(), |path| path.ends_with(".incomplete") || path.ends_with(".tmp")).is_empty());

    let before = hub.seen("GET", "").len() + hub.seen("HEAD", "").len();
    let offline = Client::new(hub.settings(&[("HF_HUB_OFFLINE", "1")]), cache(dir.path())).unwrap();
    assert_eq!(fetch(&offline, "hf:a/b").await.unwrap(), snapshot);
    assert_eq!(fetch(&offline, &format!("hf:a/b@{ONE}")).await.unwrap(), snapshot);
    assert_eq!(hub.seen("GET", "").len() + hub.seen("HEAD", "").len(), before);
    assert_eq!(cache(dir.path()).snapshot(&name("hf:a/b")).unwrap(), Some(snapshot));

    // Asked again, the hub says which commit it is, and sends nothing.
    fetch(&hub.client(dir.path()), "hf:a/b").await.unwrap();
    assert_eq!(hub.seen("GET", "").len() + hub.seen("HEAD", "").len(), before + 1);
}

#[tokio::test]
async fn without_the_network_the_cache_must_be_whole() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let offline = Client::new(hub.settings(&[("TRANSFORMERS_OFFLINE", "1")]), cache(dir.path())).unwrap();
    let said = fetch(&offline, "hf:a/b").await.unwrap_err().to_string();
    assert!(said.contains("hf:a/b@main") && said.contains(dir.path().to_str().unwrap()), "{said}");
    assert!(matches!(offline.resolve(&name("hf:a/b")).await, Err(Error::Offline { .. })));
    // The weights have not come yet.
    let client = hub.client(dir.path());
    let repository = client.resolve(&name("hf:a/b")).await.unwrap();
    client.download(&repository, &["config.json".to_owned()], &|_| {}).await.unwrap();
    let result = fetch(&offline, "hf:a/b").await;
    assert!(matches!(result, Err(Error::NotCached { .. })), "{result:?}");
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_leaves_the_cache() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let snapshot = fetch(&hub.client(dir.path()), "hf:a/b").await.unwrap();
    // A port on which nobody listens.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = hub.settings(&[("HF_ENDPOINT", &format!("http://{gone}"))]);
    let client = |root| Client::new(gone.clone(), cache(root)).unwrap();
    assert_eq!(fetch(&client(dir.path()), "hf:a/b").await.unwrap(), snapshot);
    let empty = tempfile::tempdir().unwrap();
    let error = fetch(&client(empty.path()), "hf:a/b").await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    // That there is no such model any more is another thing.
    hub.rename("a/b", "a/c");
    hub.rename("a/c", "a/d");
    hub.fault("GET", "api/models", 1, Fault::Answer(404, String::new()));
    assert!(matches!(fetch(&hub.client(dir.path()), "hf:a/b").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn revisions_may_have_slashes() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "refs/pr/5", ONE, &checkpoint(1));
    let snapshot = fetch(&hub.client(dir.path()), "hf:a/b@refs/pr/5").await.unwrap();
    assert_eq!(hub.seen("GET", "/api/models/a/b/revision/refs%2Fpr%2F5").len(), 1);
    assert_eq!(fs::read_to_string(dir.path().join("models--a--b/refs/refs/pr/5")).unwrap(), ONE);
    assert_eq!(cache(dir.path()).snapshot(&name("hf://a/b@refs/pr/5")).unwrap(), Some(snapshot));
}

#[tokio::test]
async fn a_commit_is_not_asked_for_twice() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let text = format!("hf:a/b@{ONE}");
    let snapshot = fetch(&hub.client(dir.path()), &text).await.unwrap();
    assert_eq!(snapshot.commit(), ONE);
    assert!(!dir.path().join("models--a--b/refs").exists());
    let before = hub.seen("GET", "").len();
    assert_eq!(fetch(&hub.client(dir.path()), &text).await.unwrap(), snapshot);
    assert_eq!(hub.seen("GET", "").len(), before);
}

#[tokio::test]
async fn a_branch_that_moved_is_another_snapshot() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let client = hub.client(dir.path());
    let first = fetch(&client, "hf:a/b").await.unwrap();
    let mut files = checkpoint(1);
    files.insert("config.json".to_owned(), (b"{}".to_vec(), false));
    hub.commit("a/b", "main", TWO, &files);
    let second = fetch(&client, "hf:a/b").await.unwrap();
    assert_eq!((first.commit(), second.commit()), (ONE, TWO));
    assert_eq!(contents(&second, "config.json"), b"{}");
    assert_eq!(contents(&first, "config.json"), checkpoint(1)["config.json"].0);
    assert_eq!(fs::read_to_string(dir.path().join("models--a--b/refs/main")).unwrap(), TWO);
    // The weights are the same blob.
    assert_eq!(hub.seen("GET", &sha256(&files["model.safetensors"].0)).len(), 1);
}

#[tokio::test]
async fn two_downloads_at_once_fetch_each_file_once() {
    for cache in [cache, without_links] {
        let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
        let files = checkpoint(1);
        hub.commit("a/b", "main", ONE, &files);
        let client = || Client::new(hub.settings(&[]), cache(dir.path())).unwrap();
        let (one, two) = (client(), client());
        let (one, two) = tokio::join!(fetch(&one, "hf:a/b"), fetch(&two, "hf:a/b"));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(hub.seen("GET", &sha256(&files["model.safetensors"].0)).len(), 1);
        // An empty file needs no request.
        assert_eq!(hub.seen("GET", "resolve-cache").len(), 2);
    }
}

#[tokio::test]
async fn a_lock_is_waited_for_and_the_thread_is_free() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let files = checkpoint(1);
    hub.commit("a/b", "main", ONE, &files);
    let path = dir.path().join(".locks/models--a--b").join(format!("{}.lock", git_sha1(&files["config.json"].0)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let held = fs::File::create(&path).unwrap();
    held.lock().unwrap();
    let client = hub.client(dir.path());
    let mut download = std::pin::pin!(fetch(&client, "hf:a/b"));
    // On the one thread of this runtime the timer comes only if nothing blocks.
    assert!(tokio::time::timeout(Duration::from_millis(400), &mut download).await.is_err());
    assert!(hub.seen("GET", "resolve-cache").is_empty() && hub.seen("HEAD", "config.json").len() == 2);
    // Whoever deletes the file takes its meaning from the lock.
    fs::remove_file(&path).unwrap();
    download.await.unwrap();
    drop(held);
}

#[tokio::test]
async fn without_links_snapshots_are_files() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let mut files = checkpoint(1);
    files.insert("generation_config.json".to_owned(), files["config.json"].clone());
    hub.commit("a/b", "main", ONE, &files);
    // A blob that is there already is copied, and one that came is moved.
    let blobs = dir.path().join("models--a--b/blobs");
    let config = blobs.join(git_sha1(&files["config.json"].0));
    fs::create_dir_all(&blobs).unwrap();
    fs::write(&config, &files["config.json"].0).unwrap();
    let client = Client::new(hub.settings(&[]), without_links(dir.path())).unwrap();
    let snapshot = fetch(&client, "hf:a/b").await.unwrap();
    for file in snapshot.files().unwrap() {
        assert!(!snapshot.folder().join(&file).is_symlink(), "{file}");
        assert_eq!(contents(&snapshot, &file), files[&file].0);
    }
    assert_eq!(below(&blobs, |_| true), [config]);
}

#[tokio::test]
async fn files_in_folders_link_further_up() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let files = Files::from([("x/y z/config.json".to_owned(), (b"{}".to_vec(), false))]);
    hub.commit("a/b", "main", ONE, &files);
    let client = hub.client(dir.path());
    let repository = client.resolve(&name("hf:a/b")).await.unwrap();
    assert_eq!(repository.pinned().to_string(), format!("hf:a/b@{ONE}"));
    let snapshot = client.download(&repository, repository.files(), &|_| {}).await.unwrap();
    let link = fs::read_link(snapshot.folder().join("x/y z/config.json")).unwrap();
    assert_eq!(link, Path::new("../../../../blobs").join(git_sha1(b"{}")));
    assert_eq!(contents(&snapshot, "x/y z/config.json"), b"{}");
}

#[tokio::test]
async fn a_repository_that_was_renamed_is_followed() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/old", "main", ONE, &checkpoint(1));
    hub.rename("a/old", "c/new");
    let snapshot = fetch(&hub.client(dir.path()), "hf:a/old").await.unwrap();
    assert_eq!(contents(&snapshot, "model.safetensors"), checkpoint(1)["model.safetensors"].0);
    assert!(snapshot.folder().starts_with(dir.path().join("models--a--old")));
}

#[tokio::test]
async fn the_token_stays_with_the_hub() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    hub.close_to_all_but("a/b", "hf_secret");
    let client = Client::new(hub.settings(&[("HF_TOKEN", "hf_secret")]), cache(dir.path())).unwrap();
    fetch(&client, "hf:a/b").await.unwrap();
    let seen = [hub.seen("GET", ""), hub.seen("HEAD", "")].concat();
    let (storage, home): (Vec<_>, Vec<_>) = seen.into_iter().partition(|seen| seen.storage);
    assert!(!storage.is_empty() && storage.iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert!(home.iter().all(|seen| seen.headers["authorization"] == "Bearer hf_secret"));
    // A signed address is for GET alone.
    assert!(storage.iter().all(|seen| seen.method == "GET"));
    assert!(home.iter().all(|seen| seen.headers["accept-encoding"] == "identity"));
}

#[tokio::test]
async fn files_that_another_program_left_out_are_fetched() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let client = hub.client(dir.path());
    let snapshot = fetch(&client, "hf:a/b").await.unwrap();
    // As after `from_pretrained` of a model without its processor.
    for left_out in ["vocab.txt", "preprocessor_config.json"] {
        fs::remove_file(snapshot.folder().join(left_out)).unwrap();
        assert!(fetch(&client, &format!("hf:a/b@{ONE}")).await.unwrap().has(left_out), "{left_out}");
    }
}

#[tokio::test]
async fn a_hub_must_answer_with_the_commit_that_was_asked_for() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", ONE, TWO, &checkpoint(1));
    let error = fetch(&hub.client(dir.path()), &format!("hf:a/b@{ONE}")).await.unwrap_err();
    assert!(matches!(&error, Error::OtherCommit { found, .. } if found == TWO), "{error}");
}

#[tokio::test]
async fn a_pickle_comes_only_if_asked_for() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    let mut files = checkpoint(1);
    files.remove("model.safetensors");
    hub.commit("a/b", "main", ONE, &files);
    let client = hub.client(dir.path());
    let said = fetch(&client, "hf:a/b").await.unwrap_err().to_string();
    assert!(said.contains(&format!("hf:a/b@{ONE}")) && said.contains("pytorch_model.bin"), "{said}");
    assert!(said.contains("refs/pr/N"), "{said}");
    let snapshot = client.checkpoint(&name("hf:a/b"), true, &|_| {}).await.unwrap();
    assert!(matches!(wanted(&snapshot.files().unwrap()), Wanted::PickleAlone(_)));
    // Nor is it taken from the cache.
    let offline = Client::new(hub.settings(&[("HF_HUB_OFFLINE", "1")]), cache(dir.path())).unwrap();
    assert!(matches!(fetch(&offline, "hf:a/b").await, Err(Error::NotCached { .. })));
    offline.checkpoint(&name("hf:a/b"), true, &|_| {}).await.unwrap();
    files.remove("pytorch_model.bin");
    hub.commit("a/b", "main", TWO, &files);
    assert!(matches!(fetch(&client, "hf:a/b").await, Err(Error::NoWeights { .. })));
}

#[tokio::test]
async fn progress_ends_at_the_size_of_each_file() {
    let (hub, dir) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.commit("a/b", "main", ONE, &checkpoint(1));
    let seen = Mutex::new(Vec::new());
    let note = |p: Progress<'_>| seen.lock().unwrap().push((p.file.to_owned(), p.done, p.total));
    hub.client(dir.path()).checkpoint(&name("hf:a/b"), false, &note).await.unwrap();
    let seen = seen.into_inner().unwrap();
    for (file, size) in [("config.json", 11), ("vocab.txt", 0), ("model.safetensors", 3 << 20)] {
        let of: Vec<_> = seen.iter().filter(|(name, ..)| name == file).collect();
        assert!(of.is_sorted() && of.iter().all(|(.., total)| *total == Some(size)), "{file}");
        assert_eq!((of[0].1, of[of.len() - 1].1), (0, size), "{file}");
    }
    assert!(seen.len() > 10);
}
