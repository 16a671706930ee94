//! Settings of a prefix: one table behind SET, SHOW, the options of a call and the documentation.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, config_err};
use datafusion::config::ConfigEntry;

use super::itc_gate::ItcGate;

/// Declares the settings under a prefix: an enum of their keys, which implements
/// [`SettingKey`](crate::config::settings::SettingKey).
///
/// ```
/// use capfilt_udfs::config::settings::{Kind, Settings};
///
/// capfilt_udfs::settings! {
///     enum Key under "demo";
///     Retries "retries": Kind::Integer { min: 0, max: 9 }, default Some("2"), "Tries after the first";
/// }
///
/// let mut settings = Settings::<Key>::default();
/// settings.set("retries", "3").unwrap();
/// assert_eq!(settings.integer(Key::Retries), Some(3));
/// ```
#[macro_export]
macro_rules! settings {
    ($visibility:vis enum $keys:ident under $prefix:literal;
     $($key:ident $name:literal: $kind:expr, default $default:expr, $description:expr;)*) => {
        #[doc = concat!("A setting under `", $prefix, ".`.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $keys { $($key),* }

        impl $crate::config::settings::SettingKey for $keys {
            const PREFIX: &'static str = $prefix;
            const ALL: &'static [$crate::config::settings::Setting<Self>] = &[$($crate::config::settings::Setting {
                key: Self::$key,
                name: $name,
                kind: $kind,
                default: $default,
                description: $description,
            }),*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// Implements `ConfigExtension` and `ExtensionOptions` for a type whose field `settings` is a
/// [`Settings`](crate::config::settings::Settings) of these keys.
///
/// Entries carry the prefix, as SHOW, `information_schema.df_settings` and Ballista require.
#[macro_export]
macro_rules! extension_options {
    ($options:ty, $keys:ty) => {
        impl datafusion::config::ConfigExtension for $options {
            const PREFIX: &'static str = <$keys as $crate::config::settings::SettingKey>::PREFIX;
        }

        impl datafusion::config::ExtensionOptions for $options {
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }

            fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
                self
            }

            fn cloned(&self) -> Box<dyn datafusion::config::ExtensionOptions> {
                Box::new(self.clone())
            }

            fn set(&mut self, key: &str, value: &str) -> datafusion::common::Result<()> {
                self.settings.set(key, value)
            }

            fn entries(&self) -> Vec<datafusion::config::ConfigEntry> {
                self.settings.entries()
            }
        }
    };
}

// For this crate's own files, which import nothing through its root.
pub(crate) use {extension_options as options_of, settings as keys_of};

/// Name, allowed values and description of a setting.
#[derive(Debug)]
pub struct Setting<K> {
    /// Key of the setting.
    pub key: K,
    /// Name without the prefix.
    pub name: &'static str,
    /// Allowed values.
    pub kind: Kind,
    /// Default in SET syntax; `None` leaves the setting unset.
    pub default: Option<&'static str>,
    /// Meaning of the setting, for the documentation.
    pub description: &'static str,
}

/// Keys of the settings under a prefix, which [`settings!`](crate::settings!) declares.
pub trait SettingKey: Copy + fmt::Debug + 'static {
    /// Prefix of the settings' names, without the dot.
    const PREFIX: &'static str;
    /// Every setting, in the order of the keys.
    const ALL: &'static [Setting<Self>];

    /// Row of the key in [`Self::ALL`].
    fn index(self) -> usize;

    /// The key's setting.
    fn setting(self) -> &'static Setting<Self> {
        &Self::ALL[self.index()]
    }
}

/// Values of the settings under a prefix.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Settings<K> {
    /// Values or defaults, in the order of the keys.
    values: Vec<Option<Value>>,
    keys: PhantomData<K>,
}

impl<K: SettingKey> Default for Settings<K> {
    fn default() -> Self {
        Self { values: K::ALL.iter().map(Setting::default_value).collect(), keys: PhantomData }
    }
}

impl<K: SettingKey> fmt::Debug for Settings<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = K::ALL.iter().zip(&self.values).filter(|(setting, value)| setting.default_value() != **value);
        f.debug_map().entries(changed.map(|(setting, _)| (setting.name, self.show(setting.name)))).finish()
    }
}

