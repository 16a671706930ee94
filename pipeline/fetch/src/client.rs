//! HTTP fetcher: turns a URL into its bytes, and fetches each of many URLs once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use capfilt_udfs::engine::CancelToken;
use datafusion::common::runtime::SpawnedTask;
use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Proxy};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use url::Url;

use crate::address::{self, PublicOnly};
use crate::answer;
use crate::problem::Problem;
use crate::settings::{Key, Settings};

/// Dedicated I/O runtime: a function that blocks on requests may occupy all of the query's threads.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("fetch").enable_all().build().map_err(|e| e.to_string())
});

/// Approximate memory of a cached response beside its body, bytes.
const ENTRY_BYTES: usize = 512;
/// How long a transient failure is cached.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// Number of known hosts above which those without a request are forgotten.
const HOSTS: usize = 4096;
/// Response header by which a server restricts the use of a response.
const ROBOTS: &str = "x-robots-tag";

/// Result of fetching a URL.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Whole response body; `None` on error.
    pub bytes: Option<Bytes>,
    /// HTTP status of the last response.
    pub(crate) status: Option<u16>,
    /// Reason why there are no bytes.
    pub error: Option<String>,
    /// SHA-256 of the bytes, hex.
    pub(crate) sha256: Option<String>,
    /// Final URL, after redirects.
    pub(crate) url: Option<String>,
    /// Whether the failure is transient.
    passing: bool,
}

/// Fetches URLs under one set of settings.
pub struct Fetcher {
    pub(crate) settings: Settings,
    client: Client,
    slots: Semaphore,
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
    memos: Mutex<Vec<(CancelToken, Memo)>>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetcher").field(&self.settings).finish()
    }
}

/// Last status and URL of an attempt, kept even if it fails.
#[derive(Default)]
struct Seen {
    status: Option<u16>,
    url: Option<String>,
}

enum Answer {
    Body(Bytes),
    Elsewhere(Url),
}

impl Fetcher {
    pub(crate) fn new(settings: Settings) -> Result<Self, String> {
        let mut builder = Client::builder()
            .user_agent(settings.text(Key::UserAgent).unwrap_or_default())
            .connect_timeout(settings.seconds(Key::ConnectTimeout))
            .read_timeout(settings.seconds(Key::ReadTimeout))
            .pool_max_idle_per_host(settings.count(Key::PerHost))
            // Each redirect is checked here; the client would follow it unchecked.
            .redirect(Policy::none())
            // The client knows only one spelling of gzip; see `answer::gzip_layers`.
            .no_gzip()
            // A malformed header line is skipped, as browsers do.
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .no_proxy();
        match settings.text(Key::Proxy) {
            Some(url) => builder = builder.proxy(Proxy::all(url).map_err(|e| format!("fetch.proxy {url}: {e}"))?),
            None if !settings.is_on(Key::AllowPrivate) => builder = builder.dns_resolver(Arc::new(PublicOnly)),
            None => {}
        }
        let client = builder.build().map_err(|e| e.to_string())?;
        let slots = Semaphore::new(settings.count(Key::Concurrency));
        Ok(Self { settings, client, slots, hosts: Mutex::default(), memos: Mutex::default() })
    }

    /// Maximum number of concurrent fetches.
    pub fn concurrency(&self) -> usize {
        self.settings.count(Key::Concurrency)
    }

    /// Starts fetching `urls` in the background. What is in the cache of `query` is not fetched again.
    pub fn begin(
        self: &Arc<Self>,
        urls: impl IntoIterator<Item = String>,
        query: Option<&CancelToken>,
    ) -> Result<Vec<Fetching>, String> {
        let _inside = RUNTIME.as_ref().map_err(Clone::clone)?.enter();
        let memo = query.map_or_else(|| new_memo(&self.settings, FAILED_FOR), |query| self.memo(query));
        let begin = |url: String| {
            let (this, memo) = (Arc::clone(self), memo.clone());
            Fetching(SpawnedTask::spawn(async move {
                let fetch = async { Arc::new(this.fetch(&url).await) };
                let entry = memo.entry_by_ref(&url).or_insert_with(fetch).await;
                if entry.is_fresh() {
                    // Evict now, since the cache itself evicts after some time or many entries only.
                    memo.run_pending_tasks().await;
                }
                entry.into_value()
            }))
        };
        Ok(urls.into_iter().map(begin).collect())
    }

    /// Cancels `query` and drops its cache.
    pub fn forget(&self, query: &CancelToken) {
        query.cancel();
        let mut memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        memos.retain(|(of, _)| !of.is_cancelled());
    }

    /// Response cache of a query. Caches of ended queries are dropped.
    fn memo(&self, query: &CancelToken) -> Memo {
        let mut memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        memos.retain(|(of, _)| !of.is_cancelled());
        if let Some((_, memo)) = memos.iter().find(|(of, _)| of.is_same(query)) {
            return memo.clone();
        }
        let memo = new_memo(&self.settings, FAILED_FOR);
        memos.push((query.clone(), memo.clone()));
        memo
    }

