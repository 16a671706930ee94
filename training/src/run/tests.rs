use std::path::Path;

use sha2::Digest as _;

use super::*;
use crate::report::Line;
use crate::world::{Split, World, tables};

/// The pictures' captions as questions with three answers, two of them equal.
const QUESTIONS: &str = "SELECT image, 'a ' || text AS question, ['red', text, 'red'] AS answers FROM pairs";

/// Settings of an answerer, whose three losses are one.
const ANSWERER: &str = "export.what=answerer loss.itc=false loss.itm=false";

/// Settings for a MED of a few thousand parameters on a world of 24 pictures.
fn settings(dir: &Path, changes: &[&str]) -> Settings {
    let (table, tokenizer) = (dir.join("human.parquet"), dir.join("tokenizer.json"));
    if !table.exists() {
        tables::write(&World::new(1, Default::default()), Split::Human, 24, &table).unwrap();
        std::fs::write(&tokenizer, crate::world::tokenizer().to_string()).unwrap();
    }
    let query = if changes.contains(&"export.what=answerer") { QUESTIONS } else { "" };
    let mut all = vec![
        format!("data.tables=[{{ path = {:?}, query = {query:?} }}]", table.display().to_string()),
        format!("model.tokenizer={}", tokenizer.display()),
    ];
    all.extend(
        "device=cpu bfloat16=false threads=1 model.vision_width=16 model.vision_mlp_width=16 model.vision_layers=1 \
         model.text_width=16 model.text_mlp_width=16 model.text_layers=1 model.vision_heads=2 model.text_heads=2 \
         model.dropout=0.1 model.image_size=16 data.batch=6 data.shuffle_buffer=50 data.flip=0.5 data.randaugment=true \
         loss.queue=12 loss.alpha=0.4 loss.momentum=0.9 train.steps=8 train.checkpoint_steps=3 train.log_steps=4 \
         train.warmup_steps=2"
            .split_whitespace()
            .map(String::from),
    );
    all.extend(changes.iter().map(|c| c.to_string()));
    Settings::read(&["tiny"], None, &all).unwrap()
}

fn lines(out: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let read = |line: &str| Line { seconds: 0.0, ..serde_json::from_str(line).unwrap() };
    text.lines().map(read).collect()
}

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join(CHECKPOINT).join("model.safetensors")).unwrap()
}

#[test]
fn a_run_leaves_a_checkpoint_with_its_card() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, out) = (settings(dir.path(), &["export.what=captioner"]), dir.path().join("run"));
    let summary = train(&settings, &out).unwrap();
    assert_eq!((summary.steps, summary.pairs, summary.skipped), (8, 48, 0));
    assert!(summary.itc > 0.0 && summary.itm > 0.0 && summary.lm > 0.0);
    let inspection = capfilt_udfs::inspect(&out.join(CHECKPOINT)).unwrap();
    assert!(inspection.unknown_tensors.is_empty());
    let first = std::fs::read_to_string(out.join(CHECKPOINT).join("README.md")).unwrap();
    for words in
        ["BlipForConditionalGeneration", "human.parquet | 120 | 24 | 100.0 %", "8 steps, 48 pairs", "lr = 0.001"]
    {
        assert!(first.contains(words), "{words}: {first}");
    }
    // The card of a later run lists its initial weights and their sizes.
    let start = format!("model.start={}", out.join(CHECKPOINT).display());
    let next = dir.path().join("next");
    let changes = [&start, "export.what=captioner", "model.vision_width=96", "train.steps=2"];
    train(&self::settings(dir.path(), &changes), &next).unwrap();
    let card = std::fs::read_to_string(next.join(CHECKPOINT).join("README.md")).unwrap();
    let digest = hex::encode(sha2::Sha256::digest(weights(&out)));
    for words in ["2 steps, 12 pairs", "## Began with", "8 steps, 48 pairs", &digest] {
        assert!(card.contains(words), "{words}: {card}");
    }
    let width = |card: &str| card.lines().find(|line| line.starts_with("vision_width")).map(str::to_owned);
    assert_eq!(width(&card), width(&first), "{card}");
    let names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|n| !n.starts_with("state-")) && names.iter().any(|n| n == "curves.svg"), "{names:?}");
    // A finished run is left unchanged; other settings need another folder.
    let before = weights(&out);
    assert_eq!(train(&settings, &out).unwrap(), summary);
    assert_eq!(weights(&out), before);
    let other = self::settings(dir.path(), &["seed=2"]);
    assert!(train(&other, &out).unwrap_err().to_string().contains("give another folder"));
}

