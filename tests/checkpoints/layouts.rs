//! Folders as written by Salesforce and by various versions of transformers (tests/fixtures/hub).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use capfilt_udfs::blip::{BlipConfig, Checkpoint, Tying, generation_defaults, inspect};
use capfilt_udfs::text::ItmToken;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{failure, folder, logits, open, read, save, worst};
use crate::common::{fixture, model};

fn hub(name: &str) -> String {
    fs::read_to_string(fixture("hub").join(name)).unwrap()
}

/// A copy of a model, with its weights linked instead of copied.
fn linked(name: &str) -> TempDir {
    let dir = folder(name, |_| ());
    let weights = Path::new(&model(name)).join("model.safetensors");
    std::os::unix::fs::symlink(weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

/// The captioner for images of 384 x 384, the size of all of Salesforce's models.
fn of_384() -> TempDir {
    let dir = folder("captioner", |c| c["vision_config"]["image_size"] = 384.into());
    let mut tensors = read("captioner");
    let tokens = 48 * 48 + 1;
    let positions = (vec![1, tokens, 128], vec![0.0; tokens * 128]);
    tensors.insert("vision_model.embeddings.position_embedding".into(), positions);
    save(&dir.path().join("model.safetensors"), &tensors, Dtype::F16);
    dir
}

#[test]
fn salesforces_preprocessing_is_read() {
    let dir = of_384();
    let file = dir.path().join("preprocessor_config.json");
    let mut read = vec![];
    for bytes in [445, 287] {
        let text = hub(&format!("salesforce/preprocessor_config.{bytes}.json"));
        assert_eq!(text.len(), bytes);
        fs::write(&file, text).unwrap();
        read.push(Checkpoint::open(dir.path()).unwrap().preprocessor().clone());
    }
    // transformers' defaults, which include 384.
    fs::write(&file, "{}").unwrap();
    read.push(Checkpoint::open(dir.path()).unwrap().preprocessor().clone());
    assert!(read.iter().all(|p| *p == read[0] && (p.width, p.height) == (384, 384)), "{read:?}");

    let padded = json!({ "do_pad": true, "pad_size": { "height": 416, "width": 416 } });
    fs::write(&file, padded.to_string()).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("preprocessor_config.json") && message.contains("pad_size"), "{message}");
}

#[test]
fn salesforces_config_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = hub("salesforce/config.json");
    fs::write(&path, &text).unwrap();
    let base = BlipConfig::read(dir.path()).unwrap();
    let (v, t) = (&base.vision, &base.text);
    assert_eq!([v.width, v.mlp_width, v.layers, v.heads, v.image_size, v.patch_size], [768, 3072, 12, 12, 384, 16]);
    assert_eq!(
        [t.width, t.encoder_width, t.layers, t.heads, t.vocab_size, t.max_positions],
        [768, 768, 12, 12, 30524, 512]
    );
    assert_eq!((v.layer_norm_eps, t.layer_norm_eps), (1e-5, 1e-12));
    assert_eq!((base.projection, base.tying), (256, Tying::Tied));
    assert_eq!((t.bos_token_id, t.sep_token_id, t.pad_token_id), (30522, 102, 0));

    let change = |change: &dyn Fn(&mut Value)| {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        BlipConfig::read(dir.path())
    };
    // Equivalent configs, as written by older and newer versions and other programs.
    let same: [&dyn Fn(&mut Value); 4] = [
        &|c| {
            c["text_config_dict"] = Value::Null;
            c["vision_config_dict"] = Value::Null;
        },
        &|c| c["dtype"] = c.as_object_mut().unwrap().remove("torch_dtype").unwrap(),
        // transformers replaces it by the width of the vision encoder.
        &|c| c["text_config"]["encoder_hidden_size"] = 1024.into(),
        &|c| {
            c["vision_config"]["image_size"] = 384.0.into();
            c["text_config"]["bos_token_id"] = 30522.0.into();
        },
    ];
    for same in same {
        assert_eq!(change(same).unwrap(), base);
    }
    assert_eq!(change(&|c| c["architectures"] = Value::Null).unwrap().architecture, "");
    let defaults = change(&|c| {
        c["vision_config"] = Value::Null;
        c["text_config"] = Value::Null;
    });
    assert_eq!((defaults.as_ref().unwrap().vision.clone(), defaults.unwrap().text.heads), (base.vision.clone(), 8));
    let old = change(&|c| c["vision_config_dict"] = c.as_object_mut().unwrap().remove("vision_config").unwrap());
    assert_eq!(old.unwrap(), base);
    for (key, value) in [("image_size", json!(384.5)), ("hidden_size", Value::Null), ("patch_size", json!([16, 16]))] {
        let message = change(&|c| c["vision_config"][key] = value.clone()).unwrap_err().to_string();
        assert!(message.contains(&value.to_string()) && message.contains("line"), "{message}");
    }
}

#[test]
fn epsilons_are_the_files() {
    let expected = logits(&open(Path::new(&model("captioner"))));
    for part in ["vision_config", "text_config"] {
        let dir = folder("captioner", |c| c[part]["layer_norm_eps"] = 0.01.into());
        save(&dir.path().join("model.safetensors"), &read("captioner"), Dtype::F16);
        assert!(worst(&logits(&open(dir.path())), &expected) > 1e-3, "{part}");
    }
}

