//! Caption metrics against references, equal to pycocoevalcap 1.2's (BLEU, CIDEr, CIDEr-D, ROUGE-L), and recall@k.
//!
//! Texts must be normalised beforehand: tokens are separated by white space (`str::split_whitespace`; unlike in
//! Python's `str.split`, the control characters U+001C to U+001F do not separate). Case and punctuation count, so
//! lower-case and strip both sides alike first, as COCO's evaluation does with its PTB tokeniser.
//!
//! Each metric accumulates: `add` adds an item, which is one candidate with its references; `merge` adds another
//! accumulator's items; `state` and `from_state` move an accumulator between partitions. Scores of the same items in
//! another order of additions and merges are equal within 1e-12. Without items there is no score.

mod bleu;
mod cider;
#[cfg(test)]
mod golden;
mod ngrams;
mod recall;
mod rouge;

pub use bleu::{BleuStats, sentence_bleu};
pub use cider::{CiderCorpus, CiderVariant};
pub use recall::RecallStats;
pub use rouge::{RougeStats, rouge_l};

/// Reason why an item or a state was refused. The accumulator is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The item has no references. An empty text is a reference.
    #[error("no references: a caption is scored against one or more of them")]
    NoReferences,
    /// The named argument counts from 1, but has this value.
    #[error("{0} is {1}, but counts from 1")]
    NotPositive(&'static str, i64),
    /// Recall at different k cannot be combined.
    #[error("k is {0} in one row and {1} in another; it must be one number, so give a literal")]
    MixedK(i64, i64),
    /// Numbers or texts that `state` never returns, with the fault.
    #[error("broken state of a metric: {0}")]
    State(String),
}

#[cfg(test)]
mod tests {
    use super::MetricError;

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(MetricError::NoReferences.to_string().starts_with("no references"));
        assert_eq!(MetricError::NotPositive("rank", 0).to_string(), "rank is 0, but counts from 1");
        assert!(MetricError::State("2 numbers".into()).to_string().ends_with(": 2 numbers"));
    }
}
