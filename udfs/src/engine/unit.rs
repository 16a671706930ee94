//! Units of a batch, and how models are called for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inputs::Image;
use super::job::Job;
use super::memory::Loaded;
use super::sync::panic_message;
use super::task::{Outcome, Work};
use crate::blip::Embedding;
use crate::error::{Error, Result};

/// Jobs with the same key, computed once.
pub(super) struct Unit {
    pub(super) jobs: Vec<Job>,
    pub(super) image: Option<Arc<Image>>,
    pub(super) work: Work,
}

impl Unit {
    pub(super) fn is_cancelled(&self) -> bool {
        self.jobs.iter().all(Job::is_cancelled)
    }

    pub(super) fn image_id(&self) -> Option<*const Image> {
        self.image.as_ref().map(Arc::as_ptr)
    }

    pub(super) fn embedding(&self) -> Option<Embedding> {
        self.image.as_ref()?.embedding()
    }

    /// Answers all jobs; only the first answer counts.
    pub(super) fn answer(&mut self, result: &Result<Outcome>) {
        // Released before the caller wakes up, so that it then sees only the in-flight bytes of unfinished jobs.
        self.image = None;
        for job in &mut self.jobs {
            job.image = None;
            job.answer(result.clone());
        }
    }
}

/// Each one's share of the time since `start`.
pub(super) fn share(start: Instant, of: usize) -> Duration {
    start.elapsed() / u32::try_from(of.max(1)).unwrap_or(u32::MAX)
}

/// Runs a model's code and turns a panic into the error of one batch, so that the engine lives on.
pub(super) fn guarded<T>(model: &Loaded, stage: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(Error::Internal(format!("model {} panicked in {stage}: {}", model.med.name(), panic_message(&*panic))))
    })
}

/// Checks that a model returned as many results as requested.
pub(super) fn expect<T>(model: &Loaded, stage: &'static str, results: Vec<T>, n: usize) -> Result<Vec<T>> {
    if results.len() == n {
        return Ok(results);
    }
    Err(Error::Internal(format!("model {} gave {} results for {n} in {stage}", model.med.name(), results.len())))
}
