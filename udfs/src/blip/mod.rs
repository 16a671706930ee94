//! BLIP's model, MED: checkpoints, ONNX graphs, sessions and decoding.
//!
//! The engine sees a checkpoint through [`Med`] alone; [`session`] implements it on ONNX Runtime.

pub(crate) mod checkpoint;
pub(crate) mod config;
mod convert;
mod decoder;
pub(crate) mod files;
pub mod generate;
mod generation_config;
mod graph;
mod quant;
mod registry;
pub(crate) mod runtime;
pub mod session;
mod weights;

pub use checkpoint::{Checkpoint, Inspection, Parts, inspect};
pub(crate) use checkpoint::{NO_DECODER, NO_ITM_HEAD};
pub use config::{BlipConfig, TextConfig, Tying, VisionConfig};
pub use convert::{Converted, convert};
pub use generation_config::PartialGeneration;
pub use registry::{checkpoint_dir, generation_defaults, load, projection_dim, register_checkpoint};
pub use session::OrtMed;
pub use weights::weight_files;

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::image::Preprocessor;
use crate::text::Tokenizer;
use generate::GenerationOptions;

/// The last hidden states of the vision encoder for one image: `tokens x width` floats, row-major, after the final layer norm.
#[derive(Debug, Clone)]
pub struct Embedding(pub Arc<[f32]>);

impl Embedding {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.0)
    }
}

/// Which computation a precision asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Float32 throughout.
    #[default]
    Fp32,
    /// Integer products: weights quantised per output channel, activations per row.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Int8 => "int8",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "fp32" => Ok(Self::Fp32),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("{s:?} is no precision: use fp32 or int8")),
        }
    }
}

/// What one image's worth of work needs at its peak, beyond the weights: the engine sizes batches with it. Bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkBytes {
    /// To encode one image.
    pub encode: usize,
    /// To generate for one image with one beam or sample; each further one adds `per_sequence`.
    pub generate: usize,
    /// For each beam or sample.
    pub per_sequence: usize,
    /// To match one image with one text; each further one adds `per_sequence`.
    pub match_text: usize,
}

/// One caption to generate.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// `[DEC]` and the prompt's tokens.
    pub prompt: Arc<[u32]>,
    /// Seeds this caption's random numbers: a digest of (seed, image, candidate number). Unused by greedy and beam search.
    pub key: [u8; 32],
}

/// A loaded checkpoint as the engine sees it. Implemented on ONNX Runtime, and by fakes that inject failures.
///
/// Calls are made from one thread at a time. A call that runs out of memory returns [`crate::Error::OutOfMemory`] and
/// leaves the model usable. Results of one image or text do not depend on its neighbours in a call.
pub trait Med: Debug + Send + Sync {
    /// Name for messages: the folder.
    fn name(&self) -> &str;
    /// Digest of weights, configuration and tokenizer: equal digests give equal results.
    fn digest(&self) -> [u8; 32];
    /// `cpu` or `cuda:N`: where it runs.
    fn device(&self) -> &str;
    /// Its precision.
    fn precision(&self) -> Precision;
    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;
    /// Its image preprocessing.
    fn preprocessor(&self) -> &Preprocessor;
    /// Bytes of weights that it holds.
    fn resident_bytes(&self) -> usize;
    /// Bytes that work takes.
    fn work_bytes(&self) -> WorkBytes;
    /// Vision encoder. Each image: `width * height * 3` bytes as [`Preprocessor::squash`] returns them.
    fn encode(&self, images: &[&[u8]]) -> Result<Vec<Embedding>>;
    /// Unit-length image embeddings for ITC.
    fn project(&self, images: &[&Embedding]) -> Result<Vec<Arc<[f32]>>>;
    /// Unit-length text embeddings for ITC. Each text: token ids with [CLS] and [SEP].
    fn encode_texts(&self, texts: &[&[u32]]) -> Result<Vec<Arc<[f32]>>>;
    /// ITM: for each image the texts to match it with (token ids, first token [ENC] or [CLS]), and for each of these the
    /// probability that it matches.
    fn match_texts(&self, images: &[&Embedding], texts: &[Vec<&[u32]>]) -> Result<Vec<Vec<f32>>>;
    /// Captions: for each image one or more requests; all of a call share `options`. Returns for each image the ids that follow
    /// the prompt, without [SEP]: [`GenerationOptions::returned`] sequences of its first request, then those of the next.
    /// `cancelled` is asked between steps; when it says yes the call returns [`crate::Error::Cancelled`].
    fn generate(
        &self,
        images: &[&Embedding],
        requests: &[Vec<GenerateRequest>],
        options: &GenerationOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Vec<u32>>>>;
}
