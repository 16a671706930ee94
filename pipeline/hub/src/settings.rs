//! How the hub is reached.

use std::fs;
use std::time::Duration;

use reqwest::header::HeaderValue;
use url::Url;

use crate::Error;
use crate::environment::{self, Environment};

/// Default of HF_ENDPOINT.
const HUB: &str = "https://huggingface.co";
/// Default of HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How the hub is reached. The token does not show in its debug output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    pub(crate) endpoint: Url,
    /// Value of the Authorization header.
    pub(crate) token: Option<HeaderValue>,
    /// Whether the cache alone may be used.
    pub offline: bool,
    /// Longest wait for a connection or for what is known of a file.
    pub etag_timeout: Duration,
    /// Longest wait for the next bytes of a file.
    pub download_timeout: Duration,
    /// Tries after the first, where one may help. Those before the last MiB that came do not count.
    pub retries: u32,
    /// Pause before the second try, doubled for each further one up to eightfold; a server's Retry-After comes first.
    pub backoff: Duration,
}

impl Settings {
    /// Reads the environment: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE,
    /// TRANSFORMERS_OFFLINE, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT. A value that is not understood is
    /// [`Error::Setting`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(&environment::of_process)
    }

    /// Reads `environment` in place of that of the process.
    pub fn new(environment: Environment<'_>) -> Result<Self, Error> {
        let offline = match environment::value(environment, "HF_HUB_OFFLINE")? {
            Some(_) => "HF_HUB_OFFLINE",
            None => "TRANSFORMERS_OFFLINE",
        };
        let this = Self {
            endpoint: endpoint(environment)?,
            token: None,
            offline: environment::is_on(environment, offline)?,
            etag_timeout: seconds(environment, "HF_HUB_ETAG_TIMEOUT")?,
            download_timeout: seconds(environment, "HF_HUB_DOWNLOAD_TIMEOUT")?,
            retries: 5,
            backoff: Duration::from_secs(1),
        };
        match token(environment)? {
            Some((source, token)) => this.with_token(&token).map_err(|_| malformed(&source)),
            None => Ok(this),
        }
    }

    /// Address of the hub, without a slash at its end.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// Token, if one is sent.
    pub fn token(&self) -> Option<&str> {
        self.token.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// Sets the token in place of the environment's. One that cannot stand in a header is [`Error::Setting`].
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| malformed("the token"))?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }
}

fn malformed(source: &str) -> Error {
    environment::wrong(source, "it is not a token: it contains characters that no token has".to_owned())
}

fn endpoint(environment: Environment<'_>) -> Result<Url, Error> {
    let text = environment::value(environment, "HF_ENDPOINT")?;
    let text = text.as_deref().unwrap_or(HUB).trim_end_matches('/');
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.filter(|url| url.query().is_none() && url.fragment().is_none());
    let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
    url.ok_or_else(|| environment::wrong("HF_ENDPOINT", format!("{text:?} is not an address like {HUB}")))
}

/// Token and where it is from.
fn token(environment: Environment<'_>) -> Result<Option<(String, String)>, Error> {
    if environment::is_on(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN")? {
        return Ok(None);
    }
    let clean = |text: String| Some(text.replace(['\r', '\n'], "").trim().to_owned()).filter(|text| !text.is_empty());
    for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = environment::value(environment, variable)?.and_then(clean) {
            return Ok(Some((variable.to_owned(), token)));
        }
    }
    let path = match environment::path(environment, "HF_TOKEN_PATH")? {
        Some(path) => path,
        None => environment::hugging_face_home(environment)?.join("token"),
    };
    match fs::read_to_string(&path) {
        Ok(text) => Ok(clean(text).map(|token| (path.display().to_string(), token))),
        Err(e) if crate::cache::is_missing(&e) => Ok(None),
        Err(e) => Err(Error::file(&path)(e)),
    }
}

fn seconds(environment: Environment<'_>, variable: &str) -> Result<Duration, Error> {
    let Some(text) = environment::value(environment, variable)? else { return Ok(TIMEOUT) };
    match text.trim().parse::<u32>() {
        Ok(0) => Ok(TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => Err(environment::wrong(variable, format!("{text:?} is no whole number of seconds"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Result<Settings, Error> {
        let home = ("HOME", "/nowhere");
        Settings::new(&|name| set.iter().chain([&home]).find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    fn token_of(set: &[(&str, &str)]) -> Option<String> {
        of(set).unwrap().token().map(str::to_owned)
    }

    #[test]
    fn defaults_are_those_of_python() {
        let settings = of(&[]).unwrap();
        assert_eq!(settings.endpoint(), "https://huggingface.co");
        assert_eq!((settings.etag_timeout, settings.download_timeout), (TIMEOUT, TIMEOUT));
        assert!(!settings.offline && settings.token().is_none());
    }

    #[test]
    fn the_network_is_forbidden_by_either_variable() {
        for (set, offline) in [
            (&[("HF_HUB_OFFLINE", "1")][..], true),
            (&[("TRANSFORMERS_OFFLINE", "Yes")], true),
            (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "on")], true),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
            (&[("HF_HUB_OFFLINE", "no")], false),
        ] {
            assert_eq!(of(set).unwrap().offline, offline, "{set:?}");
        }
    }

    #[test]
    fn the_token_is_found_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(dir.path().join("other"), "\n").unwrap();
        let (home, other) = (dir.path().to_str().unwrap(), dir.path().join("other"));
        let in_home = ("HF_HOME", home);
        assert_eq!(token_of(&[in_home]).as_deref(), Some("hf_file"));
        assert_eq!(token_of(&[in_home, ("HF_TOKEN", " hf_env\r\n")]).as_deref(), Some("hf_env"));
        assert_eq!(token_of(&[in_home, ("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(), Some("hf_old"));
        assert_eq!(token_of(&[in_home, ("HF_TOKEN_PATH", other.to_str().unwrap())]), None);
        assert_eq!(token_of(&[in_home, ("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let settings = of(&[("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        let error = of(&[("HF_TOKEN", "hf_se\u{1}cret")]).unwrap_err().to_string();
        assert!(error.starts_with("HF_TOKEN: ") && !error.contains("cret"), "{error}");
    }

    #[test]
    fn malformed_values_are_named() {
        for (variable, value) in [
            ("HF_ENDPOINT", "hub.example"),
            ("HF_ENDPOINT", "ftp://hub.example"),
            ("HF_ENDPOINT", "http://hub.example/?x"),
            ("HF_HUB_ETAG_TIMEOUT", "soon"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
        ] {
            let error = of(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{variable}: ")) && error.contains(value), "{error}");
        }
        assert_eq!(of(&[("HF_HUB_ETAG_TIMEOUT", "3")]).unwrap().etag_timeout, Duration::from_secs(3));
        assert_eq!(of(&[("HF_HUB_ETAG_TIMEOUT", "0")]).unwrap().etag_timeout, TIMEOUT);
    }
}
