//! The search for one caption, by whichever strategy.

use super::beam::Beam;
use super::candidates::Candidates;
use super::options::{GenerationOptions, Strategy};
use super::row::Row;
use super::sample::Sample;

/// Decoding state of one caption: gives the rows that the decoder computes next, and takes their scores.
#[derive(Debug)]
pub struct Search {
    method: Method,
    eos: u32,
}

#[derive(Debug)]
enum Method {
    Beam(Beam),
    Sample(Sample),
}

impl Search {
    /// Starts a search with valid `options`. `prompt` is `[DEC]` and the prompt's tokens; if it is empty or fills
    /// `max_length`, the search is done at once. `eos` ends a sequence, `vocab` is the number of scores per row, and
    /// `key` seeds nucleus sampling.
    pub fn new(options: &GenerationOptions, prompt: &[u32], eos: u32, vocab: usize, key: [u8; 32]) -> Self {
        let method = match options.strategy {
            Strategy::Beam if options.reads_log_probs() => Method::Beam(Beam::new(options, prompt, eos, vocab)),
            Strategy::Beam | Strategy::Greedy => Method::Sample(Sample::greedy(options, prompt, eos, vocab)),
            Strategy::Nucleus => Method::Sample(Sample::nucleus(options, prompt, eos, vocab, key)),
        };
        Self { method, eos }
    }

    /// Rows to feed in the next decoder step; empty when done. Before the first step, one row stands for the whole
    /// prompt: its token is the prompt's last, its parent 0.
    pub fn rows(&self) -> &[Row] {
        match &self.method {
            Method::Beam(beam) => beam.rows(),
            Method::Sample(sample) => sample.rows(),
        }
    }

    /// Tokens whose scores a row's [`Kept`](super::Kept) candidates must hold apart, because the search changes them:
    /// with a repetition penalty, the prompt's and those of [`Self::rows`] so far. Some may be outside the vocabulary.
    pub fn own_tokens(&self, row: usize) -> Vec<u32> {
        match &self.method {
            Method::Beam(beam) => beam.own_tokens(row),
            Method::Sample(sample) => sample.own_tokens(),
        }
    }

    /// Takes the scores of [`Self::rows`]: logits, or their log-softmax if [`GenerationOptions::reads_log_probs`]. A NaN
    /// counts as minus infinity. If no score is a number, the search is done.
    ///
    /// Returns the rows whose kept candidates do not decide. If there are any, the search has not changed; called again
    /// with these rows whole, it advances. So its result is always that of whole rows.
    #[must_use = "the search has not advanced if it needs whole rows"]
    pub fn advance(&mut self, rows: &[Candidates<'_>]) -> Vec<usize> {
        match &mut self.method {
            Method::Beam(beam) => beam.advance(rows),
            Method::Sample(sample) => sample.advance(rows),
        }
    }

    /// Whether the search has ended.
    pub fn is_done(&self) -> bool {
        self.rows().is_empty()
    }

    /// Token ids after the prompt, up to but excluding `eos`, of each of [`GenerationOptions::returned`] sequences,
    /// best first. If a beam search is not done, the best that have ended.
    pub fn into_sequences(self) -> Vec<Vec<u32>> {
        let mut sequences = match self.method {
            Method::Beam(beam) => beam.into_sequences(),
            Method::Sample(sample) => vec![sample.into_ids()],
        };
        for ids in &mut sequences {
            ids.truncate(ids.iter().position(|&id| id == self.eos).unwrap_or(ids.len()));
        }
        sequences
    }
}
