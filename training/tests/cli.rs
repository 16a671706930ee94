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
