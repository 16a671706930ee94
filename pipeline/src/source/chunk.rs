//! What a source is read in.

use std::collections::BTreeMap;

use datafusion::arrow::record_batch::RecordBatch;

use super::Position;

/// Some rows of one unit, in the order of the source.
pub(crate) struct Chunk {
    /// Where the unit begins.
    pub(crate) unit: Position,
    /// The first row's number in its file, and how many rows it stands for.
    pub(crate) row: u64,
    pub(crate) count: u64,
    /// What is to be done, and each row's number in the file.
    pub(crate) rows: RecordBatch,
    pub(crate) numbers: Vec<u64>,
    /// Why rows are not to be done, by their number; they are given no image.
    pub(crate) problems: BTreeMap<u64, String>,
    /// Pairs of the other rows, which a table had already, in their order; with the number of the row.
    pub(crate) earlier: Vec<(u64, RecordBatch)>,
}

impl Chunk {
    /// The same in chunks of at most `most` rows that are to be done each.
    pub(crate) fn cut(mut self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let mut cut = Vec::new();
        while let Some(number) = self.numbers.get(most).copied() {
            // Rows of a sample may lie far from each other.
            let before = (number - self.row).min(self.count);
            let earlier = self.earlier.partition_point(|(row, _)| *row < number);
            let rest = Self {
                unit: self.unit,
                row: number,
                count: self.count - before,
                rows: self.rows.slice(most, self.rows.num_rows() - most),
                numbers: self.numbers.split_off(most),
                problems: self.problems.split_off(&number),
                earlier: self.earlier.split_off(earlier),
            };
            (self.rows, self.count) = (self.rows.slice(0, most), before);
            cut.push(std::mem::replace(&mut self, rest));
        }
        cut.push(self);
        cut
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, AsArray as _, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_chunk_that_is_cut_has_all_it_had() {
        let batch = |values: Vec<i64>| {
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
        };
        // Rows 10 to 20, of which 12 and 16 have pairs already and 19 is there no more.
        let numbers = vec![10, 11, 13, 14, 15, 17, 18];
        let chunk = Chunk {
            unit: Position { file: 3, row: 8 },
            row: 10,
            count: 10,
            rows: batch(numbers.iter().map(|n| *n as i64).collect()),
            numbers,
            problems: BTreeMap::from([(11, "a".to_owned()), (15, "b".to_owned())]),
            earlier: vec![(12, batch(vec![12])), (16, batch(vec![16, 16]))],
        };
        let cut = chunk.cut(3);
        let found: Vec<_> = cut
            .iter()
            .map(|c| {
                let rows = c.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                let (problems, earlier): (Vec<u64>, Vec<u64>) =
                    (c.problems.keys().copied().collect(), c.earlier.iter().map(|(row, _)| *row).collect());
                (c.unit.row, c.row, c.count, rows, problems, earlier)
            })
            .collect();
        let wanted = [
            (8, 10, 4, vec![10, 11, 13], vec![11], vec![12]),
            (8, 14, 4, vec![14, 15, 17], vec![15], vec![16]),
            (8, 18, 2, vec![18], vec![], vec![]),
        ];
        assert_eq!(found, wanted);
        assert!(cut.iter().all(|c| {
            c.numbers.iter().map(|n| *n as i64).eq(c
                .rows
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .copied())
        }));
    }
}
