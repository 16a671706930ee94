//! Export in Hugging Face's layout, which `capfilt-udfs` and transformers load, and import from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use capfilt_udfs::blip::weight_files;
use capfilt_udfs::image::Preprocessor;

use crate::config::MedConfig;
use crate::decimal::decimal;
use crate::error::{Error, Result};
use crate::med::{DECODER, ENCODER};
use crate::params::Params;

/// Model that a run makes and parts of it to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Captioner: `BlipForConditionalGeneration`.
    Captioner,
    /// Filter: `BlipForImageTextRetrieval`.
    Matcher,
    /// Whole MED: `CapFiltMed`, captioner and matcher in one folder with shared tensors stored once.
    Med,
    /// Answerer of questions, the only model that is not a MED: `BlipForQuestionAnswering`.
    Answerer,
}

impl std::str::FromStr for Export {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "captioner" => Ok(Self::Captioner),
            "matcher" => Ok(Self::Matcher),
            "med" => Ok(Self::Med),
            "answerer" => Ok(Self::Answerer),
            _ => Err(Error::Option(format!("export.what '{name}': use med, captioner, matcher or answerer"))),
        }
    }
}

impl Export {
    /// Name of the architecture in config.json.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Captioner => "BlipForConditionalGeneration",
            Self::Matcher => "BlipForImageTextRetrieval",
            Self::Med => "CapFiltMed",
            Self::Answerer => "BlipForQuestionAnswering",
        }
    }

    /// Whether this export requires the parameter.
    pub fn needs(self, name: &str) -> bool {
        match self {
            // Tensors that the decoder shares are stored as the encoder's. The decoder uses neither BLIP's projections
            // nor its ITM head.
            Self::Captioner => {
                !["vision_proj.", "text_proj.", "itm_head.", "temp"].iter().any(|part| name.starts_with(part))
            }
            Self::Matcher => !name.starts_with("text_decoder.") && name != "temp",
            Self::Med | Self::Answerer => name != "temp",
        }
    }
}

/// Name of ITC's temperature.
const TEMPERATURE: &str = "temp";

const WORDS: &str = "text_decoder.cls.predictions.decoder.";

/// Writes a checkpoint into the folder `dir`, which is created. `tokenizer` is the text of a tokenizer.json; `kind` is
/// Float, Half or BFloat16. The weights are written under a temporary name, earlier weights are removed, and the rename
/// comes last: an incomplete export has no model.safetensors. A whole MED includes ITC's temperature, `temp`, always in
/// float32, so that later training continues with the learned value.
pub fn export(
    dir: &Path,
    config: &MedConfig,
    params: &Params,
    what: Export,
    tokenizer: &str,
    preprocessor: &Preprocessor,
    kind: Kind,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    let tensors: Vec<(String, Tensor)> = tensors(params, what)
        .into_iter()
        .map(|(name, tensor)| {
            let kind = if name == TEMPERATURE { Kind::Float } else { kind };
            (name, tensor.detach().to_kind(kind).contiguous())
        })
        .collect();
    let (part, whole) = (dir.join("model.safetensors.part"), dir.join("model.safetensors"));
    Tensor::write_safetensors(&tensors, &part)?;
    if whole.exists() {
        std::fs::remove_file(&whole).map_err(|e| Error::file(&whole, e))?;
    }
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::file(path, e))
    };
    write("config.json", format!("{:#}\n", config.json(what.architecture())))?;
    write("preprocessor_config.json", format!("{:#}\n", preprocessor_json(preprocessor)))?;
    write("tokenizer.json", tokenizer.into())?;
    let generation = json!({
        "bos_token_id": config.text.bos_token_id,
        "eos_token_id": config.text.sep_token_id,
        "pad_token_id": config.text.pad_token_id,
    });
    write("generation_config.json", format!("{generation:#}\n"))?;
    std::fs::rename(&part, &whole).map_err(|e| Error::file(whole, e))
}

fn preprocessor_json(p: &Preprocessor) -> Value {
    json!({
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": p.mean.map(decimal),
        "image_std": p.std.map(decimal),
        "resample": 3,
        "rescale_factor": decimal(p.rescale_factor),
        "size": { "height": p.height, "width": p.width },
    })
}

/// Image preprocessing of a model from scratch: BLIP's, with CLIP's mean and standard deviation.
pub fn blip_preprocessor(side: usize) -> Result<Preprocessor> {
    let text = json!({ "size": { "height": side, "width": side } }).to_string();
    Preprocessor::from_json(&text).map_err(Error::Option)
}

/// Tensors of an export by name.
fn tensors(params: &Params, what: Export) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for name in params.names() {
        let Some(tensor) = params.get(name) else { continue };
        let wanted = match what {
            Export::Captioner => name.starts_with("vision_model.") || name.starts_with("text_decoder."),
            Export::Matcher => !name.starts_with("text_decoder."),
            Export::Med | Export::Answerer => true,
        };
        if wanted && (name != TEMPERATURE || what == Export::Med) {
            tensors.insert(name.clone(), tensor.shallow_clone());
        }
        // A separate captioner includes the tensors that its decoder shares with the encoder.
        if let (Export::Captioner, Some(tail)) = (what, name.strip_prefix(ENCODER)) {
            let own = format!("{DECODER}{tail}");
            if params.get(&own).is_none() {
                tensors.insert(own, tensor.shallow_clone());
            }
        }
    }
    if matches!(what, Export::Captioner | Export::Answerer) {
        // transformers expects the LM head's copies of the tied word embedding and bias.
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

/// Reads the tensors of a model's folder by name.
pub(crate) fn read_tensors(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    let read = |path: PathBuf| Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, e));
    let files = weight_files(dir)?.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(files.into_iter().flatten().collect())
}

