//! The engine: one queue in front of all models, so that work of several queries and partitions shares batches, encoded
//! images and results.
//!
//! A call ([`Engine::run`]) stays on its caller's thread: it looks its tasks up in the memo, decodes the images of the
//! rest and queues them, all tasks of an image together. One worker thread takes batches from the queue, round-robin
//! over clients, and runs the models. A result never depends on the batch in which it was computed.
//!
//! Each image is encoded once per model, for two reasons: all calls share an in-flight image (`inputs`), and its
//! embedding stays in a cache afterwards. The memory limit covers weights, both caches, in-flight images and the work
//! of the running batch.

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

/// Interval at which waiting threads check for cancellation: cancelling wakes nobody.
const POLL: Duration = Duration::from_millis(20);

/// Approximate maximum of queued jobs. Jobs are small; the bound limits how much a cancelled call must withdraw.
const QUEUE_JOBS: usize = 1024;

/// Maximum bytes of in-flight images, whatever the memory limit: room for a few hundred, far more than a device needs.
const MAX_IN_HAND: usize = 512 << 20;

/// Maximum entries of the embedding cache, however small they are: enough for the functions of one query to reuse an
/// image a few batches apart. Without the bound, a small model's memory would grow for hours.
const EMBEDDED_IMAGES: usize = 2048;

/// Resource limits of an engine. `default()` suits every field.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Memory limit in bytes for weights, caches and work together. Default: three fifths of the machine's or
    /// container's memory, or 4 GiB where that is unknown.
    pub memory_limit: usize,
    /// Bytes for memoised results, at most a quarter of the memory left by the weights. 0 turns the memo off.
    pub memo_limit: usize,
    /// Bytes for cached image embeddings. `None`: a quarter of the memory left by the weights, at most 1 GiB. The cache
    /// holds at most 2,048 embeddings, one per image and model.
    pub embedding_cache: Option<usize>,
    /// Maximum images per batch for calls that do not set their own.
    pub max_batch_images: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { memory_limit: memory::default_limit(), memo_limit: 64 << 20, embedding_cache: None, max_batch_images: 8 }
    }
}

/// The engine. Dropping it unloads its models and ends its thread once the running batch is finished.
pub struct Engine {
    inner: Arc<Inner>,
    /// Whether the worker thread has been started.
    started: Mutex<bool>,
}

/// State shared by the worker and the callers.
struct Inner {
    models: Models,
    stats: Stats,
    inputs: Arc<Inputs>,
    queue: Mutex<Queue<Job>>,
    /// Signals that the queue has jobs or was closed.
    work: Condvar,
    /// Signals that the queue may have room.
    room: Condvar,
    memo: Mutex<Lru<Key, Outcome>>,
    embeddings: Mutex<Lru<Key, Embedding>>,
    memo_limit: AtomicUsize,
    embedding_limit: Option<usize>,
    max_batch_images: usize,
}

impl Engine {
    /// Creates an engine that loads models with `loader`.
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

    /// The process-wide engine, for sessions without one of their own. It is never dropped.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Engine>> =
            LazyLock::new(|| Engine::new(EngineOptions::default(), Box::new(crate::blip::load)));
        Arc::clone(&SHARED)
    }

    /// Changes limits; `None` leaves a limit unchanged. Limits belong to the engine, so the last call applies to all
    /// sessions.
    pub fn set_limits(&self, memory_limit: Option<usize>, memo_limit: Option<usize>) {
        let inner = &self.inner;
        // Functions pass their session's settings with every call, so usually nothing changes.
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

    /// Returns the model, loading it on first use: one thread loads while others that need it wait. It stays loaded;
    /// when memory is short, models without a handle are unloaded, least recently used first.
    ///
    /// Fails if the loader fails, which is not cached, or if `memory_limit` has no room for the weights.
    pub fn model(&self, key: &ModelKey) -> Result<ModelHandle> {
        let model = blocking(|| self.inner.models.get(key, &self.inner.stats))?;
        self.inner.share_out();
        Ok(model)
    }

    /// Computes `tasks` and returns one outcome per task, in order. Blocks the calling thread.
    ///
    /// `max_batch_images` is the maximum number of distinct images in a batch; 0 means the engine's default.
    ///
    /// Fails if the client or its token is cancelled, or if a batch with work of this call fails; the call's remaining
    /// jobs are then withdrawn.
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

    /// Statistics of every model that was ever loaded.
    pub fn stats(&self) -> Vec<ModelStats> {
        self.inner.stats.rows()
    }

    /// Number of loaded models.
    pub fn loaded_models(&self) -> usize {
        self.inner.models.loaded()
    }

    /// Number of queued jobs.
    pub fn queued_jobs(&self) -> usize {
        lock(&self.inner.queue).len()
    }

    /// Bytes of in-flight images: those of queued and running jobs.
    pub fn bytes_in_hand(&self) -> usize {
        self.inner.inputs.bytes()
    }

    /// Bytes of memoised results.
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
    /// Waits for nothing: calls borrow the engine, so none is running, and only cancelled work can be left for the
    /// worker.
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

    /// Sizes the caches from the memory left by the weights. At least a quarter of it stays free for work.
    fn share_out(&self) {
        let rest = self.models.rest();
        lock(&self.memo).set_capacity(self.memo_limit.load(Ordering::Acquire).min(rest / 4));
        let embeddings = self.embedding_limit.unwrap_or((rest / 4).min(1 << 30));
        lock(&self.embeddings).set_capacity(embeddings.min(rest));
    }

    fn max_bytes_in_hand(&self) -> usize {
        (self.models.rest() / 4).min(MAX_IN_HAND)
    }

    /// Fails if the memory limit has no room for one piece of this work even with caches and idle models evicted.
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

    /// Free bytes for work. If they are fewer than `least`, the caches are shrunk first.
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

    /// Frees everything that can be recomputed or reloaded, after the device or the machine ran out of memory.
    fn shed(&self) {
        lock(&self.embeddings).shrink_to(0);
        self.models.make_room(usize::MAX);
        self.share_out();
    }
}

/// Minimum bytes for one piece of work, including its image.
fn least_bytes(model: &Loaded, work: &Work) -> usize {
    let bytes = model.med.work_bytes();
    match work {
        Work::EmbedText { .. } => work_bytes(&bytes, work, true),
        _ => pixel_bytes(model).saturating_add(bytes.encode.max(work_bytes(&bytes, work, true))),
    }
}

/// Bytes of an image's pixels at this model's input size.
fn pixel_bytes(model: &Loaded) -> usize {
    let preprocessor = model.med.preprocessor();
    preprocessor.width as usize * preprocessor.height as usize * 3
}

/// Bytes of one piece of work beyond its image's encoding; `first` is the image's first piece in a model call.
fn work_bytes(bytes: &WorkBytes, work: &Work, first: bool) -> usize {
    let further = |n: usize| bytes.per_sequence.saturating_mul(n);
    match work {
        Work::Caption { .. } if first => bytes.generate.saturating_add(further(work.sequences() - 1)),
        Work::Caption { .. } => further(work.sequences()),
        Work::Match { .. } if first => bytes.match_text,
        Work::Match { .. } | Work::EmbedText { .. } => further(1),
        // One small matrix product, far below the cost of the encoding before it.
        Work::EmbedImage => 0,
    }
}

/// Locks even a poisoned mutex: the guarded data is consistent between any two statements that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `condvar`, for at most [`POLL`].
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

/// Runs blocking code without starving a multi-threaded tokio runtime; `block_in_place` would panic on a
/// single-threaded one.
pub fn blocking<T>(f: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(f),
        _ => f(),
    }
}
