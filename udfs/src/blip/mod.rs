//! BLIP's model, MED: checkpoints, ONNX graphs, sessions and decoding.
//!
//! The engine uses a checkpoint only through [`Med`], which [`OrtMed`] implements on ONNX Runtime.

pub(crate) mod answers;
pub(crate) mod checkpoint;
pub(crate) mod config;
mod convert;
mod cuda;
mod decoder;
pub(crate) mod device;
mod device_decoder;
mod digests;
pub(crate) mod files;
pub mod generate;
mod generation_config;
mod graph;
mod host;
pub(crate) mod med;
mod on_device;
mod operators;
mod ort_med;
mod quant;
mod registry;
mod resident;
pub(crate) mod runtime;
pub mod session;
mod values;
mod weights;
mod work;

pub use checkpoint::{Checkpoint, Inspection, Parts, inspect};
pub(crate) use checkpoint::{NO_DECODER, NO_ITM_HEAD, NO_QUESTIONS};
pub use config::{BlipConfig, TextConfig, Tying, VisionConfig};
pub use convert::{Converted, convert};
pub use digests::cache_folder;
pub use generation_config::PartialGeneration;
pub use med::{AnswerScore, DeviceMemory, Embedding, GenerateRequest, Med, Precision, Room, WorkBytes};
pub use registry::{
    HubResolver, checkpoint_dir, generation_defaults, load, projection_dim, register_checkpoint, set_hub_resolver,
};
pub use resident::{Crossed, Resident};
pub use session::OrtMed;
pub use weights::weight_files;
