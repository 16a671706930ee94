//! The query that a thread works for.

use std::cell::RefCell;

use datafusion::error::{DataFusionError, Result};

use crate::engine::{CancelToken, Meter};
use crate::error::Error;

thread_local! {
    pub(super) static CURRENT: RefCell<Option<(CancelToken, Meter)>> = const { RefCell::new(None) };
}

/// Cancellation token of the query that this thread currently works for; `None` outside a query and during planning.
/// Also available to functions of other crates whose documentation is in [`crate::docs::SECTION`].
pub fn current_query() -> Option<CancelToken> {
    current_scope().map(|(token, _)| token)
}

/// Cancellation token of the current query, and the meter of the operator that this thread evaluates.
pub(crate) fn current_scope() -> Option<(CancelToken, Meter)> {
    CURRENT.with_borrow(Clone::clone)
}

/// Returns an error if this thread's current query was cancelled.
pub(crate) fn check_cancelled() -> Result<()> {
    CURRENT.with_borrow(|scope| scope.as_ref().map_or(Ok(()), |(token, _)| alive(token)))
}

pub(super) fn alive(token: &CancelToken) -> Result<()> {
    if token.is_cancelled() { Err(DataFusionError::External(Box::new(Error::Cancelled))) } else { Ok(()) }
}
