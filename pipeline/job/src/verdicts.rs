//! The rule by which a pair table's verdicts follow from its scores, as recorded in the manifest.

use serde::{Deserialize, Serialize};

/// The rule by which a recipe keeps pairs, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Minimum ITM probability of a kept pair, if the recipe uses `$min_itm`.
    pub min_itm: Option<f32>,
    /// Minimum ITM probabilities by text source, in place of `min_itm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub min_itm_of: Vec<(String, f32)>,
    /// Whether `capfilt select` wrote the table, from one that may have left pairs out under another rule.
    pub selected: bool,
    /// Whether a pair without an error is kept by its own ITM score alone. `None` for a user's recipe, whose SQL is not
    /// analysed.
    pub by_itm_alone: Option<bool>,
}

impl Verdicts {
    /// The threshold that determined which pairs a kept-only table left out, if it was a single one.
    pub(crate) fn one_threshold(&self) -> Option<f32> {
        self.min_itm.filter(|_| self.min_itm_of.is_empty() && !self.selected)
    }
}
