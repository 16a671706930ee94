//! Random choices, reproducible on every platform.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random choices.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// Creates the stream identified by three numbers; other numbers give an independent stream.
    pub(super) fn new(seed: u64, purpose: u64, index: u64) -> Self {
        let mut bytes = [0; 32];
        for (place, number) in bytes.chunks_exact_mut(8).zip([seed, purpose, index]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(bytes))
    }

    /// A random 32-bit number.
    pub(super) fn number(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A random integer below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.number()) * bound as u64) >> 32) as usize
    }

    /// A random number from `low` to `high`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.number() >> 8) as f32 / (1 << 24) as f32
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        f64::from(self.number()) < probability * 4_294_967_296.0
    }

    /// One of the items, uniformly.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// One of the items: the first with a probability of at least 0.6, as people mostly use the plain word.
    pub(super) fn usual<T: Copy>(&mut self, items: &[T]) -> T {
        if self.chance(0.6) { items[0] } else { self.pick(items) }
    }

    /// A random index, with probability proportional to its weight.
    pub(super) fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone) -> usize {
        let mut left = f64::from(self.number()) / 4_294_967_296.0 * weights.clone().sum::<f64>();
        let mut last = 0;
        for (i, weight) in weights.enumerate().filter(|(_, weight)| *weight > 0.0) {
            last = i;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Shuffles the items.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
