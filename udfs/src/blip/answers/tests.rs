//! Parity of the answerer with transformers' `BlipForQuestionAnswering` and the authors' `BLIP_VQA`, whose outputs are in
//! tests/fixtures/vqa.json and vqa.safetensors, and what holds for every answer.

use std::path::PathBuf;
use std::sync::LazyLock;

use safetensors::SafeTensors;
use serde_json::Value;

use super::*;
use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{Checkpoint, GenerateRequest, Med as _, Precision};
use crate::text::{ItmToken, clean_question};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn med(model: &str, precision: Precision) -> OrtMed {
    let checkpoint = Checkpoint::open(&fixtures().join("models").join(model)).unwrap();
    OrtMed::new(Arc::new(checkpoint), "cpu", precision, 0).unwrap()
}

static JSON: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&std::fs::read_to_string(fixtures().join("vqa.json")).unwrap()).unwrap());

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read(fixtures().join("vqa.safetensors")).unwrap());

fn golden(name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(&BYTES).unwrap();
    let data = tensors.tensor(name).unwrap();
    data.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn strings(key: &str) -> Vec<String> {
    serde_json::from_value(JSON[key].clone()).unwrap()
}

fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().all(|x| x.is_finite()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn images(med: &OrtMed) -> Vec<Embedding> {
    med.encode_pixels(strings("images").len(), golden("pixel_values")).unwrap()
}

/// States of all questions about all images, from the reference's own pixels: `[image][question]`.
fn states(med: &OrtMed, questions: &[String], first: ItmToken) -> Vec<Vec<Embedding>> {
    let images = images(med);
    let ids: Vec<_> = questions.iter().map(|question| med.tokenizer().match_ids(question, 35, first)).collect();
    let asked: Vec<Vec<&[u32]>> = images.iter().map(|_| ids.iter().map(|ids| &**ids).collect()).collect();
    med.encode_questions(&images.iter().collect::<Vec<_>>(), &asked).unwrap()
}

fn answer(med: &OrtMed, questions: &[&Embedding], options: &GenerationOptions) -> Vec<Vec<u32>> {
    let request = GenerateRequest { prompt: med.tokenizer().caption_prompt(""), key: [0; 32] };
    let found = med.answer(questions, &vec![vec![request]; questions.len()], options, &|| false).unwrap();
    found.into_iter().map(|mut sequences| sequences.remove(0)).collect()
}

#[test]
fn token_ids_equal_the_references() {
    let med = med("answerer", Precision::Fp32);
    let ids: Vec<Vec<u32>> = serde_json::from_value(JSON["question_ids"].clone()).unwrap();
    for (question, expected) in strings("questions").iter().zip(&ids) {
        assert_eq!(*med.tokenizer().itc_ids(question, 35), *expected, "{question}");
        let own = med.tokenizer().match_ids(question, 35, ItmToken::Enc);
        assert_eq!((own[0], &own[1..]), (189, &expected[1..]), "{question}");
    }
    let ids: Vec<Vec<u32>> = serde_json::from_value(JSON["candidate_ids"].clone()).unwrap();
    for (answer, expected) in strings("candidates").iter().zip(&ids) {
        assert_eq!(*med.tokenizer().answer_ids(answer), *expected, "{answer}");
    }
    let cleaned: Vec<String> = strings("questions").iter().map(|question| clean_question(question)).collect();
    assert_eq!(cleaned, strings("cleaned_questions"));
}

#[test]
fn states_equal_the_references() {
    let med = med("answerer", Precision::Fp32);
    let ours: Vec<f32> = images(&med).iter().flat_map(|image| image.host().unwrap().to_vec()).collect();
    assert!(difference(&ours, &golden("image_embeds")) < 1e-3);
    let states = states(&med, &strings("questions"), ItmToken::Enc);
    for question in 0..strings("questions").len() {
        let ours: Vec<f32> = states.iter().flat_map(|of| of[question].host().unwrap().to_vec()).collect();
        let worst = difference(&ours, &golden(&format!("question_states_{question}")));
        assert!(worst < 1e-3, "question {question}: {worst}");
    }
}

#[test]
fn first_logits_equal_the_references_with_either_first_token() {
    let med = med("answerer", Precision::Fp32);
    let prompt = med.tokenizer().caption_prompt("");
    for (first, name) in [(ItmToken::Enc, "enc"), (ItmToken::Cls, "cls")] {
        let states = states(&med, &strings("questions"), first);
        let states: Vec<&Embedding> = states.iter().flatten().collect();
        let worst =
            difference(&med.first_logits(&states, &prompt).unwrap().concat(), &golden(&format!("first_logits_{name}")));
        assert!(worst < 1e-3, "{name}: {worst}");
    }
}

/// Options of a way of golden.json.
fn options(way: &Value) -> GenerationOptions {
    let number = |name: &str, default| way[name].as_u64().map_or(default, |n| n as usize);
    let (num_beams, default) = (number("num_beams", 1), GenerationOptions::default());
    GenerationOptions {
        strategy: if num_beams == 1 { Strategy::Greedy } else { Strategy::Beam },
        num_beams,
        min_length: number("min_length", default.min_length),
        max_length: number("max_length", default.max_length),
        ..default
    }
}

#[test]
fn answers_equal_the_references_in_every_way_of_decoding() {
    let med = med("answerer", Precision::Fp32);
    let (questions, mut wrong, mut checked) = (strings("questions"), vec![], 0);
    for (first, suffix) in [(ItmToken::Enc, "_enc"), (ItmToken::Cls, "_cls")] {
        let states = states(&med, &questions, first);
        let all: Vec<&Embedding> = states.iter().flatten().collect();
        for (name, expected) in JSON["answers"].as_object().unwrap() {
            let Some(way) = name.strip_suffix(suffix) else { continue };
            let ours = answer(&med, &all, &options(&JSON["ways"][way]));
            let expected = expected.as_array().unwrap().iter().flat_map(|image| image.as_array().unwrap());
            for ((i, ours), expected) in ours.iter().enumerate().zip(expected) {
                let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
                let generated: Vec<u32> = ids[1..].iter().copied().take_while(|&id| id != 3).collect();
                let text = med.tokenizer().decode(ours);
                checked += 1;
                if *ours != generated || text != expected["text"].as_str().unwrap() {
                    wrong.push(format!("{name}, {i}: {text:?} is not {}", expected["text"]));
                }
            }
        }
    }
    assert_eq!(checked, 7 * 140);
    assert!(wrong.is_empty(), "{} of {checked}: {wrong:#?}", wrong.len());
}

#[test]
fn ranks_equal_the_authors() {
    let med = med("answerer", Precision::Fp32);
    let candidates: Vec<Arc<[u32]>> =
        strings("candidates").iter().map(|answer| med.tokenizer().answer_ids(answer)).collect();
    let states = states(&med, &strings("cleaned_questions"), ItmToken::Enc);
    let questions: Vec<&Embedding> = states.iter().flatten().collect();
    let answers: Vec<Vec<&[u32]>> = questions.iter().map(|_| candidates.iter().map(|ids| &**ids).collect()).collect();
    let scores = med.score_answers(&questions, &answers, &|| false).unwrap();
    let all = |of: fn(&AnswerScore) -> f32| scores.iter().flatten().map(of).collect::<Vec<f32>>();
    for (name, ours) in [("rank_scores", all(AnswerScore::smoothed)), ("log_likelihood", all(|s| s.log_likelihood))] {
        let worst = difference(&ours, &golden(name));
        assert!(worst < 1e-3, "{name}: {worst}");
    }
    let first = med.first_tokens(&questions).unwrap();
    let ours: Vec<f32> =
        first.iter().flat_map(|first| candidates.iter().map(|ids| first[ids[1] as usize].exp())).collect();
    let worst = difference(&ours, &golden("first_token_probability"));
    assert!(worst < 1e-3, "{worst}");
    let mut compared = vec![];
    for k in [3, 16, 55] {
        let of = &JSON["k"][k.to_string()];
        let expected: Vec<usize> = serde_json::from_value::<Vec<Vec<usize>>>(of["best"].clone()).unwrap().concat();
        let decided: Vec<bool> = serde_json::from_value::<Vec<Vec<bool>>>(of["decided"].clone()).unwrap().concat();
        for (question, (&expected, _)) in
            expected.iter().zip(&decided).enumerate().filter(|(_, (_, decided))| **decided)
        {
            let chosen = likeliest(&first[question], &candidates, k);
            let ours = best(chosen.iter().map(|&i| scores[question][i].smoothed())).unwrap();
            assert_eq!(chosen[ours], expected, "k {k}, question {question}");
        }
        compared.push(decided.iter().filter(|decided| **decided).count());
    }
    assert_eq!(compared, [52, 46, 140]);
    let expected: Vec<usize> =
        serde_json::from_value::<Vec<Vec<usize>>>(JSON["best_by_log_likelihood"].clone()).unwrap().concat();
    for (scores, expected) in scores.iter().zip(expected) {
        assert_eq!(best(scores.iter().map(|score| score.log_likelihood)), Some(expected));
    }
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    for precision in [Precision::Fp32, Precision::Int8] {
        let med = med("answerer", precision);
        let (images, options) = (images(&med), GenerationOptions { max_length: 10, ..Default::default() });
        let texts = ["what color is the circle?", "why", "is it a cat or a dog or a ring or a star or a cross?"];
        let ids: Vec<_> = texts.map(|text| med.tokenizer().match_ids(text, 35, ItmToken::Enc)).into();
        let candidates: Vec<_> =
            ["red", "a light blue circle", "yes"].map(|text| med.tokenizer().answer_ids(text)).into();
        let images: Vec<&Embedding> = images.iter().take(6).collect();
        let asked: Vec<Vec<&[u32]>> = images.iter().map(|_| ids.iter().map(|ids| &**ids).collect()).collect();
        let together = med.encode_questions(&images, &asked).unwrap();
        let states: Vec<&Embedding> = together.iter().flatten().collect();
        let lists: Vec<Vec<&[u32]>> = states.iter().map(|_| candidates.iter().map(|ids| &**ids).collect()).collect();
        let answers = answer(&med, &states, &options);
        let scores = med.score_answers(&states, &lists, &|| false).unwrap();
        let first = med.first_tokens(&states).unwrap();
        for (place, (image, ids)) in images.iter().flat_map(|image| ids.iter().map(move |ids| (image, ids))).enumerate()
        {
            let alone = &med.encode_questions(&[image], &[vec![ids]]).unwrap()[0][0];
            assert_eq!(alone.host(), states[place].host(), "{med:?}: question {place}");
            assert_eq!(answer(&med, &[alone], &options)[0], answers[place], "{med:?}: answer {place}");
            let own = &med.first_tokens(&[alone]).unwrap()[0];
            assert!(difference(own, &first[place]) < 1e-5, "{med:?}: first token {place}");
            for (list, together) in lists[place].iter().zip(&scores[place]) {
                let own = med.score_answers(&[alone], &[vec![list]], &|| false).unwrap()[0][0];
                assert_eq!(own, *together, "{med:?}: score {place}");
            }
        }
    }
}

#[test]
fn int8_answers_nearly_alike() {
    let (whole, small) = (med("answerer", Precision::Fp32), med("answerer", Precision::Int8));
    let answers = [&whole, &small].map(|med| {
        let states = states(med, &strings("questions"), ItmToken::Enc);
        answer(med, &states.iter().flatten().collect::<Vec<_>>(), &options(&JSON["ways"]["blip"]))
    });
    let alike = answers[0].iter().zip(&answers[1]).filter(|(a, b)| a == b).count();
    assert!(alike >= 126, "{alike} of 140");
}

#[test]
fn a_kind_of_checkpoint_refuses_anothers_work() {
    let (answerer, captioner) = (med("answerer", Precision::Fp32), med("captioner", Precision::Fp32));
    let request = GenerateRequest { prompt: answerer.tokenizer().caption_prompt(""), key: [0; 32] };
    let (requests, options) = (vec![vec![request]], GenerationOptions::default());
    let image = Embedding::Host(vec![0.0; 65 * 96].into());
    let errors = [
        answerer.generate(&[&image], &requests, &options, &|| false).unwrap_err(),
        answerer.match_texts(&[&image], &[vec![&[1, 2]]]).unwrap_err(),
        answerer.encode_texts(&[&[1, 2]]).unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("neither a captioner nor a filter"), "{error}");
    }
    for other in [captioner, med("matcher", Precision::Fp32)] {
        let errors = [
            other.encode_questions(&[&image], &[vec![&[1, 2]]]).unwrap_err(),
            other.answer(&[&image], &requests, &options, &|| false).unwrap_err(),
            other.first_tokens(&[&image]).unwrap_err(),
            other.score_answers(&[&image], &[vec![&[1, 2]]], &|| false).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("it is not an answerer (BlipForQuestionAnswering)"), "{error}");
        }
    }
}

