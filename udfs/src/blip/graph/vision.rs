//! Vision encoder (ViT, pre-norm) and projection of its class token.

use super::builder::{Builder, Dim, Graph, attr_int, attr_ints};
use super::proto::DataType::{Float, Int32, Int64, Uint8};
use super::tensors::Shapes;
use crate::blip::config::VisionConfig;
use crate::blip::med::Precision;
use crate::blip::operators::has_fast_self_attention;

/// bytes `[B, size, size, 3]` -> pixels `[B, 3, size, size]`: the values in `tables` of the bytes of each channel.
pub(crate) fn pixels(c: &VisionConfig, tables: &[[f32; 256]; 3], shapes: &dyn Shapes) -> Graph {
    let mut b = Builder::new(shapes, Precision::Fp32);
    let bytes = b.input("bytes", Uint8, &[Dim::S("B"), Dim::N(c.image_size), Dim::N(c.image_size), Dim::N(3)]);
    let x = b.cast(&bytes, Int32);
    let starts = b.ints32(&[0, 256, 512]);
    let x = b.op("Add", &[&x, &starts], vec![]);
    let tables = b.floats("tables", tables.as_flattened());
    let x = b.op("Gather", &[&tables, &x], vec![]);
    b.push("", "Transpose", &[&x], &["pixels".into()], vec![attr_ints("perm", &[0, 3, 1, 2])]);
    b.output("pixels", Float, &[Dim::S("B"), Dim::N(3), Dim::N(c.image_size), Dim::N(c.image_size)]);
    b.finish("pixels")
}

/// Name of image `i` of a run on a device.
pub(crate) fn image_name(i: usize) -> String {
    format!("image.{i}")
}

/// The images `[B, tokens, width]` that are input to the other models: one tensor, or the `apart` tensors
/// `[1, tokens, width]` of a run on a device.
pub(super) fn images_input(b: &mut Builder<'_>, width: usize, apart: Option<usize>) -> String {
    let kind = b.between();
    match apart {
        None => b.input("image", kind, &[Dim::S("B"), Dim::S("S"), Dim::N(width)]),
        Some(images) => {
            let dims = [Dim::N(1), Dim::S("S"), Dim::N(width)];
            let images: Vec<String> = (0..images).map(|i| b.input(&image_name(i), kind, &dims)).collect();
            let images: Vec<&str> = images.iter().map(String::as_str).collect();
            b.op("Concat", &images, vec![attr_int("axis", 0)])
        }
    }
}

/// pixels `[B, 3, size, size]` -> image `[B, tokens, width]`, all tokens after the final layer norm (paper, section
/// 3.1); on a device the tensors `image.i` of B images `apart`, so that each can leave the device alone.
pub(crate) fn vision_encoder(
    c: &VisionConfig,
    shapes: &dyn Shapes,
    precision: Precision,
    apart: Option<usize>,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let (d, eps, v) = (c.width as i64, c.layer_norm_eps, "vision_model.");
    let pixels = b.input("pixels", Float, &[Dim::S("B"), Dim::N(3), Dim::N(c.image_size), Dim::N(c.image_size)]);
    let pixels = b.narrow(&pixels);
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
    let thirds = match precision {
        Precision::Int8 if has_fast_self_attention() => None,
        _ => Some(b.ints(&[d, d, d])),
    };
    for i in 0..c.layers {
        let layer = |name: &str| format!("{v}encoder.layers.{i}.{name}");
        let qkv = b.linear_product(&y, &layer("self_attn.qkv.weight"));
        let qkv_bias = b.weight(&layer("self_attn.qkv.bias"));
        let heads = vec![attr_int("num_heads", c.heads as i64)];
        let a = match &thirds {
            None => b.ours("SelfAttention", &[&qkv, &qkv_bias], heads),
            Some(thirds) => {
                let [q, k, val] = b.node("", "Split", &[&qkv, thirds], vec![attr_int("axis", -1)]);
                b.ms("MultiHeadAttention", &[&q, &k, &val, &qkv_bias], heads)
            }
        };
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
    images_output(&mut b, &y, [Dim::N(c.tokens()), Dim::N(c.width)], apart);
    b.finish("vision_encoder")
}

/// The output that [`images_input`] reads: `x` `[B, tokens, width]` as one tensor, or as the `apart` tensors of a run on a
/// device, so that each can leave the device alone.
pub(super) fn images_output(b: &mut Builder<'_>, x: &str, [tokens, width]: [Dim<'_>; 2], apart: Option<usize>) {
    match apart {
        None => {
            b.rename(x, "image");
            b.output("image", b.between(), &[Dim::S("B"), tokens, width]);
        }
        Some(images) => {
            let names: Vec<String> = (0..images).map(image_name).collect();
            let ones = b.ints(&vec![1; images]);
            b.push("", "Split", &[x, &ones], &names, vec![attr_int("axis", 0)]);
            names.iter().for_each(|name| b.output(name, b.between(), &[Dim::N(1), tokens, width]));
        }
    }
}

/// class token `[B, width]` -> embedding `[B, projection]`, not normalised. On a device the input is the images.
pub(crate) fn image_projection(
    c: &VisionConfig,
    projection: usize,
    shapes: &dyn Shapes,
    precision: Precision,
    apart: Option<usize>,
) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let x = if apart.is_some() {
        let images = images_input(&mut b, c.width, apart);
        b.resume();
        let first = b.int(0);
        let class = b.op("Gather", &[&images, &first], vec![attr_int("axis", 1)]);
        b.widen(&class)
    } else {
        b.input("class_token", Float, &[Dim::S("B"), Dim::N(c.width)])
    };
    let y = b.linear_float(&x, "vision_proj");
    b.rename(&y, "embedding");
    b.output("embedding", Float, &[Dim::S("B"), Dim::N(projection)]);
    b.finish("image_projection")
}

/// tensor `x`, whose rows have the shape `row`, and `rows` `[n]` -> `selected`, those rows of it.
pub(crate) fn selected_rows(row: &[usize], shapes: &dyn Shapes, precision: Precision) -> Graph {
    let mut b = Builder::new(shapes, precision);
    let rest = || row.iter().map(|&n| Dim::N(n));
    let x = b.input("x", b.between(), &std::iter::once(Dim::S("R")).chain(rest()).collect::<Vec<_>>());
    let rows = b.input("rows", Int64, &[Dim::S("n")]);
    b.resume();
    let selected = b.op("Gather", &[&x, &rows], vec![]);
    let selected = b.widen(&selected);
    b.rename(&selected, "selected");
    b.output("selected", Float, &std::iter::once(Dim::S("n")).chain(rest()).collect::<Vec<_>>());
    b.finish("selected_rows")
}