impl<K: SettingKey> Settings<K> {
    /// Applies `SET prefix.name = 'text'`; the empty string and `default` reset the setting.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let prefix = K::PREFIX;
        let Some(setting) = K::ALL.iter().find(|s| s.name == name) else {
            let known: Vec<&str> = K::ALL.iter().map(|s| s.name).collect();
            return config_err!("{prefix} has no setting {name:?}.{}", hint(name, &known));
        };
        self.values[setting.key.index()] = if text.is_empty() || text.eq_ignore_ascii_case("default") {
            setting.default_value()
        } else if let Some(value) = setting.kind.parse(text) {
            Some(value)
        } else {
            return config_err!("{prefix}.{name} must be {}, not {text:?}", setting.kind.allowed());
        };
        Ok(())
    }

    /// Value of setting `name` (without prefix) as SHOW prints it; `None` if it is unset or unknown.
    pub fn show(&self, name: &str) -> Option<String> {
        let setting = K::ALL.iter().find(|s| s.name == name)?;
        self.value(setting.key).map(Value::to_string)
    }

    /// Entries for SHOW, whose keys carry the prefix.
    pub fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |s: &Setting<K>| ConfigEntry {
            key: format!("{}.{}", K::PREFIX, s.name),
            value: self.value(s.key).map(Value::to_string),
            description: s.description,
        };
        K::ALL.iter().map(entry).collect()
    }

    /// The value that was set, or else the default.
    pub fn value(&self, key: K) -> Option<&Value> {
        self.values[key.index()].as_ref()
    }

    /// Value of a setting that is a text or a choice.
    pub fn text(&self, key: K) -> Option<&str> {
        self.value(key).and_then(Value::text)
    }

    /// Value of a setting that is an integer or a size.
    pub fn integer(&self, key: K) -> Option<u64> {
        self.value(key).and_then(Value::integer)
    }

    /// The same as a count; 0 if it is unset.
    pub fn count(&self, key: K) -> usize {
        self.integer(key).map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// Whether a setting is on.
    pub fn is_on(&self, key: K) -> bool {
        self.value(key).and_then(Value::flag).unwrap_or(false)
    }

    /// Value of a setting in seconds; zero if it is unset.
    pub fn seconds(&self, key: K) -> Duration {
        if let Some(Value::Seconds(time, _)) = self.value(key) { *time } else { Duration::ZERO }
    }
}

impl<K> Setting<K> {
    fn default_value(&self) -> Option<Value> {
        self.default.and_then(|text| self.kind.parse(text))
    }
}

/// The settings under a prefix as a table in Markdown.
pub fn markdown<K: SettingKey>() -> String {
    let head = "| setting | default | value | meaning |\n|---|---|---|---|\n".to_owned();
    K::ALL.iter().fold(head, |page, Setting { name, kind, default, description, .. }| {
        let default = default.map_or("unset".into(), |d| format!("`{d}`"));
        page + &format!("| `{name}` | {default} | {} | {description} |\n", kind.allowed())
    })
}

/// Largest time of a setting.
const MOST_SECONDS: Duration = Duration::from_secs(86_400);

/// Type and range of a setting or of an option of a call.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// Several texts; an option of a call, and no setting.
    Texts,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Device that a model runs on.
    Device,
    /// Thresholds of an [`ItcGate`], or off.
    Gate,
    /// Integer in an inclusive range.
    Integer {
        /// Least value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// Number.
    Float {
        /// Whether the number must be positive.
        above_zero: bool,
        /// Largest value.
        max: f32,
    },
    /// On or off.
    Flag,
    /// Size in bytes, at least `min`.
    Size {
        /// Least size.
        min: u64,
    },
    /// Seconds, at most a day.
    Seconds,
}

/// A validated value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Text, or word of a choice.
    Text(String),
    /// Several texts.
    Texts(Arc<[String]>),
    /// Integer.
    Integer(u64),
    /// Bits of an f32, which unlike the float can be compared and hashed.
    Float(u32),
    /// On or off.
    Flag(bool),
    /// Size in bytes, and its original text.
    Size(u64, String),
    /// Time, and its original text.
    Seconds(Duration, String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Size(_, text) | Self::Seconds(_, text) => f.write_str(text),
            Self::Texts(texts) => write!(f, "{texts:?}"),
            Self::Integer(i) => write!(f, "{i}"),
            Self::Float(bits) => write!(f, "{}", f32::from_bits(*bits)),
            Self::Flag(on) => f.write_str(if *on { "on" } else { "off" }),
        }
    }
}

