//! Evaluation of a checkpoint with the same engine as the SQL functions: retrieval, captions, filter.

mod captions;
mod evaluated;
mod filter;
mod retrieval;

pub use captions::{CaptionScores, Captioned, captions};
pub use evaluated::{Evaluated, Items};
pub use filter::{FilterScores, filter};
pub use retrieval::{Recalls, RetrievalScores, retrieval};

#[cfg(test)]
mod tests;
