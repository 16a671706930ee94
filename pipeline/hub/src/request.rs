//! Requests to the hub: redirects, the token, tries, and what the answers mean.

use std::error::Error as _;
use std::time::Duration;

use bytes::BytesMut;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use crate::answer::{Facts, is_allowed, location, window_end};
use crate::{Error, Settings};

/// Most redirects of a request.
const REDIRECTS: usize = 10;
/// Longest pause that a server may ask for; the hub counts requests in windows of five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(330);
/// Largest answer in JSON, bytes.
const LARGEST_JSON: usize = 64 << 20;
/// Time for such an answer, in timeouts.
const JSON_TIMEOUTS: u32 = 6;
/// Bytes of a path that are not percent-encoded, beside letters and digits.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// Sends requests to one hub.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    pub(crate) settings: Settings,
}

/// Answer, with what the headers of all of its redirects on the endpoint's host say.
pub(crate) struct Reply {
    pub(crate) response: Response,
    pub(crate) facts: Facts,
}

/// What is asked for, and the words for it in messages.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) subject: String,
}

impl Http {
    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let mut builder = Client::builder()
            .user_agent(concat!("capfilt/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.etag_timeout)
            .read_timeout(settings.download_timeout)
            // Redirects are followed here: the token must not go along, and their headers count.
            .redirect(reqwest::redirect::Policy::none())
            // Ranges and digests are of what the file holds.
            .no_gzip();
        if is_loopback(&settings.endpoint) {
            // It would look for its own loopback.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| Error::Connection {
            subject: "HTTPS".to_owned(),
            url: settings.endpoint.to_string(),
            cause: cause(&e),
        })?;
        Ok(Self { client, settings })
    }

    /// Address of `path`, which is encoded already, on the endpoint.
    pub(crate) fn target(&self, path: &str, subject: String) -> Result<Target, Error> {
        let url = Url::parse(&format!("{}/{path}", self.settings.endpoint()));
        let url = url.map_err(|e| answer(&subject, &self.settings.endpoint, &format!("{path}: {e}")))?;
        Ok(Target { url, subject })
    }

    /// Asks what is known of a file, without its content.
    pub(crate) async fn head(&self, target: &Target) -> Result<Facts, Error> {
        let mut pauses = Pauses::new(&self.settings);
        loop {
            match self.once(Method::HEAD, target, None, Some(self.settings.etag_timeout)).await {
                Ok(reply) => return Ok(reply.facts),
                Err(e) => pauses.after(e).await?,
            }
        }
    }

