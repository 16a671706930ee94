//! `SET fetch.x = ..`, and the fetcher of a session.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use datafusion::common::{Result, config_err};
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};

use crate::client::Fetcher;
use crate::settings::{SETTINGS, Setting, Settings};

/// The settings under `fetch.`, and the session's fetcher.
#[derive(Clone, Default)]
pub struct FetchOptions {
    pub(crate) settings: Settings,
    /// Created at the first use, and again after a setting has changed.
    fetcher: Arc<Mutex<Option<Arc<Fetcher>>>>,
}

impl FetchOptions {
    pub(crate) fn fetcher(&self) -> Result<Arc<Fetcher>, String> {
        let mut held = self.fetcher.lock().unwrap_or_else(|e| e.into_inner());
        match held.as_ref().filter(|fetcher| *fetcher.settings() == self.settings) {
            Some(fetcher) => Ok(Arc::clone(fetcher)),
            None => Ok(Arc::clone(held.insert(Arc::new(Fetcher::new(self.settings.clone())?)))),
        }
    }
}

impl PartialEq for FetchOptions {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for FetchOptions {}

impl Hash for FetchOptions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.settings.hash(state);
    }
}

impl fmt::Debug for FetchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(SETTINGS.iter().map(|s| s.name).zip(&self.settings.values)).finish()
    }
}

impl ConfigExtension for FetchOptions {
    const PREFIX: &'static str = "fetch";
}

impl ExtensionOptions for FetchOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    /// The value `default` restores a setting's default.
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(at) = SETTINGS.iter().position(|setting| setting.name == key) else {
            let known: Vec<&str> = SETTINGS.iter().map(|s| s.name).collect();
            return config_err!("fetch has no setting {key:?}: it has {}", known.join(", "));
        };
        let Setting { kind, default, .. } = SETTINGS[at];
        let value = if value.eq_ignore_ascii_case("default") { default } else { value };
        if !kind.takes(value) {
            return config_err!("fetch.{key} must be {}, not {value:?}", kind.words());
        }
        value.clone_into(&mut self.settings.values[at]);
        Ok(())
    }

    /// Keys carry the prefix, as SHOW needs it.
    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |(setting, value): (&Setting, &String)| ConfigEntry {
            key: format!("{}.{}", Self::PREFIX, setting.name),
            value: Some(value.clone()),
            description: setting.description,
        };
        SETTINGS.iter().zip(&self.settings.values).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn settings_are_checked_when_set() {
        let mut options = FetchOptions::default();
        assert!(SETTINGS.iter().all(|setting| setting.kind.takes(setting.default)));
        assert_eq!(options.settings.max_bytes(), 32_000_000);
        for (name, value) in [("timeout", "0.5"), ("allow_private", "on"), ("retries", "0"), ("max_bytes", "1MiB")] {
            options.set(name, value).unwrap();
        }
        assert_eq!((options.settings.retries(), options.settings.max_bytes()), (0, 1 << 20));
        assert!(options.settings.allow_private() && options.settings.timeout() == Duration::from_millis(500));
        for (name, value) in [("timeout", "-1"), ("concurrency", "0"), ("honour_noai", "perhaps"), ("max_bytes", "0")] {
            let error = options.set(name, value).unwrap_err().to_string();
            assert!(error.contains(&format!("fetch.{name} must be")), "{error}");
        }
        assert!(options.set("time_out", "1").unwrap_err().to_string().contains("timeout"));
    }
}
