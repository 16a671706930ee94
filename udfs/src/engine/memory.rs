//! Memory: one limit for weights, caches and work, and the models loaded under it.

use std::collections::HashMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::ledger::{Ledgers, Share};
use super::stats::{Counters, Stats};
use super::sync::{lock, panic_message};
use super::task::{Key, model_key};
use crate::blip::Med;
use crate::blip::med::ModelKey;
use crate::error::{Error, Result};

/// Function that loads a model.
pub type Loader = Box<dyn Fn(&ModelKey) -> Result<Arc<dyn Med>> + Send + Sync>;

/// Handle to a model in use. A model is not unloaded while it has handles.
#[derive(Debug, Clone)]
pub struct ModelHandle {
    model: Arc<Loaded>,
    _lease: Arc<()>,
}

impl ModelHandle {
    /// The model.
    pub fn med(&self) -> &Arc<dyn Med> {
        &self.model.med
    }

    pub(super) fn loaded(&self) -> &Arc<Loaded> {
        &self.model
    }
}

impl Deref for ModelHandle {
    type Target = dyn Med;

    fn deref(&self) -> &Self::Target {
        &*self.model.med
    }
}

/// A loaded model. Jobs hold this rather than a handle: a running call has its own handle, and leftover jobs of a
/// cancelled call must not prevent unloading.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The model on its first device.
    pub(super) med: Arc<dyn Med>,
    /// The model on each of its devices.
    meds: Vec<Arc<dyn Med>>,
    /// Devices that are given up, a bit each.
    down: AtomicU64,
    pub(super) identity: Key,
    pub(super) counters: Arc<Counters>,
    /// Bytes of all weights.
    weight_bytes: usize,
    /// Of these, bytes in the host's memory.
    host_bytes: usize,
    /// Those on devices.
    shares: Vec<Share>,
}

impl Loaded {
    /// The model on its `device`-th device.
    pub(super) fn on(&self, device: usize) -> &Arc<dyn Med> {
        self.meds.get(device).unwrap_or(&self.med)
    }

    pub(super) fn devices(&self) -> usize {
        self.meds.len()
    }

    /// Whether the model has a `device`-th device, and it is not given up.
    pub(super) fn is_up(&self, device: usize) -> bool {
        device < self.meds.len() && self.down.load(Ordering::Acquire) & (1 << device) == 0
    }

    /// Whether any device is up beside those `failed`, a bit each.
    pub(super) fn is_any_up(&self, failed: u64) -> bool {
        (0..self.meds.len()).any(|device| failed & (1 << device) == 0 && self.is_up(device))
    }

    /// Gives up a device if another is left of those that have not `failed`, this one included. Otherwise what failed is
    /// no device's fault, and all are tried again with other work.
    pub(super) fn give_up(&self, device: usize, failed: u64) -> bool {
        let is_other_left = self.is_any_up(failed);
        if is_other_left {
            self.down.fetch_or(1 << device, Ordering::AcqRel);
        } else {
            self.down.store(0, Ordering::Release);
        }
        is_other_left
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.counters.weight_bytes.subtract(self.weight_bytes);
    }
}

/// The memory limit and the loaded models.
pub(super) struct Models {
    loader: Loader,
    slots: Mutex<Slots>,
    limit: AtomicUsize,
    /// Weight bytes of all models in `slots`, as far as they are in the host's memory.
    weights: AtomicUsize,
}

#[derive(Default)]
struct Slots {
    models: HashMap<ModelKey, Slot>,
    /// Weight sizes of models loaded earlier, to predict a reload.
    known: HashMap<ModelKey, (usize, Vec<Share>)>,
    ledgers: Ledgers,
    tick: u64,
}

enum Slot {
    Loading(Arc<Loading>),
    Ready { model: Arc<Loaded>, lease: Arc<()>, used: u64 },
}

/// A load in progress. All waiting callers receive its result; after a failure the next call tries again.
#[derive(Default)]
struct Loading {
    result: Mutex<Option<Result<ModelHandle>>>,
    done: Condvar,
}

