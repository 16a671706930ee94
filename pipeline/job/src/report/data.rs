//! The page's data, as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::manifest::Manifest;
use crate::recipe::provenance::together;

/// Options of a report.
#[derive(Debug, Clone, Args)]
pub struct ReportOptions {
    /// Maximum number of images in the gallery
    #[arg(long = "max-images", value_name = "N", default_value = "1000")]
    pub images: usize,

    /// Location of the source, for pictures that the table left out [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
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

/// A pair by the names of its columns. Its `captioner` is the number of the captioner that wrote the text, from 1, if
/// there are several.
pub(crate) type Pair = Map<String, Value>;

/// Numbers of the page.
pub(crate) struct Numbers {
    /// Counts over the texts of each source.
    pub(crate) sources: Vec<Value>,
    /// Pairs of each source by score, in bins of equal width from 0 to 1.
    pub(crate) histograms: Vec<Value>,
    pub(crate) failures: Vec<Value>,
    pub(crate) captions: Vec<Value>,
    pub(crate) threshold: Option<f32>,
    /// Number of source rows.
    pub(crate) images: u64,
}

/// Images of the gallery.
pub(crate) struct Gallery {
    pub(crate) images: Vec<Image>,
    /// Pairs nearest the threshold: index of the image, index of its pair.
    pub(crate) near: Vec<(usize, usize)>,
}

/// The data of the page as JSON. The names are those that its script uses.
pub(crate) fn data(title: &str, manifests: &[Manifest], numbers: &Numbers, gallery: &Gallery) -> Value {
    let job = &manifests[0].job;
    let all = |name: &str| numbers.sources.iter().filter_map(|source| source[name].as_u64()).sum::<u64>();
    let rows: u64 = manifests.iter().map(|m| m.tally.rows).sum();
    let failed: u64 = manifests.iter().map(|m| m.tally.failed).sum();
    let parts = || manifests.iter().flat_map(|m| &m.parts);
    let settings = job.models.settings.iter().map(|(name, value)| (format!("capfilt.{name}"), value));
    json!({
        "title": title,
        "job": {
            "source": manifests[0].source.display().to_string(),
            "sql": job.recipe,
            "captioner": together(job.models.captioner.as_ref(), &job.captioners),
            "filter": together(job.models.filter.as_ref(), &job.filters),
            "engine": job.engine,
            "settings": settings.collect::<BTreeMap<_, _>>(),
        },
        "totals": {
            "rows": rows,
            "pairs": all("pairs"),
            "kept": all("kept"),
            "files": parts().count(),
            "bytes": parts().map(|part| part.bytes).sum::<u64>(),
        },
        "funnel": [
            {"label": "rows read", "count": rows},
            {"label": "usable rows", "count": rows.saturating_sub(failed)},
            {"label": "pairs", "count": all("pairs")},
            {"label": "scored", "count": all("scored")},
            {"label": "kept", "count": all("kept")},
        ],
        "sources": numbers.sources,
        "histograms": numbers.histograms,
        "failures": numbers.failures,
        "captions": numbers.captions,
        // As its digits say, which are compared with those of scores.
        "threshold": numbers.threshold.and_then(|least| least.to_string().parse::<f64>().ok()),
        "images": gallery.images,
        "near": gallery.near,
        "sample": {"images": gallery.images.len(), "of": numbers.images},
    })
}