    async fn fetch(&self, url: &str) -> Fetched {
        let mut seen = Seen::default();
        let ended = self.tries(url, &mut seen).await;
        let Seen { status, url } = seen;
        match ended {
            Ok(bytes) => {
                let sha256 = Some(hex::encode(Sha256::digest(&bytes)));
                Fetched { bytes: Some(bytes), status, sha256, url, ..Fetched::default() }
            }
            Err(problem) => {
                let status = problem.status().or(status);
                let passing = problem.retry().is_some();
                Fetched { status, error: Some(problem.to_string()), url, passing, ..Fetched::default() }
            }
        }
    }

    async fn tries(&self, url: &str, seen: &mut Seen) -> Result<Bytes, Problem> {
        let mut left = self.settings.seconds(Key::Timeout);
        let mut pause = self.settings.seconds(Key::Backoff);
        for _ in 0..self.settings.count(Key::Retries) {
            let problem = match self.follow(url, &mut left, seen).await {
                Ok(bytes) => return Ok(bytes),
                Err(problem) => problem,
            };
            let Some(asked) = problem.retry() else { return Err(problem) };
            let wait = asked.unwrap_or(pause);
            if wait >= left {
                return Err(problem);
            }
            tokio::time::sleep(wait).await;
            left -= wait;
            pause = pause.saturating_mul(2);
        }
        self.follow(url, &mut left, seen).await
    }

    /// Makes one attempt, following redirects. `left` is the URL's remaining time; waiting for a permit does not count.
    async fn follow(&self, url: &str, left: &mut Duration, seen: &mut Seen) -> Result<Bytes, Problem> {
        let mut url = Url::parse(url).map_err(|e| Problem::NotAUrl(e.to_string()))?;
        for _ in 0..=self.settings.count(Key::MaxRedirects) {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Problem::Scheme(url.scheme().to_owned()));
            }
            if !self.settings.is_on(Key::AllowPrivate) {
                address::check(&url)?;
            }
            // Take the host's permit first: a URL that waits for it must not hold a slot that other hosts could use.
            let host = self.host(&url);
            let closed = |_| Problem::Internal("the fetcher has ended".to_owned());
            let _turn = host.acquire().await.map_err(closed)?;
            let _slot = self.slots.acquire().await.map_err(closed)?;
            let begun = Instant::now();
            let answer = tokio::time::timeout(*left, self.ask(&url, seen)).await;
            *left = left.saturating_sub(begun.elapsed());
            match answer.unwrap_or(Err(Problem::TimedOut))? {
                Answer::Body(bytes) => return Ok(bytes),
                Answer::Elsewhere(next) => url = next,
            }
        }
        Err(Problem::Redirects(self.settings.count(Key::MaxRedirects)))
    }

    async fn ask(&self, url: &Url, seen: &mut Seen) -> Result<Answer, Problem> {
        let request = self.client.get(url.clone()).header(ACCEPT, "image/*,*/*;q=0.8");
        let mut answer = request.header(ACCEPT_ENCODING, "gzip").send().await.map_err(|e| Problem::of(&e))?;
        let status = answer.status();
        seen.status = Some(status.as_u16());
        seen.url = Some(url.to_string());
        if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return answer::location(url, answer.headers()).map(Answer::Elsewhere);
        }
        if !answer::is_whole(status, answer.headers()) {
            let retry_after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            let retry_after = retry_after.map(Duration::from_secs);
            return Err(Problem::Status { status: status.as_u16(), reason: status.canonical_reason(), retry_after });
        }
        if self.settings.is_on(Key::HonourNoai)
            && let Some(words) = refusal(answer.headers())
        {
            return Err(Problem::NoAi(words));
        }
        let layers = answer::gzip_layers(answer.headers())?;
        let most = self.settings.integer(Key::MaxBytes).unwrap_or(u64::MAX);
        if answer.content_length().is_some_and(|length| length > most) {
            return Err(Problem::TooLarge(most));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| Problem::of(&e))? {
            if (body.len() + chunk.len()) as u64 > most {
                return Err(Problem::TooLarge(most));
            }
            body.extend_from_slice(&chunk);
        }
        let mut body = body.freeze();
        for _ in 0..layers {
            let unzip = move || answer::gunzip(&body, most);
            let unzipped = tokio::task::spawn_blocking(unzip).await;
            body = unzipped.map_err(|e| Problem::Internal(format!("a task ended: {e}")))??;
        }
        Ok(Answer::Body(body))
    }

    fn host(&self, url: &Url) -> Arc<Semaphore> {
        let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(&host).and_then(Weak::upgrade) {
            return known;
        }
        if hosts.len() >= HOSTS {
            hosts.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Semaphore::new(self.settings.count(Key::PerHost)));
        hosts.insert(host, Arc::downgrade(&turns));
        turns
    }
}

