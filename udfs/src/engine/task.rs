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
    /// Generates the answer to a question about the image.
    Answer {
        /// Token ids of the question, starting with `[ENC]` or `[CLS]`.
        question: Arc<[u32]>,
        /// Token ids of `[DEC]` and what the answer begins with.
        prompt: Arc<[u32]>,
        /// Generation options.
        options: Arc<GenerationOptions>,
        /// Seed of nucleus sampling; ignored by the other strategies.
        seed: u64,
    },
    /// Finds the best of several answers to a question about the image.
    RankAnswers {
        /// Token ids of the question, as in [`Work::Answer`].
        question: Arc<[u32]>,
        /// Token ids of each answer, from `[DEC]` to `[SEP]`.
        answers: Arc<[Arc<[u32]>]>,
        /// Number of the answers with the likeliest first tokens, which alone are scored.
        k: usize,
        /// Whether scores are label-smoothed, as BLIP's are.
        smoothed: bool,
    },
    /// Computes the probability of an answer to a question about the image.
    ScoreAnswer {
        /// Token ids of the question, as in [`Work::Answer`].
        question: Arc<[u32]>,
        /// Token ids of the answer, from `[DEC]` to `[SEP]`.
        answer: Arc<[u32]>,
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
    /// Result of [`Work::Caption`] and [`Work::Answer`]: the token ids after the prompt of each returned sequence, best
    /// first.
    Ids(Arc<[Arc<[u32]>]>),
    /// Result of [`Work::Match`] and [`Work::ScoreAnswer`]: a probability.
    Score(f32),
    /// Result of [`Work::RankAnswers`]: index of the best answer.
    Best(usize),
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
            Self::Score(_) | Self::Best(_) => 0,
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
            Self::Caption { options, .. } | Self::Answer { options, .. } if options.strategy == Strategy::Beam => {
                options.num_beams.max(1)
            }
            _ => 1,
        }
    }

    /// Maximum tokens that it passes through a model, not counting the image's patches.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Caption { options, .. } => options.max_length.saturating_mul(self.sequences()),
            Self::Answer { question, options, .. } => {
                options.max_length.saturating_mul(self.sequences()).saturating_add(question.len())
            }
            Self::RankAnswers { question, answers, k, .. } => {
                let longest = answers.iter().map(|ids| ids.len()).max().unwrap_or(0);
                answers.len().min(*k).saturating_mul(longest).saturating_add(question.len())
            }
            Self::ScoreAnswer { question, answer } => question.len() + answer.len(),
            Self::Match { ids } | Self::EmbedText { ids } => ids.len(),
            Self::EmbedImage => 1,
        }
    }

    /// Question that it is about, if any.
    pub(super) fn question(&self) -> Option<&Arc<[u32]>> {
        match self {
            Self::Answer { question, .. } | Self::RankAnswers { question, .. } | Self::ScoreAnswer { question, .. } => {
                Some(question)
            }
            Self::Caption { .. } | Self::Match { .. } | Self::EmbedImage | Self::EmbedText { .. } => None,
        }
    }

    /// Whether one model call can serve both.
    pub(super) fn joins(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Caption { options: a, .. }, Self::Caption { options: b, .. })
            | (Self::Answer { options: a, .. }, Self::Answer { options: b, .. }) => Arc::ptr_eq(a, b) || a == b,
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

    /// Options that a search uses, with the seed and the candidate's number if it draws.
    fn generation(&mut self, options: &GenerationOptions, seed: u64, candidate: u32) {
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
        } = *options;
        self.number(match strategy {
            Strategy::Beam => 0,
            Strategy::Greedy => 1,
            Strategy::Nucleus => 2,
        });
        for n in [num_beams, num_return_sequences, top_k, min_length, max_length, usize::from(early_stopping)] {
            self.number(n as u64);
        }
        for x in [top_p, temperature, length_penalty, repetition_penalty] {
            self.float(x);
        }
        if strategy == Strategy::Nucleus {
            self.number(seed);
            self.number(u64::from(candidate));
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

/// Key of the states of a question about an image, given by the [`image_key`].
pub(super) fn question_key(image: &Key, question: &[u32]) -> Key {
    let mut hasher = Hasher::new("question");
    hasher.bytes(image);
    hasher.ids(question);
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
            hasher.generation(options, *seed, *candidate);
        }
        Work::Answer { question, prompt, options, seed } => {
            hasher.bytes(b"answer");
            hasher.ids(question);
            hasher.ids(prompt);
            hasher.generation(options, *seed, 0);
        }
        Work::RankAnswers { question, answers, k, smoothed } => {
            hasher.bytes(b"rank answers");
            hasher.ids(question);
            hasher.number(*k as u64);
            hasher.number(u64::from(*smoothed));
            hasher.number(answers.len() as u64);
            answers.iter().for_each(|ids| hasher.ids(ids));
        }
        Work::ScoreAnswer { question, answer } => {
            hasher.bytes(b"score answer");
            hasher.ids(question);
            hasher.ids(answer);
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
