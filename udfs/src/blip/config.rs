//! config.json of a BLIP checkpoint.

use std::path::Path;

use serde::Deserialize;

use super::files;
use crate::error::{Error, Result};
use crate::json::whole_field;

/// Dimensions of the vision encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of the hidden states.
    pub width: usize,
    /// Width of the MLP's hidden layer.
    pub mlp_width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of the square input image, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
}

impl VisionConfig {
    /// Tokens per image: its patches and the class token.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

/// Dimensions and special tokens of the text transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Width of the hidden states.
    pub width: usize,
    /// Width of the image tokens that cross-attention reads. An answer decoder's reads the question's states, which have
    /// `width`.
    pub encoder_width: usize,
    /// Width of the feed-forward hidden layer.
    pub mlp_width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Maximum text length, in tokens.
    pub max_positions: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// `[DEC]`, which starts a caption.
    pub bos_token_id: u32,
    /// `[SEP]`, which ends a caption.
    pub sep_token_id: u32,
    /// `[PAD]`.
    pub pad_token_id: u32,
}

impl TextConfig {
    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.width / self.heads
    }
}

/// Validated contents of config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct BlipConfig {
    /// `BlipForConditionalGeneration`, `BlipForImageTextRetrieval`, `BlipForQuestionAnswering`, `CapFiltMed`, ..
    pub architecture: String,
    /// The vision encoder.
    pub vision: VisionConfig,
    /// The text transformer.
    pub text: TextConfig,
    /// Width of the ITC embeddings.
    pub projection: usize,
    /// Whether the LM head shares the word embedding's matrix.
    pub tying: Tying,
}

/// LM head according to config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tying {
    /// The head is the word embedding.
    Tied,
    /// The head has its own matrix.
    Untied,
    /// config.json and its text_config disagree. transformers 4 follows the latter, transformers 5 ties what the file
    /// lacks; so the head has its own matrix if the file has one.
    AsStored,
}

// Contents of the file. Defaults are those of transformers' BlipConfig, which omits default values from the file.

#[derive(Deserialize)]
#[serde(default)]
struct RawVision {
    #[serde(deserialize_with = "whole_field")]
    hidden_size: usize,
    #[serde(deserialize_with = "whole_field")]
    intermediate_size: usize,
    #[serde(deserialize_with = "whole_field")]
    num_hidden_layers: usize,
    #[serde(deserialize_with = "whole_field")]
    num_attention_heads: usize,
    #[serde(deserialize_with = "whole_field")]
    image_size: usize,
    #[serde(deserialize_with = "whole_field")]
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl Default for RawVision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 384,
            patch_size: 16,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct RawText {
    #[serde(deserialize_with = "whole_field")]
    vocab_size: usize,
    #[serde(deserialize_with = "whole_field")]
    hidden_size: usize,
    #[serde(deserialize_with = "whole_field")]
    intermediate_size: usize,
    #[serde(deserialize_with = "whole_field")]
    num_hidden_layers: usize,
    #[serde(deserialize_with = "whole_field")]
    num_attention_heads: usize,
    #[serde(deserialize_with = "whole_field")]
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    #[serde(deserialize_with = "whole_field")]
    bos_token_id: u32,
    #[serde(deserialize_with = "whole_field")]
    sep_token_id: u32,
    #[serde(deserialize_with = "whole_field")]
    pad_token_id: u32,
    tie_word_embeddings: Option<bool>,
}

impl Default for RawText {
    fn default() -> Self {
        Self {
            vocab_size: 30524,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 512,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            bos_token_id: 30522,
            sep_token_id: 102,
            pad_token_id: 0,
            tie_word_embeddings: None,
        }
    }
}

// null counts as absent: transformers 4 writes it for unset keys.
#[derive(Deserialize)]
struct RawConfig {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vision_config: Option<RawVision>,
    text_config: Option<RawText>,
    // Keys of files older than transformers 4.26.
    vision_config_dict: Option<RawVision>,
    text_config_dict: Option<RawText>,
    #[serde(default = "projection", deserialize_with = "whole_field")]
    image_text_hidden_size: usize,
    tie_word_embeddings: Option<bool>,
}

fn projection() -> usize {
    256
}

/// Architecture of an answerer: a question encoder, which reads the image, and an answer decoder, which reads the
/// question's states (paper, figure 5a).
const ANSWERER: &str = "BlipForQuestionAnswering";

impl BlipConfig {
    /// Whether the checkpoint answers questions about images. Its tensors have a captioner's names, and mean other things.
    pub fn is_answerer(&self) -> bool {
        self.architecture == ANSWERER
    }

