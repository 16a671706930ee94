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

    /// Ranges (first row, number of rows) of this shard's units of a file of `all` rows, from the position `from`, which may
    /// be inside a unit, and in this file or one before it. Each file begins with another shard, so that small files are
    /// shared too.
    pub fn ranges(self, file: usize, from: RowPosition, all: u64) -> impl Iterator<Item = (u64, u64)> {
        let Self { rows, shard, shards } = self;
        let mut start = if file == from.file { from.row } else { 0 };
        let ranges = std::iter::from_fn(move || {
            let at = start;
            let end = ((at / rows + 1) * rows).min(all);
            start = end;
            (at < all).then_some((at, end - at))
        });
        ranges.filter(move |(start, _)| (start / rows + file as u64) % shards == shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_from_anywhere() {
        let units = Units { rows: 10, shard: 0, shards: 1 };
        let ranges = |row: u64, all: u64| units.ranges(2, RowPosition { file: 2, row }, all).collect::<Vec<_>>();
        assert_eq!(ranges(0, 25), [(0, 10), (10, 10), (20, 5)]);
        assert_eq!(ranges(7, 12), [(7, 3), (10, 2)]);
        assert!(ranges(25, 25).is_empty() && ranges(0, 0).is_empty());
        let earlier = RowPosition { file: 1, row: 7 };
        assert_eq!(units.ranges(2, earlier, 12).collect::<Vec<_>>(), [(0, 10), (10, 2)]);
        assert_eq!(units.start_of(17), 10);
    }

    #[test]
    fn shards_share_without_overlap() {
        let all: Vec<(usize, u64)> = (0..3).flat_map(|file| (0..7).map(move |unit| (file, unit * 10))).collect();
        let mut seen = Vec::new();
        for shard in 0..4 {
            let units = Units { rows: 10, shard, shards: 4 };
            let starts =
                |file: usize| units.ranges(file, RowPosition::default(), 70).map(move |(start, _)| (file, start));
            let mine: Vec<_> = (0..3).flat_map(starts).collect();
            assert!((4..=7).contains(&mine.len()), "{mine:?}");
            seen.extend(mine);
        }
        seen.sort_unstable();
        assert_eq!(seen, all);
    }
}
