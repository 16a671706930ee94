//! Statistics of each model: the rows of `capfilt_stats()`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::sync::lock;
use crate::blip::Precision;

/// Statistics of one model since the engine started, summed over reloads.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStats {
    /// Folder of the checkpoint.
    pub checkpoint: PathBuf,
    /// Devices it runs on: `cpu`, `cuda:N`, or several such as `cuda:0,cuda:1`.
    pub device: String,
    /// Numeric precision.
    pub precision: Precision,
    /// Images passed through the vision encoder.
    pub images_encoded: u64,
    /// Captions and answers generated.
    pub captions: u64,
    /// Tokens of these, without prompts.
    pub tokens_decoded: u64,
    /// Texts matched with an image, and answers scored.
    pub texts_scored: u64,
    /// Texts embedded.
    pub texts_encoded: u64,
    /// Answers without computation: memoised, or equal to a task already in progress.
    pub memo_hits: u64,
    /// Seconds spent by callers decoding images, summed over threads.
    pub decode_seconds: f64,
    /// Seconds in the vision encoder.
    pub encode_seconds: f64,
    /// Seconds in generation.
    pub generate_seconds: f64,
    /// Seconds in matching, projecting and text embedding.
    pub score_seconds: f64,
    /// Seconds spent by callers waiting for the engine, summed over threads.
    pub wait_seconds: f64,
    /// Bytes of weights currently loaded; 0 after unloading.
    pub weight_bytes: u64,
}

/// A counter that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A duration that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn seconds(&self) -> f64 {
        self.get().as_secs_f64()
    }
}

/// The counters of one model, or of one operator of a query.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Only of operators.
    pub(super) images_decoded: Counter,
    pub(super) images_encoded: Counter,
    pub(super) captions: Counter,
    pub(super) tokens_decoded: Counter,
    pub(super) texts_scored: Counter,
    pub(super) texts_encoded: Counter,
    pub(super) memo_hits: Counter,
    pub(super) decode: Clock,
    pub(super) encode: Clock,
    pub(super) generate: Clock,
    pub(super) score: Clock,
    pub(super) wait: Clock,
    pub(super) weight_bytes: Counter,
}

/// Work that the engine does for one operator of a query. Clones are the same meter.
///
/// Work that several operators asked for counts for the first of them, so that the sum over all operators is the work
/// that was done.
#[derive(Debug, Clone, Default)]
pub struct Meter(pub(super) Arc<Counters>);

impl Meter {
    /// Names and values of the counts.
    pub fn counts(&self) -> [(&'static str, u64); 7] {
        let c = &self.0;
        [
            ("images_decoded", c.images_decoded.get()),
            ("images_encoded", c.images_encoded.get()),
            ("captions", c.captions.get()),
            ("tokens_decoded", c.tokens_decoded.get()),
            ("texts_scored", c.texts_scored.get()),
            ("texts_encoded", c.texts_encoded.get()),
            ("memo_hits", c.memo_hits.get()),
        ]
    }

    /// Names and values of the times. Times of callers are summed over threads; of a batch, an operator's is its share.
    pub fn times(&self) -> [(&'static str, Duration); 5] {
        let c = &self.0;
        [
            ("wait_time", c.wait.get()),
            ("decode_time", c.decode.get()),
            ("encode_time", c.encode.get()),
            ("generate_time", c.generate.get()),
            ("score_time", c.score.get()),
        ]
    }
}

/// The counters of all models ever loaded. Model keys that differ only in `threads` share counters.
#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<BTreeMap<(PathBuf, String, Precision), Arc<Counters>>>);

impl Stats {
    pub(super) fn counters(&self, checkpoint: PathBuf, device: &str, precision: Precision) -> Arc<Counters> {
        let key = (checkpoint, device.to_owned(), precision);
        Arc::clone(lock(&self.0).entry(key).or_default())
    }

    pub(super) fn rows(&self) -> Vec<ModelStats> {
        let row = |((checkpoint, device, precision), c): (&(PathBuf, String, Precision), &Arc<Counters>)| ModelStats {
            checkpoint: checkpoint.clone(),
            device: device.clone(),
            precision: *precision,
            images_encoded: c.images_encoded.get(),
            captions: c.captions.get(),
            tokens_decoded: c.tokens_decoded.get(),
            texts_scored: c.texts_scored.get(),
            texts_encoded: c.texts_encoded.get(),
            memo_hits: c.memo_hits.get(),
            decode_seconds: c.decode.seconds(),
            encode_seconds: c.encode.seconds(),
            generate_seconds: c.generate.seconds(),
            score_seconds: c.score.seconds(),
            wait_seconds: c.wait.seconds(),
            weight_bytes: c.weight_bytes.get(),
        };
        lock(&self.0).iter().map(row).collect()
    }
}
