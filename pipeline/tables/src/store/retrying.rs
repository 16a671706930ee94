//! Read-only `ObjectStore` over a folder, for DataFusion and the Delta library: interrupted reads are resumed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::error::{Error, Result};
use crate::layout::Role;
use crate::store::address::Address;
use crate::store::location::{Found, Location, RoleOf, Roles, is_plain};
use crate::store::object::{Object, Store, aside, wait};
use crate::store::problem::Problem;
use crate::store::url::{MAGIC, shown};

type Answer<T> = Result<T, StoreError>;

/// Concurrent metadata requests.
const AT_ONCE: usize = 8;

impl Location {
    /// URL of the folder, which object names are relative to.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(self.address.url(self.address.key.trim_end_matches('/')))
    }

    /// Store and URL of a table in SQL, which may be a single file, and the name of its first file.
    pub(crate) fn files(&self, roles: &Roles) -> Result<(Arc<dyn ObjectStore>, Url, String)> {
        if self.address.key.contains(MAGIC) {
            return Err(self.error("SQL reads a file or a folder of a store, and no pattern: name one of them"));
        }
        let Found { objects, pictures, .. } = self.find(roles)?;
        if pictures {
            return Err(self.error("SQL reads no folder of images, which a job does: capfilt run has one"));
        }
        let first = objects.first().ok_or_else(|| self.error("there is nothing"))?;
        let (store, url) = if Path::new(&first.url) == self.root() {
            let root = if self.address.provider.has_folders { self.key("")? } else { Key::default() };
            let ending = first.name.rsplit_once('.').map_or("", |(_, ending)| ending);
            self.seen_as(&format!("file.{ending}"), root, None)?
        } else {
            self.seen_as("", self.key("")?, Some(roles.of))?
        };
        Ok((store, url, first.name.clone()))
    }

    /// Exposes the key `root` and the files below it under a unique URL and unique paths: DataFusion identifies stores
    /// by scheme and host only, and files that it has seen by path only. Listings contain only files of
    /// tables by their `role`, if it is given.
    pub(crate) fn seen_as(&self, name: &str, root: Key, role: Option<RoleOf>) -> Result<(Arc<dyn ObjectStore>, Url)> {
        // Hash the URL itself rather than its display form, which lacks the query.
        let Address { base, key, .. } = &self.address;
        let alias = hex::encode(&Sha256::digest(format!("{base}/{}", key.trim_end_matches('/')))[..8]);
        let url = Url::parse(&format!("store://{alias}/{alias}/{name}")).map_err(|e| Error::Internal(e.to_string()))?;
        let alias = if name.is_empty() { Key::from(alias) } else { Key::from(format!("{alias}/{name}")) };
        let base = shown(base);
        Ok((Arc::new(Steady { store: Arc::clone(&self.store), base, root, alias, role }), url))
    }

    /// Objects of these names below the folder; `None` for missing ones.
    pub(crate) fn objects(&self, names: &[&str]) -> Result<Vec<Option<Arc<Object>>>> {
        let keys = names.iter().map(|name| self.key(name)).collect::<Result<Vec<_>>>()?;
        let store = Arc::clone(&self.store);
        let all = wait(async move {
            let describe = |key: Key| {
                let store = Arc::clone(&store);
                async move {
                    match store.describe(&key, GetOptions { head: true, ..GetOptions::default() }).await {
                        Ok(meta) => Ok(Some(meta)),
                        Err(StoreError::NotFound { .. }) => Ok(None),
                        Err(error) => Err(Problem::new(format!("{key}: {}", Problem::of(store.advice, &error)))),
                    }
                }
            };
            stream::iter(keys).map(describe).buffered(AT_ONCE).try_collect::<Vec<_>>().await
        });
        let all = all.flatten().map_err(|problem| self.error(problem))?;
        let object = |(name, meta): (&&str, Option<ObjectMeta>)| {
            meta.map(|meta| {
                let url = self.address.url(meta.location.as_ref());
                Object::new(&self.store, meta, (*name).to_owned(), url)
            })
        };
        Ok(names.iter().zip(all).map(object).collect())
    }
}

/// View of a folder's objects under an alias path.
#[derive(Clone)]
struct Steady {
    store: Arc<Store>,
    /// Scheme and bucket.
    base: String,
    /// The folder's key.
    root: Key,
    /// Path prefix that replaces `root`.
    alias: Key,
    /// Role by which listings contain only files of tables; all files if `None`.
    role: Option<RoleOf>,
}

impl fmt::Debug for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.root)
    }
}

/// Replaces the prefix `from` of `path` by `to`; `None` if `path` lacks it.
fn moved(path: &Key, from: &Key, to: &Key) -> Option<Key> {
    path.prefix_match(from).map(|rest| to.parts().chain(rest).collect())
}

impl Steady {
    fn key(&self, path: &Key) -> Answer<Key> {
        moved(path, &self.alias, &self.root).ok_or_else(|| self.elsewhere(path))
    }

