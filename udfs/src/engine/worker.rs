//! The engine's threads, one for each device of a model: they take batches from the queue and run the models.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::compute::Compute;
use super::inputs::{Encoded, Image};
use super::job::Job;
use super::memory::Loaded;
use super::shared::Inner;
use super::stage::Stage;
use super::sync::lock;
use super::unit::{Unit, expect, guarded, share};
use crate::error::{Error, Result};

/// Runs until the engine is dropped.
pub(super) fn work(inner: &Inner, device: usize) {
    while let Some(jobs) = next(inner, device) {
        // Panics of models are caught at each model call. A panic of our own fails the batch's calls too, through
        // `Job::drop`.
        if catch_unwind(AssertUnwindSafe(|| execute(inner, device, jobs))).is_err() {
            log::error!("the engine panicked; the calls of this batch fail");
        }
        inner.room.notify_all();
    }
}

/// Waits for the device's next batch; `None` once the engine was dropped.
fn next(inner: &Inner, device: usize) -> Option<Vec<Job>> {
    loop {
        let mut queue = lock(&inner.queue);
        let cancelled = queue.remove(Job::is_cancelled);
        if !cancelled.is_empty() {
            drop(queue);
            drop(cancelled);
            inner.room.notify_all();
            continue;
        }
        let batch = queue.take(device);
        if !batch.is_empty() {
            // While the queue is locked, so that no other device takes work on the same images.
            batch.iter().filter_map(|job| job.image.as_ref()).for_each(|image| image.settle(device));
            return Some(batch);
        }
        if queue.closed {
            return None;
        }
        drop(inner.work.wait(queue).unwrap_or_else(PoisonError::into_inner));
    }
}

fn execute(inner: &Inner, device: usize, jobs: Vec<Job>) {
    let Some(model) = jobs.first().map(|job| Arc::clone(&job.model)) else { return };
    let mut units = units(inner, jobs);
    let failed = encode(inner, &model, device, &mut units).and_then(|()| {
        units.retain(|unit| !unit.is_cancelled());
        Compute { inner, model: &model, med: model.on(device), device }.run(inner, &mut units)
    });
    if let Err(error) = failed {
        hand_over(inner, &model, device, units, &error);
    }
}

/// Leaves the jobs on which a device failed to the others, or answers those on which all have failed.
fn hand_over(inner: &Inner, model: &Loaded, device: usize, units: Vec<Unit>, error: &Error) {
    let mut left: BTreeMap<u64, Vec<Job>> = BTreeMap::new();
    for mut job in units.into_iter().flat_map(|unit| unit.jobs).filter(|job| !job.answered) {
        job.failed |= 1 << device;
        if model.give_up(device, job.failed) {
            left.entry(job.call.ticket.client().session().id).or_default().push(job);
        } else {
            job.image = None;
            job.answer(Err(error.clone()));
        }
    }
    if left.is_empty() {
        return;
    }
    log::error!("{} is given up, and its work left to others: {error}", model.on(device).device());
    let mut queue = lock(&inner.queue);
    left.into_iter().for_each(|(client, jobs)| queue.push_back(client, jobs));
    drop(queue);
    inner.work.notify_all();
}

/// Deduplicates a batch's jobs and groups them by image. Jobs whose result was computed since they were queued are
/// answered here.
fn units(inner: &Inner, jobs: Vec<Job>) -> Vec<Unit> {
    let (mut units, mut at): (Vec<Unit>, HashMap<_, usize>) = (vec![], HashMap::new());
    for mut job in jobs {
        if let Some(outcome) = inner.remembered(&job.key) {
            job.count(|counters| counters.memo_hits.add(1));
            job.image = None;
            job.answer(Ok(outcome));
        } else if let Some(&unit) = at.get(&job.key) {
            job.count(|counters| counters.memo_hits.add(1));
            units[unit].jobs.push(job);
        } else {
            at.insert(job.key, units.len());
            units.push(Unit { image: job.image.clone(), work: job.work.clone(), jobs: vec![job] });
        }
    }
    let mut order = HashMap::new();
    for unit in &units {
        let next = order.len();
        order.entry(unit.image_id()).or_insert(next);
    }
    units.sort_by_key(|unit| order[&unit.image_id()]);
    units
}

/// Ensures that all images have an embedding. Units whose images did not fit into memory fail.
fn encode(inner: &Inner, model: &Arc<Loaded>, device: usize, units: &mut Vec<Unit>) -> Result<()> {
    let mut images: Vec<Arc<Image>> = vec![];
    for unit in units.iter().filter(|unit| !unit.is_cancelled()) {
        if let Some(image) = &unit.image
            && image.pixels().is_some()
            && !images.iter().any(|other| Arc::ptr_eq(other, image))
        {
            images.push(Arc::clone(image));
        }
    }
    if images.is_empty() {
        return Ok(());
    }
    let mut encode = Encode { inner, model, device, units, failed: vec![] };
    encode.run(inner, &mut images)?;
    let failed = encode.failed;
    for (image, error) in failed {
        for unit in units.iter_mut().filter(|unit| unit.image_id() == Some(image)) {
            unit.answer(&Err(error.clone()));
        }
        units.retain(|unit| unit.image.is_some());
    }
    Ok(())
}

/// Stage that runs the vision encoder.
struct Encode<'a> {
    inner: &'a Inner,
    model: &'a Loaded,
    device: usize,
    units: &'a [Unit],
    failed: Vec<(*const Image, Error)>,
}

impl Stage<Arc<Image>> for Encode<'_> {
    fn bytes(&self, images: &[Arc<Image>]) -> usize {
        self.model.med.work_bytes().encode.saturating_mul(images.len())
    }

    fn middle(&self, images: &[Arc<Image>]) -> usize {
        images.len() / 2
    }

    fn is_cancelled(&self, images: &[Arc<Image>]) -> bool {
        let wanted = |unit: &&Unit| images.iter().any(|image| unit.image_id() == Some(Arc::as_ptr(image)));
        self.units.iter().filter(wanted).all(Unit::is_cancelled)
    }

    fn call(&mut self, images: &mut [Arc<Image>]) -> Result<()> {
        let pixels: Option<Vec<Arc<[u8]>>> = images.iter().map(|image| image.pixels()).collect();
        let pixels = pixels.ok_or_else(|| Error::Internal("an image came to the encoder without pixels".into()))?;
        let pixels: Vec<&[u8]> = pixels.iter().map(|pixels| &**pixels).collect();
        let start = Instant::now();
        let encoded = guarded(self.model, "encode", || self.model.on(self.device).encode(&pixels))?;
        let encoded = expect(self.model, "encode", encoded, images.len())?;
        let each = share(start, images.len());
        for (image, embedding) in images.iter().zip(encoded) {
            let unit = self.units.iter().find(|unit| unit.image_id() == Some(Arc::as_ptr(image)));
            if let Some(job) = unit.and_then(|unit| unit.jobs.first()) {
                job.count(|counters| {
                    counters.images_encoded.add(1);
                    counters.encode.add(each);
                });
            }
            // With another device the pixels stay, in case this one fails.
            let pixels = if self.model.devices() > 1 { image.pixels() } else { None };
            let encoded = Encoded { embedding, pixels, home: self.device };
            self.inner.cache(self.model, *image.key(), encoded.clone());
            image.encoded(encoded);
        }
        Ok(())
    }

    fn fail(&mut self, images: &mut [Arc<Image>], error: Error) {
        self.failed.extend(images.iter().map(|image| (Arc::as_ptr(image), error.clone())));
    }
}
