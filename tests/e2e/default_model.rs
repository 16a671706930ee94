//! The project's own models, on pictures not seen in training.

use super::{Place, root};

#[test]
fn verdicts_on_web_texts_are_mostly_right() {
    let place = Place::new();
    let [table, captioner, filter] =
        ["examples/web.parquet", "examples/models/captioner", "examples/models/filter"].map(root);
    let models = ["--captioner", &captioner, "--filter", &filter, "--min-itm", "0.1", "--prompt", "a picture of "];
    place.ok(&[&["run", &table, "pairs", "--write-images", "none"][..], &models].concat());
    let right = "SELECT (avg(CAST(kept AS INT)) FILTER (WHERE text_is_true) \
                 + avg(CAST(NOT kept AS INT)) FILTER (WHERE NOT text_is_true)) / 2 AS balanced_accuracy \
                 FROM t WHERE source = 'web' AND error IS NULL";
    let rows = place.rows("pairs", right);
    let accuracy = rows[0]["balanced_accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.90, "{accuracy}");
    // A captioner that always gives the same text would have few distinct captions.
    let captions = "SELECT count(DISTINCT text) FROM t WHERE source = 'synthetic' AND text NOT LIKE '%picture of%'";
    assert!(place.number("pairs", captions) > 500);
}
