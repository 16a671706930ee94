//! Cache of huggingface_hub, read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::environment::{self, Environment};
use crate::{Error, Name, rules};

/// Cache of models, shared with huggingface_hub:
/// `models--OWNER--NAME/{refs/REV, blobs/ETAG, snapshots/COMMIT/FILE -> ../../blobs/ETAG}`.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Whether snapshots are links into the blobs, and not files.
    #[cfg_attr(not(feature = "fetch"), expect(dead_code, reason = "links are made by downloads"))]
    pub(crate) links: bool,
}

/// Commit of a model in a cache. It may lack files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    commit: String,
    folder: PathBuf,
}

impl Cache {
    /// Opens the cache that the environment names: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub,
    /// XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub. A value that is not understood is
    /// [`Error::Setting`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(&environment::of_process)
    }

    /// Opens the cache that `environment` names.
    pub fn new(environment: Environment<'_>) -> Result<Self, Error> {
        let links = !environment::is_on(environment, "HF_HUB_DISABLE_SYMLINKS")?;
        for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
            if let Some(root) = environment::path(environment, variable)? {
                return Ok(Self { root, links });
            }
        }
        Ok(Self { root: environment::hugging_face_home(environment)?.join("hub"), links })
    }

    /// Folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Commit of a name, as it was when last fetched. A reference that cannot be read or holds no commit is an error.
    pub fn commit(&self, name: &Name) -> Result<Option<String>, Error> {
        if let Some(commit) = name.commit() {
            return Ok(Some(commit.to_owned()));
        }
        let path = self.reference(name);
        let found = match fs::read_to_string(&path) {
            Ok(found) => found,
            Err(e) if is_missing(&e) => return Ok(None),
            Err(e) => return Err(Error::file(&path)(e)),
        };
        let commit = found.trim();
        if rules::is_commit(commit) { Ok(Some(commit.to_owned())) } else { Err(Error::Reference { path, found }) }
    }

    /// Snapshot of a name, without the network.
    pub fn snapshot(&self, name: &Name) -> Result<Option<Snapshot>, Error> {
        let Some(commit) = self.commit(name)? else { return Ok(None) };
        let snapshot = self.snapshot_at(name, commit);
        Ok(snapshot.folder.is_dir().then_some(snapshot))
    }

    /// Place of a snapshot, whether it is there or not.
    pub(crate) fn snapshot_at(&self, name: &Name, commit: String) -> Snapshot {
        Snapshot { folder: self.model(name).join("snapshots").join(&commit), commit }
    }

    pub(crate) fn model(&self, name: &Name) -> PathBuf {
        self.root.join(folder_name(name))
    }

    pub(crate) fn reference(&self, name: &Name) -> PathBuf {
        self.model(name).join("refs").join(name.revision())
    }

    #[cfg(feature = "fetch")]
    pub(crate) fn lock_of(&self, name: &Name, etag: &str) -> PathBuf {
        self.root.join(".locks").join(folder_name(name)).join(format!("{etag}.lock"))
    }
}

impl Snapshot {
    /// Commit, 40 hex digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Folder with the files, which are links into `blobs`: their own names tell their types.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a file of the repository is there, and no link into nowhere.
    pub fn has(&self, file: &str) -> bool {
        rules::is_plain(file) && self.folder.join(file).is_file()
    }