/// Sets the parameters from the checkpoint in the folder `dir`, in our layout or a lone captioner's, and returns the
/// names of those that it lacks. Tensors that the decoder lacks there are taken from the encoder; position embeddings
/// of another image size are interpolated. An answer decoder's cross-attention begins as that of a MED where the image is
/// as wide as the text; a MED with a wider one lacks it, as in BLIP's `load_checkpoint`.
///
/// # Errors
/// A file that cannot be read, a shape mismatch, or a decoder that shares less than the parameters do.
pub fn import(dir: &Path, params: &Params) -> Result<Vec<String>> {
    let tensors = read_tensors(dir)?;
    let unshared = tensors.keys().find(|name| {
        let tail = name.strip_prefix(DECODER);
        params.get(name).is_none() && tail.is_some_and(|tail| tensors.contains_key(&format!("{ENCODER}{tail}")))
    });
    if let Some(name) = unshared {
        let reason = format!(
            "its decoder has {name} of its own, which would be lost: give the model.sharing that it was made with"
        );
        return Err(Error::file(dir, reason));
    }
    let answerer = params.get(TEMPERATURE).is_none();
    let mut missing = vec![];
    for name in params.names() {
        let other = match (name.strip_prefix(ENCODER), name.strip_prefix(DECODER)) {
            (Some(tail), _) => Some(format!("{DECODER}{tail}")),
            (_, Some(tail)) => Some(format!("{ENCODER}{tail}")),
            _ => None,
        };
        let reads_another = |tensor: &Tensor| {
            let source = answerer && name.starts_with(DECODER) && name.contains("crossattention.self.");
            source && params.get(name).is_some_and(|own| own.size() != tensor.size())
        };
        match tensors.get(name).or_else(|| tensors.get(other.as_ref()?)) {
            Some(tensor) if reads_another(tensor) => missing.push(name.clone()),
            Some(tensor) => set(params, name, tensor).map_err(|e| Error::file(dir, e))?,
            None => missing.push(name.clone()),
        }
    }
    Ok(missing)
}

/// Sets a parameter from another model's tensor in float32, float16 or bfloat16.
pub(crate) fn set(params: &Params, name: &str, tensor: &Tensor) -> Result<()> {
    let tensor = tensor.to_kind(Kind::Float);
    match params.get(name) {
        Some(own) if name.ends_with("vision_model.embeddings.position_embedding") && own.size() != tensor.size() => {
            params.set(name, &interpolate_positions(&tensor, own.size()[1])?)
        }
        _ => params.set(name, &tensor),
    }
}

/// Bicubic interpolation of position embeddings `[1, 1 + n * n, width]` of a square of patches to a square of `tokens`
/// - 1 patches. The class token's embedding is unchanged (BLIP's `interpolate_pos_embed`).
fn interpolate_positions(positions: &Tensor, tokens: i64) -> Result<Tensor> {
    let side = |tokens: i64| {
        let side = ((tokens - 1) as f64).sqrt().round() as i64;
        (side * side == tokens - 1).then_some(side)
    };
    let size = positions.size();
    let ([1, from, width], Some(to)) = (&size[..], side(tokens)) else {
        return Err(Error::Option(format!("position embeddings of shape {size:?} cannot be interpolated")));
    };
    let Some(from) = side(*from) else {
        return Err(Error::Option(format!(
            "position embeddings of {from} tokens are not a square of patches and a class token"
        )));
    };
    let class = positions.narrow(1, 0, 1);
    let patches = positions.narrow(1, 1, from * from).reshape([1, from, from, *width]).permute([0, 3, 1, 2]);
    let patches = patches.upsample_bicubic2d([to, to], false, None::<f64>, None::<f64>);
    Ok(Tensor::cat(&[class, patches.permute([0, 2, 3, 1]).reshape([1, to * to, *width])], 1))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn positions_are_interpolated_between_squares() {
        let options = (Kind::Float, Device::Cpu);
        let ramp = Tensor::arange(16, options).view([1, 16, 1]);
        let positions = Tensor::cat(&[Tensor::full([1, 1, 1], 99.0, options), ramp], 1);
        let larger = interpolate_positions(&positions, 65).unwrap();
        assert_eq!(larger.size(), [1, 65, 1]);
        assert_eq!(larger.double_value(&[0, 0, 0]), 99.0);
        let at = |row: i64, column: i64| larger.double_value(&[0, 1 + row * 8 + column, 0]);
        // Values from torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
        let expected = [(3, 4, 6.890625), (4, 4, 8.515625), (4, 3, 8.109375), (0, 0, -0.52734375), (7, 1, 12.61328125)];
        for (row, column, value) in expected {
            assert!((at(row, column) - value).abs() < 1e-5, "{row} {column}: {}", at(row, column));
        }
        for (tensor, tokens) in [(&positions, 20), (&positions.narrow(1, 0, 15), 17)] {
            assert!(interpolate_positions(tensor, tokens).unwrap_err().to_string().contains("position embeddings"));
        }
    }
}
