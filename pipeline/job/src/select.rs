//! `capfilt select`: applies other thresholds to a finished pair table by its stored scores, without a model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use capfilt_tables::sql::spilling_session::bounded;
use capfilt_tables::store::url::whereabouts;
use clap::{ArgGroup, Args};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, StringArray, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Int64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::disk_manager::DiskManagerMode;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::checkpoint::admission::{Admission, admit};
use crate::checkpoint::apart::check_apart;
use crate::checkpoint::manifest::{Identity, Manifest};
use crate::checkpoint::manifests;
use crate::checkpoint::register;
use crate::images::original::{Pictures, Wanted};
use crate::options::{self, Images, Mode, OutputFormat};
use crate::output::commit::register::committer;
use crate::output::pair_files::Format;
use crate::output::split_writer::{End, Pairs, WriterThread, Written};
use crate::tally::counts::{Summary, Tally, origins};
use crate::verdicts::Verdicts;

/// Rows judged at a time.
const ROWS: usize = 64;

/// Selection of pairs from a finished table.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["min_itm", "min_itm_of", "keep_fraction"]))]
pub struct Select {
    /// A finished pair table of `capfilt run`
    pub table: PathBuf,

    /// Destination folder of the new pair table
    pub dest: PathBuf,

    /// Minimum match probability of a kept pair [default: the table's own; with --keep-fraction 0]
    #[arg(long, value_name = "P", value_parser = options::score)]
    pub min_itm: Option<f32>,

    /// Minimum match probability of the texts of one source: --min-itm-of web=0.6
    #[arg(long, value_name = "SOURCE=P", value_parser = options::source_score)]
    pub min_itm_of: Vec<(String, f32)>,

    /// Keep the best share of all scored pairs: 0.3 for the best 30 %
    // Ties with the last pair are kept too.
    #[arg(long, value_name = "F", value_parser = options::probability)]
    pub keep_fraction: Option<f64>,

    /// Which pairs the new table has
    #[arg(long, value_enum, default_value = "all")]
    pub write_pairs: options::Pairs,

    /// Location of the source, for images that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,

    /// Start over, and replace the pair table at DEST once the new one is complete
    #[arg(long)]
    pub overwrite: bool,
}

