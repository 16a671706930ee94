//! The settings and their allowed values: one table behind SET, SHOW, the options of a call and the documentation.

use std::fmt;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use crate::blip::generate::GenerationOptions;

macro_rules! settings {
    ($($key:ident $name:literal: $kind:expr, default $default:expr, $description:literal;)*) => {
        /// A setting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Key { $($key),* }

        /// Every setting, indexed by its key.
        pub(crate) static SETTINGS: &[Setting] =
            &[$(Setting { key: Key::$key, name: $name, kind: $kind, default: $default, description: $description }),*];
    };
}

/// Name, allowed values and description of a setting.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: Key,
    /// Name without the prefix `capfilt.`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Default in SET syntax; `None` leaves the setting unset.
    pub(crate) default: Option<&'static str>,
    pub(crate) description: &'static str,
}

settings! {
    Captioner "captioner": Kind::Text, default None,
        "Checkpoint of caption and captions: a folder in Hugging Face layout, or a registered name";
    Filter "filter": Kind::Text, default None,
        "Checkpoint of itm_score, itc_score, embed_image and embed_text: a folder in Hugging Face \
         layout, or a registered name";
    Device "device": Kind::Device, default Some("auto"),
        "Where models run; auto takes the first CUDA device where ONNX Runtime offers one, else the CPU";
    Precision "precision": Kind::Choice(&["fp32", "int8"]), default Some("fp32"),
        "fp32, or int8: quantised weights, activations quantised per row";
    ItmToken "itm_token": Kind::Choice(&["enc", "cls"]), default Some("enc"),
        "First token of a text that is matched with an image: enc as BLIP was trained, cls as transformers does";
    MaxTextTokens "max_text_tokens": Kind::Integer { min: 2, max: 512 }, default Some("35"),
        "Longest text of itm_score, itc_score and embed_text in tokens, first and last one counted; longer ones \
         are cut";
    CleanText "clean_text": Kind::Flag, default Some("off"),
        "Whether texts go through BLIP's pre_caption first: lower case, no punctuation, at most 30 words";
    Threads "threads": Kind::Integer { min: 0, max: 1024 }, default Some("0"),
        "CPU threads of a model; 0 is one per core";
    MaxBatchImages "max_batch_images": Kind::Integer { min: 1, max: 1024 }, default Some("8"),
        "Most images in one run of a model";
    MemoryLimit "memory_limit": Kind::Size, default None,
        "Most memory for weights, caches and work together; idle models leave first. Of the engine, not the session. \
         Unset: three fifths of the machine's or container's";
    MemoLimit "memo_limit": Kind::Size, default None,
        "Most memory for remembered results; of the engine, not the session. Unset: 64 MiB";
    MaxImageBytes "max_image_bytes": Kind::Size, default Some("64MiB"),
        "Largest encoded image that is decoded; a larger one is a bad image";
    MaxImagePixels "max_image_pixels": Kind::Integer { min: 1, max: 1 << 32 }, default Some("178956970"),
        "Most pixels (width times height) of an image that is decoded; one with more is a bad image";
    OnError "on_error": Kind::Choice(&["null", "fail"]), default Some("null"),
        "What a bad image gives: null, or fail: the query stops";
    Seed "seed": Kind::Integer { min: 0, max: u64::MAX }, default Some("0"),
        "Seed of sampled captions; each image and candidate draws from its own";
    Strategy "strategy": Kind::Choice(&["beam", "greedy", "nucleus"]), default None,
        "How a caption's tokens are chosen";
    NumBeams "num_beams": Kind::Integer { min: 1, max: GenerationOptions::MAX_BEAMS as u64 }, default None,
        "Beams of beam search";
    TopK "top_k": Kind::Integer { min: 0, max: u64::MAX }, default None,
        "How many of the likeliest tokens nucleus sampling draws from, before top_p; 0 is all of them";
    TopP "top_p": Kind::Float { above_zero: true, max: 1.0 }, default None,
        "Probability mass that nucleus sampling draws from";
    Temperature "temperature": Kind::Float { above_zero: true, max: f32::MAX }, default None,
        "Divides the logits before nucleus sampling";
    MinLength "min_length": Kind::Integer { min: 0, max: 512 }, default None,
        "Shortest caption in tokens, [DEC] and prompt counted";
    MaxLength "max_length": Kind::Integer { min: 1, max: 512 }, default None,
        "Longest caption in tokens, [DEC] and prompt counted";
    LengthPenalty "length_penalty": Kind::Float { above_zero: false, max: f32::MAX }, default None,
        "Exponent of the generated length that divides a beam's score; above 0 favours long captions";
    RepetitionPenalty "repetition_penalty": Kind::Float { above_zero: true, max: f32::MAX }, default None,
        "Divides the score of a token that occurred; 1 leaves it as it is";
    EarlyStopping "early_stopping": Kind::Flag, default None,
        "Whether beam search stops as soon as num_beams captions ended";
    Prompt "prompt": Kind::Text, default None,
        "Text the caption continues; it is not part of the result";
}

