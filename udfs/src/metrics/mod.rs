//! Caption metrics against references, equal to pycocoevalcap 1.2's (BLEU, CIDEr, CIDEr-D, ROUGE-L), recall@k, NDCG, and VQA
//! accuracy.
//!
//! Captions must be normalised beforehand: tokens are separated by white space (`str::split_whitespace`; unlike in
//! Python's `str.split`, the control characters U+001C to U+001F do not separate). Case and punctuation count, so
//! lower-case and strip both sides alike first, as COCO's evaluation does with its PTB tokeniser.
//!
//! Each metric accumulates: `add` adds an item, which is one candidate with its references; `merge` adds another
//! accumulator's items; `state` and `from_state` move an accumulator between partitions. Scores of the same items in
//! another order of additions and merges are equal within 1e-12. Without items there is no score.

mod bleu;
mod cider;
mod error;
#[cfg(test)]
mod golden;
mod ndcg;
mod ngrams;
mod recall;
mod rouge;
mod vqa;

pub use bleu::{BleuStats, sentence_bleu};
pub use cider::{CiderCorpus, CiderVariant};
pub use error::MetricError;
pub use ndcg::NdcgStats;
pub use recall::RecallStats;
pub use rouge::{RougeStats, rouge_l};
pub use vqa::{VqaScript, vqa_accuracy};
