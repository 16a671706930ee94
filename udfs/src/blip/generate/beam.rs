//! Beam search, step by step equal to transformers' vectorised `_beam_search` for one image.
//!
//! Its constant of -1e9 is kept rather than replaced by flags: it rounds scores and orders excluded candidates, and
//! that order decides when there are few tokens to choose from. Ties keep their order, by beam, then by token.

use std::cmp::Ordering;

use super::candidates::Candidates;
use super::options::GenerationOptions;
use super::processors::{Processors, decimal, number};
use super::row::{Row, first_rows};

/// Penalty added to the score of excluded candidates.
const OUT: f32 = -1.0e9;

#[derive(Debug)]
pub(super) struct Beam {
    prompt: Vec<u32>,
    eos: u32,
    vocab: usize,
    num_beams: usize,
    returned: usize,
    max_length: usize,
    length_penalty: f64,
    early_stopping: bool,
    processors: Processors,
    rows: Vec<Row>,
    /// Sequences to continue, best first.
    running: Vec<Running>,
    /// Finished sequences, best first; initially placeholders.
    finished: Vec<Finished>,
    /// Scratch buffer of the processors.
    changes: Vec<(usize, f32)>,
}

#[derive(Debug, Clone, Default)]
struct Running {
    score: f32,
    /// Ids after the prompt.
    ids: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Finished {
    score: f32,
    ids: Vec<u32>,
    /// Whether a sequence ended here; false for placeholders and excluded candidates.
    ended: bool,
}

impl Beam {
    pub(super) fn new(options: &GenerationOptions, prompt: &[u32], eos: u32, vocab: usize) -> Self {
        let num_beams = options.num_beams;
        // Copies of the prompt, of which the first must win, since beams must differ after the first step.
        let mut running = vec![Running { score: OUT, ids: Vec::new() }; num_beams];
        if let Some(first) = running.first_mut() {
            first.score = 0.0;
        }
        Self {
            prompt: prompt.to_vec(),
            eos,
            vocab,
            num_beams,
            returned: options.num_return_sequences,
            max_length: options.max_length,
            length_penalty: decimal(options.length_penalty),
            early_stopping: options.early_stopping,
            processors: Processors::new(options, eos),
            rows: first_rows(prompt, options.max_length),
            running,
            finished: vec![Finished { score: OUT, ids: Vec::new(), ended: false }; num_beams],
            changes: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn own_tokens(&self, row: usize) -> Vec<u32> {
        let ids = self.running.get(row).map_or(&[][..], |beam| &beam.ids);
        self.processors.own_tokens(&self.prompt, ids).collect()
    }

    /// Returns the rows whose candidates do not decide.
    pub(super) fn advance(&mut self, rows: &[Candidates<'_>]) -> Vec<usize> {
        let Some(last_row) = self.rows.len().checked_sub(1) else { return vec![] };
        let top = match self.candidates(rows, last_row) {
            Ok(top) => top,
            Err(undecided) => return undecided,
        };
        let new_length = self.running.first().map_or(0, |beam| beam.ids.len()) + 1;
        let at_limit = self.prompt.len() + new_length >= self.max_length;
        let ends: Vec<bool> = top.iter().map(|next| at_limit || next.token == self.eos).collect();
        // Extreme exponents make it zero or infinite; `number` handles the resulting NaNs.
        let divisor = (new_length as f64).powf(self.length_penalty) as f32;

        self.finish(&top, &ends, divisor);
        let parents = self.keep_running(&top, &ends);

        let all_ended = self.finished.iter().all(|beam| beam.ended);
        let stop = ends.iter().all(|&ends| ends)
            || (all_ended && self.early_stopping)
            // transformers keeps the outcome of this condition; so does an empty `rows`.
            || !self.can_improve(divisor);
        self.rows.clear();
        if !stop {
            let tokens = self.running.iter().filter_map(|beam| beam.ids.last());
            // All beams of the first step share its single row.
            let rows = parents.iter().zip(tokens).map(|(&beam, &token)| Row { parent: beam.min(last_row), token });
            self.rows.extend(rows);
        }
        vec![]
    }

    /// The best `2 * num_beams` continuations of all beams: even if each beam ends, `num_beams` remain to continue.
    /// The error is the rows in which a token that is not kept might be among them.
    fn candidates(&mut self, rows: &[Candidates<'_>], last_row: usize) -> Result<Vec<Candidate>, Vec<usize>> {
        let mut top = Top::new(2 * self.num_beams);
        // Rows that are not whole, and the highest score of a continuation that they leave out.
        let mut left_out: Vec<(usize, f32)> = Vec::new();
        for (beam, running) in self.running.iter().enumerate() {
            let row = beam.min(last_row);
            let candidates = Candidates::row(rows, row);
            let scores = self.processors.apply(&self.prompt, &running.ids, candidates, self.vocab, &mut self.changes);
            left_out.extend(scores.bound().map(|bound| (row, bound + running.score)));
            for (first, run) in scores.runs() {
                for (offset, log_prob) in run.iter().enumerate() {
                    let score = log_prob + running.score;
                    // A NaN fails the comparison.
                    if score > top.bar || !top.is_full() {
                        top.insert(Candidate { score: number(score), beam, token: (first + offset) as u32 });
                    }
                }
            }
        }
        // Adding a beam's score rounds, which makes ties; they too must be decided by beam and token.
        let is_open = |highest: f32| !(top.is_full() && highest < top.bar);
        let mut undecided: Vec<usize> =
            left_out.into_iter().filter(|&(_, highest)| is_open(highest)).map(|(row, _)| row).collect();
        undecided.dedup();
        if undecided.is_empty() { Ok(top.kept) } else { Err(undecided) }
    }

    /// Merges sequences that ended in this step into `finished`. Only the best `num_beams` candidates may end.
    fn finish(&mut self, top: &[Candidate], ends: &[bool], divisor: f32) {
        let old = self.finished.iter().map(|beam| beam.score);
        let new = top.iter().zip(ends).enumerate().map(|(place, (next, &ends))| {
            let score = next.score / divisor;
            number(if ends && place < self.num_beams { score } else { score + OUT })
        });
        let best = best(old.chain(new), self.num_beams);
        let merged = best.into_iter().map(|(index, score)| match index.checked_sub(self.finished.len()) {
            None => self.finished[index].clone(),
            Some(place) => {
                Finished { score, ids: self.continued(&top[place]), ended: ends[place] && place < self.num_beams }
            }
        });
        self.finished = merged.collect();
    }

    /// Replaces `running` by the best continuations that have not ended, and returns their parent beams.
    fn keep_running(&mut self, top: &[Candidate], ends: &[bool]) -> Vec<usize> {
        let scores = top.iter().zip(ends).map(|(next, &ends)| if ends { next.score + OUT } else { next.score });
        let best = best(scores, self.num_beams);
        let running = best.iter().map(|&(place, score)| Running { score, ids: self.continued(&top[place]) });
        self.running = running.collect();
        best.iter().map(|&(place, _)| top[place].beam).collect()
    }

    fn continued(&self, next: &Candidate) -> Vec<u32> {
        self.running[next.beam].ids.iter().copied().chain([next.token]).collect()
    }

    /// Whether the best running beam beats the worst finished one. The comparison at the current length is a heuristic
    /// for positive length penalties, as by default in transformers.
    fn can_improve(&self, divisor: f32) -> bool {
        let best = self.running.first().map_or(f32::NEG_INFINITY, |beam| number(beam.score / divisor));
        let worst = self.finished.iter().map(|beam| beam.score).fold(f32::INFINITY, f32::min);
        self.finished.iter().any(|beam| best > if beam.ended { worst } else { OUT })
    }

    /// The best finished sequences, as many as requested; as in transformers, a beam in which nothing ended counts too.
    pub(super) fn into_sequences(self) -> Vec<Vec<u32>> {
        self.finished.into_iter().take(self.returned).map(|beam| beam.ids).collect()
    }
}

/// A beam and the token that continues it.
#[derive(Debug)]
struct Candidate {
    score: f32,
    beam: usize,
    token: u32,
}

/// The best candidates so far, best first; ties in order of arrival.
#[derive(Debug)]
struct Top {
    kept: Vec<Candidate>,
    size: usize,
    /// The score to beat once full.
    bar: f32,
}

impl Top {
    fn new(size: usize) -> Self {
        Self { kept: Vec::with_capacity(size + 1), size, bar: f32::NEG_INFINITY }
    }

    fn is_full(&self) -> bool {
        self.kept.len() >= self.size
    }

    fn insert(&mut self, candidate: Candidate) {
        let place = self.kept.partition_point(|kept| kept.score >= candidate.score);
        self.kept.insert(place, candidate);
        self.kept.truncate(self.size);
        if self.is_full() {
            self.bar = self.kept.last().map_or(f32::INFINITY, |kept| kept.score);
        }
    }
}

/// Index and value of the greatest scores, in descending order; ties by lowest index. Meant for few scores.
fn best(scores: impl Iterator<Item = f32>, count: usize) -> Vec<(usize, f32)> {
    let mut sorted: Vec<_> = scores.enumerate().collect();
    sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    sorted.truncate(count);
    sorted
}
