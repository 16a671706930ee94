//! BLEU: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation" (ACL 2002), section 2, as
//! computed by pycocoevalcap/bleu/bleu_scorer.py with option 'closest'.

use super::error::MetricError;
use super::ngrams::{MAX_N, NgramCounts, Vocabulary, find, order};

/// pycocoevalcap adds these to numerator and denominator, so that no matches among no n-grams score about 0.
const TINY: f64 = 1e-15;
const SMALL: f64 = 1e-9;

/// Sums of corpus BLEU over the items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BleuStats {
    items: u64,
    candidate_tokens: u64,
    /// Tokens of each item's reference closest in length to the candidate; of two, the shorter.
    reference_tokens: u64,
    /// Matching n-grams of the candidates by n, each clipped at its highest count in a single reference.
    matches: [u64; MAX_N],
    /// N-grams of the candidates by n.
    ngrams: [u64; MAX_N],
}

impl BleuStats {
    /// Adds a candidate, which may be empty, with its references.
    ///
    /// # Errors
    /// [`MetricError::NoReferences`] where `references` is empty.
    pub fn add(&mut self, candidate: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        let mut vocabulary = Vocabulary::default();
        let candidate = vocabulary.count(candidate);
        let references: Vec<NgramCounts> = references.iter().map(|r| vocabulary.count(r.as_ref())).collect();
        let lengths = references.iter().map(|r| r.tokens);
        let closest = lengths.min_by_key(|l| (l.abs_diff(candidate.tokens), *l)).ok_or(MetricError::NoReferences)?;
        self.items += 1;
        self.candidate_tokens += candidate.tokens as u64;
        self.reference_tokens += closest as u64;
        for (ngram, count) in &candidate.counts {
            let most = references.iter().filter_map(|r| find(&r.counts, ngram)).max().unwrap_or(0);
            self.matches[order(ngram)] += u64::from(most.min(*count));
            self.ngrams[order(ngram)] += u64::from(*count);
        }
        Ok(())
    }

    /// Adds the items of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.items += other.items;
        self.candidate_tokens += other.candidate_tokens;
        self.reference_tokens += other.reference_tokens;
        for n in 0..MAX_N {
            self.matches[n] += other.matches[n];
            self.ngrams[n] += other.ngrams[n];
        }
    }

    /// Corpus BLEU-`n` from 0 to 1: geometric mean of the precisions of 1-grams to `n`-grams, times the brevity
    /// penalty. None without items, or if `n` is not 1 to 4.
    pub fn score(&self, n: usize) -> Option<f64> {
        if self.items == 0 || !(1..=MAX_N).contains(&n) {
            return None;
        }
        let precisions = self.matches.iter().zip(&self.ngrams).map(|(m, g)| (*m as f64 + TINY) / (*g as f64 + SMALL));
        let mean = precisions.take(n).product::<f64>().powf(1.0 / n as f64);
        let ratio = (self.candidate_tokens as f64 + TINY) / (self.reference_tokens as f64 + SMALL);
        Some(if ratio < 1.0 { mean * (1.0 - 1.0 / ratio).exp() } else { mean })
    }

    /// The 11 sums: items, tokens of candidates, tokens of closest references, 4 of matches, 4 of n-grams.
    pub fn state(&self) -> Vec<u64> {
        let mut state = vec![self.items, self.candidate_tokens, self.reference_tokens];
        state.extend(self.matches);
        state.extend(self.ngrams);
        state
    }

    /// The inverse of [`state`](Self::state).
    ///
    /// # Errors
    /// [`MetricError::State`] unless there are 11 numbers.
    pub fn from_state(state: &[u64]) -> Result<Self, MetricError> {
        let &[items, candidate_tokens, reference_tokens, m1, m2, m3, m4, g1, g2, g3, g4] = state else {
            return Err(MetricError::State(format!("BLEU has 11 numbers, not {}", state.len())));
        };
        let (matches, ngrams) = ([m1, m2, m3, m4], [g1, g2, g3, g4]);
        Ok(Self { items, candidate_tokens, reference_tokens, matches, ngrams })
    }
}

/// BLEU-1 to BLEU-4 of one item, unsmoothed: about 0 without a match of some order.
///
/// # Errors
/// [`MetricError::NoReferences`] where `references` is empty.
pub fn sentence_bleu(candidate: &str, references: &[impl AsRef<str>]) -> Result<[f64; 4], MetricError> {
    let mut stats = BleuStats::default();
    stats.add(candidate, references)?;
    Ok([1, 2, 3, 4].map(|n| stats.score(n).unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::{BleuStats, sentence_bleu};
    use crate::metrics::MetricError;
    use crate::metrics::golden::{assert_close, corpora};

    #[test]
    fn equals_pycocoevalcap() {
        for corpus in corpora() {
            let mut stats = BleuStats::default();
            for (i, (candidate, references)) in corpus.items().enumerate() {
                stats.add(candidate, references).unwrap();
                let scores = sentence_bleu(candidate, references).unwrap();
                for (ours, theirs) in scores.iter().zip(&corpus.bleu_items[i]) {
                    assert_close(*ours, *theirs, candidate);
                }
            }
            for n in 1..=4 {
                assert_close(stats.score(n).unwrap(), corpus.bleu[n - 1], &corpus.name);
            }
        }
    }

    #[test]
    fn merged_partitions_equal_one() {
        let corpus = &corpora()[0];
        let mut whole = BleuStats::default();
        let mut parts = vec![BleuStats::default(); 3];
        for (i, (candidate, references)) in corpus.items().enumerate() {
            whole.add(candidate, references).unwrap();
            parts[i * i % 3].add(candidate, references).unwrap();
        }
        let mut merged = BleuStats::default();
        for part in parts.iter().rev() {
            merged.merge(&BleuStats::from_state(&part.state()).unwrap());
        }
        assert_eq!(merged, whole);
    }

    #[test]
    fn edge_cases() {
        let mut stats = BleuStats::default();
        assert_eq!(stats.score(4), None);
        assert_eq!(stats.add("a cat", &[""; 0]), Err(MetricError::NoReferences));
        assert_eq!(stats, BleuStats::default());
        stats.add("", &[""]).unwrap();
        assert_eq!(stats.score(1), Some(0.0));
        assert_eq!((stats.score(0), stats.score(5)), (None, None));
        assert!(matches!(BleuStats::from_state(&[1, 2]), Err(MetricError::State(_))));
    }
}