    /// Filters listed objects and maps them to alias paths.
    fn all_seen(&self, all: Vec<ObjectMeta>) -> Answer<Vec<ObjectMeta>> {
        let name =
            |meta: &ObjectMeta| meta.location.prefix_match(&self.root).map(|rest| rest.collect::<Key>().to_string());
        let is_listed =
            |name: String| self.role.is_none_or(|role| is_plain(&name) && role(Path::new(&name)) == Some(Role::Table));
        let is_wanted = |meta: &ObjectMeta| name(meta).is_none_or(is_listed);
        all.into_iter().filter(is_wanted).map(|meta| self.seen(meta)).collect()
    }

    fn seen(&self, mut meta: ObjectMeta) -> Answer<ObjectMeta> {
        meta.location = moved(&meta.location, &self.root, &self.alias).ok_or_else(|| self.elsewhere(&meta.location))?;
        Ok(meta)
    }

    fn elsewhere(&self, path: &Key) -> StoreError {
        StoreError::Generic { store: "store", source: format!("{path} is not in {self}").into() }
    }

    /// Runs a request on the store's own runtime: a connection dies with the runtime that opened it, and the library's
    /// runtimes are short-lived.
    async fn asked<T, F>(&self, key: &Key, request: impl FnOnce(Arc<Store>, Key) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        match aside(request(Arc::clone(&self.store), key.clone())).await {
            Ok(answer) => answer.map_err(|error| self.described(key, &error)),
            Err(problem) => Err(StoreError::Generic { store: "store", source: problem.into() }),
        }
    }

    /// Error without credentials in its message. It is recorded in the store unless it is `NotFound`: the
    /// library probes for optional files.
    fn described(&self, key: &Key, error: &StoreError) -> StoreError {
        let url = if key.as_ref().is_empty() { self.base.clone() } else { format!("{}/{key}", self.base) };
        let problem = Problem::of(self.store.advice, error);
        if let StoreError::NotFound { .. } = error {
            return StoreError::NotFound { path: url, source: problem.into() };
        }
        *self.store.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.clone());
        StoreError::Generic { store: "store", source: Problem::new(format!("{url}: {problem}")).into() }
    }

    fn listed(&self, prefix: Option<&Key>, offset: Option<&Key>) -> BoxStream<'static, Answer<ObjectMeta>> {
        let this = self.clone();
        let root = self.key(prefix.unwrap_or(&self.alias));
        let offset = offset.map(|offset| self.key(offset)).transpose();
        let all = async move {
            let offset = offset?;
            let list = |store: Arc<Store>, root: Key| async move { store.list(&root, offset.as_ref()).await };
            let listed = this.asked(&root?, list).await?;
            let mut all = this.all_seen(listed)?;
            // The library relies on sorted listings, which not all stores return.
            all.sort_by(|a, b| a.location.cmp(&b.location));
            Ok::<_, StoreError>(stream::iter(all.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }
}

/// Error of all write operations.
fn refused() -> StoreError {
    StoreError::NotSupported { source: "tables in stores are read only: give a folder on a disk".into() }
}

#[async_trait]
impl ObjectStore for Steady {
    async fn put_opts(&self, _: &Key, _: PutPayload, _: PutOptions) -> Answer<PutResult> {
        Err(refused())
    }

    async fn put_multipart_opts(&self, _: &Key, _: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
        Err(refused())
    }

    async fn get_opts(&self, path: &Key, options: GetOptions) -> Answer<GetResult> {
        let key = self.key(path)?;
        let get = |store: Arc<Store>, key: Key| async move { store.get(key, options).await };
        let mut answer = self.asked(&key, get).await?;
        if let GetResultPayload::Stream(body) = answer.payload {
            let this = self.clone();
            let body = body.map_err(move |error| this.described(&key, &error));
            answer.payload = GetResultPayload::Stream(body.boxed());
        }
        answer.meta = self.seen(answer.meta)?;
        Ok(answer)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Answer<Key>>) -> BoxStream<'static, Answer<Key>> {
        paths.map(|_| Err(refused())).boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Answer<ObjectMeta>> {
        self.listed(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Answer<ObjectMeta>> {
        self.listed(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Answer<ListResult> {
        let list = |store: Arc<Store>, root: Key| async move {
            let list = || {
                let (inner, root) = (Arc::clone(&store.inner), root.clone());
                async move { inner.list_with_delimiter(Some(&root)).await }
            };
            store.ask(list).await
        };
        let ListResult { objects, common_prefixes } =
            self.asked(&self.key(prefix.unwrap_or(&self.alias))?, list).await?;
        let folders = common_prefixes.iter().filter_map(|folder| moved(folder, &self.root, &self.alias)).collect();
        Ok(ListResult { common_prefixes: folders, objects: self.all_seen(objects)? })
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Answer<()> {
        Err(refused())
    }
}

#[cfg(all(test, feature = "delta"))]
mod tests;
