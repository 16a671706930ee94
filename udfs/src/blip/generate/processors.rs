//! transformers' logits processors. They change only a few scores a step, so the vocabulary is not copied: changed
//! scores are kept apart, and [`Scores::runs`] merges them in.

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

    /// Applies the processors to `raw`, the scores after `prompt` and `ids`. `changes` is a scratch buffer.
    pub(super) fn apply<'a>(
        &self,
        prompt: &[u32],
        ids: &[u32],
        raw: &'a [f32],
        changes: &'a mut Vec<(usize, f32)>,
    ) -> Scores<'a> {
        changes.clear();
        // Minimum length comes last in transformers and so wins; here it comes first, since the first change of a token
        // stays.
        if prompt.len() + ids.len() < self.min_length && (self.eos as usize) < raw.len() {
            changes.push((self.eos as usize, f32::NEG_INFINITY));
        }
        if self.repetition_penalty != 1.0 {
            for &token in prompt.iter().chain(ids) {
                // A token outside the vocabulary, for example in a prompt, has no score to change.
                if let Some(&score) = raw.get(token as usize) {
                    changes.push((token as usize, self.penalised(score)));
                }
            }
        }
        changes.sort_by_key(|change| change.0);
        changes.dedup_by_key(|change| change.0);
        Scores { raw, changes }
    }

    fn penalised(&self, score: f32) -> f32 {
        if score < 0.0 { score * self.repetition_penalty } else { score / self.repetition_penalty }
    }
}

/// One row's scores with the processors' changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'a> {
    raw: &'a [f32],
    /// Tokens and new scores, in ascending order without duplicates, all within `raw`.
    changes: &'a [(usize, f32)],
}

impl<'a> Scores<'a> {
    /// Size of the vocabulary.
    pub(super) fn len(self) -> usize {
        self.raw.len()
    }

    /// All scores by token, in runs of a first token and consecutive scores.
    pub(super) fn runs(self) -> impl Iterator<Item = (usize, &'a [f32])> {
        let Self { raw, changes } = self;
        let mut next = 0;
        let tail = changes.last().map_or(0, |change| change.0 + 1);
        let changed = changes.iter().flat_map(move |(token, score)| {
            let before = (next, &raw[next..*token]);
            next = token + 1;
            [before, (*token, std::slice::from_ref(score))]
        });
        changed.chain(std::iter::once((tail, &raw[tail..])))
    }
}

/// Scores of row `index`; empty if the caller passed too few.
pub(super) fn row(scores: &[f32], index: usize, vocab: usize) -> &[f32] {
    scores.get(index * vocab..(index + 1) * vocab).unwrap_or_default()
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
