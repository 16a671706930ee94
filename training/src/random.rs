//! Random numbers derived from (seed, step, purpose), so that a run resumed at a step draws the same numbers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Purpose of random numbers. Each purpose has its own stream, so that additional draws for one do not change another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights.
    Weights,
    /// Initial features of the queues.
    Queues,
    /// Dropout and stochastic depth.
    Dropout,
    /// Hard negatives.
    Negatives,
    /// Order of the pairs.
    Shuffle,
    /// Choice among an image's texts.
    Text,
    /// Crop, flip and RandAugment.
    Augment,
}

fn digest(seed: u64, step: u64, purpose: Purpose) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(step.to_le_bytes());
    hasher.update([purpose as u8]);
    hasher.finalize().into()
}

/// Generator for one step and purpose.
pub fn generator(seed: u64, step: u64, purpose: Purpose) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(digest(seed, step, purpose))
}

/// Seeds libtorch's generator, whose state cannot be stored, for one step and purpose. All threads of the process share it,
/// so another one that seeds it waits until what this returns is dropped, after the numbers were drawn.
pub fn seed_torch(seed: u64, step: u64, purpose: Purpose) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let held = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let [a, b, c, d, e, f, g, h, ..] = digest(seed, step, purpose);
    tch::manual_seed(i64::from_le_bytes([a, b, c, d, e, f, g, h]));
    held
}

/// A random number in [0, 1).
pub fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A random integer in [0, n); `n` must not be 0.
pub fn below(n: usize, rng: &mut impl Rng) -> usize {
    // Biased by less than n / 2^53.
    ((unit(rng) * n as f64) as usize).min(n - 1)
}

/// A random index with these weights, which need not sum to 1; `None` if all are 0.
pub fn draw(weights: &[f64], rng: &mut impl Rng) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut at = unit(rng) * total;
    let mut last = None;
    for (i, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            last = Some(i);
            if at < *weight {
                return last;
            }
            at -= weight;
        }
    }
    // Rounding may leave a remainder.
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_step_and_purpose() {
        let first = |seed, step, purpose| generator(seed, step, purpose).next_u64();
        let numbers = [
            first(1, 1, Purpose::Negatives),
            first(2, 1, Purpose::Negatives),
            first(1, 2, Purpose::Negatives),
            first(1, 1, Purpose::Dropout),
        ];
        assert_eq!(numbers[0], first(1, 1, Purpose::Negatives));
        for i in 0..4 {
            assert!(numbers[i + 1..].iter().all(|n| *n != numbers[i]));
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let mut rng = generator(3, 0, Purpose::Negatives);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[draw(&[1.0, 0.0, 3.0, 0.0], &mut rng).unwrap()] += 1;
        }
        assert_eq!((counts[1], counts[3]), (0, 0));
        assert!((2300..2700).contains(&counts[0]), "{counts:?}");
        assert_eq!(draw(&[0.0; 3], &mut rng), None);
        assert_eq!(draw(&[], &mut rng), None);
    }
}