impl Select {
    /// Recomputes `kept` for every pair. Pairs that are newly kept get a missing image from the source, verified by its
    /// SHA-256.
    ///
    /// # Errors
    /// Errors if the table is unfinished or not of Parquet, or if a missing image is no longer in the source.
    pub async fn run(&self) -> Result<Summary> {
        let started = Instant::now();
        let manifests = manifests::of_parquet(&self.table, "pairs are selected from Parquet")?;
        let first = &manifests[0];
        match first.verdicts.by_itm_alone {
            Some(true) => {}
            Some(false) => {
                let reason = "its verdicts do not follow from the ITM scores alone (--itc-gate, --best or --combine vote): run the \
                              job again with other thresholds";
                return Err(Error::dest(&self.table, reason));
            }
            None => log::warn!(
                "{}: its recipe is not a built-in one, or an earlier version wrote it; pairs are selected by their ITM score alone, whatever \
                 rule kept them before",
                self.table.display()
            ),
        }
        let mut parts = Source::open(&self.table)?;
        check_apart(&parts, &self.dest)?;
        let min_itm = self.min_itm(&first.verdicts)?;
        self.check_stored(first, min_itm)?;
        self.check_sources().await?;
        let fraction = match self.keep_fraction {
            Some(share) => {
                let ctx = bounded(DiskManagerMode::OsTmpDirectory)?;
                capfilt_tables::sql::open::register_pairs(&ctx, "pairs", &self.table, None).await?;
                Some(score_at(&ctx, share).await?)
            }
            None => None,
        };
        let identity = self.identity(&first.job, min_itm);
        let images = first.job.images;
        let store = register::open(&self.dest, (1, 1))?;
        let mode = if self.overwrite { Mode::Overwrite } else { Mode::Create };
        let (manifest, begun) = match admit(&*store, &identity, mode)? {
            Admission::Begin { replaces } => {
                let verdicts = Verdicts {
                    min_itm: Some(min_itm),
                    min_itm_of: self.min_itm_of.clone(),
                    selected: true,
                    by_itm_alone: Some(true),
                };
                let mut manifest = Manifest::new(1, identity, verdicts, &parts, replaces);
                manifest.source = whereabouts(&first.source);
                (manifest, false)
            }
            Admission::BeginShard(_) => {
                return Err(Error::dest(&self.dest, "shards of a job are there: give another folder"));
            }
            Admission::Continue(manifest) => {
                parts.reorder(&manifest.files)?;
                if parts.files() != manifest.files.len() {
                    return Err(Error::dest(&self.table, "it has grown since this selection began: give --overwrite"));
                }
                (*manifest, true)
            }
        };
        let kept_only = self.write_pairs == options::Pairs::Kept;
        let format = Format::new(&parts.schema, &parts.written, &manifest.job, kept_only, OutputFormat::Parquet)?;
        committer(OutputFormat::Parquet, &self.dest)?.check(&format.recorded)?;
        let units = manifest.units();
        let (writer, left) = WriterThread::open(store, format, manifest, begun, begun)?;

        let rows = parts.rows_of(&units, left.next);
        let mut read = 0;
        let parts = Arc::new(parts);
        let mut tally = left.tally;
        let before = tally.rows;
        let mut pictures = Fill { select: self, job: first, source: None };
        let mut chunks = parts.read(units, left.next, ROWS);
        let mut ended = Ok(End::Whole);
        while let Some(chunk) = chunks.recv().await {
            let pairs = chunk.and_then(|chunk| self.judge(chunk, min_itm, fraction, images, &mut pictures));
            let pairs = match pairs {
                Ok(pairs) => pairs,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            };
            tally.merge(&pairs.tally);
            read += pairs.batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
            if !writer.write(pairs).await {
                ended = Ok(End::Broken);
                break;
            }
        }
        if matches!(ended, Ok(End::Whole)) && read < rows {
            ended = Err(Error::Internal("the reading thread ended before the table did".to_owned()));
        }
        let (Written { files, bytes, pairs, .. }, closed) = writer.close(*ended.as_ref().unwrap_or(&End::Broken)).await;
        ended?;
        closed?;
        let elapsed = started.elapsed();
        Ok(Summary { tally, files_read: parts.files(), files, bytes, pairs, before, elapsed })
    }

    /// The old job's identity, plus the selection.
    fn identity(&self, job: &Identity, min_itm: f32) -> Identity {
        let mut words = vec![format!("min_itm = {min_itm}")];
        words.extend(self.min_itm_of.iter().map(|(source, least)| format!("min_itm of {source} = {least}")));
        words.extend(self.keep_fraction.map(|share| format!("keep_fraction = {share}")));
        let recipe = format!("-- selected: {}\n{}", words.join(", "), job.recipe);
        let format = "parquet".to_owned();
        // Pairs that the old table left out are missing here too.
        let kept_only = self.write_pairs == options::Pairs::Kept || job.kept_only;
        Identity { recipe, kept_only, format, shards: 1, ..job.clone() }
    }

    /// The threshold of texts whose source has none of its own.
    fn min_itm(&self, before: &Verdicts) -> Result<f32> {
        let own = || match self.keep_fraction {
            Some(_) => Some(0.0),
            // With thresholds per source, the old job has no common one.
            None => before.min_itm.filter(|_| before.min_itm_of.is_empty()),
        };
        let reason = "--min-itm is missing: the table does not say one that it was made with";
        self.min_itm.or_else(own).ok_or_else(|| Error::Option(reason.to_owned()))
    }

    /// Errors if the selection needs pairs that a table with only kept pairs left out; warns if the table does not say
    /// which those are.
    fn check_stored(&self, before: &Manifest, min_itm: f32) -> Result<()> {
        if !before.job.kept_only {
            return Ok(());
        }
        let Some(had) = before.verdicts.one_threshold() else {
            log::warn!("{}: --write-pairs kept has left pairs out, which are not selected", self.table.display());
            return Ok(());
        };
        let lowest = self.min_itm_of.iter().map(|(_, least)| *least).fold(min_itm, f32::min);
        let left_out = match self.keep_fraction {
            Some(_) if had > 0.0 => "--keep-fraction would count".to_owned(),
            None if lowest < had => format!("score from {lowest} to {had}"),
            _ => return Ok(()),
        };
        let reason =
            format!("the table was written with --write-pairs kept and has left out the pairs that {left_out}");
        Err(Error::Option(reason + ": run the job without it, and select from that"))
    }

