//! Corpora with pycocoevalcap's scores, written by tests/fixtures/metrics.py, and the scores of the scripts of VQA and Visual
//! Dialog.

use serde_json::Value;

const JSON: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/metrics.json"));
/// Answers and rankings with the scores of the official scripts.
const TASKS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/task_metrics.json"));
/// Relative tolerance, so that a score of 0 must be exact.
const TOLERANCE: f64 = 1e-9;

/// A corpus and its scores; scores named `_items` are in the order of the candidates.
pub(super) struct Corpus {
    pub(super) name: String,
    pub(super) candidates: Vec<String>,
    references: Vec<Vec<String>>,
    pub(super) bleu: Vec<f64>,
    pub(super) bleu_items: Vec<Vec<f64>>,
    pub(super) cider: f64,
    pub(super) cider_items: Vec<f64>,
    pub(super) cider_d: f64,
    pub(super) cider_d_items: Vec<f64>,
    pub(super) rouge_l: f64,
    pub(super) rouge_l_items: Vec<f64>,
}

impl Corpus {
    /// Candidates with their references.
    pub(super) fn items(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.candidates.iter().map(String::as_str).zip(self.references.iter().map(Vec::as_slice))
    }
}

/// All corpora; "main" is first.
pub(super) fn corpora() -> Vec<Corpus> {
    let golden: Value = serde_json::from_str(JSON).unwrap();
    list(&golden["corpora"], |c| Corpus {
        name: text(&c["name"]),
        candidates: list(&c["candidates"], text),
        references: list(&c["references"], |r| list(r, text)),
        bleu: list(&c["bleu"], number),
        bleu_items: list(&c["bleu_items"], |s| list(s, number)),
        cider: number(&c["cider"]),
        cider_items: list(&c["cider_items"], number),
        cider_d: number(&c["cider_d"]),
        cider_d_items: list(&c["cider_d_items"], number),
        rouge_l: number(&c["rouge_l"]),
        rouge_l_items: list(&c["rouge_l_items"], number),
    })
}

/// Asserts that the score named `of` has the expected value.
pub(super) fn assert_close(score: f64, expected: f64, of: &str) {
    assert!((score - expected).abs() <= TOLERANCE * expected.abs(), "{of:?}: {score:e} for {expected:e}");
}

/// The fixture of VQA accuracy and NDCG.
pub(super) fn tasks() -> Value {
    serde_json::from_str(TASKS).unwrap()
}

pub(super) fn list<T>(value: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(of).collect()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap().into()
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
