//! Files named by a column, below a local folder or a folder in a store.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result};
use crate::limits::too_large;
use crate::store::location::Location;
use crate::store::object::wait;
use crate::store::providers;
use crate::store::url::is_url;

/// Concurrent reads from a store.
const AT_ONCE: usize = 32;

/// Folder that the files must be below: the author of a table must not gain access to other files of this machine or of
/// a store.
#[derive(Clone)]
pub enum Root {
    /// A folder on a disk.
    Disk(PathBuf),
    /// A prefix of a store.
    Store(Arc<Location>),
}

/// Content of a file, or why it cannot be read.
type Read = std::result::Result<Bytes, String>;

impl Root {
    /// Root at a local path or a store's URL.
    pub fn open(root: &Path) -> Result<Self> {
        let text = root.to_string_lossy();
        if is_url(&text) {
            let scheme = text.split("://").next().unwrap_or_default();
            if providers::of(scheme).is_ok_and(|store| !store.has_folders) {
                let reason = "a server on the web has no folders: say with --image-root where the files are, or give --image-is url";
                return Err(Error::source(root, reason));
            }
            return Ok(Self::Store(Arc::new(Location::open(&text)?.check()?)));
        }
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        if !root.is_dir() {
            return Err(Error::source(
                root,
                "there is no such folder; the images' paths are relative to it (--image-root)",
            ));
        }
        // Names are compared with it, and a name with `..` is refused.
        let has_parent = root.components().any(|part| part == Component::ParentDir);
        let whole = if has_parent { root.canonicalize() } else { std::path::absolute(root) };
        whole.map(Self::Disk).map_err(|e| Error::source(root, e))
    }

    /// Reads the files of these names, in order and of at most `limit` bytes each; `None` stays `None`.
    ///
    /// # Errors
    /// A store failure that would affect every other file too.
    pub async fn read(&self, names: Vec<Option<String>>, limit: u64) -> Result<Vec<Option<Read>>> {
        let one = |name: Option<String>| async move {
            let Some(name) = name else { return Ok(None) };
            match self {
                Self::Disk(root) => Ok(Some(on_disk(root, &name, limit).await)),
                Self::Store(location) => location.load(&name, limit).await.map(Some),
            }
        };
        let at_once = if matches!(self, Self::Store(_)) { AT_ONCE } else { 1 };
        stream::iter(names).map(one).buffered(at_once).try_collect().await
    }

    /// Blocking variant of `read`.
    pub fn read_now(&self, names: Vec<Option<String>>, limit: u64) -> Result<Vec<Option<Read>>> {
        let this = self.clone();
        wait(async move { this.read(names, limit).await }).map_err(|problem| Error::Internal(problem.to_string()))?
    }
}

/// Path of the file `name` below `root`; refuses names outside it.
fn below(root: &Path, name: &str) -> std::result::Result<PathBuf, String> {
    let path = root.join(name);
    if is_url(name) {
        return Err("it is a URL: --image-root names a folder of its store, or --image-is url fetches it".to_owned());
    }
    if !path.starts_with(root) || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("it is not below {}: --image-root names another folder", root.display()));
    }
    Ok(path)
}

async fn on_disk(root: &Path, name: &str, limit: u64) -> Read {
    let path = below(root, name)?;
    let meta = tokio::fs::metadata(&path).await.map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("no regular file".to_owned());
    }
    if meta.len() > limit {
        return Err(too_large(limit));
    }
    tokio::fs::read(path).await.map(Bytes::from).map_err(|e| e.to_string())
}
