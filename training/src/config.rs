//! Architecture of a model: its sizes, and the tensors that encoder and decoder share.

use std::collections::BTreeMap;

use capfilt_udfs::blip::{TextConfig, VisionConfig};
use serde_json::{Value, json};

use crate::decimal::decimal;
use crate::error::{Error, Result};

/// Tensors that the image-grounded decoder shares with the text encoder (paper, Table 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All tensors.
    All,
    /// All except cross-attention.
    AllButCrossAttention,
    /// All except self-attention, as in BLIP.
    #[default]
    AllButSelfAttention,
    /// No tensors.
    None,
}

impl std::str::FromStr for Sharing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "all" => Ok(Self::All),
            "all-but-ca" => Ok(Self::AllButCrossAttention),
            "all-but-sa" => Ok(Self::AllButSelfAttention),
            "none" => Ok(Self::None),
            _ => Err(Error::Option(format!("sharing '{name}': use all, all-but-ca, all-but-sa (BLIP's) or none"))),
        }
    }
}

/// Input of the decoder's cross-attention, which tells the two models apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecoderReads {
    /// The image: a MED, whose decoder writes texts (paper, figure 2).
    #[default]
    Image,
    /// The question encoder's states: an answerer, whose decoder writes answers (paper, figure 5a). Its encoder and decoder
    /// share nothing, and it has neither the projections nor the ITM head of a MED.
    Question,
}

/// Sizes of a MED or an answerer.
#[derive(Debug, Clone, PartialEq)]
pub struct MedConfig {
    /// Sizes of the vision encoder.
    pub vision: VisionConfig,
    /// Sizes of the text transformers.
    pub text: TextConfig,
    /// Width of the ITC features; 256 in BLIP.
    pub projection: usize,
    /// Tensors that encoder and decoder share.
    pub sharing: Sharing,
    /// Input of the decoder's cross-attention.
    pub decoder_reads: DecoderReads,
    /// Id of [ENC], the first token of a text in ITM.
    pub enc_token_id: u32,
    /// Dropout of the text transformers, on embeddings, attention weights and each sub-layer's output; 0.1 in BLIP.
    pub dropout: f64,
    /// Stochastic depth of the last vision block, growing linearly from 0 in the first. 0 for ViT-B, 0.1 for ViT-L.
    pub drop_path: f64,
}

/// Names and shapes of tensors.
pub(crate) type Shapes = Vec<(String, Vec<i64>)>;

impl MedConfig {
    /// BLIP with ViT-B and BERT-base, for images of `image_size` pixels a side (224 in pretraining, 384 in finetuning).
    pub fn base(image_size: usize) -> Self {
        Self::paper(VisionConfig {
            width: 768,
            mlp_width: 3072,
            layers: 12,
            heads: 12,
            image_size,
            patch_size: 16,
            layer_norm_eps: 1e-5,
        })
    }

    /// BLIP with ViT-L and BERT-base, for images of `image_size` pixels a side.
    pub fn large(image_size: usize) -> Self {
        let vision = VisionConfig {
            width: 1024,
            mlp_width: 4096,
            layers: 24,
            heads: 16,
            image_size,
            patch_size: 16,
            layer_norm_eps: 1e-5,
        };
        Self { drop_path: 0.1, ..Self::paper(vision) }
    }

    fn paper(vision: VisionConfig) -> Self {
        let text = TextConfig {
            width: 768,
            encoder_width: vision.width,
            mlp_width: 3072,
            layers: 12,
            heads: 12,
            vocab_size: 30524,
            max_positions: 512,
            layer_norm_eps: 1e-12,
            bos_token_id: 30522,
            sep_token_id: 102,
            pad_token_id: 0,
        };
        let sharing = Sharing::default();
        let decoder_reads = DecoderReads::default();
        Self {
            vision,
            text,
            projection: 256,
            sharing,
            decoder_reads,
            enc_token_id: 30523,
            dropout: 0.1,
            drop_path: 0.0,
        }
    }

