//! Evaluation of captions against references.

use std::sync::Arc;

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::blip::{GenerateRequest, Med as _};
use capfilt_udfs::metrics::{BleuStats, CiderCorpus, CiderVariant, RougeStats};
use serde::Serialize;

use super::evaluated::{Evaluated, Items};
use crate::error::{Error, Result};

/// Caption scores; pycocoevalcap's CIDEr is CIDEr-D.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptionScores {
    /// Number of images.
    pub images: usize,
    /// BLEU-1 to 4.
    pub bleu: [f64; 4],
    /// CIDEr without clipping and without length penalty.
    pub cider: f64,
    /// CIDEr-D.
    pub cider_d: f64,
    /// ROUGE-L.
    pub rouge_l: f64,
}

/// A generated caption with its references.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Captioned {
    /// Caption as the model wrote it.
    pub caption: String,
    /// References written by people.
    pub references: Vec<Arc<str>>,
}

/// Normalises a text for comparison: lower case, letters and digits with the hyphens and apostrophes inside words, one
/// space between words.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let inside = |c: char| c.is_alphanumeric() || c == '-' || c == '\'';
    let words = lower.split(|c| !inside(c)).map(|w| w.trim_matches(['-', '\'']));
    words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Captions every image and scores the captions against its texts.
pub fn captions(
    of: &Evaluated,
    items: &Items,
    options: &GenerationOptions,
    prompt: &str,
) -> Result<(CaptionScores, Vec<Captioned>)> {
    options.validate().map_err(Error::Option)?;
    let tokenizer = of.med.tokenizer();
    let prompt = tokenizer.caption_prompt(prompt);
    let mut made: Vec<Captioned> = Vec::with_capacity(items.images());
    of.blocks(items, &mut |range, embeddings| {
        // The key would seed sampling, which beam search and greedy decoding do not use.
        let request = |_| vec![GenerateRequest { prompt: Arc::clone(&prompt), key: [0; 32] }];
        let requests: Vec<_> = range.map(request).collect();
        let images: Vec<_> = embeddings.iter().collect();
        for ids in of.med.generate(&images, &requests, options, &|| false)? {
            let caption = ids.first().map(|ids| tokenizer.decode(ids)).unwrap_or_default();
            made.push(Captioned { caption, references: vec![] });
        }
        Ok(())
    })?;
    for (image, text, _) in &items.texts {
        made[*image].references.push(Arc::clone(text));
    }
    let (mut bleu, mut cider, mut rouge) = (BleuStats::default(), CiderCorpus::default(), RougeStats::default());
    let failed = |e: capfilt_udfs::metrics::MetricError| Error::Option(e.to_string());
    for one in &made {
        let references: Vec<String> = one.references.iter().map(|text| words(text)).collect();
        let caption = words(&one.caption);
        bleu.add(&caption, &references).map_err(failed)?;
        cider.add(&caption, &references).map_err(failed)?;
        rouge.add(&caption, &references).map_err(failed)?;
    }
    let scores = CaptionScores {
        images: made.len(),
        bleu: [1, 2, 3, 4].map(|n| bleu.score(n).unwrap_or(0.0)),
        cider: cider.score(CiderVariant::Cider).unwrap_or(0.0),
        cider_d: cider.score(CiderVariant::CiderD).unwrap_or(0.0),
        rouge_l: rouge.score().unwrap_or(0.0),
    };
    Ok((scores, made))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_compared_without_case_and_punctuation() {
        assert_eq!(words("A cat's  half-open, \"RED\" door - shut."), "a cat's half-open red door shut");
        assert_eq!(words("?!"), "");
    }
}
