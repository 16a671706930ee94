//! Decoding strategies: choice of tokens from a step's logits. Pure and one image at a time, so that batching has no
//! effect.
//!
//! A [`Search`] gives the token ids of Hugging Face transformers' `generate` (5.23). By default nucleus sampling there
//! draws from the `top_k` = 50 most likely tokens, as do this crate and BLIP: its code passes no `top_k`, and its
//! version of transformers (4.15) then takes 50 from the model's configuration.

mod beam;
mod candidates;
mod options;
#[cfg(test)]
mod oracle;
mod processors;
mod row;
mod sample;
mod search;
#[cfg(test)]
mod tests;

pub use candidates::{Candidates, Kept};
pub use options::{GenerationOptions, Strategy};
pub use row::Row;
pub use search::Search;