    /// Errors on a threshold for a source that no text has.
    async fn check_sources(&self) -> Result<()> {
        if self.min_itm_of.is_empty() {
            return Ok(());
        }
        let ctx = SessionContext::new_with_config(SessionConfig::new());
        capfilt_tables::sql::open::register_pairs(&ctx, "pairs", &self.table, None).await?;
        let mut known = Vec::new();
        for batch in ctx.sql("SELECT DISTINCT source FROM pairs ORDER BY source").await?.collect().await? {
            known.extend(strings(batch.column(0))?.iter().flatten().map(str::to_owned));
        }
        match self.min_itm_of.iter().find(|(source, _)| !known.contains(source)) {
            None => Ok(()),
            Some((source, _)) => Err(Error::Option(format!(
                "--min-itm-of {source}: the table has no texts of that source, only of {}",
                known.join(" and ")
            ))),
        }
    }

    fn judge(
        &self,
        chunk: Chunk,
        min_itm: f32,
        fraction: Option<f32>,
        images: Images,
        pictures: &mut Fill<'_>,
    ) -> Result<Pairs> {
        let Chunk { unit, row, count, rows, .. } = chunk;
        let wrong = |what: &str| Error::dest(&self.table, format!("it has no column {what} as capfilt run writes it"));
        let column = |name: &str| rows.column_by_name(name).ok_or_else(|| wrong(name));
        let (sources, errors) = (strings(column("source")?)?, strings(column("error")?)?);
        let scores = column("itm_score")?.as_primitive_opt::<Float32Type>().ok_or_else(|| wrong("itm_score"))?;
        let kept: BooleanArray = (0..rows.num_rows())
            .map(|i| {
                let own = self.min_itm_of.iter().find(|(source, _)| source == sources.value(i));
                let least = own.map_or(min_itm, |(_, least)| *least).max(fraction.unwrap_or(f32::NEG_INFINITY));
                Some(errors.is_null(i) && scores.is_valid(i) && scores.value(i) >= least)
            })
            .collect();
        let internal = |e: datafusion::arrow::error::ArrowError| Error::Internal(e.to_string());
        let (schema, mut columns, _) = rows.clone().into_parts();
        if let (Images::Kept, Some((image, _))) = (images, schema.column_with_name("image")) {
            columns[image] = pictures.fill(&rows, &columns[image], &kept)?;
        }
        columns[schema.index_of("kept").map_err(|_| wrong("kept"))?] = Arc::new(kept.clone());
        let pairs = RecordBatch::try_new(schema, columns).map_err(internal)?;
        let webs = sources.iter().filter(|source| *source == Some("web")).count() as u64;
        // A chunk may begin and end within a row, so count a failed row by its web text alone, of which each row has
        // exactly one.
        let own = sources.iter().zip(&errors).map(|(source, error)| error.filter(|_| source == Some("web")));
        let counted = RecordBatch::try_from_iter([
            ("source", cast(&sources, &DataType::Utf8).map_err(internal)?),
            ("error", Arc::new(own.collect::<StringArray>()) as ArrayRef),
            ("kept", Arc::new(kept) as ArrayRef),
            ("itm_score", Arc::new(scores.clone()) as ArrayRef),
            ("provenance", Arc::clone(column("provenance")?)),
        ]);
        let tally = Tally::of(webs, &[counted.map_err(internal)?])?;
        Ok(Pairs { unit, row, rows: count, batches: vec![pairs], tally })
    }
}

/// Score of the last of the table `pairs` within the best share of the scored ones; infinity if none is within it.
async fn score_at(ctx: &SessionContext, share: f64) -> Result<f32> {
    const SCORED: &str = "FROM pairs WHERE NOT isnan(itm_score) AND error IS NULL";
    let all = ctx.sql(&format!("SELECT count(*) {SCORED}")).await?.collect().await?;
    let all: i64 = all.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values()).sum();
    let last = (share * all as f64).ceil() as i64;
    let ranked = format!("SELECT itm_score, row_number() OVER (ORDER BY itm_score DESC) AS rank {SCORED}");
    let sql = format!("SELECT itm_score FROM ({ranked}) WHERE rank = {last}");
    let found = ctx.sql(&sql).await?.collect().await?;
    let found = found.iter().flat_map(|batch| batch.column(0).as_primitive::<Float32Type>()).flatten().next();
    Ok(found.unwrap_or(f32::INFINITY))
}

