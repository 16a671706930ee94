//! `SET fetch.x = ..`, and the fetcher of a session.

use std::sync::{Arc, Mutex};

use datafusion::logical_expr::ptr_eq::PtrEq;

use crate::client::Fetcher;
use crate::settings::{Key, Settings};

/// The settings under `fetch.`, and the session's fetcher.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FetchOptions {
    pub(crate) settings: Settings,
    /// Created at the first use, and again after a setting has changed.
    fetcher: PtrEq<Arc<Mutex<Option<Arc<Fetcher>>>>>,
}

impl FetchOptions {
    pub(crate) fn fetcher(&self) -> Result<Arc<Fetcher>, String> {
        let mut held = self.fetcher.lock().unwrap_or_else(|e| e.into_inner());
        match held.as_ref().filter(|fetcher| fetcher.settings == self.settings) {
            Some(fetcher) => Ok(Arc::clone(fetcher)),
            None => Ok(Arc::clone(held.insert(Arc::new(Fetcher::new(self.settings.clone())?)))),
        }
    }
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { settings: Settings::default(), fetcher: PtrEq::from(Arc::default()) }
    }
}

capfilt_udfs::extension_options!(FetchOptions, Key);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use capfilt_udfs::config::settings::SettingKey as _;
    use datafusion::config::ExtensionOptions as _;

    use super::*;

    #[test]
    fn settings_are_checked_when_set() {
        let mut options = FetchOptions::default();
        assert!(Key::ALL.iter().all(|setting| setting.default.is_none_or(|text| setting.kind.parse(text).is_some())));
        assert_eq!(options.settings.integer(Key::MaxBytes), Some(32_000_000));
        for (name, value) in [("timeout", "0.5"), ("allow_private", "on"), ("retries", "0"), ("max_bytes", "1MiB")] {
            options.set(name, value).unwrap();
        }
        assert_eq!((options.settings.count(Key::Retries), options.settings.count(Key::MaxBytes)), (0, 1 << 20));
        assert_eq!(options.settings.seconds(Key::Timeout), Duration::from_millis(500));
        assert!(options.settings.is_on(Key::AllowPrivate));
        for (name, value) in [("timeout", "-1"), ("concurrency", "0"), ("honour_noai", "perhaps"), ("max_bytes", "0")] {
            let error = options.set(name, value).unwrap_err().to_string();
            assert!(error.contains(&format!("fetch.{name} must be")), "{error}");
        }
        assert!(options.set("time_out", "1").unwrap_err().to_string().contains("timeout"));
    }
}
