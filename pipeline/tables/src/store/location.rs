//! Object stores as sources: `s3://bucket/folder/`, `gs://`, `az://`, `abfs://`, and single files over `http://`.

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use glob::{MatchOptions, Pattern};
use object_store::path::Path as Key;
use object_store::{Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStore};

use crate::error::{Error, Result};
use crate::layout::Role;
use crate::limits::too_large;
use crate::store::address::Address;
use crate::store::object::{self, Object, Store, wait};
use crate::store::problem::{Problem, is_denied};
use crate::store::url::{MAGIC, is_url, shown};

/// Result of listing a URL.
pub(crate) struct Found {
    /// URL that object names are relative to.
    pub(crate) root: PathBuf,
    /// Objects, sorted by name.
    pub(crate) objects: Vec<Arc<Object>>,
    /// Whether the objects are images and their texts.
    pub(crate) pictures: bool,
}

/// Role of an object by its name; `None` if it is passed over.
pub(crate) type RoleOf = fn(&Path) -> Option<Role>;

/// What a folder's objects are by their names.
#[derive(Debug)]
pub(crate) struct Roles {
    /// Role of an object.
    pub(crate) of: RoleOf,
    /// The extensions of tables as text, such as `.parquet or .csv`.
    pub(crate) endings: fn() -> String,
}

/// A URL in a store: an object, a folder or a pattern.
pub struct Location {
    /// URL for display, without credentials.
    pub(crate) url: String,
    pub(crate) address: Address,
    pub(crate) store: Arc<Store>,
}

impl Location {
    pub(crate) fn open(url: &str) -> Result<Self> {
        let failed = |reason: String| Error::source(shown(url), reason);
        let address = Address::parse(url).map_err(failed)?;
        let inner = (address.provider.connect)(&address.base).map_err(|problem| failed(problem.to_string()))?;
        let store = Arc::new(Store::new(inner, &address.provider.advice));
        Ok(Self { url: shown(url), address, store })
    }

    /// Lists the objects that the URL names.
    pub(crate) fn find(&self, roles: &Roles) -> Result<Found> {
        found(&self.store, &self.address, roles).map_err(|reason| self.error(reason))
    }

    /// Whether a folder `name` lies in this one.
    pub(crate) fn has_folder(&self, name: &str, roles: &Roles) -> Result<bool> {
        if !self.address.provider.has_folders || self.address.key.contains(MAGIC) {
            return Ok(false);
        }
        match self.first(self.key(name)?)? {
            Ok(first) => Ok(first.is_some()),
            // Without permission to list, a single file may still be readable; otherwise `find` reports the cause.
            Err(error) if is_denied(&error) => self.find(roles).map(|_| false),
            Err(error) => Err(self.error(Problem::of(self.store.advice, &error))),
        }
    }

    /// First object of a folder, if it has any.
    fn first(&self, folder: Key) -> Result<Result<Option<ObjectMeta>, StoreError>> {
        let store = Arc::clone(&self.store);
        let first = wait(async move {
            let first = || {
                let (inner, folder) = (Arc::clone(&store.inner), folder.clone());
                async move { inner.list(Some(&folder)).next().await.transpose() }
            };
            store.ask(first).await
        });
        first.map_err(|problem| self.error(problem))
    }

    /// Refuses a folder without objects. A denied listing passes, since reading the files may still be allowed.
    pub(crate) fn check(self) -> Result<Self> {
        match self.first(key_of(self.address.key.trim_matches('/')).map_err(|reason| self.error(reason))?)? {
            Ok(Some(_)) => Ok(self),
            Ok(None) => Err(self.error("there is no object below it")),
            Err(error) if is_denied(&error) => Ok(self),
            Err(error) => Err(self.error(Problem::of(self.store.advice, &error))),
        }
    }

    /// Reads the object `name`, a key relative to this folder or a URL below it, of at most `limit` bytes. The inner
    /// error concerns this object alone.
    ///
    /// # Errors
    /// A store failure that would affect every other object too.
    pub(crate) async fn load(self: &Arc<Self>, name: &str, limit: u64) -> Result<Result<Bytes, String>> {
        let key = match self.below(name) {
            Ok(key) => key,
            Err(reason) => return Ok(Err(reason)),
        };
        let this = Arc::clone(self);
        let loaded = object::aside(async move {
            let problem = |error: StoreError| {
                // Without permission to list, some stores answer 403 for a missing key.
                let is_missing = matches!(error, StoreError::NotFound { .. });
                let is_this_alone = is_missing || is_denied(&error) && this.store.answered();
                (is_this_alone, Problem::of(this.store.advice, &error))
            };
            let head = GetOptions { head: true, ..GetOptions::default() };
            let meta = this.store.describe(&key, head).await.map_err(problem)?;
            if meta.size > limit {
                return Err((true, Problem::new(too_large(limit))));
            }
            let (size, url) = (meta.size, this.address.url(key.as_ref()));
            let object = Object::new(&this.store, meta, key.to_string(), url);
            object.fetch(0..size).await.map_err(|problem| (false, problem))
        });
        match loaded.await.map_err(|problem| self.error(problem))? {
            Ok(bytes) => Ok(Ok(bytes)),
            Err((true, problem)) => Ok(Err(problem.to_string())),
            Err((false, problem)) => Err(self.error(format!("{name}: {problem}"))),
        }
    }

