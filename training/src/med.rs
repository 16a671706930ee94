//! Forward passes of MED (paper, section 3.1) and of the answerer made from it (section 5.3).
//!
//! Matrix products run in float32 or bfloat16; norms, softmax, residual sums and losses are always float32. libtorch's
//! errors, such as a shape mismatch or lack of memory, panic with libtorch's message, as usual in tch.

use std::cell::RefCell;
use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::config::MedConfig;
use crate::params::Params;

/// Texts padded to one length: [CLS] first, [SEP] last before the padding.
#[derive(Debug)]
pub struct Texts {
    /// Token ids `[N, L]`, int64.
    pub ids: Tensor,
    /// Attention mask `[N, L]`, float32: 1 for a token, 0 for padding.
    pub mask: Tensor,
}

impl Texts {
    /// Derives the mask from ids `[N, L]`.
    pub fn new(ids: Tensor, pad: u32) -> Self {
        let mask = ids.ne(i64::from(pad)).to_kind(Kind::Float);
        Self { ids, mask }
    }

    /// The texts at these row indices.
    pub fn select(&self, rows: &Tensor) -> Self {
        Self { ids: self.ids.index_select(0, rows), mask: self.mask.index_select(0, rows) }
    }

    /// Concatenates batches of texts of the same length.
    pub fn join(texts: &[&Self]) -> Self {
        let cat = |of: fn(&Self) -> &Tensor| Tensor::cat(&texts.iter().map(|t| of(t)).collect::<Vec<_>>(), 0);
        Self { ids: cat(|t| &t.ids), mask: cat(|t| &t.mask) }
    }

    /// The ids with the first token replaced.
    fn led_by(&self, token: u32) -> Tensor {
        let rest = self.ids.narrow(1, 1, self.ids.size()[1] - 1);
        Tensor::cat(&[Tensor::full_like(&self.ids.narrow(1, 0, 1), i64::from(token)), rest], 1)
    }
}

/// Cross-attention keys and values of images or questions, shared by all texts of an image or answers of a question.
#[derive(Debug)]
pub struct SourceKv {
    /// `[B, heads, tokens, head size]` each, per layer.
    layers: Vec<(Tensor, Tensor)>,
    /// `[B, 1, 1, tokens]`, added to the scores; `None` for images, which have no padding.
    mask: Option<Tensor>,
}

impl SourceKv {
    /// The keys and values of the sources at these row indices.
    pub fn select(&self, rows: &Tensor) -> Self {
        let select = |of: &Tensor| of.index_select(0, rows);
        let layers = self.layers.iter().map(|(k, v)| (select(k), select(v))).collect();
        Self { layers, mask: self.mask.as_ref().map(select) }
    }
}

/// MED or answerer over parameters, for one forward pass: it caches casts of the weights, so an instance must not outlive a step.
pub struct Med<'p> {
    config: &'p MedConfig,
    params: &'p Params,
    kind: Kind,
    train: bool,
    cast: RefCell<HashMap<String, Tensor>>,
}

/// Prefixes of the text transformers' parameter names.
pub(crate) const ENCODER: &str = "text_encoder.";
pub(crate) const DECODER: &str = "text_decoder.bert.";

impl<'p> Med<'p> {
    /// `kind` is the type of matrix products, Float or BFloat16; `train` turns on dropout and stochastic depth.
    pub fn new(config: &'p MedConfig, params: &'p Params, kind: Kind, train: bool) -> Self {
        Self { config, params, kind, train, cast: RefCell::default() }
    }

    fn param(&self, name: &str) -> &Tensor {
        match self.params.get(name) {
            Some(tensor) => tensor,
            None => panic!("no parameter {name}"),
        }
    }

    /// A weight of a matrix product, cast to the products' type.
    fn weight(&self, name: &str) -> Tensor {
        if self.kind == Kind::Float {
            return self.param(name).shallow_clone();
        }
        let mut cast = self.cast.borrow_mut();
        cast.entry(name.into()).or_insert_with(|| self.param(name).to_kind(self.kind)).shallow_clone()
    }

