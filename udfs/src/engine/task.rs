//! What callers ask for and get, and the digests under which it is remembered.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{Med, Precision};
use crate::image::{ImageError, Limits};

/// An encoded image (JPEG, PNG, ..) and the digest of these bytes.
#[derive(Debug, Clone, Copy)]
pub struct ImageSource<'a> {
    /// The file's bytes.
    pub bytes: &'a [u8],
    /// Their SHA-256: two images are the same if it is.
    pub sha256: [u8; 32],
}

/// One thing to compute.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The image; all work but [`Work::EmbedText`] needs one.
    pub image: Option<ImageSource<'a>>,
    /// What to do with it.
    pub work: Work,
}

/// What to compute.
#[derive(Debug, Clone)]
pub enum Work {
    /// A caption.
    Caption {
        /// `[DEC]` and the prompt's tokens.
        prompt: Arc<[u32]>,
        /// How to generate.
        options: Arc<GenerationOptions>,
        /// Seed of a nucleus sample; nothing to the other strategies.
        seed: u64,
        /// Which of an image's samples this is; nothing to the other strategies.
        candidate: u32,
    },
    /// The probability that the image matches a text.
    Match {
        /// The text's tokens, first `[ENC]` or `[CLS]`.
        ids: Arc<[u32]>,
    },
    /// The image's unit-length embedding.
    EmbedImage,
    /// A text's unit-length embedding.
    EmbedText {
        /// The text's tokens with `[CLS]` and `[SEP]`.
        ids: Arc<[u32]>,
    },
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of [`Work::Caption`]: the tokens after the prompt, of each sequence that its options ask for, best first.
    Ids(Arc<[Arc<[u32]>]>),
    /// Of [`Work::Match`].
    Score(f32),
    /// Of [`Work::EmbedImage`] and [`Work::EmbedText`].
    Vector(Arc<[f32]>),
    /// The image cannot be used.
    BadImage(ImageError),
}

impl Outcome {
    /// Bytes on the heap, an `Arc`'s two counts included.
    pub(super) fn heap_bytes(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        match self {
            Self::Ids(sequences) => {
                let each = |ids: &Arc<[u32]>| size_of_val(ids) + COUNTS + size_of_val::<[u32]>(ids);
                COUNTS + sequences.iter().map(each).sum::<usize>()
            }
            Self::Score(_) => 0,
            Self::Vector(values) => COUNTS + size_of_val::<[f32]>(values),
            // Reasons carry little more than the words that they print.
            Self::BadImage(error) => error.to_string().len(),
        }
    }
}

impl Work {
    /// Rows that the decoder computes for it at once.
    pub(super) fn sequences(&self) -> usize {
        match self {
            Self::Caption { options, .. } if options.strategy == Strategy::Beam => options.num_beams.max(1),
            _ => 1,
        }
    }

    /// Tokens that it takes through a model at most; the image's own are not counted.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Caption { options, .. } => options.max_length.saturating_mul(self.sequences()),
            Self::Match { ids } | Self::EmbedText { ids } => ids.len(),
            Self::EmbedImage => 1,
        }
    }

    /// Whether one call of a model can serve both.
    pub(super) fn joins(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Caption { options: a, .. }, Self::Caption { options: b, .. }) => Arc::ptr_eq(a, b) || a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A digest that stands for what it was made from.
pub(super) type Key = [u8; 32];

/// Feeds values to SHA-256 so that no two sequences of them give the same bytes.
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

/// Of a model: equal keys give equal results. The number of a device does not matter, its kind does.
pub(super) fn model_key(med: &dyn Med) -> Key {
    let mut hasher = Hasher::new("model");
    hasher.bytes(&med.digest());
    hasher.number(match med.precision() {
        Precision::Fp32 => 0,
        Precision::Int8 => 1,
    });
    hasher.bytes(med.device().split(':').next().unwrap_or_default().as_bytes());
    hasher.key()
}

/// Of an image's embedding. The limits are part of it, and of every result of an image: under narrower ones it may be no
/// image at all, whoever computed something for it before.
pub(super) fn image_key(model: &Key, sha256: &[u8; 32], limits: &Limits) -> Key {
    let mut hasher = Hasher::new("image");
    hasher.bytes(model);
    hasher.bytes(sha256);
    hasher.limits(limits);
    hasher.key()
}

/// Of the reason why an image cannot be used.
pub(super) fn bad_image_key(sha256: &[u8; 32], limits: &Limits) -> Key {
    let mut hasher = Hasher::new("bad image");
    hasher.bytes(sha256);
    hasher.limits(limits);
    hasher.key()
}

/// Of a result: `image` as [`image_key`] gives it, or the model's key where there is no image.
pub(super) fn work_key(image: &Key, work: &Work) -> Key {
    let mut hasher = Hasher::new("work");
    hasher.bytes(image);
    match work {
        Work::Caption { prompt, options, seed, candidate } => {
            hasher.bytes(b"caption");
            hasher.ids(prompt);
            // Taken apart by name, so that an option added later is not forgotten here.
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

/// Seeds the random numbers of one nucleus sample. Neither model nor limits are part of it: the same image and seed draw the
/// same numbers everywhere.
pub(super) fn sample_key(seed: u64, sha256: &[u8; 32], candidate: u32) -> Key {
    let mut hasher = Hasher::new("sample");
    hasher.number(seed);
    hasher.bytes(sha256);
    hasher.number(u64::from(candidate));
    hasher.key()
}
