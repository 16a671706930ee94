//! What is evaluated: a checkpoint, on images and their texts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::blip::{Checkpoint, Embedding, Med as _, OrtMed, Precision};
use capfilt_udfs::image::{Limits, load};
use capfilt_udfs::text::clean;
use sha2::{Digest, Sha256};

use crate::data::Table;
use crate::error::{Error, Result};

/// Callback for a block of images, with their indices and embeddings.
type Block<'f> = dyn FnMut(std::ops::Range<usize>, &[Embedding]) -> Result<()> + 'f;

/// Images encoded per call.
pub(super) const BATCH: usize = 16;

/// Maximum bytes of a table's embeddings that are kept rather than computed twice.
pub(super) const MOST_KEPT: usize = 4 << 30;

/// A loaded checkpoint to evaluate.
#[derive(Debug)]
pub struct Evaluated {
    pub(super) med: OrtMed,
    limits: Limits,
    pub(super) text_tokens: usize,
    clean_text: bool,
}

/// Images and their texts.
#[derive(Debug, Default)]
pub struct Items {
    /// Encoded images, without duplicates.
    images: Vec<Arc<[u8]>>,
    /// (image index, text, the row's weight), in the table's order.
    pub(super) texts: Vec<(usize, Arc<str>, f64)>,
    /// Number of images that cannot be used; their texts are left out too.
    pub unusable: usize,
}

impl Items {
    /// Reads a table up to `most` images.
    pub fn read(table: &Table, most: usize, limits: &Limits) -> Result<Self> {
        let mut items = Self::default();
        let mut numbers: HashMap<[u8; 32], Option<usize>> = HashMap::new();
        for row in table.rows()? {
            let row = row?;
            let digest: [u8; 32] = Sha256::digest(&row.image).into();
            if items.images.len() == most && !numbers.contains_key(&digest) {
                break;
            }
            let number = *numbers.entry(digest).or_insert_with(|| {
                let usable = capfilt_udfs::image::check(&row.image, limits).is_ok();
                items.unusable += usize::from(!usable);
                usable.then(|| {
                    items.images.push(Arc::clone(&row.image));
                    items.images.len() - 1
                })
            });
            if let Some(image) = number {
                items.texts.push((image, row.text, row.weight));
            }
        }
        if items.texts.is_empty() {
            return Err(Error::file(table.path(), "it has no pair whose image can be used"));
        }
        Ok(items)
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }
}

impl Evaluated {
    /// Opens a checkpoint's folder. With `threads` 0, each core has a thread.
    pub fn open(dir: &Path, device: &str, threads: usize, text_tokens: usize, clean_text: bool) -> Result<Self> {
        let med = OrtMed::new(Arc::new(Checkpoint::open(dir)?), device, Precision::Fp32, threads)?;
        Ok(Self { med, limits: Limits::default(), text_tokens, clean_text })
    }

    /// Size limits of an image.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn text(&self, text: &str) -> String {
        if self.clean_text { clean(text) } else { text.into() }
    }

    /// Encodes images in the given order.
    pub(super) fn encode(&self, images: &[&Arc<[u8]>]) -> Result<Vec<Embedding>> {
        let unusable = |e| Error::Option(format!("an image cannot be used: {e}"));
        let pixels: Vec<Vec<u8>> = images
            .iter()
            .map(|bytes| load(bytes, &self.limits, self.med.preprocessor()))
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        Ok(self.med.encode(&pixels.iter().map(Vec::as_slice).collect::<Vec<_>>())?)
    }

    /// Calls `with` for each block of images, with their indices and embeddings.
    pub(super) fn blocks(&self, items: &Items, with: &mut Block<'_>) -> Result<()> {
        for (i, images) in items.images.chunks(BATCH).enumerate() {
            let embeddings = self.encode(&images.iter().collect::<Vec<_>>())?;
            let first = i * BATCH;
            with(first..first + images.len(), &embeddings)?;
        }
        Ok(())
    }
}
