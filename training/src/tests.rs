//! Tests of the model against Hugging Face's modules (tests/fixtures/med.py), and of properties of a step and of an
//! export.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use capfilt_udfs::blip::{Checkpoint, Embedding, OrtMed, Precision, TextConfig, VisionConfig};
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

use crate::adamw::{AdamW, AdamWOptions, clip};
use crate::checkpoint::{Export, blip_preprocessor, export, import};
use crate::config::{DecoderReads, MedConfig, Sharing, parameter_counts};
use crate::losses::{self, LABEL_SMOOTHING, Negatives};
use crate::med::{Med, Texts};
use crate::random::{Purpose, seed_torch};
use crate::step::{Batch, StepOptions, Trainer};

mod answerer;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Sizes in tests/fixtures/med.py.
fn config() -> MedConfig {
    let vision = VisionConfig {
        width: 24,
        mlp_width: 48,
        layers: 2,
        heads: 2,
        image_size: 32,
        patch_size: 8,
        layer_norm_eps: 1e-5,
    };
    let text = TextConfig {
        width: 16,
        encoder_width: 24,
        mlp_width: 32,
        layers: 2,
        heads: 2,
        vocab_size: 40,
        max_positions: 12,
        layer_norm_eps: 1e-12,
        bos_token_id: 38,
        sep_token_id: 2,
        pad_token_id: 0,
    };
    MedConfig {
        vision,
        text,
        projection: 8,
        sharing: Sharing::default(),
        decoder_reads: DecoderReads::default(),
        enc_token_id: 39,
        dropout: 0.0,
        drop_path: 0.0,
    }
}

fn options() -> StepOptions {
    StepOptions { queue: 12, ..StepOptions::default() }
}

fn golden() -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(root().join("tests/fixtures/med.safetensors")).unwrap().into_iter().collect()
}

/// Creates a trainer in the golden step's initial state, and its batch.
fn golden_trainer(golden: &BTreeMap<String, Tensor>) -> (Trainer, Batch) {
    let mut trainer = Trainer::new(config(), options(), 1, Device::Cpu).unwrap();
    for (params, prefix) in [(&trainer.params, "live."), (&trainer.momentum, "momentum.")] {
        for name in params.names() {
            params.set(name, &golden[&format!("{prefix}{name}")]).unwrap();
        }
        let there = golden.keys().filter(|name| name.starts_with(prefix)).count();
        assert_eq!(params.names().len(), there, "{prefix}");
    }
    trainer.queues.images = golden["image_queue"].copy();
    trainer.queues.texts = golden["text_queue"].copy();
    let texts = Texts::new(golden["ids"].copy(), 0);
    // Rows 1 and 4 show the same picture.
    (trainer, Batch { pixels: golden["pixels"].copy(), texts, image_ids: vec![0, 1, 2, 3, 1, 5], answers: None })
}

fn pairs(rows: &Tensor, swap: bool) -> Vec<(i64, i64)> {
    let drawn = Vec::<i64>::try_from(rows).unwrap();
    let pair = |(i, j): (usize, i64)| if swap { (j, i as i64) } else { (i as i64, j) };
    drawn.into_iter().enumerate().map(pair).collect()
}

#[track_caller]
fn assert_close(ours: &Tensor, theirs: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let worst = (ours - theirs).abs().max().double_value(&[]);
    // Not `>`: a NaN must not pass.
    assert!(worst <= tolerance, "{what}: {worst:e} apart");
}

