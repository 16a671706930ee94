//! Errors of the metrics.

/// Reason why an item or a state was refused. The accumulator is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The item has no references. An empty text is a reference.
    #[error("no references: a caption is scored against one or more of them")]
    NoReferences,
    /// The named argument counts from 1, but has this value.
    #[error("{0} is {1}, but counts from 1")]
    NotPositive(&'static str, i64),
    /// The named argument is not a finite number.
    #[error("{0} is {1}, but must be a finite number")]
    NotFinite(&'static str, String),
    /// The named argument is less than 0.
    #[error("{0} is {1}, but must be at least 0")]
    Negative(&'static str, String),
    /// A metric at different k cannot be combined.
    #[error("k is {0} in one row and {1} in another; it must be one number, so give a literal")]
    MixedK(i64, i64),
    /// Numbers or texts that `state` never returns, with the fault.
    #[error("broken state of a metric: {0}")]
    State(String),
}

#[cfg(test)]
mod tests {
    use super::MetricError;

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(MetricError::NoReferences.to_string().starts_with("no references"));
        assert_eq!(MetricError::NotPositive("rank", 0).to_string(), "rank is 0, but counts from 1");
        assert!(MetricError::State("2 numbers".into()).to_string().ends_with(": 2 numbers"));
    }
}