impl Key {
    /// Row of the key in the table.
    pub(crate) fn setting(self) -> &'static Setting {
        &SETTINGS[self as usize]
    }
}

/// Type and range of a setting or of an option of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Choice(&'static [&'static str]),
    Device,
    Integer {
        min: u64,
        max: u64,
    },
    Float {
        above_zero: bool,
        max: f32,
    },
    Flag,
    /// Size in bytes.
    Size,
}

/// A validated value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Text(String),
    Integer(u64),
    /// Bits of an f32, which unlike the float can be compared and hashed.
    Float(u32),
    Flag(bool),
    /// Size in bytes, and its original text.
    Size(u64, String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Size(_, text) => f.write_str(text),
            Self::Integer(i) => write!(f, "{i}"),
            Self::Float(bits) => write!(f, "{}", f32::from_bits(*bits)),
            Self::Flag(on) => f.write_str(if *on { "on" } else { "off" }),
        }
    }
}

impl Value {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn integer(&self) -> Option<u64> {
        if let Self::Integer(i) | Self::Size(i, _) = self { Some(*i) } else { None }
    }

    pub(crate) fn float(&self) -> Option<f32> {
        if let Self::Float(bits) = self { Some(f32::from_bits(*bits)) } else { None }
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        if let Self::Flag(on) = self { Some(*on) } else { None }
    }
}

impl Kind {
    /// Describes the allowed values, to follow "must be".
    pub(crate) fn allowed(self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Choice(words) => words.join(" or "),
            Self::Device => "auto, cpu, cuda or cuda:N".into(),
            Self::Integer { min, max: u64::MAX } => format!("a whole number of at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Float { above_zero: true, max: f32::MAX } => "a number above 0".into(),
            Self::Float { above_zero: false, max: f32::MAX } => "a number".into(),
            Self::Float { max, .. } => format!("a number above 0 and at most {max}"),
            Self::Flag => "on or off".into(),
            Self::Size => "a size such as 512MB, 2GiB or 1048576 (bytes)".into(),
        }
    }

    /// Parses a value in SET syntax.
    pub(crate) fn parse(self, text: &str) -> Option<Value> {
        let whole = text;
        let text = text.trim();
        match self {
            Self::Text => Some(Value::Text(whole.into())),
            Self::Choice(words) => {
                words.iter().find(|w| w.eq_ignore_ascii_case(text)).map(|w| Value::Text((*w).into()))
            }
            Self::Device => {
                let text = text.to_ascii_lowercase();
                let known = matches!(text.as_str(), "auto" | "cpu" | "cuda")
                    || text.strip_prefix("cuda:").is_some_and(|n| n.parse::<u16>().is_ok());
                known.then_some(Value::Text(text))
            }
            Self::Integer { .. } => self.integer(text.parse().ok()?),
            Self::Float { .. } => self.float(text.parse().ok()?),
            Self::Flag => match text.to_ascii_lowercase().as_str() {
                "on" | "true" => Some(Value::Flag(true)),
                "off" | "false" => Some(Value::Flag(false)),
                _ => None,
            },
            Self::Size => bytes(text).map(|n| Value::Size(n, text.into())),
        }
    }

