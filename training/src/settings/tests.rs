use super::*;

fn read(presets: &[&str], changes: &[&str]) -> Result<Settings> {
    Settings::read(presets, None, &changes.iter().map(|c| c.to_string()).collect::<Vec<_>>())
}

#[test]
fn defaults_and_presets_are_whole() {
    let defaults = read(&[], &[]).unwrap();
    assert_eq!((defaults.train.lr, defaults.loss.queue, defaults.train.decay), (3e-4, 57_600, 0.9));
    for (name, text) in PRESETS {
        let changed = read(&[name], &[]).unwrap();
        assert_ne!(changed, defaults, "{name}");
        assert!(text.starts_with('#'), "{name} does not say what it is");
    }
    assert!(PRESETS.is_sorted());
    let captioner = read(&["finetune-captioner", "tiny"], &[]).unwrap();
    assert_eq!((captioner.loss.itc, captioner.model.image_size, captioner.data.accumulate), (false, 48, 1));
}

/// Batches and rates from the paper, section 4.1, and the released configurations: 2,880 pairs per step with ViT-B,
/// 2,400 with ViT-L, and own rates for each finetuning.
#[test]
fn finetuning_takes_a_presets_sizes_and_not_its_pretraining() {
    let step = |settings: &Settings| settings.data.batch * settings.data.accumulate;
    for (name, pairs, rate) in [("base-14m", 2880, 3e-4), ("base-129m", 2880, 3e-4), ("large", 2400, 2e-4)] {
        let settings = read(&[name], &[]).unwrap();
        assert_eq!((step(&settings), settings.train.lr, settings.train.decay), (pairs, rate, 0.85), "{name}");
        for (command, of_large) in [("finetune-captioner", 2e-6), ("finetune-filter", 5e-6)] {
            let settings = read(&[command, name], &[]).unwrap();
            let rate = if name == "large" { of_large } else { 1e-5 };
            let found = (step(&settings), settings.train.lr, settings.train.epoch_pairs, settings.model.image_size);
            assert_eq!(found, (256, rate, 0, 384), "{command}, {name}");
        }
    }
    assert_eq!(read(&["finetune-filter", "large"], &[]).unwrap().model.drop_path, 0.1);
    // Table 14 and the released configuration.
    for presets in [&["finetune-vqa"][..], &["finetune-vqa", "base-129m"], &["finetune-vqa", "large"]] {
        let settings = read(presets, &[]).unwrap();
        let (m, t) = (&settings.model, &settings.train);
        assert_eq!((step(&settings), t.lr, t.epochs, t.weight_decay), (256, 2e-5, 10.0, 0.05), "{presets:?}");
        assert_eq!((m.image_size, m.drop_path, settings.data.text_tokens), (480, 0.1, 35), "{presets:?}");
        assert!(settings.answers().unwrap() && settings.sharing().unwrap() == Sharing::None);
    }
}

/// Each key has a comment above it, or shares the one above the first key of its group.
#[test]
fn every_key_is_explained() {
    let mut explained = false;
    let mut together = 0;
    for line in DEFAULTS.lines() {
        match line.trim() {
            "" => explained = false,
            section if section.starts_with('[') => explained = false,
            comment if comment.starts_with('#') => (explained, together) = (true, 0),
            key => {
                together += 1;
                assert!(explained && together <= 4, "{key}: no comment says what it means");
            }
        }
    }
}

#[test]
fn the_command_line_has_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, "seed = 5\n[train]\nlr = 1e-2\nsteps = 7\n").unwrap();
    let changes = ["train.lr=0.5", "model.start = a b ", "loss.prompt='a picture of '"].map(String::from);
    let settings = Settings::read(&["tiny"], Some(&path), &changes).unwrap();
    assert_eq!((settings.seed, settings.train.lr, settings.train.steps), (5, 0.5, 7));
    assert_eq!((settings.model.start.as_path(), settings.loss.prompt.as_str()), (Path::new("a b"), "a picture of "));
    assert_eq!(settings.model.vision_layers, 4);
    // The argument as a shell passes it.
    assert_eq!(read(&[], &["loss.prompt=a picture of "]).unwrap().loss.prompt, "a picture of ");
    let tables = read(&[], &["data.tables=[{ path = 'x', weight = 2.0 }]"]).unwrap().data.tables;
    assert_eq!(tables, [TableSettings { path: "x".into(), version: None, query: String::new(), weight: 2.0 }]);
    for version in ["3", "'3'"] {
        let table = format!("data.tables=[{{ path = 'x', version = {version} }}]");
        assert_eq!(read(&[], &[&table]).unwrap().data.tables[0].version.as_deref(), Some("3"));
    }
}

#[test]
fn the_digest_follows_what_changes_a_result() {
    let digest = |changes: &[&str]| read(&["tiny"], changes).unwrap().digest().unwrap();
    assert_eq!(digest(&[]), digest(&["train.checkpoint_steps=3", "data.threads=5"]));
    assert_ne!(digest(&[]), digest(&["train.lr=3e-3"]));
}

#[test]
fn wrong_settings_are_named() {
    let refused = |change: &str, words: &str| {
        let error = read(&[], &[change]).unwrap_err().to_string();
        assert!(error.contains(words), "{change}: {error}");
    };
    refused("train.learning_rate=1", "learning_rate");
    refused("train.lr=fast", "lr");
    refused("train.lr=-1", "train.lr -1");
    refused("train.schedule=linear", "linear");
    refused("data.tables=[{ path = 'x', version = 1.5 }]", "a number or a text");
    refused("data.batch=7", "loss.queue 57600 is not a multiple of data.batch 7");
    refused("data.crop=[0.5, 0.2]", "data.crop");
    refused("model.sharing=some", "all-but-sa");
    refused("export.what=all", "captioner");
    refused("export.what=answerer", "loss.lm alone");
    refused("export.kind=int8", "float16");
    refused("nonsense", "section.key=value");
    assert!(read(&["huge"], &[]).unwrap_err().to_string().contains("base-14m"));
    let missing = Settings::read(&[], Some(Path::new("none.toml")), &[]).unwrap_err().to_string();
    assert!(missing.contains("none.toml"), "{missing}");
    assert!(read(&[], &["device=tpu"]).unwrap().device().unwrap_err().to_string().contains("cuda:N"));
}
