//! Checkpoints of all supported layouts, and broken ones.

mod layouts;
mod refusals;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::blip::generate::GenerationOptions;
use capfilt_udfs::blip::{Checkpoint, Embedding, GenerateRequest, Med, OrtMed, Precision, inspect};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::common::model;

/// A checkpoint's tensors as f32, to be modified and saved again.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(name: &str) -> Tensors {
    let bytes = std::fs::read(Path::new(&model(name)).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), floats(view.data())))).collect()
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn save(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors.iter().map(|(n, (_, v))| (n, encode(v, dtype))).collect();
    let views = tensors.iter().map(|(n, (shape, _))| (n, TensorView::new(dtype, shape.clone(), &bytes[n]).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A folder with the JSON files of `name`, its config changed by `change`, and no weights.
fn folder(name: &str, change: impl Fn(&mut serde_json::Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    dir
}

fn written(name: &str, tensors: &Tensors, dtype: Dtype) -> TempDir {
    let dir = folder(name, |_| ());
    save(&dir.path().join("model.safetensors"), tensors, dtype);
    dir
}

fn open(dir: &Path) -> OrtMed {
    OrtMed::new(Arc::new(Checkpoint::open(dir).unwrap()), "cpu", Precision::Fp32, 0).unwrap()
}

fn failure(dir: &Path) -> String {
    Checkpoint::open(dir).unwrap_err().to_string()
}

/// Embeddings of two arbitrary images.
fn images(med: &OrtMed) -> Vec<Embedding> {
    let pixels = (0..2 * 3 * 64 * 64).map(|i| ((i % 97) as f32 / 48.0) - 1.0 + (i / 12288) as f32 * 0.3).collect();
    med.encode_pixels(2, pixels).unwrap()
}

fn logits(med: &OrtMed) -> Vec<f32> {
    let images = images(med);
    med.first_logits(&images.iter().collect::<Vec<_>>(), &med.tokenizer().caption_prompt("red apple")).unwrap().concat()
}

fn itm(med: &OrtMed) -> Vec<f32> {
    let images = images(med);
    let ids = med.tokenizer().match_ids("red apple", 35, Default::default());
    let texts = vec![vec![&*ids]; images.len()];
    med.match_logits(&images.iter().collect::<Vec<_>>(), &texts).unwrap().concat().concat()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn f32_and_bf16_and_shards_give_what_f16_gives() {
    let tensors = read("captioner");
    let expected = logits(&open(Path::new(&model("captioner"))));
    let f32s = written("captioner", &tensors, Dtype::F32);
    assert_eq!(logits(&open(f32s.path())), expected);
    let bf16s = written("captioner", &tensors, Dtype::BF16);
    let difference = worst(&logits(&open(bf16s.path())), &expected);
    assert!(difference > 0.0 && difference < 0.5, "{difference}");

    let shards = folder("captioner", |_| ());
    let (mut a, mut b) = (tensors.clone(), tensors.clone());
    a.retain(|n, _| n.starts_with("vision"));
    b.retain(|n, _| !n.starts_with("vision"));
    save(&shards.path().join("model-00001-of-00002.safetensors"), &a, Dtype::F32);
    save(&shards.path().join("model-00002-of-00002.safetensors"), &b, Dtype::F32);
    let map: BTreeMap<&String, String> = tensors
        .keys()
        .map(|n| (n, format!("model-0000{}-of-00002.safetensors", if n.starts_with("vision") { 1 } else { 2 })))
        .collect();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(shards.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(logits(&open(shards.path())), expected);
    std::fs::remove_file(shards.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(failure(shards.path()).contains("model-00002-of-00002.safetensors"));
}

#[test]
fn an_untied_head_is_used_and_a_tied_one_may_be_stored_twice() {
    let mut tensors = read("captioner");
    let words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"].clone();
    tensors.insert("text_decoder.cls.predictions.decoder.weight".into(), words.clone());
    let twice = written("captioner", &tensors, Dtype::F32);
    assert_eq!(logits(&open(twice.path())), logits(&open(Path::new(&model("captioner")))));

    let halved = (words.0, words.1.iter().map(|w| w / 2.0).collect());
    tensors.insert("text_decoder.cls.predictions.decoder.weight".into(), halved);
    let different = written("captioner", &tensors, Dtype::F32);
    let message = failure(different.path());
    assert!(message.contains("decoder.weight") && message.contains("tied"), "{message}");

    let own = |c: &mut serde_json::Value| {
        c["tie_word_embeddings"] = false.into();
        c["text_config"]["tie_word_embeddings"] = false.into();
    };
    let with = |change: &dyn Fn(&mut serde_json::Value), tensors: &Tensors| {
        let dir = folder("captioner", change);
        save(&dir.path().join("model.safetensors"), tensors, Dtype::F32);
        dir
    };
    let untied = with(&own, &tensors);
    let (ours, tied) = (logits(&open(untied.path())), logits(&open(Path::new(&model("captioner")))));
    assert!(worst(&ours, &tied) > 0.1);

    // If config.json and its text_config contradict each other, the stored head decides.
    let halves: [fn(&mut serde_json::Value); 2] =
        [|c| c["tie_word_embeddings"] = false.into(), |c| c["text_config"]["tie_word_embeddings"] = false.into()];
    for half in halves {
        assert_eq!(logits(&open(with(&half, &tensors).path())), ours);
        assert_eq!(logits(&open(with(&half, &read("captioner")).path())), tied);
    }
    assert!(failure(with(&own, &read("captioner")).path()).contains("decoder.weight"));

    // transformers 5 adds the bias of the head's own layer; transformers 4 wrote a single bias.
    let (stored, own_bias) = ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.bias");
    let bias = tensors[stored].clone();
    let shifted = (bias.0, bias.1.iter().enumerate().map(|(i, b)| b + (i % 3) as f32).collect::<Vec<_>>());
    let mut version_4 = tensors.clone();
    version_4.insert(stored.into(), shifted.clone());
    tensors.insert(own_bias.into(), shifted);
    let version_5 = with(&own, &tensors);
    assert_eq!(logits(&open(version_5.path())), logits(&open(with(&own, &version_4).path())));
    assert!(worst(&logits(&open(version_5.path())), &ours) > 0.1);
    assert_eq!(inspect(version_5.path()).unwrap().unknown_tensors, [""; 0]);
    let message = failure(with(&|_| (), &tensors).path());
    assert!(message.contains("tied"), "{message}");
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let name = "vision_model.encoder.layers.2.mlp.fc1.weight";
    let mut tensors = read("captioner");
    let whole = tensors.remove(name).unwrap();
    let message = failure(written("captioner", &tensors, Dtype::F16).path());
    assert!(message.contains(name) && message.contains("missing"), "{message}");
    tensors.insert(name.into(), (vec![128, 512], whole.1));
    let message = failure(written("captioner", &tensors, Dtype::F16).path());
    assert!(message.contains(name) && message.contains("[128, 512]") && message.contains("[512, 128]"), "{message}");
}

#[test]
fn unknown_tensors_are_reported_and_known_extras_are_not() {
    let mut tensors = read("captioner");
    tensors.insert("text_decoder.bert.embeddings.position_ids".into(), (vec![1, 4], vec![0.0; 4]));
    tensors.insert("logit_scale".into(), (vec![], vec![2.0]));
    tensors.insert("text_decoder.bert.strange".into(), (vec![1], vec![0.0]));
    let dir = written("captioner", &tensors, Dtype::F32);
    assert_eq!(inspect(dir.path()).unwrap().unknown_tensors, ["text_decoder.bert.strange"]);
}

#[test]
fn broken_folders_say_what_is_wrong() {
    let file = Path::new(&model("captioner")).join("model.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let dir = folder("captioner", |_| ());
    for cut in [0, 4, 1000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(dir.path().join("model.safetensors"), &bytes[..cut]).unwrap();
        let message = failure(dir.path());
        assert!(
            message.contains("model.safetensors") && (message.contains("cut short") || message.contains("truncated")),
            "{message}"
        );
    }
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(failure(dir.path()).contains("neither model.safetensors"));
    std::fs::write(dir.path().join("pytorch_model.bin"), b"\x80\x02}").unwrap();
    assert!(failure(dir.path()).contains("pickle"));
    assert!(failure(Path::new("/no/such/folder")).contains("no such folder"));
    let empty = tempfile::tempdir().unwrap();
    assert!(failure(empty.path()).contains("config.json"));
    std::fs::write(empty.path().join("config.json"), "{ not json").unwrap();
    assert!(failure(empty.path()).contains("config.json"));

    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 5] = [
        (|c| c["architectures"] = serde_json::json!(["BertModel"]), "BertModel"),
        (|c| c["vision_config"]["patch_size"] = 7.into(), "patch_size"),
        (|c| c["text_config"]["num_attention_heads"] = 7.into(), "num_attention_heads"),
        (|c| c["vision_config"]["hidden_act"] = "relu".into(), "hidden_act"),
        (|c| c["text_config"]["vocab_size"] = 30000.into(), "vocab_size"),
    ];
    for (change, word) in changes {
        let dir = folder("captioner", change);
        std::fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
        let message = failure(dir.path());
        assert!(message.contains(word), "{message}");
    }
}

/// The whole MED in one folder: the matcher's encoder, and only those decoder tensors that satisfy `own`.
fn med(own: impl Fn(&str) -> bool) -> Tensors {
    let mut tensors = read("matcher");
    tensors.extend(read("captioner").into_iter().filter(|(n, _)| n.starts_with("text_decoder.") && own(n)));
    tensors
}

#[test]
fn the_whole_med_captions_and_matches_from_one_folder() {
    let architecture = |c: &mut serde_json::Value| c["architectures"] = serde_json::json!(["CapFiltMed"]);
    // With BLIP's sharing, the decoder has its own self-attention and head, and shares all other weights with the
    // encoder.
    let shared = med(|n| n.contains(".attention.") || n.contains(".cls."));
    let dir = folder("matcher", architecture);
    save(&dir.path().join("model.safetensors"), &shared, Dtype::F32);
    let parts = inspect(dir.path()).unwrap().parts;
    assert!(parts.captioner && parts.matcher && parts.contrastive);
    let whole = open(dir.path());
    let matcher = open(Path::new(&model("matcher")));
    assert!(worst(&itm(&whole), &itm(&matcher)) < 1e-6);

    // The same decoder, stored in full as a separate captioner.
    let mut alone: Tensors =
        shared.iter().filter(|(n, _)| n.starts_with("vision_model.")).map(|(n, t)| (n.clone(), t.clone())).collect();
    for (name, tensor) in &shared {
        if let Some(rest) = name.strip_prefix("text_encoder.") {
            alone.insert(format!("text_decoder.bert.{rest}"), tensor.clone());
        }
    }
    alone.extend(shared.iter().filter(|(n, _)| n.starts_with("text_decoder.")).map(|(n, t)| (n.clone(), t.clone())));
    let captioner = written("captioner", &alone, Dtype::F32);
    assert_eq!(logits(&whole), logits(&open(captioner.path())));

    // Nothing shared: the captioner's own decoder, on the matcher's image tokens.
    let apart = folder("matcher", architecture);
    save(&apart.path().join("model.safetensors"), &med(|_| true), Dtype::F32);
    assert!(worst(&logits(&open(apart.path())), &logits(&whole)) > 0.1);
}

#[test]
fn captions_cannot_outgrow_the_positions() {
    let med = open(Path::new(&model("captioner")));
    let images = images(&med);
    let options = GenerationOptions { min_length: 500, max_length: 500, ..Default::default() };
    let request = GenerateRequest { prompt: med.tokenizer().caption_prompt(""), key: [0; 32] };
    let requests = vec![vec![request]; images.len()];
    let captions = med.generate(&images.iter().collect::<Vec<_>>(), &requests, &options, &|| false).unwrap();
    assert!(captions.iter().all(|c| c[0].len() == 63), "{captions:?}");
}