    /// Fails if sizes are inconsistent, with an error that names them.
    pub fn validate(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        let wrong = |reason: String| Err(Error::Option(reason));
        if v.patch_size == 0 || v.image_size == 0 || !v.image_size.is_multiple_of(v.patch_size) {
            return wrong(format!("image_size {} is not a multiple of patch_size {}", v.image_size, v.patch_size));
        }
        for (part, width, heads) in [("vision", v.width, v.heads), ("text", t.width, t.heads)] {
            if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
                return wrong(format!("{part}: width {width} is not a multiple of {heads} heads"));
            }
        }
        if t.encoder_width != v.width {
            return wrong(format!("text.encoder_width {} is not the vision width {}", t.encoder_width, v.width));
        }
        if self.projection == 0 || v.layers == 0 || t.layers == 0 || t.max_positions < 4 {
            return wrong("projection and layers must be 1 or more, max_positions 4 or more".into());
        }
        let ids =
            [("bos", t.bos_token_id), ("sep", t.sep_token_id), ("pad", t.pad_token_id), ("enc", self.enc_token_id)];
        for (name, id) in ids {
            if id as usize >= t.vocab_size {
                return wrong(format!("{name}_token_id {id} is beyond the vocabulary of {}", t.vocab_size));
            }
        }
        if self.is_answerer() && self.sharing != Sharing::None {
            return wrong("an answerer's encoder and decoder share nothing: sharing must be none".into());
        }
        for (name, share) in [("dropout", self.dropout), ("drop_path", self.drop_path)] {
            if !(0.0..1.0).contains(&share) {
                return wrong(format!("{name} {share}: use 0 or more and less than 1"));
            }
        }
        Ok(())
    }

    /// Whether the model answers questions.
    pub fn is_answerer(&self) -> bool {
        self.decoder_reads == DecoderReads::Question
    }

    /// Shapes of all parameters: first those with a momentum counterpart ([`Self::momentum_shapes`]), then the others.
    pub(crate) fn shapes(&self) -> Shapes {
        let (t, width, image_width) = (&self.text, self.text.width as i64, self.text.encoder_width as i64);
        let mut shapes = self.momentum_shapes();
        if self.is_answerer() {
            self.vision_shapes(&mut shapes);
            self.encoder_shapes(&mut shapes);
        }
        for i in 0..t.layers {
            cross_attention(&mut shapes, &format!("text_encoder.encoder.layer.{i}."), t, image_width);
        }
        if !self.is_answerer() {
            linear(&mut shapes, "itm_head", width, 2);
            shapes.push(("temp".into(), vec![]));
        }
        let decoder = "text_decoder.bert.";
        if self.sharing == Sharing::None {
            embeddings(&mut shapes, decoder, t);
        }
        for i in 0..t.layers {
            let layer = format!("{decoder}encoder.layer.{i}.");
            if matches!(self.sharing, Sharing::None | Sharing::AllButSelfAttention) {
                attention(&mut shapes, &format!("{layer}attention."), width, width);
            }
            if matches!(self.sharing, Sharing::None | Sharing::AllButCrossAttention) {
                cross_attention(&mut shapes, &layer, t, if self.is_answerer() { width } else { image_width });
            }
            if self.sharing == Sharing::None {
                feed_forward(&mut shapes, &layer, t);
            }
        }
        let head = "text_decoder.cls.predictions.";
        linear(&mut shapes, &format!("{head}transform.dense"), width, width);
        norm(&mut shapes, &format!("{head}transform.LayerNorm"), width);
        // The LM head's matrix is tied to the word embedding.
        shapes.push((format!("{head}bias"), vec![t.vocab_size as i64]));
        shapes
    }

    /// Shapes of the momentum encoders' parameters: ViT, unimodal text encoder and both projections. An answerer has none.
    pub(crate) fn momentum_shapes(&self) -> Shapes {
        let mut shapes = vec![];
        if !self.is_answerer() {
            self.vision_shapes(&mut shapes);
            linear(&mut shapes, "vision_proj", self.vision.width as i64, self.projection as i64);
            linear(&mut shapes, "text_proj", self.text.width as i64, self.projection as i64);
            self.encoder_shapes(&mut shapes);
        }
        shapes
    }

    fn vision_shapes(&self, shapes: &mut Shapes) {
        let v = &self.vision;
        let (width, patch) = (v.width as i64, v.patch_size as i64);
        let prefix = "vision_model.embeddings.";
        shapes.push((format!("{prefix}class_embedding"), vec![1, 1, width]));
        shapes.push((format!("{prefix}position_embedding"), vec![1, v.tokens() as i64, width]));
        shapes.push((format!("{prefix}patch_embedding.weight"), vec![width, 3, patch, patch]));
        shapes.push((format!("{prefix}patch_embedding.bias"), vec![width]));
        for i in 0..v.layers {
            let layer = format!("vision_model.encoder.layers.{i}.");
            norm(shapes, &format!("{layer}layer_norm1"), width);
            linear(shapes, &format!("{layer}self_attn.qkv"), width, 3 * width);
            linear(shapes, &format!("{layer}self_attn.projection"), width, width);
            norm(shapes, &format!("{layer}layer_norm2"), width);
            linear(shapes, &format!("{layer}mlp.fc1"), width, v.mlp_width as i64);
            linear(shapes, &format!("{layer}mlp.fc2"), v.mlp_width as i64, width);
        }
        norm(shapes, "vision_model.post_layernorm", width);
    }

    /// Shapes of the text encoder but for its cross-attention.
    fn encoder_shapes(&self, shapes: &mut Shapes) {
        let t = &self.text;
        embeddings(shapes, "text_encoder.", t);
        for i in 0..t.layers {
            let layer = format!("text_encoder.encoder.layer.{i}.");
            attention(shapes, &format!("{layer}attention."), t.width as i64, t.width as i64);
            feed_forward(shapes, &layer, t);
        }
    }

    /// Contents of config.json, for `capfilt-udfs` and transformers.
    pub fn json(&self, architecture: &str) -> Value {
        let (v, t) = (&self.vision, &self.text);
        json!({
            "architectures": [architecture],
            "model_type": "blip",
            "projection_dim": self.projection,
            "image_text_hidden_size": self.projection,
            "logit_scale_init_value": 2.6592,
            "tie_word_embeddings": true,
            "vision_config": {
                "model_type": "blip_vision_model",
                "hidden_size": v.width,
                "intermediate_size": v.mlp_width,
                "num_hidden_layers": v.layers,
                "num_attention_heads": v.heads,
                "image_size": v.image_size,
                "patch_size": v.patch_size,
                "hidden_act": "gelu",
                "layer_norm_eps": decimal(v.layer_norm_eps),
            },
            "text_config": {
                "model_type": "blip_text_model",
                "vocab_size": t.vocab_size,
                "hidden_size": t.width,
                "encoder_hidden_size": t.encoder_width,
                "intermediate_size": t.mlp_width,
                "num_hidden_layers": t.layers,
                "num_attention_heads": t.heads,
                "max_position_embeddings": t.max_positions,
                "projection_dim": self.projection,
                "hidden_act": "gelu",
                "layer_norm_eps": decimal(t.layer_norm_eps),
                "bos_token_id": t.bos_token_id,
                "eos_token_id": t.sep_token_id,
                "sep_token_id": t.sep_token_id,
                "pad_token_id": t.pad_token_id,
                "is_decoder": true,
                "tie_word_embeddings": true,
            },
        })
    }
}