    fn linear(&self, x: &Tensor, layer: &str) -> Tensor {
        let (weight, bias) = (self.weight(&format!("{layer}.weight")), self.weight(&format!("{layer}.bias")));
        x.to_kind(self.kind).linear(&weight, Some(bias))
    }

    fn norm(&self, x: &Tensor, layer: &str, epsilon: f32) -> Tensor {
        let (weight, bias) = (self.param(&format!("{layer}.weight")), self.param(&format!("{layer}.bias")));
        x.to_kind(Kind::Float).layer_norm(weight.size(), Some(weight), Some(bias), f64::from(epsilon), false)
    }

    fn dropout(&self, x: Tensor) -> Tensor {
        if self.train && self.config.dropout > 0.0 { x.dropout(self.config.dropout, true) } else { x }
    }

    /// Attention of q `[N, heads, L, head size]` over k and v `[N, heads, S, head size]`, with `mask` added to the
    /// scores -> `[N, L, width]`.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, dropout: bool) -> Tensor {
        let size = q.size();
        let scale = 1.0 / (size[3] as f64).sqrt();
        let scores = (q * scale).matmul(&k.transpose(2, 3)).to_kind(Kind::Float);
        let scores = match mask {
            Some(mask) => scores + mask,
            None => scores,
        };
        let weights = scores.softmax(-1, Kind::Float);
        let weights = if dropout { self.dropout(weights) } else { weights };
        weights.to_kind(self.kind).matmul(v).transpose(1, 2).reshape([size[0], size[2], size[1] * size[3]])
    }

    /// Normalised pixels `[B, 3, size, size]` -> tokens `[B, T, width]` after the last norm; the class token comes
    /// first.
    pub fn image_tokens(&self, pixels: &Tensor) -> Tensor {
        let c = &self.config.vision;
        let (batch, width, patch) = (pixels.size()[0], c.width as i64, c.patch_size as i64);
        let embeddings = "vision_model.embeddings.";
        let weight = self.weight(&format!("{embeddings}patch_embedding.weight"));
        let bias = self.weight(&format!("{embeddings}patch_embedding.bias"));
        let patches = pixels.to_kind(self.kind).conv2d(&weight, Some(bias), [patch, patch], [0, 0], [1, 1], 1);
        let patches = patches.flatten(2, 3).transpose(1, 2).to_kind(Kind::Float);
        let class = self.param(&format!("{embeddings}class_embedding")).expand([batch, 1, width], false);
        let mut x = Tensor::cat(&[class, patches], 1) + self.param(&format!("{embeddings}position_embedding"));
        for i in 0..c.layers {
            let layer = format!("vision_model.encoder.layers.{i}.");
            let h = self.norm(&x, &format!("{layer}layer_norm1"), c.layer_norm_eps);
            let qkv = self.linear(&h, &format!("{layer}self_attn.qkv"));
            let heads = c.heads as i64;
            let qkv = qkv.view([batch, -1, 3, heads, width / heads]).permute([2, 0, 3, 1, 4]);
            let a = self.attention(&qkv.get(0), &qkv.get(1), &qkv.get(2), None, false);
            x = &x + self.drop_path(self.linear(&a, &format!("{layer}self_attn.projection")), i);
            let h = self.norm(&x, &format!("{layer}layer_norm2"), c.layer_norm_eps);
            let h = self.linear(&h, &format!("{layer}mlp.fc1")).gelu("none");
            x = &x + self.drop_path(self.linear(&h, &format!("{layer}mlp.fc2")), i);
        }
        self.norm(&x, "vision_model.post_layernorm", c.layer_norm_eps)
    }

    /// Stochastic depth (Huang et al. 2016): drops a branch of layer `i` for some images and scales it up for the
    /// others.
    fn drop_path(&self, branch: Tensor, i: usize) -> Tensor {
        let layers = self.config.vision.layers;
        let share = self.config.drop_path * i as f64 / layers.saturating_sub(1).max(1) as f64;
        if !self.train || share == 0.0 {
            return branch;
        }
        let keep = Tensor::full([branch.size()[0], 1, 1], 1.0 - share, (branch.kind(), branch.device())).bernoulli();
        branch * keep / (1.0 - share)
    }

    /// Image tokens -> ITC features `[B, projection]` of unit length.
    pub fn image_features(&self, tokens: &Tensor) -> Tensor {
        unit(&self.linear(&tokens.select(1, 0), "vision_proj"))
    }

    /// Unimodal encoder: ITC features `[N, projection]` of unit length.
    pub fn text_features(&self, texts: &Texts) -> Tensor {
        let states = self.text_states(false, &texts.ids, &padding(&texts.mask), None);
        unit(&self.linear(&states.select(1, 0), "text_proj"))
    }

    /// The image-grounded encoder's keys and values of image tokens.
    pub fn encoder_kv(&self, tokens: &Tensor) -> SourceKv {
        self.source_kv(tokens, false)
    }

    /// The decoder's keys and values of image tokens; `None` if it shares the encoder's cross-attention.
    pub fn decoder_kv(&self, tokens: &Tensor) -> Option<SourceKv> {
        let own = self.name(true, "encoder.layer.0.crossattention.self.key.weight").starts_with(DECODER);
        own.then(|| self.source_kv(tokens, true))
    }

    /// Question encoder: the answer decoder's keys and values of the questions' states, where row i pairs question i, whose
    /// first token becomes [ENC], with the keys and values of image i. The decoder reads the states of all tokens, [ENC]
    /// and [SEP] included, and none of the padding.
    pub fn question_kv(&self, questions: &Texts, images: &SourceKv) -> SourceKv {
        let (ids, mask) = (questions.led_by(self.config.enc_token_id), padding(&questions.mask));
        let states = self.text_states(false, &ids, &mask, Some(images));
        SourceKv { mask: Some(mask), ..self.source_kv(&states, true) }
    }

    fn source_kv(&self, tokens: &Tensor, decoder: bool) -> SourceKv {
        let tokens = tokens.to_kind(self.kind);
        let layers = (0..self.config.text.layers).map(|i| {
            let of = |what: &str| {
                let layer = format!("encoder.layer.{i}.crossattention.self.{what}");
                self.heads(&self.text_linear(&tokens, decoder, &layer))
            };
            (of("key"), of("value"))
        });
        SourceKv { layers: layers.collect(), mask: None }
    }

    /// Image-grounded encoder: ITM logits `[N, 2]`, where row i pairs text i with the keys and values of image i; class
    /// 1 is a match.
    pub fn match_logits(&self, texts: &Texts, images: &SourceKv) -> Tensor {
        let ids = texts.led_by(self.config.enc_token_id);
        let states = self.text_states(false, &ids, &padding(&texts.mask), Some(images));
        self.linear(&states.select(1, 0), "itm_head").to_kind(Kind::Float)
    }

    /// Decoder: next-token logits `[N, L, vocabulary]` of the texts, whose first token becomes [DEC]. `sources` are images
    /// or, of an answerer, questions.
    pub fn decoder_logits(&self, texts: &Texts, sources: &SourceKv) -> Tensor {
        let length = texts.ids.size()[1];
        let future = Tensor::full([length, length], MASKED, (Kind::Float, texts.ids.device())).triu(1);
        // Clamped, so that tokens masked twice (padding and future) have the same score as tokens masked once.
        let mask = (padding(&texts.mask) + future).clamp_min(MASKED);
        let ids = texts.led_by(self.config.text.bos_token_id);
        let states = self.text_states(true, &ids, &mask, Some(sources));
        let head = "text_decoder.cls.predictions.";
        let h = self.linear(&states, &format!("{head}transform.dense")).gelu("none");
        let h = self.norm(&h, &format!("{head}transform.LayerNorm"), self.config.text.layer_norm_eps);
        let words = self.weight(&self.name(true, "embeddings.word_embeddings.weight"));
        let bias = self.weight(&format!("{head}bias"));
        h.to_kind(self.kind).linear(&words, Some(bias)).to_kind(Kind::Float)
    }

    /// Full name of a text transformer's parameter; where the decoder has no own parameter, the encoder's.
    fn name(&self, decoder: bool, tail: &str) -> String {
        let own = format!("{DECODER}{tail}");
        if decoder && self.params.get(&own).is_some() { own } else { format!("{ENCODER}{tail}") }
    }

    fn text_linear(&self, x: &Tensor, decoder: bool, layer: &str) -> Tensor {
        let whole = self.name(decoder, &format!("{layer}.weight"));
        self.linear(x, whole.trim_end_matches(".weight"))
    }

    fn text_norm(&self, x: &Tensor, decoder: bool, layer: &str) -> Tensor {
        let whole = self.name(decoder, &format!("{layer}.weight"));
        self.norm(x, whole.trim_end_matches(".weight"), self.config.text.layer_norm_eps)
    }

    /// `[N, L, width]` -> `[N, heads, L, head size]`.
    fn heads(&self, x: &Tensor) -> Tensor {
        let (size, heads) = (x.size(), self.config.text.heads as i64);
        x.view([size[0], size[1], heads, size[2] / heads]).transpose(1, 2)
    }

    /// Hidden states `[N, L, width]` after the last layer. `mask` is added to the scores of self-attention.
    fn text_states(&self, decoder: bool, ids: &Tensor, mask: &Tensor, sources: Option<&SourceKv>) -> Tensor {
        let words = self.param(&self.name(decoder, "embeddings.word_embeddings.weight"));
        let places = self.param(&self.name(decoder, "embeddings.position_embeddings.weight"));
        let x = Tensor::embedding(words, ids, -1, false, false) + places.narrow(0, 0, ids.size()[1]);
        let mut x = self.dropout(self.text_norm(&x, decoder, "embeddings.LayerNorm"));
        for i in 0..self.config.text.layers {
            let layer = format!("encoder.layer.{i}.");
            let of = |what: &str| self.heads(&self.text_linear(&x, decoder, &format!("{layer}attention.self.{what}")));
            let a = self.attention(&of("query"), &of("key"), &of("value"), Some(mask), true);
            x = self.add_and_norm(&a, &x, decoder, &format!("{layer}attention.output"));
            if let Some(SourceKv { layers, mask }) = sources {
                let (k, v) = &layers[i];
                let q = self.heads(&self.text_linear(&x, decoder, &format!("{layer}crossattention.self.query")));
                let a = self.attention(&q, k, v, mask.as_ref(), true);
                x = self.add_and_norm(&a, &x, decoder, &format!("{layer}crossattention.output"));
            }
            let h = self.text_linear(&x, decoder, &format!("{layer}intermediate.dense")).gelu("none");
            x = self.add_and_norm(&h, &x, decoder, &format!("{layer}output"));
        }
        x
    }

    /// Output of a sub-layer: linear layer, dropout, residual sum, norm.
    fn add_and_norm(&self, h: &Tensor, residual: &Tensor, decoder: bool, block: &str) -> Tensor {
        let h = self.dropout(self.text_linear(h, decoder, &format!("{block}.dense")));
        self.text_norm(&(h + residual), decoder, &format!("{block}.LayerNorm"))
    }
}

/// Added to the scores of masked tokens. It is finite, so that a fully masked row gives no NaN.
const MASKED: f64 = -1e9;

/// Attention mask `[N, L]` of 1 and 0 -> `[N, 1, 1, L]` to add to scores.
fn padding(mask: &Tensor) -> Tensor {
    let padded: Tensor = (1.0 - mask) * MASKED;
    padded.unsqueeze(1).unsqueeze(1)
}

fn unit(x: &Tensor) -> Tensor {
    let x = x.to_kind(Kind::Float);
    &x / x.norm_scalaropt_dim(2, [-1], true).clamp_min(1e-12)
}
