//! Decoding options in generation_config.json of a BLIP checkpoint.
//!
//! transformers ignores the file for BLIP: its `generate` runs on the text decoder, whose defaults come from
//! config.json's text_config. But authors who write the file expect an effect, so it applies, below the call and the
//! settings.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use serde::Serialize;
use serde_json::{Map, Value};

use super::files;
use super::generate::GenerationOptions;
use crate::error::{Error, Result};

const FILE: &str = "generation_config.json";

/// Decoding options of a checkpoint; absent ones are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PartialGeneration {
    /// Beams of beam search.
    pub num_beams: Option<usize>,
    /// Whether tokens are sampled.
    pub do_sample: Option<bool>,
    /// Number of most likely tokens sampled from; 0 means all.
    pub top_k: Option<usize>,
    /// Probability mass sampled from.
    pub top_p: Option<f32>,
    /// Divisor of the logits before sampling.
    pub temperature: Option<f32>,
    /// Minimum caption length in tokens.
    pub min_length: Option<usize>,
    /// Maximum caption length in tokens.
    pub max_length: Option<usize>,
    /// Exponent of the length in a beam's score.
    pub length_penalty: Option<f32>,
    /// Divisor of the scores of tokens that already occurred.
    pub repetition_penalty: Option<f32>,
    /// Whether beam search stops at the first `num_beams` endings; transformers' "never" is not supported.
    pub early_stopping: Option<bool>,
}

/// Keys that do not affect captions: output formats, implementation choices, and token ids, which come from
/// config.json. A trailing `*` matches a prefix, a leading one a suffix.
const OF_NO_EFFECT: &[&str] = &[
    "_*",
    "*_token_id",
    "output_*",
    "cache_*",
    "assistant_*",
    "transformers_version",
    "return_dict_in_generate",
    "return_legacy_cache",
    "use_cache",
    "low_memory",
    "max_time",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "is_assistant",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "disable_compile",
    "compile_config",
    "prefill_chunk_size",
    "trust_remote_code",
];

/// Unsupported keys and their neutral values, which occur in files that list all of transformers' options.
const NEUTRAL: &[(&str, f64)] = &[
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("min_new_tokens", 0.0),
    ("num_return_sequences", 1.0),
    ("num_beam_groups", 1.0),
    ("diversity_penalty", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("penalty_alpha", 0.0),
    ("min_p", 0.0),
    ("guidance_scale", 1.0),
    ("exponential_decay_length_penalty", 0.0),
];

/// Checkpoints already warned about, because planning reads the file repeatedly.
static WARNED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

impl PartialGeneration {
    /// Reads generation_config.json of a checkpoint folder; all `None` if the file is absent. Logs a warning about
    /// ignored keys, once per checkpoint. Fails if the file is unreadable or not a JSON object.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !files::present(&path) => return Ok(Self::default()),
            Err(e) => return Err(files::unreadable(&path, &e)),
        };
        let (read, left_out) = Self::parse(&text).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        if !left_out.is_empty() {
            let mut warned = WARNED.lock().unwrap_or_else(|e| e.into_inner());
            if warned.insert(path.clone()) {
                log::warn!("{}: not obeyed: {}", path.display(), left_out.join("; "));
            }
        }
        Ok(read)
    }

    /// Parses the file; also returns descriptions of the ignored keys.
    fn parse(text: &str) -> Result<(Self, Vec<String>), serde_json::Error> {
        let mut fields = Fields { map: serde_json::from_str(text)?, left_out: vec![] };
        let trial = GenerationOptions::default;
        let read = Self {
            num_beams: fields.integer("num_beams", |n| GenerationOptions { num_beams: n, ..trial() }),
            do_sample: fields.flag("do_sample"),
            top_k: fields.integer("top_k", |n| GenerationOptions { top_k: n, ..trial() }),
            top_p: fields.number("top_p", |x| GenerationOptions { top_p: x, ..trial() }),
            temperature: fields.number("temperature", |x| GenerationOptions { temperature: x, ..trial() }),
            // Consistency of the two lengths is checked per call, since a call may give either.
            min_length: fields.integer("min_length", |n| GenerationOptions {
                min_length: n,
                max_length: n.max(1),
                ..trial()
            }),
            max_length: fields.integer("max_length", |n| GenerationOptions { max_length: n, ..trial() }),
            length_penalty: fields.number("length_penalty", |x| GenerationOptions { length_penalty: x, ..trial() }),
            repetition_penalty: fields
                .number("repetition_penalty", |x| GenerationOptions { repetition_penalty: x, ..trial() }),
            early_stopping: fields.flag("early_stopping"),
        };
        let mut left_out = fields.left_out;
        left_out.extend(fields.map.iter().filter(|(name, value)| asks_for_something(name, value)).map(
            |(name, value)| {
                let hint = match name.as_str() {
                    "max_new_tokens" => ", use max_length, which counts [DEC] and the prompt",
                    "min_new_tokens" => ", use min_length, which counts [DEC] and the prompt",
                    _ => "",
                };
                format!("{name} ({}{hint})", short(value))
            },
        ));
        Ok((read, left_out))
    }
}

