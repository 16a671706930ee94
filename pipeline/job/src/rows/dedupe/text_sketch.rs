//! A text as a set: its words and its word bigrams.
//!
//! The set ignores case, punctuation, spaces and Unicode variants (NFKC, lower case, the words of UAX #29; in scripts
//! without spaces each letter is a word). Within bigrams all numbers are equal, so two texts that differ only in a
//! number, such as `photo 123` and `photo 456` after the same sentence, are more similar than two that differ in a
//! word. The number itself is still a word of the set, which distinguishes `Air Max 90` from `Air Max 95`. The fewer
//! words a text has, the more each weighs: a short text is similar only to identical ones.

use icu_normalizer::ComposingNormalizerBorrowed;
use minhash_rs::prelude::{MinHash, MinHasher as _};
use twox_hash::XxHash64;
use unicode_segmentation::UnicodeSegmentation as _;

/// Placeholder for all numbers in bigrams; never itself a word.
const NUMBER: &str = "#";

/// Fingerprint of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sketch {
    /// Hash of the whole set.
    pub(crate) id: u64,
    /// Upper 32 bits of each element's hash, ascending.
    pub(crate) set: Vec<u32>,
    /// Hash of each band of the MinHash signature.
    pub(crate) bands: Vec<u64>,
}

impl Sketch {
    /// Sketch of `text` for finding texts with at least the similarity `least`; `None` if the text has no words.
    pub(crate) fn of(text: &str, least: f64) -> Option<Self> {
        let elements = elements(&words(text));
        if elements.is_empty() {
            return None;
        }
        let bytes: Vec<u8> = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
        let mut set: Vec<u32> = elements.iter().map(|element| (element >> 32) as u32).collect();
        set.dedup();
        let bands = cut(least).map_or_else(Vec::new, |cut| cut(&elements));
        Some(Self { id: XxHash64::oneshot(0, &bytes), set, bands })
    }
}

/// Fingerprint of the sketch algorithm: another release of a crate could change sketches, and the two must not be
/// mixed.
pub(crate) fn way(least: f64) -> String {
    let sketch = Sketch::of("The same text, 1 of 2, that one sketch of it is known by: ein Mädchen, 猫", least);
    let bytes = format!("{sketch:?}").into_bytes();
    let count = sketch.map_or(0, |sketch| sketch.bands.len());
    format!("texts in {count} bands, {:016x}", XxHash64::oneshot(0, &bytes))
}

fn words(text: &str) -> Vec<String> {
    let text = ComposingNormalizerBorrowed::new_nfkc().normalize(text).to_lowercase();
    // Characters removed within words (it's, 3.14, a_b): variants of the apostrophe, soft hyphens and other invisible
    // marks.
    let mark = |c: &char| c.is_ascii_punctuation() || matches!(c, '’' | '‘' | '·' | '\u{ad}' | '\u{2060}' | '\u{feff}');
    let word = |word: &str| word.chars().filter(|c| !mark(c)).collect::<String>();
    text.unicode_words().map(word).filter(|word| !word.is_empty()).collect()
}

/// Hashes of the words and bigrams, ascending and distinct.
fn elements(words: &[String]) -> Vec<u64> {
    let hash = |text: &str| XxHash64::oneshot(0, text.as_bytes());
    let in_pairs: Vec<&str> =
        words.iter().map(|word| if word.chars().all(char::is_numeric) { NUMBER } else { word.as_str() }).collect();
    let pairs = in_pairs.windows(2).map(|pair| hash(&pair.join(" ")));
    let mut elements: Vec<u64> = words.iter().map(|word| hash(word)).chain(pairs).collect();
    elements.sort_unstable();
    elements.dedup();
    elements
}

type Cut = fn(&[u64]) -> Vec<u64>;

