//! CIDEr and CIDEr-D: Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015, arXiv
//! 1411.5726).

use std::collections::HashMap;

use super::error::MetricError;
use super::ngrams::{MAX_N, Ngram, NgramCounts, Vocabulary, find, order};

/// Standard deviation of CIDEr-D's Gaussian, in tokens.
const SIGMA: f64 = 6.0;
/// Factor of both scores in all published code; in the paper, only of CIDEr-D.
const SCALE: f64 = 10.0;

/// Variant of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CiderVariant {
    /// Plain CIDEr, the paper's consensus metric without its stemming: the mean cosine of TF-IDF vectors of 1-grams to
    /// 4-grams. Equal to pyciderevalcap/cider of the authors' repository vrama91/cider with `df_mode` "corpus".
    Cider,
    /// CIDEr-D, the paper's variant that is harder to game: repeated n-grams are clipped at the reference's weight, and
    /// length differences are penalised by a Gaussian with sigma 6. This is what pycocoevalcap/cider/cider_scorer.py
    /// computes and papers on COCO report as CIDEr.
    CiderD,
}

/// Items of a corpus. All are kept, since a score depends on how many items have an n-gram in their references.
///
/// Texts are stored once. While [`scores`](Self::scores) runs, it takes up to 60 bytes per distinct n-gram of the
/// references.
#[derive(Debug, Clone, Default)]
pub struct CiderCorpus {
    candidates: Vec<String>,
    references: Vec<Vec<String>>,
    size: usize,
}

impl CiderCorpus {
    /// Adds a candidate, which may be empty, with its references.
    ///
    /// # Errors
    /// [`MetricError::NoReferences`] where `references` is empty.
    pub fn add(&mut self, candidate: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        self.push(candidate.into(), references.iter().map(|r| r.as_ref().into()).collect())
    }

    /// Appends the items of `other`.
    pub fn merge(&mut self, other: Self) {
        self.candidates.extend(other.candidates);
        self.references.extend(other.references);
        self.size += other.size;
    }

    /// Score of the corpus, from 0 to 10: the mean over its items. None without items.
    ///
    /// A corpus of one item scores 0. So do n-grams that occur in every item's references: their weight is log 1.
    pub fn score(&self, variant: CiderVariant) -> Option<f64> {
        let scores = self.scores(variant);
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// Scores of the items, from 0 to 10, in the order in which they were added.
    pub fn scores(&self, variant: CiderVariant) -> Vec<f64> {
        let mut vocabulary = Vocabulary::default();
        let weighting = Weighting::new(&self.references, &mut vocabulary);
        let items = self.candidates.iter().zip(&self.references);
        let scores = items.map(|(candidate, references)| {
            let candidate = weighting.vector(&vocabulary.count(candidate));
            let similarities =
                references.iter().map(|r| candidate.similarity(&weighting.vector(&vocabulary.count(r)), variant));
            SCALE * similarities.sum::<f64>() / references.len() as f64
        });
        scores.collect()
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Size of the items in bytes, without allocator overhead; constant time.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The candidates, and each one's references.
    pub fn state(&self) -> (&[String], &[Vec<String>]) {
        (&self.candidates, &self.references)
    }

    /// The inverse of [`state`](Self::state).
    ///
    /// # Errors
    /// [`MetricError::State`] if the numbers of candidates and reference lists differ, [`MetricError::NoReferences`] if
    /// a list is empty.
    pub fn from_state(candidates: Vec<String>, references: Vec<Vec<String>>) -> Result<Self, MetricError> {
        if candidates.len() != references.len() {
            let reason = format!("CIDEr has {} candidates, but references for {}", candidates.len(), references.len());
            return Err(MetricError::State(reason));
        }
        let mut corpus = Self::default();
        for (candidate, references) in candidates.into_iter().zip(references) {
            corpus.push(candidate, references)?;
        }
        Ok(corpus)
    }

    fn push(&mut self, candidate: String, references: Vec<String>) -> Result<(), MetricError> {
        if references.is_empty() {
            return Err(MetricError::NoReferences);
        }
        let text = |t: &String| size_of::<String>() + t.capacity();
        self.size += text(&candidate) + size_of::<Vec<String>>() + references.iter().map(text).sum::<usize>();
        self.candidates.push(candidate);
        self.references.push(references);
        Ok(())
    }
}

/// TF-IDF over a corpus.
struct Weighting {
    /// Number of items with an n-gram in their references, for n-grams in more than one item.
    document_frequencies: HashMap<Ngram, u32>,
    log_items: f64,
}

impl Weighting {
    fn new<'a>(references: &'a [Vec<String>], vocabulary: &mut Vocabulary<'a>) -> Self {
        let mut document_frequencies: HashMap<Ngram, u32> = HashMap::new();
        for item in references {
            let counts = item.iter().flat_map(|r| vocabulary.count(r).counts);
            let mut ngrams: Vec<Ngram> = counts.map(|(ngram, _)| ngram).collect();
            ngrams.sort_unstable();
            ngrams.dedup();
            for ngram in ngrams {
                *document_frequencies.entry(ngram).or_insert(0) += 1;
            }
        }
        // Drop frequencies of 1, which most n-grams have: 1 is the default, and lookups get faster.
        document_frequencies.retain(|_, frequency| *frequency > 1);
        document_frequencies.shrink_to_fit();
        Self { document_frequencies, log_items: (references.len() as f64).ln() }
    }

    fn vector(&self, text: &NgramCounts) -> Vector {
        let mut norms = [0.0; MAX_N];
        let weights = text.counts.iter().map(|(ngram, count)| {
            // An n-gram in no reference weighs as much as one in a single item's references.
            let frequency = self.document_frequencies.get(ngram).copied().unwrap_or(1);
            let weight = f64::from(*count) * (self.log_items - f64::from(frequency).ln());
            norms[order(ngram)] += weight * weight;
            (*ngram, weight)
        });
        Vector { weights: weights.collect(), norms: norms.map(f64::sqrt), tokens: text.tokens as f64 }
    }
}

/// TF-IDF weights of a text, and their norms by n-gram order.
struct Vector {
    /// Sorted by n-gram.
    weights: Vec<(Ngram, f64)>,
    norms: [f64; MAX_N],
    tokens: f64,
}

impl Vector {
    /// Mean similarity over the n-gram orders, from 0 to 1.
    fn similarity(&self, reference: &Self, variant: CiderVariant) -> f64 {
        let mut products = [0.0; MAX_N];
        for (ngram, weight) in &self.weights {
            let Some(other) = find(&reference.weights, ngram) else { continue };
            products[order(ngram)] += other
                * match variant {
                    CiderVariant::Cider => *weight,
                    CiderVariant::CiderD => weight.min(other),
                };
        }
        let mut sum = 0.0;
        for (n, product) in products.iter().enumerate() {
            let norms = self.norms[n] * reference.norms[n];
            if norms > 0.0 {
                sum += product / norms;
            }
        }
        let penalty = match variant {
            CiderVariant::Cider => 1.0,
            // pycocoevalcap measures lengths in 2-grams, whose differences are the same except for an empty text, whose
            // sum is 0.
            CiderVariant::CiderD => (-(self.tokens - reference.tokens).powi(2) / (2.0 * SIGMA * SIGMA)).exp(),
        };
        penalty * sum / MAX_N as f64
    }
}

#[cfg(test)]
mod tests {
    use super::CiderVariant::{Cider, CiderD};
    use super::{CiderCorpus, MetricError};
    use crate::metrics::golden::{assert_close, corpora};

