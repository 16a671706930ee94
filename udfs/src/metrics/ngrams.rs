//! N-gram counts of a text.

use std::collections::HashMap;

/// Maximum n of the n-grams in BLEU and CIDEr.
pub(super) const MAX_N: usize = 4;

/// Ids of 1 to [`MAX_N`] tokens, which are positive, padded with zeros.
pub(super) type Ngram = [u32; MAX_N];

/// Order of an n-gram: 0 for a single token, up to `MAX_N - 1`.
pub(super) fn order(ngram: &Ngram) -> usize {
    ngram[1..].iter().filter(|id| **id != 0).count()
}

/// Value of `ngram` in pairs sorted by n-gram.
pub(super) fn find<T: Copy>(sorted: &[(Ngram, T)], ngram: &Ngram) -> Option<T> {
    sorted.binary_search_by(|(other, _)| other.cmp(ngram)).ok().map(|i| sorted[i].1)
}

/// Ids of tokens, assigned in order of appearance.
#[derive(Default)]
pub(super) struct Vocabulary<'a>(HashMap<&'a str, u32>);

impl<'a> Vocabulary<'a> {
    /// Counts the n-grams of every order in `text`.
    pub(super) fn count(&mut self, text: &'a str) -> NgramCounts {
        let ids: Vec<u32> = text.split_whitespace().map(|token| self.id(token)).collect();
        let mut ngrams = Vec::with_capacity(MAX_N * ids.len());
        for n in 1..=MAX_N {
            ngrams.extend(ids.windows(n).map(|window| {
                let mut ngram = Ngram::default();
                ngram[..n].copy_from_slice(window);
                ngram
            }));
        }
        ngrams.sort_unstable();
        let counts = ngrams.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).collect();
        NgramCounts { tokens: ids.len(), counts }
    }

    fn id(&mut self, token: &'a str) -> u32 {
        let next = self.0.len() as u32 + 1;
        *self.0.entry(token).or_insert(next)
    }
}

/// N-gram counts of one text.
pub(super) struct NgramCounts {
    /// Length of the text in tokens.
    pub(super) tokens: usize,
    /// Count of each n-gram, sorted by n-gram.
    pub(super) counts: Vec<(Ngram, u32)>,
}

#[cfg(test)]
mod tests {
    use super::{Vocabulary, find, order};

    #[test]
    fn ngrams_of_every_order_are_counted() {
        let mut vocabulary = Vocabulary::default();
        let counts = vocabulary.count(" a b  a\tb c\n");
        assert_eq!(counts.tokens, 5);
        let of_order = |n| counts.counts.iter().filter(|(g, _)| order(g) == n).map(|(_, c)| c).sum::<u32>();
        assert_eq!([0, 1, 2, 3].map(of_order), [5, 4, 3, 2]);
        let ab = [1, 2, 0, 0];
        assert_eq!(find(&counts.counts, &ab), Some(2));
        assert_eq!(find(&counts.counts, &[2, 2, 0, 0]), None);
        assert_eq!(find(&vocabulary.count("c a b").counts, &ab), Some(1));
        assert!(vocabulary.count(" \n").counts.is_empty());
    }
}