impl Value {
    /// A text, or the word of a choice.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Several texts.
    pub fn texts(&self) -> Option<&Arc<[String]>> {
        if let Self::Texts(texts) = self { Some(texts) } else { None }
    }

    /// An integer, or a size in bytes.
    pub fn integer(&self) -> Option<u64> {
        if let Self::Integer(i) | Self::Size(i, _) = self { Some(*i) } else { None }
    }

    /// A number.
    pub fn float(&self) -> Option<f32> {
        if let Self::Float(bits) = self { Some(f32::from_bits(*bits)) } else { None }
    }

    /// Whether a flag is on.
    pub fn flag(&self) -> Option<bool> {
        if let Self::Flag(on) = self { Some(*on) } else { None }
    }
}

/// Most devices of a model.
const MOST_DEVICES: usize = 64;

impl Kind {
    /// Describes the allowed values, to follow "must be".
    pub fn allowed(self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Texts => "a list of strings, with one at least and no NULL".into(),
            Self::Choice(words) => words.join(" or "),
            Self::Device => "auto, cpu, cuda, cuda:N, several such as cuda:0,cuda:1, or cuda:all".into(),
            Self::Gate => "off, or LOW,HIGH: two cosines from -1 to 1, such as 0.2,0.4".into(),
            Self::Integer { min, max: u64::MAX } => format!("a whole number of at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Float { above_zero: true, max: f32::MAX } => "a number above 0".into(),
            Self::Float { above_zero: false, max: f32::MAX } => "a number".into(),
            Self::Float { max, .. } => format!("a number above 0 and at most {max}"),
            Self::Flag => "on or off".into(),
            Self::Size { .. } => "a size such as 512MB, 2GiB or 1048576 (bytes)".into(),
            Self::Seconds => "seconds, at most 86400".into(),
        }
    }

    /// Parses a value in SET syntax.
    pub fn parse(self, text: &str) -> Option<Value> {
        let whole = text;
        let text = text.trim();
        match self {
            Self::Text => Some(Value::Text(whole.into())),
            // A text cannot say where one ends.
            Self::Texts => None,
            Self::Choice(words) => {
                words.iter().find(|w| w.eq_ignore_ascii_case(text)).map(|w| Value::Text((*w).into()))
            }
            Self::Device => {
                let text = text.to_ascii_lowercase();
                if matches!(text.as_str(), "auto" | "cpu" | "cuda" | "cuda:all") {
                    return Some(Value::Text(text));
                }
                let number = |device: &str| device.trim().strip_prefix("cuda:")?.parse::<u16>().ok();
                let numbers: Vec<u16> = text.split(',').map(number).collect::<Option<_>>()?;
                let is_twice = (1..numbers.len()).any(|i| numbers[..i].contains(&numbers[i]));
                let names: Vec<String> = numbers.iter().map(|n| format!("cuda:{n}")).collect();
                (!is_twice && names.len() <= MOST_DEVICES).then(|| Value::Text(names.join(",")))
            }
            Self::Gate if text.eq_ignore_ascii_case("off") => Some(Value::Text("off".into())),
            Self::Gate => text.parse::<ItcGate>().is_ok().then(|| Value::Text(text.into())),
            Self::Integer { .. } => self.integer(text.parse().ok()?),
            Self::Float { .. } => self.float(text.parse().ok()?),
            Self::Flag => match text.to_ascii_lowercase().as_str() {
                "on" | "true" | "1" => Some(Value::Flag(true)),
                "off" | "false" | "0" => Some(Value::Flag(false)),
                _ => None,
            },
            Self::Size { min } => bytes(text).filter(|n| *n >= min).map(|n| Value::Size(n, text.into())),
            Self::Seconds => {
                let time = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
                (time <= MOST_SECONDS).then(|| Value::Seconds(time, text.into()))
            }
        }
    }

