//! The model as the engine sees it: what it computes, and what identifies it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::NO_QUESTIONS;
use super::generate::GenerationOptions;
use super::resident::Resident;
use crate::error::{Error, Result};
use crate::image::Preprocessor;
use crate::text::Tokenizer;

/// Vision encoder's last hidden states of one image: `tokens x width` numbers, row-major, after the final layer norm.
#[derive(Debug, Clone)]
pub enum Embedding {
    /// In the host's memory.
    Host(Arc<[f32]>),
    /// On the device of the model that made it.
    Device(Arc<Resident>),
}

impl Embedding {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Host(values) => size_of_val::<[f32]>(values),
            Self::Device(tensor) => tensor.bytes(),
        }
    }

    /// The numbers, if they are in the host's memory.
    pub fn host(&self) -> Option<&[f32]> {
        match self {
            Self::Host(values) => Some(values),
            Self::Device(_) => None,
        }
    }
}

/// Numeric precision of a model's products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Precision {
    /// Float32 throughout.
    #[default]
    Fp32,
    /// Float16 in the blocks, whose sums, norms and softmax are float32 inside; embeddings and heads in float32.
    Fp16,
    /// Integer products: weights quantised per output channel, activations per row.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "fp32" => Ok(Self::Fp32),
            "fp16" => Ok(Self::Fp16),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("{s:?} is not a precision: use fp32, fp16 or int8")),
        }
    }
}

/// Identity of a loaded model: equal keys share one copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelKey {
    /// Canonical path of the checkpoint's folder.
    pub checkpoint: PathBuf,
    /// `cpu` or `cuda:N`; several such as `cuda:0,cuda:1` hold a copy each.
    pub device: String,
    /// Numeric precision.
    pub precision: Precision,
    /// CPU threads of ONNX Runtime.
    pub threads: usize,
    /// What the model may take of a device apart from the host; the default for others.
    pub room: Room,
}

/// What a model may take of a device apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Room {
    /// Device memory that all models together may use, in bytes. Default: the memory that is free before the first model
    /// is loaded.
    pub memory: Option<usize>,
    /// Maximum number of images in a run. Default: 64.
    pub images: Option<usize>,
}

/// The memory of a device apart from the host, as a model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes for all models on the device together.
    pub limit: usize,
    /// Bytes of one image's embedding there.
    pub embedding: usize,
}

/// Peak memory per image beyond the weights, in bytes; the engine sizes batches by it.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkBytes {
    /// Encoding of one image.
    pub encode: usize,
    /// Generation for one image with one beam or sample; each further one adds `per_sequence`.
    pub generate: usize,
    /// Each further beam, sample or text.
    pub per_sequence: usize,
    /// Matching of one image with one text; each further one adds `per_sequence`.
    pub match_text: usize,
    /// Encoding of one question about an image, and scoring of its answers; each question and beam adds `per_sequence`.
    pub answer: usize,
}

/// One caption or answer to generate.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// `[DEC]` and the prompt's tokens.
    pub prompt: Arc<[u32]>,
    /// Seed of this caption's random numbers: a digest of (seed, image, candidate number). Unused by greedy and beam
    /// search.
    pub key: [u8; 32],
}

/// Log-probabilities of an answer after its question, [SEP] included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerScore {
    /// Sum of the log-probabilities of the answer's tokens.
    pub log_likelihood: f32,
    /// Sum over the tokens' places of the mean log-probability over the vocabulary.
    pub mean_log_probability: f32,
}

impl AnswerScore {
    /// Label-smoothed log-likelihood, by which BLIP's authors rank answers: minus the loss of its training
    /// (`rank_answer` in models/blip_vqa.py, `label_smoothing=0.1` in models/med.py).
    pub fn smoothed(&self) -> f32 {
        0.9 * self.log_likelihood + 0.1 * self.mean_log_probability
    }
}

/// A loaded checkpoint as used by the engine. Implemented on ONNX Runtime, and by fakes that inject failures.
///
/// Calls are made from one thread at a time. A call that runs out of memory returns [`crate::Error::OutOfMemory`] and
/// leaves the model usable. Results of one image or text do not depend on its neighbours in a call.
pub trait Med: Debug + Send + Sync {
    /// Name for messages: the checkpoint folder.
    fn name(&self) -> &str;
    /// Digest of weights, configuration and tokenizer; equal digests imply equal results.
    fn digest(&self) -> [u8; 32];
    /// Device: `cpu` or `cuda:N`.
    fn device(&self) -> &str;
    /// Numeric precision.
    fn precision(&self) -> Precision;
    /// Tokenizer of the checkpoint.
    fn tokenizer(&self) -> &Tokenizer;
    /// Image preprocessing of the checkpoint.
    fn preprocessor(&self) -> &Preprocessor;
    /// Size of the resident weights, in bytes, in the host's memory or the device's.
    fn resident_bytes(&self) -> usize;
    /// The memory in which weights and embeddings lie; `None` if it is the host's.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }
    /// Peak memory of each kind of work.
    fn work_bytes(&self) -> WorkBytes;
    /// Images that each run computes, whether there are as many or not; smaller batches are a waste.
    fn run_images(&self) -> usize {
        1
    }
    /// Runs the vision encoder. Each image is `width * height * 3` bytes from [`Preprocessor::squash`].
    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>>;
    /// Computes unit-length image embeddings for ITC.
    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>>;
    /// Computes unit-length text embeddings for ITC. Each text is token ids with [CLS] and [SEP].
    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>>;
    /// Computes ITM probabilities for each image's texts, given as token ids that start with [ENC] or [CLS].
    fn match_texts(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<f32>>>;
    /// Generates captions for one or more requests per image; all requests of a call share `options`. Returns per image
    /// the ids after the prompt, without [SEP]: [`GenerationOptions::returned`] sequences of its first request, then of
    /// the next. `cancelled` is polled between steps; if true, the call returns [`crate::Error::Cancelled`].
    fn generate(
        &self,
        images: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>>;

    // Of an answerer.

    /// Computes the states of questions about each image, `tokens x width` numbers. Each question is token ids that start
    /// with [ENC] or [CLS] and end with [SEP].
    fn encode_questions(&self, _images: &[&Embedding], _questions: &[Vec<&[u32]>]) -> Result<Vec<Vec<Embedding>>> {
        Err(Error::checkpoint(self.name(), NO_QUESTIONS))
    }
    /// Generates answers to each question, given as its states, as [`Self::generate`] does captions of images.
    fn answer(
        &self,
        _questions: &[&Embedding],
        _requests: &[Vec<GenerateRequest>],
        _options: &GenerationOptions,
        _cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        Err(Error::checkpoint(self.name(), NO_QUESTIONS))
    }
    /// Computes for each question, given as its states, the log-probability of each token of the vocabulary to be an
    /// answer's first.
    fn first_tokens(&self, _questions: &[&Embedding]) -> Result<Vec<Vec<f32>>> {
        Err(Error::checkpoint(self.name(), NO_QUESTIONS))
    }
    /// Scores each question's answers, given as token ids from [DEC] to [SEP]. `cancelled` is polled as by
    /// [`Self::generate`].
    fn score_answers(
        &self,
        _questions: &[&Embedding],
        _answers: &[Vec<&[u32]>],
        _cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<AnswerScore>>> {
        Err(Error::checkpoint(self.name(), NO_QUESTIONS))
    }
}
