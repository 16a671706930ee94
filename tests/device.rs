//! Models on a device apart from the host, as a GPU is: the same results as on the CPU, and little that crosses.

use std::sync::Arc;

use capfilt_udfs::blip::generate::{GenerationOptions, Strategy};
use capfilt_udfs::blip::{Checkpoint, Embedding, GenerateRequest, Med, OrtMed, Precision};
use capfilt_udfs::engine::{Engine, EngineOptions};
use capfilt_udfs::image::{Limits, load};

use crate::common::{self, fixture, model, run, session_on};

const SIZE: usize = 64;

fn checkpoint(name: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(model(name).as_ref()).unwrap())
}

fn here(name: &str) -> OrtMed {
    OrtMed::new(checkpoint(name), "cpu", Precision::Fp32, 0).unwrap()
}

fn there(name: &str, run: usize) -> OrtMed {
    OrtMed::on_fake_device(checkpoint(name), Precision::Fp32, run, 0).unwrap()
}

/// Pixels of the fixtures, `count` in all.
fn pixels(med: &OrtMed, count: usize) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(fixture("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let load = |path| load(&std::fs::read(path).unwrap(), &Limits::default(), med.preprocessor()).unwrap();
    let pixels: Vec<Vec<u8>> = files.iter().map(load).collect();
    assert!(pixels.iter().all(|pixels| pixels.len() == SIZE * SIZE * 3));
    pixels.into_iter().cycle().take(count).collect()
}

fn encode(med: &OrtMed, count: usize) -> Vec<Embedding> {
    let pixels = pixels(med, count);
    med.encode(&pixels.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

fn requests(
    med: &OrtMed,
    images: usize,
    each: usize,
    prompt: impl Fn(usize) -> &'static str,
) -> Vec<Vec<GenerateRequest>> {
    let request = |image: usize, number: usize| {
        let mut key = [7; 32];
        (key[0], key[1]) = (image as u8, number as u8);
        GenerateRequest { prompt: med.tokenizer().caption_prompt(prompt(image)), key }
    };
    (0..images).map(|image| (0..each).map(|number| request(image, number)).collect()).collect()
}

fn captions(
    med: &OrtMed,
    images: &[Embedding],
    requests: &[Vec<GenerateRequest>],
    options: &GenerationOptions,
) -> Vec<Vec<Vec<u32>>> {
    med.generate(&images.iter().collect::<Vec<_>>(), requests, options, &|| false).unwrap()
}

#[test]
fn a_device_gives_what_the_cpu_gives() {
    let (here, there) = (here("captioner"), there("captioner", 4));
    // The last run has one image.
    let images = [&here, &there].map(|med| encode(med, 5));
    for (ours, theirs) in images[0].iter().zip(&images[1]) {
        assert_eq!(here.embedding_values(ours).unwrap(), there.embedding_values(theirs).unwrap());
    }
    // Prompts of two lengths.
    let requests = requests(&here, 5, 2, |image| if image % 3 == 0 { "a picture of" } else { "red" });
    let mut all = vec![];
    for (strategy, repetition_penalty, top_k, top_p) in [
        (Strategy::Beam, 1.0, 50, 0.9),
        (Strategy::Beam, 1.3, 50, 0.9),
        (Strategy::Beam, 0.8, 50, 0.9),
        (Strategy::Greedy, 1.2, 50, 0.9),
        (Strategy::Nucleus, 1.0, 50, 0.9),
        (Strategy::Nucleus, 1.2, 3, 1.0),
        (Strategy::Nucleus, 1.0, 0, 0.5),
    ] {
        let options = GenerationOptions {
            strategy,
            repetition_penalty,
            top_k,
            top_p,
            // More would draw from tokens that the last bits of the scores put in order.
            temperature: 1.0,
            min_length: 9,
            num_return_sequences: if strategy == Strategy::Beam { 2 } else { 1 },
            ..Default::default()
        };
        let ours = captions(&here, &images[0], &requests, &options);
        assert_eq!(captions(&there, &images[1], &requests, &options), ours, "{options:?}");
        all.push(ours);
    }
    all.dedup();
    assert!(all.len() >= 6, "ways of decoding that give the same captions test nothing");
}

#[test]
fn scores_on_a_device_are_those_of_the_cpu_whatever_is_beside_them() {
    let (here, there) = (here("matcher"), there("matcher", 4));
    let images = [&here, &there].map(|med| encode(med, 7));
    let words =
        ["a", "a red apple on a table", "two dogs", "a very long text about a small house by the sea in winter"];
    let ids: Vec<_> = words.iter().map(|text| here.tokenizer().match_ids(text, 35, Default::default())).collect();
    let texts: Vec<Vec<&[u32]>> =
        (0..7).map(|image| (0..image % 5).map(|text| &*ids[(image + text) % ids.len()]).collect()).collect();
    let score = |med: &OrtMed, images: &[Embedding], texts: &[Vec<&[u32]>]| {
        med.match_texts(&images.iter().collect::<Vec<_>>(), texts).unwrap()
    };
    let [ours, theirs] = [score(&here, &images[0], &texts), score(&there, &images[1], &texts)];
    assert_eq!(ours.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 0, 1]);
    for (a, b) in ours.concat().iter().zip(theirs.concat()) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
    let alone = |image: usize, text: usize| score(&there, &images[1][image..=image], &[vec![texts[image][text]]])[0][0];
    assert_eq!([alone(4, 0), alone(4, 3), alone(6, 0)], [theirs[4][0], theirs[4][3], theirs[6][0]]);
}

#[test]
fn an_image_of_another_device_is_refused() {
    let (here, there) = (here("matcher"), there("matcher", 2));
    let other = OrtMed::on_fake_device(checkpoint("matcher"), Precision::Fp32, 2, 1).unwrap();
    let (on_host, on_device) = (encode(&here, 1), encode(&there, 1));
    assert!(on_host[0].host().is_some() && on_device[0].host().is_none());
    assert_eq!(on_host[0].bytes(), on_device[0].bytes());
    for (med, image) in [(&here, &on_device[0]), (&there, &on_host[0]), (&other, &on_device[0])] {
        let message = med.project(&[image]).unwrap_err().to_string();
        assert!(message.contains("image"), "{message}");
    }
}

/// float16 on a GPU rounds where it rounds here: where values pass from one operator to the next.
#[test]
fn half_precision_is_close_to_single() {
    let images: usize = 35;
    let med = |name, precision| OrtMed::on_fake_device(checkpoint(name), precision, 35, 0).unwrap();
    let [single, half] = [Precision::Fp32, Precision::Fp16].map(|precision| med("captioner", precision));
    let encoded = [&single, &half].map(|med| encode(med, images));
    assert_eq!(encoded[1][0].bytes() * 2, encoded[0][0].bytes());
    let values = |med: &OrtMed, images: &[Embedding]| -> Vec<f32> {
        images.iter().flat_map(|image| med.embedding_values(image).unwrap()).collect()
    };
    let values = [values(&single, &encoded[0]), values(&half, &encoded[1])];
    let scale = values[0].iter().map(|x| x.abs()).sum::<f32>() / values[0].len() as f32;
    let error = values[0].iter().zip(&values[1]).map(|(a, b)| (a - b).abs()).sum::<f32>() / values[0].len() as f32;
    assert!(error > 0.0 && error < 0.003 * scale, "{error} of {scale}");
    let prompts = requests(&single, images, 1, |_| "");
    for strategy in [Strategy::Beam, Strategy::Greedy] {
        let options = GenerationOptions { strategy, ..Default::default() };
        let [a, b] =
            [(&single, &encoded[0]), (&half, &encoded[1])].map(|(med, e)| captions(med, e, &prompts, &options));
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!(same >= images * 9 / 10, "{same} of {images} captions are the same");
    }
    let words = ["a red apple", "two dogs on a beach", "a map", "a black and white drawing of a house"];
    let scores = [Precision::Fp32, Precision::Fp16].map(|precision| {
        let med = med("matcher", precision);
        let ids: Vec<_> = words.iter().map(|text| med.tokenizer().match_ids(text, 35, Default::default())).collect();
        let texts: Vec<Vec<&[u32]>> = vec![ids.iter().map(|ids| &**ids).collect(); images];
        let encoded = encode(&med, images);
        let images: Vec<&Embedding> = encoded.iter().collect();
        let vectors = med.project(&images).unwrap().concat();
        (med.match_texts(&images, &texts).unwrap().concat(), vectors)
    });
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (itm, itc) = (worst(&scores[0].0, &scores[1].0), worst(&scores[0].1, &scores[1].1));
    assert!(itm < 0.005 && itc < 0.002, "ITM {itm}, ITC {itc}");
    let agreed = scores[0].0.iter().zip(&scores[1].0).filter(|(a, b)| (**a >= 0.5) == (**b >= 0.5)).count();
    assert!(agreed * 100 >= 99 * scores[0].0.len(), "{agreed} of {} verdicts agree", scores[0].0.len());
}

#[test]
fn precisions_belong_to_devices() {
    let error = |med: Result<OrtMed, capfilt_udfs::Error>| med.unwrap_err().to_string();
    let half = error(OrtMed::new(checkpoint("captioner"), "cpu", Precision::Fp16, 0));
    assert!(half.contains("'fp16' is for GPUs"), "{half}");
    let int8 = error(OrtMed::on_fake_device(checkpoint("captioner"), Precision::Int8, 2, 0));
    assert!(int8.contains("'int8' is for the CPU"), "{int8}");
}

/// In SQL, two devices give what the CPU gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_query_on_two_devices_gives_what_the_cpu_gives() {
    const SQL: &str = "SELECT id, caption(image), round(itm_score(image, text), 4), round(itm_score(image, 'a dog'), 4)
        FROM web WHERE id < 60 ORDER BY id";
    let load = |key: &capfilt_udfs::engine::ModelKey| {
        let number = key.device.strip_prefix("cuda:").unwrap().parse().unwrap();
        let checkpoint = Arc::new(Checkpoint::open(&key.checkpoint)?);
        Ok(Arc::new(OrtMed::on_fake_device(checkpoint, key.precision, 4, number)?) as Arc<dyn Med>)
    };
    let engine = Engine::new(EngineOptions::default(), Box::new(load));
    let there = session_on(Arc::clone(&engine), 2, 16).await;
    run(&there, "SET capfilt.device = 'cuda:0,cuda:1'").await;
    let here = session_on(common::engine(EngineOptions::default()), 2, 16).await;
    assert_eq!(run(&there, SQL).await, run(&here, SQL).await);
    let devices: Vec<String> = engine.stats().into_iter().map(|model| model.device).collect();
    assert_eq!(devices, ["fake:0,fake:1", "fake:0,fake:1"]);
}

/// A run computes as many images as any other: the shapes, and with them the kernels, do not depend on neighbours.
#[test]
fn a_run_is_the_same_whatever_is_in_it() {
    let [full, lonely] = [there("captioner", 4), there("captioner", 4)];
    let images = encode(&full, 4);
    let requests = requests(&full, 4, 1, |_| "a");
    let beams = GenerationOptions { repetition_penalty: 1.1, ..Default::default() };
    // Drawn from all tokens, among which the last bits of the scores decide.
    let nucleus = GenerationOptions { strategy: Strategy::Nucleus, top_k: 0, temperature: 2.0, ..Default::default() };
    for options in [beams, nucleus] {
        let together = captions(&full, &images, &requests, &options);
        for i in 0..4 {
            let pixels = pixels(&lonely, i + 1).pop().unwrap();
            let image = lonely.encode(&[&pixels]).unwrap();
            assert_eq!(captions(&lonely, &image, &requests[i..=i], &options)[0], together[i], "{options:?}");
        }
        // Captions of different lengths leave each other's steps as they are.
        let lengths: Vec<usize> = together.iter().map(|caption| caption[0].len()).collect();
        assert!(options.strategy == Strategy::Beam || lengths.iter().any(|n| *n != lengths[0]), "{lengths:?}");
    }
    let sizes = |med: &OrtMed| -> Vec<_> {
        let stages = med.crossed().into_iter().filter(|(stage, _)| *stage != "whole rows of scores");
        stages.map(|(stage, crossed)| (stage, crossed.most)).collect()
    };
    assert_eq!(sizes(&full), sizes(&lonely));
}

/// Of 64 images, nothing crosses after their pixels but ids, and candidates: under 100 KB a step.
#[test]
fn decoding_moves_little_over_the_bus() {
    const IMAGES: usize = 64;
    let med = there("captioner", IMAGES);
    let images = encode(&med, IMAGES);
    let crossed = |stage: &str| med.crossed().get(stage).copied().unwrap_or_default();
    let pixels = crossed("the normalisation of pixels");
    assert_eq!((pixels.runs, pixels.bytes), (1, (IMAGES * SIZE * SIZE * 3) as u64));
    assert_eq!((crossed("the vision encoder").runs, crossed("the vision encoder").bytes), (1, 0));
    let requests = requests(&med, IMAGES, 1, |_| "a picture of");
    for (strategy, repetition_penalty) in
        [(Strategy::Beam, 1.0), (Strategy::Beam, 1.3), (Strategy::Greedy, 1.0), (Strategy::Nucleus, 1.0)]
    {
        let before = (crossed("the text decoder"), crossed("whole rows of scores"));
        // No caption ends early.
        let options = GenerationOptions { strategy, repetition_penalty, min_length: 20, ..Default::default() };
        let found = captions(&med, &images, &requests, &options);
        assert!(found.iter().all(|caption| !caption[0].is_empty()));
        let (after, whole) = (crossed("the text decoder"), crossed("whole rows of scores"));
        let steps = after.runs - before.0.runs;
        assert_eq!(steps, 20 - requests[0][0].prompt.len() as u64, "{options:?}");
        assert!(after.most < 100_000, "{options:?}: {} bytes in a step", after.most);
        // 64 images, 3 beams, the ids of each row and its 26 candidates with their scores.
        let least = if strategy == Strategy::Beam { IMAGES * 3 * 26 * 8 } else { IMAGES * 22 * 8 };
        assert!(after.bytes - before.0.bytes > (steps - 1) * least as u64);
        let whole = whole.bytes - before.1.bytes;
        assert!(whole < steps * 100_000, "{options:?}: {whole} bytes of whole rows");
    }
    let kv = crossed("the cross-attention keys and values");
    assert_eq!((kv.runs, kv.bytes), (4, 0));
}
