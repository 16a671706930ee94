//! The documentation section of this crate's functions.

use datafusion::logical_expr::{DocSection, ScalarUDF};

/// Documentation section, by which the planner recognises this crate's functions.
pub const SECTION: DocSection = DocSection { include: true, label: "CapFilt Functions", description: None };

/// Whether a function is one of this crate's.
pub(crate) fn is_ours(function: &ScalarUDF) -> bool {
    function.documentation().is_some_and(|d| d.doc_section.label == SECTION.label)
}
