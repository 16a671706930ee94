//! Conversion of vocab.txt and the JSON files beside it to a tokenizer.json, as by BertTokenizerFast.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::parse::parse;
use crate::blip::files::{present, read, read_json};
use crate::error::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Keys of the special tokens, in transformers' order of adding those that the vocabulary lacks, and BERT's defaults.
const SPECIAL_TOKENS: [(&str, Option<&str>); 7] = [
    ("bos_token", None),
    ("eos_token", None),
    ("unk_token", Some("[UNK]")),
    ("sep_token", Some("[SEP]")),
    ("pad_token", Some("[PAD]")),
    ("cls_token", Some("[CLS]")),
    ("mask_token", Some("[MASK]")),
];

/// Files beside a vocab.txt with more of the tokenizer's settings.
pub(super) fn beside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    [CONFIG, SPECIAL, ADDED].map(|name| dir.join(name)).into_iter().filter(|path| present(path))
}

/// Text of the tokenizer.json.
pub(super) fn tokenizer_json(vocabulary: &Path) -> Result<String> {
    let dir = vocabulary.parent().unwrap_or(Path::new(""));
    let optional = |name: &str| -> Result<Map<String, Value>> {
        let path = dir.join(name);
        if !present(&path) {
            return Ok(Map::new());
        }
        match read_json(&path)? {
            Value::Object(map) => Ok(map),
            _ => Err(Error::checkpoint(path, "it is not a JSON object")),
        }
    };
    let mut config = optional(CONFIG)?;
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("BertTokenizer");
    if !class.starts_with("Bert") || config.get("do_basic_tokenize") == Some(&Value::Bool(false)) {
        let reason = format!(
            "tokenizer.json is not in the folder, and from vocab.txt only BERT's tokenizer with do_basic_tokenize can be made, not \
             this {class}; write tokenizer.json there with AutoTokenizer's save_pretrained(DIR)"
        );
        return Err(Error::checkpoint(dir.join(CONFIG), reason));
    }
    let added = match config.remove("added_tokens_decoder") {
        Some(Value::Object(decoder)) => decoded(&decoder).map_err(|e| Error::checkpoint(dir.join(CONFIG), e))?,
        // Before transformers 4.34, two more files had this information.
        _ => {
            config.extend(optional(SPECIAL)?);
            encoded(&optional(ADDED)?, &config).map_err(|e| Error::checkpoint(dir.join(ADDED), e))?
        }
    };
    let made = document(&words(&read(vocabulary)?), &config, added);
    let broken = |e: String| Error::checkpoint(vocabulary, e);
    let tokenizer = parse(&made.to_string()).map_err(|e| broken(e.to_string()))?;
    for token in made["added_tokens"].as_array().into_iter().flatten() {
        let (id, name) = (token["id"].as_u64(), token["content"].as_str().unwrap_or_default());
        if tokenizer.token_to_id(name).map(u64::from) != id {
            let reason =
                format!("the token {name:?} beside it has another id than its place behind the vocabulary gives it");
            return Err(broken(reason));
        }
    }
    tokenizer.to_string(false).map_err(|e| broken(e.to_string()))
}

/// Ids of words, which are their line numbers; a repeated word has its last line's.
fn words(text: &str) -> BTreeMap<&str, u32> {
    text.lines().zip(0..).collect()
}

/// Name of a token, given as text or as the fields of transformers' AddedToken.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn special_tokens(config: &Map<String, Value>) -> Vec<&str> {
    let named = SPECIAL_TOKENS.iter().filter_map(|(key, bert)| config.get(*key).and_then(content).or(*bert));
    let more = ["additional_special_tokens", "extra_special_tokens"].iter().filter_map(|key| config.get(*key));
    let more = more.flat_map(|tokens| match tokens {
        Value::Array(tokens) => tokens.iter().filter_map(content).collect(),
        Value::Object(tokens) => tokens.values().filter_map(content).collect(),
        _ => vec![],
    });
    named.chain(more).collect()
}

fn added_token(id: u32, name: &str, special: bool) -> Value {
    json!({
        "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": !special, "special": special,
    })
}

/// Added tokens by id, from tokenizer_config.json's added_tokens_decoder.
fn decoded(decoder: &Map<String, Value>) -> std::result::Result<BTreeMap<u32, Value>, String> {
    let entry = |(id, token): (&String, &Value)| {
        let id: u32 = id.parse().ok()?;
        let mut whole = added_token(id, content(token)?, false);
        if let (Some(whole), Some(fields)) = (whole.as_object_mut(), token.as_object()) {
            whole.extend(
                fields.iter().filter(|(key, _)| *key != "__type").map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        Some((id, whole))
    };
    let wrong =
        |(id, token): (&String, &Value)| format!("added_tokens_decoder: {id:?}: {token} is not a token with its id");
    decoder.iter().map(|pair| entry(pair).ok_or_else(|| wrong(pair))).collect()
}

/// Added tokens by id, from added_tokens.json, which maps tokens to ids.
fn encoded(ids: &Map<String, Value>, config: &Map<String, Value>) -> std::result::Result<BTreeMap<u32, Value>, String> {
    let special = special_tokens(config);
    let entry = |(name, id): (&String, &Value)| {
        let id = u32::try_from(id.as_u64()?).ok()?;
        Some((id, added_token(id, name, special.contains(&name.as_str()))))
    };
    let wrong = |(name, id): (&String, &Value)| format!("{name:?}: {id} is not an id");
    ids.iter().map(|pair| entry(pair).ok_or_else(|| wrong(pair))).collect()
}

fn document(words: &BTreeMap<&str, u32>, config: &Map<String, Value>, mut added: BTreeMap<u32, Value>) -> Value {
    for name in special_tokens(config) {
        if added.values().any(|token| token["content"] == name) {
            continue;
        }
        let behind = || added.keys().max().map_or(0, |last| last + 1).max(words.len() as u32);
        let id = words.get(name).copied().unwrap_or_else(behind);
        added.insert(id, added_token(id, name, true));
    }
    let name = |key: &str, bert: &'static str| config.get(key).and_then(content).unwrap_or(bert).to_owned();
    let (cls, sep, unk) = (name("cls_token", "[CLS]"), name("sep_token", "[SEP]"), name("unk_token", "[UNK]"));
    let id_of = |name: &str| added.iter().find(|(_, token)| token["content"] == name).map(|(id, _)| *id);
    let special = |name: &str| json!({ "id": name, "ids": [id_of(name)], "tokens": [name] });
    let piece = |kind: &str, id: &str, segment: u32| json!({ kind: { "id": id, "type_id": segment } });
    let (first, text, last) =
        (piece("SpecialToken", &cls, 0), piece("Sequence", "A", 0), piece("SpecialToken", &sep, 0));
    let set = |key: &str, default: Value| config.get(key).cloned().unwrap_or(default);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.values().collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": set("tokenize_chinese_chars", true.into()),
            "strip_accents": set("strip_accents", Value::Null),
            "lowercase": set("do_lower_case", true.into()),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text, last],
            "pair": [first, text, last, piece("Sequence", "B", 1), piece("SpecialToken", &sep, 1)],
            "special_tokens": { cls.as_str(): special(&cls), sep.as_str(): special(&sep) },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": words,
        },
    })
}
