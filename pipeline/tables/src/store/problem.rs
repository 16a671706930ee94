//! Error messages for stores, and the retry policy.

use std::error::Error as _;
use std::io;
use std::time::{Duration, Instant};

use object_store::Error as StoreError;

use crate::error::causes;

/// Prefix of object_store's message for an HTTP error status.
const STATUS: &str = "Server returned non-2xx status code: ";
/// Retry period for a store that has answered before, on top of object_store's own retries.
const PATIENCE: Duration = Duration::from_secs(180);
/// Maximum attempts at a store that has not answered yet: it may not exist.
const FIRST_TRIES: u32 = 3;
pub(crate) const SHORT: &str = "the answer is shorter than the object";
pub(crate) const CHANGED: &str = "it has changed while it was read: start again";
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// Maximum length of a store's own message, characters.
const WORDS: usize = 200;

/// What a user can do about errors of a store.
#[derive(Debug)]
pub(crate) struct Advice {
    /// About missing or rejected credentials.
    pub(crate) credentials: &'static str,
    /// About a URL with `http`.
    pub(crate) allow_http: &'static str,
    /// What the store calls a bucket.
    pub(crate) bucket: &'static str,
}

impl Advice {
    /// For a store of which nothing else is known.
    pub(crate) const UNKNOWN: Self = Self {
        credentials: "set the credentials of the store",
        allow_http: "set AWS_ALLOW_HTTP=true where http is meant",
        bucket: "bucket",
    };
}

/// Reason and advice. It holds no credentials: object_store's description of a request is left out, as it contains the
/// URL.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Problem(String);

impl Problem {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// Internal error: a request ended without a result.
    pub(crate) fn unanswered() -> Self {
        Self::new("internal error of capfilt: a request ended without an answer")
    }

    /// Message for a store's `error`.
    pub(crate) fn of(advice: &Advice, error: &StoreError) -> Self {
        if let Some(own) = own(error) {
            return own.clone();
        }
        if let Some(of_hub) = of_hub(error) {
            return Self(of_hub.to_string());
        }
        let (last, bucket) = (cause(error), advice.bucket);
        let code = between(&last, "<Code>", "</Code>").unwrap_or_default();
        let code_and_words = || match between(&last, "<Message>", "</Message>") {
            Some(words) => format!(" ({code}: {})", short(words)),
            None if code.is_empty() => String::new(),
            None => format!(" ({code})"),
        };
        let denied = || format!("access denied{}: {}", code_and_words(), advice.credentials);
        Self(match code {
            "NoSuchBucket" | "ContainerNotFound" => format!("there is no such {bucket}"),
            "ExpiredToken" => format!("the credentials have expired: {}", advice.credentials),
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AuthenticationFailed" => {
                format!("the store does not take the credentials ({code}): {}", advice.credentials)
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" => another_region(bucket),
            _ => match (error, status(&last)) {
                (StoreError::NotFound { .. }, _) | (_, Some(404)) => "there is no such object".to_owned(),
                (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, _) => denied(),
                (_, Some(401 | 403)) => denied(),
                (StoreError::NotSupported { .. }, _) => {
                    "the server does not give parts of a file (range requests): download the file".to_owned()
                }
                _ if last.contains("incorrectly configured region") => another_region(bucket),
                _ if last.contains("scheme is not allowed") => advice.allow_http.to_owned(),
                _ if last == SHORT => last,
                _ if io_error(error).is_some() => format!("no connection to the store, or a broken one: {last}"),
                _ => format!("the store says: {}", short(last.strip_prefix(STATUS).unwrap_or(&last))),
            },
        })
    }
}

/// Error of a store that is final and says `reason` alone.
pub(crate) fn odd(reason: &str) -> StoreError {
    StoreError::Generic { store: "store", source: Problem::new(reason).into() }
}

/// Problem that was found before, and wrapped for a library.
fn own(error: &StoreError) -> Option<&Problem> {
    error.source().and_then(|source| source.downcast_ref())
}

/// The error of the hub's client, which retries by itself and says what to do.
fn of_hub(error: &StoreError) -> Option<&capfilt_hub::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

fn another_region(bucket: &str) -> String {
    format!("the {bucket} is in another region: set AWS_REGION to its region")
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}

