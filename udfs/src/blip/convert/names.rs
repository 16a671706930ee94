//! Translation of the names and sizes in BLIP's own checkpoints to Hugging Face's.
//!
//! Names are those of transformers' `convert_blip_original_pytorch_to_hf.py`. Sizes are inferred from tensor shapes,
//! since a `.pth` file has no config.json.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::archive::Stored;
use crate::text::SpecialIds;

/// Width of an attention head in every BLIP: 768 has 12 heads, 1024 has 16. Tensor shapes do not show it.
const HEAD: usize = 64;

/// Outcome of converting a tensor.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    Named(String),
    /// Needed only for training: momentum encoders, queues, positions 0, 1, 2, ..
    Dropped,
    Unknown,
}

/// Hugging Face's name of a BLIP tensor.
pub(super) fn rename(name: &str) -> Fate {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    if first.ends_with("_m") || name.ends_with("position_ids") {
        return Fate::Dropped;
    }
    match first {
        "image_queue" | "text_queue" | "idx_queue" | "queue_ptr" | "ptr_queue" => Fate::Dropped,
        "text_encoder" | "text_decoder" | "text_proj" | "vision_proj" | "itm_head" | "temp" => Fate::Named(name.into()),
        "visual_encoder" => vision(rest).map_or(Fate::Unknown, |rest| Fate::Named(format!("vision_model.{rest}"))),
        _ => Fate::Unknown,
    }
}

fn vision(name: &str) -> Option<String> {
    if let Some(name) = name.strip_prefix("blocks.") {
        let (block, name) = name.split_once('.')?;
        let (layer, which) = name.rsplit_once('.')?;
        let layer = match layer {
            "norm1" => "layer_norm1",
            "norm2" => "layer_norm2",
            "attn.qkv" => "self_attn.qkv",
            "attn.proj" => "self_attn.projection",
            "mlp.fc1" | "mlp.fc2" => layer,
            _ => return None,
        };
        return Some(format!("encoder.layers.{block}.{layer}.{which}"));
    }
    Some(match name {
        "cls_token" => "embeddings.class_embedding".into(),
        "pos_embed" => "embeddings.position_embedding".into(),
        "patch_embed.proj.weight" => "embeddings.patch_embedding.weight".into(),
        "patch_embed.proj.bias" => "embeddings.patch_embedding.bias".into(),
        "norm.weight" => "post_layernorm.weight".into(),
        "norm.bias" => "post_layernorm.bias".into(),
        _ => return None,
    })
}

/// Architecture in config.json of the model with these tensors.
///
/// # Errors
/// A model that is not supported, by name.
pub(super) fn architecture<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<&'static str, String> {
    let any = |found: &dyn Fn(&str) -> bool| names.clone().any(found);
    let has = |prefix: &str| any(&|name| name.starts_with(prefix));
    if any(&|name| name.contains("crossattention.self0.")) || has("cls_head.") {
        return Err("it is an NLVR2 model, two images and a statement: not supported".into());
    }
    if !has("visual_encoder.") {
        return Err(match names.clone().next() {
            Some(name) if has("vision_model.") => format!(
                "its tensors have Hugging Face's names ({name}): give the folder that it lies in, with config.json and tokenizer"
            ),
            Some(name) => format!("it has no visual_encoder, its first tensor is {name}: no model of BLIP's"),
            None => "it has no tensors".into(),
        });
    }
    match (has("text_encoder."), has("text_decoder."), has("itm_head.")) {
        (false, true, _) => Ok("BlipForConditionalGeneration"),
        (true, false, true) => Ok("BlipForImageTextRetrieval"),
        (true, true, true) => Ok("CapFiltMed"),
        (true, true, false) => Err("it is a VQA model, a question encoder and an answer decoder: not supported".into()),
        _ => Err("it has neither a text_decoder nor a text_encoder with itm_head: no captioner and no filter".into()),
    }
}

