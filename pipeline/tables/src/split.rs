//! Units: the ranges of rows that a job writes as a whole or redoes.

use serde::{Deserialize, Serialize};

/// A row of the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowPosition {
    /// File number.
    pub file: usize,
    /// Row number in the file, from 0.
    pub row: u64,
}

impl RowPosition {
    /// First row of `file` at or after this position; `file` must not precede the position's file.
    pub fn within(self, file: usize) -> u64 {
        if file == self.file { self.row } else { 0 }
    }
}

/// Partitioning of a source: every `rows` rows of a file are a unit, and units are dealt to `shards` processes, of
/// which this is number `shard` (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// Rows of a unit; the last one of a file may have fewer.
    pub rows: u64,
    /// Number of the shard, from 0.
    pub shard: u64,
    /// Number of shards.
    pub shards: u64,
}

impl Units {
    /// First row of the unit of `row`.
    pub(crate) fn start_of(&self, row: u64) -> u64 {
        row / self.rows * self.rows
    }

    /// Whether the unit that begins at `start` is this shard's. Each file begins with another shard, so that small
    /// files are shared too.
    pub fn mine(&self, file: usize, start: u64) -> bool {
        (start / self.rows + file as u64) % self.shards == self.shard
    }

    /// Ranges (first row, number of rows) of the units of a file of `all` rows, from row `from`, which may be inside a
    /// unit.
    pub fn ranges(&self, from: u64, all: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let Self { rows, .. } = *self;
        let mut start = from;
        std::iter::from_fn(move || {
            let at = start;
            let end = ((at / rows + 1) * rows).min(all);
            start = end;
            (at < all).then_some((at, end - at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_from_anywhere() {
        let units = Units { rows: 10, shard: 0, shards: 1 };
        assert_eq!(units.ranges(0, 25).collect::<Vec<_>>(), [(0, 10), (10, 10), (20, 5)]);
        assert_eq!(units.ranges(7, 12).collect::<Vec<_>>(), [(7, 3), (10, 2)]);
        assert!(units.ranges(25, 25).next().is_none() && units.ranges(0, 0).next().is_none());
        assert_eq!(units.start_of(17), 10);
    }

    #[test]
    fn shards_share_without_overlap() {
        let all: Vec<(usize, u64)> = (0..3).flat_map(|file| (0..7).map(move |unit| (file, unit * 10))).collect();
        let mut seen = Vec::new();
        for shard in 0..4 {
            let units = Units { rows: 10, shard, shards: 4 };
            let mine: Vec<_> = all.iter().copied().filter(|(file, start)| units.mine(*file, *start)).collect();
            assert!((4..=7).contains(&mine.len()), "{mine:?}");
            seen.extend(mine);
        }
        seen.sort_unstable();
        assert_eq!(seen, all);
    }
}
