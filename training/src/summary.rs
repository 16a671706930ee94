//! What a run ends with.

use serde::{Deserialize, Serialize};

/// Summary of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Optimiser steps taken.
    pub steps: u64,
    /// Pairs, or questions, trained on.
    pub pairs: u64,
    /// Pairs or questions skipped because their image could not be used.
    pub skipped: u64,
    /// ITC loss. All losses are means over the last tenth of the steps kept for the curves, at most 100.
    pub itc: f64,
    /// ITM loss.
    pub itm: f64,
    /// LM loss, which is an answerer's only one.
    pub lm: f64,
    /// Seconds of training.
    pub seconds: f64,
    /// Digest of the settings.
    pub settings: String,
}
