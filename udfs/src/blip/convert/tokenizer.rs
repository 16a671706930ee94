//! BLIP's tokens in a tokenizer of BERT's.

use tokenizers::{AddedToken, Tokenizer};

/// Adds [DEC] and [ENC] where they are missing, as BLIP's code does: the ids after the vocabulary.
pub(super) fn with_blips_tokens(json: &str) -> Result<String, String> {
    let mut tokenizer: Tokenizer = json.parse().map_err(|e: tokenizers::Error| e.to_string())?;
    tokenizer.add_special_tokens(&[AddedToken::from("[DEC]", true), AddedToken::from("[ENC]", true)]);
    tokenizer.to_string(true).map_err(|e| e.to_string())
}
