//! The model that a run begins with: from scratch, from a checkpoint, or from Hugging Face's ViT and BERT.

use std::collections::BTreeMap;
use std::path::Path;

use capfilt_udfs::blip::BlipConfig;
use capfilt_udfs::image::Preprocessor;
use capfilt_udfs::text::{SpecialIds, Tokenizer};
use tch::{Kind, Tensor};

use crate::checkpoint::{blip_preprocessor, import, set};
use crate::config::MedConfig;
use crate::error::{Error, Result};
use crate::params::Params;
use crate::settings::Settings;
use crate::step::Trainer;

/// A model before its first step, and what belongs to it.
#[derive(Debug)]
pub struct Start {
    /// The model.
    pub trainer: Trainer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokenizer's file.
    pub tokenizer_json: String,
    /// Its image preprocessing.
    pub preprocessor: Preprocessor,
    /// Parameters that model.start, vit or bert did not have and that were drawn anew; all of them from scratch.
    pub drawn: Vec<String>,
}

/// Makes the model that settings ask for.
///
/// # Errors
/// Files that are missing or broken, and sizes that do not fit; they name the file.
pub fn start(settings: &Settings) -> Result<Start> {
    let m = &settings.model;
    let from = |path: &Path| !path.as_os_str().is_empty();
    if from(&m.start) && (from(&m.vit) || from(&m.bert)) {
        return Err(Error::Option("model.start and model.vit or model.bert exclude each other".into()));
    }
    let path = if from(&m.start) { m.start.join("tokenizer.json") } else { m.tokenizer.clone() };
    if !from(&path) {
        return Err(Error::Option(
            "give model.start, a checkpoint to go on from, or model.tokenizer, a tokenizer.json".into(),
        ));
    }
    let tokenizer_json = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let ids = SpecialIds::read(&path)?;
    let (config, preprocessor) =
        if from(&m.start) { begun(settings, &ids)? } else { (m.config(&ids)?, blip_preprocessor(m.image_size)?) };
    let tokenizer = Tokenizer::read(&path, &config.text)?;
    // [DEC] is the prompt's first token.
    let prompt = tokenizer.caption_prompt(&settings.loss.prompt).len() as i64 - 1;
    let trainer = Trainer::new(config, settings.step_options(prompt), settings.seed, settings.device()?)?;
    let mut drawn = trainer.params().names().to_vec();
    if from(&m.start) {
        drawn = import(&m.start.join("model.safetensors"), trainer.params())?;
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

/// Sizes and preprocessing of model.start.
fn begun(settings: &Settings, ids: &SpecialIds) -> Result<(MedConfig, Preprocessor)> {
    let m = &settings.model;
    let BlipConfig { mut vision, text, projection, .. } = BlipConfig::read(&m.start)?;
    let path = m.start.join("preprocessor_config.json");
    let json = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let mut preprocessor = Preprocessor::from_json(&json).map_err(|e| Error::file(&path, e))?;
    if m.image_size > 0 {
        vision.image_size = m.image_size;
        (preprocessor.width, preprocessor.height) = (m.image_size as u32, m.image_size as u32);
    }
    let config = MedConfig {
        vision,
        text,
        projection,
        sharing: m.sharing.parse()?,
        enc_token_id: ids.enc,
        dropout: m.dropout,
        drop_path: m.drop_path,
    };
    config.validate()?;
    Ok((config, preprocessor))
}

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of a folder's model.safetensors, their names without these first parts.
fn read(dir: &Path, prefixes: &[&str]) -> Result<Tensors> {
    let path = dir.join("model.safetensors");
    let tensors = Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, e))?;
    let short = |name: String| match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(tail) => tail.to_string(),
        None => name,
    };
    Ok(tensors.into_iter().map(|(name, tensor)| (short(name), tensor)).collect())
}

/// Sets `name` from a tensor that must be there, and notes it.
fn take(
    dir: &Path,
    params: &Params,
    found: &mut Vec<String>,
    name: String,
    value: Option<Tensor>,
    from: &str,
) -> Result<()> {
    let path = dir.join("model.safetensors");
    let Some(value) = value else { return Err(Error::file(path, format!("it has no tensor {from}"))) };
    set(params, &name, &value).map_err(|e| Error::file(path, e))?;
    found.push(name);
    Ok(())
}

/// Hugging Face's ViT or DeiT (`ViTModel` and what contains one). Returns the parameters that it set.
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

/// Hugging Face's BERT: embeddings, self-attention of encoder and decoder, feed-forward layers, LM head. Cross-attention is drawn
/// anew, as are the words that BERT does not have.
fn import_bert(dir: &Path, params: &Params) -> Result<Vec<String>> {
    let tensors = read(dir, &["bert."])?;
    // Old files have TensorFlow's names for a norm's two tensors.
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
        // A vocabulary with [DEC] and [ENC] is longer, a model for short texts has fewer positions.
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
        // BertModel by itself has no LM head.
        if value.is_none() && from.starts_with("cls.") {
            continue;
        }
        take(dir, params, &mut found, name.clone(), value, from)?;
    }
    Ok(found)
}
