//! Greedy and nucleus decoding: transformers' `_sample`, one token at a time.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::candidates::Candidates;
use super::options::GenerationOptions;
use super::processors::{Processors, Scores, decimal};
use super::row::{Row, first_rows};

#[derive(Debug)]
pub(super) struct Sample {
    prompt: Vec<u32>,
    eos: u32,
    vocab: usize,
    max_length: usize,
    processors: Processors,
    /// Nucleus sampling; `None` is greedy.
    nucleus: Option<Box<Nucleus>>,
    rows: Vec<Row>,
    ids: Vec<u32>,
    /// Scratch buffer of the processors.
    changes: Vec<(usize, f32)>,
}

impl Sample {
    pub(super) fn greedy(options: &GenerationOptions, prompt: &[u32], eos: u32, vocab: usize) -> Self {
        Self {
            prompt: prompt.to_vec(),
            eos,
            vocab,
            max_length: options.max_length,
            processors: Processors::new(options, eos),
            nucleus: None,
            rows: first_rows(prompt, options.max_length),
            ids: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn nucleus(options: &GenerationOptions, prompt: &[u32], eos: u32, vocab: usize, key: [u8; 32]) -> Self {
        let nucleus = Some(Box::new(Nucleus::new(options, key)));
        Self { nucleus, ..Self::greedy(options, prompt, eos, vocab) }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn own_tokens(&self) -> Vec<u32> {
        self.processors.own_tokens(&self.prompt, &self.ids).collect()
    }

    /// Returns the row, 0, if its candidates do not decide.
    pub(super) fn advance(&mut self, rows: &[Candidates<'_>]) -> Vec<usize> {
        if self.rows.is_empty() {
            return vec![];
        }
        let candidates = Candidates::row(rows, 0);
        let scores = self.processors.apply(&self.prompt, &self.ids, candidates, self.vocab, &mut self.changes);
        let is_decided = match &self.nucleus {
            None => is_likeliest_known(scores),
            Some(nucleus) => nucleus.is_top_k_known(scores),
        };
        if !is_decided {
            return vec![0];
        }
        let token = match &mut self.nucleus {
            None => likeliest(scores).map(|(_, token)| token),
            Some(nucleus) => nucleus.draw(scores),
        };
        self.rows.clear();
        // Without a token no score was a number, so there is nothing to continue with.
        if let Some(token) = token {
            self.ids.push(token);
            if token != self.eos && self.prompt.len() + self.ids.len() < self.max_length {
                self.rows.push(Row { parent: 0, token });
            }
        }
        vec![]
    }

    pub(super) fn into_ids(self) -> Vec<u32> {
        self.ids
    }
}

/// The greatest score and its token; ties go to the lowest.
fn likeliest(scores: Scores<'_>) -> Option<(f32, u32)> {
    let mut likeliest = (f32::NEG_INFINITY, None);
    for (first, run) in scores.runs() {
        for (offset, &score) in run.iter().enumerate() {
            if score > likeliest.0 {
                likeliest = (score, Some((first + offset) as u32));
            }
        }
    }
    Some((likeliest.0, likeliest.1?))
}

/// Whether no token that is not kept can be the likeliest.
fn is_likeliest_known(scores: Scores<'_>) -> bool {
    scores.bound().is_none_or(|bound| likeliest(scores).is_some_and(|(highest, _)| bound < highest))
}

#[derive(Debug)]
struct Nucleus {
    temperature: f32,
    /// Number of most likely tokens kept, with ties; 0 keeps all.
    top_k: usize,
    /// Probability mass dropped at most, from the least likely token on.
    left_out: f32,
    rng: ChaCha8Rng,
}

impl Nucleus {
    fn new(options: &GenerationOptions, key: [u8; 32]) -> Self {
        let left_out = (1.0 - decimal(options.top_p)) as f32;
        let (temperature, top_k) = (options.temperature, options.top_k);
        Self { temperature, top_k, left_out, rng: ChaCha8Rng::from_seed(key) }
    }

    /// Whether all tokens that a draw considers are known: the `top_k` likeliest and those as likely as the last.
    fn is_top_k_known(&self, scores: Scores<'_>) -> bool {
        let Some(bound) = scores.bound() else { return true };
        if self.top_k == 0 || self.top_k >= scores.len() {
            return false;
        }
        let scaled = scores.runs().flat_map(|(_, run)| run).map(|score| score / self.temperature);
        bound / self.temperature < nth_greatest(scaled, self.top_k)
    }

    /// One draw by inverse CDF, most likely token first. Sums are doubles, so that the last bits of scores seldom
    /// matter.
    fn draw(&mut self, scores: Scores<'_>) -> Option<u32> {
        // 53 bits, so that each value is exact. Drawn first, so that every step takes one draw.
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let temperature = self.temperature;
        let scaled = || {
            scores.runs().flat_map(move |(first, run)| {
                run.iter().enumerate().map(move |(offset, score)| (score / temperature, (first + offset) as u32))
            })
        };
        let highest = scaled().map(|(score, _)| score).fold(f32::NEG_INFINITY, f32::max);
        if highest == f32::NEG_INFINITY {
            return None;
        }
        let least = match self.top_k {
            0 => f32::NEG_INFINITY,
            top_k if top_k >= scores.len() => f32::NEG_INFINITY,
            top_k => nth_greatest(scaled().map(|(score, _)| score), top_k),
        };
        // As in transformers' TopKLogitsWarper, ties with the last of the `top_k` stay. A NaN fails the comparison.
        let likely = || scaled().filter(move |(score, _)| *score >= least);
        // Not a plain difference, which is a NaN for two infinities. Other NaNs fail each comparison below.
        let distance = |score: f32| if score == highest { 0.0 } else { score - highest };
        let weight = |score: f32| f64::from(distance(score).exp());
        let sum: f64 = likely().map(|(score, _)| weight(score)).filter(|weight| *weight > 0.0).sum();

        // Tokens below an even share of `left_out` sum to less than it and are dropped for certain, so they need no
        // sorting. The margin of 0.001 is far above rounding.
        let share = f64::from(self.left_out) / scores.len() as f64;
        let floor = ((share * sum).ln() - 0.001) as f32;
        let entries = likely().filter(|(score, _)| distance(*score) >= floor).collect();
        let mut sorted = Descending { entries, sorted: 0 };

        let mut mass = 1.0;
        let mut kept = usize::MAX;
        if self.left_out > 0.0 {
            (mass, kept) = (0.0, 0);
            while let Some((score, _)) = sorted.get(kept) {
                // Mass of this token and the less likely ones. The most likely token always stays.
                if kept > 0 && (1.0 - mass) as f32 <= self.left_out {
                    break;
                }
                mass += weight(score) / sum;
                kept += 1;
            }
        }

        let target = uniform * mass;
        let (mut reached, mut place, mut token) = (0.0, 0, None);
        while place < kept
            && let Some((score, id)) = sorted.get(place)
        {
            let probability = weight(score) / sum;
            // Rounding may leave the target beyond the last token that can be drawn; then that token is drawn.
            if probability > 0.0 {
                token = Some(id);
            }
            reached += probability;
            if reached > target {
                break;
            }
            place += 1;
        }
        token
    }
}

/// The `n`-th greatest score, for `n` above 0; minus infinity if there are fewer. NaNs are ignored.
fn nth_greatest(scores: impl Iterator<Item = f32>, n: usize) -> f32 {
    let descending = |a: &f32, b: &f32| b.partial_cmp(a).unwrap_or(Ordering::Equal);
    let mut greatest: Vec<f32> = Vec::with_capacity(2 * n);
    let mut bar = f32::NEG_INFINITY;
    for score in scores {
        // Few scores pass: those below the `n`-th greatest so far are irrelevant.
        if score > bar {
            greatest.push(score);
            if greatest.len() == 2 * n {
                greatest.select_nth_unstable_by(n - 1, descending);
                greatest.truncate(n);
                bar = greatest[n - 1];
            }
        }
    }
    if greatest.len() < n {
        return f32::NEG_INFINITY;
    }
    *greatest.select_nth_unstable_by(n - 1, descending).1
}

/// Scores and tokens by descending score, sorted lazily. Ties are sorted by descending token: transformers sorts in
/// ascending order and drops the lower token first.
#[derive(Debug)]
struct Descending {
    entries: Vec<(f32, u32)>,
    /// Number of entries already sorted.
    sorted: usize,
}

impl Descending {
    fn get(&mut self, place: usize) -> Option<(f32, u32)> {
        while place >= self.sorted && self.sorted < self.entries.len() {
            let rest = &mut self.entries[self.sorted..];
            // Doubling block size: most nuclei are small, and a large one costs no more than a full sort.
            let block = rest.len().min(self.sorted.max(64));
            if block < rest.len() {
                rest.select_nth_unstable_by(block - 1, Self::order);
            }
            rest[..block].sort_unstable_by(Self::order);
            self.sorted += block;
        }
        self.entries.get(place).copied()
    }

    fn order(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
        // Not `total_cmp`, which distinguishes the two zeros. There are no NaNs.
        b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1))
    }
}
