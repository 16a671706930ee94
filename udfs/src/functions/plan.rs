//! What is known of a call when it is planned.

use datafusion::common::ScalarValue;

use super::options_arg::CallOptions;
use crate::config::CapfiltOptions;

/// Planning-time knowledge of a call.
pub(crate) struct Plan<'a> {
    pub(crate) function: &'static str,
    pub(crate) session: &'a CapfiltOptions,
    /// The constant options; `None` if the options are not constant (yet).
    pub(crate) options: Option<CallOptions>,
    /// Whether the options may name a model.
    pub(crate) may_name_model: bool,
    /// Whether `information_schema` is listing result types, so that no model need be set.
    pub(crate) listed: bool,
    pub(crate) scalars: &'a [Option<&'a ScalarValue>],
}
