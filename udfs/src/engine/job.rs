//! Jobs: the queued computations of a call, and where their results go.

use std::sync::{Arc, Condvar, Mutex};

use super::client::Ticket;
use super::inputs::Image;
use super::memory::Loaded;
use super::queue::Item;
use super::stats::Counters;
use super::sync::lock;
use super::task::{Key, Outcome, Work};
use crate::error::{Error, Result};

/// State that a call shares with its jobs.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) ticket: Ticket,
    pub(super) progress: Mutex<Progress>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Jobs not answered yet.
    pub(super) pending: usize,
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(super) error: Option<Error>,
}

impl Call {
    fn answer(&self, slot: usize, result: Result<Outcome>) {
        let mut progress = lock(&self.progress);
        progress.pending -= 1;
        match result {
            // A call that gave up has already taken its outcomes.
            Ok(outcome) => {
                if let Some(place) = progress.outcomes.get_mut(slot) {
                    *place = Some(outcome);
                }
            }
            Err(error) => {
                progress.error.get_or_insert(error);
            }
        }
        if progress.pending == 0 || progress.error.is_some() {
            self.changed.notify_all();
        }
    }

    /// Fails if the call has failed or was cancelled.
    pub(super) fn check(&self) -> Result<()> {
        match &lock(&self.progress).error {
            Some(error) => Err(error.clone()),
            None if self.ticket.is_cancelled() => Err(Error::Cancelled),
            None => Ok(()),
        }
    }
}

/// One queued computation of a call.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) call: Arc<Call>,
    pub(super) slot: usize,
    pub(super) answered: bool,
    pub(super) max_images: usize,
    pub(super) key: Key,
    pub(super) model: Arc<Loaded>,
    pub(super) image: Option<Arc<Image>>,
    pub(super) work: Work,
    /// Devices of the model that failed on it, a bit each.
    pub(super) failed: u64,
}

impl Job {
    /// Whether its call no longer needs it.
    pub(super) fn is_cancelled(&self) -> bool {
        self.call.ticket.is_cancelled()
    }

    /// Counts for the model, and for the operator that called.
    pub(super) fn count(&self, add: impl Fn(&Counters)) {
        add(&self.model.counters);
        add(&self.call.ticket.client().meter().0);
    }

    /// Sends the result to the call; later answers are ignored.
    pub(super) fn answer(&mut self, result: Result<Outcome>) {
        if !std::mem::replace(&mut self.answered, true) {
            self.call.answer(self.slot, result);
        }
    }
}

impl Drop for Job {
    /// A job lost to a panic or a cancellation must not leave its call waiting.
    fn drop(&mut self) {
        if !self.answered {
            let lost =
                if self.is_cancelled() { Error::Cancelled } else { Error::Internal("the engine lost a job".into()) };
            self.answer(Err(lost));
        }
    }
}

impl Item for Job {
    fn joins(&self, first: &Self) -> bool {
        Arc::ptr_eq(&self.model, &first.model) && self.work.joins(&first.work)
    }

    fn image(&self) -> Option<usize> {
        self.image.as_ref().map(|image| Arc::as_ptr(image) as usize)
    }

    fn tokens(&self) -> usize {
        self.work.tokens()
    }

    fn max_images(&self) -> usize {
        self.max_images
    }

    /// An image's work is done where its embedding is, unless that device is given up; and a device that failed on it
    /// tries again only if no other is left.
    fn runs_on(&self, device: usize) -> bool {
        let home = self.image.as_ref().and_then(|image| image.home()).filter(|&home| self.model.is_up(home));
        let home = home.filter(|home| self.failed & (1 << home) == 0);
        let is_tried = self.failed & (1 << device) != 0 && self.model.is_any_up(self.failed);
        self.model.is_up(device) && !is_tried && home.is_none_or(|home| home == device)
    }
}
