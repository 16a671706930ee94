//! Initial model of a run: from scratch, from a checkpoint, or from Hugging Face's ViT and BERT.

use std::collections::BTreeMap;
use std::path::Path;

use capfilt_udfs::blip::{BlipConfig, Checkpoint};
use capfilt_udfs::image::Preprocessor;
use capfilt_udfs::text::{SpecialIds, Tokenizer, tokenizer_json};
use tch::{Kind, Tensor};

use crate::checkpoint::{blip_preprocessor, import, read_tensors, set};
use crate::config::MedConfig;
use crate::error::{Error, Result};
use crate::params::Params;
use crate::settings::Settings;
use crate::step::Trainer;

/// A model before its first step, with its tokenizer and preprocessing.
#[derive(Debug)]
pub struct Start {
    /// Trainer that holds the model.
    pub trainer: Trainer,
    /// Tokenizer of the model.
    pub tokenizer: Tokenizer,
    /// Text of the tokenizer's file.
    pub tokenizer_json: String,
    /// Image preprocessing of the model.
    pub preprocessor: Preprocessor,
    /// Parameters that model.start, vit or bert lacks and that were initialised randomly; all of them for a model from
    /// scratch.
    pub drawn: Vec<String>,
}

/// Creates the initial model according to the settings.
///
/// # Errors
/// Files that are missing or broken, and sizes that do not match; the message names the file.
pub fn start(settings: &Settings) -> Result<Start> {
    let m = &settings.model;
    let from = |path: &Path| !path.as_os_str().is_empty();
    if from(&m.start) && (from(&m.vit) || from(&m.bert)) {
        return Err(Error::Option("model.start and model.vit or model.bert exclude each other".into()));
    }
    let path = if from(&m.start) { &m.start } else { &m.tokenizer };
    if !from(path) {
        return Err(Error::Option(
            "give model.start, a checkpoint to go on from, or model.tokenizer, a tokenizer.json".into(),
        ));
    }
    let tokenizer_json = tokenizer_json(path)?;
    let ids = SpecialIds::read(path)?;
    let (config, preprocessor) = if from(&m.start) {
        begun(settings, &ids)?
    } else {
        (settings.config(&ids)?, blip_preprocessor(m.image_size)?)
    };
    let tokenizer = Tokenizer::read(path, &config.text)?;
    // [DEC] is the first token of the prompt and is not counted.
    let prompt = tokenizer.caption_prompt(&settings.loss.prompt).len() as i64 - 1;
    let trainer = Trainer::new(config, settings.step_options(prompt), settings.seed, settings.device()?)?;
    let mut drawn = trainer.params().names().to_vec();
    if from(&m.start) {
        drawn = import(&m.start, trainer.params())?;
    }
    let mut found = vec![];
    if from(&m.vit) {
        found.extend(import_vit(&m.vit, trainer.params())?);
    }
    if from(&m.bert) {
        found.extend(import_bert(&m.bert, trainer.params())?);
    }
    drawn.retain(|name| !found.contains(name) && name != "temp");
    trainer.begin_momentum();
    Ok(Start { trainer, tokenizer, tokenizer_json, preprocessor, drawn })
}

/// Sizes and preprocessing of the checkpoint in model.start.
fn begun(settings: &Settings, ids: &SpecialIds) -> Result<(MedConfig, Preprocessor)> {
    let m = &settings.model;
    let checkpoint = Checkpoint::open(&m.start)?;
    if !checkpoint.tied() {
        let reason = "its LM head is not the word embedding (tie_word_embeddings is false); training makes it so, and would lose the head";
        return Err(Error::file(&m.start, reason));
    }
    if checkpoint.config().is_answerer() && !settings.answers()? {
        return Err(Error::file(&m.start, "it is an answerer of questions, from which only finetune-vqa goes on"));
    }
    let BlipConfig { mut vision, text, projection, .. } = checkpoint.config().clone();
    let mut preprocessor = checkpoint.preprocessor().clone();
    if m.image_size > 0 {
        vision.image_size = m.image_size;
        (preprocessor.width, preprocessor.height) = (m.image_size as u32, m.image_size as u32);
    }
    let config = MedConfig {
        vision,
        text,
        projection,
        sharing: settings.sharing()?,
        decoder_reads: settings.decoder_reads()?,
        enc_token_id: ids.enc,
        dropout: m.dropout,
        drop_path: m.drop_path,
    };
    config.validate()?;
    Ok((config, preprocessor))
}

