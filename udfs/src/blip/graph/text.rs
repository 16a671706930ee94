//! Text transformer in its modes: unimodal encoder, image-grounded encoder, image-grounded decoder (paper, figure 2).
//!
//! A grounded mode attends to the image through cross-attention keys and values, `[images, heads, tokens, head size]`
//! per layer, which [`cross_kv`] computes once per image. All texts (or beams) of one image are query rows of one
//! attention, so that its keys and values are read only once. In int8 they are packed, `[images, heads, ..]`, by and for
//! operators of our own.
//!
//! An answerer (paper, figure 5a) has two such transformers: the question encoder is grounded in the image, the answer
//! decoder in the states of the question's tokens.

use super::builder::{Builder, Dim, Graph, MS, attr_float, attr_int, attr_ints};
use super::proto::AttributeProto;
use super::proto::DataType::{Float, Float16, Int32, Int64};
use super::tensors::{Shapes, TextNames};
use super::vision::images_input;
use crate::blip::config::TextConfig;
use crate::blip::med::Precision;
use crate::blip::operators::DOMAIN;

/// What cross-attention reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// An image's tokens, all of them.
    Image,
    /// The states of a question's tokens, padded; `cross_mask` `[B, tokens]` is 1 where there is one.
    Question,
}

impl Source {
    /// Numbers of a token.
    pub(crate) fn width(self, c: &TextConfig) -> usize {
        match self {
            Self::Image => c.encoder_width,
            Self::Question => c.width,
        }
    }

    /// Whether keys and values are packed for operators of our own, which read all tokens.
    fn is_packed(self, precision: Precision) -> bool {
        precision == Precision::Int8 && self == Self::Image
    }
}

/// image `[B, tokens, width]` (or the states of a question) -> `ck.i`, `cv.i` `[B, heads, tokens, head size]`, or
/// packed, for each layer i. On a device the images are `apart`.
pub(crate) fn cross_kv(
    c: &TextConfig,
    names: &dyn TextNames,
    source: Source,
    shapes: &dyn Shapes,
    precision: Precision,
    apart: Option<usize>,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let image = images_input(&mut b, source.width(c), apart);
    b.resume();
    for i in 0..c.layers {
        for (part, out, pack) in [("key", "ck", "PackKeys"), ("value", "cv", "PackValues")] {
            let y = b.linear(&image, &names.layer(i, &format!("crossattention.self.{part}")));
            let out = format!("{out}.{i}");
            if source.is_packed(precision) {
                let heads = vec![attr_int("num_heads", c.heads as i64)];
                b.push(DOMAIN, pack, &[&y], std::slice::from_ref(&out), heads);
                b.output(&out, Float16, &[Dim::S("B"), Dim::N(c.heads), Dim::S(&format!("packed_{part}"))]);
            } else {
                let split = b.ints(&[0, 0, c.heads as i64, c.head_size() as i64]);
                let y = b.op("Reshape", &[&y, &split], vec![]);
                b.push("", "Transpose", &[&y], std::slice::from_ref(&out), vec![attr_ints("perm", &[0, 2, 1, 3])]);
                b.output(&out, b.between(), &[Dim::S("B"), Dim::N(c.heads), Dim::S("S"), Dim::N(c.head_size())]);
            }
        }
    }
    b.finish("cross_kv")
}

