//! The page's gallery of images and their texts.

use capfilt_tables::error::Result;
use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;
use serde::Deserialize;

use crate::checkpoint::manifest::Manifest;
use crate::images::original::{Pictures, Wanted};
use crate::report::data::{Gallery, Image, Numbers, Pair, ReportOptions};
use crate::report::queries::{self, PAIRS};
use crate::report::thumbnail;

/// Number of pairs nearest the threshold.
const NEAR: usize = 60;
/// Columns that may identify a row to a reader, best first.
const NAMES: [&str; 7] = ["id", "key", "__key__", "uid", "sample_id", "url", "image_path"];

/// Columns of a [`Key`].
const KEY: &str = "provenance['file'] AS \"file\", provenance['row'] AS \"row\"";

/// A row of the source.
#[derive(PartialEq, Deserialize)]
struct Key {
    file: String,
    row: i64,
}

/// A pair as it is queried, beside its image.
#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    name: String,
    sha256: Option<String>,
    #[serde(flatten)]
    pair: Pair,
}

/// Selects about `options.images` of all images, evenly and deterministically, and those nearest the threshold.
pub(crate) async fn gallery(
    ctx: &SessionContext,
    job: &Manifest,
    options: &ReportOptions,
    numbers: &Numbers,
) -> Result<Gallery> {
    let threshold = numbers.threshold;
    let schema = ctx.table(PAIRS).await?.schema().clone();
    let has = |name: &str| schema.has_column_with_unqualified_name(name);
    let name = NAMES.iter().find(|name| has(name)).map_or_else(
        || "concat(provenance['file'], ' row ', provenance['row'])".to_owned(),
        |name| format!("concat('{name}=', \"{name}\")"),
    );
    let itc = if has("itc_score") { "itc_score" } else { "NULL" };
    // Use `captioner` only if the recipe made it: the source may have a column of that name.
    let captioner = if has("captioner") && !job.job.captioners.is_empty() {
        "CASE WHEN source = 'synthetic' THEN TRY_CAST(captioner AS BIGINT) END"
    } else {
        "NULL"
    };
    let image = if has("image") { "image" } else { "NULL" };
    let mut chosen = sampled(options.images, numbers.images);
    if let Some(threshold) = threshold {
        chosen += &nearest_rows(ctx, threshold).await?;
    }
    let sql = format!(
        "SELECT arrow_cast({image}, 'Binary'), {KEY}, {name} AS name, image_sha256 AS sha256, source, text, itm_score AS itm, \
         {itc} AS itc, coalesce(kept, false) AS kept, error, {captioner} AS captioner FROM {PAIRS} WHERE {chosen}"
    );
    let mut found = Found::default();
    let mut batches = ctx.sql(&sql).await?.execute_stream().await?;
    while let Some(batch) = batches.next().await {
        found.add(batch?)?;
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
        "SELECT {KEY} FROM {PAIRS} WHERE itm_score IS NOT NULL ORDER BY abs(itm_score - {threshold}) LIMIT {NEAR}"
    );
    let condition = |Key { file, row }: Key| {
        format!(" OR (provenance['row'] = {row} AND provenance['file'] = '{}')", file.replace('\'', "''"))
    };
    Ok(queries::rows(ctx, &sql).await?.into_iter().map(condition).collect())
}

fn nearest(images: &[Image], threshold: f32) -> Vec<(usize, usize)> {
    let pairs = images.iter().enumerate().flat_map(|(i, image)| {
        let scored = image.pairs.iter().enumerate();
        scored.filter_map(move |(p, pair)| Some(((pair.get("itm")?.as_f64()? as f32 - threshold).abs(), (i, p))))
    });
    let mut pairs: Vec<(f32, (usize, usize))> = pairs.collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    pairs.into_iter().take(NEAR).map(|(_, place)| place).collect()
}

/// Images in table order.
#[derive(Default)]
struct Found {
    images: Vec<Image>,
    keys: Vec<Key>,
}

impl Found {
    /// Adds pairs, with the image in the first column; the pairs of an image must be contiguous.
    fn add(&mut self, mut batch: RecordBatch) -> Result<()> {
        let images = batch.remove_column(0);
        for (row, bytes) in queries::objects::<Row>(&[batch])?.into_iter().zip(images.as_binary::<i32>()) {
            if self.keys.last() != Some(&row.key) {
                self.keys.push(row.key);
                self.images.push(Image { src: None, key: row.name, sha256: row.sha256, pairs: Vec::new() });
            }
            let Some(image) = self.images.last_mut() else { break };
            if image.src.is_none() {
                image.src = bytes.and_then(thumbnail::data_uri);
            }
            image.pairs.push(row.pair);
        }
        Ok(())
    }

    /// Reads the images that the table left out (those of dropped pairs) from the source.
    fn fill(&mut self, job: &Manifest, options: &ReportOptions) -> Result<()> {
        let rows = self.images.iter().zip(&self.keys).enumerate();
        let missing = rows.filter_map(|(place, (image, Key { file, row }))| {
            let (None, Ok(row), Some(sha256)) = (&image.src, u64::try_from(*row), &image.sha256) else { return None };
            Some((place, Wanted { file, row, sha256 }))
        });
        let (places, wanted): (Vec<usize>, Vec<Wanted<'_>>) = missing.unzip();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut source = Pictures::open(job, options.source.as_deref())?;
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
        let pair = |itm: Option<f32>| Pair::from_iter([("itm".to_owned(), itm.into())]);
        let image = |itm: [Option<f32>; 2]| {
            let pairs = itm.map(pair).into();
            Image { src: None, key: String::new(), sha256: None, pairs }
        };
        let images = [image([Some(0.9), None]), image([Some(0.45), Some(0.51)])];
        assert_eq!(nearest(&images, 0.5), [(1, 1), (1, 0), (0, 0)]);
    }
}