type Tensors = BTreeMap<String, Tensor>;

/// Reads the tensors of a model's folder and strips these prefixes from their names.
fn read(dir: &Path, prefixes: &[&str]) -> Result<Tensors> {
    let tensors = read_tensors(dir)?;
    let short = |name: String| match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(tail) => tail.to_string(),
        None => name,
    };
    Ok(tensors.into_iter().map(|(name, tensor)| (short(name), tensor)).collect())
}

/// Sets `name` from a tensor, which must exist, and records it in `found`.
fn take(
    dir: &Path,
    params: &Params,
    found: &mut Vec<String>,
    name: String,
    value: Option<Tensor>,
    from: &str,
) -> Result<()> {
    let Some(value) = value else { return Err(Error::file(dir, format!("it has no tensor {from}"))) };
    set(params, &name, &value).map_err(|e| Error::file(dir, e))?;
    found.push(name);
    Ok(())
}

/// Imports Hugging Face's ViT or DeiT (`ViTModel` and models that contain one). Returns the parameters that it set.
fn import_vit(dir: &Path, params: &Params) -> Result<Vec<String>> {
    let tensors = read(dir, &["vit.", "deit."])?;
    let mut found = vec![];
    let joined = |from: &str| {
        let part = |which| tensors.get(&from.replace('*', which));
        Some(Tensor::cat(&[part("query")?, part("key")?, part("value")?], 0))
    };
    let mut copy = |name: String, from: String| {
        let value = if from.contains('*') { joined(&from) } else { tensors.get(&from).map(Tensor::shallow_clone) };
        take(dir, params, &mut found, name, value, &from)
    };
    let embeddings = "vision_model.embeddings.";
    copy(format!("{embeddings}class_embedding"), "embeddings.cls_token".into())?;
    copy(format!("{embeddings}position_embedding"), "embeddings.position_embeddings".into())?;
    for tail in ["weight", "bias"] {
        let from = format!("embeddings.patch_embeddings.projection.{tail}");
        copy(format!("{embeddings}patch_embedding.{tail}"), from)?;
        copy(format!("vision_model.post_layernorm.{tail}"), format!("layernorm.{tail}"))?;
    }
    let layers = (0..).take_while(|i| params.get(&format!("vision_model.encoder.layers.{i}.mlp.fc1.weight")).is_some());
    for i in layers.collect::<Vec<usize>>() {
        let (own, theirs) = (format!("vision_model.encoder.layers.{i}."), format!("encoder.layer.{i}."));
        for tail in ["weight", "bias"] {
            for (name, from) in [
                ("layer_norm1", "layernorm_before"),
                ("layer_norm2", "layernorm_after"),
                ("self_attn.projection", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ] {
                copy(format!("{own}{name}.{tail}"), format!("{theirs}{from}.{tail}"))?;
            }
            copy(format!("{own}self_attn.qkv.{tail}"), format!("{theirs}attention.attention.*.{tail}"))?;
        }
    }
    Ok(found)
}

/// Imports Hugging Face's BERT: embeddings, self-attention of encoder and decoder, feed-forward layers, LM head.
/// Cross-attention and words that BERT lacks stay randomly initialised.
fn import_bert(dir: &Path, params: &Params) -> Result<Vec<String>> {
    let tensors = read(dir, &["bert."])?;
    // Old files use TensorFlow's names for the two tensors of a norm.
    let get = |name: &str| {
        let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        tensors.get(name).or_else(|| tensors.get(&old)).map(Tensor::shallow_clone)
    };
    let mut found = vec![];
    for name in params.names() {
        let tail = name.strip_prefix("text_encoder.").or_else(|| name.strip_prefix("text_decoder.bert."));
        let Some(from) = tail.or_else(|| name.strip_prefix("text_decoder.")) else { continue };
        if from.contains("crossattention") {
            continue;
        }
        let (value, own) = (get(from), params.get(name));
        // A vocabulary with [DEC] and [ENC] is longer, and a model for short texts has fewer positions.
        let rows =
            from.contains("word_embeddings") || from.contains("position_embeddings") || from == "cls.predictions.bias";
        let value = match (value, own) {
            (Some(value), Some(own)) if rows => {
                let whole = own.detach().copy();
                let n = value.size()[0].min(whole.size()[0]);
                if value.dim() != whole.dim() || (value.dim() > 1 && value.size()[1] != whole.size()[1]) {
                    Some(value)
                } else {
                    whole.narrow(0, 0, n).copy_(&value.narrow(0, 0, n).to_kind(Kind::Float));
                    Some(whole)
                }
            }
            (value, _) => value,
        };
        // A bare BertModel has no LM head.
        if value.is_none() && from.starts_with("cls.") {
            continue;
        }
        take(dir, params, &mut found, name.clone(), value, from)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use capfilt_udfs::blip::generate::{GenerationOptions, Strategy};
    use capfilt_udfs::blip::{Embedding, GenerateRequest, Med as _, OrtMed, Precision};
    use capfilt_udfs::image::{Limits, load};
    use capfilt_udfs::text::ItmToken;
    use serde_json::Value;
    use sha2::Digest as _;
    use tch::Device;

    use super::*;
    use crate::checkpoint::{Export, export};
    use crate::random::{Purpose, seed_torch};
    use crate::tests::root;

    fn settings(changes: &[String]) -> Settings {
        let all: Vec<String> = ["model.image_size=0", "loss.queue=0", "device=cpu"]
            .iter()
            .map(|c| c.to_string())
            .chain(changes.to_vec())
            .collect();
        Settings::read(&[], None, &all).unwrap()
    }

    /// Checkpoints written by transformers, imported and exported again, give the same results in the SQL functions'
    /// engine as in transformers (tests/fixtures/exported.py).
    #[test]
    fn exports_are_to_transformers_what_they_are_to_us() {
        let golden = std::fs::read_to_string(root().join("tests/fixtures/exported.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let texts = |key: &str| -> Vec<String> { serde_json::from_value(golden[key].clone()).unwrap() };
        let open = |name: &str, what: Export| {
            let from = root().join("tests/fixtures/models").join(name);
            let began = start(&settings(&[format!("model.start={}", from.display())])).unwrap();
            let lost: Vec<&String> = began.drawn.iter().filter(|name| what.needs(name)).collect();
            assert!(lost.is_empty(), "{lost:?}");
            let dir = tempfile::tempdir().unwrap();
            let Start { trainer, tokenizer_json, preprocessor, .. } = &began;
            export(dir.path(), trainer.config(), trainer.params(), what, tokenizer_json, preprocessor, Kind::Float)
                .unwrap();
            OrtMed::new(Arc::new(Checkpoint::open(dir.path()).unwrap()), "cpu", Precision::Fp32, 1).unwrap()
        };
        let encode = |med: &OrtMed| -> Vec<Embedding> {
            let pixels: Vec<Vec<u8>> = texts("images")
                .iter()
                .map(|name| std::fs::read(root().join("tests/fixtures/images").join(name)).unwrap())
                .map(|bytes| load(&bytes, &Limits::default(), med.preprocessor()).unwrap())
                .collect();
            med.encode(&pixels.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
        };
        let captioner = open("captioner", Export::Captioner);
        let images = encode(&captioner);
        let images: Vec<&Embedding> = images.iter().collect();
        for (name, strategy) in [("greedy", Strategy::Greedy), ("beam", Strategy::Beam)] {
            let options = GenerationOptions { strategy, ..GenerationOptions::default() };
            let request = GenerateRequest { prompt: captioner.tokenizer().caption_prompt(""), key: [0; 32] };
            let made = captioner.generate(&images, &vec![vec![request]; images.len()], &options, &|| false).unwrap();
            let made: Vec<String> = made.iter().map(|ids| captioner.tokenizer().decode(&ids[0])).collect();
            let theirs: Vec<String> = serde_json::from_value(golden["captions"][name].clone()).unwrap();
            // transformers' tokenizer leaves spaces before punctuation.
            let bare = |texts: &[String]| texts.iter().map(|t| t.replace(' ', "")).collect::<Vec<_>>();
            assert_eq!(bare(&made), bare(&theirs), "{name}");
        }
        let matcher = open("matcher", Export::Matcher);
        let images = encode(&matcher);
        let images: Vec<&Embedding> = images.iter().collect();
        let features = matcher.project(&images).unwrap();
        for (t, text) in texts("texts").iter().enumerate() {
            let ids = matcher.tokenizer().match_ids(text, 35, ItmToken::Enc);
            let scores = matcher.match_texts(&images, &vec![vec![&*ids]; images.len()]).unwrap();
            let feature = matcher.encode_texts(&[&matcher.tokenizer().itc_ids(text, 35)]).unwrap();
            for (i, score) in scores.iter().enumerate() {
                let itc: f32 = features[i].iter().zip(feature[0].iter()).map(|(a, b)| a * b).sum();
                for (ours, theirs) in [(score[0], &golden["itm"][i][t]), (itc, &golden["itc"][i][t])] {
                    let off = (f64::from(ours) - theirs.as_f64().unwrap()).abs();
                    assert!(off < 1e-3, "{text}, image {i}: {ours} and {theirs}");
                }
            }
        }
    }

    /// A run can start from every layout that the SQL functions load, and from none that they refuse.
    #[test]
    fn layouts_of_other_programs_begin_a_run() {
        let fixtures = root().join("tests/fixtures");
        let from = fixtures.join("models/matcher");
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let begin = |path: &Path| start(&settings(&[format!("model.start={}", path.display())]));
        let plain = begin(&from).unwrap();

        // Shards, vocab.txt and processor_config.json as transformers writes them.
        std::fs::copy(from.join("config.json"), at("config.json")).unwrap();
        std::fs::copy(fixtures.join("hub/transformers-5.24/processor_config.json"), at("processor_config.json"))
            .unwrap();
        for name in ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"] {
            std::fs::copy(fixtures.join("hub/transformers-4.57").join(name), at(name)).unwrap();
        }
        let tokenizer: Value =
            serde_json::from_str(&std::fs::read_to_string(from.join("tokenizer.json")).unwrap()).unwrap();
        let words = tokenizer["model"]["vocab"].as_object().unwrap();
        let words: BTreeMap<u64, &String> = words.iter().map(|(word, id)| (id.as_u64().unwrap(), word)).collect();
        std::fs::write(at("vocab.txt"), words.values().map(|word| format!("{word}\n")).collect::<String>()).unwrap();
        let tensors = Tensor::read_safetensors(from.join("model.safetensors")).unwrap();
        let shard =
            |name: &str| format!("model-0000{}-of-00002.safetensors", 1 + usize::from(name.starts_with("text")));
        for file in [shard("vision"), shard("text")] {
            let part: Vec<(&String, &Tensor)> =
                tensors.iter().filter(|(name, _)| shard(name) == file).map(|(name, tensor)| (name, tensor)).collect();
            Tensor::write_safetensors(&part, at(&file)).unwrap();
        }
        let map: BTreeMap<&String, String> = tensors.iter().map(|(name, _)| (name, shard(name))).collect();
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(at("model.safetensors.index.json"), index.to_string()).unwrap();
        let other = begin(dir.path()).unwrap();
        assert_eq!((&other.preprocessor, &other.drawn), (&plain.preprocessor, &plain.drawn));
        for text in ["a red apple [ENC]", "naïve 猫 xylophonist"] {
            assert_eq!(other.tokenizer.itc_ids(text, 20), plain.tokenizer.itc_ids(text, 20));
        }
        let params = other.trainer.params();
        for name in params.names().iter().filter(|name| !plain.drawn.contains(name)) {
            assert!(params.get(name).unwrap().equal(plain.trainer.params().get(name).unwrap()), "{name}");
        }
        // The start's `tokenizer_json` is a complete tokenizer.json.
        std::fs::write(at("tokenizer.json"), &other.tokenizer_json).unwrap();
        assert_eq!(SpecialIds::read(&at("tokenizer.json")).unwrap(), SpecialIds::read(&from).unwrap());
        let card =
            crate::card::began_with(&settings(&[format!("model.start={}", dir.path().display())]).model).unwrap();
        assert!(card.contains("00001-of-00002") && card.contains("00002-of-00002"), "{card}");

        std::fs::write(at(&shard("text")), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        assert!(begin(dir.path()).unwrap_err().to_string().contains("git lfs pull"));
        std::fs::remove_file(at("model.safetensors.index.json")).unwrap();
        std::fs::write(at("pytorch_model.bin"), "PK").unwrap();
        std::fs::remove_file(at(&shard("text"))).unwrap();
        std::fs::remove_file(at(&shard("vision"))).unwrap();
        assert!(begin(dir.path()).unwrap_err().to_string().contains("hf:Salesforce"));
    }

    /// Training ties the LM head to the word embedding, so an untied head is refused rather than silently lost.
    #[test]
    fn an_untied_head_begins_no_run() {
        let from = root().join("tests/fixtures/models/captioner");
        let dir = tempfile::tempdir().unwrap();
        for name in ["preprocessor_config.json", "tokenizer.json"] {
            std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        config["tie_word_embeddings"] = false.into();
        config["text_config"]["tie_word_embeddings"] = false.into();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let mut tensors = Tensor::read_safetensors(from.join("model.safetensors")).unwrap();
        let words = tensors.iter().find(|(name, _)| name.ends_with("word_embeddings.weight")).unwrap().1.copy();
        tensors.push(("text_decoder.cls.predictions.decoder.weight".into(), words / 2.0));
        Tensor::write_safetensors(&tensors, dir.path().join("model.safetensors")).unwrap();
        let error = start(&settings(&[format!("model.start={}", dir.path().display())])).unwrap_err().to_string();
        assert!(error.contains("LM head") && error.contains("tie_word_embeddings"), "{error}");
    }

    /// Hugging Face's ViT and BERT are found under their own names, old and new.
    #[test]
    fn vit_and_bert_find_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = dir.path().join("tokenizer.json");
        std::fs::write(&tokenizer, crate::world::tokenizer().to_string()).unwrap();
        let (vit, bert) = (dir.path().join("vit"), dir.path().join("bert"));
        let options = (Kind::Float, Device::Cpu);
        let sizes = "model.vision_width=8 model.vision_mlp_width=12 model.vision_layers=2 model.vision_heads=2 model.image_size=32 \
                     model.text_width=6 model.text_mlp_width=10 model.text_layers=1 model.text_heads=2 model.text_positions=9";
        let mut changes: Vec<String> = sizes.split_whitespace().map(String::from).collect();
        changes.push(format!("model.tokenizer={}", tokenizer.display()));
        let write = |folder: &Path, tensors: &[(String, Vec<i64>)]| {
            std::fs::create_dir_all(folder).unwrap();
            let _held = seed_torch(1, 0, Purpose::Weights);
            let filled: Vec<(String, Tensor)> =
                tensors.iter().map(|(name, shape)| (name.clone(), Tensor::randn(shape, options))).collect();
            Tensor::write_safetensors(&filled, folder.join("model.safetensors")).unwrap();
            filled.into_iter().collect::<Tensors>()
        };
        let both = |name: String, shape: Vec<i64>| {
            [(format!("{name}.bias"), vec![shape[0]]), (format!("{name}.weight"), shape)]
        };
        let mut of_vit = vec![
            ("vit.embeddings.cls_token".to_string(), vec![1, 1, 8]),
            // A checkpoint with 7 x 7 patches for a model with 2 x 2.
            ("vit.embeddings.position_embeddings".into(), vec![1, 50, 8]),
            ("vit.embeddings.patch_embeddings.projection.weight".into(), vec![8, 3, 16, 16]),
            ("vit.embeddings.patch_embeddings.projection.bias".into(), vec![8]),
            ("vit.layernorm.weight".into(), vec![8]),
            ("vit.layernorm.bias".into(), vec![8]),
        ];
        for i in 0..2 {
            let layer = format!("vit.encoder.layer.{i}.");
            for (name, shape) in [
                ("attention.attention.query", vec![8, 8]),
                ("attention.attention.key", vec![8, 8]),
                ("attention.attention.value", vec![8, 8]),
                ("attention.output.dense", vec![8, 8]),
                ("intermediate.dense", vec![12, 8]),
                ("output.dense", vec![8, 12]),
            ] {
                of_vit.extend(both(format!("{layer}{name}"), shape));
            }
            for norm in ["layernorm_before", "layernorm_after"] {
                of_vit.extend(["weight", "bias"].map(|tail| (format!("{layer}{norm}.{tail}"), vec![8])));
            }
        }
        // BERT's vocabulary lacks [DEC] and [ENC].
        let known_words = crate::world::tokens().len() as i64 - 2;
        let mut of_bert = vec![
            ("bert.embeddings.word_embeddings.weight".to_string(), vec![known_words, 6]),
            ("bert.embeddings.position_embeddings.weight".into(), vec![20, 6]),
            ("bert.embeddings.LayerNorm.gamma".into(), vec![6]),
            ("bert.embeddings.LayerNorm.beta".into(), vec![6]),
        ];
        for (name, shape) in [
            ("attention.self.query", vec![6, 6]),
            ("attention.self.key", vec![6, 6]),
            ("attention.self.value", vec![6, 6]),
            ("attention.output.dense", vec![6, 6]),
            ("intermediate.dense", vec![10, 6]),
            ("output.dense", vec![6, 10]),
        ] {
            of_bert.extend(both(format!("bert.encoder.layer.0.{name}"), shape));
        }
        for norm in ["attention.output", "output"] {
            of_bert.extend(
                ["weight", "bias"].map(|tail| (format!("bert.encoder.layer.0.{norm}.LayerNorm.{tail}"), vec![6])),
            );
        }
        let (of_vit, of_bert) = (write(&vit, &of_vit), write(&bert, &of_bert));
        changes.push(format!("model.vit={}", vit.display()));
        changes.push(format!("model.bert={}", bert.display()));
        let began = start(&settings(&[&changes[..], &["model.image_size=32".into()]].concat())).unwrap();
        let params = began.trainer.params();
        let same = |own: &str, theirs: Tensor| {
            let own = params.get(own).unwrap();
            assert_eq!(own.size(), theirs.size());
            assert!((own - theirs).abs().max().double_value(&[]) < 1e-6);
        };
        let layer = "vit.encoder.layer.1.attention.attention.".trim_start_matches("vit.");
        let parts = ["query", "key", "value"].map(|part| of_vit[&format!("vit.{layer}{part}.weight")].shallow_clone());
        same("vision_model.encoder.layers.1.self_attn.qkv.weight", Tensor::cat(&parts, 0));
        same("vision_model.encoder.layers.0.mlp.fc2.bias", of_vit["vit.encoder.layer.0.output.dense.bias"].copy());
        let query = &of_bert["bert.encoder.layer.0.attention.self.query.weight"];
        same("text_encoder.encoder.layer.0.attention.self.query.weight", query.copy());
        same("text_decoder.bert.encoder.layer.0.attention.self.query.weight", query.copy());
        same("text_encoder.embeddings.LayerNorm.weight", of_bert["bert.embeddings.LayerNorm.gamma"].copy());
        let words = params.get("text_encoder.embeddings.word_embeddings.weight").unwrap();
        let known = &of_bert["bert.embeddings.word_embeddings.weight"];
        assert!((words.narrow(0, 0, known_words) - known).abs().max().double_value(&[]) < 1e-6);
        // Parts that neither has stay randomly initialised: cross-attention, heads, projections.
        assert!(
            began.drawn.iter().any(|name| name.contains("crossattention"))
                && began.drawn.contains(&"vision_proj.weight".into())
        );
        assert!(
            !began.drawn.iter().any(|name| name.contains("embeddings") || name.contains("self_attn")),
            "{:?}",
            began.drawn
        );

        let card = crate::card::began_with(&settings(&changes).model).unwrap();
        for folder in [&vit, &bert] {
            let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
            let digest = hex::encode(sha2::Sha256::digest(bytes));
            assert!(
                card.contains(&format!("`{}`, sha256 {digest}.", folder.join("model.safetensors").display())),
                "{card}"
            );
        }

        std::fs::remove_file(bert.join("model.safetensors")).unwrap();
        let error = start(&settings(&changes)).unwrap_err().to_string();
        assert!(error.contains("bert"), "{error}");
        changes.push(format!("model.start={}", vit.display()));
        assert!(start(&settings(&changes)).unwrap_err().to_string().contains("exclude each other"));
        assert!(start(&settings(&[])).unwrap_err().to_string().contains("model.tokenizer"));
    }
}
