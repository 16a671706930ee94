//! transformers' logits processors. They change only a few scores a step, so the vocabulary is not copied: changed
//! scores are kept apart, and [`Scores::runs`] merges them in. Where only a row's likeliest tokens are known, there is
//! nothing to merge into.

use super::candidates::Candidates;
use super::options::GenerationOptions;

/// Processors common to all strategies.
#[derive(Debug)]
pub(super) struct Processors {
    repetition_penalty: f32,
    min_length: usize,
    eos: u32,
}

impl Processors {
    pub(super) fn new(options: &GenerationOptions, eos: u32) -> Self {
        Self { repetition_penalty: options.repetition_penalty, min_length: options.min_length, eos }
    }

    /// Tokens whose scores `apply` needs even if they are not among the likeliest: those that already occurred.
    pub(super) fn own_tokens<'a>(&self, prompt: &'a [u32], ids: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let penalised = self.repetition_penalty != 1.0;
        prompt.iter().chain(ids).copied().filter(move |_| penalised)
    }

    /// Applies the processors to a row, the scores of `vocab` tokens after `prompt` and `ids`. `changes` is a scratch
    /// buffer.
    pub(super) fn apply<'a>(
        &self,
        prompt: &[u32],
        ids: &[u32],
        row: Candidates<'a>,
        vocab: usize,
        changes: &'a mut Vec<(usize, f32)>,
    ) -> Scores<'a> {
        let (raw, vocab, mut bound) = match row {
            Candidates::Whole(raw) => (raw, raw.len(), None),
            Candidates::Kept(kept) => (&[][..], vocab, (kept.tokens.len() < vocab).then(|| kept.bound())),
        };
        changes.clear();
        // Minimum length comes last in transformers and so wins; here it comes first, since the first change of a token
        // stays.
        if prompt.len() + ids.len() < self.min_length && (self.eos as usize) < vocab {
            changes.push((self.eos as usize, f32::NEG_INFINITY));
        }
        for (place, token) in self.own_tokens(prompt, ids).enumerate() {
            let score = match row {
                Candidates::Whole(raw) => raw.get(token as usize),
                Candidates::Kept(kept) => kept.own.get(place),
            };
            match score {
                // A token outside the vocabulary, for example in a prompt, has no score to change.
                _ if token as usize >= vocab => {}
                Some(&score) => changes.push((token as usize, self.penalised(score))),
                // Without its score only the whole row decides.
                None => bound = Some(f32::NAN),
            }
        }
        if let Candidates::Kept(kept) = row {
            changes.extend(kept.tokens.iter().map(|&token| token as usize).zip(kept.scores.iter().copied()));
        }
        changes.sort_by_key(|change| change.0);
        changes.dedup_by_key(|change| change.0);
        Scores { raw, changes, vocab, bound }
    }

    fn penalised(&self, score: f32) -> f32 {
        if score < 0.0 { score * self.repetition_penalty } else { score / self.repetition_penalty }
    }
}

/// One row's scores with the processors' changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'a> {
    /// Scores of all tokens; empty if only some are known.
    raw: &'a [f32],
    /// Tokens and new scores, in ascending order without duplicates. If `raw` is empty, all that are known.
    changes: &'a [(usize, f32)],
    vocab: usize,
    bound: Option<f32>,
}

impl<'a> Scores<'a> {
    /// Size of the vocabulary.
    pub(super) fn len(self) -> usize {
        self.vocab
    }

    /// The highest score that a token beyond `runs` may have; `None` if there is no such token. A NaN means any score.
    pub(super) fn bound(self) -> Option<f32> {
        self.bound
    }

    /// The known scores in ascending order of their tokens, in runs of a first token and consecutive scores.
    pub(super) fn runs(self) -> impl Iterator<Item = (usize, &'a [f32])> {
        let Self { raw, changes, .. } = self;
        let mut next = 0;
        let tail = changes.last().map_or(0, |change| change.0 + 1);
        let changed = changes.iter().flat_map(move |(token, score)| {
            let before = (next, raw.get(next..*token).unwrap_or_default());
            next = token + 1;
            [before, (*token, std::slice::from_ref(score))]
        });
        changed.chain(std::iter::once((tail, raw.get(tail..).unwrap_or_default())))
    }
}

/// Replaces a NaN by minus infinity, because it would make every comparison, and with it the search, meaningless.
pub(super) fn number(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score }
}

/// Python's double for an option written as this float, 0.9 for 0.9f32. transformers computes with options in doubles
/// before float tensors see the result.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