fn strings(column: &ArrayRef) -> Result<StringViewArray> {
    Ok(cast(column, &DataType::Utf8View).map_err(|e| Error::Internal(e.to_string()))?.as_string_view().clone())
}

/// Fills in images that the table left out.
struct Fill<'a> {
    select: &'a Select,
    job: &'a Manifest,
    source: Option<Pictures>,
}

impl Fill<'_> {
    /// The image column, with the missing images of kept pairs filled in.
    fn fill(&mut self, rows: &RecordBatch, image: &ArrayRef, kept: &BooleanArray) -> Result<ArrayRef> {
        let images = image.as_binary_view();
        let missing: Vec<usize> = (0..rows.num_rows()).filter(|i| kept.value(*i) && images.is_null(*i)).collect();
        if missing.is_empty() {
            return Ok(Arc::clone(image));
        }
        let wrong = || Error::dest(&self.select.table, "its column provenance is not as capfilt run writes it");
        let (files, numbers) = origins(rows).ok_or_else(wrong)?;
        let digests = strings(rows.column_by_name("image_sha256").ok_or_else(wrong)?)?;
        let wanted = missing.iter().map(|i| {
            let row = u64::try_from(numbers.value(*i)).map_err(|_| wrong())?;
            Ok(Wanted { file: files.value(*i), row, sha256: digests.value(*i) })
        });
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        let place = self.select.source.as_ref().unwrap_or(&self.job.source);
        let lost = |one: &Wanted<'_>, why: &str| {
            let reason = format!(
                "the pair of {}, row {}, is kept now, and the table left its image out ({why}): give --source, or write the table \
                 with --write-images all",
                one.file, one.row
            );
            Error::source(place, reason)
        };
        let source = match &mut self.source {
            Some(source) => source,
            none => {
                let opened = Pictures::open(self.job, self.select.source.as_deref());
                none.insert(opened.map_err(|e| lost(&wanted[0], &e.to_string()))?)
            }
        };
        let mut found: Vec<Option<Vec<u8>>> = vec![None; rows.num_rows()];
        source.find(&wanted, &mut |number, bytes| found[missing[number]] = Some(bytes.to_vec()))?;
        if let Some(number) = missing.iter().position(|i| found[*i].is_none()) {
            return Err(lost(&wanted[number], "the source has it no more, or another one in its place"));
        }
        let all = found.iter().enumerate().map(|(i, found)| match found {
            Some(bytes) => Some(bytes.as_slice()),
            None => images.is_valid(i).then(|| images.value(i)),
        });
        Ok(Arc::new(all.collect::<BinaryViewArray>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_score_of_a_share_is_found() {
        let ctx = SessionContext::new();
        let pairs = "CREATE TABLE pairs AS SELECT arrow_cast(column1, 'Float32') AS itm_score, column2 AS error FROM VALUES \
                     (0.1, NULL), (0.9, NULL), (0.1, NULL), (NULL, NULL), ('NaN'::DOUBLE, NULL), (0.95, 'broken image'), \
                     (0.5, NULL), (0.9, NULL), (0.1, NULL)";
        ctx.sql(pairs).await.unwrap().collect().await.unwrap();
        for (count, wanted) in [(0, f32::INFINITY), (1, 0.9), (2, 0.9), (3, 0.5), (4, 0.1), (5, 0.1), (6, 0.1)] {
            let share = f64::from(count) / 6.0;
            assert_eq!(score_at(&ctx, share).await.unwrap(), wanted, "{count} of 6");
        }
        ctx.sql("DROP TABLE pairs").await.unwrap();
        let none = pairs.replace("column2 AS error", "'broken image' AS error");
        ctx.sql(&none).await.unwrap().collect().await.unwrap();
        assert_eq!(score_at(&ctx, 1.0).await.unwrap(), f32::INFINITY);
    }
}