/// Returns the split of a MinHash signature into bands (LSH). With b bands of r minima, sets with similarity J share a
/// band with probability 1 - (1 - J^r)^b. At the lower end of each range this is 99.9 %, 99.97 %, 99.3 % and 99.5 %;
/// more minima per band give fewer false candidates. Sets that must be equal need no bands: their ids are equal.
fn cut(least: f64) -> Option<Cut> {
    match least {
        1.0.. => None,
        0.9.. => Some(bands::<96, 12>),
        0.8.. => Some(bands::<100, 20>),
        0.65.. => Some(bands::<100, 25>),
        _ => Some(bands::<120, 40>),
    }
}

fn bands<const MINIMA: usize, const BANDS: usize>(elements: &[u64]) -> Vec<u64> {
    let signature: MinHash<u64, MINIMA> = elements.iter().copied().collect();
    signature.band_hashes::<BANDS>().to_vec()
}

/// Whether two ascending, non-empty sets have a Jaccard index of at least `least`.
pub(crate) fn are_similar(a: &[u32], b: &[u32], least: f64) -> bool {
    // Compared as a quotient: 4.0 / 5.0 is exactly the f64 that 0.8 parses to.
    let is_enough = |common: usize, all: usize| common as f64 / all as f64 >= least;
    // Upper bound: the intersection has at most the smaller set's size, and the union at least the larger's.
    if !is_enough(a.len().min(b.len()), a.len().max(b.len())) {
        return false;
    }
    let (mut common, mut i, mut j) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        common += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    is_enough(common, a.len() + b.len() - common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(text: &str) -> Sketch {
        Sketch::of(text, 0.8).unwrap_or_else(|| panic!("{text:?} has no words"))
    }

    /// The Jaccard index, found by trying thresholds.
    fn similarity(a: &str, b: &str) -> f64 {
        let (a, b) = (sketch(a).set, sketch(b).set);
        (1..=1000).rev().map(|n| f64::from(n) / 1000.0).find(|least| are_similar(&a, &b, *least)).unwrap_or(0.0)
    }

    #[test]
    fn how_a_text_is_written_does_not_matter() {
        let same = |texts: &[&str]| texts.iter().for_each(|text| assert_eq!(sketch(text), sketch(texts[0]), "{text}"));
        same(&["A dog, in the snow.", "a dog in the snow", "  a  DOG\n\tin the snow!!", "“A dog” – in the snow…"]);
        // Composed and decomposed, full width, ligatures, apostrophes.
        same(&["Caf\u{e9} fi", "cafe\u{301} \u{fb01}", "ＣＡＦＥ\u{301} ｆｉ"]);
        same(&["it's John's", "It’s john’s", "it‘s john‘s", "its johns"]);
        same(&["snowman", "snow\u{ad}man", "\u{feff}snowman"]);
        same(&["ДОМ у моря", "дом у моря"]);
        same(&["猫が好き", "猫が好き。", " 猫が好き！"]);
        for nothing in ["", " ", "...", "— | —", "\u{200b}", "😀 🎉"] {
            assert_eq!(Sketch::of(nothing, 0.8), None, "{nothing:?}");
        }
    }

    #[test]
    fn order_and_numbers_matter() {
        let all =
            ["dog", "dogs", "dog dog", "red dog", "dog red", "12", "13", "photo 12", "photo 13", "#", "a #", "12 #"];
        let ids: Vec<_> = all.iter().filter_map(|text| Sketch::of(text, 0.8)).map(|sketch| sketch.id).collect();
        // `#` is not a word: `a #` equals `a`, and `12 #` equals `12`.
        assert_eq!(ids.len(), 11);
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 10);
        assert!(similarity("a red cube on a blue ball", "a blue cube on a red ball") < 0.8);
    }

    #[test]
    fn boilerplate_is_alike_and_short_texts_are_not() {
        // 5 words and 5 bigrams in common; the numbers differ.
        let number = similarity("Buy now at SHOP | photo 123", "BUY NOW at shop: photo 4567");
        assert!((number - 0.833).abs() < 1e-9, "{number}");
        let word = similarity("Buy now at SHOP | photo red", "Buy now at SHOP | photo blue");
        assert!((word - 0.692).abs() < 1e-9, "{word}");
        for (a, b) in [
            ("dog", "dogs"),
            ("two dogs", "three dogs"),
            ("2 dogs", "3 dogs"),
            ("Nike Air Max 90", "Nike Air Max 95"),
            ("1965 Mustang", "1967 Mustang"),
            ("a man riding a horse on a beach", "a woman riding a horse on a beach"),
            ("a photo", "a photo of a dog"),
            ("猫が好き", "犬が好き"),
        ] {
            assert!(similarity(a, b) < 0.8, "{a}, {b}: {}", similarity(a, b));
        }
        // One of fourteen words differs.
        let words: Vec<String> = (0..14).map(|n| format!("w{n}")).collect();
        let mut other = words.clone();
        "another".clone_into(&mut other[6]);
        assert!((similarity(&words.join(" "), &other.join(" ")) - 0.8).abs() < 1e-9);
    }

    #[test]
    fn the_index_is_exact_at_its_limit() {
        let set = |from: u32, to: u32| (from..to).collect::<Vec<u32>>();
        for (common, all) in [(4, 5), (7, 10), (11, 20), (3, 5), (13, 20), (19, 20)] {
            let least = format!("{}", f64::from(common) / f64::from(all)).parse().unwrap();
            // One set contains the other; then each has an element of its own.
            assert!(are_similar(&set(0, common), &set(0, all), least), "{common} of {all}");
            let (a, b) = (set(0, all - 1), set(all - common - 1, all));
            assert_eq!(are_similar(&a, &b, least), are_similar(&b, &a, least));
            assert!(are_similar(&a, &b, least), "{common} of {all}");
            assert!(!are_similar(&set(0, common), &set(0, all + 1), least));
        }
        assert!(!are_similar(&[1, 2], &[3, 4], 0.5));
        assert!(are_similar(&[1, 2], &[1, 2], 1.0));
    }

    #[test]
    fn similar_texts_meet_in_a_band_and_others_do_not() {
        let mut state = 11_u64;
        let mut word = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("w{}", (state >> 33) % 5000)
        };
        for least in [0.5, 0.65, 0.8, 0.9] {
            let (mut similar, mut meet, mut strangers) = (0, 0, 0);
            for n in 0..1500 {
                let words: Vec<String> = (0..6 + n % 40).map(|_| word()).collect();
                let mut other = words.clone();
                // About as many changes as are allowed at this length.
                let most = (words.len() as f64 * (1.0 - least) / (1.0 + least) / 1.5) as usize;
                for change in 0..most {
                    other[change * words.len() / most] = word();
                }
                let unlike: Vec<String> = words.iter().map(|_| word()).collect();
                let [a, b, c] = [words, other, unlike].map(|words| Sketch::of(&words.join(" "), least).unwrap());
                let share = |x: &Sketch, y: &Sketch| x.bands.iter().zip(&y.bands).any(|(x, y)| x == y);
                if most > 0 && are_similar(&a.set, &b.set, least) {
                    similar += 1;
                    meet += usize::from(share(&a, &b));
                }
                strangers += usize::from(share(&a, &c));
            }
            assert!(similar > 500, "{least}: {similar}");
            assert!(meet as f64 >= 0.985 * similar as f64, "{least}: {meet} of {similar}");
            assert!(strangers < 15, "{least}: {strangers}");
        }
    }

    #[test]
    fn ways_are_told_apart() {
        assert_eq!(way(0.8), way(0.85));
        assert!(way(0.8).starts_with("texts in 20 bands, "), "{}", way(0.8));
        assert_ne!(way(0.8), way(0.9));
        assert!(way(1.0).starts_with("texts in 0 bands, "));
        assert_eq!(sketch("one two three").bands.len(), 20);
    }
}