    /// Fetches an answer in JSON, and its headers.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        target: &Target,
        retries: u32,
    ) -> Result<(T, HeaderMap), Error> {
        let mut pauses = Pauses { left: retries, ..Pauses::new(&self.settings) };
        loop {
            match self.body(target).await {
                Ok((body, headers)) => {
                    let parsed =
                        serde_json::from_slice(&body).map_err(|e| target.wrong(&format!("no answer of the hub: {e}")));
                    return parsed.map(|parsed| (parsed, headers));
                }
                Err(e) => pauses.after(e).await?,
            }
        }
    }

    async fn body(&self, target: &Target) -> Result<(BytesMut, HeaderMap), Error> {
        let limit = self.settings.etag_timeout.saturating_mul(JSON_TIMEOUTS);
        let mut response = self.once(Method::GET, target, None, Some(limit)).await?.response;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| target.broken(&e))? {
            if body.len() + chunk.len() > LARGEST_JSON {
                return Err(target.wrong("the answer is larger than 64 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body, std::mem::take(response.headers_mut())))
    }

    /// Sends one request and follows its redirects. HEAD stops at the first redirect to another host. The token is sent to
    /// the endpoint's host only, and never again after another host was asked.
    pub(crate) async fn once(
        &self,
        method: Method,
        target: &Target,
        range: Option<String>,
        limit: Option<Duration>,
    ) -> Result<Reply, Error> {
        if self.settings.offline {
            return Err(Error::Offline { subject: target.subject.clone() });
        }
        let (mut url, mut facts, mut home) = (target.url.clone(), Facts::default(), true);
        for _ in 0..=REDIRECTS {
            home &= url.origin() == self.settings.endpoint.origin();
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.settings.token.as_ref().filter(|_| home) {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(range) = &range {
                request = request.header(RANGE, range);
            }
            if let Some(limit) = limit {
                request = request.timeout(limit);
            }
            let response = request.send().await.map_err(|e| target.broken(&e))?;
            if home {
                facts.note(response.headers());
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                self.judge(target, &response, home)?;
                facts.measure(&response);
                return Ok(Reply { response, facts });
            }
            let next = location(&url, response.headers());
            let next = next.ok_or_else(|| answer(&target.subject, &url, "a redirect without a Location header"))?;
            if !is_allowed(&url, &next) {
                return Err(answer(
                    &target.subject,
                    &url,
                    &format!("a redirect to {}:, which is refused", next.scheme()),
                ));
            }
            if method == Method::HEAD && next.origin() != self.settings.endpoint.origin() {
                return Ok(Reply { response, facts });
            }
            url = next;
        }
        Err(target.wrong(&format!("more than {REDIRECTS} redirects")))
    }

    /// Turns a status that tells of a failure into an error.
    fn judge(&self, target: &Target, response: &Response, home: bool) -> Result<(), Error> {
        let (status, headers) = (response.status(), response.headers());
        let subject = target.subject.clone();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let coding = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity");
                match coding {
                    Some(coding) => Err(target.wrong(&format!("encoded by {coding:?}, which was not asked for"))),
                    None => Ok(()),
                }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if home => {
                let advice = if self.settings.token.is_some() {
                    "check the name, and ask the owner for access: the token that was sent has none"
                } else {
                    "check the name, and set HF_TOKEN (`hf auth login`)"
                };
                let said = text("x-error-message").map(|said| said.chars().take(300).collect::<String>());
                let said = said.map(|said| format!(", {said}")).unwrap_or_default();
                Err(Error::Denied { subject, status: status.as_u16(), said, advice })
            }
            StatusCode::NOT_FOUND => {
                let problem = match text("x-error-code") {
                    Some("RevisionNotFound") => "there is no such revision",
                    Some("EntryNotFound") => "there is no such file or folder at this revision",
                    _ => "the repository or the revision does not exist, or is private",
                };
                Err(Error::NotFound { subject, problem })
            }
            _ => {
                let retry_after = text(RETRY_AFTER.as_str()).and_then(|after| after.parse().ok());
                let retry_after = text("ratelimit").and_then(window_end).or(retry_after).map(Duration::from_secs);
                let status = status.as_u16();
                Err(Error::Status { subject, status, url: shown(response.url()), retry_after })
            }
        }
    }
}

impl Target {
    pub(crate) fn wrong(&self, problem: &str) -> Error {
        answer(&self.subject, &self.url, problem)
    }

    pub(crate) fn broken(&self, error: &reqwest::Error) -> Error {
        let url = shown(error.url().unwrap_or(&self.url));
        Error::Connection { subject: self.subject.clone(), url, cause: cause(error) }
    }

    pub(crate) fn broke_off(&self, at: u64) -> Error {
        let cause = format!("the answer broke off after {at} bytes");
        Error::Connection { subject: self.subject.clone(), url: shown(&self.url), cause }
    }
}

/// Counts tries and waits between them.
#[derive(Debug)]
pub(crate) struct Pauses {
    left: u32,
    pause: Duration,
    most: Duration,
}

impl Pauses {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { left: settings.retries, pause: settings.backoff, most: settings.backoff.saturating_mul(8) }
    }

    /// Waits for the next try, or returns the error if there is none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        let Some(asked) = error.retry().filter(|asked| self.left > 0 && asked.unwrap_or_default() <= LONGEST_PAUSE)
        else {
            return Err(error);
        };
        let wait = asked.unwrap_or(self.pause);
        log::warn!("{error}: trying again in {:.1} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
        self.left -= 1;
        self.pause = self.pause.saturating_mul(2).min(self.most);
        Ok(())
    }
}

/// Percent-encodes a revision, slashes too.
pub(crate) fn encode_revision(revision: &str) -> String {
    utf8_percent_encode(revision, SEGMENT).to_string()
}

/// Percent-encodes a path in a repository.
pub(crate) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

fn answer(subject: &str, url: &Url, problem: &str) -> Error {
    Error::Answer { subject: subject.to_owned(), url: shown(url), problem: problem.to_owned() }
}

/// Address without its query, which may be a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Innermost reason of a failure; the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let (mut last, mut next) = (error.to_string(), error.source());
    while let Some(inner) = next {
        (last, next) = (inner.to_string(), inner.source());
    }
    last
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_lose_their_slashes_and_paths_keep_them() {
        assert_eq!(encode_revision("refs/pr/5"), "refs%2Fpr%2F5");
        assert_eq!(encode_path("a b/ü?#%.txt"), "a%20b/%C3%BC%3F%23%25.txt");
    }
}