    /// Files that are there, sorted, with `/` between folders. A folder that cannot be read is an error.
    pub fn files(&self) -> Result<Vec<String>, Error> {
        let mut files = Vec::new();
        collect(&self.folder, "", &mut files)?;
        files.sort();
        Ok(files)
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let entry = entry.map_err(Error::file(folder))?;
        let path = entry.path();
        // The hub's names are UTF-8.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type().map_err(Error::file(&path))?.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), files)?;
        } else if path.is_file() {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

fn folder_name(name: &Name) -> String {
    format!("models--{}", name.id().replace('/', "--"))
}

/// Whether there is no such file, perhaps since what should be its folder is a file or the other way round.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn at(root: &Path) -> Cache {
        Cache::new(&|name| (name == "HF_HUB_CACHE").then(|| root.into())).unwrap()
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let all = [
            ("HF_HUB_CACHE", "/1", "/1"),
            ("HUGGINGFACE_HUB_CACHE", "/2", "/2"),
            ("HF_HOME", "/3", "/3/hub"),
            ("XDG_CACHE_HOME", "/4", "/4/huggingface/hub"),
            ("HOME", "/5", "/5/.cache/huggingface/hub"),
        ];
        for skip in 0..all.len() {
            let set = &all[skip..];
            let look = |name: &str| set.iter().find(|(n, ..)| *n == name).map(|(_, v, _)| OsString::from(v));
            assert_eq!(Cache::new(&look).unwrap().root(), Path::new(set[0].2));
        }
        let tilde = |name: &str| match name {
            "HF_HOME" => Some("~/x".into()),
            "HF_HUB_CACHE" => Some("".into()),
            "HOME" => Some("/5".into()),
            _ => None,
        };
        assert_eq!(Cache::new(&tilde).unwrap().root(), Path::new("/5/x/hub"));
    }

    #[test]
    fn a_snapshot_is_found_by_reference_and_by_commit() {
        let root = tempfile::tempdir().unwrap();
        let cache = at(root.path());
        let (main, pr): (Name, Name) = ("hf:a/b".parse().unwrap(), "hf:a/b@refs/pr/5".parse().unwrap());
        let commit: Name = format!("hf:a/b@{COMMIT}").parse().unwrap();
        assert_eq!(cache.snapshot(&main).unwrap(), None);
        assert_eq!(cache.snapshot(&commit).unwrap(), None);
        let model = root.path().join("models--a--b");
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        fs::write(model.join("refs/refs/pr/5"), COMMIT).unwrap();
        assert_eq!((cache.commit(&pr).unwrap().as_deref(), cache.snapshot(&pr).unwrap()), (Some(COMMIT), None));
        let folder = model.join("snapshots").join(COMMIT);
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/x"), "").unwrap();
        for name in [&pr, &commit] {
            let snapshot = cache.snapshot(name).unwrap().unwrap();
            assert_eq!((snapshot.commit(), snapshot.folder()), (COMMIT, &*folder));
            assert!(snapshot.has("sub/x") && !snapshot.has("sub") && !snapshot.has("sub/../sub/x"));
        }
        assert_eq!(cache.snapshot(&main).unwrap(), None);
        // A prefix of a reference is a folder.
        assert_eq!(cache.snapshot(&"hf:a/b@refs/pr".parse().unwrap()).unwrap(), None);
    }

    #[test]
    #[cfg(unix)]
    fn links_into_nowhere_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("models--a--b/snapshots").join(COMMIT);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("b"), "").unwrap();
        std::os::unix::fs::symlink("b", folder.join("a")).unwrap();
        std::os::unix::fs::symlink("../../blobs/none", folder.join("c")).unwrap();
        let snapshot = at(root.path()).snapshot(&format!("hf:a/b@{COMMIT}").parse().unwrap()).unwrap().unwrap();
        assert_eq!(snapshot.files().unwrap(), ["a", "b"]);
        assert!(snapshot.has("a") && !snapshot.has("c"));
    }

    #[test]
    fn a_broken_reference_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("models--a--b/refs/main");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let name = "hf:a/b".parse().unwrap();
        for broken in ["", "../../x", "0123"] {
            fs::write(&path, broken).unwrap();
            let error = at(root.path()).snapshot(&name).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("delete this file"), "{error}");
        }
        fs::write(&path, format!("{COMMIT}\n")).unwrap();
        assert_eq!(at(root.path()).commit(&name).unwrap().as_deref(), Some(COMMIT));
    }
}