#[test]
fn a_device_is_refused_in_words() {
    let checkpoint = Arc::new(Checkpoint::open(&fixtures().join("models/answerer")).unwrap());
    let error = OrtMed::on_fake_device(checkpoint, Precision::Fp32, 4, 0).unwrap_err().to_string();
    assert!(error.contains("answerers run on the CPU, not on fake:0: SET capfilt.device to cpu"), "{error}");
}

#[test]
fn scoring_stops_when_cancelled() {
    let med = med("answerer", Precision::Fp32);
    let question = Embedding::Host(vec![0.1; 3 * 96].into());
    let error = med.score_answers(&[&question], &[vec![&[188, 5, 3]]], &|| true).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
}

#[test]
fn ties_stay_in_the_lists_order() {
    let answers: Vec<Arc<[u32]>> = [1, 2, 2, 3, 9, 1].map(|first| [7, first, 8].into()).into();
    let first = [-9.0, -2.0, -1.0, -3.0];
    let cases: [(usize, &[usize]); 5] =
        [(1, &[1]), (2, &[1, 2]), (3, &[0, 1, 2]), (4, &[0, 1, 2, 5]), (99, &[0, 1, 2, 3, 4, 5])];
    for (k, expected) in cases {
        assert_eq!(likeliest(&first, &answers, k), expected, "{k}");
    }
    assert_eq!(likeliest(&[f32::NAN; 9], &answers, 2), [0, 1]);
    assert_eq!(best([-2.0, -1.0, f32::NAN, -1.0].into_iter()), Some(1));
    assert_eq!(best([f32::NAN, -5.0].into_iter()), Some(1));
    assert_eq!(best(std::iter::empty()), None);
}

