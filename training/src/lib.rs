//! BLIP's MED (multimodal mixture of encoder-decoder) in libtorch: the model, its three objectives, and a training
//! step; and the answerer of questions that is made from it.
//!
//! Parameters have the names of Hugging Face's BLIP, so that a trained model is exported without renaming. Random
//! numbers of a step are derived from (seed, step, purpose), which makes a resumed run equal to an uninterrupted one.
//!
//! A run is one process. Data parallelism over several is planned but not implemented: each rank would take the pairs
//! of a step whose number modulo the number of ranks is its own, the flat gradient for [`adamw`] would be summed over
//! the ranks, and ITC and its queue would see the features of all, as with BLIP's `concat_all_gather`.

pub mod adamw;
mod card;
pub mod checkpoint;
pub mod config;
pub mod data;
mod decimal;
pub mod error;
pub mod evaluate;
pub mod losses;
pub mod med;
pub mod memory;
pub mod params;
pub mod pretrained;
pub mod random;
pub mod report;
pub mod run;
pub mod settings;
pub mod state;
pub mod step;
mod step_options;
mod summary;
#[cfg(test)]
mod tests;
pub mod world;

pub use config::{MedConfig, Sharing};
pub use error::{Error, Result};