/// One step of the decoder for R rows of B images: ids `[R, t]`, positions `[t]`, `reorder` `[R]` (parent row in the
/// previous step), `queries` (the shape `[B, R / B * t, width]`), past keys and values `[R', heads, past, head size]`
/// -> `scores` `[R, vocabulary]` after the last token, and the keys and values for the next step. The scores are logits
/// or, as beam search reads them, their log-softmax.
///
/// On a device the scores stay there. `kept` and `tokens` `[R, k]`, the scores and ids of the `k` likeliest tokens, and
/// `own_scores`, those of the tokens `own` `[R, n]`, suffice in most steps.
pub(crate) fn decoder_step(
    c: &TextConfig,
    names: &dyn TextNames,
    source: Source,
    shapes: &dyn Shapes,
    precision: Precision,
    is_log_softmax: bool,
    is_on_device: bool,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let ids = b.input("ids", Int64, &[Dim::S("R"), Dim::S("t")]);
    let positions = b.input("positions", Int64, &[Dim::S("t")]);
    b.input("reorder", Int64, &[Dim::S("R")]);
    b.input("queries", Int64, &[Dim::N(3)]);
    b.input("rows", Int64, &[Dim::N(3)]);
    let past = [Dim::S("P"), Dim::N(c.heads), Dim::S("past"), Dim::N(c.head_size())];
    for i in 0..c.layers {
        b.input(&format!("past_k.{i}"), b.between(), &past);
        b.input(&format!("past_v.{i}"), b.between(), &past);
    }
    cross_inputs(&mut b, c, source);
    b.output("scores", Float, &[Dim::S("R"), Dim::N(c.vocab_size)]);
    let mut x = embed(&mut b, c, names, &ids, &positions);
    let present = [Dim::S("R"), Dim::N(c.heads), Dim::S("present"), Dim::N(c.head_size())];
    for i in 0..c.layers {
        let [q, k, v] = self_qkv(&mut b, names, i, &x);
        let past_k = b.op("Gather", &[&format!("past_k.{i}"), "reorder"], vec![]);
        let past_v = b.op("Gather", &[&format!("past_v.{i}"), "reorder"], vec![]);
        let outputs = [format!("attention.{i}"), format!("present_k.{i}"), format!("present_v.{i}")];
        let attributes = vec![attr_int("num_heads", c.heads as i64), attr_int("unidirectional", 1)];
        let inputs = [&q, &k, &v, "", "", "", &past_k, &past_v];
        b.push(MS, "MultiHeadAttention", &inputs, &outputs, attributes);
        b.output(&outputs[1], b.between(), &present);
        b.output(&outputs[2], b.between(), &present);
        x = after_attention(&mut b, c, names, i, "attention", &outputs[0], &x);
        x = cross_attention(&mut b, c, names, source, i, &x);
        x = feed_forward(&mut b, c, names, i, &x);
    }
    let last = b.int(-1);
    let x = b.op("Gather", &[&x, &last], vec![attr_int("axis", 1)]);
    let (logits, scores) = (if is_log_softmax { "logits" } else { "scores" }, "scores".into());
    lm_head(&mut b, c, names, &x, logits);
    if is_log_softmax {
        b.push("", "LogSoftmax", &[logits], &[scores], vec![attr_int("axis", -1)]);
    }
    if is_on_device {
        let k = b.input("k", Int64, &[Dim::N(1)]);
        let own = b.input("own", Int32, &[Dim::S("R"), Dim::S("n")]);
        b.push("", "TopK", &["scores", &k], &["kept".into(), "ids64".into()], vec![attr_int("axis", -1)]);
        b.push("", "Cast", &["ids64"], &["tokens".into()], vec![attr_int("to", Int32 as i64)]);
        b.push("", "GatherElements", &["scores", &own], &["own_scores".into()], vec![attr_int("axis", 1)]);
        b.output("kept", Float, &[Dim::S("R"), Dim::S("k")]);
        b.output("tokens", Int32, &[Dim::S("R"), Dim::S("k")]);
        b.output("own_scores", Float, &[Dim::S("R"), Dim::S("n")]);
    }
    b.finish("decoder_step")
}

/// The LM head: the logits of each token's next, as the value `logits`.
fn lm_head(b: &mut Builder<'_>, c: &TextConfig, names: &dyn TextNames, x: &str, logits: &str) {
    let x = b.widen(x);
    let y = b.product(&x, &names.head("transform.dense.weight"));
    let y = b.bias_gelu(&y, &names.head("transform.dense.bias"));
    let y = b.layer_norm(&y, &names.head("transform.LayerNorm"), c.layer_norm_eps);
    let y = b.product(&y, &names.head_weight());
    let bias = b.weight(&names.head_bias());
    b.push("", "Add", &[&y, &bias], &[logits.into()], vec![]);
}

