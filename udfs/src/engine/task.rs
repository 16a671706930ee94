//! Tasks and outcomes of the engine, and the digests that key its memo and caches.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{Med, Precision};
use crate::image::{ImageError, Limits};

/// An encoded image (JPEG, PNG, ..) and its digest.
#[derive(Debug, Clone, Copy)]
pub struct ImageSource<'a> {
    /// Bytes of the image file.
    pub bytes: &'a [u8],
    /// SHA-256 of the bytes, which identifies the image.
    pub sha256: [u8; 32],
}

/// A task: one result to compute.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The image; required by all work except [`Work::EmbedText`].
    pub image: Option<ImageSource<'a>>,
    /// The work to do on it.
    pub work: Work,
}

/// Kind of work, with its inputs.
#[derive(Debug, Clone)]
pub enum Work {
    /// Generates a caption.
    Caption {
        /// Token ids of `[DEC]` and the prompt.
        prompt: Arc<[u32]>,
        /// Generation options.
        options: Arc<GenerationOptions>,
        /// Seed of nucleus sampling; ignored by the other strategies.
        seed: u64,
        /// Index of the sample among the image's candidates; ignored by the other strategies.
        candidate: u32,
    },
    /// Computes the probability that the image matches a text (ITM).
    Match {
        /// Token ids of the text, starting with `[ENC]` or `[CLS]`.
        ids: Arc<[u32]>,
    },
    /// Computes the image's unit-length embedding.
    EmbedImage,
    /// Computes a text's unit-length embedding.
    EmbedText {
        /// Token ids of the text, with `[CLS]` and `[SEP]`.
        ids: Arc<[u32]>,
    },
}

/// Result of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Result of [`Work::Caption`]: the token ids after the prompt of each returned sequence, best first.
    Ids(Arc<[Arc<[u32]>]>),
    /// Result of [`Work::Match`]: a probability.
    Score(f32),
    /// Result of [`Work::EmbedImage`] and [`Work::EmbedText`]: a unit-length vector.
    Vector(Arc<[f32]>),
    /// The image cannot be used, for this reason.
    BadImage(ImageError),
}

impl Outcome {
    /// Heap bytes, including each `Arc`'s two reference counts.
    pub(super) fn heap_bytes(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        match self {
            Self::Ids(sequences) => {
                let each = |ids: &Arc<[u32]>| size_of_val(ids) + COUNTS + size_of_val::<[u32]>(ids);
                COUNTS + sequences.iter().map(each).sum::<usize>()
            }
            Self::Score(_) => 0,
            Self::Vector(values) => COUNTS + size_of_val::<[f32]>(values),
            // An error holds little more than its message.
            Self::BadImage(error) => error.to_string().len(),
        }
    }
}

impl Work {
    /// Sequences that the decoder computes for it in parallel.
    pub(super) fn sequences(&self) -> usize {
        match self {
            Self::Caption { options, .. } if options.strategy == Strategy::Beam => options.num_beams.max(1),
            _ => 1,
        }
    }

    /// Maximum tokens that it passes through a model, not counting the image's patches.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Caption { options, .. } => options.max_length.saturating_mul(self.sequences()),
            Self::Match { ids } | Self::EmbedText { ids } => ids.len(),
            Self::EmbedImage => 1,
        }
    }

    /// Whether one model call can serve both.
    pub(super) fn joins(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Caption { options: a, .. }, Self::Caption { options: b, .. }) => Arc::ptr_eq(a, b) || a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// SHA-256 digest that identifies a result or one of its inputs.
pub(super) type Key = [u8; 32];

/// Feeds values to SHA-256 unambiguously: no two sequences of values produce the same bytes.
struct Hasher(Sha256);

impl Hasher {
    fn new(kind: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.bytes(kind.as_bytes());
        hasher
    }

    fn number(&mut self, n: u64) {
        self.0.update(n.to_le_bytes());
    }

    fn float(&mut self, x: f32) {
        self.0.update(x.to_bits().to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn ids(&mut self, ids: &[u32]) {
        self.number(ids.len() as u64);
        for id in ids {
            self.0.update(id.to_le_bytes());
        }
    }

    fn limits(&mut self, limits: &Limits) {
        self.number(limits.max_bytes);
        self.number(limits.max_pixels);
    }

    fn key(self) -> Key {
        self.0.finalize().into()
    }
}

/// Key of a model: equal keys give equal results. It depends on the kind of device, not on the device's number.
pub(super) fn model_key(med: &dyn Med) -> Key {
    let mut hasher = Hasher::new("model");
    hasher.bytes(&med.digest());
    hasher.number(match med.precision() {
        Precision::Fp32 => 0,
        Precision::Int8 => 1,
        Precision::Fp16 => 2,
    });
    hasher.bytes(med.device().split(':').next().unwrap_or_default().as_bytes());
    hasher.key()
}

/// Key of an image's embedding. Like the keys of all results of an image, it includes the limits: under stricter limits
/// the image may be rejected, even if a result was computed for it before.
pub(super) fn image_key(model: &Key, sha256: &[u8; 32], limits: &Limits) -> Key {
    let mut hasher = Hasher::new("image");
    hasher.bytes(model);
    hasher.bytes(sha256);
    hasher.limits(limits);
    hasher.key()
}

/// Key of the reason why an image cannot be used.
pub(super) fn bad_image_key(sha256: &[u8; 32], limits: &Limits) -> Key {
    let mut hasher = Hasher::new("bad image");
    hasher.bytes(sha256);
    hasher.limits(limits);
    hasher.key()
}

/// Key of a result. `image` is the [`image_key`], or the model's key for work without an image.
pub(super) fn work_key(image: &Key, work: &Work) -> Key {
    let mut hasher = Hasher::new("work");
    hasher.bytes(image);
    match work {
        Work::Caption { prompt, options, seed, candidate } => {
            hasher.bytes(b"caption");
            hasher.ids(prompt);
            // Destructured by name so that an option added later cannot be forgotten here.
            let GenerationOptions {
                strategy,
                num_beams,
                num_return_sequences,
                top_k,
                top_p,
                temperature,
                min_length,
                max_length,
                length_penalty,
                repetition_penalty,
                early_stopping,
            } = **options;
            hasher.number(match strategy {
                Strategy::Beam => 0,
                Strategy::Greedy => 1,
                Strategy::Nucleus => 2,
            });
            for n in [num_beams, num_return_sequences, top_k, min_length, max_length, usize::from(early_stopping)] {
                hasher.number(n as u64);
            }
            for x in [top_p, temperature, length_penalty, repetition_penalty] {
                hasher.float(x);
            }
            if strategy == Strategy::Nucleus {
                hasher.number(*seed);
                hasher.number(u64::from(*candidate));
            }
        }
        Work::Match { ids } => {
            hasher.bytes(b"match");
            hasher.ids(ids);
        }
        Work::EmbedImage => hasher.bytes(b"embed image"),
        Work::EmbedText { ids } => {
            hasher.bytes(b"embed text");
            hasher.ids(ids);
        }
    }
    hasher.key()
}

/// Key of the random numbers of one nucleus sample. It includes neither model nor limits: the same image and seed draw
/// the same numbers everywhere.
pub(super) fn sample_key(seed: u64, sha256: &[u8; 32], candidate: u32) -> Key {
    let mut hasher = Hasher::new("sample");
    hasher.number(seed);
    hasher.bytes(sha256);
    hasher.number(u64::from(candidate));
    hasher.key()
}
