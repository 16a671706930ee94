//! Requests to a store: metadata, listings and ranged reads, with retries on an I/O runtime of their own.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::executor::block_on;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::task::unconstrained;

use crate::store::problem::{Advice, CHANGED, Patience, Problem, SHORT, odd};

/// Chunks of a response body buffered ahead of the reader.
const AHEAD: usize = 8;

/// Dedicated I/O runtime: a caller that blocks on a request may occupy one of the job's threads.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("store").enable_all().build().map_err(|e| e.to_string())
});

/// The I/O runtime.
pub(crate) fn runtime() -> Result<&'static Runtime, Problem> {
    RUNTIME.as_ref().map_err(Problem::new)
}

/// Starts `future` on the I/O runtime; it ends early if the task is dropped.
pub(crate) fn begin<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<SpawnedTask<T>, Problem> {
    let _inside = runtime()?.enter();
    Ok(SpawnedTask::spawn(future))
}

/// Runs `future` on the I/O runtime.
pub(crate) async fn aside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    begin(future)?.await.map_err(|_| Problem::unanswered())
}

/// Blocking variant of [`aside`], which every thread may call.
pub(crate) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    // In a thread that polls a task, the task's budget would be spent by then and never be renewed.
    block_on(unconstrained(aside(future)))
}

/// A bucket or an HTTP server.
pub(crate) struct Store {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) advice: &'static Advice,
    /// Whether a request has ever succeeded; the store then exists, and failures are retried for longer.
    answered: AtomicBool,
    /// Last error returned to a library, which wraps it in a message of its own.
    pub(crate) problem: Mutex<Option<Problem>>,
}

impl Store {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, advice: &'static Advice) -> Self {
        Self { inner, advice, answered: AtomicBool::new(false), problem: Mutex::default() }
    }

    /// Retries `request` until it succeeds, fails permanently or exhausts the retry budget.
    pub(crate) async fn ask<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut patience = Patience::new();
        loop {
            let error = match request().await {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !patience.wait(Some(&error), self.answered()).await {
                return Err(error);
            }
        }
    }

    /// Whether a request has ever succeeded.
    pub(crate) fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// An object's content, or the part that the options ask for. An interrupted answer is resumed where it ended.
    pub(crate) async fn get(self: &Arc<Self>, key: Path, options: GetOptions) -> Result<GetResult, StoreError> {
        let mut answer = self.ask(|| self.inner.get_opts(&key, options.clone())).await?;
        if !options.head {
            let (meta, range, attributes) = (answer.meta.clone(), answer.range.clone(), answer.attributes.clone());
            let (to, mut from) = mpsc::channel(AHEAD);
            let body = Body { store: Arc::clone(self), key, options, meta: meta.clone(), rest: range.clone(), to };
            let sending =
                begin(body.send(answer)).map_err(|e| StoreError::Generic { store: "store", source: e.into() })?;
            let all = stream::poll_fn(move |context| {
                // The task ends with the stream that owns it.
                let _ = &sending;
                from.poll_recv(context)
            });
            answer = GetResult { payload: GetResultPayload::Stream(all.boxed()), meta, range, attributes };
        }
        Ok(answer)
    }

    /// Object metadata, with retries.
    pub(crate) async fn describe(&self, key: &Path, options: GetOptions) -> Result<ObjectMeta, StoreError> {
        let get = || {
            let (inner, key, options) = (Arc::clone(&self.inner), key.clone(), options.clone());
            async move { inner.get_opts(&key, options).await.map(|answer| answer.meta) }
        };
        self.ask(get).await
    }

    /// Objects of a folder at any depth; only those with keys after `offset`, if given.
    pub(crate) async fn list(&self, root: &Path, offset: Option<&Path>) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut all: Vec<ObjectMeta> = Vec::new();
        let mut patience = Patience::new();
        loop {
            // Stores list by key, so an interrupted listing resumes after the last key received. Listing millions of
            // objects takes minutes and might never complete in one go.
            let last = all.last().map(|meta| &meta.location).or(offset).cloned();
            let mut listed = match &last {
                Some(last) => self.inner.list_with_offset(Some(root), last),
                None => self.inner.list(Some(root)),
            };
            let before = all.len();
            let error = loop {
                match listed.try_next().await {
                    Ok(Some(meta)) => all.push(meta),
                    Ok(None) => {
                        self.answered.store(true, Ordering::Relaxed);
                        return Ok(all);
                    }
                    Err(error) => break error,
                }
            };
            if all.len() > before {
                self.answered.store(true, Ordering::Relaxed);
                patience = Patience::new();
            }
            if !patience.wait(Some(&error), self.answered()).await {
                return Err(error);
            }
        }
    }
}

