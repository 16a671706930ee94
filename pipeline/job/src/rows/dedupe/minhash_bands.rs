//! Similar texts, found by MinHash LSH.
//!
//! Texts that share an LSH bucket (an equal band) are brought together by sorting on disk, and compared by their full
//! sets, which are kept in a file. If all boilerplate of a site shares a band, comparing every pair would never end: a
//! text is compared only with texts of the band that are similar to none before them. Two texts that are both similar
//! to such a text are thus not compared with each other in this band, which matters if that text itself repeats
//! another; they meet in further bands that it does not share.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use datafusion::arrow::array::AsArray as _;

use crate::rows::dedupe::hashes::{AT, BANDS, SET};
use crate::rows::dedupe::sorted_files::{self, PairFile, Sorter, numbers, wrong};
use crate::rows::dedupe::text_sketch::are_similar;

/// Maximum number of texts per band that a new one is compared with; the one unmatched for longest is evicted (LRU).
const MOST: usize = 64;

/// Writes the pairs of similar texts and returns the files. A text is given by its place in the order of first rows,
/// `known` has the first row of each text, and `least` is the minimum similarity.
pub(crate) async fn alike(sorter: &Sorter, hashes: &[PathBuf], known: &[PathBuf], least: f64) -> Result<Vec<PathBuf>> {
    let bands = [sorter.folder.join("bands.parquet")];
    let mut sets = gather(sorter, hashes, known, &bands[0]).await?;
    failpoint::point("bands");
    let alike = sorter.folder.join("alike.parquet");
    let mut file = PairFile::create(&alike, None)?;
    let mut met = Met::new(least);
    let mut rows = sorter.pairs(&bands).await?;
    while let Some((band, place)) = rows.pair().await? {
        for earlier in met.text(band, place, &mut sets)? {
            file.push(place, earlier)?;
        }
    }
    file.end()?;
    // These two files are the largest of all, and the next steps need disk space too.
    drop(rows);
    for path in [&bands[0], &sets.path] {
        fs::remove_file(path).map_err(|e| Error::write(path, &e))?;
    }
    Ok(vec![alike])
}

/// Writes each band with the place of its text, and the texts' sets.
async fn gather(sorter: &Sorter, hashes: &[PathBuf], known: &[PathBuf], to: &Path) -> Result<Sets> {
    let mut firsts = sorter.pairs(known).await?;
    let mut first = firsts.pair().await?;
    let mut bands = PairFile::create(to, None)?;
    let mut sets = NewSets::create(sorter.folder.join("sets"))?;
    let mut place = 0;
    for path in hashes {
        for rows in sorted_files::read(path, &[AT, SET, BANDS])? {
            let rows = rows.map_err(|e| Error::dest(path, format!("cannot read: {e}")))?;
            let binary = |column: usize| {
                let found = rows.columns().get(column).and_then(|column| column.as_binary_opt::<i32>());
                found.ok_or_else(|| wrong(&format!("column {column} does not hold bytes")))
            };
            let (set_of, bands_of) = (binary(1)?, binary(2)?);
            for (row, at) in numbers(&rows, 0)?.values().iter().enumerate() {
                if first.is_none_or(|(first, _)| first != *at) {
                    continue;
                }
                sets.push(set_of.value(row))?;
                for band in bands_of.value(row).as_chunks::<8>().0 {
                    bands.push(u64::from_le_bytes(*band), place)?;
                }
                place += 1;
                first = firsts.pair().await?;
            }
        }
    }
    if first.is_some() {
        return Err(wrong("a text is gone"));
    }
    bands.end()?;
    sets.end()
}

/// Writer of the texts' sets, one after the other.
struct NewSets {
    file: BufWriter<File>,
    path: PathBuf,
    /// Start offset of each set, followed by the end of the last.
    starts: Vec<u64>,
}

impl NewSets {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::write(&path, &e))?;
        Ok(Self { file: BufWriter::new(file), path, starts: vec![0] })
    }

    fn push(&mut self, set: &[u8]) -> Result<()> {
        self.file.write_all(set).map_err(|e| Error::write(&self.path, &e))?;
        let start = self.starts.last().copied().unwrap_or_default();
        self.starts.push(start + set.len() as u64);
        Ok(())
    }

    fn end(mut self) -> Result<Sets> {
        self.file.flush().map_err(|e| Error::write(&self.path, &e))?;
        let file = File::open(&self.path).map_err(|e| Error::dest(&self.path, format!("cannot read: {e}")))?;
        Ok(Sets { file, path: self.path, starts: self.starts })
    }
}

/// Reader of the texts' sets, by place.
struct Sets {
    file: File,
    path: PathBuf,
    starts: Vec<u64>,
}

impl Sets {
    fn get(&mut self, place: u64) -> Result<Vec<u32>> {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some([start, end]) = self.starts.get(place..).and_then(|starts| starts.first_chunk::<2>()) else {
            return Err(wrong("a text has no set"));
        };
        let mut bytes = vec![0; (end - start) as usize];
        let read = self.file.seek(SeekFrom::Start(*start)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|e| Error::dest(&self.path, format!("cannot read: {e}")))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number)).collect())
    }
}

