//! Options of a training step.

use crate::adamw::AdamWOptions;
use crate::losses;

/// Options of a training step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// Whether image-text contrast (ITC) is on.
    pub itc: bool,
    /// Whether image-text matching (ITM) is on.
    pub itm: bool,
    /// Whether language modelling (LM) is on.
    pub lm: bool,
    /// Whether all texts of an image count as its matches in ITC and ITM draws negatives by live similarities, as in
    /// BLIP's finetuning for retrieval; otherwise a text matches only its own pair.
    pub by_image: bool,
    /// Whether ITM draws negatives by similarity, as BLIP does; otherwise uniformly.
    pub hard_negatives: bool,
    /// Share of each LM target spread evenly over the vocabulary; 0.1 in BLIP.
    pub label_smoothing: f64,
    /// Momentum of the momentum encoders; 0.995 in BLIP. 0 turns them off: the keys are live features with their
    /// gradient, as in CLIP.
    pub momentum: f64,
    /// Length of each ITC queue, a multiple of the batch; 57,600 in BLIP, 0 for no queue.
    pub queue: i64,
    /// Whether matrix products run in bfloat16.
    pub bfloat16: bool,
    /// Maximum gradient norm; infinite in BLIP's code.
    pub clip: f64,
    /// Prompt tokens after [DEC], which are not LM targets.
    pub prompt_tokens: i64,
    /// Constants of the optimiser.
    pub adamw: AdamWOptions,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            itc: true,
            itm: true,
            lm: true,
            by_image: false,
            hard_negatives: true,
            label_smoothing: losses::LABEL_SMOOTHING,
            momentum: 0.995,
            queue: 57_600,
            bfloat16: false,
            clip: f64::INFINITY,
            prompt_tokens: 0,
            adamw: AdamWOptions::default(),
        }
    }
}
