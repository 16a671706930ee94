//! How the verdicts of a pair table follow from its scores, as its manifest records it.

use serde::{Deserialize, Serialize};

/// The rule by which a recipe keeps pairs, so far as it is known.
///
/// A table written before the rule was recorded has the default: nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// The least ITM probability of a kept pair, where the recipe asks for `$min_itm`.
    pub min_itm: Option<f32>,
    /// The same for the texts of one source, in place of `min_itm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub min_itm_of: Vec<(String, f32)>,
    /// Whether `capfilt select` wrote the table, of another one that may have left pairs out under another rule.
    #[serde(default)]
    pub selected: bool,
    /// Whether a pair without an error is kept for its own ITM score and nothing else. `None` for a recipe of the user's, whose SQL
    /// is not examined.
    pub by_itm_alone: Option<bool>,
}

impl Verdicts {
    /// The least score that a table of kept pairs alone has, where one threshold decides on it.
    pub(crate) fn one_threshold(&self) -> Option<f32> {
        self.min_itm.filter(|_| self.min_itm_of.is_empty() && !self.selected)
    }
}