/// Representatives of one band, which further texts are compared with.
struct Met {
    least: f64,
    band: Option<u64>,
    /// First text of the band while it is the only one; most bands have just one, whose set need not be read.
    alone: Option<u64>,
    /// Texts that are similar to none before them, least recently matched first.
    texts: Vec<(u64, Vec<u32>)>,
}

impl Met {
    fn new(least: f64) -> Self {
        Self { least, band: None, alone: None, texts: Vec::new() }
    }

    /// Adds a text; those of a band must come in the order of their places. Returns the texts it is similar to.
    fn text(&mut self, band: u64, place: u64, sets: &mut Sets) -> Result<Vec<u64>> {
        if self.band != Some(band) {
            (self.band, self.alone) = (Some(band), Some(place));
            self.texts.clear();
            return Ok(Vec::new());
        }
        if let Some(first) = self.alone.take() {
            self.texts.push((first, sets.get(first)?));
        }
        Ok(self.compare(place, sets.get(place)?))
    }

    fn compare(&mut self, place: u64, set: Vec<u32>) -> Vec<u64> {
        let alike = |(_, (_, other)): &(usize, &(u64, Vec<u32>))| are_similar(&set, other, self.least);
        let (numbers, found): (Vec<usize>, Vec<u64>) =
            self.texts.iter().enumerate().filter(alike).map(|(n, (earlier, _))| (n, *earlier)).unzip();
        match numbers.first() {
            Some(n) => self.texts[*n..].rotate_left(1),
            None => {
                if self.texts.len() == MOST {
                    self.texts.remove(0);
                }
                self.texts.push((place, set));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, FixedSizeBinaryArray, UInt64Array};
    use datafusion::arrow::record_batch::RecordBatch;

    use super::*;
    use crate::rows::dedupe::hashes::{columns_of, schema};
    use crate::rows::dedupe::repeats;
    use crate::rows::dedupe::sorted_files::NewFile;
    use crate::rows::dedupe::text_sketch::Sketch;

    /// Writes hash files of `texts`, with `in_each` texts per file.
    fn written(folder: &Path, texts: &[String], least: f64, in_each: usize) -> Vec<PathBuf> {
        let files = texts.chunks(in_each).enumerate().map(|(n, texts)| {
            let path = folder.join(format!("hashes-{n}.parquet"));
            let mut file = NewFile::create(&path, &schema(true), None).unwrap();
            let sketches: Vec<Option<Sketch>> = texts.iter().map(|text| Sketch::of(text, least)).collect();
            let ats: UInt64Array = (0..texts.len()).map(|at| (n * in_each + at) as u64).collect();
            let keys = FixedSizeBinaryArray::try_from_sparse_iter_with_size(texts.iter().map(|_| None::<[u8; 32]>), 32);
            let looks = UInt64Array::new_null(texts.len());
            let mut columns: Vec<ArrayRef> = vec![Arc::new(ats), Arc::new(keys.unwrap()), Arc::new(looks)];
            columns.extend(columns_of(&sketches));
            file.write(&RecordBatch::try_new(schema(true), columns).unwrap()).unwrap();
            file.end().unwrap();
            path
        });
        files.collect()
    }

    /// Runs the search. Returns each row that repeats an earlier one, with that row.
    async fn found(texts: &[String], least: f64, in_each: usize) -> Vec<(u64, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let hashes = written(folder.path(), texts, least, in_each);
        let sorter = Sorter::new(folder.path()).unwrap();
        let to = folder.path().join("similar.parquet");
        repeats::texts(&sorter, &hashes, least, &to).await.unwrap();
        for large in ["bands.parquet", "sets"] {
            assert!(!folder.path().join(large).exists(), "{large}");
        }
        sorted_files::sorted_pairs(&to)
    }

    /// Asserts that every row found repeats an earlier row that stays. Returns how many rows stay that should not.
    fn left(texts: &[String], found: &[(u64, u64)], least: f64) -> usize {
        let sets: Vec<_> = texts.iter().map(|text| Sketch::of(text, least).unwrap().set).collect();
        let gone: BTreeSet<u64> = found.iter().map(|(at, _)| *at).collect();
        for (at, first) in found {
            assert!(first < at && !gone.contains(first), "{at} repeats {first}");
            let similar = are_similar(&sets[*at as usize], &sets[*first as usize], least);
            assert!(similar, "{:?} and {:?}", texts[*at as usize], texts[*first as usize]);
        }
        let stay: Vec<_> = (0..).zip(&sets).filter(|(at, _)| !gone.contains(at)).map(|(_, set)| set).collect();
        let should_go = |n: &usize| stay[..*n].iter().any(|before| are_similar(stay[*n], before, least));
        (0..stay.len()).filter(should_go).count()
    }

    /// A generator of numbers below a bound.
    fn numbers_from(mut state: u64) -> impl FnMut(usize) -> usize {
        move |bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        }
    }

    /// `families` groups of `count` texts, shuffled; the texts of a group differ from its original in up to `edits`
    /// words.
    fn families(families: usize, count: usize, edits: usize) -> Vec<String> {
        let mut next = numbers_from(5);
        let mut texts = Vec::new();
        for _ in 0..families {
            let words: Vec<String> = (0..8 + next(20)).map(|_| format!("w{}", next(3000))).collect();
            for _ in 0..count {
                let mut words = words.clone();
                for _ in 0..next(edits + 1) {
                    let place = next(words.len());
                    words[place] = if next(4) == 0 { next(1000).to_string() } else { format!("w{}", next(3000)) };
                }
                texts.push(words.join(" "));
            }
        }
        for n in (1..texts.len()).rev() {
            texts.swap(n, next(n + 1));
        }
        texts
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn similar_texts_are_found_and_no_others() {
        for (texts, least) in [
            (families(200, 5, 1), 0.8),
            (families(200, 5, 2), 0.9),
            (families(200, 5, 3), 0.6),
            (families(4, 250, 2), 0.8),
            (families(1000, 1, 0), 0.5),
        ] {
            let found = found(&texts, least, texts.len()).await;
            let left = left(&texts, &found, least);
            assert!(left * 50 <= found.len(), "{left} are left, and {} found", found.len());
            assert_eq!(found.is_empty(), least == 0.5, "texts that have nothing in common are not similar");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_do_not_matter_and_order_does() {
        let mut texts = families(100, 8, 2);
        let first = found(&texts, 0.8, texts.len()).await;
        assert!(first.len() > 200, "{}", first.len());
        for in_each in [1 + texts.len() / 2, 97] {
            assert_eq!(found(&texts, 0.8, in_each).await, first);
        }
        // In reverse order other texts come first, and the same rule holds.
        texts.reverse();
        let found = found(&texts, 0.8, 97).await;
        assert!(left(&texts, &found, 0.8) * 50 <= found.len());
        assert_ne!(found, first);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn boilerplate_goes() {
        let mut texts: Vec<String> = (0..2000).map(|n| format!("Buy now at SHOP | photo {n}")).collect();
        texts.insert(0, "a cup of coffee".to_owned());
        let found = found(&texts, 0.8, 500).await;
        assert!(found.len() > 1990, "{}", found.len());
        assert!(found.iter().filter(|(_, first)| *first == 1).count() > 1900);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_like_a_repetition_alone_stays() {
        let words: Vec<String> = (0..20).map(|n| format!("w{n}")).collect();
        let with = |others: &[usize]| {
            let word = |(n, word): (usize, &String)| if others.contains(&n) { format!("x{n}") } else { word.clone() };
            words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
        };
        // Each is similar to its neighbours. The third is similar only to the duplicate second, so it stays; the fourth
        // repeats it.
        let texts = [with(&[]), with(&[4]), with(&[4, 9]), with(&[4, 9, 14]), String::new(), "...".to_owned()];
        assert_eq!(found(&texts, 0.8, 6).await, [(1, 0), (3, 2)]);
        assert_eq!(found(&texts, 0.8, 1).await, [(1, 0), (3, 2)]);
        assert_eq!(found(&texts, 0.5, 6).await, [(1, 0), (2, 0), (3, 0)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn equal_texts_are_found_without_bands() {
        let texts = ["Dog.", "two dogs", "dog", "TWO  dogs!", "two dogs dogs", "", ""].map(str::to_owned);
        assert_eq!(found(&texts, 1.0, 3).await, [(2, 0), (3, 1)]);
        assert_eq!(found(&texts, 0.8, 3).await, [(2, 0), (3, 1)]);
        assert_eq!(found(&texts[5..], 0.8, 3).await, []);
    }

    #[test]
    fn a_band_of_unlike_texts_costs_no_more_than_some() {
        let mut met = Met::new(0.8);
        let mut heard = Vec::new();
        let set = |n: u64| vec![n as u32, 1_000_000 + n as u32];
        let mut place = 0;
        let mut meet = |n: u64, heard: &mut Vec<(u64, u64)>| {
            place += 1;
            heard.extend(met.compare(place, set(n)).into_iter().map(|earlier| (place, earlier)));
        };
        // The first recurs, so it stays in the cache; of the others the most recent do.
        for n in 0..10 * MOST as u64 {
            meet(if n % 10 == 0 { 0 } else { n }, &mut heard);
        }
        assert_eq!(heard, (1..MOST as u64).map(|n| (10 * n + 1, 1)).collect::<Vec<_>>());
        heard.clear();
        for n in [1, 10 * MOST as u64 - 1, 0] {
            meet(n, &mut heard);
        }
        assert_eq!(heard, [(10 * MOST as u64 + 2, 10 * MOST as u64), (10 * MOST as u64 + 3, 1)]);
    }
}
