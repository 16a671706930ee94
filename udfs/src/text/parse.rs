//! Parsing of tokenizers.

/// Parses a tokenizer.json, disables truncation and padding, and checks that the vocabulary has an unknown token.
pub(super) fn parse(json: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
    // The file may carry settings of another use.
    inner.with_truncation(None)?;
    inner.with_padding(None);
    // A Gothic letter: without an unknown token it cannot be encoded.
    inner.encode_fast("\u{10330}", false)?;
    Ok(inner)
}
