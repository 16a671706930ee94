//! The settings that a session has, and its engine.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::Result;

use super::itc_gate::ItcGate;
use super::keys::Key;
use super::settings::{Settings, Value};
use crate::blip::Precision;
use crate::config::settings::options_of;
use crate::engine::{Client, Engine};
use crate::image::Limits;
use crate::video;

/// Settings under `capfilt.`, and the session's engine.
///
/// A function keeps the copy that it was planned with. Two copies are equal if their settings and engines are.
#[derive(Clone, Default)]
pub struct CapfiltOptions {
    settings: Settings<Key>,
    engine: Option<Arc<Engine>>,
    client: Client,
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
        self.settings.set(name, value)?;
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
        self.settings.show(name)
    }

    /// The value that was set, or else the default.
    pub(crate) fn value(&self, key: Key) -> Option<&Value> {
        self.settings.value(key)
    }

    pub(crate) fn text(&self, key: Key) -> Option<&str> {
        self.settings.text(key)
    }

    pub(crate) fn integer(&self, key: Key) -> Option<u64> {
        self.settings.integer(key)
    }

    pub(crate) fn device(&self) -> &str {
        self.text(Key::Device).unwrap_or("auto")
    }

    pub(crate) fn precision(&self) -> Precision {
        self.text(Key::Precision).and_then(|p| p.parse().ok()).unwrap_or_default()
    }

    /// The thresholds of `itc_gate`; `None` if it is off.
    pub(crate) fn itc_gate(&self) -> Option<ItcGate> {
        self.text(Key::ItcGate)?.parse().ok()
    }

    pub(crate) fn threads(&self) -> usize {
        self.settings.count(Key::Threads)
    }

    pub(crate) fn max_batch_images(&self) -> usize {
        self.settings.count(Key::MaxBatchImages)
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

    /// Limits on a video: `max_video_bytes`, `max_image_pixels` for its frames, and `video_timeout`.
    pub fn video_limits(&self) -> video::Limits {
        let max_bytes = self.integer(Key::MaxVideoBytes).unwrap_or(u64::MAX);
        video::Limits { max_bytes, frame: self.image_limits(), time: self.settings.seconds(Key::VideoTimeout) }
    }

    /// Most frames of a video that a call may ask for.
    pub(crate) fn max_frames(&self) -> u64 {
        self.integer(Key::MaxFrames).unwrap_or(u64::MAX)
    }

    fn engine_pointer(&self) -> Option<*const Engine> {
        self.engine.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for CapfiltOptions {
    fn eq(&self, other: &Self) -> bool {
        self.engine_pointer() == other.engine_pointer() && self.settings == other.settings
    }
}

impl Eq for CapfiltOptions {}

impl Hash for CapfiltOptions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.engine_pointer().hash(state);
        self.settings.hash(state);
    }
}

impl fmt::Debug for CapfiltOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

options_of!(CapfiltOptions, Key);

#[cfg(test)]
mod tests {
    use datafusion::config::ExtensionOptions as _;

    use super::*;
    use crate::config::settings::{Kind, SettingKey as _};

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
            ("device", "CUDA:1, cuda:00", "cuda:1,cuda:0"),
            ("device", "cuda:All", "cuda:all"),
            ("device_memory", "20GiB", "20GiB"),
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
            ("precision", "bf16", "capfilt.precision must be fp32 or fp16 or int8, not \"bf16\""),
            ("device", "gpu", "capfilt.device must be auto, cpu"),
            ("device", "cuda:0,cpu", "capfilt.device must be auto, cpu"),
            ("device", "cuda:all,cuda:0", "capfilt.device must be auto, cpu"),
            ("device", "cuda:0,cuda:0", "capfilt.device must be auto, cpu"),
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
            Kind::Choice(words) => words,
            _ => &[],
        };
        assert!(words(Key::Precision).iter().all(|w| w.parse::<Precision>().is_ok()));
        assert!(words(Key::ItmToken).iter().all(|w| w.parse::<crate::text::ItmToken>().is_ok()));
        assert!(words(Key::Strategy).iter().all(|w| w.parse::<crate::blip::generate::Strategy>().is_ok()));
    }
}
