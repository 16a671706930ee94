//! Vision encoder (ViT, pre-norm) and projection of its class token.

use super::builder::{Builder, Dim, Graph, attr_int, attr_ints};
use super::proto::DataType::Float;
use super::tensors::Shapes;
use crate::blip::config::VisionConfig;
use crate::blip::med::Precision;

/// pixels `[B, 3, size, size]` -> image `[B, tokens, width]`, all tokens after the final layer norm (paper, section
/// 3.1).
pub(crate) fn vision_encoder(c: &VisionConfig, shapes: &dyn Shapes, precision: Precision) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let (d, eps, v) = (c.width as i64, c.layer_norm_eps, "vision_model.");
    let pixels = b.input("pixels", Float, &[Dim::S("B"), Dim::N(3), Dim::N(c.image_size), Dim::N(c.image_size)]);
    let patch = c.patch_size as i64;
    let (w, bias) = (
        b.weight(&format!("{v}embeddings.patch_embedding.weight")),
        b.weight(&format!("{v}embeddings.patch_embedding.bias")),
    );
    let kernel = vec![attr_ints("kernel_shape", &[patch, patch]), attr_ints("strides", &[patch, patch])];
    let x = b.op("Conv", &[&pixels, &w, &bias], kernel);
    let shape = b.ints(&[0, d, -1]);
    let x = b.op("Reshape", &[&x, &shape], vec![]);
    let x = b.op("Transpose", &[&x], vec![attr_ints("perm", &[0, 2, 1])]);
    // Class token in front: padding makes room for it, and it is added with the positions.
    let pads = b.ints(&[0, 1, 0, 0, 0, 0]);
    let x = b.op("Pad", &[&x, &pads], vec![]);
    let class = b.weight(&format!("{v}embeddings.class_embedding"));
    let after = b.ints(&[0, 0, 0, 0, (c.tokens() - 1) as i64, 0]);
    let class = b.op("Pad", &[&class, &after], vec![]);
    let positions = b.weight(&format!("{v}embeddings.position_embedding"));
    let positions = b.op("Add", &[&positions, &class], vec![]);
    let mut x = b.op("Add", &[&x, &positions], vec![]);
    let mut y = b.layer_norm(&x, &format!("{v}encoder.layers.0.layer_norm1"), eps);
    let thirds = b.ints(&[d, d, d]);
    for i in 0..c.layers {
        let layer = |name: &str| format!("{v}encoder.layers.{i}.{name}");
        let qkv = b.linear_product(&y, &layer("self_attn.qkv.weight"));
        let [q, k, val] = b.node("", "Split", &[&qkv, &thirds], vec![attr_int("axis", -1)]);
        let qkv_bias = b.weight(&layer("self_attn.qkv.bias"));
        let heads = vec![attr_int("num_heads", c.heads as i64)];
        let a = b.ms("MultiHeadAttention", &[&q, &k, &val, &qkv_bias], heads);
        let a = b.linear_product(&a, &layer("self_attn.projection.weight"));
        [y, x] = b.add_and_norm_both(&a, &layer("self_attn.projection.bias"), &x, &layer("layer_norm2"), eps);
        let h = b.linear_gelu(&y, &layer("mlp.fc1"));
        let h = b.linear_product(&h, &layer("mlp.fc2.weight"));
        let next = if i + 1 < c.layers {
            format!("{v}encoder.layers.{}.layer_norm1", i + 1)
        } else {
            format!("{v}post_layernorm")
        };
        [y, x] = b.add_and_norm_both(&h, &layer("mlp.fc2.bias"), &x, &next, eps);
    }
    b.rename(&y, "image");
    b.output("image", Float, &[Dim::S("B"), Dim::N(c.tokens()), Dim::N(c.width)]);
    b.finish("vision_encoder")
}

/// class token `[B, width]` -> embedding `[B, projection]`, not normalised.
pub(crate) fn image_projection(c: &VisionConfig, projection: usize, shapes: &dyn Shapes) -> Graph {
    let mut b = Builder::new(shapes, Precision::Fp32);
    let x = b.input("class_token", Float, &[Dim::S("B"), Dim::N(c.width)]);
    let y = b.linear(&x, "vision_proj");
    b.rename(&y, "embedding");
    b.output("embedding", Float, &[Dim::S("B"), Dim::N(projection)]);
    b.finish("image_projection")
}
