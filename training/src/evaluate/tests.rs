use std::path::Path;

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::image::Limits;

use super::*;
use crate::data::Table;
use crate::settings::TableSettings;
use crate::tests::root;

fn items(most: usize, query: &str) -> Items {
    let path = root().join("tests/fixtures/web.parquet");
    let table = Table::open(&TableSettings { path, version: None, query: query.into(), weight: 0.0 }).unwrap();
    Items::read(&table, most, &Limits::default()).unwrap()
}

fn model(name: &str) -> Evaluated {
    Evaluated::open(&root().join("tests/fixtures/models").join(name), "cpu", 1, 35, false).unwrap()
}

/// The example models score far above chance on the example table, in all three evaluations.
#[test]
fn the_example_models_are_scored() {
    let some = "SELECT image, text FROM pairs WHERE text_is_true LIMIT 40";
    let true_pairs = items(30, some);
    assert_eq!((true_pairs.images(), true_pairs.texts() >= 30), (30, true));
    let found = retrieval(&model("matcher"), &true_pairs, 8).unwrap();
    assert!(found.itc_text.r10 >= found.itc_text.r5 && found.itc_text.r5 >= found.itc_text.r1);
    assert!(found.itm_text.r5 > 0.5 && found.itm_image.r5 > 0.5, "chance is 1 in 6: {found:?}");

    let all = "SELECT image, text, CAST(text_is_true AS DOUBLE) AS weight FROM pairs LIMIT 80";
    let judged = filter(&model("matcher"), &items(usize::MAX, all), 0.5).unwrap();
    assert!(judged.pairs > 60 && judged.true_pairs > 0 && judged.true_pairs < judged.pairs, "{judged:?}");
    assert!(judged.balanced_accuracy > 0.6 && judged.average_precision > 0.5, "{judged:?}");

    let (scores, made) = captions(&model("captioner"), &true_pairs, &GenerationOptions::default(), "").unwrap();
    assert_eq!((scores.images, made.len()), (30, 30));
    assert!(made.iter().all(|one| !one.references.is_empty()));
    assert!(made.iter().filter(|one| !one.caption.is_empty()).count() > 25);
    assert!(scores.bleu[0] > 0.0 && scores.bleu[0] < 1.0 && scores.rouge_l > 0.0, "{scores:?}");
    let error = Evaluated::open(Path::new("nowhere"), "cpu", 1, 35, false).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}
