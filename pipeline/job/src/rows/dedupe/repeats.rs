//! The second pass: which hashes repeat earlier ones.

use std::path::{Path, PathBuf};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::halt;
use datafusion::arrow::array::{AsArray as _, BooleanBufferBuilder};

use crate::rows::dedupe::hamming::{self, Hash};
use crate::rows::dedupe::hashes::{AT, KEY, LOOKS, TEXT, schema};
use crate::rows::dedupe::minhash_bands;
use crate::rows::dedupe::representatives::Kinds;
use crate::rows::dedupe::sorted_files::{self, PairFile, Sorter, numbers, wrong};

/// Writes to `to` each row whose key an earlier row has, with the first row that has it.
pub(crate) async fn exact(sorter: &Sorter, hashes: &[PathBuf], to: &Path) -> Result<()> {
    let mut rows =
        sorter.sorted(hashes, &schema(false), Some(sorted_files::column(KEY).is_not_null()), [KEY, AT]).await?;
    let mut found = PairFile::create(to, None)?;
    let mut last: Vec<u8> = Vec::new();
    let mut first = 0;
    while let Some(batch) = rows.next().await? {
        let keys = batch.column(0).as_fixed_size_binary_opt().ok_or_else(|| wrong("a key is missing"))?;
        for (key, at) in keys.iter().zip(numbers(&batch, 1)?.values().iter()) {
            let key = key.ok_or_else(|| wrong("a key is missing"))?;
            if last == key {
                found.push(*at, first)?;
            } else {
                last.clear();
                last.extend_from_slice(key);
                first = *at;
            }
        }
    }
    found.end()
}

/// Writes to `to` each row whose text is similar to that of an earlier representative, with the representative's row.
pub(crate) async fn texts(sorter: &Sorter, hashes: &[PathBuf], least: f64, to: &Path) -> Result<()> {
    let equal = equal(sorter, hashes, TEXT, &Rows::none(0)).await?;
    // At similarity 1 texts have equal hashes, so there is nothing to compare.
    let alike = if least < 1.0 { minhash_bands::alike(sorter, hashes, &equal.known, least).await? } else { Vec::new() };
    spread(sorter, &equal, &alike, to).await
}

/// Writes to `to` each row whose picture looks like an earlier representative, with the representative's row. Rows in
/// `out` are ignored.
pub(crate) async fn near(sorter: &Sorter, hashes: &[PathBuf], bits: u32, out: &Rows, to: &Path) -> Result<()> {
    let equal = equal(sorter, hashes, LOOKS, out).await?;
    let alike = if bits == 0 { Vec::new() } else { alike(sorter, &equal, bits).await? };
    spread(sorter, &equal, &alike, to).await
}

/// Rows by equal hashes.
struct Equal {
    /// The first row of each hash, with the hash. Of identical items, such as all blank pictures, only the first is
    /// compared with others.
    known: [PathBuf; 1],
    /// Number of the hashes.
    count: usize,
    /// The other rows, each with the first row of its hash.
    others: PathBuf,
}

/// Sorts the rows by their hash in `column`, without those in `out`.
async fn equal(sorter: &Sorter, hashes: &[PathBuf], column: &str, out: &Rows) -> Result<Equal> {
    let folder = &sorter.folder;
    let mut equal = Equal { known: [folder.join("known.parquet")], count: 0, others: folder.join("others.parquet") };
    let (mut known, mut others) = (PairFile::create(&equal.known[0], None)?, PairFile::create(&equal.others, None)?);
    let is_there = sorted_files::column(column).is_not_null();
    let mut rows = sorter.sorted(hashes, &schema(column == TEXT), Some(is_there), [column, AT]).await?;
    let mut last = None;
    while let Some((hash, at)) = rows.pair().await? {
        match last {
            _ if out.has(at) => {}
            Some((same, first)) if same == hash => others.push(at, first)?,
            _ => {
                known.push(at, hash)?;
                equal.count += 1;
                last = Some((hash, at));
            }
        }
    }
    known.end()?;
    others.end()?;
    Ok(equal)
}

/// Writes to `to` each row that has an earlier representative, with the representative's row. `alike` are the files of
/// similar pairs, by place in the order of first rows.
async fn spread(sorter: &Sorter, equal: &Equal, alike: &[PathBuf], to: &Path) -> Result<()> {
    let mut firsts = Vec::with_capacity(equal.count);
    let mut rows = sorter.pairs(&equal.known).await?;
    while let Some((first, _)) = rows.pair().await? {
        firsts.push((first, first));
    }
    let mut kinds = Kinds { all: firsts };
    if !alike.is_empty() {
        let mut rows = sorter.pairs(alike).await?;
        while let Some((later, earlier)) = rows.pair().await? {
            kinds.pair(later, earlier);
        }
    }
    let mut found = PairFile::create(to, None)?;
    for (first, of) in kinds.all.iter().filter(|(first, of)| first != of) {
        found.push(*first, *of)?;
    }
    for pair in sorted_files::pairs(&equal.others)? {
        let (at, first) = pair?;
        found.push(at, kinds.of(first).ok_or_else(|| wrong("a first row is gone"))?)?;
    }
    found.end()
}

/// A bitmap of row numbers.
pub(crate) struct Rows(BooleanBufferBuilder);

impl Rows {
    /// An empty set over `count` rows.
    pub(crate) fn none(count: u64) -> Self {
        let count = count as usize;
        let mut bits = BooleanBufferBuilder::new(count);
        bits.append_n(count, false);
        Self(bits)
    }

