//! Converts pickled checkpoints written by real torch, and compares them with transformers' results
//! (fixtures/pickles.py).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capfilt_udfs::blip::generate::{GenerationOptions, Strategy};
use capfilt_udfs::blip::{
    BlipConfig, Checkpoint, Converted, Embedding, GenerateRequest, Med, OrtMed, Precision, convert,
};
use capfilt_udfs::text::{ItmToken, Tokenizer};
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::fixture;

fn pickles(name: &str) -> PathBuf {
    fixture("pickles").join(name)
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(pickles("expected.json")).unwrap()).unwrap()
}

/// A folder like pickles/hf with the given weight files.
fn folder(weights: &[(&str, &Path)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "preprocessor_config.json", "vocab.txt"] {
        std::fs::copy(pickles("hf").join(name), dir.path().join(name)).unwrap();
    }
    for (name, from) in weights {
        std::fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

fn converted(source: &Path, out: &Path, tokenizer: Option<&Path>) -> Converted {
    convert(source, out, tokenizer, &|_, _| ()).unwrap()
}

fn failure(source: &Path, out: &Path, tokenizer: Option<&Path>) -> String {
    let message = convert(source, out, tokenizer, &|_, _| ()).unwrap_err().to_string();
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    assert!(!Path::new(&part).exists(), "{message}");
    message
}

/// Type, shape and SHA-256 of each tensor.
fn tensors(dir: &Path) -> BTreeMap<String, Value> {
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let describe = |view: &safetensors::tensor::TensorView<'_>| {
        let dtype = match view.dtype() {
            safetensors::Dtype::F16 => "float16",
            safetensors::Dtype::F32 => "float32",
            _ => "other",
        };
        serde_json::json!([dtype, view.shape(), hex::encode(Sha256::digest(view.data()))])
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), describe(view))).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn close(ours: &[f32], theirs: &Value) {
    let theirs = floats(theirs);
    assert_eq!(ours.len(), theirs.len());
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "{worst}");
}

fn open(dir: &Path) -> OrtMed {
    OrtMed::new(Arc::new(Checkpoint::open(dir).unwrap()), "cpu", Precision::Fp32, 0).unwrap()
}

fn images(med: &OrtMed) -> Vec<Embedding> {
    const PIXELS: usize = 3 * 16 * 16;
    let pixels = (0..2 * PIXELS).map(|i| ((i % 97) as f32 / 48.0) - 1.0 + (i / PIXELS) as f32 * 0.3).collect();
    med.encode_pixels(2, pixels).unwrap()
}

/// Asserts that the folder holds transformers' tensors byte for byte and makes the same captions.
fn same(dir: &Path, expected: &Value) {
    let ours: Value = tensors(dir).into_iter().collect::<serde_json::Map<_, _>>().into();
    assert_eq!(ours, expected["tensors"]);
    let med = open(dir);
    let images = images(&med);
    let images: Vec<&Embedding> = images.iter().collect();
    let logits = med.first_logits(&images, &med.tokenizer().caption_prompt("red apple")).unwrap();
    close(&logits.concat(), &expected["logits"]);
    let request = || vec![GenerateRequest { prompt: med.tokenizer().caption_prompt(""), key: [0; 32] }];
    let options = GenerationOptions { strategy: Strategy::Greedy, max_length: 10, ..Default::default() };
    let captions = med.generate(&images, &[request(), request()], &options, &|| false).unwrap();
    assert_eq!(serde_json::to_value(captions.concat()).unwrap(), expected["captions"]);
}

#[test]
fn folders_of_pickles_become_what_transformers_loads() {
    let expected = expected();
    let out = tempfile::tempdir().unwrap();
    let shards =
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"];
    let shards = shards.map(|name| (name, pickles("shards").join(name)));
    let sources = [
        folder(&[("pytorch_model.bin", &pickles("hf/pytorch_model.bin"))]),
        folder(&[("pytorch_model.bin", &pickles("legacy.bin"))]),
        folder(&shards.each_ref().map(|(name, path)| (*name, path.as_path()))),
    ];
    for (i, source) in sources.iter().enumerate() {
        let dir = out.path().join(i.to_string());
        let done = converted(source.path(), &dir, None);
        // The head's matrix and bias, and position_ids.
        assert_eq!((done.tied, done.left_out), (2, 1));
        same(&dir, &expected["hf"]);
        let config = BlipConfig::read(&dir).unwrap();
        let tokenizer = Tokenizer::read(&dir.join("tokenizer.json"), &config.text).unwrap();
        for pair in expected["tokens"].as_array().unwrap() {
            let ids = tokenizer.itc_ids(pair[0].as_str().unwrap(), 35);
            assert_eq!(serde_json::to_value(&ids[..]).unwrap(), pair[1]);
        }
    }
    std::fs::remove_file(sources[2].path().join("pytorch_model-00002-of-00002.bin")).unwrap();
    assert!(failure(sources[2].path(), &out.path().join("none"), None).contains("pytorch_model-00002-of-00002.bin"));
}

