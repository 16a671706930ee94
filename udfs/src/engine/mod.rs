//! The engine: one queue before all models, so that work of several queries and partitions shares batches, encoded images and
//! results.
//!
//! A call ([`Engine::run`]) stays on its caller's thread: it looks its tasks up in the memo, decodes the images of the others
//! and queues them, an image's tasks together. One worker thread takes batches from the queue, clients in turn, and runs the
//! models. Nothing about a result depends on the batch it was computed in.
//!
//! An image is encoded once a model, by two means: all calls share what is in hand of an image (`inputs`), and embeddings stay in
//! a cache afterwards. The limit on memory bounds the weights, both caches, what is in hand and the work of the running batch.

mod cache;
mod call;
mod client;
mod inputs;
mod memory;
mod queue;
mod stage;
mod stats;
mod task;
#[cfg(test)]
mod tests;
mod worker;

pub use client::{CancelToken, Client};
pub use memory::{Loader, ModelHandle, ModelKey};
pub use stats::ModelStats;
pub use task::{ImageSource, Outcome, Task, Work};

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cache::Lru;
use call::{Job, Run};
use inputs::Inputs;
use memory::{Loaded, Models};
use queue::Queue;
use stats::Stats;
use task::Key;

use crate::blip::{Embedding, WorkBytes};
use crate::error::{Error, Result};
use crate::image::Limits;

/// How often one who waits looks whether it was cancelled: cancelling wakes nobody.
const POLL: Duration = Duration::from_millis(20);

/// Jobs that wait at most, about. They are small; this bounds what a cancelled call has to take back.
const QUEUE_JOBS: usize = 1024;

/// Bytes of images in hand at most, however much memory there is: enough for a few hundred, far ahead of any device.
const MAX_IN_HAND: usize = 512 << 20;

/// Embeddings in the cache at most, however small they are: enough for the functions of a query to meet the same image, some batches
/// apart. With more, a small model's memory would grow for hours.
const EMBEDDED_IMAGES: usize = 2048;

/// What an engine may use. All of it can be left to `default()`.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Bytes for weights, caches and work together. Three fifths of the machine's or container's memory; 4 GiB where that is
    /// unknown.
    pub memory_limit: usize,
    /// Bytes for remembered results, at most a quarter of what the weights leave. 0 remembers none.
    pub memo_limit: usize,
    /// Bytes for embeddings of images that nobody waits for. `None`: a quarter of what the weights leave, at most 1 GiB; of
    /// 2,048 at most, an image's by each model that saw it.
    pub embedding_cache: Option<usize>,
    /// Images in a batch where a call does not say.
    pub max_batch_images: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { memory_limit: memory::default_limit(), memo_limit: 64 << 20, embedding_cache: None, max_batch_images: 8 }
    }
}

/// The engine. Dropping it ends its thread and unloads its models; the batch that runs is finished first.
pub struct Engine {
    inner: Arc<Inner>,
    /// Whether the worker was started.
    started: Mutex<bool>,
}

/// What the worker shares with the callers.
struct Inner {
    models: Models,
    stats: Stats,
    inputs: Arc<Inputs>,
    queue: Mutex<Queue<Job>>,
    /// There is something to do.
    work: Condvar,
    /// There may be room in the queue.
    room: Condvar,
    memo: Mutex<Lru<Key, Outcome>>,
    embeddings: Mutex<Lru<Key, Embedding>>,
    memo_limit: AtomicUsize,
    embedding_limit: Option<usize>,
    max_batch_images: usize,
}

impl Engine {
    /// An engine that loads models with `loader`.
    pub fn new(options: EngineOptions, loader: Loader) -> Arc<Self> {
        let inner = Inner {
            models: Models::new(loader, options.memory_limit),
            stats: Stats::default(),
            inputs: Arc::default(),
            queue: Mutex::new(Queue::new()),
            work: Condvar::new(),
            room: Condvar::new(),
            memo: Mutex::new(Lru::new(0, usize::MAX)),
            embeddings: Mutex::new(Lru::new(0, EMBEDDED_IMAGES)),
            memo_limit: AtomicUsize::new(options.memo_limit),
            embedding_limit: options.embedding_cache,
            max_batch_images: options.max_batch_images.max(1),
        };
        inner.share_out();
        Arc::new(Self { inner: Arc::new(inner), started: Mutex::new(false) })
    }

