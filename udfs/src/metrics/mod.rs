//! Metrics of captions against reference captions, equal to pycocoevalcap 1.2's: BLEU, CIDEr, CIDEr-D, ROUGE-L; and recall@k.
//!
//! Texts are tokenised beforehand: tokens are what stands between blanks (`str::split_whitespace`; unlike Python's
//! `str.split`, the control characters U+001C to U+001F are no blanks). Case and punctuation count, so lower-case and strip
//! both sides alike first, as COCO's evaluation does with its PTB tokeniser.
//!
//! Each metric accumulates: `add` takes an item, which is one candidate with its references; `merge` takes another
//! accumulator's items; `state` and `from_state` carry an accumulator from one partition to another. Scores of the same items
//! added or merged in another order are equal within 1e-12. Without items there is no score.

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

/// Why an item or a state was refused. The accumulator is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The item has no references. An empty text is a reference.
    #[error("no references: a caption is scored against one or more of them")]
    NoReferences,
    /// The argument of this name counts from 1, and has this value.
    #[error("{0} is {1}, but counts from 1")]
    NotPositive(&'static str, i64),
    /// Recall at two different k cannot be one number.
    #[error("k is {0} in one row and {1} in another; it must be one number, so give a literal")]
    MixedK(i64, i64),
    /// Numbers or texts that no `state` gives; says what is wrong.
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