#[test]
fn blips_own_files_become_what_transformers_loads() {
    let expected = expected();
    let out = tempfile::tempdir().unwrap();
    let vocabulary = pickles("hf/vocab.txt");
    let captioner = out.path().join("captioner");
    converted(&pickles("captioner.pth"), &captioner, Some(&vocabulary));
    same(&captioner, &expected["captioner"]);

    // A converted folder can supply the tokenizer of the next. The MED's decoder keeps its own self-attention and head.
    let dir = out.path().join("deep/med");
    converted(&pickles("med.pth"), &dir, Some(&captioner));
    same(&dir, &expected["med"]);
    let med = open(&dir);
    let ids = med.tokenizer().match_ids("red apple", 35, ItmToken::Enc);
    let images = images(&med);
    let logits = med.match_logits(&images.iter().collect::<Vec<_>>(), &[vec![&*ids], vec![&*ids]]).unwrap();
    close(&logits.concat().concat(), &expected["med"]["itm"]);
    let config = BlipConfig::read(&dir).unwrap();
    assert_eq!(
        (config.vision.image_size, config.vision.patch_size, config.vision.heads, config.text.heads),
        (16, 8, 1, 1)
    );
    assert_eq!((config.projection, config.architecture.as_str(), config.text.bos_token_id), (8, "CapFiltMed", 17));
}

#[test]
fn a_pickle_that_would_run_something_is_refused_and_leaves_nothing() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("out");
    let message = failure(&pickles("evil.pth"), &dir, Some(&pickles("hf/vocab.txt")));
    assert!(message.contains("posix.system") && message.contains("evil.pth"), "{message}");
    assert!(!dir.exists() && !Path::new("owned").exists() && !out.path().join("owned").exists());
    let source = folder(&[("pytorch_model.bin", &pickles("evil.pth"))]);
    assert!(failure(source.path(), &dir, None).contains("posix.system"));
    assert!(std::fs::read_dir(out.path()).unwrap().next().is_none());
}

#[test]
fn files_that_are_not_whole_or_of_another_kind_are_named() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("out");
    let vocabulary = pickles("hf/vocab.txt");
    let file = out.path().join("model.pth");
    for name in ["med.pth", "captioner.pth"] {
        let whole = std::fs::read(pickles(name)).unwrap();
        for cut in [0, 10, 1000, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let message = failure(&file, &dir, Some(&vocabulary));
            assert!(message.contains("model.pth") && message.contains("etch"), "{name} {cut}: {message}");
        }
    }
    // 16-bit integers instead of halves.
    let whole = std::fs::read(pickles("captioner.pth")).unwrap();
    let (half, short) = (b"HalfStorage\n", b"ShortStorage\n");
    let at = whole.windows(half.len()).position(|bytes| bytes == half).unwrap();
    std::fs::write(&file, [&whole[..at], short, &whole[at + half.len()..]].concat()).unwrap();
    let message = failure(&file, &dir, Some(&vocabulary));
    assert!(message.contains("of type I16") && message.contains("tensor "), "{message}");

    assert!(failure(&pickles("captioner.pth"), &dir, None).contains("--tokenizer"));
    let other = fixture("models/captioner/tokenizer.json");
    let message = failure(&pickles("captioner.pth"), &dir, Some(&other));
    assert!(message.contains("19 tokens") && message.contains("30524"), "{message}");
    assert!(failure(&pickles("hf/pytorch_model.bin"), &dir, Some(&vocabulary)).contains("give the folder"));
    assert!(failure(&fixture("models/captioner"), &dir, None).contains("safetensors already"));
    assert!(failure(&pickles("missing.pth"), &dir, Some(&vocabulary)).contains("missing.pth"));
    let empty = folder(&[]);
    assert!(failure(empty.path(), &dir, None).contains("neither pytorch_model.bin"));
    let weights = std::fs::read(pickles("hf/pytorch_model.bin")).unwrap();
    std::fs::write(empty.path().join("pytorch_model.bin"), weights).unwrap();
    std::fs::remove_file(empty.path().join("config.json")).unwrap();
    assert!(
        failure(empty.path(), &dir, None).contains("config.json, which says the model's sizes, is not in the folder")
    );
    assert!(Checkpoint::open(&pickles("med.pth")).unwrap_err().to_string().contains("model convert"));
    assert!(!dir.exists());
}

#[test]
fn what_is_there_is_not_written_over() {
    let out = tempfile::tempdir().unwrap();
    let source = pickles("hf");
    let dir = out.path().join("out");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("notes"), "mine").unwrap();
    assert!(failure(&source, &dir, None).contains("not empty"));
    assert_eq!(std::fs::read_to_string(dir.join("notes")).unwrap(), "mine");
    assert!(failure(&source, &dir.join("notes"), None).contains("notes"));
    std::fs::remove_file(dir.join("notes")).unwrap();
    let part = out.path().join("out.part");
    std::fs::create_dir(&part).unwrap();
    let message = convert(&source, &dir, None, &|_, _| ()).unwrap_err().to_string();
    assert!(message.contains("out.part") && part.is_dir(), "{message}");
    std::fs::remove_dir(&part).unwrap();
    let written = std::cell::RefCell::new(vec![]);
    let done = convert(&source, &dir, None, &|done, all| written.borrow_mut().push((done, all))).unwrap();
    assert_eq!(written.borrow().len(), done.tensors);
    assert_eq!(written.borrow().last(), Some(&(done.bytes, done.bytes)));
    assert!(!part.exists() && dir.join("model.safetensors").is_file());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().mode();
        assert_eq!(mode("model.safetensors"), mode("config.json"));
    }
}
