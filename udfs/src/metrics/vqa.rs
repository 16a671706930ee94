//! VQA accuracy: Antol et al., "VQA: Visual Question Answering" (2015), section 3.3, as computed by the evaluation script of
//! GT-Vision-Lab/VQA at a013f00, quirks included.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;

/// Version of the official script, which decides how answers are normalised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum VqaScript {
    /// Since a013f00 (2021): both sides are normalised alike, unless all given answers are equal; then they are compared as
    /// they are.
    #[default]
    Official,
    /// The one before, which LAVIS and most copies have: the answer is always normalised, the given answers only lose their
    /// punctuation.
    Lavis,
}

impl VqaScript {
    /// Names that [`FromStr`] takes.
    pub(crate) const NAMES: &'static [&'static str] = &["official", "lavis"];
}

impl FromStr for VqaScript {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "official" => Ok(Self::Official),
            "lavis" => Ok(Self::Lavis),
            _ => Err(()),
        }
    }
}

/// Accuracy of an answer given those of people, from 0 to 1: over all sets that leave one of them out, the mean of a third
/// for each equal answer, at most 1. None without given answers.
pub fn vqa_accuracy(answer: &str, given: &[impl AsRef<str>], script: VqaScript) -> Option<f64> {
    let given: Vec<&str> = given.iter().map(AsRef::as_ref).collect();
    let differ = |given: &[String]| given.iter().collect::<HashSet<_>>().len() > 1;
    let (answer, given) = match script {
        VqaScript::Official => {
            let (answer, given) = (on_one_line(answer), given.iter().map(|g| on_one_line(g)).collect::<Vec<_>>());
            if differ(&given) {
                let normal = |text: &String| without_articles(&without_punctuation(text));
                (normal(&answer), given.iter().map(normal).collect())
            } else {
                (answer, given)
            }
        }
        VqaScript::Lavis => {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            let answer = without_articles(&without_punctuation(&on_one_line(answer)));
            let differ = differ(&given);
            (answer, if differ { given.iter().map(|g| without_punctuation(g)).collect() } else { given })
        }
    };
    if given.is_empty() {
        return None;
    }
    let equal = given.iter().filter(|given| **given == answer).count();
    let share = |others: usize| (others as f64 / 3.0).min(1.0);
    let sum: f64 = given.iter().map(|given| share(equal - usize::from(*given == answer))).sum();
    Some(sum / given.len() as f64)
}

/// Whether Python's `str.split` and `str.strip` take this for white space; U+001C to U+001F are none in Rust.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\t'], " ").trim_matches(is_blank).into()
}

const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";

/// Most full stops that are removed: the script passes a flag of its regular expression where the count belongs.
const MOST_STOPS: usize = 32;

/// The script's `processPunctuation`. A digit is ASCII's; Python's `\d` takes those of other scripts too.
fn without_punctuation(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let has_comma = (1..bytes.len()).any(|at| bytes[at] == b',' && digit(at - 1) && digit(at + 1));
    let mut out = text.to_owned();
    for mark in PUNCTUATION.chars() {
        let at_blank = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        out = out.replace(mark, if at_blank || has_comma { "" } else { " " });
    }
    let mut stops = 0;
    let mut kept = String::with_capacity(out.len());
    let mut rest = out.chars().peekable();
    while let Some(c) = rest.next() {
        let is_stop = c == '.' && stops < MOST_STOPS && !rest.peek().is_some_and(char::is_ascii_digit);
        stops += usize::from(is_stop);
        kept.extend((!is_stop).then_some(c));
    }
    kept
}

/// The script's `processDigitArticle`: lower case, numbers to ten as digits, no articles, apostrophes in contractions.
fn without_articles(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(is_blank).filter(|word| !word.is_empty()).map(|word| match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        word => word,
    });
    let words = words.filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.map(|word| CONTRACTIONS.get(word).copied().unwrap_or(word)).collect::<Vec<_>>().join(" ")
}

/// Contractions by what they are written as.
static CONTRACTIONS: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let entries = TABLE.iter().flat_map(|line| line.split(", "));
    let pairs = entries
        .filter_map(|entry| entry.split_once(' '))
        .flat_map(|(contraction, spellings)| spellings.split(' ').map(move |spelling| (spelling, contraction)));
    pairs.collect()
});

