//! `--dry-run`: estimates a job from a sample of its rows, without creating or writing anything.

pub(crate) mod estimate;

use std::sync::Arc;
use std::time::Instant;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::halt;
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use capfilt_tables::split::{RowPosition, Units};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use tokio::sync::{mpsc, watch};

use crate::checkpoint::admission::{admit, check_agreement};
use crate::checkpoint::register;
use crate::dry_run::estimate::Sample;
use crate::images::loader::ImageLoader;
use crate::options::{Mode, Stop};
use crate::output::pair_files::Format;
use crate::output::split_writer::{self, Left, Pairs};
use crate::recipe::provenance::Provenance;
use crate::run::apply::Work;
use crate::run::local::LocalRunner;
use crate::run::prefetch::prefetch;
use crate::run::resume::{Job, Prepared};
use crate::run::runner::{PairSink, Runner as _};
use crate::tally::counts::Tally;

pub use crate::dry_run::estimate::Estimate;

/// Adjacent rows per place of the sample. Neighbours are alike, but each new place costs a seek.
const PLACE: u64 = 4;
/// Places that are run first as a warm-up and not counted, since they include loading the models.
const WARM_UP: u64 = 2;

/// Performs all checks of `job`, and runs its recipe on about `sample` rows, spread over the rows left to do.
///
/// Errors like [`run`](crate::run::job()), as far as its errors precede the first write.
pub async fn dry_run(ctx: &SessionContext, job: &Job, sample: usize) -> Result<Estimate> {
    if job.mode == Mode::Retry {
        return Err(Error::Option("a dry run does not know which rows a retry would do again".to_owned()));
    }
    let Prepared { mut source, workers, planned, identity, loader } = job.prepare(ctx).await?;
    let store = register::peek(&job.dest, job.shard);
    let admission = admit(&*store, &identity, job.mode)?;
    let (mut manifest, begun, _) = job.manifest(&*store, admission, identity, &mut source)?;
    let format = job.format(&planned, &source, &mut manifest)?;
    if !manifest.replaces {
        check_agreement(&*store, &manifest)?;
    }
    let done = if begun { split_writer::left(&*store, &manifest)? } else { Left::default() };
    let units = manifest.units();
    let mut estimate = Estimate {
        files: source.files(),
        rows: source.rows(),
        bytes: source.bytes(),
        done: done.tally.rows,
        left: source.rows_of(&units, done.next),
        replaces: manifest.replaces,
        shard: job.shard,
        sample: None,
    };

    let batch = ctx.copied_config().batch_size().max(1);
    let source = Arc::new(source);
    let drawn = {
        let source = Arc::clone(&source);
        // Blocking: a text file is read from its beginning up to each place.
        halt::aside(move |_| draw(&source, units, done.next, sample as u64, batch))
    };
    let Drawn { warm_up, sample, places } = drawn.await?;
    let mut files: Vec<usize> = sample.iter().map(|chunk| chunk.unit.file).collect();
    files.dedup();
    let second = job.loader(ctx, &source).await?;
    let provenance = Provenance::new(&manifest.job, planned.decoding.clone());
    let work = Arc::new(Work { planned, provenance, source, workers });
    // As in a job, give each worker several chunks, so that workers seldom idle while the last one finishes.
    let most = sample.iter().map(|chunk| chunk.numbers.len()).sum::<usize>().div_ceil(2 * workers);
    let most = most.max(PLACE as usize).min(batch);
    let before = pairs(&work, loader, join(warm_up, most)?).await?;
    let sample = join(sample, most)?;
    let started = Instant::now();
    let made = pairs(&work, second, sample).await?;
    let elapsed = started.elapsed();

    let (warm_up, tally) = (total(&before).rows, total(&made));
    if tally.rows > 0 {
        let row_bytes = pair_bytes(&format, made)? / tally.rows as f64;
        estimate.sample = Some(Sample { tally, places, files: files.len(), warm_up, elapsed, row_bytes });
    }
    Ok(estimate)
}

fn total(made: &[Pairs]) -> Tally {
    let mut tally = Tally::default();
    made.iter().for_each(|pairs| tally.merge(&pairs.tally));
    tally
}

/// Consecutive rows of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    file: usize,
    start: u64,
    rows: u64,
}