#[test]
fn the_processor_of_transformers_5_is_read_and_digested() {
    let dir = linked("captioner");
    let (own, shared) = (dir.path().join("preprocessor_config.json"), dir.path().join("processor_config.json"));
    let text = hub("transformers-5.24/processor_config.json");
    let plain = Checkpoint::open(dir.path()).unwrap();
    // A file left by an older version has no effect, nor has one with the same values.
    for beside in [r#"{"processor_class": "BlipProcessor"}"#, &text] {
        fs::write(&shared, beside).unwrap();
        let both = Checkpoint::open(dir.path()).unwrap();
        assert_eq!((both.preprocessor(), both.digest().unwrap()), (plain.preprocessor(), plain.digest().unwrap()));
    }
    fs::remove_file(&own).unwrap();
    let alone = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(alone.preprocessor(), plain.preprocessor());
    // The digest covers the files byte for byte.
    let before = alone.digest().unwrap();
    let other = text.replace("0.48145466", "0.5");
    fs::write(&shared, &other).unwrap();
    let changed = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(changed.preprocessor().mean[0], 0.5);
    assert_ne!(changed.digest().unwrap(), before);

    fs::write(&own, hub("transformers-4.57/preprocessor_config.json")).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("differ") && message.contains("processor_config.json"), "{message}");
    fs::remove_file(&own).unwrap();
    fs::write(&shared, r#"{"processor_class": "BlipProcessor"}"#).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("neither preprocessor_config.json") && message.contains("save_pretrained"), "{message}");
}

const TEXTS: [&str; 9] = [
    "a red apple",
    "A Red apple's stem, isn't it?",
    "",
    "naïve café — Ångström, ﬁne",
    "[DEC] [ENC] [SEP] [MASK] [UNK]",
    "猫が好き 东京 кошка ελιά",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "emoji 🍎🐈 and \u{200b}zero\u{a0}width",
    "a\tb\nc  ... !!! (x) #1 @me 3.14",
];

fn ids(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let tokenizer = checkpoint.tokenizer();
    let of = |text| {
        [
            tokenizer.caption_prompt(text),
            tokenizer.match_ids(text, 35, ItmToken::Enc),
            tokenizer.match_ids(text, 35, ItmToken::Cls),
            tokenizer.itc_ids(text, 12),
        ]
    };
    TEXTS.iter().flat_map(|text| of(text)).map(|ids| ids.to_vec()).collect()
}

/// Tokens of a model's tokenizer.json as vocab.txt.
fn vocabulary(dir: &Path) -> String {
    let json: Value = serde_json::from_str(&fs::read_to_string(dir.join("tokenizer.json")).unwrap()).unwrap();
    let words = json["model"]["vocab"].as_object().unwrap();
    let words: BTreeMap<u64, &String> = words.iter().map(|(word, id)| (id.as_u64().unwrap(), word)).collect();
    assert_eq!(words.len(), 30522);
    words.values().map(|word| format!("{word}\n")).collect()
}

#[test]
fn a_vocabulary_makes_the_tokenizer_of_the_json() {
    for (name, files) in [
        // Plain BERT does not have the tokens [DEC] and [ENC].
        ("captioner", None),
        ("matcher", Some("transformers-4.26")),
        ("matcher", Some("transformers-4.57")),
    ] {
        let dir = linked(name);
        let at = |file: &str| dir.path().join(file);
        let json = Checkpoint::open(dir.path()).unwrap();
        let digest = json.digest().unwrap();
        fs::write(at("vocab.txt"), vocabulary(dir.path())).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().digest().unwrap(), digest);
        fs::remove_file(at("tokenizer.json")).unwrap();
        fs::remove_file(at("tokenizer_config.json")).unwrap();
        for file in ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"] {
            if let Some(version) = files {
                fs::write(at(file), hub(&format!("{version}/{file}"))).unwrap();
            }
        }
        let made = Checkpoint::open(dir.path()).unwrap();
        let expected = ids(&json);
        assert_eq!(ids(&made), expected, "{name} {files:?}");
        for ids in &expected {
            assert_eq!(made.tokenizer().decode(ids), json.tokenizer().decode(ids));
        }
        assert_eq!(made.tokenizer().special_tokens(), json.tokenizer().special_tokens());
        let from_words = made.digest().unwrap();
        assert_ne!(from_words, digest);
        // Tokenizer settings take effect, so they are part of the digest.
        fs::write(at("tokenizer_config.json"), r#"{"do_lower_case": false, "strip_accents": false}"#).unwrap();
        let cased = Checkpoint::open(dir.path()).unwrap();
        assert_ne!(ids(&cased), expected);
        assert_ne!(cased.digest().unwrap(), from_words);
        // Windows line endings.
        fs::write(at("vocab.txt"), fs::read_to_string(at("vocab.txt")).unwrap().replace('\n', "\r\n")).unwrap();
        assert_eq!(ids(&Checkpoint::open(dir.path()).unwrap()), ids(&cased));
        for (file, text, word) in [
            ("tokenizer_config.json", r#"{"tokenizer_class": "RobertaTokenizer"}"#, "RobertaTokenizer"),
            ("tokenizer_config.json", "[]", "tokenizer_config.json"),
            ("vocab.txt", "a\nb\n", "vocab.txt"),
        ] {
            fs::write(at("tokenizer_config.json"), "{}").unwrap();
            fs::write(at(file), text).unwrap();
            let message = failure(dir.path());
            assert!(message.contains(word), "{message}");
        }
        fs::remove_file(at("vocab.txt")).unwrap();
        let message = failure(dir.path());
        assert!(message.contains("neither tokenizer.json nor vocab.txt"), "{message}");
    }
}

