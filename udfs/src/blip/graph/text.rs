//! Text transformer in its modes: unimodal encoder, image-grounded encoder, image-grounded decoder (paper, figure 2).
//!
//! A grounded mode attends to the image through cross-attention keys and values, `[images, heads, tokens, head size]`
//! per layer, which [`cross_kv`] computes once per image. All texts (or beams) of one image are query rows of one
//! attention, so that its keys and values are read only once. In int8 they are packed, `[images, heads, ..]`, by and for
//! operators of our own.

use super::builder::{Builder, Dim, Graph, MS, attr_float, attr_int, attr_ints};
use super::proto::DataType::{Float, Float16, Int32, Int64};
use super::tensors::{Shapes, TextNames};
use super::vision::images_input;
use crate::blip::config::TextConfig;
use crate::blip::med::Precision;
use crate::blip::operators::DOMAIN;

/// image `[B, tokens, vision width]` -> `ck.i`, `cv.i` `[B, heads, tokens, head size]`, or packed, for each layer i. On
/// a device the images are `apart`.
pub(crate) fn cross_kv(
    c: &TextConfig,
    names: &dyn TextNames,
    shapes: &dyn Shapes,
    precision: Precision,
    apart: Option<usize>,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let image = images_input(&mut b, c.encoder_width, apart);
    b.resume();
    for i in 0..c.layers {
        for (source, out, pack) in [("key", "ck", "PackKeys"), ("value", "cv", "PackValues")] {
            let y = b.linear(&image, &names.layer(i, &format!("crossattention.self.{source}")));
            let out = format!("{out}.{i}");
            match precision {
                Precision::Fp32 | Precision::Fp16 => {
                    let split = b.ints(&[0, 0, c.heads as i64, c.head_size() as i64]);
                    let y = b.op("Reshape", &[&y, &split], vec![]);
                    b.push("", "Transpose", &[&y], std::slice::from_ref(&out), vec![attr_ints("perm", &[0, 2, 1, 3])]);
                    b.output(&out, b.between(), &[Dim::S("B"), Dim::N(c.heads), Dim::S("S"), Dim::N(c.head_size())]);
                }
                Precision::Int8 => {
                    let heads = vec![attr_int("num_heads", c.heads as i64)];
                    b.push(DOMAIN, pack, &[&y], std::slice::from_ref(&out), heads);
                    b.output(&out, Float16, &[Dim::S("B"), Dim::N(c.heads), Dim::S(&format!("packed_{source}"))]);
                }
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
    cross_inputs(&mut b, c);
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
        x = cross_attention(&mut b, c, names, i, &x);
        x = feed_forward(&mut b, c, names, i, &x);
    }
    let last = b.int(-1);
    let x = b.op("Gather", &[&x, &last], vec![attr_int("axis", 1)]);
    let x = b.widen(&x);
    let y = b.product(&x, &names.head("transform.dense.weight"));
    let y = b.bias_gelu(&y, &names.head("transform.dense.bias"));
    let y = b.layer_norm(&y, &names.head("transform.LayerNorm"), c.layer_norm_eps);
    let y = b.product(&y, &names.head_weight());
    let bias = b.weight(&names.head_bias());
    let (logits, scores) = (if is_log_softmax { "logits" } else { "scores" }, "scores".into());
    b.push("", "Add", &[&y, &bias], &[logits.into()], vec![]);
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

/// ITM: ids and mask `[N, t]` of N texts of B images, K each -> `logits` `[N, 2]` (class 1: match).
pub(crate) fn match_texts(c: &TextConfig, names: &dyn TextNames, shapes: &dyn Shapes, precision: Precision) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let (ids, positions, mask) = text_inputs(&mut b);
    b.input("queries", Int64, &[Dim::N(3)]);
    b.input("rows", Int64, &[Dim::N(3)]);
    cross_inputs(&mut b, c);
    let mut x = embed(&mut b, c, names, &ids, &positions);
    for i in 0..c.layers {
        x = masked_attention(&mut b, c, names, i, &x, &mask);
        x = cross_attention(&mut b, c, names, i, &x);
        x = feed_forward(&mut b, c, names, i, &x);
    }
    let first = first_token(&mut b, &x);
    let y = b.linear_float(&first, "itm_head");
    b.rename(&y, "logits");
    b.output("logits", Float, &[Dim::S("N"), Dim::N(2)]);
    b.finish("match_texts")
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

fn cross_inputs(b: &mut Builder<'_>, c: &TextConfig) {
    for (i, name) in (0..c.layers).flat_map(|i| [(i, "ck"), (i, "cv")]) {
        let name = format!("{name}.{i}");
        match b.precision() {
            Precision::Fp32 | Precision::Fp16 => {
                b.input(&name, b.between(), &[Dim::S("B"), Dim::N(c.heads), Dim::S("S"), Dim::N(c.head_size())])
            }
            Precision::Int8 => b.input(&name, Float16, &[Dim::S("B"), Dim::N(c.heads), Dim::S(&name)]),
        };
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
    let attributes = vec![attr_int("num_heads", c.heads as i64), attr_float("mask_filter_value", -1e30)];
    let a = b.ms("MultiHeadAttention", &[&q, &k, &v, "", mask], attributes);
    after_attention(b, c, names, i, "attention", &a, x)
}

fn cross_attention(b: &mut Builder<'_>, c: &TextConfig, names: &dyn TextNames, i: usize, x: &str) -> String {
    let q = b.linear(x, &names.layer(i, "crossattention.self.query"));
    let q = b.op("Reshape", &[&q, "queries"], vec![]);
    let (k, v) = (format!("ck.{i}"), format!("cv.{i}"));
    let heads = vec![attr_int("num_heads", c.heads as i64)];
    let a = match b.precision() {
        Precision::Fp32 | Precision::Fp16 => b.ms("MultiHeadAttention", &[&q, &k, &v], heads),
        Precision::Int8 => b.ours("CrossAttention", &[&q, &k, &v], heads),
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
