//! The `--dedupe` option.

use std::fmt;
use std::str::FromStr;

/// Default maximum number of differing bits of perceptual hashes.
const BITS: u32 = 6;
/// Upper limit; with more bits, unrelated pictures begin to match.
const MOST_BITS: u32 = 12;
/// Default minimum similarity of texts: one word of fourteen may differ.
const SIMILARITY: f64 = 0.8;
/// Lower limit; below it, texts that merely share a phrase begin to match.
const LEAST_SIMILARITY: f64 = 0.5;

/// Criteria for duplicate rows. Rows with equal image bytes and equal text always match; others match if asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dedupe {
    /// Maximum number of differing bits, of 64, between the perceptual hashes of two pictures, whatever their texts.
    pub(crate) near: Option<u32>,
    /// Minimum Jaccard index of two texts' words and word bigrams, whatever their pictures.
    pub(crate) texts: Option<f64>,
}

impl FromStr for Dedupe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is none of: exact, near, near=BITS, with 0 to {MOST_BITS} bits, texts, texts=SIMILARITY, from \
                 {LEAST_SIMILARITY} to 1, or near and texts with a comma between"
            )
        };
        let mut exact = false;
        let mut this = Self { near: None, texts: None };
        for kind in text.split(',') {
            let (name, value) = kind.split_once('=').map_or((kind, None), |(name, value)| (name, Some(value)));
            let is_new = match (name, value) {
                ("exact", None) => !std::mem::replace(&mut exact, true),
                ("near", value) => {
                    let bits = value.map_or(Some(BITS), |bits| bits.parse().ok());
                    let bits = bits.filter(|bits| *bits <= MOST_BITS).ok_or_else(wrong)?;
                    this.near.replace(bits).is_none()
                }
                ("texts", value) => {
                    let similarity = value.map_or(Some(SIMILARITY), |similarity| similarity.parse().ok());
                    let in_range = |similarity: &f64| (LEAST_SIMILARITY..=1.0).contains(similarity);
                    this.texts.replace(similarity.filter(in_range).ok_or_else(wrong)?).is_none()
                }
                _ => false,
            };
            if !is_new {
                return Err(wrong());
            }
        }
        Ok(this)
    }
}

impl fmt::Display for Dedupe {
    /// The canonical form, however the option was spelled: it is part of the table's identity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.near, self.texts) {
            (None, None) => f.write_str("exact"),
            (Some(bits), None) => write!(f, "near={bits}"),
            (None, Some(similarity)) => write!(f, "texts={similarity}"),
            (Some(bits), Some(similarity)) => write!(f, "near={bits},texts={similarity}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_names_kinds() {
        let is = |text: &str, near: Option<u32>, texts: Option<f64>| {
            assert_eq!(text.parse(), Ok(Dedupe { near, texts }), "{text}");
        };
        is("exact", None, None);
        is("near", Some(6), None);
        is("near=0", Some(0), None);
        is("near=12", Some(12), None);
        is("texts", None, Some(0.8));
        is("texts=0.5", None, Some(0.5));
        is("texts=1", None, Some(1.0));
        is("texts=0.85,near", Some(6), Some(0.85));
        is("near=3,texts", Some(3), Some(0.8));
        is("exact,texts", None, Some(0.8));
    }

    #[test]
    fn what_is_none_is_refused() {
        let bits = ["", "Exact", "exact=1", "near=", "near=13", "near=-1", "near=x", "far", "near,", "near,near=3"];
        let texts = ["texts=", "texts=0.49", "texts=1.01", "texts=NaN", "texts=x", "texts,texts", "near, texts"];
        for wrong in bits.iter().chain(&texts) {
            let error = wrong.parse::<Dedupe>().unwrap_err();
            assert!(error.contains("near=BITS") && error.contains("texts=SIMILARITY, from 0.5 to 1"), "{error}");
        }
    }

    #[test]
    fn a_manifest_knows_it_again() {
        // As in the manifests of finished tables.
        for text in ["exact", "near=6", "near=0", "texts=0.8", "texts=1", "near=9,texts=0.75"] {
            assert_eq!(text.parse::<Dedupe>().unwrap().to_string(), text);
        }
        assert_eq!("texts=0.80,exact,near".parse::<Dedupe>().unwrap().to_string(), "near=6,texts=0.8");
    }
}