    /// The process's engine, for sessions that bring none of their own. It is never dropped.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Engine>> =
            LazyLock::new(|| Engine::new(EngineOptions::default(), Box::new(crate::blip::load)));
        Arc::clone(&SHARED)
    }

    /// Changes limits; `None` leaves one as it is. The engine has one of each, so the last call holds for all sessions.
    pub fn set_limits(&self, memory_limit: Option<usize>, memo_limit: Option<usize>) {
        let inner = &self.inner;
        // Functions pass their session's settings with every call: mostly nothing changes.
        let memory = memory_limit.filter(|bytes| *bytes != inner.models.limit());
        let memo = memo_limit.filter(|bytes| *bytes != inner.memo_limit.load(Ordering::Acquire));
        if let Some(bytes) = memory {
            inner.models.set_limit(bytes);
        }
        if let Some(bytes) = memo {
            inner.memo_limit.store(bytes, Ordering::Release);
        }
        if memory.is_some() || memo.is_some() {
            inner.share_out();
            inner.room.notify_all();
        }
    }

    /// The model, loaded on first use: one thread loads, the others that ask for it wait. It stays loaded; when memory is
    /// short, models without a handle are unloaded, the one used longest ago first.
    ///
    /// Fails if the loader does, which is not remembered, and if `memory_limit` has no room for the weights.
    pub fn model(&self, key: &ModelKey) -> Result<ModelHandle> {
        let model = blocking(|| self.inner.models.get(key, &self.inner.stats))?;
        self.inner.share_out();
        Ok(model)
    }

    /// Computes `tasks` and returns an outcome for each, in their order. Blocks the calling thread.
    ///
    /// `max_batch_images` bounds the different images of a batch; 0 is the engine's default.
    ///
    /// Fails if the client or its token is cancelled, and if a batch failed in which the call had work; what else it has
    /// queued is then withdrawn.
    pub fn run(
        &self,
        client: &Client,
        model: &ModelHandle,
        limits: &Limits,
        max_batch_images: usize,
        tasks: Vec<Task<'_>>,
    ) -> Result<Vec<Outcome>> {
        self.start()?;
        let max_images = if max_batch_images == 0 { self.inner.max_batch_images } else { max_batch_images };
        blocking(|| Run::new(&self.inner, client, model, limits, max_images).run(tasks))
    }

    fn start(&self) -> Result<()> {
        let mut started = lock(&self.started);
        if !*started {
            let inner = Arc::clone(&self.inner);
            let thread = std::thread::Builder::new().name("capfilt-engine".into());
            let spawned = thread.spawn(move || worker::work(&inner));
            spawned.map_err(|e| Error::Internal(format!("cannot start the engine's thread: {e}")))?;
            *started = true;
        }
        Ok(())
    }

    /// What each model did that was ever loaded.
    pub fn stats(&self) -> Vec<ModelStats> {
        self.inner.stats.rows()
    }

    /// Models that are loaded.
    pub fn loaded_models(&self) -> usize {
        self.inner.models.loaded()
    }

    /// Jobs that wait.
    pub fn queued_jobs(&self) -> usize {
        lock(&self.inner.queue).len()
    }

    /// Bytes of the images that jobs wait or run with.
    pub fn bytes_in_hand(&self) -> usize {
        self.inner.inputs.bytes()
    }

    /// Bytes of remembered results.
    pub fn memo_bytes(&self) -> usize {
        lock(&self.inner.memo).bytes()
    }

    /// Bytes of cached embeddings.
    pub fn embedding_bytes(&self) -> usize {
        lock(&self.inner.embeddings).bytes()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Engine");
        out.field("memory_limit", &self.inner.models.limit()).field("weights", &self.inner.models.weights());
        out.finish_non_exhaustive()
    }
}

impl Drop for Engine {
    /// Waits for nothing: calls borrow the engine, so none is running, and the worker has at most cancelled work left.
    fn drop(&mut self) {
        lock(&self.inner.queue).closed = true;
        self.inner.work.notify_all();
    }
}

impl Inner {
    fn remembered(&self, key: &Key) -> Option<Outcome> {
        lock(&self.memo).get(key)
    }