fn linear(shapes: &mut Shapes, name: &str, input: i64, output: i64) {
    shapes.push((format!("{name}.weight"), vec![output, input]));
    shapes.push((format!("{name}.bias"), vec![output]));
}

fn norm(shapes: &mut Shapes, name: &str, width: i64) {
    shapes.push((format!("{name}.weight"), vec![width]));
    shapes.push((format!("{name}.bias"), vec![width]));
}

fn attention(shapes: &mut Shapes, block: &str, width: i64, source: i64) {
    linear(shapes, &format!("{block}self.query"), width, width);
    linear(shapes, &format!("{block}self.key"), source, width);
    linear(shapes, &format!("{block}self.value"), source, width);
    linear(shapes, &format!("{block}output.dense"), width, width);
    norm(shapes, &format!("{block}output.LayerNorm"), width);
}

fn cross_attention(shapes: &mut Shapes, layer: &str, t: &TextConfig, source: i64) {
    attention(shapes, &format!("{layer}crossattention."), t.width as i64, source);
}

fn feed_forward(shapes: &mut Shapes, layer: &str, t: &TextConfig) {
    linear(shapes, &format!("{layer}intermediate.dense"), t.width as i64, t.mlp_width as i64);
    linear(shapes, &format!("{layer}output.dense"), t.mlp_width as i64, t.width as i64);
    norm(shapes, &format!("{layer}output.LayerNorm"), t.width as i64);
}

fn embeddings(shapes: &mut Shapes, text: &str, t: &TextConfig) {
    let width = t.width as i64;
    shapes.push((format!("{text}embeddings.word_embeddings.weight"), vec![t.vocab_size as i64, width]));
    shapes.push((format!("{text}embeddings.position_embeddings.weight"), vec![t.max_positions as i64, width]));
    norm(shapes, &format!("{text}embeddings.LayerNorm"), width);
}

/// Numbers of parameters: in total, and by the first component of their names.
pub fn parameter_counts(config: &MedConfig) -> (i64, BTreeMap<String, i64>) {
    let mut parts = BTreeMap::new();
    for (name, shape) in config.shapes() {
        let part = name.split('.').next().unwrap_or_default().to_string();
        *parts.entry(part).or_insert(0) += shape.iter().product::<i64>();
    }
    (parts.values().sum(), parts)
}