/// An answerer begins as a MED, is exported whole, and a later run begins as it.
#[test]
fn an_answerer_is_made_from_a_med_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let med = settings(dir.path(), &["train.steps=2", "model.sharing=all-but-sa"]);
    train(&med, &at("med")).unwrap();
    let from = |run: &str| format!("model.start={}", at(run).join(CHECKPOINT).display());
    let begin = |start: &str, changes: &[&str]| {
        let all: Vec<&str> = ANSWERER.split(' ').chain([start]).chain(changes.iter().copied()).collect();
        settings(dir.path(), &all)
    };
    // Larger images than the MED's, whose positions are interpolated.
    let first = begin(&from("med"), &["model.image_size=24", "train.steps=6"]);
    let began = start(&first).unwrap();
    assert_eq!(began.drawn, [""; 0], "everything is the MED's");
    let tensors = |run: &str| -> std::collections::BTreeMap<String, tch::Tensor> {
        let path = at(run).join(CHECKPOINT).join("model.safetensors");
        tch::Tensor::read_safetensors(path).unwrap().into_iter().collect()
    };
    let of_med = tensors("med");
    for (name, from) in [
        ("text_decoder.bert.encoder.layer.0.attention.self.key.weight", None),
        ("text_encoder.encoder.layer.0.crossattention.self.key.weight", None),
        ("text_decoder.bert.encoder.layer.0.crossattention.self.key.weight", Some("text_encoder.")),
        ("text_decoder.bert.embeddings.word_embeddings.weight", Some("text_encoder.")),
    ] {
        let theirs = from.map_or(name.into(), |from| name.replace("text_decoder.bert.", from));
        assert!(began.trainer.params().get(name).unwrap().equal(&of_med[&theirs]), "{name}");
    }

    let summary = train(&first, &at("answerer")).unwrap();
    assert!((summary.itc, summary.itm, summary.skipped) == (0.0, 0.0, 0) && summary.lm > 0.0, "{summary:?}");
    let inspection = capfilt_udfs::inspect(&at("answerer").join(CHECKPOINT)).unwrap();
    assert!(inspection.unknown_tensors.is_empty() && inspection.parts.answerer, "{inspection:?}");
    assert_eq!((inspection.architecture.as_str(), inspection.image_size), ("BlipForQuestionAnswering", 24));
    let card = std::fs::read_to_string(at("answerer").join(CHECKPOINT).join("README.md")).unwrap();
    let words = ["# BlipForQuestionAnswering", "| questions | images |", "6 steps, 36 questions", "## Began with"];
    for words in words.iter().chain(&["2 steps, 12 pairs"]) {
        assert!(card.contains(words), "{words}: {card}");
    }

    let next = begin(&from("answerer"), &["model.image_size=0", "train.steps=2"]);
    let began = start(&next).unwrap();
    assert_eq!((&began.drawn[..], began.preprocessor.width), (&[][..], 24));
    let exported = tensors("answerer");
    for name in began.trainer.params().names() {
        assert!(began.trainer.params().get(name).unwrap().equal(&exported[name]), "{name}");
    }
    train(&next, &at("next")).unwrap();

    let refused = |settings: &Settings, words: &str| {
        let error = train(settings, &at("refused")).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&settings(dir.path(), &[&from("answerer")]), "only finetune-vqa goes on");
    let pairs = Settings { data: med.data.clone(), ..next };
    refused(&pairs, "no column image, question");
}

/// A vision encoder wider than the text: an answer decoder's keys and values of questions cannot begin as those of images.
#[test]
fn an_answerer_of_a_wide_med_draws_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    train(&settings(dir.path(), &["train.steps=1", "model.vision_width=24"]), &dir.path().join("med")).unwrap();
    let start_at = format!("model.start={}", dir.path().join("med").join(CHECKPOINT).display());
    let all: Vec<&str> = ANSWERER.split(' ').chain([start_at.as_str(), "train.steps=1"]).collect();
    let settings = settings(dir.path(), &all);
    let layer = "text_decoder.bert.encoder.layer.0.crossattention.self.";
    assert_eq!(start(&settings).unwrap().drawn, ["key", "value"].map(|part| format!("{layer}{part}.weight")));
    let out = dir.path().join("answerer");
    train(&settings, &out).unwrap();
    assert!(capfilt_udfs::inspect(&out.join(CHECKPOINT)).unwrap().parts.answerer);
}

/// Settings for a run long enough to be killed.
fn long(dir: &Path, more: &str) -> Settings {
    let changes = "train.steps=120 train.checkpoint_steps=4 train.log_steps=1";
    settings(dir, &changes.split(' ').chain(more.split_whitespace()).collect::<Vec<_>>())
}

