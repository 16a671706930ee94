//! `SET fetch.x = ..`.

use std::collections::BTreeMap;

use capfilt_udfs::config::settings::{self, Kind, SettingKey as _};

const COUNT: Kind = Kind::Integer { min: 0, max: u64::MAX };
const CONCURRENCY: Kind = Kind::Integer { min: 1, max: 1_000_000 };
const SIZE: Kind = Kind::Size { min: 1 };

capfilt_udfs::settings! {
    pub(crate) enum Key under "fetch";
    Concurrency "concurrency": CONCURRENCY, default Some("64"), "Most URLs that are fetched at a time";
    PerHost "concurrency_per_host": CONCURRENCY, default Some("4"), "Most of them from one host";
    ConnectTimeout "connect_timeout": Kind::Seconds, default Some("5"), "Time limit for opening a connection";
    ReadTimeout "read_timeout": Kind::Seconds, default Some("10"), "Longest wait for the next byte";
    Timeout "timeout": Kind::Seconds, default Some("30"),
        "Most seconds for a URL: redirects, tries and pauses together";
    Retries "retries": COUNT, default Some("2"),
        "Tries after the first, where one may help: no connection, broken off, timed out, status 408, 425, 429 and 500 to 599";
    Backoff "backoff": Kind::Seconds, default Some("0.5"),
        "Pause before the second try, doubled for each further one; a server's Retry-After comes first";
    MaxBytes "max_bytes": SIZE, default Some("32MB"), "Largest answer; a larger one is an error";
    MaxRedirects "max_redirects": COUNT, default Some("5"), "Most redirects that are followed";
    UserAgent "user_agent": Kind::Text, default Some(concat!("capfilt/", env!("CARGO_PKG_VERSION"))),
        "Value of the User-Agent header";
    HonourNoai "honour_noai": Kind::Flag, default Some("on"),
        "Whether an answer with noai or noimageai in its X-Robots-Tag is refused";
    AllowPrivate "allow_private": Kind::Flag, default Some("off"),
        "Whether private, loopback and link-local addresses may be fetched from";
    Proxy "proxy": Kind::Text, default None,
        "URL of a proxy; it looks names up, so that only addresses written as numbers are checked here";
    MemoBytes "memo_bytes": SIZE, default Some("256MB"),
        "Memory for answers that a query may ask for again; what is older is fetched again";
}

/// Values of the settings.
pub(crate) type Settings = settings::Settings<Key>;

/// Settings that affect which images are fetched. Manifests record them, so their form does not change.
pub(crate) fn deciding(settings: &Settings) -> BTreeMap<String, String> {
    let keys = [Key::MaxBytes, Key::MaxRedirects, Key::UserAgent, Key::HonourNoai, Key::AllowPrivate];
    let value = |key| match key {
        // As earlier versions wrote them.
        Key::HonourNoai | Key::AllowPrivate => Some(settings.is_on(key).to_string()),
        key => settings.value(key).map(ToString::to_string),
    };
    keys.into_iter().filter_map(|key| Some((key.setting().name.to_owned(), value(key)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_record_settings_as_before() {
        let recorded = deciding(&Settings::default());
        let agent = concat!("capfilt/", env!("CARGO_PKG_VERSION"));
        let before = [("max_bytes", "32MB"), ("max_redirects", "5"), ("user_agent", agent)];
        let before = before.into_iter().chain([("honour_noai", "true"), ("allow_private", "false")]);
        assert_eq!(recorded, before.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    }
}