/// config.json of a model, inferred from its tensor shapes.
///
/// # Errors
/// A missing tensor, a shape that no BLIP has, or a tokenizer with another vocabulary.
pub(super) fn config(
    architecture: &str,
    tensors: &BTreeMap<String, &Stored<'_>>,
    ids: &SpecialIds,
    tied: bool,
) -> Result<Value, String> {
    let shape = |name: &str| match tensors.get(name) {
        Some(tensor) => Ok(&tensor.shape[..]),
        None => Err(format!("tensor {name} is missing")),
    };
    let matrix = |name: &str| match *shape(name)? {
        [rows, columns] => Ok((rows, columns)),
        ref other => odd(name, other),
    };
    let heads = |what: &str, width: usize| match width % HEAD {
        0 if width > 0 => Ok(width / HEAD),
        _ => Err(format!(
            "its {what} is {width} wide; BLIP's attention heads are {HEAD} wide each, and {width} is not a multiple"
        )),
    };
    let layers = |layer: &dyn Fn(usize) -> String| (0..).take_while(|i| tensors.contains_key(&layer(*i))).count();

    let name = "vision_model.embeddings.patch_embedding.weight";
    let (width, patch) = match *shape(name)? {
        [width, 3, patch, square] if patch == square && patch > 0 => (width, patch),
        ref other => return odd(name, other),
    };
    let name = "vision_model.embeddings.position_embedding";
    let side = match *shape(name)? {
        [1, tokens, _] if tokens > 1 && (tokens - 1).isqrt().pow(2) == tokens - 1 => (tokens - 1).isqrt(),
        ref other => return odd(name, other),
    };
    let text = if architecture == "BlipForConditionalGeneration" { "text_decoder.bert." } else { "text_encoder." };
    let (vocabulary, text_width) = matrix(&format!("{text}embeddings.word_embeddings.weight"))?;
    if vocabulary != ids.vocab_size {
        return Err(format!(
            "its vocabulary has {vocabulary} tokens, the tokenizer's {}, [DEC] and [ENC] included: it is of another model. BLIP's \
             is bert-base-uncased's",
            ids.vocab_size
        ));
    }
    let (positions, _) = matrix(&format!("{text}embeddings.position_embeddings.weight"))?;
    let text_layer = |i: usize| format!("{text}encoder.layer.{i}.intermediate.dense.weight");
    let (text_mlp, _) = matrix(&text_layer(0))?;
    let (_, seen) = matrix(&format!("{text}encoder.layer.0.crossattention.self.key.weight"))?;
    let vision_layer = |i: usize| format!("vision_model.encoder.layers.{i}.mlp.fc1.weight");
    let (mlp, _) = matrix(&vision_layer(0))?;
    // A captioner has no projections; transformers' default.
    let projection = if tensors.contains_key("text_proj.weight") { matrix("text_proj.weight")?.0 } else { 256 };
    Ok(json!({
        "architectures": [architecture],
        "model_type": "blip",
        "projection_dim": projection,
        "image_text_hidden_size": projection,
        "logit_scale_init_value": 2.6592,
        "tie_word_embeddings": tied,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers(&vision_layer),
            "num_attention_heads": heads("vision encoder", width)?,
            "image_size": side.checked_mul(patch).ok_or("its images are too large")?,
            "patch_size": patch,
            "hidden_act": "gelu",
            // BLIP's code has 1e-6; all converted checkpoints run with transformers' value, and scores are compared
            // with those.
            "layer_norm_eps": 1e-5,
        },
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "encoder_hidden_size": seen,
            "intermediate_size": text_mlp,
            "num_hidden_layers": layers(&text_layer),
            "num_attention_heads": heads("text transformer", text_width)?,
            "max_position_embeddings": positions,
            "projection_dim": projection,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "bos_token_id": ids.dec,
            "eos_token_id": ids.sep,
            "sep_token_id": ids.sep,
            "pad_token_id": ids.pad,
            "is_decoder": true,
            "tie_word_embeddings": tied,
        },
    }))
}

fn odd<T>(name: &str, shape: &[usize]) -> Result<T, String> {
    Err(format!("tensor {name} has shape {shape:?}, which no BLIP has"))
}

/// preprocessor_config.json of BLIP, for the image size in `config`.
pub(super) fn preprocessor(config: &Value) -> Value {
    let side = &config["vision_config"]["image_size"];
    json!({
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": side, "width": side },
    })
}

/// generation_config.json: the tokens that start, end and pad a caption.
pub(super) fn generation(ids: &SpecialIds) -> Value {
    json!({ "bos_token_id": ids.dec, "eos_token_id": ids.sep, "pad_token_id": ids.pad })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        let named = [
            ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
            ("visual_encoder.patch_embed.proj.bias", "vision_model.embeddings.patch_embedding.bias"),
            ("visual_encoder.blocks.11.attn.proj.weight", "vision_model.encoder.layers.11.self_attn.projection.weight"),
            ("visual_encoder.norm.weight", "vision_model.post_layernorm.weight"),
            ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.bias"),
            ("temp", "temp"),
        ];
        for (name, expected) in named {
            assert_eq!(rename(name), Fate::Named(expected.into()));
        }
        for name in [
            "visual_encoder_m.norm.weight",
            "vision_proj_m.bias",
            "text_encoder_m.embeddings.LayerNorm.bias",
            "queue_ptr",
            "ptr_queue",
            "idx_queue",
            "image_queue",
            "text_encoder.embeddings.position_ids",
        ] {
            assert_eq!(rename(name), Fate::Dropped, "{name}");
        }
        for name in ["visual_encoder.head.weight", "visual_encoder.blocks.1.ls1", "Qformer.bert.x"] {
            assert_eq!(rename(name), Fate::Unknown, "{name}");
        }
    }

    #[test]
    fn models_are_told_apart_by_their_parts() {
        let of = |names: &[&'static str]| architecture(names.iter().copied());
        let vision = "visual_encoder.cls_token";
        assert_eq!(of(&[vision, "text_decoder.x"]).unwrap(), "BlipForConditionalGeneration");
        assert_eq!(of(&[vision, "text_encoder.x", "itm_head.bias"]).unwrap(), "BlipForImageTextRetrieval");
        assert_eq!(of(&[vision, "text_encoder.x", "text_decoder.x", "itm_head.bias"]).unwrap(), "CapFiltMed");
        for (names, word) in [
            (&[vision, "text_encoder.x", "text_decoder.x"][..], "VQA"),
            (&[vision, "text_encoder.encoder.layer.0.crossattention.self0.query.weight"], "NLVR2"),
            (&[vision, "cls_head.0.weight"], "NLVR2"),
            (&["vision_model.x", "text_decoder.x"], "give the folder"),
            (&["Qformer.x"], "Qformer.x"),
            (&[vision], "no captioner and no filter"),
        ] {
            let message = of(names).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
    }
}
