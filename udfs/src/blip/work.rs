//! Memory that models work in.

use super::config::BlipConfig;
use super::med::{Precision, WorkBytes};

/// Rows times tokens of a run that scores answers: the scores of a whole vocabulary are in memory for each.
pub(super) const SCORED_TOKENS: usize = 128;

/// Peak memory of each kind of work, where the model computes.
pub(super) fn work_bytes(c: &BlipConfig, precision: Precision) -> WorkBytes {
    let (v, t) = (&c.vision, &c.text);
    let tokens = v.tokens();
    let (float, kv_float) = match precision {
        Precision::Fp32 => (4, 4),
        Precision::Int8 => (4, 2),
        Precision::Fp16 => (2, 2),
    };
    let kv = kv_float * 2 * t.layers * tokens * t.width;
    let longest = t.max_positions.min(64);
    let text = float * longest * (10 * t.width + 3 * t.mlp_width);
    // The scores of a vocabulary are in float32 in every precision.
    let step = float * 2 * 2 * t.layers * longest * t.width + 4 * 3 * t.vocab_size;
    let image = kv + float * tokens * (v.width + 2 * t.width);
    // The logits of a run that scores answers, and their softmax; however many there are, a run has no more tokens.
    let scores = if c.is_answerer() { 4 * 3 * t.vocab_size * SCORED_TOKENS.max(longest) } else { 0 };
    WorkBytes {
        encode: float * (3 * v.image_size.pow(2) + tokens * (10 * v.width + 3 * v.mlp_width)),
        generate: image,
        per_sequence: text + step,
        match_text: image + text,
        answer: image + text + scores,
    }
}
