//! Datasets are read in place, by themselves and as an object store.

use std::sync::Arc;

use crate::hub::{Fault, Files, Hub, git_sha1, noise, sha256};
use capfilt_hub::{Dataset, DatasetStore, Entry, Error, OpenDataset, Tree};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _};

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";
const LARGE: &str = "train/0 0.parquet";

fn files() -> Files {
    let file = |name: &str, bytes: Vec<u8>, large| (name.to_owned(), (bytes, large));
    Files::from([
        file("README.md", b"about".to_vec(), false),
        file(LARGE, noise(2 << 20, 3), true),
        file("train/1.parquet", noise(10, 4), true),
        file("train/more/2.parquet", noise(20, 5), false),
        file("training.txt", Vec::new(), false),
    ])
}

async fn open(hub: &Hub, name: &str) -> Result<OpenDataset, Error> {
    let dataset: Dataset = name.parse().unwrap();
    hub.client(std::path::Path::new("/nowhere")).open(&dataset).await
}

async fn world() -> (Hub, OpenDataset) {
    let hub = Hub::start();
    hub.commit("datasets/a/b", "main", ONE, &files());
    let dataset = open(&hub, "hf://datasets/a/b").await.unwrap();
    (hub, dataset)
}

fn entry(path: &str) -> Entry {
    let (bytes, large) = &files()[path];
    let etag = if *large { sha256(bytes) } else { git_sha1(bytes) };
    Entry { path: path.to_owned(), size: bytes.len() as u64, etag }
}

