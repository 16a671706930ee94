//! The settings that a session has, and its engine.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use datafusion::common::{Result, config_err};
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};

use super::settings::{self, Key, SETTINGS, Value, hint};
use crate::blip::Precision;
use crate::engine::{Client, Engine};
use crate::image::Limits;

static DEFAULTS: LazyLock<Vec<Option<Value>>> =
    LazyLock::new(|| SETTINGS.iter().map(|s| s.default.and_then(|text| s.kind.parse(text))).collect());

/// Settings under `capfilt.`, and the session's engine.
///
/// A function keeps the copy that it was planned with. Two copies are equal if their settings and engines are.
///
/// Entries carry the prefix, as SHOW, `information_schema.df_settings` and Ballista require.
#[derive(Clone)]
pub struct CapfiltOptions {
    /// Values that were set, by [`Key`].
    given: Vec<Option<Value>>,
    engine: Option<Arc<Engine>>,
    client: Client,
}

impl Default for CapfiltOptions {
    fn default() -> Self {
        Self { given: vec![None; SETTINGS.len()], engine: None, client: Client::new() }
    }
}

impl CapfiltOptions {
    /// Default settings over the process's shared engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the engine by one of the session's own.
    pub fn with_engine(mut self, engine: Arc<Engine>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Replaces the client by one that the caller keeps a handle on.
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Applies `SET capfilt.name = 'value'`, with `name` without prefix. Errors are those of SET.
    pub fn with(mut self, name: &str, value: &str) -> Result<Self> {
        self.set(name, value)?;
        Ok(self)
    }

    /// The session's engine, by default the process's shared one.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.as_ref().map_or_else(Engine::shared, Arc::clone)
    }

    /// The session's client of the engine; [`Client::cancel_running`] cancels its calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Value of setting `name` (without prefix) as SHOW prints it; `None` if it is unset or unknown.
    pub fn show(&self, name: &str) -> Option<String> {
        let setting = SETTINGS.iter().find(|s| s.name == name)?;
        self.value(setting.key).map(Value::to_string)
    }

    /// The value that was set, or else the default.
    pub(crate) fn value(&self, key: Key) -> Option<&Value> {
        let i = key as usize;
        self.given[i].as_ref().or(DEFAULTS[i].as_ref())
    }

    pub(crate) fn text(&self, key: Key) -> Option<&str> {
        self.value(key).and_then(Value::text)
    }

    pub(crate) fn integer(&self, key: Key) -> Option<u64> {
        self.value(key).and_then(Value::integer)
    }

    pub(crate) fn device(&self) -> &str {
        self.text(Key::Device).unwrap_or("auto")
    }

    pub(crate) fn precision(&self) -> Precision {
        self.text(Key::Precision).and_then(|p| p.parse().ok()).unwrap_or_default()
    }

    pub(crate) fn threads(&self) -> usize {
        self.integer(Key::Threads).map_or(0, |n| n as usize)
    }

    pub(crate) fn max_batch_images(&self) -> usize {
        self.integer(Key::MaxBatchImages).map_or(1, |n| n as usize)
    }

    /// Whether a bad image fails the query.
    pub(crate) fn fails_on_error(&self) -> bool {
        self.text(Key::OnError) == Some("fail")
    }

    /// Limits on an image before it is decoded: `max_image_bytes` and `max_image_pixels`.
    pub fn image_limits(&self) -> Limits {
        let limit = |key| self.integer(key).unwrap_or(u64::MAX);
        Limits { max_bytes: limit(Key::MaxImageBytes), max_pixels: limit(Key::MaxImagePixels) }
    }

    fn engine_pointer(&self) -> Option<*const Engine> {
        self.engine.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for CapfiltOptions {
    fn eq(&self, other: &Self) -> bool {
        self.engine_pointer() == other.engine_pointer()
            && SETTINGS.iter().all(|s| self.value(s.key) == other.value(s.key))
    }
}

impl Eq for CapfiltOptions {}

impl Hash for CapfiltOptions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.engine_pointer().hash(state);
        SETTINGS.iter().for_each(|s| self.value(s.key).hash(state));
    }
}

