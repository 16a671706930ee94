//! Checkpoints by their names on the Hugging Face hub: `hf:OWNER/NAME@REVISION`.

#[cfg(not(feature = "hub"))]
mod cache_only;
mod checkpoint;
#[cfg(feature = "hub")]
mod client;
mod progress;
mod register;

pub use checkpoint::{HubCheckpoint, checkpoint, is_name, name_of};
pub use progress::OnBytes;
pub use register::interrupt;