/// First line of `text`, cut before HTML (a proxy's error page) and at `WORDS` characters.
pub(crate) fn short(text: &str) -> String {
    let text = text.split(['<', '\n']).next().unwrap_or_default();
    text.trim_end_matches([' ', ':']).chars().take(WORDS).collect()
}

/// Message of the innermost error: the outer ones repeat it and reveal URLs.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn io_error(error: &StoreError) -> Option<&io::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn status(last: &str) -> Option<u16> {
    last.strip_prefix(STATUS)?.get(..3)?.parse().ok()
}

/// Whether the store rejects the credentials or denies them access.
pub(crate) fn is_denied(error: &StoreError) -> bool {
    // object_store does not classify errors of listings.
    matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
        || matches!(status(&cause(error)), Some(401 | 403))
}

/// Whether the error may be transient.
fn may_pass(error: &StoreError) -> bool {
    match error {
        // It was retried where it was found.
        wrapped if own(wrapped).is_some() || of_hub(wrapped).is_some() => false,
        StoreError::Generic { .. } => match status(&cause(error)) {
            Some(408 | 429 | 500..) | None => true,
            Some(_) => false,
        },
        _ => false,
    }
}

/// Whether the connection was refused or the host name is unknown.
fn is_nowhere(error: &StoreError) -> bool {
    io_error(error).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        || cause(error).contains("failed to lookup address")
}

/// Retry budget with exponential backoff for requests on which object_store has given up; it rarely retries an
/// interrupted body.
pub(crate) struct Patience {
    begun: Instant,
    tries: u32,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), tries: 0 }
    }

    /// Sleeps before the next attempt; returns false if another one is pointless. `error` is `None` if the response was
    /// too short; `answered` says whether a request to the store has ever succeeded.
    pub(crate) async fn wait(&mut self, error: Option<&StoreError>, answered: bool) -> bool {
        self.tries += 1;
        let most = if error.is_some_and(is_nowhere) { 1 } else { FIRST_TRIES };
        let enough = if answered { self.begun.elapsed() > PATIENCE } else { self.tries >= most };
        if enough || error.is_some_and(|error| !may_pass(error)) {
            return false;
        }
        tokio::time::sleep((PAUSE * 2_u32.pow(self.tries.min(9) - 1)).min(LONGEST_PAUSE)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVICE: Advice = Advice { credentials: "set AWS_ACCESS_KEY_ID", ..Advice::UNKNOWN };

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn answers_are_told_in_words() {
        let body =
            |code: &str| format!("{STATUS}403 Forbidden: <?xml?><Error><Code>{code}</Code><Message>no.</Message>");
        for (text, words) in [
            (body("NoSuchBucket"), "there is no such bucket"),
            (body("AccessDenied"), "access denied (AccessDenied: no.): set AWS_ACCESS_KEY_ID"),
            (body("InvalidAccessKeyId"), "does not take the credentials"),
            (body("ExpiredToken"), "have expired"),
            (body("PermanentRedirect"), "AWS_REGION"),
            (format!("{STATUS}404 Not Found: "), "there is no such object"),
            (format!("{STATUS}403 Forbidden: "), "access denied: set"),
            (format!("{STATUS}418 I'm a teapot: <html>\n<p>"), "the store says: 418 I'm a teapot"),
            ("URL scheme is not allowed".to_owned(), "AWS_ALLOW_HTTP=true"),
        ] {
            let said = Problem::of(&ADVICE, &generic(&text)).to_string();
            assert!(said.contains(words) && !said.contains('<'), "{text}: {said}");
        }
        let source = io::Error::from(io::ErrorKind::ConnectionRefused).into();
        let refused = StoreError::Generic { store: "S3", source };
        assert!(Problem::of(&ADVICE, &refused).to_string().contains("no connection"));
        assert!(is_nowhere(&refused) && may_pass(&refused));
    }

    #[test]
    fn what_stays_wrong_is_not_asked_again() {
        for (text, wanted) in
            [("500 Internal", true), ("503 Slow Down", true), ("429 Too Many", true), ("400 Bad", false)]
        {
            assert_eq!(may_pass(&generic(&format!("{STATUS}{text}: "))), wanted, "{text}");
        }
        assert!(may_pass(&generic("end of file before message length reached")));
        let source = format!("{STATUS}404 Not Found: ").into();
        assert!(!may_pass(&StoreError::NotFound { path: "x".to_owned(), source }));
    }
}