/// The script's table: a contraction, then what it replaces. Its capitalised entries are left out, which no lower-case word
/// equals, and those that replace a word by itself.
const TABLE: &[&str] = &[
    "ain't aint, aren't arent, can't cant, could've couldve, couldn't couldnt, couldn't've couldn'tve couldnt've",
    "didn't didnt, doesn't doesnt, don't dont, hadn't hadnt, hadn't've hadnt've hadn'tve, hasn't hasnt, haven't havent",
    "he'd hed, he'd've hed've he'dve, he's hes, how'd howd, how'll howll, how's hows, isn't isnt, it'd itd",
    "it'd've itd've it'dve, it'll itll, ma'am maam, mightn't mightnt, mightn't've mightnt've mightn'tve",
    "might've mightve, mustn't mustnt, must've mustve, needn't neednt, not've notve, o'clock oclock, oughtn't oughtnt",
    "'ow's'at ow's'at 'ows'at 'ow'sat, shan't shant, she'd've shed've she'dve, should've shouldve, shouldn't shouldnt",
    "shouldn't've shouldnt've shouldn'tve, somebodyd somebody'd, somebody'd've somebodyd've somebody'dve",
    "somebody'll somebodyll, somebody's somebodys, someone'd someoned, someone'd've someoned've someone'dve",
    "someone'll someonell, someone's someones, something'd somethingd, something'd've somethingd've something'dve",
    "something'll somethingll, that's thats, there'd thered, there'd've thered've there'dve, there're therere",
    "there's theres, they'd theyd, they'd've theyd've they'dve, they'll theyll, they're theyre, they've theyve, 'twas twas",
    "wasn't wasnt, we'd've wed've we'dve, we've weve, weren't werent, what'll whatll, what're whatre, what's whats",
    "what've whatve, when's whens, where'd whered, where's wheres, where've whereve, who'd whod, who'd've whod've who'dve",
    "who'll wholl, who's whos, who've whove, why'll whyll, why're whyre, why's whys, won't wont, would've wouldve",
    "wouldn't wouldnt, wouldn't've wouldnt've wouldn'tve, y'all yall, y'all'll yall'll y'allll",
    "y'all'd've yall'd've y'alld've y'all'dve, you'd youd, you'd've youd've you'dve, you'll youll, you're youre",
    "you've youve",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::golden::{list, number, tasks, text};

    #[test]
    fn equals_both_scripts() {
        let golden = tasks();
        let cases = golden["vqa"]["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 41);
        for (script, key, overall) in
            [(VqaScript::Official, "accuracy", "overall"), (VqaScript::Lavis, "accuracy_in_lavis", "overall_in_lavis")]
        {
            let mut sum = 0.0;
            for case in cases {
                let (answer, given) = (text(&case["answer"]), list(&case["answers"], text));
                let accuracy = vqa_accuracy(&answer, &given, script).unwrap();
                let expected = number(&case[key]);
                assert!(
                    (accuracy - expected).abs() <= 1e-12,
                    "{script:?} {answer:?} {given:?}: {accuracy}, {expected}"
                );
                sum += accuracy;
            }
            let mean = sum / cases.len() as f64;
            assert!((mean - number(&golden["vqa"][overall])).abs() <= 1e-12, "{script:?}: {mean}");
        }
    }

    #[test]
    fn quirks() {
        assert_eq!(without_punctuation("a.b 2.5 c."), "ab 2.5 c");
        assert_eq!(without_punctuation(&".".repeat(40)), ".".repeat(8));
        assert_eq!(without_punctuation("red,white"), "red white");
        assert_eq!(without_punctuation("1,000/2"), "10002");
        assert_eq!(without_punctuation("what ?no?"), "what no");
        assert_eq!(without_articles("The two  DONT\x1cknow an Im"), "2 don't know im");
        assert_eq!(without_articles("somebody'd"), "somebodyd");
        assert_eq!(CONTRACTIONS.len(), 114);
        assert_eq!(vqa_accuracy("cat", &[""; 0], VqaScript::Official), None);
        assert!(VqaScript::NAMES.iter().all(|name| name.parse::<VqaScript>().is_ok()));
    }
}