/// The file's keys; each is removed once it is read.
struct Fields {
    map: Map<String, Value>,
    left_out: Vec<String>,
}

impl Fields {
    /// Value of `name` if `read` accepts it; null counts as absent.
    fn take<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        let value = self.map.remove(name).filter(|value| !value.is_null())?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(reason) => {
                self.left_out.push(format!("{name} ({}): {reason}", short(&value)));
                None
            }
        }
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name, |value| value.as_bool().ok_or_else(|| "it must be true or false".into()))
    }

    /// A number for which `within` gives valid options.
    fn number(&mut self, name: &str, within: impl FnOnce(f32) -> GenerationOptions) -> Option<f32> {
        self.take(name, |value| {
            let Some(number) = value.as_f64() else { return Err("it must be a number".into()) };
            within(number as f32).validate().map(|()| number as f32)
        })
    }

    /// Variant of `number` for whole numbers, which may be written as 20.0.
    fn integer(&mut self, name: &str, within: impl FnOnce(usize) -> GenerationOptions) -> Option<usize> {
        self.take(name, |value| {
            let whole = value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..1e9).contains(x));
            let Some(whole) = whole else { return Err("it must be a whole number".into()) };
            within(whole as usize).validate().map(|()| whole as usize)
        })
    }
}

/// Whether an ignored key would change captions in transformers.
fn asks_for_something(name: &str, value: &Value) -> bool {
    let matches = |pattern: &&str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == *pattern,
    };
    let neutral = NEUTRAL.iter().any(|(known, neutral)| *known == name && value.as_f64() == Some(*neutral));
    !(value.is_null() || *value == Value::Bool(false) || neutral || OF_NO_EFFECT.iter().any(matches))
}

/// A value as JSON, shortened if long.
fn short(value: &Value) -> String {
    const MOST: usize = 40;
    let text = value.to_string();
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain("..".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (PartialGeneration, String) {
        let (read, left_out) = PartialGeneration::parse(text).unwrap();
        (read, left_out.join("; "))
    }

    #[test]
    fn what_others_write_is_read() {
        // As saved by transformers for Salesforce/blip-image-captioning-base.
        let saved = r#"{"_from_model_config": true, "bos_token_id": 30522, "eos_token_id": 2, "pad_token_id": 0,
            "output_attentions": false, "use_cache": true, "transformers_version": "5.24.0"}"#;
        assert_eq!(parse(saved), (PartialGeneration::default(), String::new()));
        // All options at their defaults, as written by GenerationConfig.to_json_string(use_diff=False) of an older
        // version.
        let whole = r#"{"num_beams": 4, "max_length": 20.0, "min_length": 0, "do_sample": false, "early_stopping": null,
            "top_k": 30, "top_p": 1.0, "temperature": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "max_new_tokens": null,
            "num_return_sequences": 1, "renormalize_logits": false, "cache_implementation": null, "diversity_penalty": 0.0}"#;
        let expected = PartialGeneration {
            num_beams: Some(4),
            max_length: Some(20),
            min_length: Some(0),
            do_sample: Some(false),
            top_k: Some(30),
            top_p: Some(1.0),
            temperature: Some(1.0),
            ..Default::default()
        };
        assert_eq!(parse(whole), (expected, String::new()));
    }

    #[test]
    fn what_is_not_obeyed_is_named() {
        let (read, left_out) = parse(
            r#"{"max_new_tokens": 6, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "num_beams": 5, "bad_words_ids": [[1, 2]],
                "renormalize_logits": true}"#,
        );
        assert_eq!(read, PartialGeneration { num_beams: Some(5), ..Default::default() });
        assert_eq!(
            left_out,
            "bad_words_ids ([[1,2]]); max_new_tokens (6, use max_length, which counts [DEC] and the prompt); \
             min_new_tokens (4, use min_length, which counts [DEC] and the prompt); no_repeat_ngram_size (2); \
             renormalize_logits (true)"
        );
    }

    #[test]
    fn what_is_no_value_is_left_out() {
        let (read, left_out) = parse(
            r#"{"early_stopping": "never", "max_length": "long", "num_beams": 2.5, "top_p": 1.5, "temperature": 0,
                "do_sample": 1, "top_k": -1, "min_length": 30}"#,
        );
        assert_eq!(read, PartialGeneration { min_length: Some(30), ..Default::default() });
        for words in [
            r#"early_stopping ("never"): it must be true or false"#,
            r#"max_length ("long"): it must be a whole number"#,
            "num_beams (2.5): it must be a whole number",
            "top_p (1.5): top_p must be above 0 and at most 1, not 1.5",
            "temperature (0): temperature must be above 0",
            "do_sample (1): it must be true or false",
            "top_k (-1): it must be a whole number",
        ] {
            assert!(left_out.contains(words), "{left_out}");
        }
    }

    #[test]
    fn a_file_that_is_no_json_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PartialGeneration::read(dir.path()).unwrap(), PartialGeneration::default());
        for text in ["", "[]", "{\"num_beams\": 3"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = PartialGeneration::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE), "{error}");
        }
    }
}
