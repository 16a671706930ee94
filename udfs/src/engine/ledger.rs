//! Memory of devices apart from the host: half of each is for weights and embeddings, the other for a run's work, by
//! which models size their runs.

use std::collections::BTreeMap;

use crate::blip::Med;
use crate::blip::device::memory_for_models;

/// A model's weights on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) device: String,
    /// Bytes of the device for weights and embeddings.
    pub(super) limit: usize,
    pub(super) bytes: usize,
}

impl Share {
    /// The share of a model; `None` if its weights are in the host's memory.
    pub(super) fn of(med: &dyn Med) -> Option<Self> {
        let limit = memory_for_models(med.device_memory()?.limit);
        Some(Self { device: med.device().to_owned(), limit, bytes: med.resident_bytes() })
    }
}

/// Weights of all loaded models by device.
#[derive(Debug, Default)]
pub(super) struct Ledgers(BTreeMap<String, Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    limit: usize,
    weights: usize,
}

impl Ledgers {
    pub(super) fn add(&mut self, shares: &[Share]) {
        for share in shares {
            let ledger = self.0.entry(share.device.clone()).or_default();
            ledger.limit = share.limit;
            ledger.weights += share.bytes;
        }
    }

    pub(super) fn subtract(&mut self, shares: &[Share]) {
        for share in shares {
            if let Some(ledger) = self.0.get_mut(&share.device) {
                ledger.weights = ledger.weights.saturating_sub(share.bytes);
            }
        }
        self.0.retain(|_, ledger| ledger.weights > 0);
    }

    /// Weights on a device.
    pub(super) fn weights(&self, device: &str) -> usize {
        self.0.get(device).map_or(0, |ledger| ledger.weights)
    }

    /// The shares that do not fit beside the weights on their devices.
    pub(super) fn lacking<'s>(&self, shares: &'s [Share]) -> Vec<&'s Share> {
        let lacks = |share: &&Share| self.weights(&share.device).saturating_add(share.bytes) > share.limit;
        shares.iter().filter(lacks).collect()
    }

    /// Bytes that the weights leave on the fullest device; `None` without devices.
    pub(super) fn rest(&self) -> Option<usize> {
        self.0.values().map(|ledger| ledger.limit.saturating_sub(ledger.weights)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(device: &str, limit: usize, bytes: usize) -> Share {
        Share { device: device.into(), limit, bytes }
    }

    #[test]
    fn devices_have_ledgers_of_their_own() {
        let mut ledgers = Ledgers::default();
        assert_eq!(ledgers.rest(), None);
        let both = [share("cuda:0", 100, 60), share("cuda:1", 200, 60)];
        assert!(ledgers.lacking(&both).is_empty());
        ledgers.add(&both);
        assert_eq!((ledgers.weights("cuda:0"), ledgers.weights("cuda:2"), ledgers.rest()), (60, 0, Some(40)));
        assert_eq!(ledgers.lacking(&both), [&both[0]], "120 of 100 there, 120 of 200 here");
        ledgers.add(&[share("cuda:1", 200, 10)]);
        ledgers.subtract(&both);
        assert_eq!((ledgers.weights("cuda:0"), ledgers.weights("cuda:1"), ledgers.rest()), (0, 10, Some(190)));
    }
}
