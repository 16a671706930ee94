//! Parity with the reference: outputs of Hugging Face transformers on the fixtures (`fixtures/golden.*`,
//! `fixtures/decoding.json`).

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use capfilt_udfs::blip::generate::{Candidates, GenerationOptions, Search, Strategy};
use capfilt_udfs::blip::{Checkpoint, Embedding, GenerateRequest, Med, OrtMed, Precision};
use capfilt_udfs::text::ItmToken;
use safetensors::SafeTensors;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn checkpoint(name: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(&root().join("tests/fixtures/models").join(name)).unwrap())
}

fn med(name: &str) -> OrtMed {
    OrtMed::new(checkpoint(name), "cpu", Precision::Fp32, 0).unwrap()
}

/// The model on the CPU, and as on a GPU, with runs of 8 images.
fn meds(name: &str) -> [OrtMed; 2] {
    [med(name), OrtMed::on_fake_device(checkpoint(name), Precision::Fp32, 8, 0).unwrap()]
}

fn json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(root().join("tests/fixtures").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

static JSON: LazyLock<serde_json::Value> = LazyLock::new(|| json("golden.json"));

static BYTES: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(root().join("tests/fixtures/golden.safetensors")).unwrap());

fn golden(name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(&BYTES).unwrap();
    let data = tensors.tensor(name).unwrap();
    data.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn strings(key: &str) -> Vec<String> {
    JSON[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

/// The largest absolute difference; asserts equal lengths and finite values.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().all(|x| x.is_finite()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Image embeddings of all fixtures, from the reference's own pixels.
fn embeddings(med: &OrtMed) -> Vec<Embedding> {
    med.encode_pixels(strings("images").len(), golden("pixel_values")).unwrap()
}

#[test]
fn image_embeddings_equal_the_references() {
    for med in meds("captioner") {
        let ours = embeddings(&med).iter().flat_map(|image| med.embedding_values(image).unwrap()).collect::<Vec<f32>>();
        let worst = difference(&ours, &golden("captioner.image_embeds"));
        assert!(worst < 1e-3, "{med:?}: {worst}");
    }
}

#[test]
fn decoder_logits_equal_the_references() {
    for med in meds("captioner") {
        let prompt = med.tokenizer().caption_prompt("red apple");
        let images = embeddings(&med);
        let images: Vec<&Embedding> = images.iter().collect();
        let ours: Vec<f32> = med.first_logits(&images, &prompt).unwrap().concat();
        let worst = difference(&ours, &golden("captioner.logits_after_red_apple"));
        assert!(worst < 1e-3, "{worst}");
    }
}

#[test]
fn itm_logits_equal_the_references_with_either_first_token() {
    for med in meds("matcher") {
        let images = embeddings(&med);
        let images: Vec<&Embedding> = images.iter().collect();
        for (token, name) in [(ItmToken::Enc, "enc"), (ItmToken::Cls, "cls")] {
            let ids: Vec<_> = strings("texts").iter().map(|t| med.tokenizer().match_ids(t, 35, token)).collect();
            let texts: Vec<Vec<&[u32]>> = images.iter().map(|_| ids.iter().map(|i| &**i).collect()).collect();
            let logits: Vec<f32> = med.match_logits(&images, &texts).unwrap().concat().concat();
            let worst = difference(&logits, &golden(&format!("matcher.itm_logits_{name}")));
            assert!(worst < 1e-3, "{name}: {worst}");
            let scores = med.match_texts(&images, &texts).unwrap().concat();
            let worst = difference(&scores, &golden(&format!("matcher.itm_score_{name}")));
            assert!(worst < 1e-3, "{name}: {worst}");
        }
    }
}

#[test]
fn itc_embeddings_and_scores_equal_the_references() {
    for med in meds("matcher") {
        let images = embeddings(&med);
        let images = med.project(&images.iter().collect::<Vec<_>>()).unwrap();
        let ids: Vec<_> = strings("texts").iter().map(|t| med.tokenizer().itc_ids(t, 35)).collect();
        let texts = med.encode_texts(&ids.iter().map(|i| &**i).collect::<Vec<_>>()).unwrap();
        let worst =
            difference(&images.iter().flat_map(|v| v.to_vec()).collect::<Vec<_>>(), &golden("matcher.image_embedding"));
        assert!(worst < 1e-3, "images: {worst}");
        let worst =
            difference(&texts.iter().flat_map(|v| v.to_vec()).collect::<Vec<_>>(), &golden("matcher.text_embedding"));
        assert!(worst < 1e-3, "texts: {worst}");
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let scores: Vec<f32> = images.iter().flat_map(|i| texts.iter().map(|t| dot(i, t))).collect();
        let worst = difference(&scores, &golden("matcher.itc_score"));
        assert!(worst < 1e-3, "scores: {worst}");
    }
}

#[test]
fn token_ids_equal_the_references() {
    let ids = &JSON["token_ids"];
    for name in ["captioner", "matcher"] {
        let med = med(name);
        for (text, expected) in strings("texts").iter().zip(ids.as_array().unwrap()) {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(*med.tokenizer().itc_ids(text, 35), expected, "{name}: {text:?}");
        }
    }
}

/// Parses the option names of golden.json's `captions` and decoding.json's `beams`.
fn options(name: &str) -> GenerationOptions {
    let mut options = GenerationOptions::default();
    for word in name.split('_') {
        let number = |prefix: &str| word.strip_prefix(prefix).and_then(|n| n.parse::<f32>().ok());
        if word == "greedy" {
            options.strategy = Strategy::Greedy;
        } else if let Some(n) = number("beam") {
            options.num_beams = n as usize;
        } else if let Some(n) = number("n") {
            options.num_return_sequences = n as usize;
        } else if let Some(n) = number("min") {
            options.min_length = n as usize;
        } else if let Some(n) = number("max") {
            options.max_length = n as usize;
        } else if let Some(n) = number("rep") {
            options.repetition_penalty = n;
        } else if let Some(n) = number("lp") {
            options.length_penalty = n;
        } else if word == "early" {
            options.early_stopping = true;
        } else {
            assert!(["prompt", "a", "picture", "of"].contains(&word), "{name}: what is {word}?");
        }
    }
    options
}

#[test]
fn captions_equal_the_references_in_every_way_of_decoding() {
    for med in meds("captioner") {
        let images = embeddings(&med);
        let images: Vec<&Embedding> = images.iter().collect();
        let names = strings("images");
        let ways = JSON["captions"].as_object().unwrap();
        assert_eq!(ways.len(), 13);
        let mut wrong = vec![];
        for (way, expected) in ways {
            let prompt = if way.contains("prompt") { "a picture of " } else { "" };
            let prompt = med.tokenizer().caption_prompt(prompt);
            let request = GenerateRequest { prompt: Arc::clone(&prompt), key: [0; 32] };
            let requests = vec![vec![request]; images.len()];
            let ours = med.generate(&images, &requests, &options(way), &|| false).unwrap();
            for ((name, ours), expected) in names.iter().zip(ours).zip(expected.as_array().unwrap()) {
                let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
                let generated: Vec<u32> = ids[prompt.len()..].iter().copied().take_while(|&id| id != 102).collect();
                // A batch of one has no padding, but golden's rows are padded to the longest.
                let generated: Vec<u32> = generated.into_iter().take_while(|&id| id != 0).collect();
                let whole: Vec<u32> = prompt.iter().chain(&generated).copied().collect();
                let text = expected["text"].as_str().unwrap();
                if ours[0] != generated || med.tokenizer().decode(&whole) != text {
                    wrong.push(format!("{way}, {name}: {:?} is not {text:?}", med.tokenizer().decode(&ours[0])));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), 13 * names.len());
    }
}

#[test]
fn the_best_beams_equal_the_references() {
    let decoding = json("decoding.json");
    for med in meds("captioner") {
        let all = embeddings(&med);
        let places: Vec<usize> = serde_json::from_value(decoding["images"].clone()).unwrap();
        let images: Vec<&Embedding> = places.iter().map(|&place| &all[place]).collect();
        for (way, expected) in decoding["beams"].as_object().unwrap() {
            let expected: Vec<Vec<Vec<u32>>> = serde_json::from_value(expected.clone()).unwrap();
            let prompt = med.tokenizer().caption_prompt(if way.contains("prompt") { "a picture of " } else { "" });
            let requests = vec![vec![GenerateRequest { prompt, key: [0; 32] }]; images.len()];
            let ours = med.generate(&images, &requests, &options(way), &|| false).unwrap();
            assert!(ours.iter().all(|beams| beams.len() == options(way).num_return_sequences && beams.len() > 1));
            assert_eq!(ours, expected, "{way}");
        }
    }
}

#[test]
fn samples_are_drawn_from_what_the_reference_draws_from() {
    const DRAWS: u32 = 300;
    let (med, decoding) = (med("captioner"), json("decoding.json"));
    let prompt = med.tokenizer().caption_prompt("red apple");
    let (eos, logits) = (102, golden("captioner.logits_after_red_apple"));
    let vocab = logits.len() / strings("images").len();
    for case in decoding["warped"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let options = GenerationOptions {
            strategy: Strategy::Nucleus,
            temperature: number("temperature") as f32,
            top_k: number("top_k") as usize,
            top_p: number("top_p") as f32,
            ..Default::default()
        };
        let (ids, probabilities): (Vec<u32>, Vec<f64>) = serde_json::from_value(case["left"].clone()).unwrap();
        let logits = &logits[number("image") as usize * vocab..][..vocab];
        let mut drawn = vec![0u32; ids.len()];
        for seed in 0..DRAWS {
            let mut key = [1; 32];
            key[..4].copy_from_slice(&seed.to_le_bytes());
            let mut search = Search::new(&options, &prompt, eos, vocab, key);
            assert!(search.advance(&Candidates::rows(logits, vocab)).is_empty());
            // The returned sequence does not include the end token.
            let token = search.into_sequences()[0].first().copied().unwrap_or(eos);
            let place = ids.iter().position(|&id| id == token);
            drawn[place.unwrap_or_else(|| panic!("{token} is left out: {options:?}"))] += 1;
        }
        for (count, probability) in drawn.iter().zip(&probabilities) {
            let (expected, draws) = (probability * f64::from(DRAWS), f64::from(DRAWS));
            let deviation = (draws * probability * (1.0 - probability)).sqrt().max(1.0);
            assert!((f64::from(*count) - expected).abs() < 5.0 * deviation, "{count} of {expected}: {options:?}");
        }
    }
}

#[test]
fn batches_change_nothing() {
    for name in ["captioner", "matcher"] {
        let here = |precision| OrtMed::new(checkpoint(name), "cpu", precision, 0).unwrap();
        let there = OrtMed::on_fake_device(checkpoint(name), Precision::Fp32, 8, 0).unwrap();
        for med in [here(Precision::Fp32), here(Precision::Int8), there] {
            let pixels = golden("pixel_values");
            let each = 3 * 64 * 64;
            let together = embeddings(&med);
            for i in [0, 7, 20] {
                let alone = &med.encode_pixels(1, pixels[i * each..(i + 1) * each].to_vec()).unwrap()[0];
                let [alone, together] = [alone, &together[i]].map(|image| med.embedding_values(image).unwrap());
                assert_eq!(alone, together, "{med:?}: image {i} depends on its neighbours");
            }
        }
    }
}
