//! Tests of the answerer against a training step of BLIP's authors (tests/fixtures/vqa_training.json and
//! vqa_training.safetensors), and of what it shares with a MED.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use capfilt_udfs::blip::{Checkpoint, Embedding, Med as _, OrtMed, Precision};
use capfilt_udfs::text::{ItmToken, clean_question};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{assert_close, root};
use crate::checkpoint::{Export, export};
use crate::data::{RawAnswer, RawBatch};
use crate::pretrained::{Start, start};
use crate::random::{Purpose, seed_torch};
use crate::settings::Settings;

fn fixture(name: &str) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(root().join("tests/fixtures").join(name)).unwrap().into_iter().collect()
}

/// An answerer begun from a checkpoint, without dropout.
fn begin(from: &Path, changes: &[&str]) -> crate::Result<Start> {
    let mut all = vec![format!("model.start={}", from.display())];
    let plain = "device=cpu model.image_size=0 model.dropout=0.0 model.drop_path=0.0";
    all.extend(plain.split(' ').chain(changes.iter().copied()).map(String::from));
    start(&Settings::read(&["finetune-vqa"], None, &all)?)
}

fn answerer() -> Start {
    let began = begin(&root().join("tests/fixtures/models/answerer"), &[]).unwrap();
    assert_eq!(began.drawn, [""; 0]);
    began
}

/// The golden step's questions and answers, with the weights that `of` makes of theirs.
fn golden_batch(began: &Start, golden: &Value, of: &dyn Fn(f32) -> f32) -> RawBatch {
    let texts = |key: &str| -> Vec<String> { serde_json::from_value(golden[key].clone()).unwrap() };
    let images: Vec<i64> = serde_json::from_value(golden["images"].clone()).unwrap();
    let pixels = fixture("vqa.safetensors")["pixel_values"].index_select(0, &Tensor::from_slice(&images));
    let ids = texts("questions").iter().map(|q| began.tokenizer.itc_ids(&clean_question(q), 35)).collect();
    let counts: Vec<usize> = serde_json::from_value(golden["n"].clone()).unwrap();
    let questions = counts.iter().enumerate().flat_map(|(question, n)| vec![question; *n]);
    let weights: Vec<f32> = serde_json::from_value(golden["weights"].clone()).unwrap();
    let answers = texts("answers").into_iter().zip(questions).zip(weights);
    let answers = answers.map(|((text, question), weight)| RawAnswer {
        question,
        ids: began.tokenizer.itc_ids(&text, usize::MAX),
        weight: of(weight),
    });
    let pixels = Vec::try_from(pixels.reshape([-1])).unwrap();
    RawBatch { pixels, ids, image_ids: images.iter().map(|i| *i as u64).collect(), answers: answers.collect() }
}