#[test]
fn added_tokens_keep_their_ids() {
    let dir = linked("matcher");
    let at = |file: &str| dir.path().join(file);
    fs::write(at("vocab.txt"), vocabulary(dir.path())).unwrap();
    fs::remove_file(at("tokenizer.json")).unwrap();
    fs::remove_file(at("tokenizer_config.json")).unwrap();
    // BLIP adds [DEC] first; a file without ids implies this order.
    fs::write(at("special_tokens_map.json"), hub("transformers-4.26/special_tokens_map.json")).unwrap();
    let special = Checkpoint::open(dir.path()).unwrap().tokenizer().special_tokens();
    assert_eq!((special["[DEC]"], special["[ENC]"]), (30522, 30523));
    fs::write(at("added_tokens.json"), r#"{"[DEC]": 30523, "[ENC]": 30522}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tokenizer().special_tokens()["[ENC]"], 30522);
    for (added, word) in [(r#"{"[ENC]": 30600}"#, "[ENC]"), (r#"{"[ENC]": "last"}"#, "added_tokens.json")] {
        fs::write(at("added_tokens.json"), added).unwrap();
        let message = failure(dir.path());
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn tokenizers_of_other_versions_are_read() {
    let dir = linked("captioner");
    let path = dir.path().join("tokenizer.json");
    let expected = ids(&Checkpoint::open(dir.path()).unwrap());
    let whole: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let changes: [fn(&mut Value); 3] = [
        // The form before templates.
        |t| t["post_processor"] = json!({ "type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101] }),
        // The form before models had a type.
        |t| drop(t["model"].as_object_mut().unwrap().remove("type")),
        |t| t["truncation"] = json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 }),
    ];
    for change in changes {
        let mut tokenizer = whole.clone();
        change(&mut tokenizer);
        fs::write(&path, tokenizer.to_string()).unwrap();
        assert_eq!(ids(&Checkpoint::open(dir.path()).unwrap()), expected);
    }
    // Without an unknown token, texts of unknown words would come out empty.
    let mut tokenizer = whole.clone();
    tokenizer["model"]["unk_token"] = "[NONE]".into();
    fs::write(&path, tokenizer.to_string()).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("tokenizer.json") && message.contains("UNK"), "{message}");
}

#[test]
fn a_snapshot_of_the_hubs_cache_is_a_checkpoint() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--Salesforce--blip-image-captioning-base");
    let commit = "82a37760796d32b1411fe092ab5d4e227313294b";
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots").join(commit));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (i, entry) in fs::read_dir(model("captioner")).unwrap().enumerate() {
        let path = entry.unwrap().path();
        let blob = format!("blob{i}");
        fs::copy(&path, blobs.join(&blob)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&blob), snapshot.join(path.file_name().unwrap()))
            .unwrap();
    }
    assert!(inspect(&snapshot).unwrap().parts.captioner);

    let other = repository.join("snapshots/0000000000000000000000000000000000000000");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), "{}").unwrap();
    fs::create_dir(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    for place in [cache.path(), &repository, &repository.join("snapshots")] {
        let message = failure(place);
        let (first, second) = (message.find(commit), message.find("/0000"));
        assert!(first.is_some() && second > first && message.contains("snapshot"), "{message}");
    }

    // An interrupted download, and a pruned cache.
    let weights = snapshot.join("model.safetensors");
    let blob = blobs.join(fs::read_link(&weights).unwrap().file_name().unwrap());
    let part = blob.with_extension("incomplete");
    fs::rename(&blob, &part).unwrap();
    let message = failure(&snapshot);
    assert!(message.contains("model.safetensors") && message.contains("cut short"), "{message}");
    fs::remove_file(&weights).unwrap();
    let message = failure(&snapshot);
    assert!(message.contains(".incomplete") && message.contains("again"), "{message}");
    fs::rename(&part, &blob).unwrap();
    fs::rename(&blob, &weights).unwrap();
    for name in ["config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json"] {
        let path = snapshot.join(name);
        let target = fs::read_link(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", &path).unwrap();
        let message = match name {
            "generation_config.json" => generation_defaults(&snapshot).unwrap_err().to_string(),
            _ => failure(&snapshot),
        };
        assert!(message.contains(name) && message.contains("blobs/gone"), "{message}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
    }
    Checkpoint::open(&snapshot).unwrap();
}