/// Log-probabilities of whole answers: ids `[R, t]` of R answers of B questions, K each, from [DEC] on, and `targets`
/// `[R, t, 1]`, the tokens that follow each -> `likelihood` `[R, t, 1]`, the log-probability of each target, and `mean`
/// `[R, t, 1]`, that of all tokens of the vocabulary on average, which label smoothing mixes in.
pub(crate) fn answer_scores(c: &TextConfig, names: &dyn TextNames, shapes: &dyn Shapes, precision: Precision) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let ids = b.input("ids", Int64, &[Dim::S("R"), Dim::S("t")]);
    let positions = b.input("positions", Int64, &[Dim::S("t")]);
    let each = [Dim::S("R"), Dim::S("t"), Dim::N(1)];
    b.input("targets", Int64, &each);
    b.input("queries", Int64, &[Dim::N(3)]);
    b.input("rows", Int64, &[Dim::N(3)]);
    cross_inputs(&mut b, c, Source::Question);
    let mut x = embed(&mut b, c, names, &ids, &positions);
    for i in 0..c.layers {
        let [q, k, v] = self_qkv(&mut b, names, i, &x);
        // Padding follows the tokens, which do not look ahead: it needs no mask.
        let attributes = vec![attr_int("num_heads", c.heads as i64), attr_int("unidirectional", 1)];
        let a = b.ms("MultiHeadAttention", &[&q, &k, &v], attributes);
        x = after_attention(&mut b, c, names, i, "attention", &a, &x);
        x = cross_attention(&mut b, c, names, Source::Question, i, &x);
        x = feed_forward(&mut b, c, names, i, &x);
    }
    lm_head(&mut b, c, names, &x, "logits");
    let y = b.op("LogSoftmax", &["logits"], vec![attr_int("axis", -1)]);
    b.push("", "GatherElements", &[&y, "targets"], &["likelihood".into()], vec![attr_int("axis", 2)]);
    b.push("", "ReduceMean", &[&y], &["mean".into()], vec![attr_ints("axes", &[-1])]);
    b.output("likelihood", Float, &each);
    b.output("mean", Float, &each);
    b.finish("answer_scores")
}

/// ITM: ids and mask `[N, t]` of N texts of B images, K each -> `logits` `[N, 2]` (class 1: match).
pub(crate) fn match_texts(c: &TextConfig, names: &dyn TextNames, shapes: &dyn Shapes, precision: Precision) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let x = grounded(&mut b, c, names);
    let first = first_token(&mut b, &x);
    let y = b.linear_float(&first, "itm_head");
    b.rename(&y, "logits");
    b.output("logits", Float, &[Dim::S("N"), Dim::N(2)]);
    b.finish("match_texts")
}

/// Question encoder: ids and mask `[N, t]` of N questions about B images, K each -> `states` `[N, t, width]` of all
/// tokens, padding among them.
pub(crate) fn question_encoder(
    c: &TextConfig,
    names: &dyn TextNames,
    shapes: &dyn Shapes,
    precision: Precision,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let x = grounded(&mut b, c, names);
    let x = b.widen(&x);
    b.rename(&x, "states");
    b.output("states", Float, &[Dim::S("N"), Dim::S("t"), Dim::N(c.width)]);
    b.finish("question_encoder")
}

/// The image-grounded encoder's last hidden states `[N, t, width]`, in the precision of the blocks.
fn grounded(b: &mut Builder<'_>, c: &TextConfig, names: &dyn TextNames) -> String {
    let (ids, positions, mask) = text_inputs(b);
    b.input("queries", Int64, &[Dim::N(3)]);
    b.input("rows", Int64, &[Dim::N(3)]);
    cross_inputs(b, c, Source::Image);
    let mut x = embed(b, c, names, &ids, &positions);
    for i in 0..c.layers {
        x = masked_attention(b, c, names, i, &x, &mask);
        x = cross_attention(b, c, names, Source::Image, i, &x);
        x = feed_forward(b, c, names, i, &x);
    }
    x
}

/// Unimodal encoder and projection: ids and mask `[N, t]` -> `embedding` `[N, projection]`, not normalised.
pub(crate) fn text_encoder(
    c: &TextConfig,
    projection: usize,
    names: &dyn TextNames,
    shapes: &dyn Shapes,
    precision: Precision,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let (ids, positions, mask) = text_inputs(&mut b);
    let mut x = embed(&mut b, c, names, &ids, &positions);
    for i in 0..c.layers {
        x = masked_attention(&mut b, c, names, i, &x, &mask);
        x = feed_forward(&mut b, c, names, i, &x);
    }
    let first = first_token(&mut b, &x);
    let y = b.linear_float(&first, "text_proj");
    b.rename(&y, "embedding");
    b.output("embedding", Float, &[Dim::S("N"), Dim::N(projection)]);
    b.finish("text_encoder")
}

fn text_inputs(b: &mut Builder<'_>) -> (String, String, String) {
    let ids = b.input("ids", Int64, &[Dim::S("N"), Dim::S("t")]);
    let positions = b.input("positions", Int64, &[Dim::S("t")]);
    let mask = b.input("mask", Int32, &[Dim::S("N"), Dim::S("t")]);
    (ids, positions, mask)
}