    /// Key of a file named by a table; refuses names outside this folder.
    fn below(&self, name: &str) -> Result<Key, String> {
        let Address { base, key: folder, .. } = &self.address;
        let folder = folder.trim_matches('/');
        let whole = if folder.is_empty() { format!("{base}/") } else { format!("{base}/{folder}/") };
        let name = match is_url(name) {
            true => name.strip_prefix(&whole),
            false => (!name.starts_with('/')).then_some(name),
        };
        let Some(name) = name.filter(|name| !name.split('/').any(|part| part == "..")) else {
            return Err(format!("it is not below {whole}: --image-root names another folder"));
        };
        let parts: Vec<&str> = name.split('/').filter(|part| *part != ".").collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err("a part of it is empty, which a key cannot have".to_owned());
        }
        let name = parts.join("/");
        key_of(&if folder.is_empty() { name } else { format!("{folder}/{name}") })
    }

    /// Source error that names this URL.
    pub(crate) fn error(&self, reason: impl ToString) -> Error {
        Error::source(&self.url, reason)
    }

    /// Key of `name` relative to this folder.
    pub(crate) fn key(&self, name: &str) -> Result<Key> {
        let folder = self.address.key.trim_end_matches('/');
        let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        key_of(&key).map_err(|reason| self.error(reason))
    }
}

fn found(store: &Arc<Store>, address: &Address, roles: &Roles) -> Result<Found, String> {
    let one = |root: &str, meta: ObjectMeta| {
        let (name, key) = (address.key.rsplit('/').next().unwrap_or_default().to_owned(), meta.location.to_string());
        let object = Object::new(store, meta, name, address.url(&key));
        Found { root: PathBuf::from(address.url(root)), objects: vec![object], pictures: false }
    };
    let words = |problem: Problem| problem.to_string();
    let problem = |error: StoreError| Problem::of(store.advice, &error).to_string();
    if !address.provider.has_folders {
        // Probe with a one-byte range request: not every server answers HEAD, and later reads use ranges anyway.
        let byte = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        let meta = describe(store, Key::default(), byte).map_err(words)?.map_err(problem)?;
        return Ok(one("", meta));
    }
    let key = address.key.trim_end_matches('/');
    let parts: Vec<&str> = key.split('/').collect();
    let plain = parts.iter().take_while(|part| !part.contains(MAGIC)).count();
    let root = parts[..plain].join("/");
    let pattern =
        if plain < parts.len() { Some(Pattern::new(key).map_err(|e| format!("not a pattern: {e}"))?) } else { None };
    let (mut denied, mut empty) = (None, None);
    if pattern.is_none() && !address.key.is_empty() && !address.key.ends_with('/') {
        let head = GetOptions { head: true, ..GetOptions::default() };
        match describe(store, key_of(&root)?, head).map_err(words)? {
            Ok(meta) if meta.size > 0 => return Ok(one(&parts[..plain - 1].join("/"), meta)),
            // Some stores represent a folder by an empty object.
            Ok(meta) => empty = Some(meta),
            Err(StoreError::NotFound { .. }) => {}
            // Some stores answer 403 for a missing key.
            Err(error @ StoreError::PermissionDenied { .. }) => denied = Some(problem(error)),
            Err(error) => return Err(problem(error)),
        }
    }
    let listed = match list(store, key_of(&root)?) {
        Ok(listed) => listed,
        Err(problem) => return Err(denied.unwrap_or_else(|| problem.to_string())),
    };
    let (all, below) = (listed.len(), if root.is_empty() { 0 } else { root.len() + 1 });
    let (mut objects, mut images, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for meta in listed {
        let key = meta.location.to_string();
        let Some(name) = key.get(below..).filter(|name| is_plain(name)).map(str::to_owned) else { continue };
        if pattern.as_ref().is_some_and(|pattern| !matches(pattern, &key, below)) {
            continue;
        }
        let list = match (roles.of)(Path::new(&name)) {
            Some(Role::Table) => &mut objects,
            Some(Role::Image) => &mut images,
            Some(Role::Text) => &mut texts,
            None => continue,
        };
        list.push(Object::new(store, meta, name, address.url(&key)));
    }
    let pictures = objects.is_empty() && pattern.is_none() && !images.is_empty();
    if pictures {
        objects.append(&mut images);
        objects.append(&mut texts);
    }
    // Sort like paths, component by component.
    objects.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    match (denied, empty) {
        _ if !objects.is_empty() => Ok(Found { root: PathBuf::from(address.url(&root)), objects, pictures }),
        (Some(denied), _) => Err(denied),
        (None, Some(meta)) if all == 0 => Ok(one(&parts[..plain - 1].join("/"), meta)),
        _ if !images.is_empty() => Err("the pattern matches images: of images give their folder".to_owned()),
        _ if pattern.is_some() => Err("nothing matches this pattern".to_owned()),
        _ if all == 0 => Err("there is no such object, and none below it".to_owned()),
        _ => Err(format!("of the objects none ends in {}, and none is an image", (roles.endings)())),
    }
}

/// Whether no path component begins with `.` or `_`, which marks bookkeeping.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.split('/').any(|part| part.starts_with(['.', '_']))
}

/// Whether a pattern matches a key or one of its parent folders.
fn matches(pattern: &Pattern, key: &str, below: usize) -> bool {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let folders = key.match_indices('/').map(|(at, _)| at).filter(|at| *at > below);
    folders.chain([key.len()]).any(|end| pattern.matches_with(&key[..end], options))
}

fn key_of(text: &str) -> Result<Key, String> {
    Key::parse(text).map_err(|e| e.to_string())
}

/// Blocking variant of `Store::describe`.
fn describe(store: &Arc<Store>, key: Key, options: GetOptions) -> Result<Result<ObjectMeta, StoreError>, Problem> {
    let store = Arc::clone(store);
    wait(async move { store.describe(&key, options).await })
}

fn list(store: &Arc<Store>, root: Key) -> Result<Vec<ObjectMeta>, Problem> {
    let store = Arc::clone(store);
    wait(async move { store.list(&root, None).await.map_err(|error| Problem::of(store.advice, &error)) }).flatten()
}