impl Models {
    pub(super) fn new(loader: Loader, limit: usize) -> Self {
        Self { loader, slots: Mutex::default(), limit: AtomicUsize::new(limit), weights: AtomicUsize::new(0) }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    pub(super) fn weights(&self) -> usize {
        self.weights.load(Ordering::Acquire)
    }

    /// Memory left by the weights, in bytes.
    pub(super) fn rest(&self) -> usize {
        self.limit().saturating_sub(self.weights())
    }

    /// Bytes for embeddings that the weights leave on the fullest device; `None` if no model is on one.
    pub(super) fn rest_on_devices(&self) -> Option<usize> {
        lock(&self.slots).ledgers.rest()
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Release);
        self.make_room(0);
    }

    pub(super) fn loaded(&self) -> usize {
        lock(&self.slots).models.values().filter(|slot| matches!(slot, Slot::Ready { .. })).count()
    }

    /// Returns the model, loading it if necessary.
    pub(super) fn get(&self, key: &ModelKey, stats: &Stats) -> Result<ModelHandle> {
        let loading = {
            let mut slots = lock(&self.slots);
            slots.tick += 1;
            let now = slots.tick;
            match slots.models.get_mut(key) {
                Some(Slot::Ready { model, lease, used }) => {
                    *used = now;
                    return Ok(ModelHandle { model: Arc::clone(model), _lease: Arc::clone(lease) });
                }
                Some(Slot::Loading(loading)) => {
                    let loading = Arc::clone(loading);
                    drop(slots);
                    return loading.wait();
                }
                None => {
                    let loading = Arc::new(Loading::default());
                    slots.models.insert(key.clone(), Slot::Loading(Arc::clone(&loading)));
                    loading
                }
            }
        };
        let result = self.load(key, stats);
        if result.is_err() {
            lock(&self.slots).models.remove(key);
        }
        loading.finish(result.clone());
        result
    }

    fn load(&self, key: &ModelKey, stats: &Stats) -> Result<ModelHandle> {
        // The weight size is known only for models loaded before. For others, room can be made only after loading.
        let expected = lock(&self.slots).known.get(key).cloned();
        if let Some((bytes, shares)) = expected {
            let mut slots = lock(&self.slots);
            let gone = self.evict(&mut slots, bytes, &shares);
            let checked = self.check(&slots, key, bytes, &shares);
            drop(slots);
            drop(gone);
            checked?;
        }
        let model = catch_unwind(AssertUnwindSafe(|| {
            let on = |device: &str| (self.loader)(&ModelKey { device: device.into(), ..key.clone() });
            let meds = key.device.split(',').map(on).collect::<Result<Vec<_>>>()?;
            let med = meds.first().cloned().ok_or_else(|| Error::Internal("a model without a device".into()))?;
            let devices: Vec<&str> = meds.iter().map(|med| med.device()).collect();
            let counters = stats.counters(key.checkpoint.clone(), &devices.join(","), med.precision());
            let weight_bytes = meds.iter().map(|med| med.resident_bytes()).sum();
            counters.weight_bytes.add(weight_bytes);
            let shares: Vec<Share> = meds.iter().filter_map(|med| Share::of(&**med)).collect();
            let host_bytes = weight_bytes - shares.iter().map(|share| share.bytes).sum::<usize>();
            let (identity, down) = (model_key(&*med), AtomicU64::new(0));
            Ok(Loaded { identity, med, meds, down, counters, weight_bytes, host_bytes, shares })
        }))
        .unwrap_or_else(|panic| {
            let message = format!("loading {} panicked: {}", key.checkpoint.display(), panic_message(&*panic));
            Err(Error::Internal(message))
        })?;
        let (bytes, shares) = (model.host_bytes, &model.shares);

        let mut slots = lock(&self.slots);
        slots.known.insert(key.clone(), (bytes, shares.clone()));
        let gone = self.evict(&mut slots, bytes, shares);
        if let Err(error) = self.check(&slots, key, bytes, shares) {
            drop(slots);
            drop(gone);
            return Err(error);
        }
        self.weights.fetch_add(bytes, Ordering::AcqRel);
        slots.ledgers.add(shares);
        slots.tick += 1;
        let (model, lease, used) = (Arc::new(model), Arc::new(()), slots.tick);
        let handle = ModelHandle { model: Arc::clone(&model), _lease: Arc::clone(&lease) };
        slots.models.insert(key.clone(), Slot::Ready { model, lease, used });
        drop(slots);
        drop(gone);
        Ok(handle)
    }

