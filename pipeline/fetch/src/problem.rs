//! Reasons for a failed fetch.

use std::error::Error as _;
use std::time::Duration;

use crate::address::Private;

/// Reason for a failed fetch; its message is the result's `error`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("not a URL: {0}")]
    NotAUrl(String),
    #[error("scheme {0} is not fetched, only http and https")]
    Scheme(String),
    #[error(transparent)]
    Private(#[from] Private),
    #[error("status {status}{}", reason.map(|r| format!(" {r}")).unwrap_or_default())]
    Status { status: u16, reason: Option<&'static str>, retry_after: Option<Duration> },
    #[error("more than {0} redirects: SET fetch.max_redirects allows more")]
    Redirects(usize),
    #[error("a redirect without a Location header")]
    Nowhere,
    #[error("larger than {0} bytes (fetch.max_bytes)")]
    TooLarge(u64),
    #[error("refused by its server: X-Robots-Tag says {0}")]
    NoAi(String),
    #[error("encoded by {0}, which was not asked for")]
    Coding(String),
    #[error("timed out")]
    TimedOut,
    #[error("no connection: {0}")]
    Connect(String),
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
    #[error("{0}")]
    Internal(String),
}

impl Problem {
    /// Failure to send a request or to read its response.
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let mut cause = error.source();
        let mut last = error.to_string();
        while let Some(inner) = cause {
            if let Some(Private(name)) = inner.downcast_ref() {
                return Self::Private(Private(name.clone()));
            }
            last = inner.to_string();
            cause = inner.source();
        }
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_connect() {
            Self::Connect(last)
        } else {
            Self::BrokeOff(last)
        }
    }

    /// `Some` if a retry may help, with the delay that the server asks for, if any.
    pub(crate) fn retry(&self) -> Option<Option<Duration>> {
        match self {
            Self::Status { status: 408 | 425 | 429 | 500..=599, retry_after, .. } => Some(*retry_after),
            Self::TimedOut | Self::Connect(_) | Self::BrokeOff(_) => Some(None),
            _ => None,
        }
    }

    /// HTTP status, if that is the failure.
    pub(crate) fn status(&self) -> Option<u16> {
        if let Self::Status { status, .. } = self { Some(*status) } else { None }
    }
}