#[tokio::test]
async fn a_dataset_stays_at_its_commit() {
    let hub = Hub::start();
    hub.commit("datasets/a/b", "refs/convert/parquet", ONE, &files());
    let dataset = open(&hub, "hf://datasets/a/b@refs/convert/parquet/train").await.unwrap();
    assert_eq!(hub.seen("GET", "/api/datasets/a/b/revision/refs%2Fconvert%2Fparquet?expand=sha").len(), 1);
    assert_eq!((dataset.commit(), dataset.dataset().path()), (ONE, "train"));
    hub.commit("datasets/a/b", "refs/convert/parquet", TWO, &Files::new());
    assert_eq!(dataset.get_range("README.md", 0..99).await.unwrap(), "about");
    assert!(matches!(open(&hub, "hf://datasets/a/c").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_folder_is_listed_page_by_page() {
    let (hub, dataset) = world().await;
    let folders = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for page in [1000, 2] {
        hub.page(page);
        let all = Tree {
            files: files().keys().map(|path| entry(path)).collect(),
            folders: folders(&["train", "train/more"]),
        };
        assert_eq!(dataset.tree("", true).await.unwrap(), all);
        let train = [LARGE, "train/1.parquet"].map(entry).to_vec();
        assert_eq!(
            dataset.tree("train", false).await.unwrap(),
            Tree { files: train, folders: folders(&["train/more"]) }
        );
    }
    // 7 entries and 3.
    assert_eq!(hub.seen("GET", "/tree/").len(), 2 + 4 + 2);
    assert!(matches!(dataset.tree("none", true).await, Err(Error::NotFound { .. })));
    assert!(matches!(dataset.tree("../x", true).await, Err(Error::UnsafeFile { .. })));
}

#[tokio::test]
async fn the_next_page_is_on_the_same_host() {
    let (hub, dataset) = world().await;
    let elsewhere = Hub::start();
    for next in [elsewhere.endpoint.clone() + "/api/x", String::new()] {
        hub.fault("GET", "/tree/", 1, Fault::Header("Link", format!("<{next}>; rel=\"next\"")));
        let said = dataset.tree("", true).await.unwrap_err().to_string();
        assert!(said.contains("not on the same host"), "{said}");
    }
    assert!(elsewhere.seen("GET", "").is_empty());
    // Another relation is no next page.
    hub.fault("GET", "/tree/", 1, Fault::Header("Link", "</x>; rel=\"first\"".to_owned()));
    dataset.tree("", true).await.unwrap();
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_left_out() {
    let hub = Hub::start();
    let mut files = files();
    files.insert("../../x".to_owned(), (Vec::new(), false));
    hub.commit("datasets/a/b", "main", ONE, &files);
    let dataset = open(&hub, "hf://datasets/a/b").await.unwrap();
    let tree = dataset.tree("", true).await.unwrap();
    assert_eq!((tree.files.len(), tree.folders), (5, vec!["train".to_owned(), "train/more".to_owned()]));
    assert!(matches!(dataset.head("../../x").await, Err(Error::UnsafeFile { .. })));
    assert!(matches!(dataset.get_range("../../x", 0..1).await, Err(Error::UnsafeFile { .. })));
    assert!(matches!(dataset.get_range("../../x", 0..0).await, Err(Error::UnsafeFile { .. })));
}

#[tokio::test]
async fn a_part_of_a_file_is_read() {
    let (hub, dataset) = world().await;
    let bytes = &files()[LARGE].0;
    assert_eq!(dataset.get_range(LARGE, 10..20).await.unwrap(), bytes[10..20]);
    assert_eq!(hub.seen("GET", &sha256(bytes))[0].headers["range"], "bytes=10-19");
    assert_eq!(dataset.get_range(LARGE, 2_097_150..9_999_999).await.unwrap(), bytes[2_097_150..]);
    assert_eq!(dataset.get_range(LARGE, 5..5).await.unwrap(), "");
    // A part of the part comes, then a server that does not know ranges, which breaks too.
    hub.fault("GET", &sha256(bytes), 1, Fault::Cut(100_000));
    hub.fault("GET", &sha256(bytes), 1, Fault::NoRange);
    assert!(dataset.get_range(LARGE, 1_000_000..1_500_000).await.unwrap() == bytes[1_000_000..1_500_000]);
}

#[tokio::test]
async fn a_file_is_known_by_its_digest() {
    let (_hub, dataset) = world().await;
    for path in [LARGE, "train/more/2.parquet", "training.txt"] {
        assert_eq!(dataset.head(path).await.unwrap(), entry(path));
    }
    assert!(matches!(dataset.head("none").await, Err(Error::NotFound { .. })));
}

async fn store() -> (Hub, Arc<dyn ObjectStore>) {
    let (hub, dataset) = world().await;
    (hub, Arc::new(DatasetStore::new(dataset)))
}

#[tokio::test]
async fn a_store_reads_files_and_parts() {
    let (hub, store) = store().await;
    let (large, bytes) = (Path::parse(LARGE).unwrap(), &files()[LARGE].0);
    let before = hub.seen("HEAD", "").len();
    let whole = store.get(&large).await.unwrap();
    assert_eq!(
        (whole.meta.size, whole.meta.e_tag.clone(), whole.range.clone()),
        (2 << 20, Some(sha256(bytes)), 0..2 << 20)
    );
    assert!(whole.bytes().await.unwrap() == bytes);
    assert_eq!(store.get_range(&large, 7..9).await.unwrap(), bytes[7..9]);
    let ranges = store.get_ranges(&large, &[5..6, 1_500_000..2_000_000]).await.unwrap();
    assert!(ranges[0] == bytes[5..6] && ranges[1] == bytes[1_500_000..2_000_000]);
    // The answer itself says what the file is.
    assert_eq!(hub.seen("HEAD", "").len(), before);
    let part = async |range| {
        let result = store.get_opts(&large, GetOptions { range: Some(range), ..GetOptions::default() }).await.unwrap();
        (result.range.clone(), result.bytes().await.unwrap())
    };
    assert_eq!(part(GetRange::Suffix(3)).await, (2_097_149..2_097_152, bytes[2_097_149..].to_vec().into()));
    assert_eq!(part(GetRange::Offset(2_097_150)).await, (2_097_150..2_097_152, bytes[2_097_150..].to_vec().into()));
    // Breaks and overlooked ranges are mended on the way.
    hub.fault("GET", &sha256(bytes), 1, Fault::Cut(100_000));
    hub.fault("GET", &sha256(bytes), 1, Fault::NoRange);
    assert!(store.get_range(&large, 1_000_000..1_500_000).await.unwrap() == bytes[1_000_000..1_500_000]);
    assert_eq!(store.get(&"training.txt".into()).await.unwrap().bytes().await.unwrap(), "");
    let small = store.get(&"README.md".into()).await.unwrap();
    assert_eq!(small.meta.e_tag, Some(git_sha1(b"about")));
    for missing in ["none", "train"] {
        let result = store.get(&missing.into()).await;
        assert!(matches!(result, Err(object_store::Error::NotFound { .. })), "{missing}");
    }
}

#[tokio::test]
async fn a_store_knows_and_lists_files() {
    let (hub, store) = store().await;
    let large = Path::parse(LARGE).unwrap();
    let head = store.head(&large).await.unwrap();
    assert_eq!((&head.location, head.size, head.e_tag), (&large, 2 << 20, Some(entry(LARGE).etag)));
    assert!(hub.seen("GET", "resolve").is_empty());
    let list = async |prefix: Option<&str>| {
        let prefix = prefix.map(Path::from);
        let found: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
        found.into_iter().map(|meta| (meta.location.to_string(), meta.e_tag.unwrap())).collect::<Vec<_>>()
    };
    let expected = |paths: &[&str]| paths.iter().map(|path| ((*path).to_owned(), entry(path).etag)).collect::<Vec<_>>();
    assert_eq!(list(Some("train")).await, expected(&[LARGE, "train/1.parquet", "train/more/2.parquet"]));
    assert_eq!(list(None).await.len(), 5);
    assert_eq!(list(Some("none")).await, []);
    let root = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(root.common_prefixes, [Path::from("train")]);
    let names: Vec<_> = root.objects.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(names, ["README.md", "training.txt"]);
}

#[tokio::test]
async fn a_store_keeps_conditions_and_is_not_written() {
    let (_hub, store) = store().await;
    let path = Path::from("README.md");
    let tag = Some(git_sha1(b"about"));
    let unchanged = GetOptions { if_none_match: tag.clone(), ..GetOptions::default() };
    assert!(matches!(store.get_opts(&path, unchanged).await, Err(object_store::Error::NotModified { .. })));
    let other = GetOptions { if_match: Some("x".to_owned()), ..GetOptions::default() };
    assert!(matches!(store.get_opts(&path, other).await, Err(object_store::Error::Precondition { .. })));
    store.get_opts(&path, GetOptions { if_match: tag, ..GetOptions::default() }).await.unwrap();
    let refused = |error: object_store::Error| matches!(error, object_store::Error::NotSupported { .. });
    assert!(refused(store.put(&path, "x".into()).await.unwrap_err()));
    assert!(refused(store.put_multipart(&path).await.err().unwrap()));
    assert!(refused(store.delete(&path).await.unwrap_err()));
    assert!(refused(store.copy(&path, &"x".into()).await.unwrap_err()));
    let version = GetOptions { version: Some("1".to_owned()), ..GetOptions::default() };
    assert!(refused(store.get_opts(&path, version).await.err().unwrap()));
    assert!(store.to_string().contains(ONE));
}
