//! The page's data, as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::manifest::Manifest;
use crate::recipe::provenance::together;

/// Options of a report.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// Maximum number of images in the gallery.
    pub images: usize,
    /// Location of the source, for images that the table left out; by default where it was.
    pub source: Option<PathBuf>,
}

/// All data of the page, whose script uses these field names.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    title: String,
    job: Job,
    totals: Totals,
    funnel: Vec<Step>,
    #[serde(flatten)]
    numbers: Numbers,
    #[serde(flatten)]
    gallery: Gallery,
    sample: Sample,
}

#[derive(Debug, Serialize)]
struct Job {
    source: String,
    sql: String,
    captioner: Option<String>,
    filter: Option<String>,
    engine: String,
    settings: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Totals {
    rows: u64,
    pairs: u64,
    kept: u64,
    files: usize,
    bytes: u64,
}

/// Counts over the texts of one source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceRow {
    pub(crate) source: String,
    pub(crate) pairs: u64,
    pub(crate) kept: u64,
    pub(crate) scored: u64,
    pub(crate) mean_itm: Option<f32>,
}

#[derive(Debug, Serialize)]
struct Step {
    label: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Histogram {
    pub(crate) source: String,
    /// Pairs by score, in bins of equal width from 0 to 1.
    pub(crate) counts: Vec<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) count: u64,
}

/// An image of the gallery and its texts.
#[derive(Debug, Serialize)]
pub(crate) struct Image {
    /// The thumbnail as a data URI.
    pub(crate) src: Option<String>,
    pub(crate) key: String,
    pub(crate) sha256: Option<String>,
    pub(crate) pairs: Vec<Pair>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) text: Option<String>,
    pub(crate) itm: Option<f32>,
    pub(crate) itc: Option<f32>,
    pub(crate) kept: bool,
    pub(crate) error: Option<String>,
    /// Number of the captioner that wrote the text, from 1, if there are several.
    pub(crate) captioner: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Sample {
    images: usize,
    of: u64,
}

impl Report {
    pub(crate) fn new(title: String, manifests: &[Manifest], numbers: Numbers, gallery: Gallery) -> Self {
        let (job, source) = (&manifests[0].job, manifests[0].source.display().to_string());
        let all = |of: fn(&SourceRow) -> u64| numbers.sources.iter().map(of).sum::<u64>();
        let (pairs, kept, scored) = (all(|s| s.pairs), all(|s| s.kept), all(|s| s.scored));
        let rows: u64 = manifests.iter().map(|m| m.tally.rows).sum();
        let failed: u64 = manifests.iter().map(|m| m.tally.failed).sum();
        let parts = || manifests.iter().flat_map(|m| &m.parts);
        let step = |label, count| Step { label, count };
        Self {
            title,
            job: Job {
                source,
                sql: job.recipe.clone(),
                captioner: together(job.models.captioner.as_ref(), &job.captioners),
                filter: together(job.models.filter.as_ref(), &job.filters),
                engine: job.engine.clone(),
                settings: job.models.settings.iter().map(|(k, v)| (format!("capfilt.{k}"), v.clone())).collect(),
            },
            totals: Totals { rows, pairs, kept, files: parts().count(), bytes: parts().map(|p| p.bytes).sum() },
            funnel: vec![
                step("rows read", rows),
                step("usable rows", rows.saturating_sub(failed)),
                step("pairs", pairs),
                step("scored", scored),
                step("kept", kept),
            ],
            sample: Sample { images: gallery.images.len(), of: numbers.images },
            numbers,
            gallery,
        }
    }
}

/// Numbers of the page.
#[derive(Debug, Serialize)]
pub(crate) struct Numbers {
    pub(crate) sources: Vec<SourceRow>,
    pub(crate) histograms: Vec<Histogram>,
    pub(crate) failures: Vec<Reason>,
    pub(crate) captions: Vec<Text>,
    pub(crate) threshold: Option<f32>,
    /// Number of source rows.
    #[serde(skip)]
    pub(crate) images: u64,
}

/// Images of the gallery.
#[derive(Debug, Serialize)]
pub(crate) struct Gallery {
    pub(crate) images: Vec<Image>,
    /// Pairs nearest the threshold: index of the image, index of its pair.
    pub(crate) near: Vec<(usize, usize)>,
}
