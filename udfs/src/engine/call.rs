//! One call of `Engine::run`, on its caller's thread: look up, decode, queue, wait.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::client::Client;
use super::inputs::{Claim, Image};
use super::job::{Call, Job};
use super::memory::{Loaded, ModelHandle};
use super::queue::{Fill, Queue};
use super::shared::{Inner, QUEUE_JOBS, pixel_bytes};
use super::stats::Counters;
use super::sync::{lock, wait};
use super::task::{ImageSource, Key, Outcome, Task, Work, bad_image_key, image_key, work_key};
use crate::error::{Error, Result};
use crate::image::{self, Limits};

/// Tasks of a call on one image, deduplicated. All of an image's tasks are grouped so that they are queued together.
struct Group<'a> {
    image: Option<ImageSource<'a>>,
    /// Result key, work, and indices of the tasks that need it.
    units: Vec<(Key, Work, Vec<usize>)>,
}

/// State of one call of `Engine::run`.
pub(super) struct Run<'e> {
    inner: &'e Inner,
    model: &'e Arc<Loaded>,
    limits: &'e Limits,
    max_images: usize,
    call: Arc<Call>,
    outcomes: Vec<Option<Outcome>>,
    /// For each job, the indices of the tasks that receive its outcome.
    asked: Vec<Vec<usize>>,
}

impl<'e> Run<'e> {
    pub(super) fn new(
        inner: &'e Inner,
        client: &Client,
        model: &'e ModelHandle,
        limits: &'e Limits,
        max_images: usize,
    ) -> Self {
        let call = Call { ticket: client.ticket(), progress: Mutex::default(), changed: Condvar::new() };
        Self { inner, model: model.loaded(), limits, max_images, call: Arc::new(call), outcomes: vec![], asked: vec![] }
    }

    pub(super) fn run(mut self, tasks: Vec<Task<'_>>) -> Result<Vec<Outcome>> {
        self.outcomes = vec![None; tasks.len()];
        let groups = self.groups(tasks)?;
        // A guard, so that queued jobs are withdrawn even if the decoder panics.
        let _withdraw = Withdraw { inner: self.inner, call: Arc::clone(&self.call) };
        for group in groups {
            self.submit(group)?;
        }
        self.collect()
    }

    /// Counts for the model, and for the operator that calls.
    fn count(&self, add: impl Fn(&Counters)) {
        add(&self.model.counters);
        add(&self.call.ticket.client().meter().0);
    }

