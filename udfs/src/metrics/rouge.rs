//! ROUGE-L: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), section 3, as computed by
//! pycocoevalcap/rouge/rouge.py.

use super::error::MetricError;

/// Weight of recall against precision.
const BETA: f64 = 1.2;

/// Mean ROUGE-L over items.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RougeStats {
    sum: f64,
    items: u64,
}

impl RougeStats {
    /// Adds a candidate, which may be empty, with its references.
    ///
    /// # Errors
    /// [`MetricError::NoReferences`] where `references` is empty.
    pub fn add(&mut self, candidate: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        self.sum += rouge_l(candidate, references)?;
        self.items += 1;
        Ok(())
    }

    /// Adds the items of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.items += other.items;
    }

    /// The mean, from 0 to 1. None without items.
    pub fn score(&self) -> Option<f64> {
        (self.items > 0).then(|| self.sum / self.items as f64)
    }

    /// Sum of the scores, and number of items.
    pub fn state(&self) -> (f64, u64) {
        (self.sum, self.items)
    }

    /// The inverse of [`state`](Self::state).
    pub fn from_state(sum: f64, items: u64) -> Self {
        Self { sum, items }
    }
}

/// ROUGE-L of one item, from 0 to 1: the F-measure (beta 1.2) of the best precision and the best recall over the
/// longest common subsequences with each reference. The two may come from different references.
///
/// Two empty texts are equal and score 1, as in pycocoevalcap. Runs of blanks count nothing here; pycocoevalcap takes
/// them for empty tokens.
///
/// # Errors
/// [`MetricError::NoReferences`] where `references` is empty.
pub fn rouge_l(candidate: &str, references: &[impl AsRef<str>]) -> Result<f64, MetricError> {
    if references.is_empty() {
        return Err(MetricError::NoReferences);
    }
    let candidate = tokens(candidate);
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference = tokens(reference.as_ref());
        let common = common_subsequence(&candidate, &reference) as f64;
        precision = precision.max(common / candidate.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    let weighted = recall + BETA * BETA * precision;
    Ok(if weighted > 0.0 { (1.0 + BETA * BETA) * precision * recall / weighted } else { 0.0 })
}

/// Tokens of a text; an empty text has one empty token.
fn tokens(text: &str) -> Vec<&str> {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    if tokens.is_empty() { vec![""] } else { tokens }
}

/// Length of the longest common subsequence, in O(`a` x `b`) time and O(`b`) memory.
fn common_subsequence(a: &[&str], b: &[&str]) -> usize {
    // longest[j] is the length for the tokens of `a` so far and the first j of `b`.
    let mut longest = vec![0; b.len() + 1];
    for x in a {
        let mut before = 0;
        for (j, y) in b.iter().enumerate() {
            let without = longest[j + 1];
            longest[j + 1] = if x == y { before + 1 } else { without.max(longest[j]) };
            before = without;
        }
    }
    longest[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{RougeStats, rouge_l};
    use crate::metrics::MetricError;
    use crate::metrics::golden::{assert_close, corpora};

    #[test]
    fn equals_pycocoevalcap() {
        for corpus in corpora() {
            let mut stats = RougeStats::default();
            for (i, (candidate, references)) in corpus.items().enumerate() {
                stats.add(candidate, references).unwrap();
                assert_close(rouge_l(candidate, references).unwrap(), corpus.rouge_l_items[i], candidate);
            }
            assert_close(stats.score().unwrap(), corpus.rouge_l, &corpus.name);
        }
    }

    #[test]
    fn merged_partitions_equal_one() {
        let corpus = &corpora()[0];
        let mut whole = RougeStats::default();
        let mut parts = [RougeStats::default(); 3];
        for (i, (candidate, references)) in corpus.items().enumerate() {
            whole.add(candidate, references).unwrap();
            parts[i * i % 3].add(candidate, references).unwrap();
        }
        let mut merged = RougeStats::default();
        for part in parts.iter().rev() {
            let (sum, items) = part.state();
            merged.merge(&RougeStats::from_state(sum, items));
        }
        let (merged, whole) = (merged.score().unwrap(), whole.score().unwrap());
        assert!((merged - whole).abs() <= 1e-12, "{merged} for {whole}");
    }

    #[test]
    fn edge_cases() {
        let mut stats = RougeStats::default();
        assert_eq!(stats.score(), None);
        assert_eq!(stats.add("a cat", &[""; 0]), Err(MetricError::NoReferences));
        assert_eq!(stats, RougeStats::default());
        assert_eq!(rouge_l("", &["a cat"]), Ok(0.0));
        assert_eq!(rouge_l("a cat", &[""]), Ok(0.0));
    }
}
