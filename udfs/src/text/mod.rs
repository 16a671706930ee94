//! Tokenisation with WordPiece and BLIP's special tokens, decoding, and BLIP's caption cleaning.

mod parse;
mod vocabulary;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::blip::config::TextConfig;
use crate::blip::files::{present, read};
use crate::error::{Error, Result};
use parse::parse;

/// First token of a text that is matched with an image, and of a question about one.
///
/// BLIP was trained and evaluated with [ENC]; transformers uses [CLS] (its issues 22732 and 25629), so its scores
/// differ from those of the paper's filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ItmToken {
    /// [ENC], as in BLIP's training.
    #[default]
    Enc,
    /// [CLS], as in transformers.
    Cls,
}

impl fmt::Display for ItmToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enc => "enc",
            Self::Cls => "cls",
        })
    }
}

impl FromStr for ItmToken {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "enc" => Ok(Self::Enc),
            "cls" => Ok(Self::Cls),
            _ => Err(format!("{s:?} is not a first token of a text beside an image: use enc or cls")),
        }
    }
}

/// A checkpoint's tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    cls: u32,
    sep: u32,
    pad: u32,
    dec: u32,
    enc: u32,
    max_positions: usize,
}

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.txt";

/// Files of the tokenizer in a checkpoint folder: tokenizer.json or, if it is missing, vocab.txt and the files that
/// transformers writes beside it.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (whole, words) = (dir.join(TOKENIZER), dir.join(VOCABULARY));
    if present(&whole) {
        return Ok(vec![whole]);
    }
    if !present(&words) {
        let reason = "neither tokenizer.json nor vocab.txt is in the folder; write one there with the processor's save_pretrained(DIR)";
        return Err(Error::checkpoint(dir, reason));
    }
    Ok(std::iter::once(words).chain(vocabulary::beside(dir)).collect())
}

/// Text of a tokenizer.json, read from the file `path` or generated from the vocab.txt `path`; `path` may also be a
/// folder with either.
pub fn tokenizer_json(path: &Path) -> Result<String> {
    Ok(source(path)?.1)
}

/// Text of a tokenizer.json, and the file it came from.
fn source(path: &Path) -> Result<(PathBuf, String)> {
    let file = if path.is_dir() { files(path)?.swap_remove(0) } else { path.to_owned() };
    let json = if file.ends_with(VOCABULARY) { vocabulary::tokenizer_json(&file)? } else { read(&file)? };
    Ok((file, json))
}

/// Vocabulary size and special ids that a model for a tokenizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// [PAD].
    pub pad: u32,
    /// [SEP].
    pub sep: u32,
    /// [DEC]; by default the first id after the vocabulary, where BLIP adds it to BERT's.
    pub dec: u32,
    /// [ENC]; by default the id after [DEC].
    pub enc: u32,
}

impl SpecialIds {
    /// Reads the ids from a tokenizer found as by [`tokenizer_json`]; it must have [PAD] and a template that puts [CLS]
    /// before a text and [SEP] after it.
    pub fn read(path: &Path) -> Result<Self> {
        let (path, json) = source(path)?;
        Self::from_json(&json).map_err(|e| Error::checkpoint(path, e))
    }

    /// Variant of `read` for the text of a tokenizer.json.
    pub(crate) fn from_json(json: &str) -> Result<Self, String> {
        let inner = parse(json).map_err(|e| e.to_string())?;
        let around = inner.encode_fast("", true).map_err(|e| e.to_string())?;
        let [_, sep] = around.get_ids() else {
            return Err("its template does not put one token before a text and one behind".into());
        };
        let pad = inner.token_to_id("[PAD]").ok_or("it has no token [PAD]")?;
        let size = inner.get_vocab_size(true);
        let dec = inner.token_to_id("[DEC]").unwrap_or(size as u32);
        let enc = inner.token_to_id("[ENC]").unwrap_or(dec + 1);
        Ok(Self { vocab_size: size.max(dec as usize + 1).max(enc as usize + 1), pad, sep: *sep, dec, enc })
    }
}

impl Tokenizer {
    /// Reads a tokenizer found as by [`tokenizer_json`]. [CLS] and [SEP] come from its template, [DEC] is config.json's
    /// `bos_token_id`, and [ENC] the token of that name or, in checkpoints converted by Salesforce, the id after [DEC].
    pub fn read(path: &Path, config: &TextConfig) -> Result<Self> {
        let (path, json) = source(path)?;
        let broken = |e: String| Error::checkpoint(&path, e);
        let inner = parse(&json).map_err(|e| broken(e.to_string()))?;
        let around = inner.encode_fast("", true).map_err(|e| broken(e.to_string()))?;
        let [cls, sep] = around.get_ids() else {
            return Err(broken("its template does not put one token before a text and one behind".into()));
        };
        let (cls, sep) = (*cls, *sep);
        if sep != config.sep_token_id {
            let reason =
                format!("its last token has id {sep}, but config.json's sep_token_id is {}", config.sep_token_id);
            return Err(broken(reason));
        }
        let dec = config.bos_token_id;
        let enc = inner.token_to_id("[ENC]").unwrap_or(dec + 1);
        let size = inner.get_vocab_size(true);
        if let Some(id) = [cls, sep, dec, enc, config.pad_token_id, size.saturating_sub(1) as u32]
            .into_iter()
            .find(|id| *id as usize >= config.vocab_size)
        {
            let reason = format!("token id {id} is outside config.json's vocab_size {}", config.vocab_size);
            return Err(broken(reason));
        }
        Ok(Self { inner, cls, sep, pad: config.pad_token_id, dec, enc, max_positions: config.max_positions })
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        // WordPiece cannot fail: unknown words become [UNK].
        self.inner.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }

