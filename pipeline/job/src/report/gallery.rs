//! The page's gallery of images and their texts.

use capfilt_tables::error::Result;
use datafusion::arrow::array::{Array, AsArray, GenericStringArray};
use datafusion::arrow::datatypes::{Float32Type, Int64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;

use crate::checkpoint::manifest::Manifest;
use crate::images::original::{Pictures, Wanted};
use crate::report::data::ReportOptions;
use crate::report::data::{Gallery, Image, Pair};
use crate::report::queries::PAIRS;
use crate::report::thumbnail;

/// Number of pairs nearest the threshold.
const NEAR: usize = 60;
/// Columns that may identify a row to a reader, best first.
const NAMES: [&str; 7] = ["id", "key", "__key__", "uid", "sample_id", "url", "image_path"];

/// A row of the source: file and row number.
type Key = (String, i64);

/// Selects about `options.images` of the `all` images, evenly and deterministically, and those nearest the threshold.
pub(crate) async fn gallery(
    ctx: &SessionContext,
    job: &Manifest,
    options: &ReportOptions,
    threshold: Option<f32>,
    all: u64,
) -> Result<Gallery> {
    let schema = ctx.table(PAIRS).await?.schema().clone();
    let has = |name: &str| schema.has_column_with_unqualified_name(name);
    let name = NAMES.iter().find(|name| has(name)).map_or_else(
        || "concat(provenance['file'], ' row ', provenance['row'])".to_owned(),
        |name| format!("concat('{name}=', \"{name}\")"),
    );
    let itc = if has("itc_score") { "itc_score" } else { "CAST(NULL AS REAL)" };
    // Use `captioner` only if the recipe made it: the source may have a column of that name.
    let captioner = if has("captioner") && !job.job.captioners.is_empty() {
        "CASE WHEN source = 'synthetic' THEN TRY_CAST(captioner AS BIGINT) END"
    } else {
        "CAST(NULL AS BIGINT)"
    };
    let image = if has("image") { "arrow_cast(image, 'Binary')" } else { "arrow_cast(NULL, 'Binary')" };
    let mut chosen = sampled(options.images, all);
    if let Some(threshold) = threshold {
        chosen += &nearest_rows(ctx, threshold).await?;
    }
    let sql = format!(
        "SELECT arrow_cast(provenance['file'], 'Utf8'), provenance['row'], arrow_cast({name}, 'Utf8'), \
         arrow_cast(image_sha256, 'Utf8'), arrow_cast(source, 'Utf8'), arrow_cast(text, 'Utf8'), itm_score, {itc}, kept, \
         arrow_cast(error, 'Utf8'), {image}, {captioner} AS captioner_number FROM {PAIRS} WHERE {chosen}"
    );
    let mut found = Found::default();
    let mut batches = ctx.sql(&sql).await?.execute_stream().await?;
    while let Some(batch) = batches.next().await {
        found.add(&batch?);
    }
    if let Err(error) = found.fill(job, options) {
        log::warn!("pictures that the table left out cannot be shown: {error}");
    }
    let near = threshold.map(|threshold| nearest(&found.images, threshold)).unwrap_or_default();
    Ok(Gallery { images: found.images, near })
}

/// A condition that samples rows by the digest of their position, which is uniform and reproducible. An image's digest
/// would exclude rows without an image, and would select all rows of a frequent image or none.
fn sampled(images: usize, all: u64) -> String {
    if images as u64 >= all {
        return "true".to_owned();
    }
    let share = images as f64 / all as f64;
    let bound = (share * 2f64.powi(32)) as u32;
    format!("md5(concat(provenance['file'], ':', CAST(provenance['row'] AS VARCHAR))) < '{bound:08x}'")
}

/// A further condition that selects the rows of the pairs nearest the threshold.
async fn nearest_rows(ctx: &SessionContext, threshold: f32) -> Result<String> {
    let sql = format!(
        "SELECT arrow_cast(provenance['file'], 'Utf8'), provenance['row'] FROM {PAIRS} WHERE itm_score IS NOT NULL \
         ORDER BY abs(itm_score - {threshold}) LIMIT {NEAR}"
    );
    let mut condition = String::new();
    for batch in ctx.sql(&sql).await?.collect().await? {
        let (files, numbers) = (texts(&batch, 0), batch.column(1).as_primitive::<Int64Type>());
        for (file, number) in files.iter().zip(numbers) {
            let (file, number) = (file.unwrap_or_default().replace('\'', "''"), number.unwrap_or_default());
            condition += &format!(" OR (provenance['row'] = {number} AND provenance['file'] = '{file}')");
        }
    }
    Ok(condition)
}

fn nearest(images: &[Image], threshold: f32) -> Vec<(usize, usize)> {
    let pairs = images.iter().enumerate().flat_map(|(i, image)| {
        let scored = image.pairs.iter().enumerate();
        scored.filter_map(move |(p, pair)| Some(((pair.itm? - threshold).abs(), (i, p))))
    });
    let mut pairs: Vec<(f32, (usize, usize))> = pairs.collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    pairs.into_iter().take(NEAR).map(|(_, place)| place).collect()
}

fn texts(batch: &RecordBatch, column: usize) -> &GenericStringArray<i32> {
    batch.column(column).as_string()
}

/// Images in table order.
#[derive(Default)]
struct Found {
    images: Vec<Image>,
    keys: Vec<Key>,
}

impl Found {
    /// Adds pairs; the pairs of an image must be contiguous.
    fn add(&mut self, batch: &RecordBatch) {
        let text = |column: usize, row: usize| {
            let column = texts(batch, column);
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let score = |column: usize, row: usize| {
            let column = batch.column(column).as_primitive::<Float32Type>();
            (column.is_valid(row) && column.value(row).is_finite()).then(|| column.value(row))
        };
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        let captioners = batch.column(11).as_primitive::<Int64Type>();
        let (kept, bytes) = (batch.column(8).as_boolean(), batch.column(10).as_binary::<i32>());
        for row in 0..batch.num_rows() {
            let key = (text(0, row).unwrap_or_default(), numbers.value(row));
            if self.keys.last() != Some(&key) {
                self.keys.push(key);
                let name = text(2, row).unwrap_or_default();
                self.images.push(Image { src: None, key: name, sha256: text(3, row), pairs: Vec::new() });
            }
            let Some(image) = self.images.last_mut() else { return };
            if image.src.is_none() && bytes.is_valid(row) {
                image.src = thumbnail::data_uri(bytes.value(row));
            }
            image.pairs.push(Pair {
                source: text(4, row).unwrap_or_default(),
                text: text(5, row),
                itm: score(6, row),
                itc: score(7, row),
                kept: kept.is_valid(row) && kept.value(row),
                error: text(9, row),
                captioner: captioners.is_valid(row).then(|| captioners.value(row)),
            });
        }
    }

    /// Reads the images that the table left out (those of dropped pairs) from the source.
    fn fill(&mut self, job: &Manifest, options: &ReportOptions) -> Result<()> {
        let rows = self.images.iter().zip(&self.keys).enumerate();
        let missing = rows.filter_map(|(place, (image, (file, row)))| {
            let (None, Ok(row), Some(sha256)) = (&image.src, u64::try_from(*row), &image.sha256) else { return None };
            Some((place, Wanted { file, row, sha256 }))
        });
        let (places, wanted): (Vec<usize>, Vec<Wanted<'_>>) = missing.unzip();
        if wanted.is_empty() {
            return Ok(());
        }
        let source = Pictures::open(job, options.source.as_deref())?;
        let mut pictures = Vec::new();
        source.find(&wanted, &mut |number, bytes| pictures.push((places[number], thumbnail::data_uri(bytes))))?;
        for (place, picture) in pictures {
            self.images[place].src = picture;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_share() {
        assert_eq!(sampled(10, 10), "true");
        assert!(sampled(1, 4).ends_with(" < '40000000'"));
    }

    #[test]
    fn the_nearest_come_first() {
        let pair =
            |itm| Pair { source: String::new(), text: None, itm, itc: None, kept: false, error: None, captioner: None };
        let image = |itm: [Option<f32>; 2]| {
            let pairs = itm.map(pair).into();
            Image { src: None, key: String::new(), sha256: None, pairs }
        };
        let images = [image([Some(0.9), None]), image([Some(0.45), Some(0.51)])];
        assert_eq!(nearest(&images, 0.5), [(1, 1), (1, 0), (0, 0)]);
    }
}