    #[test]
    fn equals_pycocoevalcap_and_the_papers_formula() {
        for golden in corpora() {
            let mut corpus = CiderCorpus::default();
            for (candidate, references) in golden.items() {
                corpus.add(candidate, references).unwrap();
            }
            for (variant, score, scores) in
                [(CiderD, golden.cider_d, &golden.cider_d_items), (Cider, golden.cider, &golden.cider_items)]
            {
                assert_close(corpus.score(variant).unwrap(), score, &golden.name);
                let ours = corpus.scores(variant);
                assert_eq!(ours.len(), scores.len());
                for ((ours, theirs), candidate) in ours.iter().zip(scores).zip(&golden.candidates) {
                    assert_close(*ours, *theirs, candidate);
                }
            }
        }
    }

    #[test]
    fn merged_partitions_equal_one() {
        let golden = &corpora()[0];
        let mut whole = CiderCorpus::default();
        let mut parts = vec![CiderCorpus::default(); 3];
        for (i, (candidate, references)) in golden.items().enumerate() {
            whole.add(candidate, references).unwrap();
            parts[i * i % 3].add(candidate, references).unwrap();
        }
        let mut merged = CiderCorpus::default();
        for part in parts.iter().rev() {
            let (candidates, references) = part.state();
            merged.merge(CiderCorpus::from_state(candidates.to_vec(), references.to_vec()).unwrap());
        }
        assert_eq!((merged.len(), merged.size()), (whole.len(), whole.size()));
        for variant in [Cider, CiderD] {
            let (merged, whole) = (merged.score(variant).unwrap(), whole.score(variant).unwrap());
            assert!((merged - whole).abs() <= 1e-12, "{merged} for {whole}");
        }
    }

    #[test]
    fn edge_cases() {
        let mut corpus = CiderCorpus::default();
        assert_eq!(corpus.score(Cider), None);
        assert_eq!(corpus.add("a cat", &[""; 0]), Err(MetricError::NoReferences));
        assert!(corpus.is_empty() && corpus.size() == 0);
        // No n-grams at all: pycocoevalcap fails here.
        corpus.add("", &[""]).unwrap();
        corpus.add("a cat", &[""]).unwrap();
        assert_eq!(corpus.scores(CiderD), [0.0, 0.0]);
        let one = || vec!["a cat".to_string()];
        assert!(matches!(CiderCorpus::from_state(one(), vec![]), Err(MetricError::State(_))));
        assert_eq!(CiderCorpus::from_state(one(), vec![vec![]]).unwrap_err(), MetricError::NoReferences);
    }
}