    fn groups<'a>(&self, tasks: Vec<Task<'a>>) -> Result<Vec<Group<'a>>> {
        let (mut groups, mut at): (Vec<Group<'a>>, HashMap<_, usize>) = (vec![], HashMap::new());
        let mut units: HashMap<Key, (usize, usize)> = HashMap::new();
        for (i, Task { image, work }) in tasks.into_iter().enumerate() {
            let image = match (&work, image) {
                (Work::EmbedText { .. }, _) => None,
                (_, None) => return Err(Error::Internal("work on an image came without one".into())),
                (_, image) => image,
            };
            let base = image.map_or(self.model.identity, |i| image_key(&self.model.identity, &i.sha256, self.limits));
            let key = work_key(&base, &work);
            if let Some(&(group, unit)) = units.get(&key) {
                groups[group].units[unit].2.push(i);
                self.count(|counters| counters.memo_hits.add(1));
                continue;
            }
            let group = *at.entry(image.map(|i| i.sha256)).or_insert_with(|| {
                groups.push(Group { image, units: vec![] });
                groups.len() - 1
            });
            units.insert(key, (group, groups[group].units.len()));
            groups[group].units.push((key, work, vec![i]));
        }
        Ok(groups)
    }

    fn submit(&mut self, group: Group<'_>) -> Result<()> {
        self.call.check()?;
        let bad_image = group.image.map(|image| bad_image_key(&image.sha256, self.limits));
        let known_bad = bad_image.and_then(|key| self.inner.remembered(&key));
        let mut open = vec![];
        for (key, work, tasks) in group.units {
            match known_bad.clone().or_else(|| self.inner.remembered(&key)) {
                Some(outcome) => {
                    self.count(|counters| counters.memo_hits.add(1));
                    self.answer(&tasks, &outcome);
                }
                None => open.push((key, work, tasks)),
            }
        }
        let Some((_, largest, _)) = open.iter().max_by_key(|(_, work, _)| work.sequences()) else { return Ok(()) };
        self.inner.check_memory(self.model, largest)?;

        let image = match group.image {
            None => None,
            Some(source) => match self.image(&source)? {
                Ok(image) => Some(image),
                Err(error) => {
                    let outcome = Outcome::BadImage(error);
                    if let Some(key) = bad_image {
                        self.inner.remember(key, &outcome);
                    }
                    for (_, _, tasks) in &open {
                        self.answer(tasks, &outcome);
                    }
                    return Ok(());
                }
            },
        };
        let mut open = open.into_iter().peekable();
        while open.peek().is_some() {
            // Queued in slices, because one image with very many texts would overflow the queue. The image's bytes are
            // already claimed.
            self.wait_for_room(0)?;
            let slice = open.by_ref().take(QUEUE_JOBS / 4);
            let jobs = slice.map(|(key, work, tasks)| self.job(key, work, tasks, image.clone())).collect();
            lock(&self.inner.queue).push(self.call.ticket.client().session().id, jobs);
            // Not every device can do each job.
            self.inner.work.notify_all();
        }
        Ok(())
    }

    fn answer(&mut self, tasks: &[usize], outcome: &Outcome) {
        for &task in tasks {
            self.outcomes[task] = Some(outcome.clone());
        }
    }

    fn job(&mut self, key: Key, work: Work, tasks: Vec<usize>, image: Option<Arc<Image>>) -> Job {
        self.asked.push(tasks);
        let mut progress = lock(&self.call.progress);
        progress.pending += 1;
        progress.outcomes.push(None);
        Job {
            call: Arc::clone(&self.call),
            slot: progress.outcomes.len() - 1,
            answered: false,
            max_images: self.max_images,
            key,
            model: Arc::clone(self.model),
            image,
            work,
            failed: 0,
        }
    }

    /// Returns the image, decoded or already encoded, once there is room for it.
    fn image(&self, source: &ImageSource<'_>) -> Result<Result<Arc<Image>, image::ImageError>> {
        let inner = self.inner;
        let preprocessor = self.model.med.preprocessor();
        let claim = self.wait_for_room(pixel_bytes(self.model))?;
        let key = image_key(&self.model.identity, &source.sha256, self.limits);
        let image = inner
            .inputs
            .image(key, source.sha256, claim, || inner.cached(&key).filter(|encoded| self.model.is_up(encoded.home)));
        let decoded = image.fill(|| {
            let start = Instant::now();
            let pixels = image::load(source.bytes, self.limits, preprocessor);
            let time = start.elapsed();
            self.count(|counters| {
                counters.images_decoded.add(1);
                counters.decode.add(time);
            });
            pixels
        });
        Ok(decoded.map(|()| image))
    }

    /// Waits until this client may add `bytes` to the in-flight images, then claims them.
    fn wait_for_room(&self, bytes: usize) -> Result<Claim> {
        let (inner, session) = (self.inner, self.call.ticket.client().session());
        let has_room = |queue: &mut Queue<Job>| {
            let fill = Fill {
                bytes: inner.inputs.bytes(),
                own_bytes: session.held.load(Ordering::Acquire),
                max_bytes: inner.max_bytes_in_hand(),
                max_jobs: inner.max_jobs(self.model),
            };
            queue.has_room(session.id, bytes, &fill)
        };
        let mut queue = lock(&inner.queue);
        if !has_room(&mut queue) {
            let start = Instant::now();
            queue.wait(session.id);
            let mut check = self.call.check();
            while check.is_ok() && !has_room(&mut queue) {
                queue = wait(&inner.room, queue);
                check = self.call.check();
            }
            queue.waited(session.id);
            let time = start.elapsed();
            self.count(|counters| counters.wait.add(time));
            check?;
        }
        // Claimed while the queue is still locked, so that the next caller sees these bytes.
        Ok(inner.inputs.claim(session, bytes))
    }

    /// Waits for the answers to the queued jobs.
    fn collect(mut self) -> Result<Vec<Outcome>> {
        let start = Instant::now();
        let mut progress = lock(&self.call.progress);
        while progress.pending > 0 && progress.error.is_none() && !self.call.ticket.is_cancelled() {
            progress = wait(&self.call.changed, progress);
        }
        let (pending, error) = (progress.pending, progress.error.take());
        let outcomes = std::mem::take(&mut progress.outcomes);
        drop(progress);
        let time = start.elapsed();
        self.count(|counters| counters.wait.add(time));
        if let Some(error) = error {
            return Err(error);
        }
        if pending > 0 {
            return Err(Error::Cancelled);
        }
        for (tasks, outcome) in std::mem::take(&mut self.asked).iter().zip(outcomes) {
            if let Some(outcome) = outcome {
                self.answer(tasks, &outcome);
            }
        }
        let outcomes: Option<Vec<Outcome>> = self.outcomes.into_iter().collect();
        outcomes.ok_or_else(|| Error::Internal("a task was left without an outcome".into()))
    }
}

/// Guard that withdraws a call's queued jobs, however the call ends.
struct Withdraw<'e> {
    inner: &'e Inner,
    call: Arc<Call>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.call.ticket.withdraw();
        if lock(&self.call.progress).pending > 0 {
            let jobs = lock(&self.inner.queue).remove(|job| Arc::ptr_eq(&job.call, &self.call));
            drop(jobs);
            self.inner.room.notify_all();
        }
    }
}