    /// An example type for an option of a call.
    pub(crate) fn example(self) -> DataType {
        match self {
            Self::Text | Self::Choice(_) | Self::Device | Self::Size => DataType::Utf8,
            Self::Integer { .. } => DataType::Int64,
            Self::Float { .. } => DataType::Float64,
            Self::Flag => DataType::Boolean,
        }
    }

    /// Whether an option of a call may have this type. [`Kind::read`] checks the value itself.
    pub(crate) fn accepts(self, data_type: &DataType) -> bool {
        match (self, data_type) {
            (_, DataType::Null) => true,
            (kind, DataType::Dictionary(_, values)) => is_string(values) && kind.accepts(values),
            (Self::Integer { .. } | Self::Float { .. }, t) => t.is_numeric(),
            (Self::Flag, t) => *t == DataType::Boolean || is_string(t),
            (Self::Size, t) => t.is_integer() || is_string(t),
            (Self::Text | Self::Choice(_) | Self::Device, t) => is_string(t),
        }
    }

    /// Converts the value of an option of a call; `None` if it is not allowed. Must not be called with NULL.
    pub(crate) fn read(self, scalar: &ScalarValue) -> Option<Value> {
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
            Self::Integer { .. } | Self::Size if scalar.data_type().is_integer() => {
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
            Self::Size => Some(Value::Size(i, i.to_string())),
            _ => None,
        }
    }

    fn float(self, x: f32) -> Option<Value> {
        let Self::Float { above_zero, max } = self else { return None };
        (x.is_finite() && x <= max && (x > 0.0 || !above_zero)).then(|| Value::Float(x.to_bits()))
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
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for (i, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, i);
            if let Some(default) = setting.default {
                assert!(setting.kind.parse(default).is_some(), "{}", setting.name);
            }
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1048576", Some(1_048_576)),
            ("512MB", Some(512_000_000)),
            ("2GiB", Some(2 << 30)),
            ("1.5 kib", Some(1536)),
            ("1.5", None),
            ("12 parsecs", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn options_take_any_number_that_fits() {
        let top_p = Key::TopP.setting().kind;
        let beams = Key::NumBeams.setting().kind;
        assert_eq!(top_p.read(&ScalarValue::Int64(Some(1))), Some(Value::Float(1f32.to_bits())));
        assert_eq!(top_p.read(&ScalarValue::Decimal128(Some(9), 2, 1)), Some(Value::Float(0.9f32.to_bits())));
        assert_eq!(top_p.read(&ScalarValue::Float64(Some(1.5))), None);
        assert_eq!(top_p.read(&ScalarValue::Float64(Some(f64::NAN))), None);
        assert_eq!(beams.read(&ScalarValue::UInt8(Some(4))), Some(Value::Integer(4)));
        assert_eq!(beams.read(&ScalarValue::Float32(Some(4.0))), Some(Value::Integer(4)));
        assert_eq!(beams.read(&ScalarValue::Float32(Some(4.5))), None);
        assert_eq!(beams.read(&ScalarValue::Int64(Some(-4))), None);
        let seed = Key::Seed.setting().kind;
        assert_eq!(seed.read(&ScalarValue::UInt64(Some(u64::MAX))), Some(Value::Integer(u64::MAX)));
    }

    #[test]
    fn near_misses() {
        assert!(hint("captionner", &["captioner", "filter"]).contains("Did you mean captioner?"));
        assert!(!hint("zebra", &["captioner", "filter"]).contains("Did you mean"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