/// The answerer with a vision encoder of twice the width, whose halves are the fixture's: its layer norms see the same
/// mean and variance, and each product reads the mean of the halves. So it answers alike, as a ViT-L would whose width is
/// not the text's.
fn of_twice_the_width() -> tempfile::TempDir {
    let (from, folder) = (fixtures().join("models/answerer"), tempfile::tempdir().unwrap());
    for file in ["tokenizer.json", "preprocessor_config.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config["vision_config"]["hidden_size"] = 192.into();
    config["vision_config"]["num_attention_heads"] = 8.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let halves = |row: &[f32]| -> Vec<f32> { row.iter().chain(row).map(|x| x / 2.0).collect() };
    let mut wide: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
    for (name, tensor) in tensors.tensors() {
        let mut shape = tensor.shape().to_vec();
        let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
        let mut values: Vec<f32> = tensor.data().chunks_exact(2).map(half).collect();
        let is_cross = name.starts_with("text_encoder.") && name.contains("crossattention");
        let reads = name.starts_with("vision_model.encoder.layers") && !name.contains("fc2")
            || is_cross && (name.ends_with("key.weight") || name.ends_with("value.weight"));
        if reads && name.ends_with(".weight") && shape.len() == 2 {
            values = values.chunks_exact(96).flat_map(halves).collect();
            shape[1] = 192;
        }
        if name.starts_with("vision_model.") && !name.contains("fc1") {
            // The dimension of the hidden state: the last of embeddings, else the first.
            let is_last = shape.len() == 3;
            let thirds = if name.contains("qkv") { 3 } else { 1 };
            let each = if is_last { 96 } else { values.len() / thirds };
            values = values.chunks_exact(each).flat_map(|part| [part, part].concat()).collect();
            shape[if is_last { 2 } else { 0 }] *= 2;
        }
        wide.push((name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }
    let views = wide.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn the_vision_width_may_differ_from_the_texts() {
    let folder = of_twice_the_width();
    let checkpoint = Arc::new(Checkpoint::open(folder.path()).unwrap());
    assert_eq!((checkpoint.config.text.encoder_width, checkpoint.config.text.width), (192, 96));
    for precision in [Precision::Fp32, Precision::Int8] {
        let med = OrtMed::new(Arc::clone(&checkpoint), "cpu", precision, 0).unwrap();
        assert_eq!(images(&med)[0].host().unwrap().len(), 65 * 192);
        let states = states(&med, &strings("questions"), ItmToken::Enc);
        if precision == Precision::Fp32 {
            let ours: Vec<f32> = states.iter().flat_map(|of| of[8].host().unwrap().to_vec()).collect();
            let worst = difference(&ours, &golden("question_states_8"));
            assert!(worst < 1e-3, "{worst}");
        }
        let answers = answer(&med, &states.iter().flatten().collect::<Vec<_>>(), &options(&JSON["ways"]["blip"]));
        let expected = JSON["answers"]["blip_enc"].as_array().unwrap().iter().flat_map(|of| of.as_array().unwrap());
        let alike = answers
            .iter()
            .zip(expected)
            .filter(|(ids, expected)| Some(med.tokenizer().decode(ids).as_str()) == expected["text"].as_str());
        let alike = alike.count();
        assert!(alike >= if precision == Precision::Fp32 { 140 } else { 126 }, "{precision}: {alike} of 140");
    }
}

#[test]
fn a_checkpoint_takes_nothing_from_its_other_half() {
    let from = fixtures().join("models/answerer");
    let open = |leaves_out: &str| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors.tensors().into_iter().filter(|(name, _)| !name.starts_with(leaves_out));
        safetensors::serialize_to_file(kept, None, &folder.path().join("model.safetensors")).unwrap();
        Checkpoint::open(folder.path()).unwrap_err().to_string()
    };
    for (leaves_out, words) in [
        ("text_encoder.", "its architecture is BlipForQuestionAnswering, but it has no text_encoder"),
        ("text_decoder.", "it has no text_decoder"),
        // A captioner's decoder would take the encoder's.
        ("text_decoder.bert.encoder.layer.1.intermediate", "text_decoder.bert.encoder.layer.1.intermediate"),
        ("text_encoder.encoder.layer.2.crossattention", "text_encoder.encoder.layer.2.crossattention"),
    ] {
        let error = open(leaves_out);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_inspection_says_what_it_is() {
    let report = crate::inspect(&fixtures().join("models/answerer")).unwrap();
    assert!(report.parts.answerer && !report.parts.captioner && !report.parts.matcher && !report.parts.contrastive);
    assert!(report.unknown_tensors.is_empty(), "{:?}", report.unknown_tensors);
    let page = report.to_string();
    for words in ["BlipForQuestionAnswering", "usable for    vqa, vqa_score\n", "[ENC] 189"] {
        assert!(page.contains(words), "{page}");
    }
}
