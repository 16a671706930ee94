//! Scores of the decoder's rows, as searches take them.

/// Scores of one row: those of all tokens, or of the likeliest.
#[derive(Debug, Clone, Copy)]
pub enum Candidates<'a> {
    /// The score of each token.
    Whole(&'a [f32]),
    /// The scores of some tokens.
    Kept(Kept<'a>),
}

/// The likeliest tokens of a row: no other token has a higher score than the lowest of theirs.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// Tokens, each once, in any order.
    pub tokens: &'a [i32],
    /// Their scores.
    pub scores: &'a [f32],
    /// Scores of the row's [`Search::own_tokens`](super::Search::own_tokens), in that order. Those of tokens outside
    /// the vocabulary are ignored.
    pub own: &'a [f32],
}

impl<'a> Candidates<'a> {
    /// Whole rows of `vocab` scores each.
    pub fn rows(scores: &'a [f32], vocab: usize) -> Vec<Self> {
        scores.chunks_exact(vocab.max(1)).map(Self::Whole).collect()
    }

    /// Row `index`; without scores if the caller passed too few rows.
    pub(super) fn row(rows: &[Self], index: usize) -> Self {
        rows.get(index).copied().unwrap_or(Self::Whole(&[]))
    }
}

impl Kept<'_> {
    /// The highest score that another token may have: a NaN, which is below nothing, if that is unknown.
    pub(super) fn bound(&self) -> f32 {
        let lower = |a: f32, b: &f32| if b.is_nan() || *b < a { *b } else { a };
        self.scores.split_first().map_or(f32::NAN, |(first, rest)| rest.iter().fold(*first, lower))
    }
}
