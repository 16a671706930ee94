//! Pairs of hashes within a small Hamming distance.
//!
//! If hashes are cut into more blocks than bits may differ, two near hashes share some blocks (pigeonhole principle).
//! So the hashes are sorted by each choice of blocks in turn, and those that agree in these blocks are compared. For
//! few hashes, few blocks and thus few choices are fastest; for many, more shared blocks reduce chance matches.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::halt::Halt;

use crate::rows::dedupe::sorted_files::PairFile;

/// Memory limit for copies of the hashes, one per thread; a single copy is always made.
const MEMORY: usize = 1 << 30;
/// How much more often the hashes of real pictures agree in blocks than random ones.
const SKEW: f64 = 4.0;

/// A hash and its place in the order of first rows, packed into 12 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash {
    high: u32,
    low: u32,
    place: u32,
}

impl Hash {
    pub(crate) fn new(bits: u64, place: u32) -> Self {
        Self { high: (bits >> 32) as u32, low: bits as u32, place }
    }

    fn bits(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

/// How hashes are cut into blocks, and how many of the blocks a pair must share.
struct Plan {
    /// Maximum Hamming distance.
    bits: u32,
    blocks: Vec<u64>,
    /// Number of blocks that a pair shares at least.
    shared: usize,
}

impl Plan {
    /// The cheapest plan for `count` hashes.
    fn new(count: usize, bits: u32) -> Self {
        let best = (bits + 1..=bits + 4).min_by(|a, b| cost(count, bits, *a).total_cmp(&cost(count, bits, *b)));
        Self::of(bits, best.unwrap_or(bits + 1))
    }

    fn of(bits: u32, blocks: u32) -> Self {
        let below = |bit: u32| (1_u128 << bit) - 1;
        let cut = (0..blocks).map(|n| (below(64 * (n + 1) / blocks) - below(64 * n / blocks)) as u64);
        Self { bits, blocks: cut.collect(), shared: (blocks - bits) as usize }
    }

    /// Bit masks of all choices of `shared` blocks.
    fn choices(&self) -> Vec<u64> {
        let chosen = |set: u32| self.blocks.iter().enumerate().filter(move |(n, _)| set >> n & 1 == 1);
        (0..1_u32 << self.blocks.len())
            .filter(|set| set.count_ones() as usize == self.shared)
            .map(|set| chosen(set).fold(0_u64, |all, (_, block)| all | block))
            .collect()
    }

    /// The one choice under which a pair with this XOR is reported, of all choices that it shares.
    fn choice_of(&self, differ: u64) -> u64 {
        let shared = self.blocks.iter().filter(|block| differ & **block == 0);
        shared.take(self.shared).fold(0_u64, |all, block| all | block)
    }

    /// Calls `each` with the later and the earlier place of each near pair that is reported under `choice`.
    fn scan(
        &self,
        hashes: &mut [Hash],
        choice: u64,
        halt: &Halt,
        each: &mut dyn FnMut(u32, u32) -> Result<()>,
    ) -> Result<()> {
        hashes.sort_unstable_by_key(|hash| hash.bits() & choice);
        for together in hashes.chunk_by(|a, b| (a.bits() ^ b.bits()) & choice == 0) {
            for (n, one) in together.iter().enumerate() {
                halt.check()?;
                for other in &together[n + 1..] {
                    let differ = one.bits() ^ other.bits();
                    if differ.count_ones() <= self.bits && self.choice_of(differ) == choice {
                        each(one.place.max(other.place), one.place.min(other.place))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Estimated cost of sorting `count` hashes for each choice and comparing the candidates.
fn cost(count: usize, bits: u32, blocks: u32) -> f64 {
    let count = count as f64;
    let shared = blocks - bits;
    let choices: f64 = (1..=shared).map(|n| f64::from(bits + n) / f64::from(n)).product();
    let meet = SKEW * count * count / 2.0 / f64::from(64 * shared / blocks).exp2();
    choices * (2.0 * count * count.max(2.0).log2() + meet)
}

/// Writes each pair of `hashes` within `bits` differing bits once: the later place, then the earlier. All hashes must
/// be distinct. Returns the files.
pub(crate) fn write(hashes: Vec<Hash>, bits: u32, folder: &Path, halt: &Halt) -> Result<Vec<PathBuf>> {
    let plan = Plan::new(hashes.len(), bits);
    let choices = plan.choices();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let copies = MEMORY / (size_of_val(hashes.as_slice()) + 1);
    let threads = cores.min(choices.len()).min(copies).max(1);
    let mut copies: Vec<Vec<Hash>> = (1..threads).map(|_| hashes.clone()).collect();
    copies.push(hashes);
    let next = AtomicUsize::new(0);
    let (plan, choices, next) = (&plan, &choices, &next);
    std::thread::scope(|scope| {
        let running = copies.into_iter().enumerate().map(|(number, mut hashes)| {
            scope.spawn(move || -> Result<PathBuf> {
                let path = folder.join(format!("pairs-{number}.parquet"));
                let mut file = PairFile::create(&path, None)?;
                while let Some(choice) = choices.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut push = |later: u32, earlier: u32| file.push(u64::from(later), u64::from(earlier));
                    plan.scan(&mut hashes, *choice, halt, &mut push)?;
                }
                file.end()?;
                Ok(path)
            })
        });
        // Start all threads before joining the first.
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(|thread| {
            let gone = |_| Err(Error::Internal("a thread that compares hashes has ended".to_owned()));
            thread.join().unwrap_or_else(gone)
        });
        ended.collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Distinct hashes, many of them close to others.
    fn hashes(count: usize) -> Vec<u64> {
        let mut state = 7_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut all: Vec<u64> = Vec::new();
        while all.len() < count {
            let mut hash = next();
            if let Some(near) = all.get(hash as usize % (2 * all.len() + 1)) {
                hash = (0..hash >> 61).fold(*near, |hash, _| hash ^ (1_u64 << (next() % 64)));
            }
            if !all.contains(&hash) {
                all.push(hash);
            }
        }
        all
    }

    /// All pairs within `bits` differing bits, by brute force.
    fn all_pairs(hashes: &[u64], bits: u32) -> BTreeSet<(u32, u32)> {
        let later = |(n, a): (usize, &u64)| {
            let near = hashes[..n].iter().enumerate().filter(move |(_, b)| (a ^ **b).count_ones() <= bits);
            near.map(move |(m, _)| (n as u32, m as u32)).collect::<Vec<_>>()
        };
        hashes.iter().enumerate().flat_map(later).collect()
    }

    #[test]
    fn every_pair_is_found_once() {
        let hashes = hashes(500);
        for bits in [1, 3, 6, 9] {
            let want = all_pairs(&hashes, bits);
            assert!(want.len() > 20);
            for blocks in bits + 1..=bits + 4 {
                let plan = Plan::of(bits, blocks);
                assert_eq!(plan.blocks.iter().fold(0_u64, |all, block| all ^ block), u64::MAX);
                let mut given: Vec<_> = hashes.iter().zip(0..).map(|(hash, place)| Hash::new(*hash, place)).collect();
                let mut got = Vec::new();
                for choice in plan.choices() {
                    let mut each = |later: u32, earlier: u32| -> Result<()> {
                        got.push((later, earlier));
                        Ok(())
                    };
                    plan.scan(&mut given, choice, &Halt::default(), &mut each).unwrap();
                }
                assert_eq!(got.len(), want.len(), "{bits} bits, {blocks} blocks");
                assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), want, "{bits} bits, {blocks} blocks");
            }
        }
    }

    #[test]
    fn more_hashes_want_more_blocks() {
        let blocks = [1000, 10_000_000, 100_000_000].map(|count| Plan::new(count, 6).blocks.len());
        assert!(blocks.is_sorted() && blocks[0] < blocks[2], "{blocks:?}");
        assert_eq!(Plan::of(6, 9).choices().len(), 84);
    }

    #[test]
    fn a_cancelled_scan_ends() {
        let mut hashes = vec![Hash::new(1, 0), Hash::new(2, 1)];
        let halt = Halt::default();
        halt.set();
        let ended = Plan::of(2, 3).scan(&mut hashes, 0, &halt, &mut |_, _| Ok(()));
        assert!(matches!(ended, Err(Error::Interrupted)));
    }
}
