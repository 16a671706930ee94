//! Options of decoding, and their ranges.

use std::fmt;
use std::str::FromStr;

/// Method of choosing the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Beam search: the most likely sequence among `num_beams`.
    #[default]
    Beam,
    /// The most likely token at each step.
    Greedy,
    /// Nucleus sampling: a draw from the most likely tokens (at most `top_k`) whose probabilities sum to `top_p`.
    Nucleus,
}

impl Strategy {
    /// All strategies, in the order of error messages.
    pub const ALL: [Self; 3] = [Self::Beam, Self::Greedy, Self::Nucleus];

    /// Name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Beam => "beam",
            Self::Greedy => "greedy",
            Self::Nucleus => "nucleus",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.name() == name);
        found.ok_or_else(|| format!("unknown strategy '{name}': it is one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Resolved options of one caption. Names and defaults are those of transformers' `generate`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Method of choosing tokens.
    pub strategy: Strategy,
    /// Beams kept at each step (beam search).
    pub num_beams: usize,
    /// Finished beams returned, best first (beam search); at most `num_beams`.
    pub num_return_sequences: usize,
    /// Number of most likely tokens drawn from, plus ties with the last of them (nucleus); 0 means all. Applied after
    /// `temperature` and before `top_p`.
    pub top_k: usize,
    /// Probability mass drawn from (nucleus), in (0, 1].
    pub top_p: f32,
    /// Divisor of the logits (nucleus), above 0.
    pub temperature: f32,
    /// Minimum sequence length in tokens, including `[DEC]` and the prompt.
    pub min_length: usize,
    /// Maximum sequence length in tokens, including `[DEC]` and the prompt.
    pub max_length: usize,
    /// Exponent of the generated length, by whose power a beam's score is divided.
    pub length_penalty: f32,
    /// Divisor of the score of tokens that already occurred, above 0; 1 disables it.
    pub repetition_penalty: f32,
    /// Whether beam search stops as soon as `num_beams` sequences have ended.
    pub early_stopping: bool,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            strategy: Strategy::Beam,
            num_beams: 3,
            num_return_sequences: 1,
            top_k: 50,
            top_p: 0.9,
            temperature: 1.0,
            min_length: 0,
            max_length: 20,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            early_stopping: false,
        }
    }
}

impl GenerationOptions {
    /// Maximum number of beams.
    pub const MAX_BEAMS: usize = 64;

    /// Checks each option's range, even if the strategy ignores it. The message names the option.
    pub fn validate(&self) -> Result<(), String> {
        let Self { num_beams, top_p, temperature, min_length, max_length, length_penalty, repetition_penalty, .. } =
            *self;
        let most = Self::MAX_BEAMS;
        if !(1..=most).contains(&num_beams) {
            return Err(format!("num_beams must be from 1 to {most}, not {num_beams}"));
        }
        let returned = self.num_return_sequences;
        if returned < 1 || (self.strategy == Strategy::Beam && returned > num_beams) {
            return Err(format!("num_return_sequences must be from 1 to num_beams ({num_beams}), not {returned}"));
        }
        // Negated so that a NaN fails too.
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top_p must be above 0 and at most 1, not {top_p}"));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(format!("temperature must be above 0 and finite, not {temperature}"));
        }
        if max_length < 1 {
            return Err(format!("max_length must be at least 1, not {max_length}"));
        }
        if min_length > max_length {
            return Err(format!("min_length must be at most max_length ({max_length}), not {min_length}"));
        }
        if !length_penalty.is_finite() {
            return Err(format!("length_penalty must be finite, not {length_penalty}"));
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return Err(format!("repetition_penalty must be above 0 and finite, not {repetition_penalty}"));
        }
        Ok(())
    }

    /// Checks that `[DEC]` and the prompt (`tokens` tokens) leave room for a caption. A model reads at most `positions`
    /// tokens.
    pub fn check_room(&self, tokens: usize, positions: usize) -> Result<(), String> {
        if tokens >= self.max_length {
            return Err(format!(
                "the prompt leaves no room for a caption: with [DEC] it has {tokens} tokens, and max_length is {}; \
                 set max_length to at least {}, or shorten the prompt",
                self.max_length,
                tokens + 1
            ));
        }
        if tokens >= positions {
            return Err(format!(
                "the prompt leaves no room for a caption: with [DEC] it has {tokens} tokens, and the checkpoint reads \
                 {positions} at most (max_position_embeddings); shorten the prompt"
            ));
        }
        Ok(())
    }

    /// Whether the search reads the log-softmax of the logits: beam search does. transformers runs one beam as greedy
    /// search, whose processors see logits.
    pub fn reads_log_probs(&self) -> bool {
        self.strategy == Strategy::Beam && self.num_beams > 1
    }

    /// Number of a row's likeliest tokens that decide, but for rare ties. None do for a nucleus of the whole vocabulary.
    pub fn kept(&self) -> usize {
        /// Tokens that the repetition penalty and the minimum length may displace: about as many as a caption has.
        const DISPLACED: usize = 20;
        match self.strategy {
            Strategy::Beam => 2 * self.num_beams + DISPLACED,
            Strategy::Greedy => 2 + DISPLACED,
            Strategy::Nucleus if self.top_k == 0 => 1,
            // Beyond the bound whole rows are hardly larger.
            Strategy::Nucleus => self.top_k.min(1024) + DISPLACED,
        }
    }

    /// Number of token sequences that one search returns.
    pub fn returned(&self) -> usize {
        match self.strategy {
            Strategy::Beam => self.num_return_sequences,
            Strategy::Greedy | Strategy::Nucleus => 1,
        }
    }
}