    /// Adds the left rows of a pair file.
    pub(crate) fn add(&mut self, path: &Path) -> Result<()> {
        for pair in sorted_files::pairs(path)? {
            let (at, _) = pair?;
            if at >= self.0.len() as u64 {
                return Err(wrong("there is no such row"));
            }
            self.0.set_bit(at as usize, true);
        }
        Ok(())
    }

    fn has(&self, at: u64) -> bool {
        at < self.0.len() as u64 && self.0.get_bit(at as usize)
    }
}

/// Writes the near pairs of the known pictures, by place in the order of first rows, and returns the files.
async fn alike(sorter: &Sorter, equal: &Equal, bits: u32) -> Result<Vec<PathBuf>> {
    let mut hashes = Vec::with_capacity(equal.count);
    let mut rows = sorter.pairs(&equal.known).await?;
    while let Some((_, hash)) = rows.pair().await? {
        let place = u32::try_from(hashes.len()).map_err(|_| {
            let most = u32::MAX;
            Error::Option(format!("--dedupe near compares {most} pictures at most: give --dedupe near=0 or exact"))
        })?;
        hashes.push(Hash::new(hash, place));
    }
    let folder = sorter.folder.clone();
    halt::aside(move |halt| hamming::write(hashes, bits, &folder, halt)).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, FixedSizeBinaryArray, UInt64Array};
    use datafusion::arrow::record_batch::RecordBatch;

    use super::*;
    use crate::rows::dedupe::sorted_files::NewFile;

    type Row = (Option<u8>, Option<u64>);

    /// Two hash files of `rows`.
    fn written(folder: &Path, rows: &[Row]) -> Vec<PathBuf> {
        let mut at = 0;
        let halves = rows.chunks(rows.len().div_ceil(2)).enumerate().map(|(n, rows)| {
            let path = folder.join(format!("hashes-{n}.parquet"));
            let mut file = NewFile::create(&path, &schema(false), None).unwrap();
            let ats: UInt64Array = (at..at + rows.len() as u64).collect();
            at += rows.len() as u64;
            let keys = rows.iter().map(|(key, _)| key.map(|key| [key; 32]));
            let keys = FixedSizeBinaryArray::try_from_sparse_iter_with_size(keys, 32).unwrap();
            let looks: UInt64Array = rows.iter().map(|(_, looks)| *looks).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(ats), Arc::new(keys), Arc::new(looks)];
            file.write(&RecordBatch::try_new(schema(false), columns).unwrap()).unwrap();
            file.end().unwrap();
            path
        });
        halves.collect()
    }

    /// Reference implementation: compares every row in order with the representatives so far.
    fn one_by_one(rows: &[Row], bits: u32, out: &[u64]) -> Vec<(u64, u64)> {
        let mut firsts: Vec<(u64, u64)> = Vec::new();
        let mut found = Vec::new();
        let rows = (0..).zip(rows).filter(|(at, _)| !out.contains(at));
        for (at, looks) in rows.filter_map(|(at, (_, looks))| looks.map(|looks| (at, looks))) {
            match firsts.iter().find(|(_, first)| (first ^ looks).count_ones() <= bits) {
                Some((first, _)) => found.push((at, *first)),
                None => firsts.push((at, looks)),
            }
        }
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn repetitions_are_found_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a [folder] of % and *");
        std::fs::create_dir(&folder).unwrap();
        let mut state = 3_u64;
        let mut next = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        // A few pictures with a few flipped bits give many chains; some rows have keys, some neither.
        let rows: Vec<Row> = (0..2000)
            .map(|n| match n % 10 {
                0 => (None, None),
                1 | 2 => (Some(next(90) as u8), None),
                _ => {
                    let picture = (next(40) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    (None, Some((0..next(7)).fold(picture, |hash, _| hash ^ (1_u64 << next(64)))))
                }
            })
            .collect();
        let hashes = written(&folder, &rows);
        // Rows that are excluded for another reason: every third, or none.
        let thirds: Vec<u64> = (0..2000).step_by(3).collect();
        for (bits, gone) in [(0, &[][..]), (3, &[]), (6, &[]), (0, &thirds), (6, &thirds)] {
            let sorter = Sorter::new(&folder).unwrap();
            let mut file = PairFile::create(&folder.join("out.parquet"), None).unwrap();
            gone.iter().for_each(|at| file.push(*at, 0).unwrap());
            file.end().unwrap();
            let mut out = Rows::none(2000);
            out.add(&folder.join("out.parquet")).unwrap();
            let to = folder.join("near.parquet");
            near(&sorter, &hashes, bits, &out, &to).await.unwrap();
            let want = one_by_one(&rows, bits, gone);
            assert!(want.len() > 50, "{} of {bits} bits", want.len());
            assert_eq!(sorted_files::sorted_pairs(&to), want, "{bits} bits, {} out", gone.len());
        }
        let sorter = Sorter::new(&folder).unwrap();
        let to = folder.join("exact.parquet");
        exact(&sorter, &hashes, &to).await.unwrap();
        let first = |key: &u8| rows.iter().position(|(other, _)| other.as_ref() == Some(key)).unwrap() as u64;
        let keys = (0..).zip(&rows).filter_map(|(at, (key, _))| key.as_ref().map(|key| (at, first(key))));
        assert_eq!(
            sorted_files::sorted_pairs(&to),
            keys.filter(|(at, first)| at != first).collect::<Vec<(u64, u64)>>()
        );
    }
}