/// The process that the next test kills: this test binary with the run's folder in the environment.
#[test]
#[ignore = "another test runs and kills it"]
fn the_run_that_is_killed() {
    let dir = std::env::var_os("CAPFILT_TEST_DIR").unwrap();
    let more = std::env::var("CAPFILT_TEST_SETTINGS").unwrap();
    train(&long(Path::new(&dir), &more), &Path::new(&dir).join("killed")).unwrap();
}

#[test]
fn a_killed_run_goes_on_as_if_undisturbed() {
    let answerer = format!("{ANSWERER} data.accumulate=2 model.drop_path=0.1");
    for more in ["", "data.accumulate=2 loss.by_image=true data.texts=one", &answerer] {
        let dir = tempfile::tempdir().unwrap();
        let (killed, whole) = (dir.path().join("killed"), dir.path().join("whole"));
        let settings = long(dir.path(), more);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::tests::the_run_that_is_killed", "--ignored"])
            .envs([("CAPFILT_TEST_DIR", dir.path().as_os_str()), ("CAPFILT_TEST_SETTINGS", more.as_ref())])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let noted = || std::fs::read_to_string(killed.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        let until = Instant::now() + std::time::Duration::from_secs(120);
        while noted() < 10 && Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // SIGKILL, so that nothing is cleaned up.
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(noted() >= 10 && !killed.join("done.json").exists(), "killed in the middle: {}", noted());
        // Remains of a write interrupted by a kill.
        std::fs::create_dir(killed.join("state-000000099.part")).unwrap();
        let other = self::settings(dir.path(), &["train.steps=120", "train.lr=0.5"]);
        let refused = train(&other, &killed).unwrap_err().to_string();
        assert!(refused.contains("begun with other settings"), "{refused}");
        let table = dir.path().join("human.parquet");
        let rows = std::fs::read(&table).unwrap();
        tables::write(&World::new(2, Default::default()), Split::Human, 24, &table).unwrap();
        let refused = train(&settings, &killed).unwrap_err().to_string();
        assert!(refused.contains("human.parquet") && refused.contains("other than when the run began"), "{refused}");
        std::fs::write(&table, rows).unwrap();
        let lock = File::create(killed.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        assert!(train(&settings, &killed).unwrap_err().to_string().contains("another process"));
        drop(lock);

        train(&settings, &killed).unwrap();
        train(&settings, &whole).unwrap();
        let (resumed, undisturbed) = (lines(&killed), lines(&whole));
        assert_eq!(undisturbed.len(), 120);
        assert_eq!(resumed, undisturbed, "{more}: the same losses, step by step");
        assert_eq!(weights(&killed), weights(&whole), "{more}");
    }
}

#[test]
fn schedules_are_blips() {
    let plan = |changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|c| c.to_string()).collect();
        Plan::new(&Settings::read(&[], None, &changes).unwrap(), 64_000.0)
    };
    let blip = plan(&[]);
    assert_eq!((blip.steps, blip.epoch_steps), (20_000, 1000.0));
    assert_eq!(blip.learning_rate(0), 1e-6);
    assert!((blip.learning_rate(1500) - 1.505e-4).abs() < 1e-9);
    assert!((blip.learning_rate(3000) - 3e-4 * 0.9f64.powi(3)).abs() < 1e-12);
    assert_eq!(blip.learning_rate(4999), blip.learning_rate(4000));
    assert_eq!((blip.alpha(0), blip.alpha(1000), blip.alpha(9000)), (0.0, 0.2, 0.4));
    let cosine = plan(&[
        "train.schedule=cosine",
        "train.each=step",
        "train.warmup_steps=0",
        "train.steps=100",
        "train.min_lr=0",
    ]);
    assert_eq!(cosine.learning_rate(0), 3e-4);
    assert!((cosine.learning_rate(50) - 1.5e-4).abs() < 1e-9 && cosine.learning_rate(99) < 1e-6);
    let epochs = plan(&["train.schedule=cosine", "train.warmup_steps=0", "train.epochs=5", "train.min_lr=0"]);
    assert_eq!((epochs.steps, epochs.learning_rate(999)), (5000, 3e-4));
    assert!(epochs.learning_rate(4999) > 2e-5, "the last epoch is trained at more than nothing");
    // The paper's, of questions.
    let vqa = Plan::new(&Settings::read(&["finetune-vqa"], None, &[]).unwrap(), 256_000.0);
    assert_eq!((vqa.steps, vqa.learning_rate(0), vqa.learning_rate(999)), (10_000, 2e-5, 2e-5));
    assert!((vqa.learning_rate(5000) - 1e-5).abs() < 1e-12 && vqa.learning_rate(9999) > 4e-7);
}
