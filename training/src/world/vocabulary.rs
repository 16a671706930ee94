//! A tokenizer for the words of the world: BERT's, lower case, with a vocabulary small enough for quick training.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::{Background, Colour, Direction, Place, Shape, Size, Texture, plural};
use super::noise::{BOILERPLATE, MONTHS, TAGS, WARES};
use super::wording::{AND, FILLERS, GLUE, OF_THE_PICTURE, POSES, SENTENCES, THINGS, TITLES};

/// Special tokens; their ids are their indices.
pub const SPECIALS: &[&str] = &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"];

const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
const LETTERS: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// All words of two letters or more that captions and web texts use, sorted.
pub fn words() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut add = |phrases: &[&str]| texts.extend(phrases.iter().map(|phrase| phrase.to_string()));
    [TITLES, SENTENCES, POSES, FILLERS, THINGS, AND, OF_THE_PICTURE, GLUE].iter().for_each(|table| add(table));
    [TAGS, BOILERPLATE, WARES, MONTHS].iter().for_each(|table| add(table));
    Shape::ALL.iter().for_each(|kind| add(kind.words()));
    Colour::ALL.iter().for_each(|kind| add(kind.words()));
    // Captions never say "medium".
    Size::ALL[1..].iter().for_each(|kind| add(kind.words()));
    Texture::ALL.iter().for_each(|kind| [kind.words(), kind.after()].iter().for_each(|table| add(table)));
    Background::ALL.iter().for_each(|kind| [kind.words(), kind.behind()].iter().for_each(|table| add(table)));
    Place::ALL.iter().for_each(|kind| add(kind.words()));
    Direction::ALL.iter().for_each(|kind| add(kind.words()));
    texts.extend(Shape::ALL.iter().flat_map(|shape| shape.words()).map(|noun| plural(noun)));
    let words: BTreeSet<&str> = texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphabetic())).collect();
    words.into_iter().filter(|word| word.len() > 1).map(str::to_string).collect()
}

/// All tokens; their ids are their indices.
pub fn tokens() -> Vec<String> {
    let single = PUNCTUATION.chars().chain(LETTERS.chars()).map(String::from);
    let pieces = LETTERS.chars().map(|letter| format!("##{letter}"));
    SPECIALS.iter().map(|token| token.to_string()).chain(single).chain(pieces).chain(words()).collect()
}

/// The tokenizer in the format of Hugging Face's tokenizer.json.
pub fn tokenizer() -> Value {
    let added = |(id, token): (usize, &&str)| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    let special = |token: &str, id: usize| json!({ "id": token, "ids": [id], "tokens": [token] });
    let frame = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
    let end = json!({ "SpecialToken": { "id": "[SEP]", "type_id": 1 } });
    let vocabulary: Map<String, Value> =
        tokens().into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIALS.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [frame("[CLS]"), text("A", 0), frame("[SEP]")],
            "pair": [frame("[CLS]"), text("A", 0), frame("[SEP]"), text("B", 1), end],
            "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_hundred_words() {
        assert!((250..=500).contains(&words().len()), "{}", words().len());
        let tokens = tokens();
        assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len());
        assert_eq!(tokens.len(), SPECIALS.len() + PUNCTUATION.len() + 2 * LETTERS.len() + words().len());
    }

    #[test]
    fn the_tokenizer_names_the_special_tokens() {
        let tokenizer = tokenizer();
        let vocabulary = &tokenizer["model"]["vocab"];
        for (id, token) in SPECIALS.iter().enumerate() {
            assert_eq!((&vocabulary[token], &tokenizer["added_tokens"][id]["content"]), (&json!(id), &json!(token)));
        }
        for token in ["[CLS]", "[SEP]"] {
            let special = &tokenizer["post_processor"]["special_tokens"][token]["ids"][0];
            assert_eq!(special, &vocabulary[token]);
        }
        assert!(vocabulary["butterflies"].is_number() && vocabulary["medium"].is_null());
    }
}
