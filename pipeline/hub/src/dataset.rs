//! Datasets of the hub, read in place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::header::LINK;
use serde::Deserialize;

use crate::body::Body;
use crate::digest::Etag;
use crate::request::{Http, Target, encode_path, encode_revision};
use crate::{Client, Dataset, Error, rules};

/// Most pages of a listing; the hub puts a thousand entries on one.
const PAGES: usize = 100_000;

/// Dataset, pinned to the commit that its revision had when it was opened.
#[derive(Clone, Debug)]
pub struct OpenDataset {
    http: Arc<Http>,
    dataset: Dataset,
    commit: String,
}

/// File of a dataset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Path in the repository.
    pub path: String,
    /// Size, bytes.
    pub size: u64,
    /// Digest of the content, hex: SHA-256 of a large file (LFS), or else the SHA-1 that git gives it.
    pub etag: String,
}

/// Files and folders of a folder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    /// Files.
    pub files: Vec<Entry>,
    /// Paths of folders in the repository.
    pub folders: Vec<String>,
}

#[derive(Deserialize)]
struct Item {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Client {
    /// Opens a dataset at the commit that its revision has now. That it is not there, may not be read or cannot be
    /// reached is an error, and so is [`Error::Offline`].
    pub async fn open(&self, dataset: &Dataset) -> Result<OpenDataset, Error> {
        // Without `expand` the answer would list all files.
        let revision = encode_revision(dataset.revision());
        let path = format!("api/datasets/{}/revision/{revision}?expand=sha", dataset.id());
        let commit = self.revision(&path, dataset, self.http.settings.retries).await?.sha;
        Ok(OpenDataset { http: Arc::clone(&self.http), dataset: dataset.clone(), commit })
    }

    /// Opens a dataset at a commit that its revision had before, without asking the hub.
    pub fn open_at(&self, dataset: &Dataset, commit: &str) -> OpenDataset {
        OpenDataset { http: Arc::clone(&self.http), dataset: dataset.clone(), commit: commit.to_owned() }
    }
}

impl fmt::Display for OpenDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://datasets/{}@{}", self.dataset.id(), self.commit)
    }
}

impl OpenDataset {
    /// Name that was opened.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Commit, 40 hex digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Lists a folder, `""` for the root, with all below it if `recursive`. A path that is no folder is
    /// [`Error::NotFound`]. Names that would lead out of their folder are left out, with a line in the log.
    pub async fn tree(&self, path: &str, recursive: bool) -> Result<Tree, Error> {
        if !path.is_empty() {
            self.check(path)?;
        }
        let (id, commit) = (self.dataset.id(), &self.commit);
        let folder = if path.is_empty() { String::new() } else { format!("/{}", encode_path(path)) };
        let asked = format!("api/datasets/{id}/tree/{commit}{folder}?recursive={recursive}&expand=false");
        let mut target = self.http.target(&asked, format!("{self}/{path}"))?;
        let mut tree = Tree::default();
        for _ in 0..PAGES {
            let (items, headers): (Vec<Item>, _) = self.http.json(&target, self.http.settings.retries).await?;
            items.into_iter().for_each(|item| self.sort(item, &mut tree));
            let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
            let Some(next) = links.flat_map(|link| link.split(',')).find_map(next_page) else { return Ok(tree) };
            target = self.follow(&target, next)?;
        }
        Err(target.wrong(&format!("more than {PAGES} pages")))
    }

    /// Asks for a file's size and digest. A path that is no file is [`Error::NotFound`].
    pub async fn head(&self, path: &str) -> Result<Entry, Error> {
        let target = self.resolved(path)?;
        let facts = self.http.head(&target).await?;
        let etag = facts.etag.as_deref().and_then(Etag::parse);
        match (etag, facts.size) {
            (Some(etag), Some(size)) => Ok(Entry { path: path.to_owned(), size, etag: etag.as_str().to_owned() }),
            _ => Err(target.wrong("neither size nor digest of the file, which is not how a Hugging Face hub answers")),
        }
    }

    /// Reads a part of a file, in bytes, which is shorter where the file ends before. A connection that breaks is made
    /// anew.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            self.check(path)?;
            return Ok(Bytes::new());
        }
        let mut body = self.body(path, range.start, Some(range.end))?;
        let (mut out, mut left) = (BytesMut::new(), range);
        while let Some(bytes) = body.next_of(&mut left).await? {
            out.extend_from_slice(&bytes);
        }
        Ok(out.freeze())
    }

    pub(crate) fn body(&self, path: &str, at: u64, until: Option<u64>) -> Result<Body, Error> {
        Ok(Body::new(Arc::clone(&self.http), self.resolved(path)?, at, until, None))
    }

    fn check(&self, path: &str) -> Result<(), Error> {
        let error = || Error::UnsafeFile { subject: self.to_string(), file: path.to_owned() };
        rules::is_plain(path).then_some(()).ok_or_else(error)
    }

    fn resolved(&self, path: &str) -> Result<Target, Error> {
        self.check(path)?;
        let url = format!("datasets/{}/resolve/{}/{}", self.dataset.id(), self.commit, encode_path(path));
        self.http.target(&url, format!("{self}/{path}"))
    }

    fn sort(&self, item: Item, tree: &mut Tree) {
        if !rules::is_plain(&item.path) {
            log::warn!("{self}: the file name {:?} is left out: it is no plain path inside the repository", item.path);
            return;
        }
        match (&*item.r#type, item.lfs) {
            ("file", Some(lfs)) => tree.files.push(Entry { path: item.path, size: lfs.size, etag: lfs.oid }),
            ("file", None) => tree.files.push(Entry { path: item.path, size: item.size, etag: item.oid }),
            ("directory", _) => tree.folders.push(item.path),
            _ => {}
        }
    }

    /// The token goes along, so that the next page must be on the endpoint's host.
    fn follow(&self, from: &Target, next: &str) -> Result<Target, Error> {
        let url = from.url.join(next).ok().filter(|url| url.origin() == from.url.origin() && *url != from.url);
        let url = url.ok_or_else(|| from.wrong(&format!("the next page {next:?} is not on the same host")))?;
        Ok(Target { url, subject: from.subject.clone() })
    }
}

/// Address in a link such as `<https://..>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
    parameters.split(';').any(is_next).then_some(url)
}
