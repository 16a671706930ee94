//! Tests of the command as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_capfilt-train")).args(args).output().unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn config_tells_every_setting() {
    let page = printed(&["config", "--preset", "tiny", "--set", "train.steps=7"]);
    for line in ["steps = 7", "hard_negatives = true", "[data]"] {
        assert!(page.contains(line), "{line}:\n{page}");
    }
}

#[test]
fn what_is_no_setting_is_named() {
    let output = run(&["config", "--set", "train.stepps=7"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stepps"), "{said}");
}

#[test]
fn a_checkpoint_is_evaluated_and_exported_with_its_scores() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let world = place("world");
    printed(&["world", "--out", &world, "--human=1", "--things=1", "--validation=1", "--web=20", "--test=4"]);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/matcher");
    let model = place("model");
    std::fs::create_dir(&model).unwrap();
    for file in fixture.read_dir().unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), Path::new(&model).join(file.file_name())).unwrap();
    }
    std::fs::write(Path::new(&model).join("README.md"), "# A matcher\n").unwrap();
    let (test, web) = (format!("{world}/test.parquet"), format!("{world}/web.parquet"));
    let said = printed(&["evaluate", &model, "--retrieval", &test, "--filter", &web, "--rerank=3", "--card"]);
    let scores: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(scores["filter"]["truth"], "text_is_true");
    assert_eq!((&scores["retrieval"]["images"], &scores["retrieval"]["reranked"]), (&4.into(), &3.into()), "{said}");
    for (kind, table) in [("retrieval", &test), ("filter", &web)] {
        let (path, digest) = scores[kind]["table"].as_str().unwrap().split_once(", sha256 ").unwrap();
        assert!(path == table && digest.len() == 64, "{said}");
    }
    // The model card is carried over to exports of the checkpoint.
    let exported = place("exported");
    assert_eq!(printed(&["export", &model, &exported, "--what=matcher"]).trim_end(), exported);
    let card = std::fs::read_to_string(Path::new(&exported).join("README.md")).unwrap();
    for words in ["# A matcher", "## Scores", "## Exported", &format!("\"table\": \"{web}, sha256 ")] {
        assert!(card.contains(words), "{words}:\n{card}");
    }
    let refused = run(&["export", &exported, &place("captioner"), "--what=captioner"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("it is not a captioner"), "{said}");
}

/// An answerer is trained on questions of the world, exported in another number type, and is no MED.
#[test]
fn questions_are_trained_on_and_the_answerer_exported() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (world, run_in) = (place("world"), place("run"));
    printed(&["world", "--out", &world, "--human=4", "--things=1", "--validation=1", "--web=1", "--test=1"]);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    let answerer = fixtures.join("answerer").to_str().unwrap().to_owned();
    let data = format!("{world}/human-questions.parquet");
    let sizes = "model.image_size=0 data.batch=4 data.accumulate=1 train.steps=2 device=cpu";
    let mut args = vec!["finetune-vqa", "--start", &answerer, "--data", &data, "--out", &run_in];
    sizes.split(' ').for_each(|change| args.extend(["--set", change]));
    let made = printed(&args);
    let exported = place("exported");
    printed(&["export", made.trim_end(), &exported, "--what=answerer", "--kind=float16"]);
    let card = std::fs::read_to_string(Path::new(&exported).join("README.md")).unwrap();
    for words in ["# BlipForQuestionAnswering", "2 steps, 8 questions", "## Exported"] {
        assert!(card.contains(words), "{words}:\n{card}");
    }
    let bytes = |folder: &str| std::fs::metadata(Path::new(folder).join("model.safetensors")).unwrap().len();
    assert!(bytes(&exported) * 100 < bytes(made.trim_end()) * 55);
    let matcher = fixtures.join("matcher").to_str().unwrap().to_owned();
    for (from, what, words) in [(&exported, "med", "it is not a med"), (&matcher, "answerer", "it is not an answerer")]
    {
        let refused = run(&["export", from, &place("refused"), &format!("--what={what}")]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(words), "{said}");
    }
}
