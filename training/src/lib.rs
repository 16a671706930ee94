//! BLIP's MED (multimodal mixture of encoder-decoder) in libtorch: the model, its three objectives, and a training step.
//!
//! Parameters bear the names of Hugging Face's BLIP, so that what is trained here is exported as it lies. The step's randomness
//! is drawn from (seed, step, purpose), which makes a resumed run equal to an undisturbed one.
//!
//! A run is one process. Several by data parallelism are planned for and not built: every rank would take the pairs of a step whose
//! number is its own modulo the ranks, the flat gradient that [`adamw`] takes would be summed over them, and ITC and its queue would
//! see the features of all, as with BLIP's `concat_all_gather`.

pub mod adamw;
mod card;
pub mod checkpoint;
pub mod config;
pub mod data;
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
#[cfg(test)]
mod tests;
pub mod world;

pub use config::{MedConfig, Sharing};
pub use error::{Error, Result};