struct Drawn {
    warm_up: Vec<Chunk>,
    sample: Vec<Chunk>,
    /// Number of places in the sample.
    places: usize,
}

/// Reads about `rows` rows for the sample and some for the warm-up, from position `from` on. The two must not share
/// rows, whose results would be memoised.
fn draw(source: &Source, units: Units, from: RowPosition, rows: u64, batch: usize) -> Result<Drawn> {
    let records = source.records();
    let all: u64 = left(&records, units, from).map(|range| range.rows).sum();
    let (warm_up, sample) = set_apart(spread(all, rows + WARM_UP * PLACE));
    let read = |spots: &[(u64, u64)]| read(source, units, &locate(left(&records, units, from), spots), batch);
    Ok(Drawn { warm_up: read(&warm_up)?, sample: read(&sample)?, places: sample.len() })
}

/// The rows of `units` from `from` on.
fn left(records: &[FileRecord], units: Units, from: RowPosition) -> impl Iterator<Item = Range> {
    records.iter().enumerate().skip(from.file).flat_map(move |(file, record)| {
        units.ranges(file, from, record.rows).map(move |(start, rows)| Range { file, start, rows })
    })
}

/// Spots (first row, number of rows) spread evenly over `all` rows, with about `wanted` rows in total.
fn spread(all: u64, wanted: u64) -> Vec<(u64, u64)> {
    let spots = wanted.min(all).div_ceil(PLACE);
    let spot = |n: u64| {
        let (from, to) = (n * all / spots, (n + 1) * all / spots);
        let rows = PLACE.min(to - from);
        (from + (to - from - rows) / 2, rows)
    };
    (0..spots).map(spot).collect()
}

/// First row, counted through all rows left to do, and number of rows.
type Spot = (u64, u64);

/// Splits spots into those for the warm-up, evenly spread among the others, and the others.
fn set_apart(spots: Vec<Spot>) -> (Vec<Spot>, Vec<Spot>) {
    // With fewer than three spots, none can be spared.
    let warm_up = WARM_UP.min(spots.len() as u64 / 3) as usize;
    let step = spots.len() / warm_up.max(1);
    let (apart, rest): (Vec<_>, Vec<_>) =
        spots.into_iter().enumerate().partition(|(n, _)| warm_up > 0 && n % step == step / 2);
    let spots = |of: Vec<(usize, (u64, u64))>| -> Vec<(u64, u64)> { of.into_iter().map(|(_, spot)| spot).collect() };
    (spots(apart), spots(rest))
}

/// Translates spots, which count rows through all `ranges`, into file ranges.
fn locate(ranges: impl Iterator<Item = Range>, spots: &[(u64, u64)]) -> Vec<Range> {
    let mut found = Vec::new();
    let mut spots = spots.iter().copied();
    let mut next = spots.next();
    let mut before = 0;
    for Range { file, start, rows } in ranges {
        while let Some((first, count)) = next
            && first < before + rows
        {
            let here = count.min(before + rows - first);
            found.push(Range { file, start: start + first - before, rows: here });
            // A spot may continue in the next range.
            next = if here < count { Some((first + here, count - here)) } else { spots.next() };
        }
        before += rows;
    }
    found
}

fn read(source: &Source, units: Units, ranges: &[Range], batch: usize) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    for of_one in ranges.chunk_by(|a, b| a.file == b.file) {
        let Some(Range { file, .. }) = of_one.first() else { continue };
        let rows: Vec<(u64, u64)> = of_one.iter().map(|range| (range.start, range.rows)).collect();
        let mut take = |chunk: Result<Chunk>| {
            chunks.push(chunk);
            true
        };
        source.read_ranges(*file, units, &rows, batch, &mut take)?;
    }
    chunks.into_iter().collect()
}

/// Joins adjacent chunks of the same file into chunks of at most `most` rows.
fn join(chunks: Vec<Chunk>, most: usize) -> Result<Vec<Chunk>> {
    let mut joined: Vec<Chunk> = Vec::new();
    for chunk in chunks {
        match joined.last_mut() {
            Some(last) if last.unit.file == chunk.unit.file && last.numbers.len() + chunk.numbers.len() <= most => {
                last.rows = concat_batches(&chunk.rows.schema(), [&last.rows, &chunk.rows])
                    .map_err(|e| Error::Internal(format!("joining the sample's chunks: {e}")))?;
                last.count += chunk.count;
                last.numbers.extend(chunk.numbers);
                last.problems.extend(chunk.problems);
            }
            _ => joined.push(chunk),
        }
    }
    Ok(joined)
}