/// Directive that forbids our use (`noai`, `noimageai`), even if addressed to a single user agent.
fn refusal(headers: &HeaderMap) -> Option<String> {
    let words = headers.get_all(ROBOTS).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let mut said = words.map(|word| word.rsplit(':').next().unwrap_or(word).trim().to_ascii_lowercase());
    said.find(|word| matches!(word.as_str(), "noai" | "noimageai"))
}

/// Fetch in flight; dropping it cancels it.
#[derive(Debug)]
pub struct Fetching(SpawnedTask<Arc<Fetched>>);

impl Fetching {
    /// Waits for the result.
    pub async fn end(self) -> Arc<Fetched> {
        let failed = |e| Arc::new(Fetched { error: Some(format!("a task ended: {e}")), ..Fetched::default() });
        self.0.await.unwrap_or_else(failed)
    }
}

/// Blocks until all fetches end, polling `cancelled` every 50 ms.
pub(crate) fn wait(all: Vec<Fetching>, cancelled: impl Fn() -> bool) -> Result<Vec<Arc<Fetched>>, String> {
    let _inside = RUNTIME.as_ref().map_err(Clone::clone)?.enter();
    let (sender, receiver) = std::sync::mpsc::channel();
    let _task = SpawnedTask::spawn(async move {
        let mut fetched = Vec::with_capacity(all.len());
        for one in all {
            fetched.push(one.end().await);
        }
        // The receiver may be gone.
        let _ = sender.send(fetched);
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(fetched) => return Ok(fetched),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !cancelled() => {}
            Err(e) => return Err(format!("cancelled ({e})")),
        }
    }
}

/// Response cache of a query, by URL.
type Memo = Cache<String, Arc<Fetched>>;

/// A cache of `fetch.memo_bytes`, which evicts the least recently used responses first, and transient failures after
/// `failed_for`.
fn new_memo(settings: &Settings, failed_for: Duration) -> Memo {
    let size = |url: &String, fetched: &Arc<Fetched>| {
        let bytes = ENTRY_BYTES + 2 * url.len() + fetched.bytes.as_ref().map_or(0, Bytes::len);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    };
    let cache = Cache::builder().max_capacity(settings.integer(Key::MemoBytes).unwrap_or(0)).weigher(size);
    cache.eviction_policy(EvictionPolicy::lru()).expire_after(PassingFailures(failed_for)).build()
}

/// Rows that follow soon share a transient failure; later ones fetch again.
struct PassingFailures(Duration);

impl Expiry<String, Arc<Fetched>> for PassingFailures {
    fn expire_after_create(&self, _: &String, fetched: &Arc<Fetched>, _: Instant) -> Option<Duration> {
        fetched.passing.then_some(self.0)
    }

    /// An expired failure that is still held counts as updated.
    fn expire_after_update(
        &self,
        url: &String,
        fetched: &Arc<Fetched>,
        at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(url, fetched, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memo(bytes: usize) -> Memo {
        let mut settings = Settings::default();
        settings.set("memo_bytes", &bytes.to_string()).unwrap();
        new_memo(&settings, Duration::from_millis(1))
    }

    #[tokio::test]
    async fn a_memo_is_bounded() {
        let memo = memo(3 * ENTRY_BYTES);
        for n in 0..10 {
            memo.entry(format!("u{n}")).or_insert_with(async { Arc::default() }).await;
            memo.run_pending_tasks().await;
        }
        assert!(memo.entry_count() == 2 && memo.contains_key("u9"), "{memo:?}");
    }

    #[tokio::test]
    async fn a_fetch_that_is_given_up_is_forgotten() {
        let memo = memo(1 << 20);
        let given_up = memo.entry("u".to_owned()).or_insert_with(std::future::pending());
        let late = tokio::time::timeout(Duration::from_millis(10), given_up).await;
        assert!(late.is_err() && !memo.contains_key("u"));
        assert!(memo.entry("u".to_owned()).or_insert_with(async { Arc::default() }).await.is_fresh());
    }

    #[tokio::test]
    async fn only_a_passing_failure_is_asked_for_again() {
        let memo = memo(1 << 20);
        let ask = |passing: bool| {
            let failed = async move { Arc::new(Fetched { passing, ..Fetched::default() }) };
            memo.entry(format!("passing: {passing}")).or_insert_with(failed)
        };
        assert!(ask(true).await.is_fresh() && ask(false).await.is_fresh());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(ask(true).await.is_fresh() && !ask(false).await.is_fresh());
    }

    #[test]
    fn refusals_are_found_among_other_words() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ROBOTS, value.parse().unwrap());
            }
            refusal(&headers)
        };
        assert_eq!(of(&["noindex", "nofollow, NoAI"]).as_deref(), Some("noai"));
        assert_eq!(of(&["otherbot: noimageai"]).as_deref(), Some("noimageai"));
        assert_eq!(of(&["noindex, max-image-preview: large"]), None);
        assert_eq!(of(&[]), None);
    }
}