impl fmt::Debug for CapfiltOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = SETTINGS.iter().filter_map(|s| self.given[s.key as usize].as_ref().map(|v| (s.name, v.to_string())));
        f.debug_map().entries(set).finish()
    }
}

impl ConfigExtension for CapfiltOptions {
    const PREFIX: &'static str = "capfilt";
}

impl ExtensionOptions for CapfiltOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    /// The empty string and `default` reset a setting.
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == key) else {
            let known: Vec<&str> = SETTINGS.iter().map(|s| s.name).collect();
            return config_err!("capfilt has no setting {key:?}.{}", hint(key, &known));
        };
        let slot = &mut self.given[setting.key as usize];
        if value.is_empty() || value.eq_ignore_ascii_case("default") {
            *slot = None;
            return Ok(());
        }
        match setting.kind.parse(value) {
            Some(value) => *slot = Some(value),
            None => return config_err!("capfilt.{key} must be {}, not {value:?}", setting.kind.allowed()),
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |s: &settings::Setting| ConfigEntry {
            key: format!("{}.{}", Self::PREFIX, s.name),
            value: self.value(s.key).map(Value::to_string),
            description: s.description,
        };
        SETTINGS.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_show_and_unset() -> Result<()> {
        let mut options = CapfiltOptions::new();
        assert_eq!(options.show("strategy"), None);
        assert_eq!(options.show("max_text_tokens").as_deref(), Some("35"));
        for (name, value, shown) in [
            ("strategy", "Nucleus", "nucleus"),
            ("memory_limit", "2GiB", "2GiB"),
            ("top_p", "0.9", "0.9"),
            ("clean_text", "true", "on"),
            ("device", "cuda:1", "cuda:1"),
            ("prompt", "a picture of ", "a picture of "),
            ("captioner", "/models/x", "/models/x"),
        ] {
            options.set(name, value)?;
            assert_eq!(options.show(name).as_deref(), Some(shown), "{name}");
            assert!(options.entries().iter().any(|e| e.key == format!("capfilt.{name}")));
        }
        options.set("strategy", "")?;
        options.set("clean_text", "default")?;
        assert_eq!(options.show("strategy"), None);
        assert_eq!(options.show("clean_text").as_deref(), Some("off"));
        assert_eq!(options.integer(Key::MemoryLimit), Some(2 << 30));
        Ok(())
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = |name: &str, value: &str| CapfiltOptions::new().with(name, value).unwrap_err().to_string();
        let unknown = error("captionner", "x");
        assert!(unknown.contains("Did you mean captioner?") && unknown.contains("repetition_penalty"), "{unknown}");
        for (name, value, words) in [
            ("top_p", "1.5", "capfilt.top_p must be a number above 0 and at most 1"),
            ("num_beams", "0", "capfilt.num_beams must be a whole number from 1 to"),
            ("precision", "fp16", "capfilt.precision must be fp32 or int8, not \"fp16\""),
            ("device", "gpu", "capfilt.device must be auto, cpu"),
            ("max_image_bytes", "much", "capfilt.max_image_bytes must be a size"),
            ("clean_text", "perhaps", "capfilt.clean_text must be on or off"),
            ("seed", "-1", "capfilt.seed must be a whole number of at least 0"),
        ] {
            let message = error(name, value);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn equality_is_of_settings_not_of_sessions() -> Result<()> {
        let plain = CapfiltOptions::new();
        assert_eq!(plain, CapfiltOptions::new());
        assert_eq!(plain, CapfiltOptions::new().with("precision", "fp32")?);
        assert_ne!(plain, CapfiltOptions::new().with("precision", "int8")?);
        Ok(())
    }

    #[test]
    fn image_limits_are_those_of_image() {
        assert_eq!(CapfiltOptions::new().image_limits(), Limits::default());
    }

    #[test]
    fn choices_are_what_the_types_parse() {
        let words = |key: Key| match key.setting().kind {
            settings::Kind::Choice(words) => words,
            _ => &[],
        };
        assert!(words(Key::Precision).iter().all(|w| w.parse::<Precision>().is_ok()));
        assert!(words(Key::ItmToken).iter().all(|w| w.parse::<crate::text::ItmToken>().is_ok()));
        assert!(words(Key::Strategy).iter().all(|w| w.parse::<crate::blip::generate::Strategy>().is_ok()));
    }
}