    /// Reads and validates config.json of a checkpoint folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(files::CONFIG);
        if dir.is_file() {
            let reason = "it is a file; give the folder that holds config.json and model.safetensors (`capfilt model convert SOURCE OUT` \
                          makes one of a .pth file)";
            return Err(Error::checkpoint(dir, reason));
        }
        if !dir.is_dir() {
            return Err(Error::checkpoint(
                dir,
                "no such folder; give the folder of a BLIP checkpoint in Hugging Face layout",
            ));
        }
        if !files::present(&path) {
            let plain = "config.json is not in the folder; a checkpoint in Hugging Face layout has config.json, model.safetensors, \
                         tokenizer.json and preprocessor_config.json";
            return Err(files::lacking(dir, plain));
        }
        let text = files::read(&path)?;
        let raw: RawConfig = serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        Self::check(raw).map_err(|reason| Error::checkpoint(path, reason))
    }

    fn check(raw: RawConfig) -> Result<Self, String> {
        let architecture = raw.architectures.unwrap_or_default().first().cloned().unwrap_or_default();
        let model_type = raw.model_type.unwrap_or_default();
        let ours =
            ["BlipForConditionalGeneration", "BlipForImageTextRetrieval", ANSWERER, "BlipModel", "CapFiltMed", ""];
        if !ours.contains(&architecture.as_str()) || !["blip", ""].contains(&model_type.as_str()) {
            return Err(format!(
                "architecture {architecture:?} (model_type {model_type:?}) is not supported: it must be \
                 BlipForConditionalGeneration, BlipForImageTextRetrieval, {ANSWERER} or CapFiltMed"
            ));
        }
        let v = raw.vision_config.or(raw.vision_config_dict).unwrap_or_default();
        let t = raw.text_config.or(raw.text_config_dict).unwrap_or_default();
        for (which, act) in [("vision", &v.hidden_act), ("text", &t.hidden_act)] {
            if act != "gelu" {
                return Err(format!("{which}_config.hidden_act {act:?} is not supported: BLIP's is \"gelu\""));
            }
        }
        let sizes = [
            ("vision_config.hidden_size", v.hidden_size),
            ("vision_config.num_hidden_layers", v.num_hidden_layers),
            ("vision_config.num_attention_heads", v.num_attention_heads),
            ("vision_config.patch_size", v.patch_size),
            ("vision_config.image_size", v.image_size),
            ("text_config.hidden_size", t.hidden_size),
            ("text_config.num_hidden_layers", t.num_hidden_layers),
            ("text_config.num_attention_heads", t.num_attention_heads),
            ("text_config.max_position_embeddings", t.max_position_embeddings),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 20) {
            return Err(format!("{name} = {size} is out of range"));
        }
        if !v.image_size.is_multiple_of(v.patch_size) {
            return Err(format!("image_size {} is not a multiple of patch_size {}", v.image_size, v.patch_size));
        }
        for (which, width, heads) in
            [("vision", v.hidden_size, v.num_attention_heads), ("text", t.hidden_size, t.num_attention_heads)]
        {
            if width % heads != 0 {
                return Err(format!(
                    "{which}_config.hidden_size {width} is not a multiple of num_attention_heads {heads}"
                ));
            }
        }
        Ok(Self {
            architecture,
            vision: VisionConfig {
                width: v.hidden_size,
                mlp_width: v.intermediate_size,
                layers: v.num_hidden_layers,
                heads: v.num_attention_heads,
                image_size: v.image_size,
                patch_size: v.patch_size,
                layer_norm_eps: v.layer_norm_eps,
            },
            text: TextConfig {
                width: t.hidden_size,
                // transformers substitutes it for encoder_hidden_size, whatever that says.
                encoder_width: v.hidden_size,
                mlp_width: t.intermediate_size,
                layers: t.num_hidden_layers,
                heads: t.num_attention_heads,
                vocab_size: t.vocab_size,
                max_positions: t.max_position_embeddings,
                layer_norm_eps: t.layer_norm_eps,
                bos_token_id: t.bos_token_id,
                sep_token_id: t.sep_token_id,
                pad_token_id: t.pad_token_id,
            },
            projection: raw.image_text_hidden_size,
            tying: match (raw.tie_word_embeddings.unwrap_or(true), t.tie_word_embeddings.unwrap_or(true)) {
                (true, true) => Tying::Tied,
                (false, false) => Tying::Untied,
                _ => Tying::AsStored,
            },
        })
    }
}
