//! Export in Hugging Face's layout, as `capfilt-udfs` and transformers load it, and import of such a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::config::MedConfig;
use crate::error::{Error, Result};
use crate::params::Params;

/// What is exported of a MED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// `BlipForConditionalGeneration`.
    Captioner,
    /// `BlipForImageTextRetrieval`: the filter.
    Matcher,
    /// `CapFiltMed`: captioner and matcher in one folder, shared tensors stored once.
    Med,
}

impl Export {
    /// config.json's name for it.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Captioner => "BlipForConditionalGeneration",
            Self::Matcher => "BlipForImageTextRetrieval",
            Self::Med => "CapFiltMed",
        }
    }
}

const ENCODER: &str = "text_encoder.";
const DECODER: &str = "text_decoder.bert.";
const WORDS: &str = "text_decoder.cls.predictions.decoder.";

/// Writes a checkpoint into the folder `dir`, which is made. `tokenizer` is the text of a tokenizer.json; `kind` is Float, Half or
/// BFloat16. The weights come last and under a temporary name, so a folder that was left unfinished has no model.safetensors.
pub fn export(
    dir: &Path,
    config: &MedConfig,
    params: &Params,
    what: Export,
    tokenizer: &str,
    kind: Kind,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::file(path, e))
    };
    write("config.json", format!("{:#}\n", config.json(what.architecture())))?;
    write("preprocessor_config.json", format!("{:#}\n", preprocessor(config)))?;
    write("tokenizer.json", tokenizer.into())?;
    let generation = json!({
        "bos_token_id": config.text.bos_token_id,
        "eos_token_id": config.text.sep_token_id,
        "pad_token_id": config.text.pad_token_id,
    });
    write("generation_config.json", format!("{generation:#}\n"))?;
    let tensors: Vec<(String, Tensor)> = tensors(params, what)
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach().to_kind(kind).contiguous()))
        .collect();
    let (part, whole) = (dir.join("model.safetensors.part"), dir.join("model.safetensors"));
    Tensor::write_safetensors(&tensors, &part)?;
    std::fs::rename(&part, &whole).map_err(|e| Error::file(whole, e))
}

/// Image preprocessing: BLIP's, which is CLIP's mean and deviation.
fn preprocessor(config: &MedConfig) -> Value {
    let side = config.vision.image_size;
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

/// The tensors of an export by name.
fn tensors(params: &Params, what: Export) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for name in params.names() {
        let Some(tensor) = params.get(name) else { continue };
        let wanted = match what {
            Export::Captioner => name.starts_with("vision_model.") || name.starts_with("text_decoder."),
            Export::Matcher => !name.starts_with("text_decoder."),
            Export::Med => true,
        };
        if wanted && name != "temp" {
            tensors.insert(name.clone(), tensor.shallow_clone());
        }
        // A captioner by itself holds what its decoder has from the encoder.
        if let (Export::Captioner, Some(tail)) = (what, name.strip_prefix(ENCODER)) {
            let own = format!("{DECODER}{tail}");
            if params.get(&own).is_none() {
                tensors.insert(own, tensor.shallow_clone());
            }
        }
    }
    if what == Export::Captioner {
        // transformers wants the head's copies of the tied word embedding and bias.
        let tied = [
            ("weight", format!("{DECODER}embeddings.word_embeddings.weight")),
            ("bias", "text_decoder.cls.predictions.bias".into()),
        ];
        for (tail, name) in tied {
            if let Some(tensor) = tensors.get(&name).map(Tensor::shallow_clone) {
                tensors.insert(format!("{WORDS}{tail}"), tensor.copy());
            }
        }
    }
    tensors
}

/// Sets the parameters that the safetensors file of a checkpoint has, under our layout's names or a lone captioner's, and returns
/// the names of those it lacks. Fails where a shape differs.
pub fn import(path: &Path, params: &Params) -> Result<Vec<String>> {
    let tensors: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(path).map_err(|e| Error::file(path, e))?.into_iter().collect();
    let mut missing = vec![];
    for name in params.names() {
        let of_captioner = name.strip_prefix(ENCODER).map(|tail| format!("{DECODER}{tail}"));
        match tensors.get(name).or_else(|| tensors.get(of_captioner.as_ref()?)) {
            Some(tensor) => params.set(name, tensor).map_err(|e| Error::file(path, e))?,
            None => missing.push(name.clone()),
        }
    }
    Ok(missing)
}
