//! A folder of a store as the Delta library reads it: what breaks off is asked for anew, and nothing is written.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::object::{Object, Store, aside, tag, take, wait};
use super::problem::{Patience, Problem};
use super::{Location, Remote};
use crate::error::{Error, Result};

type Answer<T> = Result<T, StoreError>;

/// Objects that are asked about at a time.
const AT_ONCE: usize = 8;

impl Location {
    /// The folder's URL, which names are counted from.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(self.address.url(self.address.key.trim_end_matches('/')))
    }

    /// What the Delta library opens the folder with, and as which URL. No other folder has that URL, nor its files the paths in it:
    /// DataFusion knows stores by scheme and host alone, and files that it has seen by their paths alone.
    pub(crate) fn folder(&self) -> Result<(Arc<dyn ObjectStore>, Url)> {
        let root = self.root().to_string_lossy().into_owned();
        let alias = hex::encode(&Sha256::digest(&root)[..8]);
        let url = Url::parse(&format!("store://{alias}/{alias}/")).map_err(|e| Error::Internal(e.to_string()))?;
        let folder = Steady {
            store: Arc::clone(&self.store),
            base: self.address.base.clone(),
            root: self.key("")?,
            alias: Key::from(alias),
        };
        Ok((Arc::new(folder), url))
    }

    /// The objects of these names below it; `None` for those that are not there.
    pub(in crate::source) fn objects(&self, names: &[&str]) -> Result<Vec<Option<Remote>>> {
        let keys = names.iter().map(|name| self.key(name)).collect::<Result<Vec<_>>>()?;
        let store = Arc::clone(&self.store);
        let all = wait(async move {
            let describe = |key: Key| {
                let store = Arc::clone(&store);
                async move {
                    match store.describe(&key, GetOptions { head: true, ..GetOptions::default() }).await {
                        Ok(meta) => Ok(Some(meta)),
                        Err(StoreError::NotFound { .. }) => Ok(None),
                        Err(error) => Err(Problem::new(format!("{key}: {}", Problem::of(store.service, &error)))),
                    }
                }
            };
            stream::iter(keys).map(describe).buffered(AT_ONCE).try_collect::<Vec<_>>().await
        });
        let all = all.map_err(|problem| self.error(problem))?;
        let object = |(name, meta): (&&str, Option<ObjectMeta>)| {
            meta.map(|meta| {
                let url = self.address.url(meta.location.as_ref());
                Remote(Arc::new(Object::new(&self.store, meta, (*name).to_owned(), url)))
            })
        };
        Ok(names.iter().zip(all).map(object).collect())
    }

    /// Why the Delta library failed with `error`: where a store's problem is in it, that one, and else itself.
    pub(crate) fn reason(&self, error: String) -> String {
        let problem = self.store.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The library may have gone on after it.
        problem.map(|problem| problem.to_string()).filter(|problem| error.contains(problem)).unwrap_or(error)
    }
}

/// Shows the objects of a folder as if they were in another one.
#[derive(Clone)]
struct Steady {
    store: Arc<Store>,
    /// Scheme and bucket.
    base: String,
    /// The folder's key.
    root: Key,
    /// What is in its place in the paths here.
    alias: Key,
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

/// `path` with the folder `from` of its beginning replaced.
fn moved(path: &Key, from: &Key, to: &Key) -> Option<Key> {
    path.prefix_match(from).map(|rest| to.parts().chain(rest).collect())
}

impl Steady {
    fn key(&self, path: &Key) -> Answer<Key> {
        moved(path, &self.alias, &self.root).ok_or_else(|| self.elsewhere(path))
    }

    fn seen(&self, mut meta: ObjectMeta) -> Answer<ObjectMeta> {
        meta.location = moved(&meta.location, &self.root, &self.alias).ok_or_else(|| self.elsewhere(&meta.location))?;
        Ok(meta)
    }

    fn elsewhere(&self, path: &Key) -> StoreError {
        StoreError::Generic { store: "store", source: format!("{path} is not in {self}").into() }
    }

