//! The engine: one queue in front of all models, so that work of several queries and partitions shares batches, encoded
//! images and results.
//!
//! A call ([`Engine::run`]) stays on its caller's thread: it looks its tasks up in the memo, decodes the images of the
//! rest and queues them, all tasks of an image together. One worker thread takes batches from the queue, round-robin
//! over clients, and runs the models. A result never depends on the batch in which it was computed.
//!
//! Each image is encoded once per model, for two reasons: all calls share an in-flight image (`inputs`), and its
//! embedding stays in a cache afterwards. So do the states of a question about it, for all its answers. The memory limit covers weights, both caches, in-flight images and the work
//! of the running batch.

mod cache;
mod call;
mod client;
mod compute;
mod inputs;
mod job;
mod ledger;
mod memory;
mod queue;
mod shared;
mod stage;
mod stats;
mod sync;
mod task;
#[cfg(test)]
mod tests;
mod unit;
mod worker;

pub use crate::blip::med::ModelKey;
pub use client::{CancelToken, Client};
pub use memory::{Loader, ModelHandle};
pub use stats::{Meter, ModelStats};
pub use sync::blocking;
pub use task::{ImageSource, Outcome, Task, Work};

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use cache::Lru;
use call::Run;
use memory::Models;
use queue::Queue;
use shared::Inner;
use stats::Stats;
use sync::lock;

use crate::error::{Error, Result};
use crate::image::Limits;

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
    /// Bytes for cached image embeddings, and states of questions. `None`: a quarter of the memory left by the weights, at
    /// most 1 GiB. The cache holds at most 2,048, one per image and model, and one per question about an image.
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
    /// Number of worker threads that have been started.
    started: Mutex<usize>,
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
            resident: Mutex::new(Lru::new(0, EMBEDDED_IMAGES)),
            memo_limit: AtomicUsize::new(options.memo_limit),
            embedding_limit: options.embedding_cache,
            max_batch_images: options.max_batch_images.max(1),
        };
        inner.share_out();
        Arc::new(Self { inner: Arc::new(inner), started: Mutex::new(0) })
    }

    /// The process-wide engine, for sessions without one of their own. It is never dropped.
    ///
    /// A process that was forked from one with an engine has another: the threads of the first are not in it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Option<(u32, Arc<Engine>)>> = Mutex::new(None);
        let mut shared = lock(&SHARED);
        let process = std::process::id();
        if let Some((of, engine)) = &*shared
            && *of == process
        {
            return Arc::clone(engine);
        }
        let engine = Engine::new(EngineOptions::default(), Box::new(crate::blip::load));
        // The parent's is left alone: threads that are not here may hold its locks.
        std::mem::forget(shared.replace((process, Arc::clone(&engine))));
        engine
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
    /// `max_batch_images` is the maximum number of distinct images in a batch; 0 means the engine's default. On a device
    /// apart from the host it is [`Med::run_images`](crate::blip::Med::run_images) in its place.
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
        self.start(model.loaded().devices())?;
        let max_images = match (model.device_memory(), max_batch_images) {
            (Some(_), _) => model.run_images(),
            (None, 0) => self.inner.max_batch_images,
            (None, most) => most,
        };
        blocking(|| Run::new(&self.inner, client, model, limits, max_images).run(tasks))
    }

    /// Starts a thread for each of a model's devices.
    fn start(&self, devices: usize) -> Result<()> {
        let mut started = lock(&self.started);
        while *started < devices {
            let (inner, device) = (Arc::clone(&self.inner), *started);
            let thread = std::thread::Builder::new().name(format!("capfilt-engine-{device}"));
            let spawned = thread.spawn(move || worker::work(&inner, device));
            spawned.map_err(|e| Error::Internal(format!("cannot start the engine's thread: {e}")))?;
            *started += 1;
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

    /// Bytes of cached embeddings, in the host's memory and on devices.
    pub fn embedding_bytes(&self) -> usize {
        lock(&self.inner.embeddings).bytes() + lock(&self.inner.resident).bytes()
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