    fn remember(&self, key: Key, outcome: &Outcome) {
        lock(&self.memo).insert(key, outcome.clone(), outcome.heap_bytes());
    }

    /// Gives the caches their parts of what the weights leave. At least a quarter stays for work.
    fn share_out(&self) {
        let rest = self.models.rest();
        lock(&self.memo).set_capacity(self.memo_limit.load(Ordering::Acquire).min(rest / 4));
        let embeddings = self.embedding_limit.unwrap_or((rest / 4).min(1 << 30));
        lock(&self.embeddings).set_capacity(embeddings.min(rest));
    }

    fn max_bytes_in_hand(&self) -> usize {
        (self.models.rest() / 4).min(MAX_IN_HAND)
    }

    /// Fails if the memory limit has no room for one piece of work of this kind, all else forgotten.
    fn check_memory(&self, model: &Loaded, work: &Work) -> Result<()> {
        let needed = least_bytes(model, work);
        if needed <= self.models.rest() {
            return Ok(());
        }
        let fits = self.models.make_room(needed);
        self.share_out();
        if fits {
            return Ok(());
        }
        let weights = self.models.weights();
        Err(Error::OutOfMemory(format!(
            "model {} takes {needed} bytes for one image or text, the weights in use {weights}, and capfilt.memory_limit is {}: \
             SET capfilt.memory_limit to at least {}",
            model.med.name(),
            self.models.limit(),
            needed.saturating_add(weights)
        )))
    }

    /// Bytes that are free for work. If that is less than `least`, the caches make room.
    fn room_for_work(&self, least: usize) -> usize {
        let free = || {
            let caches = lock(&self.memo).bytes() + lock(&self.embeddings).bytes();
            self.models.rest().saturating_sub(caches + self.inputs.bytes())
        };
        let missing = least.saturating_sub(free());
        if missing > 0 {
            let mut embeddings = lock(&self.embeddings);
            let keep = embeddings.bytes().saturating_sub(missing);
            embeddings.shrink_to(keep);
        }
        let missing = least.saturating_sub(free());
        if missing > 0 {
            let mut memo = lock(&self.memo);
            let keep = memo.bytes().saturating_sub(missing);
            memo.shrink_to(keep);
        }
        free()
    }

    /// Gives back what can be had again, after the device or the machine ran out of memory.
    fn shed(&self) {
        lock(&self.embeddings).shrink_to(0);
        self.models.make_room(usize::MAX);
        self.share_out();
    }
}

/// Bytes for one piece of work and its image.
fn least_bytes(model: &Loaded, work: &Work) -> usize {
    let bytes = model.med.work_bytes();
    match work {
        Work::EmbedText { .. } => work_bytes(&bytes, work, true),
        _ => pixel_bytes(model).saturating_add(bytes.encode.max(work_bytes(&bytes, work, true))),
    }
}

/// Bytes of an image's pixels, as this model wants them.
fn pixel_bytes(model: &Loaded) -> usize {
    let preprocessor = model.med.preprocessor();
    preprocessor.width as usize * preprocessor.height as usize * 3
}

/// Bytes that one piece of work takes beyond its image's encoding: the first of its image in a call, or a further one.
fn work_bytes(bytes: &WorkBytes, work: &Work, first: bool) -> usize {
    let further = |n: usize| bytes.per_sequence.saturating_mul(n);
    match work {
        Work::Caption { .. } if first => bytes.generate.saturating_add(further(work.sequences() - 1)),
        Work::Caption { .. } => further(work.sequences()),
        Work::Match { .. } if first => bytes.match_text,
        Work::Match { .. } | Work::EmbedText { .. } => further(1),
        // One small product, far below what the encoding before it took.
        Work::EmbedImage => 0,
    }
}

/// Locks, also after a panic elsewhere: what the engine's locks guard is whole between any two statements that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `condvar`, but no longer than [`POLL`].
fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, POLL).unwrap_or_else(PoisonError::into_inner).0
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (_, Some(message)) => message,
        _ => "no message",
    }
}

/// Blocks without starving a multi-threaded tokio runtime. On a runtime of one thread `block_in_place` panics.
pub fn blocking<T>(f: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(f),
        _ => f(),
    }
}