fn cross_inputs(b: &mut Builder<'_>, c: &TextConfig, source: Source) {
    for (i, name) in (0..c.layers).flat_map(|i| [(i, "ck"), (i, "cv")]) {
        let name = format!("{name}.{i}");
        if source.is_packed(b.precision()) {
            b.input(&name, Float16, &[Dim::S("B"), Dim::N(c.heads), Dim::S(&name)]);
        } else {
            b.input(&name, b.between(), &[Dim::S("B"), Dim::N(c.heads), Dim::S("S"), Dim::N(c.head_size())]);
        }
    }
    if source == Source::Question {
        b.input("cross_mask", Int32, &[Dim::S("B"), Dim::S("S")]);
    }
}

fn first_token(b: &mut Builder<'_>, x: &str) -> String {
    let zero = b.int(0);
    let first = b.op("Gather", &[x, &zero], vec![attr_int("axis", 1)]);
    b.widen(&first)
}

/// Word plus position embedding, then layer norm; BLIP has no token types.
fn embed(b: &mut Builder<'_>, c: &TextConfig, names: &dyn TextNames, ids: &str, positions: &str) -> String {
    let words = b.weight(&names.embeddings("word_embeddings.weight"));
    let places = b.weight(&names.embeddings("position_embeddings.weight"));
    let words = b.op("Gather", &[&words, ids], vec![]);
    let places = b.op("Gather", &[&places, positions], vec![]);
    let x = b.op("Add", &[&words, &places], vec![]);
    let x = b.layer_norm(&x, &names.embeddings("LayerNorm"), c.layer_norm_eps);
    b.narrow(&x)
}

fn self_qkv(b: &mut Builder<'_>, names: &dyn TextNames, i: usize, x: &str) -> [String; 3] {
    ["query", "key", "value"].map(|n| b.linear(x, &names.layer(i, &format!("attention.self.{n}"))))
}

fn masked_attention(
    b: &mut Builder<'_>,
    c: &TextConfig,
    names: &dyn TextNames,
    i: usize,
    x: &str,
    mask: &str,
) -> String {
    let [q, k, v] = self_qkv(b, names, i, x);
    let a = b.ms("MultiHeadAttention", &[&q, &k, &v, "", mask], masking(c));
    after_attention(b, c, names, i, "attention", &a, x)
}

/// Attributes of attention with a mask of its keys.
fn masking(c: &TextConfig) -> Vec<AttributeProto> {
    vec![attr_int("num_heads", c.heads as i64), attr_float("mask_filter_value", -1e30)]
}

fn cross_attention(
    b: &mut Builder<'_>,
    c: &TextConfig,
    names: &dyn TextNames,
    source: Source,
    i: usize,
    x: &str,
) -> String {
    let q = b.linear(x, &names.layer(i, "crossattention.self.query"));
    let q = b.op("Reshape", &[&q, "queries"], vec![]);
    let (k, v) = (format!("ck.{i}"), format!("cv.{i}"));
    let heads = vec![attr_int("num_heads", c.heads as i64)];
    let a = match source {
        Source::Question => b.ms("MultiHeadAttention", &[&q, &k, &v, "", "cross_mask"], masking(c)),
        Source::Image if source.is_packed(b.precision()) => b.ours("CrossAttention", &[&q, &k, &v], heads),
        Source::Image => b.ms("MultiHeadAttention", &[&q, &k, &v], heads),
    };
    let a = b.op("Reshape", &[&a, "rows"], vec![]);
    after_attention(b, c, names, i, "crossattention", &a, x)
}

fn after_attention(
    b: &mut Builder<'_>,
    c: &TextConfig,
    names: &dyn TextNames,
    i: usize,
    block: &str,
    attention: &str,
    residual: &str,
) -> String {
    let y = b.linear_product(attention, &names.layer(i, &format!("{block}.output.dense.weight")));
    let bias = names.layer(i, &format!("{block}.output.dense.bias"));
    let norm = names.layer(i, &format!("{block}.output.LayerNorm"));
    b.add_and_norm(&y, &bias, residual, &norm, c.layer_norm_eps)
}

fn feed_forward(b: &mut Builder<'_>, c: &TextConfig, names: &dyn TextNames, i: usize, x: &str) -> String {
    let h = b.linear_gelu(x, &names.layer(i, "intermediate.dense"));
    let h = b.linear_product(&h, &names.layer(i, "output.dense.weight"));
    let (bias, norm) = (names.layer(i, "output.dense.bias"), names.layer(i, "output.LayerNorm"));
    b.add_and_norm(&h, &bias, x, &norm, c.layer_norm_eps)
}