    /// An example type for an option of a call.
    pub(crate) fn example(self) -> DataType {
        match self {
            Self::Text | Self::Choice(_) | Self::Device | Self::Gate | Self::Size { .. } | Self::Seconds => {
                DataType::Utf8
            }
            Self::Texts => DataType::new_list(DataType::Utf8, true),
            Self::Integer { .. } => DataType::Int64,
            Self::Float { .. } => DataType::Float64,
            Self::Flag => DataType::Boolean,
        }
    }

    /// Whether an option of a call may have this type. [`Kind::read`] checks the value itself.
    pub(crate) fn accepts(self, data_type: &DataType) -> bool {
        match (self, data_type) {
            (_, DataType::Null) => true,
            (Self::Texts, t) => list_item(t).is_some_and(|item| Self::Text.accepts(item)),
            (kind, DataType::Dictionary(_, values)) => is_string(values) && kind.accepts(values),
            (Self::Integer { .. } | Self::Float { .. }, t) => t.is_numeric(),
            (Self::Flag, t) => *t == DataType::Boolean || is_string(t),
            (Self::Size { .. }, t) => t.is_integer() || is_string(t),
            (Self::Text | Self::Choice(_) | Self::Device | Self::Gate | Self::Seconds, t) => is_string(t),
        }
    }

    /// Converts the value of an option of a call; `None` if it is not allowed. Must not be called with NULL.
    pub(crate) fn read(self, scalar: &ScalarValue) -> Option<Value> {
        if let Self::Texts = self {
            let Ok(ScalarValue::List(list)) = scalar.cast_to(&DataType::new_list(DataType::Utf8, true)) else {
                return None;
            };
            let texts: Option<Arc<[String]>> =
                list.values().as_string_opt::<i32>()?.iter().map(|text| text.map(str::to_owned)).collect();
            return texts.filter(|texts| !texts.is_empty()).map(Value::Texts);
        }
        if let Some(Some(text)) = scalar.try_as_str() {
            return self.parse(text);
        }
        if let ScalarValue::Boolean(Some(on)) = scalar {
            return Some(Value::Flag(*on));
        }
        let float = |s: &ScalarValue| match s.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(Some(x))) => Some(x),
            _ => None,
        };
        match self {
            Self::Float { .. } => self.float(float(scalar)? as f32),
            Self::Integer { .. } | Self::Size { .. } if scalar.data_type().is_integer() => {
                match scalar.cast_to(&DataType::UInt64) {
                    Ok(ScalarValue::UInt64(Some(i))) => self.integer(i),
                    _ => None,
                }
            }
            Self::Integer { .. } => {
                let x = float(scalar)?;
                // Every integer below 2^53 has an exact f64.
                (x.fract() == 0.0 && (0.0..9e15).contains(&x)).then(|| self.integer(x as u64)).flatten()
            }
            _ => None,
        }
    }

    fn integer(self, i: u64) -> Option<Value> {
        match self {
            Self::Integer { min, max } => (min..=max).contains(&i).then_some(Value::Integer(i)),
            Self::Size { min } => (i >= min).then(|| Value::Size(i, i.to_string())),
            _ => None,
        }
    }

    fn float(self, x: f32) -> Option<Value> {
        let Self::Float { above_zero, max } = self else { return None };
        (x.is_finite() && x <= max && (x > 0.0 || !above_zero)).then(|| Value::Float(x.to_bits()))
    }
}

/// Type of a list's items.
fn list_item(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(item.data_type()),
        _ => None,
    }
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Parses a size such as `512MB`, `2GiB`, `1.5 GB` or `1048576` into bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = number * unit as f64;
    (bytes.fract() == 0.0 || unit > 1).then_some(bytes).filter(|b| *b < 9e15).map(|b| b as u64)
}

/// End of an error message about an unknown name: the closest known name, if any is close, and a list of all.
pub(crate) fn hint(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|k| (distance(name, k), k)).min().filter(|(d, k)| *d <= 1 + k.len() / 4);
    let near = near.map(|(_, k)| format!(" Did you mean {k}?")).unwrap_or_default();
    format!("{near} There are: {}", known.join(", "))
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