fn golden() -> Value {
    let path = root().join("tests/fixtures/vqa_training.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn loss_and_gradients_are_the_authors() {
    let (began, golden) = (answerer(), golden());
    let trainer = &began.trainer;
    let batch = trainer.batch(&golden_batch(&began, &golden, &|weight| weight));
    let losses = trainer.losses(&batch, 0.0, None).unwrap();
    assert!(losses.itc.is_none() && losses.itm.is_none());
    let (loss, theirs) = (losses.lm.unwrap(), golden["loss"].as_f64().unwrap());
    let ours = loss.double_value(&[]);
    assert!((ours / theirs - 1.0).abs() < 1e-5, "{ours} {theirs}");

    let gradient = trainer.params.gradient(&loss).unwrap();
    let tensors = fixture("vqa_training.safetensors");
    let word = "text_encoder.embeddings.word_embeddings.weight";
    let mut compared = 0;
    for (name, theirs) in tensors.iter().filter_map(|(k, v)| Some((k.strip_prefix("gradient.")?, v))) {
        let mut ours = trainer.params.part_of(&gradient, name).unwrap();
        if name == word {
            // The fixture has the rows of the questions' words; no other has a gradient.
            let read = ours.index_select(0, &tensors["rows"]);
            let sum = |tensor: &Tensor| tensor.abs().sum(Kind::Double).double_value(&[]);
            assert_eq!(sum(&ours), sum(&read), "{name}");
            ours = read;
        }
        let greatest = theirs.abs().max().double_value(&[]);
        assert!(greatest > 1e-4, "{name}: nothing to compare");
        assert_close(&ours, theirs, 1e-4 * greatest, name);
        compared += 1;
    }
    assert_eq!(compared, 7);
}

/// The loss is linear in the weights, and that of a question does not depend on its neighbours' lengths.
#[test]
fn answers_count_by_their_weights_and_padding_by_nothing() {
    let (began, golden) = (answerer(), golden());
    let trainer = &began.trainer;
    let loss = |raw: &RawBatch| trainer.losses(&trainer.batch(raw), 0.0, None).unwrap().lm.unwrap().double_value(&[]);
    let whole = golden_batch(&began, &golden, &|weight| weight);
    let fifth = loss(&golden_batch(&began, &golden, &|weight| 0.2 * weight));
    assert!((fifth / loss(&whole) - 0.2).abs() < 1e-6, "{fifth}");
    let pixels = whole.pixels.len() / 3;
    let alone = (0..3).map(|i| {
        let answers = whole.answers.iter().filter(|answer| answer.question == i);
        loss(&RawBatch {
            pixels: whole.pixels[i * pixels..(i + 1) * pixels].to_vec(),
            ids: vec![Arc::clone(&whole.ids[i])],
            image_ids: vec![whole.image_ids[i]],
            answers: answers.map(|answer| RawAnswer { question: 0, ..answer.clone() }).collect(),
        })
    });
    let mean = alone.sum::<f64>() / 3.0;
    assert!(whole.ids.iter().any(|ids| ids.len() != whole.ids[0].len()), "nothing is padded");
    assert!((mean / loss(&whole) - 1.0).abs() < 1e-6, "{mean}");
}

#[test]
fn batches_that_do_not_fit_the_model_are_refused() {
    let (mut began, golden) = (answerer(), golden());
    let raw = golden_batch(&began, &golden, &|weight| weight);
    let trainer = &mut began.trainer;
    let mut refused = |change: &dyn Fn(&mut RawBatch), words: &str| {
        let mut raw = RawBatch {
            pixels: raw.pixels.clone(),
            ids: raw.ids.clone(),
            image_ids: raw.image_ids.clone(),
            answers: raw.answers.clone(),
        };
        change(&mut raw);
        let batch = trainer.batch(&raw);
        let error = trainer.step(&batch, 1e-4, 0.0).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|raw| raw.answers.clear(), "the model is an answerer, and the batch has no answers");
    refused(&|raw| raw.answers[0].question = 3, "from 0 to 3");
    refused(&|raw| raw.answers[0].ids = [2, 500, 3].into(), "in a vocabulary of 190");
    refused(&|raw| raw.answers[0].ids = vec![2; 60].into(), "texts of 60 tokens");
    let batch = trainer.batch(&raw);
    let mut med = super::golden_trainer(&super::golden()).0;
    let error = med.step(&batch, 1e-4, 0.0).unwrap_err().to_string();
    assert!(error.contains("pixels [3, 3, 64, 64]"), "{error}");
}

/// An export gives the loss of its training as the score by which the SQL functions rank answers.
#[test]
fn an_export_answers_as_the_model_that_was_trained() {
    let (began, golden) = (answerer(), golden());
    let raw = golden_batch(&began, &golden, &|_| 1.0);
    let Start { trainer, tokenizer, tokenizer_json, preprocessor, .. } = &began;
    // Other weights than the fixture's, so that it is the exported ones that answer.
    let held = seed_torch(7, 0, Purpose::Weights);
    for name in trainer.params.names() {
        let old = trainer.params.get(name).unwrap().detach().copy();
        let noise = Tensor::randn(old.size(), (Kind::Float, Device::Cpu)) * 0.02;
        trainer.params.set(name, &(old + noise)).unwrap();
    }
    drop(held);
    let dir = tempfile::tempdir().unwrap();
    let (config, params) = (trainer.config(), trainer.params());
    export(dir.path(), config, params, Export::Answerer, tokenizer_json, preprocessor, Kind::Float).unwrap();
    let checkpoint = Arc::new(Checkpoint::open(dir.path()).unwrap());
    let med = OrtMed::new(checkpoint, "cpu", Precision::Fp32, 1).unwrap();
    let images = med.encode_pixels(3, raw.pixels.clone()).unwrap();
    let asked: Vec<Arc<[u32]>> = serde_json::from_value::<Vec<String>>(golden["questions"].clone())
        .unwrap()
        .iter()
        .map(|question| tokenizer.match_ids(&clean_question(question), 35, ItmToken::Enc))
        .collect();
    let asked: Vec<Vec<&[u32]>> = asked.iter().map(|ids| vec![&**ids]).collect();
    let states: Vec<Embedding> =
        med.encode_questions(&images.iter().collect::<Vec<_>>(), &asked).unwrap().into_iter().flatten().collect();
    let texts: Vec<String> = serde_json::from_value(golden["answers"].clone()).unwrap();
    for (answer, text) in raw.answers.iter().zip(texts) {
        let ids = tokenizer.answer_ids(&text);
        let score = med.score_answers(&[&states[answer.question]], &[vec![&ids]], &|| false).unwrap()[0][0];
        let alone = RawBatch {
            answers: vec![answer.clone()],
            pixels: raw.pixels.clone(),
            ids: raw.ids.clone(),
            image_ids: raw.image_ids.clone(),
        };
        let loss = trainer.losses(&trainer.batch(&alone), 0.0, None).unwrap().lm.unwrap().double_value(&[]);
        let off = (3.0 * loss + f64::from(score.smoothed())).abs();
        assert!(off < 1e-3 && loss > 0.1, "{text}: {loss} and {score:?}");
    }
}

/// A step with dropout is reproducible, and steps learn.
#[test]
fn steps_learn() {
    let golden = golden();
    let run = || {
        let from = root().join("tests/fixtures/models/answerer");
        let mut began = begin(&from, &["model.dropout=0.1", "model.drop_path=0.1"]).unwrap();
        let batch = began.trainer.batch(&golden_batch(&began, &golden, &|weight| weight));
        (0..8).map(|_| began.trainer.step(&batch, 1e-3, 0.0).unwrap()).collect::<Vec<_>>()
    };
    let reports = run();
    assert_eq!(reports, run());
    assert!(reports[7].lm < 0.8 * reports[0].lm && reports[0].gradient_norm > 0.0, "{reports:?}");
    assert_eq!((reports[0].itc, reports[0].itm, reports[0].temperature), (0.0, 0.0, 0.0));
    assert_eq!(reports[0].without_negative, 0);
}