    /// Fails if the host or a device has no room for a model's weights.
    fn check(&self, slots: &Slots, key: &ModelKey, bytes: usize, shares: &[Share]) -> Result<()> {
        let name = key.checkpoint.display();
        let (limit, others) = (self.limit(), self.weights());
        if others.saturating_add(bytes) > limit {
            return Err(Error::OutOfMemory(format!(
                "the weights of {name} take {bytes} bytes, those of other models in use {others}, and capfilt.memory_limit is \
                 {limit}: SET capfilt.memory_limit to more than {}",
                others.saturating_add(bytes)
            )));
        }
        let Some(Share { device, limit, bytes }) = slots.ledgers.lacking(shares).first().copied() else {
            return Ok(());
        };
        let others = slots.ledgers.weights(device);
        Err(Error::OutOfMemory(format!(
            "the weights of {name} take {bytes} bytes of {device}, those of other models in use {others}, and half of its \
             memory, {limit}, is for them: SET capfilt.device_memory to at least {}, or a device with more",
            others.saturating_add(*bytes).saturating_mul(2)
        )))
    }

    /// Unloads idle models, least recently used first, until the host's weights leave `bytes` free; returns whether they
    /// do.
    pub(super) fn make_room(&self, bytes: usize) -> bool {
        // Unloading takes time, so it happens after the lock is released.
        let gone = self.evict(&mut lock(&self.slots), bytes, &[]);
        drop(gone);
        self.rest() >= bytes
    }

    /// Takes out idle models until the host has room for `bytes` and the devices for `shares`, or no idle model is left
    /// that helps.
    fn evict(&self, slots: &mut Slots, bytes: usize, shares: &[Share]) -> Vec<Arc<Loaded>> {
        let mut gone = vec![];
        loop {
            let is_host_full = self.weights().saturating_add(bytes) > self.limit();
            let full = slots.ledgers.lacking(shares);
            // New handles come only from here, under this lock, or from existing handles: a model without handles stays
            // idle meanwhile.
            let idle = slots.models.iter().filter_map(|(key, slot)| match slot {
                Slot::Ready { model, lease, used } if Arc::strong_count(lease) == 1 => {
                    let is_there = model.shares.iter().any(|has| full.iter().any(|lacks| lacks.device == has.device));
                    (is_host_full || is_there).then_some((*used, key))
                }
                _ => None,
            });
            let Some(key) = idle.min_by_key(|(used, _)| *used).map(|(_, key)| key.clone()) else { break };
            if let Some(Slot::Ready { model, .. }) = slots.models.remove(&key) {
                self.weights.fetch_sub(model.host_bytes, Ordering::AcqRel);
                slots.ledgers.subtract(&model.shares);
                gone.push(model);
            }
        }
        gone
    }
}

impl Loading {
    fn finish(&self, result: Result<ModelHandle>) {
        *lock(&self.result) = Some(result);
        self.done.notify_all();
    }

    fn wait(&self) -> Result<ModelHandle> {
        let mut result = lock(&self.result);
        loop {
            match &*result {
                Some(result) => return result.clone(),
                None => result = self.done.wait(result).unwrap_or_else(std::sync::PoisonError::into_inner),
            }
        }
    }
}

/// Three fifths of the machine's or container's memory, or 4 GiB where that is unknown.
pub(super) fn default_limit() -> usize {
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").as_deref().and_then(mem_total);
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match machine.into_iter().chain(container).min() {
        Some(bytes) => bytes / 5 * 3,
        None => 4 << 30,
    }
}

fn mem_total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine() {
        assert_eq!(mem_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
        assert!(default_limit() > 0);
    }
}