#[test]
fn losses_and_gradients_are_hugging_faces() {
    let golden = golden();
    let (trainer, batch) = golden_trainer(&golden);
    trainer.momentum.follow(&trainer.params, 0.995);
    let word = "text_encoder.embeddings.word_embeddings.weight";
    assert_close(trainer.momentum.get(word).unwrap(), &golden[&format!("moved.{word}")], 1e-6, "momentum update");

    let negatives =
        Negatives { images: pairs(&golden["image_negatives"], false), texts: pairs(&golden["text_negatives"], true) };
    let losses = trainer.losses(&batch, 0.3, Some(negatives)).unwrap();
    let (itc, itm, lm) = (losses.itc.unwrap(), losses.itm.unwrap(), losses.lm.unwrap());
    for (ours, name) in [(&itc, "itc"), (&itm, "itm"), (&lm, "lm")] {
        assert_close(ours, &golden[name], 1e-5, name);
    }
    let gradient = trainer.params.gradient(&(itc + itm + lm)).unwrap();
    let mut compared = 0;
    for (name, theirs) in golden.iter().filter_map(|(k, v)| Some((k.strip_prefix("gradient.")?, v))) {
        let ours = trainer.params.part_of(&gradient, name).unwrap();
        assert!(theirs.abs().max().double_value(&[]) > 1e-3, "{name}: nothing to compare");
        assert_close(&ours, theirs, 1e-4, name);
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn itc_by_image_is_as_written_in_python() {
    let golden = golden();
    let (mut trainer, batch) = golden_trainer(&golden);
    trainer.momentum.follow(&trainer.params, 0.995);
    trainer.options.by_image = true;
    trainer.queue_ids = golden["queue_ids"].copy();
    let losses = trainer.losses(&batch, 0.3, None).unwrap();
    assert_close(&losses.itc.unwrap(), &golden["itc_by_image"], 1e-5, "ITC by image");
    let similarities = losses.similarities.unwrap();
    assert_eq!(similarities.image_to_text.size(), [6, 6], "negatives are drawn among live features");
    // A step records the image ids of the features that it queues.
    trainer.step(&batch, 1e-4, 0.3).unwrap();
    assert_eq!(Vec::<i64>::try_from(&trainer.queue_ids).unwrap()[..7], [0, 1, 2, 3, 1, 5, 9]);
}

#[test]
fn features_and_logits_are_hugging_faces() {
    let golden = golden();
    let (trainer, batch) = golden_trainer(&golden);
    let med = Med::new(&trainer.config, &trainer.params, Kind::Float, false);
    let tokens = med.image_tokens(&batch.pixels);
    let kv = med.encoder_kv(&tokens);
    assert!(med.decoder_kv(&tokens).is_none(), "BLIP's decoder shares cross-attention");
    assert_close(&med.image_features(&tokens), &golden["image_features"], 1e-5, "image features");
    assert_close(&med.text_features(&batch.texts), &golden["text_features"], 1e-5, "text features");
    assert_close(&med.match_logits(&batch.texts, &kv), &golden["itm_logits"].narrow(0, 0, 6), 1e-5, "ITM logits");
    // Predictions at padded positions do not count, and the two implementations mask them differently.
    let there = batch.texts.mask.unsqueeze(-1);
    let decoded = med.decoder_logits(&batch.texts, &kv) * &there;
    assert_close(&decoded, &(&golden["decoded"] * &there), 1e-4, "decoder logits");
}

#[test]
fn negatives_are_hard_and_never_the_same_image_or_text() {
    let golden = golden();
    let (trainer, batch) = golden_trainer(&golden);
    trainer.momentum.follow(&trainer.params, 0.995);
    let losses = trainer.losses(&batch, 0.3, None).unwrap();
    let similarities = losses.similarities.unwrap();
    let texts: Vec<Vec<i64>> = (0..6).map(|i| Vec::try_from(batch.texts.ids.get(i)).unwrap()).collect();
    let same = losses::same_pairs(&batch.image_ids, &texts);
    for (found, name) in [(&similarities.image_to_text, "text_weights"), (&similarities.text_to_image, "image_weights")]
    {
        assert_close(&losses::negative_weights(found, &same, 1e-4), &golden[name], 1e-5, name);
    }
    let mut drawn = std::collections::BTreeSet::new();
    for step in 0..200 {
        let mut rng = crate::random::generator(1, step, Purpose::Negatives);
        let negatives = losses::negatives(&similarities, &same, 1e-4, &mut rng);
        assert_eq!((negatives.images.len(), negatives.texts.len()), (6, 6));
        for (text, image) in negatives.images.iter().chain(&negatives.texts) {
            assert!(batch.image_ids[*text as usize] != batch.image_ids[*image as usize], "{text} {image}");
            assert!(texts[*text as usize] != texts[*image as usize], "{text} {image}");
        }
        drawn.insert(negatives.images);
    }
    assert!(drawn.len() > 3, "always the same negatives");
    // A batch of one picture has no negatives but can still be trained on.
    let all_same = losses::same_pairs(&[7u64; 6], &texts);
    let mut rng = crate::random::generator(1, 0, Purpose::Negatives);
    assert_eq!(
        losses::negatives(&similarities, &all_same, 1e-4, &mut rng),
        Negatives { images: vec![], texts: vec![] }
    );
}

#[test]
fn a_prompt_and_padding_are_no_targets() {
    let _held = seed_torch(1, 0, Purpose::Weights);
    let logits = Tensor::randn([2, 5, 40], (Kind::Float, Device::Cpu));
    let ids = Tensor::from_slice(&[1i64, 5, 6, 7, 2, 1, 5, 6, 2, 0]).view([2, 5]);
    let texts = Texts::new(ids.copy(), 0);
    let whole = losses::lm(&logits, &ids, &texts.mask, 0, LABEL_SMOOTHING);
    let log = logits.log_softmax(-1, Kind::Float);
    // By hand: seven targets in total, with 0.1 of each spread over the vocabulary.
    let by_hand = |skipped: i64, smoothing: f64| {
        let (mut sum, mut n) = (0.0, 0);
        for row in 0..2 {
            for at in 1 + skipped..5 {
                let target = ids.int64_value(&[row, at]);
                if target != 0 {
                    let spread = log.get(row).get(at - 1);
                    let (this, all) = (spread.double_value(&[target]), spread.mean(Kind::Double).double_value(&[]));
                    sum -= (1.0 - smoothing) * this + smoothing * all;
                    n += 1;
                }
            }
        }
        sum / f64::from(n)
    };
    assert!((whole.double_value(&[]) - by_hand(0, 0.1)).abs() < 1e-5);
    let sharp = losses::lm(&logits, &ids, &texts.mask, 0, 0.0).double_value(&[]);
    assert!((sharp - by_hand(0, 0.0)).abs() < 1e-5);
    let prompted = losses::lm(&logits, &ids, &texts.mask, 2, LABEL_SMOOTHING).double_value(&[]);
    assert!((prompted - by_hand(2, 0.1)).abs() < 1e-5, "{prompted} {}", by_hand(2, 0.1));
}

#[test]
fn adamw_is_libtorchs() {
    // More values than one update piece.
    const LENGTH: i64 = (1 << 20) + 50;
    let _held = seed_torch(5, 0, Purpose::Weights);
    let store = nn::VarStore::new(Device::Cpu);
    let start = Tensor::randn([LENGTH], (Kind::Float, Device::Cpu));
    let mut theirs = store.root().zeros("x", &[LENGTH]);
    tch::no_grad(|| theirs.copy_(&start));
    let mut optimiser = nn::AdamW { wd: 0.05, ..nn::AdamW::default() }.build(&store, 1e-2).unwrap();
    let ours = start.copy();
    let mut adamw = AdamW::new(&ours, AdamWOptions::default());
    for step in 0..10 {
        let target = Tensor::full([LENGTH], f64::from(step) * 0.1, (Kind::Float, Device::Cpu));
        adamw.step(&ours, &((&ours - &target) * 2.0), 1e-2);
        optimiser.backward_step(&(&theirs - &target).square().sum(Kind::Float));
    }
    assert_close(&ours, &theirs.detach(), 1e-6, "after 10 steps");
    assert!((&ours - &start).abs().max().double_value(&[]) > 0.05);
}

#[test]
fn clipping_shortens_and_says_the_length() {
    let mut gradient = Tensor::from_slice(&[3f32, 4.0]);
    assert_eq!(clip(&mut gradient, 10.0), 5.0);
    assert_close(&gradient, &Tensor::from_slice(&[3f32, 4.0]), 0.0, "short enough");
    assert_eq!(clip(&mut gradient, 1.0), 5.0);
    assert_close(&gradient, &Tensor::from_slice(&[0.6f32, 0.8]), 1e-6, "clipped");
}

#[test]
fn steps_are_reproducible_and_learn() {
    let golden = golden();
    let run = |bfloat16: bool, seed: u64| {
        let dropout = MedConfig { dropout: 0.1, drop_path: 0.1, ..config() };
        let mut trainer = Trainer::new(dropout, StepOptions { bfloat16, ..options() }, seed, Device::Cpu).unwrap();
        let batch = golden_trainer(&golden).1;
        (0..40).map(|_| trainer.step(&batch, 3e-3, 0.0).unwrap()).collect::<Vec<_>>()
    };
    let reports = run(false, 1);
    assert_eq!(reports, run(false, 1));
    assert_ne!(reports[0], run(false, 2)[0]);
    let (first, last) = (reports[0], reports[39]);
    assert!(last.lm < 0.7 * first.lm && last.itc < first.itc, "{first:?} {last:?}");
    assert!(last.gradient_norm > 0.0 && last.without_negative == 0);
    let rounded = run(true, 1);
    assert!((rounded[0].lm - first.lm).abs() < 0.05 && (rounded[0].itc - first.itc).abs() < 0.05, "{:?}", rounded[0]);
    assert!(rounded[39].lm < 0.7 * rounded[0].lm);
}

#[test]
fn accumulated_halves_make_a_whole() {
    let golden = golden();
    let (mut trainer, batch) = golden_trainer(&golden);
    trainer.options.itc = false;
    trainer.options.itm = false;
    let mut whole = None;
    trainer.accumulate(&batch, 0.0, 1.0, &mut whole).unwrap();
    let mut halves = None;
    for _ in 0..2 {
        trainer.accumulate(&batch, 0.0, 0.5, &mut halves).unwrap();
    }
    assert_close(&halves.unwrap(), &whole.unwrap(), 1e-6, "gradient");
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let golden = golden();
    let refused = |change: &dyn Fn(&mut Trainer, &mut Batch), words: &str| {
        let (mut trainer, mut batch) = golden_trainer(&golden);
        change(&mut trainer, &mut batch);
        let error = trainer.step(&batch, 1e-4, 0.0).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|t, _| t.options.queue = 10, "must divide the queue of 10");
    refused(&|_, b| b.image_ids.truncate(3), "a batch of 3 image ids");
    refused(&|_, b| b.texts = Texts::new(&b.texts.ids + 20, 0), "in a vocabulary of 40");
    refused(&|_, b| b.pixels = b.pixels.narrow(2, 0, 8), "pixels [6, 3, 8, 32]");
    refused(&|_, b| b.pixels = &b.pixels * f64::NAN, "not finite");
    refused(&|t, _| (t.options.itc, t.options.itm, t.options.lm) = (false, false, false), "all losses are off");
    let odd = MedConfig { vision: VisionConfig { image_size: 33, ..config().vision }, ..config() };
    let error = Trainer::new(odd, options(), 1, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("image_size 33"), "{error}");
    assert!("some".parse::<Sharing>().unwrap_err().to_string().contains("all-but-sa"));
}

#[test]
fn parameters_count_as_in_table_3() {
    for (name, millions) in [("all", 224), ("all-but-ca", 252), ("all-but-sa", 252), ("none", 361)] {
        let config = MedConfig { sharing: name.parse().unwrap(), ..MedConfig::base(224) };
        let (count, parts) = parameter_counts(&config);
        let off = (count as f64 / 1e6 - f64::from(millions)).abs();
        assert!(off < 1.5, "{name}: {count}, {parts:?}");
    }
}

/// A model with the example models' vocabulary gives the same results after export, in the SQL functions' own loader.
#[test]
fn exports_are_what_the_sql_functions_load() {
    let tokenizer = std::fs::read_to_string(root().join("tests/fixtures/models/matcher/tokenizer.json")).unwrap();
    for sharing in ["all", "all-but-ca", "all-but-sa", "none"] {
        let small = config();
        let text = TextConfig { vocab_size: 30524, bos_token_id: 30522, sep_token_id: 102, ..small.text.clone() };
        let config = MedConfig { sharing: sharing.parse().unwrap(), text, enc_token_id: 30523, ..small };
        let trainer = Trainer::new(config, options(), 9, Device::Cpu).unwrap();
        let held = seed_torch(3, 0, Purpose::Weights);
        for name in trainer.params.names() {
            let old = trainer.params.get(name).unwrap();
            let noise = Tensor::randn(old.size(), (Kind::Float, Device::Cpu)) * if old.dim() > 1 { 0.3 } else { 0.1 };
            trainer.params.set(name, &(old.detach() + noise)).unwrap();
        }
        let med = Med::new(&trainer.config, &trainer.params, Kind::Float, false);
        let pixels = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        drop(held);
        let tokens = med.image_tokens(&pixels);
        let kv = med.encoder_kv(&tokens);
        let text = [101i64, 2417, 6207, 102];
        let texts = Texts::new(Tensor::from_slice(&text).view([1, 4]).repeat([2, 1]), 0);
        let match_logits = med.match_logits(&texts, &kv);
        let own = med.decoder_kv(&tokens);
        let decoded = med.decoder_logits(&texts, own.as_ref().unwrap_or(&kv)).select(1, 2);
        let features = med.image_features(&tokens);

        for what in [Export::Captioner, Export::Matcher, Export::Med] {
            let dir = tempfile::tempdir().unwrap();
            let preprocessor = blip_preprocessor(32).unwrap();
            export(dir.path(), &trainer.config, &trainer.params, what, &tokenizer, &preprocessor, Kind::Float).unwrap();
            let checkpoint = std::sync::Arc::new(Checkpoint::open(dir.path()).unwrap());
            let inspection = capfilt_udfs::inspect(dir.path()).unwrap();
            assert!(inspection.unknown_tensors.is_empty(), "{what:?}: {:?}", inspection.unknown_tensors);
            let loaded = OrtMed::new(checkpoint, "cpu", Precision::Fp32, 1).unwrap();
            let flat = Vec::<f32>::try_from(pixels.reshape([-1])).unwrap();
            let images = loaded.encode_pixels(2, flat).unwrap();
            let images: Vec<&Embedding> = images.iter().collect();
            let close = |theirs: &[f32], ours: &Tensor, of: &str| {
                let theirs = Tensor::from_slice(theirs).view(ours.size().as_slice());
                assert_close(ours, &theirs, 2e-4, &format!("{sharing}, {what:?}, {of}"));
            };
            if what != Export::Captioner {
                let ids: Vec<u32> = [30523].into_iter().chain(text[1..].iter().map(|id| *id as u32)).collect();
                let logits = loaded.match_logits(&images, &[vec![&ids], vec![&ids]]).unwrap();
                close(&logits.concat().concat(), &match_logits, "ITM logits");
                use capfilt_udfs::blip::Med as _;
                let vectors: Vec<f32> = loaded.project(&images).unwrap().iter().flat_map(|v| v.to_vec()).collect();
                close(&vectors, &features, "image features");
            }
            if what != Export::Matcher {
                let logits = loaded.first_logits(&images, &[30522, 2417, 6207]).unwrap();
                close(&logits.concat(), &decoded, "decoder logits");
            }
            // Import gives the same parameters again.
            let again = Trainer::new(trainer.config.clone(), options(), 10, Device::Cpu).unwrap();
            let missing = import(dir.path(), &again.params).unwrap();
            match what {
                Export::Med => {
                    // Includes the temperature, with which finetuning continues.
                    assert_eq!(missing, [""; 0]);
                    assert_close(
                        &again.params.flat().narrow(0, 0, 1000),
                        &trainer.params.flat().narrow(0, 0, 1000),
                        0.0,
                        "import",
                    );
                }
                Export::Captioner => assert!(missing.iter().all(|n| !n.starts_with("vision_model")), "{missing:?}"),
                Export::Answerer => panic!("it is no part of a MED"),
                Export::Matcher => {
                    assert!(missing.iter().all(|n| n.starts_with("text_decoder") || n == "temp"), "{missing:?}")
                }
            }
        }
    }
}
