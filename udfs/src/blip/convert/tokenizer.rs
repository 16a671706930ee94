//! BLIP's special tokens for a BERT tokenizer.

use tokenizers::{AddedToken, Tokenizer};

/// Adds missing [DEC] and [ENC] with the ids after the vocabulary, as BLIP's code does.
pub(super) fn with_blips_tokens(json: &str) -> Result<String, String> {
    let mut tokenizer: Tokenizer = json.parse().map_err(|e: tokenizers::Error| e.to_string())?;
    tokenizer.add_special_tokens(&[AddedToken::from("[DEC]", true), AddedToken::from("[ENC]", true)]);
    tokenizer.to_string(true).map_err(|e| e.to_string())
}
