//! What connections to all stores have in common: retries, checks of endpoints, and the wait for credentials.

use std::sync::Arc;
use std::time::Duration;

use object_store::{BackoffConfig, CredentialProvider, RetryConfig};

use crate::store::object::wait;
use crate::store::problem::{Advice, Problem, cause, short};

/// Delays until a warning about missing credentials and until giving up: if none are set, the metadata service is
/// asked, which most machines lack.
const SAY_AFTER: Duration = Duration::from_secs(3);
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

/// Retries of requests for objects.
pub(crate) fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(15), base: 2.0 };
    RetryConfig { backoff, max_retries: 10, retry_timeout: Duration::from_secs(180) }
}

/// Retries of requests for credentials, which are fewer.
pub(crate) fn few_retries() -> RetryConfig {
    RetryConfig { max_retries: 2, ..RetryConfig::default() }
}

/// Problem with settings in the environment.
pub(crate) fn setting(advice: &Advice, error: &object_store::Error) -> Problem {
    Problem::new(format!("{}: {}", short(&cause(error)), advice.credentials))
}

/// Whether a setting is a word for true.
pub(crate) fn is_on(value: Option<String>) -> bool {
    value.is_some_and(|value| ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str()))
}

/// Refuses an endpoint that is not a URL, on which the client would panic.
pub(crate) fn check_endpoint(name: &str, value: Option<String>) -> Result<(), Problem> {
    let Some(value) = value else { return Ok(()) };
    let is_url =
        url::Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if is_url {
        return Ok(());
    }
    if value.is_empty() {
        return Err(Problem::new(format!("{name} is empty: unset it, or give a URL")));
    }
    let hint = match value.contains("://") {
        true => "it must begin with http:// or https:// and name a host".to_owned(),
        false => format!("write http://{value} or https://{value}"),
    };
    Err(Problem::new(format!("{name} = {value} is not a URL: {hint}")))
}

/// Waits for credentials, at most `GIVE_UP_AFTER`.
pub(crate) fn credentials<C>(
    base: &str,
    advice: &'static Advice,
    provider: Arc<dyn CredentialProvider<Credential = C>>,
) -> Result<(), Problem>
where
    C: std::fmt::Debug + Send + Sync + 'static,
{
    let base = base.to_owned();
    wait(async move {
        let given_up = async {
            tokio::time::sleep(SAY_AFTER).await;
            log::warn!(
                "{base}: waiting for credentials: none are set, and the metadata service of a cloud's machines does not answer"
            );
            tokio::time::sleep(GIVE_UP_AFTER - SAY_AFTER).await;
        };
        let why = tokio::select! {
            got = provider.get_credential() => match got {
                Ok(_) => return Ok(()),
                Err(error) => short(&cause(&error)),
            },
            () = given_up => {
                format!("none are set, and the metadata service has not answered within {} s", GIVE_UP_AFTER.as_secs())
            }
        };
        Err(Problem::new(format!("there are no credentials ({why}): {}", advice.credentials)))
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url() {
        let said = |value: &str| {
            check_endpoint("AWS_ENDPOINT_URL", Some(value.to_owned())).map_err(|problem| problem.to_string())
        };
        for good in ["http://127.0.0.1:5055", "https://s3.example.org/", "http://[::1]:9000"] {
            said(good).unwrap();
        }
        for (bad, words) in [
            ("127.0.0.1:5055", "write http://127.0.0.1:5055 or https://127.0.0.1:5055"),
            ("localhost:9000", "write http://localhost:9000"),
            ("minio", "write http://minio"),
            ("", "is empty: unset it"),
            ("s3://bucket", "must begin with http:// or https://"),
            ("http://", "name a host"),
        ] {
            let said = said(bad).unwrap_err();
            assert!(said.contains("AWS_ENDPOINT_URL") && said.contains(words), "{bad}: {said}");
        }
    }
}
