//! `SET fetch.x = ..`.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

/// Values of the settings, in the order of `SETTINGS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    pub(crate) values: Vec<String>,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Integer of at least this value.
    Count(u64),
    Seconds,
    Bytes,
    Flag,
    Text,
}

pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) description: &'static str,
}

macro_rules! settings {
    ($($key:ident $name:literal: $kind:expr, $default:expr, $description:literal;)*) => {
        #[derive(Clone, Copy)]
        enum Key { $($key),* }

        pub(crate) static SETTINGS: &[Setting] =
            &[$(Setting { name: $name, kind: $kind, default: $default, description: $description }),*];
    };
}

settings! {
    Concurrency "concurrency": Kind::Count(1), "64", "Most URLs that are fetched at a time";
    PerHost "concurrency_per_host": Kind::Count(1), "4", "Most of them from one host";
    ConnectTimeout "connect_timeout": Kind::Seconds, "5", "Seconds until a connection must stand";
    ReadTimeout "read_timeout": Kind::Seconds, "10", "Most seconds without a byte";
    Timeout "timeout": Kind::Seconds, "30", "Most seconds for a URL: redirects, tries and pauses together";
    Retries "retries": Kind::Count(0), "2",
        "Tries after the first, where one may help: no connection, broken off, timed out, status 408, 425, 429 and 500 to 599";
    Backoff "backoff": Kind::Seconds, "0.5",
        "Pause before the second try, doubled for each further one; a server's Retry-After comes first";
    MaxBytes "max_bytes": Kind::Bytes, "32MB", "Largest answer; a larger one is an error";
    MaxRedirects "max_redirects": Kind::Count(0), "5", "Most redirects that are followed";
    UserAgent "user_agent": Kind::Text, concat!("capfilt/", env!("CARGO_PKG_VERSION")), "What servers are told";
    HonourNoai "honour_noai": Kind::Flag, "true",
        "Whether an answer with noai or noimageai in its X-Robots-Tag is refused";
    AllowPrivate "allow_private": Kind::Flag, "false",
        "Whether private, loopback and link-local addresses may be fetched from";
    Proxy "proxy": Kind::Text, "",
        "URL of a proxy; it looks names up, so that only addresses written as numbers are checked here";
    MemoBytes "memo_bytes": Kind::Bytes, "256MB",
        "Memory for answers that a query may ask for again; what is older is fetched again";
}

impl Default for Settings {
    fn default() -> Self {
        Self { values: SETTINGS.iter().map(|setting| setting.default.to_owned()).collect() }
    }
}

/// Size in bytes, written as for `capfilt.memory_limit`; must be positive.
fn bytes(text: &str) -> Option<u64> {
    capfilt_udfs::config::bytes(text).filter(|bytes| *bytes > 0)
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|d| *d <= Duration::from_secs(86_400))
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Some(true),
        "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

impl Kind {
    pub(crate) fn takes(self, text: &str) -> bool {
        match self {
            Self::Count(least) => text.parse::<u32>().is_ok_and(|n| u64::from(n) >= least),
            Self::Seconds => seconds(text).is_some(),
            Self::Bytes => bytes(text).is_some(),
            Self::Flag => flag(text).is_some(),
            Self::Text => true,
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Self::Count(least) => format!("a whole number of at least {least}"),
            Self::Seconds => "seconds, at most 86400".to_owned(),
            Self::Bytes => "a size such as 32MB".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }
}

/// Values are checked when they are set, so that those read here parse.
impl Settings {
    fn text(&self, key: Key) -> &str {
        &self.values[key as usize]
    }

    fn count(&self, key: Key) -> usize {
        self.text(key).parse().unwrap_or(1)
    }

    fn time(&self, key: Key) -> Duration {
        seconds(self.text(key)).unwrap_or_default()
    }

    fn flag(&self, key: Key) -> bool {
        flag(self.text(key)).unwrap_or_default()
    }

    pub(crate) fn deciding(&self) -> BTreeMap<String, String> {
        let keys = [Key::MaxBytes, Key::MaxRedirects, Key::UserAgent, Key::HonourNoai, Key::AllowPrivate];
        keys.into_iter().map(|key| (SETTINGS[key as usize].name.to_owned(), self.text(key).to_owned())).collect()
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.count(Key::Concurrency)
    }

    pub(crate) fn per_host(&self) -> usize {
        self.count(Key::PerHost)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.time(Key::ConnectTimeout)
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        self.time(Key::ReadTimeout)
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.time(Key::Timeout)
    }

    pub(crate) fn retries(&self) -> usize {
        self.count(Key::Retries)
    }

    pub(crate) fn backoff(&self) -> Duration {
        self.time(Key::Backoff)
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        bytes(self.text(Key::MaxBytes)).unwrap_or(u64::MAX)
    }

    pub(crate) fn max_redirects(&self) -> usize {
        self.count(Key::MaxRedirects)
    }

    pub(crate) fn user_agent(&self) -> &str {
        self.text(Key::UserAgent)
    }

    pub(crate) fn honour_noai(&self) -> bool {
        self.flag(Key::HonourNoai)
    }

    pub(crate) fn allow_private(&self) -> bool {
        self.flag(Key::AllowPrivate)
    }

    pub(crate) fn proxy(&self) -> Option<&str> {
        Some(self.text(Key::Proxy)).filter(|url| !url.is_empty())
    }

    pub(crate) fn memo_bytes(&self) -> u64 {
        bytes(self.text(Key::MemoBytes)).unwrap_or(0)
    }
}

/// The settings as a table in Markdown.
pub(crate) fn markdown() -> String {
    SETTINGS.iter().fold(String::new(), |page, Setting { name, kind, default, description }| {
        let default = if default.is_empty() { "unset".to_owned() } else { format!("`{default}`") };
        page + &format!("| `{name}` | {default} | {} | {description} |\n", kind.words())
    })
}