/// An object; all parts read must belong to the same version of it.
pub struct Object {
    store: Arc<Store>,
    path: Path,
    /// Key relative to the source's root.
    pub(crate) name: String,
    /// URL for display, without credentials.
    pub(crate) url: String,
    pub(crate) size: u64,
    /// Version of the object: the store's e-tag, else its modification time; empty if the store reports neither.
    tag: String,
    /// E-tag of the first part received, required of all later parts. Some stores list a different e-tag.
    first: OnceLock<String>,
    /// Why a part could not be read; format readers wrap it in messages of their own.
    problem: Mutex<Option<Problem>>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Object").field(&self.url).finish()
    }
}

impl Object {
    pub(crate) fn new(store: &Arc<Store>, meta: ObjectMeta, name: String, url: String) -> Arc<Self> {
        let (store, size, tag) = (Arc::clone(store), meta.size, tag(&meta));
        let (first, problem) = (OnceLock::new(), Mutex::default());
        Arc::new(Self { store, path: meta.location, name, url, size, tag, first, problem })
    }

    /// Object of a store that a session has; its key is its name.
    pub(crate) fn of(store: &Arc<dyn ObjectStore>, meta: ObjectMeta) -> Arc<Self> {
        let key = meta.location.to_string();
        Self::new(&Arc::new(Store::new(Arc::clone(store), &Advice::UNKNOWN)), meta, key.clone(), key)
    }

    /// Fingerprint (16 hex digits) that changes with the object; `None` if the store reports neither e-tag nor time.
    pub(crate) fn stamp(&self) -> Option<String> {
        let digest = || hex::encode(&Sha256::digest(format!("{} {}", self.size, self.tag))[..8]);
        (!self.tag.is_empty()).then(digest)
    }

    /// Error of the last part that failed.
    pub(crate) fn problem(&self) -> Option<Problem> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads a range completely. What a broken answer has brought is kept.
    pub(crate) async fn fetch(&self, range: Range<u64>) -> Result<Bytes, Problem> {
        // No server serves an empty range.
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let fetched = async {
            let answer = self.store.get(self.path.clone(), options).await?;
            let tag = tag(&answer.meta);
            if answer.meta.size != self.size || *self.first.get_or_init(|| tag.clone()) != tag {
                return Err(odd(CHANGED));
            }
            answer.bytes().await
        };
        fetched.await.map_err(|error| {
            let problem = Problem::of(self.store.advice, &error);
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.clone());
            problem
        })
    }
}

/// Response body that is resumed after interruptions.
struct Body {
    store: Arc<Store>,
    key: Path,
    options: GetOptions,
    meta: ObjectMeta,
    /// Byte range still to be received.
    rest: Range<u64>,
    to: mpsc::Sender<Result<Bytes, StoreError>>,
}

impl Body {
    /// Sends the whole range, or an error once the retry budget is exhausted.
    async fn send(mut self, mut answer: GetResult) {
        let mut patience = Patience::new();
        while !self.rest.is_empty() {
            let before = self.rest.start;
            let mut trouble = match self.take(answer).await {
                // The reader is gone.
                Err(SendError(_)) => return,
                Ok(trouble) => trouble,
            };
            if self.rest.is_empty() {
                return;
            }
            if self.rest.start > before {
                patience = Patience::new();
            }
            answer = loop {
                if !patience.wait(trouble.as_ref(), self.store.answered()).await {
                    return self.fail(trouble.unwrap_or_else(|| odd(SHORT))).await;
                }
                let range = Some(GetRange::Bounded(self.rest.clone()));
                match self.store.inner.get_opts(&self.key, GetOptions { range, ..self.options.clone() }).await {
                    Ok(answer) => break answer,
                    Err(error) => trouble = Some(error),
                }
            };
            if answer.meta.size != self.meta.size || tag(&answer.meta) != tag(&self.meta) {
                return self.fail(odd(CHANGED)).await;
            }
        }
    }

    /// Forwards one response; returns the error that interrupted it, if there was one.
    async fn take(&mut self, answer: GetResult) -> Result<Option<StoreError>, SendError<Result<Bytes, StoreError>>> {
        let mut stream = answer.into_stream();
        while !self.rest.is_empty()
            && let Some(bytes) = stream.next().await
        {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Some(error)),
            };
            let bytes = bytes.slice(..bytes.len().min((self.rest.end - self.rest.start) as usize));
            self.rest.start += bytes.len() as u64;
            self.to.send(Ok(bytes)).await?;
        }
        Ok(None)
    }

    async fn fail(self, error: StoreError) {
        // The reader may be gone.
        let _ = self.to.send(Err(error)).await;
    }
}

/// E-tag without weak prefix and quotes, which stores use inconsistently; else the modification time, milliseconds.
pub(crate) fn tag(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        Some(tag) => tag.trim_start_matches("W/").trim_matches('"').to_owned(),
        // A store that reports no time has 1970 here.
        None if meta.last_modified.timestamp_millis() == 0 => String::new(),
        None => meta.last_modified.timestamp_millis().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tokio lets a task poll a limited number of futures before it yields.
    #[tokio::test]
    async fn a_task_may_wait_as_often_as_it_likes() {
        let sum: u64 = (0..300).map(|n| wait(async move { n }).unwrap()).sum();
        assert_eq!(sum, 299 * 150);
    }
}