/// Makes the pairs of `chunks` as a job would, several chunks in flight.
async fn pairs(work: &Arc<Work>, loader: Arc<dyn ImageLoader>, chunks: Vec<Chunk>) -> Result<Vec<Pairs>> {
    let (sender, receiver) = mpsc::channel(chunks.len().max(1));
    for chunk in chunks {
        // The channel has capacity for all chunks.
        if sender.send(Ok(chunk)).await.is_err() {
            break;
        }
    }
    drop(sender);
    // Without its sender no stop can be requested.
    let (_, stop) = watch::channel(Stop::No);
    let mut made = Vec::new();
    LocalRunner { workers: work.workers }.run(work, prefetch(receiver, Vec::new(), loader), &stop, &mut made).await?;
    Ok(made)
}

impl PairSink for Vec<Pairs> {
    async fn take(&mut self, pairs: Pairs) -> Result<bool> {
        self.push(pairs);
        Ok(true)
    }
}

/// Bytes that the pairs would add to a large file. The fixed size of a file is subtracted by measuring one with a
/// single pair.
fn pair_bytes(format: &Format, made: Vec<Pairs>) -> Result<f64> {
    let batches = made.into_iter().flat_map(|pairs| pairs.batches).map(|batch| format.shape(batch));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(first) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(0.0) };
    let all = format.measure(&batches)? as f64;
    if count == 1 {
        return Ok(all);
    }
    let one = format.measure(&[first.slice(0, 1)])? as f64;
    Ok((all - one).max(0.0) / (count - 1) as f64 * count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(spots: &[(u64, u64)]) -> u64 {
        spots.iter().map(|(_, rows)| rows).sum()
    }

    #[test]
    fn spots_are_spread_and_do_not_meet() {
        for all in [0, 1, 3, 4, 5, 39, 40, 71, 72, 73, 1000, 1 << 40] {
            let spots = spread(all, 72);
            assert!(spots.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{all}: {spots:?}");
            assert!(spots.iter().all(|(start, rows)| *rows > 0 && start + rows <= all), "{all}: {spots:?}");
            assert!(rows(&spots) <= 72 && rows(&spots) >= all.min(72) * 9 / 10, "{all}: {spots:?}");
            let (warm_up, sample) = set_apart(spots.clone());
            assert_eq!(rows(&warm_up) + rows(&sample), rows(&spots));
            assert!(rows(&warm_up) <= WARM_UP * PLACE && rows(&warm_up) <= rows(&sample), "{all}: {warm_up:?}");
            assert_eq!(warm_up.is_empty(), spots.len() < 3, "{all}");
        }
        assert_eq!(spread(1000, 8), [(248, 4), (748, 4)]);
        assert_eq!(rows(&set_apart(spread(1 << 40, 72)).1), 64);
    }

    #[test]
    fn spots_are_found_in_files_and_units() {
        let file =
            |rows| FileRecord { name: String::new(), bytes: 0, stamp: String::new(), rows, images: Default::default() };
        let records = [file(10), file(0), file(5)];
        let units = Units { rows: 4, shard: 0, shards: 1 };
        let all: Vec<Range> = left(&records, units, RowPosition { file: 0, row: 4 }).collect();
        let range = |file, start, rows| Range { file, start, rows };
        assert_eq!(all, [range(0, 4, 4), range(0, 8, 2), range(2, 0, 4), range(2, 4, 1)]);
        let found = locate(all.iter().copied(), &[(1, 1), (3, 4), (10, 1)]);
        assert_eq!(found, [range(0, 5, 1), range(0, 7, 1), range(0, 8, 2), range(2, 0, 1), range(2, 4, 1)]);
        let shard = Units { shards: 2, ..units };
        let mine: Vec<Range> = left(&records, shard, RowPosition::default()).collect();
        assert_eq!(mine, [range(0, 0, 4), range(0, 8, 2), range(2, 0, 4)]);
    }
}
