//! What the worker and the callers share: models, queue, caches, and the memory that work needs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::cache::Lru;
use super::inputs::{Encoded, Inputs};
use super::job::Job;
use super::memory::{Loaded, Models};
use super::queue::Queue;
use super::stats::Stats;
use super::sync::lock;
use super::task::{Key, Outcome, Work};
use crate::blip::WorkBytes;
use crate::error::{Error, Result};

/// Approximate maximum of queued jobs. Jobs are small; the bound limits how much a cancelled call must withdraw.
pub(super) const QUEUE_JOBS: usize = 1024;

/// Maximum bytes of in-flight images, whatever the memory limit: room for a few hundred, far more than a device needs.
const MAX_IN_HAND: usize = 512 << 20;

/// State shared by the worker and the callers.
pub(super) struct Inner {
    pub(super) models: Models,
    pub(super) stats: Stats,
    pub(super) inputs: Arc<Inputs>,
    pub(super) queue: Mutex<Queue<Job>>,
    /// Signals that the queue has jobs or was closed.
    pub(super) work: Condvar,
    /// Signals that the queue may have room.
    pub(super) room: Condvar,
    pub(super) memo: Mutex<Lru<Key, Outcome>>,
    pub(super) embeddings: Mutex<Lru<Key, Encoded>>,
    /// Embeddings that lie on devices.
    pub(super) resident: Mutex<Lru<Key, Encoded>>,
    pub(super) memo_limit: AtomicUsize,
    pub(super) embedding_limit: Option<usize>,
    pub(super) max_batch_images: usize,
}

impl Inner {
    pub(super) fn remembered(&self, key: &Key) -> Option<Outcome> {
        lock(&self.memo).get(key)
    }

    pub(super) fn remember(&self, key: Key, outcome: &Outcome) {
        lock(&self.memo).insert(key, outcome.clone(), outcome.heap_bytes());
    }

    pub(super) fn cached(&self, key: &Key) -> Option<Encoded> {
        let here = lock(&self.embeddings).get(key);
        here.or_else(|| lock(&self.resident).get(key))
    }

    pub(super) fn cache(&self, model: &Loaded, key: Key, encoded: Encoded) {
        let bytes = encoded.bytes();
        let is_here = model.med.device_memory().is_none();
        lock(if is_here { &self.embeddings } else { &self.resident }).insert(key, encoded, bytes);
    }

    /// Most queued jobs: as many as images whose embeddings fit into half of what the weights leave on a device.
    pub(super) fn max_jobs(&self, model: &Loaded) -> usize {
        let fit = |each: usize| self.models.rest_on_devices().map_or(QUEUE_JOBS, |rest| rest / 2 / each.max(1));
        let most = model.med.device_memory().map_or(QUEUE_JOBS, |memory| fit(memory.embedding));
        most.clamp(1, QUEUE_JOBS)
    }

    /// Sizes the caches from the memory left by the weights. At least a quarter of it stays free for work.
    pub(super) fn share_out(&self) {
        let rest = self.models.rest();
        lock(&self.memo).set_capacity(self.memo_limit.load(Ordering::Acquire).min(rest / 4));
        let embeddings = self.embedding_limit.unwrap_or((rest / 4).min(1 << 30));
        lock(&self.embeddings).set_capacity(embeddings.min(rest));
        // With several devices the entries have pixels too, so the host's memory bounds them as well.
        let there = self.models.rest_on_devices().unwrap_or(0);
        lock(&self.resident).set_capacity((there / 2).min(rest / 4));
    }

    pub(super) fn max_bytes_in_hand(&self) -> usize {
        (self.models.rest() / 4).min(MAX_IN_HAND)
    }

    /// Fails if the memory limit has no room for one piece of this work even with caches and idle models evicted.
    pub(super) fn check_memory(&self, model: &Loaded, work: &Work) -> Result<()> {
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
    pub(super) fn room_for_work(&self, least: usize) -> usize {
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
    pub(super) fn shed(&self) {
        lock(&self.embeddings).shrink_to(0);
        lock(&self.resident).shrink_to(0);
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
pub(super) fn pixel_bytes(model: &Loaded) -> usize {
    let preprocessor = model.med.preprocessor();
    preprocessor.width as usize * preprocessor.height as usize * 3
}

/// Bytes of one piece of work beyond its image's encoding; `first` is the image's first piece in a model call.
pub(super) fn work_bytes(bytes: &WorkBytes, work: &Work, first: bool) -> usize {
    let further = |n: usize| bytes.per_sequence.saturating_mul(n);
    match work {
        Work::Caption { .. } if first => bytes.generate.saturating_add(further(work.sequences() - 1)),
        Work::Caption { .. } => further(work.sequences()),
        Work::Answer { .. } | Work::RankAnswers { .. } | Work::ScoreAnswer { .. } if first => {
            bytes.answer.saturating_add(further(work.sequences()))
        }
        // Each may have a question of its own.
        Work::Answer { .. } | Work::RankAnswers { .. } | Work::ScoreAnswer { .. } => further(1 + work.sequences()),
        Work::Match { .. } if first => bytes.match_text,
        Work::Match { .. } | Work::EmbedText { .. } => further(1),
        // One small matrix product, far below the cost of the encoding before it.
        Work::EmbedImage => 0,
    }
}