    fn framed(&self, first: u32, text: &str, max_tokens: usize) -> Arc<[u32]> {
        let max = max_tokens.min(self.max_positions).max(2);
        let ids = self.ids(text);
        let kept = ids.len().min(max - 2);
        std::iter::once(first).chain(ids[..kept].iter().copied()).chain([self.sep]).collect()
    }

    /// Start of a caption: [DEC] and the tokens of `prompt`.
    pub fn caption_prompt(&self, prompt: &str) -> Arc<[u32]> {
        std::iter::once(self.dec).chain(self.ids(prompt)).collect()
    }

    /// Token ids of a text to match with an image, or of a question about it, truncated to `max_tokens` including [SEP].
    pub fn match_ids(&self, text: &str, max_tokens: usize, first: ItmToken) -> Arc<[u32]> {
        let first = match first {
            ItmToken::Enc => self.enc,
            ItmToken::Cls => self.cls,
        };
        self.framed(first, text, max_tokens)
    }

    /// Token ids of an answer to score: [DEC], its tokens and [SEP], untruncated.
    pub fn answer_ids(&self, answer: &str) -> Arc<[u32]> {
        std::iter::once(self.dec).chain(self.ids(answer)).chain([self.sep]).collect()
    }

    /// Token ids of a text for the unimodal encoder: [CLS] first, truncated to `max_tokens` including [SEP].
    pub fn itc_ids(&self, text: &str, max_tokens: usize) -> Arc<[u32]> {
        self.framed(self.cls, text, max_tokens)
    }

    /// Decodes token ids: drops special tokens, joins word pieces and tidies spaces before punctuation like the
    /// tokenizer.
    pub fn decode(&self, ids: &[u32]) -> String {
        let special = [self.cls, self.sep, self.pad, self.dec, self.enc];
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !special.contains(id)).collect();
        self.inner.decode(&ids, true).unwrap_or_default().trim().to_string()
    }

    /// Names and ids of the special tokens.
    pub fn special_tokens(&self) -> BTreeMap<String, u32> {
        [("[CLS]", self.cls), ("[SEP]", self.sep), ("[PAD]", self.pad), ("[DEC]", self.dec), ("[ENC]", self.enc)]
            .map(|(name, id)| (name.to_string(), id))
            .into()
    }

    /// Maximum number of tokens that the checkpoint's model reads.
    pub(crate) fn max_positions(&self) -> usize {
        self.max_positions
    }

    pub(crate) fn sep(&self) -> u32 {
        self.sep
    }

    pub(crate) fn pad(&self) -> u32 {
        self.pad
    }
}

/// Characters that BLIP's cleaning takes out.
fn is_punctuation(c: char) -> bool {
    matches!(c, '.' | '!' | '"' | '(' | ')' | '*' | '#' | ':' | ';' | '~')
}

/// BLIP's `pre_question` (data/utils.py): lower-cases, deletes each of `. ! " ( ) * # : ; ~`, cuts blanks at the end, and
/// keeps at most 50 words, the text between two blanks. The question mark and inner blanks stay.
pub fn clean_question(text: &str) -> String {
    const MOST_WORDS: usize = 50;
    let lower: String = text.to_lowercase().chars().filter(|c| !is_punctuation(*c)).collect();
    let lower = lower.trim_end_matches(' ');
    lower.split(' ').take(MOST_WORDS).collect::<Vec<_>>().join(" ")
}

/// BLIP's `pre_caption`: lower-cases, replaces each of `. ! " ( ) * # : ; ~` by a space, collapses white space, trims,
/// and keeps at most 30 words.
pub fn clean(text: &str) -> String {
    const MOST_WORDS: usize = 30;
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| c.is_whitespace() || is_punctuation(c)).filter(|w| !w.is_empty());
    words.take(MOST_WORDS).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{clean, clean_question};

    #[test]
    fn cleaning_of_questions_is_blips() {
        for (question, cleaned) in [
            ("What is on the LEFT ?", "what is on the left ?"),
            ("is it a cat (or a dog)?", "is it a cat or a dog?"),
            ("  a  b.c! \t  ", "  a  bc \t"),
            ("why. ", "why"),
            ("", ""),
        ] {
            assert_eq!(clean_question(question), cleaned);
        }
        assert_eq!(clean_question(&"word ".repeat(60)).split(' ').count(), 50);
    }

    #[test]
    fn cleaning_is_blips() {
        assert_eq!(clean("A  \"Red\" Apple!! (fresh); #1 ~ yum.\n"), "a red apple fresh 1 yum");
        assert_eq!(clean(""), "");
        let long = "word ".repeat(40);
        assert_eq!(clean(&long).split(' ').count(), 30);
    }
}