    /// Asks on the store's own threads: a connection ends with the runtime that it was made on, and the library's come and go.
    async fn asked<T, F>(&self, key: &Key, request: impl FnOnce(Arc<Store>, Key) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        match aside(request(Arc::clone(&self.store), key.clone())).await {
            Ok(answer) => answer.map_err(|error| self.told(key, &error)),
            Err(problem) => Err(StoreError::Generic { store: "store", source: problem.into() }),
        }
    }

    /// The error in words that tell no credentials. It is kept where it is more than that something is not there: the library looks
    /// for files that need not be.
    fn told(&self, key: &Key, error: &StoreError) -> StoreError {
        let (url, problem) = (format!("{}/{key}", self.base), Problem::of(self.store.service, error));
        if let StoreError::NotFound { .. } = error {
            return StoreError::NotFound { path: url, source: problem.into() };
        }
        *self.store.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.clone());
        StoreError::Generic { store: "store", source: format!("{url}: {problem}").into() }
    }

    fn listed(&self, prefix: Option<&Key>, offset: Option<&Key>) -> BoxStream<'static, Answer<ObjectMeta>> {
        let this = self.clone();
        let root = self.key(prefix.unwrap_or(&self.alias));
        let offset = offset.map(|offset| self.key(offset)).transpose();
        let all = async move {
            let offset = offset?;
            let list = |store: Arc<Store>, root: Key| async move { store.list(&root, offset.as_ref()).await };
            let listed = this.asked(&root?, list).await?;
            let mut all = listed.into_iter().map(|meta| this.seen(meta)).collect::<Answer<Vec<_>>>()?;
            // Not all stores list in this order, on which the library relies.
            all.sort_by(|a, b| a.location.cmp(&b.location));
            Ok::<_, StoreError>(stream::iter(all.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }
}

/// An answer with all that it is to have, however often it breaks off.
async fn whole(store: Arc<Store>, key: Key, options: GetOptions) -> Answer<GetResult> {
    let get = |options: GetOptions| {
        let (inner, key) = (Arc::clone(&store.inner), key.clone());
        async move { inner.get_opts(&key, options).await }
    };
    let mut answer = store.ask(|| get(options.clone())).await?;
    if options.head {
        return Ok(answer);
    }
    let (meta, range, attributes) = (answer.meta.clone(), answer.range.clone(), answer.attributes.clone());
    let odd = |reason: &str| StoreError::Generic { store: "store", source: Problem::new(reason).into() };
    let size = usize::try_from(range.end - range.start).map_err(|e| odd(&e.to_string()))?;
    let mut got = BytesMut::with_capacity(size);
    let mut patience = Patience::new();
    loop {
        let before = got.len();
        let mut trouble = take(answer, size, &mut got).await.err();
        if got.len() == size {
            let payload = GetResultPayload::Stream(stream::iter([Ok(got.freeze())]).boxed());
            return Ok(GetResult { payload, meta, range, attributes });
        }
        if got.len() > before {
            patience = Patience::new();
        }
        let rest = GetRange::Bounded(range.start + got.len() as u64..range.end);
        answer = loop {
            if !patience.wait(trouble.as_ref(), store.answered()).await {
                return Err(trouble.unwrap_or_else(|| odd("the answer is shorter than the object")));
            }
            match get(GetOptions { range: Some(rest.clone()), ..options.clone() }).await {
                Ok(answer) => break answer,
                Err(error) => trouble = Some(error),
            }
        };
        if answer.meta.size != meta.size || tag(&answer.meta) != tag(&meta) {
            return Err(odd("it has changed while it was read: start again"));
        }
    }
}

/// Why nothing is written.
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
        let mut answer = self.asked(&self.key(path)?, |store, key| whole(store, key, options)).await?;
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
        let objects = objects.into_iter().map(|meta| self.seen(meta)).collect::<Answer<Vec<_>>>()?;
        Ok(ListResult { common_prefixes: folders, objects })
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Answer<()> {
        Err(refused())
    }
}

#[cfg(test)]
mod tests;
