//! One object of a store, and parts of it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, mpsc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStore};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use super::problem::{Patience, Problem, Service};

/// Requests have threads of their own: who waits for them may hold one of the job's.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("store").enable_all().build().map_err(|e| e.to_string())
});

/// Begins something in the background; what comes of it is received once. To wait for it is allowed on every thread.
pub(super) fn begin<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<mpsc::Receiver<T>, Problem> {
    let runtime = RUNTIME.as_ref().map_err(Problem::new)?;
    let (sender, receiver) = mpsc::channel();
    runtime.spawn(async move {
        // Nobody may be waiting any more.
        let _ = sender.send(future.await);
    });
    Ok(receiver)
}

/// The same for who does not wait, but is told. Where nobody is to be told any more, it ends early.
pub(super) async fn aside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    let runtime = RUNTIME.as_ref().map_err(Problem::new)?;
    let (mut sender, receiver) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        tokio::select! {
            answer = future => drop(sender.send(answer)),
            () = sender.closed() => {}
        }
    });
    receiver.await.map_err(|_| Problem::unanswered())
}

/// Does something in the background, of which nobody hears.
pub(super) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Result<(), Problem> {
    RUNTIME.as_ref().map_err(Problem::new)?.spawn(future);
    Ok(())
}

/// Waits for it.
pub(super) fn wait<T: Send + 'static>(
    future: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    begin(future)?.recv().map_err(|_| Problem::unanswered())?
}

/// A bucket, or a server.
pub(super) struct Store {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) service: Service,
    /// It has given something: it is there, and will be again.
    answered: AtomicBool,
    /// Why it last failed a library, which wraps that in words of its own.
    pub(super) problem: Mutex<Option<Problem>>,
}

impl Store {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, service: Service) -> Self {
        Self { inner, service, answered: AtomicBool::new(false), problem: Mutex::default() }
    }

    /// Asks until there is an answer, or none can be hoped for.
    pub(super) async fn ask<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
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

    /// Whether it has given something.
    pub(super) fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// What it says of an object.
    pub(super) async fn describe(&self, key: &Path, options: GetOptions) -> Result<ObjectMeta, StoreError> {
        let get = || {
            let (inner, key, options) = (Arc::clone(&self.inner), key.clone(), options.clone());
            async move { inner.get_opts(&key, options).await.map(|answer| answer.meta) }
        };
        self.ask(get).await
    }

    /// The objects of a folder, at any depth; those after `offset`, where one is given.
    pub(super) async fn list(&self, root: &Path, offset: Option<&Path>) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut all: Vec<ObjectMeta> = Vec::new();
        let mut patience = Patience::new();
        loop {
            // Stores list by key: where a list breaks off, it goes on after the last key that came. One of millions of objects takes
            // minutes, and might never come whole.
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

/// One object.
pub(super) struct Object {
    store: Arc<Store>,
    path: Path,
    /// Its key below the source.
    pub(super) name: String,
    /// As it is shown.
    pub(super) url: String,
    pub(super) size: u64,
    /// What tells it from another of its name: the store's e-tag, or the time of its last change. Empty where it says neither.
    tag: String,
    /// The e-tag of the first part that came: the others are to have it too. Listings of some stores have another.
    first: OnceLock<String>,
    /// Why a part could not be had. Readers of formats wrap it in words of their own.
    problem: Mutex<Option<Problem>>,
}

/// Why a part did not come.
enum Trouble {
    Store(StoreError),
    Changed,
    TooShort,
}

impl Object {
    pub(super) fn new(store: &Arc<Store>, meta: ObjectMeta, name: String, url: String) -> Self {
        let (tag, first, problem) = (tag(&meta), OnceLock::new(), Mutex::default());
        Self { store: Arc::clone(store), path: meta.location, name, url, size: meta.size, tag, first, problem }
    }

    /// 16 hex digits that change when the object does; `None` where the store tells nothing that does.
    pub(super) fn stamp(&self) -> Option<String> {
        let digest = || hex::encode(&Sha256::digest(format!("{} {}", self.size, self.tag))[..8]);
        (!self.tag.is_empty()).then(digest)
    }

    /// Why the last part could not be had.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A part, whole, however often the answer breaks off.
    pub(super) async fn fetch(&self, range: Range<u64>) -> Result<Bytes, Problem> {
        // No server has a range of nothing.
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let whole = usize::try_from(range.end - range.start).map_err(|e| Problem::new(e.to_string()))?;
        let mut got = BytesMut::with_capacity(whole);
        let mut patience = Patience::new();
        loop {
            let before = got.len();
            let trouble = match self.part(range.start + before as u64..range.end, whole, &mut got).await {
                Ok(()) if got.len() == whole => return Ok(got.freeze()),
                Ok(()) => Trouble::TooShort,
                Err(trouble) => trouble,
            };
            if got.len() > before {
                // What came is kept, and the rest asked for as if for the first time.
                patience = Patience::new();
            }
            let (error, problem) = match &trouble {
                Trouble::Store(error) => (Some(error), Problem::of(self.store.service, error)),
                Trouble::Changed => {
                    return Err(self.failed(Problem::new("it has changed while it was read: start again")));
                }
                Trouble::TooShort => (None, Problem::new("the answer is shorter than the object")),
            };
            if !patience.wait(error, self.store.answered()).await {
                return Err(self.failed(problem));
            }
        }
    }

    fn failed(&self, problem: Problem) -> Problem {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.clone());
        problem
    }

    /// One request, which makes `got` `whole` bytes long. What comes of it before it breaks off is appended to `got`.
    async fn part(&self, range: Range<u64>, whole: usize, got: &mut BytesMut) -> Result<(), Trouble> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let answer = self.store.inner.get_opts(&self.path, options).await.map_err(Trouble::Store)?;
        let tag = tag(&answer.meta);
        if answer.meta.size != self.size || *self.first.get_or_init(|| tag.clone()) != tag {
            return Err(Trouble::Changed);
        }
        self.store.answered.store(true, Ordering::Relaxed);
        let mut stream = answer.into_stream();
        while got.len() < whole
            && let Some(bytes) = stream.next().await
        {
            let bytes = bytes.map_err(Trouble::Store)?;
            got.extend_from_slice(&bytes[..bytes.len().min(whole - got.len())]);
        }
        Ok(())
    }
}

/// Stores quote e-tags in some places and not in others.
pub(super) fn tag(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        Some(tag) => tag.trim_start_matches("W/").trim_matches('"').to_owned(),
        // The time of who tells none is 1970.
        None if meta.last_modified.timestamp_millis() == 0 => String::new(),
        None => meta.last_modified.timestamp_millis().to_string(),
    }
}
