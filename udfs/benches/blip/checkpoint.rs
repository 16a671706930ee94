//! BLIP checkpoints with random weights in Hugging Face layout, created once and cached.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capfilt_udfs::blip::{Checkpoint, OrtMed, Precision};
use serde_json::{Map, Value, json};

use crate::{Result, root};

/// Dimensions of a model. MLPs are four times as wide as the hidden states.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) image_size: usize,
    patch_size: usize,
    vision_layers: usize,
    vision_width: usize,
    vision_heads: usize,
    text_layers: usize,
    text_width: usize,
    text_heads: usize,
}

/// Rows of the word embedding: BERT's 30522, [DEC] and [ENC].
pub(crate) const VOCABULARY: usize = 30524;
pub(crate) const DEC: u32 = 30522;
pub(crate) const ENC: u32 = 30523;
pub(crate) const SEP: u32 = 102;
/// Width of the ITC embeddings.
const PROJECTION: usize = 256;
const POSITIONS: usize = 512;

impl Shape {
    const BASE: Self = Self {
        image_size: 384,
        patch_size: 16,
        vision_layers: 12,
        vision_width: 768,
        vision_heads: 12,
        text_layers: 12,
        text_width: 768,
        text_heads: 12,
    };
    const LARGE: Self = Self { vision_layers: 24, vision_width: 1024, vision_heads: 16, ..Self::BASE };
    /// Replaces BASE in a quick run.
    const TINY: Self = Self {
        image_size: 32,
        vision_layers: 2,
        vision_width: 64,
        vision_heads: 4,
        text_layers: 2,
        text_width: 64,
        text_heads: 4,
        ..Self::BASE
    };
    /// Replaces LARGE in a quick run; as in LARGE, image and text widths differ.
    const TINY_LARGE: Self = Self { vision_layers: 3, vision_width: 96, vision_heads: 6, ..Self::TINY };

    /// Floating-point operations of the vision encoder's products per image, where a multiply-add counts as two.
    pub(crate) fn vit_flop(&self) -> f64 {
        let patches = (self.image_size / self.patch_size).pow(2) as f64;
        let (tokens, width) = (patches + 1.0, self.vision_width as f64);
        let embed = 2.0 * patches * width * (3 * self.patch_size.pow(2)) as f64;
        // Query, key, value and output: 4 width^2; the MLP: 8 width^2.
        let linear = 2.0 * tokens * 12.0 * width * width;
        let attention = 4.0 * tokens * tokens * width;
        embed + self.vision_layers as f64 * (linear + attention)
    }

    /// Standard deviation of the weights: BERT's 0.02 at its width, scaled for equal signal at others.
    fn deviation(&self) -> f32 {
        0.02 * (768.0 / self.text_width as f32).sqrt()
    }

    fn config(&self, part: Part) -> Value {
        json!({
            "architectures": [part.architecture()],
            "model_type": "blip",
            "dtype": "float32",
            "initializer_range": self.deviation(),
            "image_text_hidden_size": PROJECTION,
            "tie_word_embeddings": true,
            "vision_config": {
                "model_type": "blip_vision_model",
                "hidden_size": self.vision_width,
                "intermediate_size": 4 * self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "image_size": self.image_size,
                "patch_size": self.patch_size,
            },
            "text_config": {
                "model_type": "blip_text_model",
                "vocab_size": VOCABULARY,
                "hidden_size": self.text_width,
                "encoder_hidden_size": self.vision_width,
                "intermediate_size": 4 * self.text_width,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "max_position_embeddings": POSITIONS,
                "bos_token_id": DEC,
                "sep_token_id": SEP,
                "pad_token_id": 0,
                "eos_token_id": 2,
                "tie_word_embeddings": true,
            },
        })
    }

    /// Names and shapes of a checkpoint's tensors.
    fn tensors(&self, part: Part) -> Vec<(String, Vec<usize>)> {
        let mut t = Tensors(vec![]);
        let (d, p) = (self.vision_width, self.patch_size);
        let tokens = (self.image_size / p).pow(2) + 1;
        t.add("vision_model.embeddings.class_embedding", &[1, 1, d]);
        t.add("vision_model.embeddings.position_embedding", &[1, tokens, d]);
        t.add("vision_model.embeddings.patch_embedding.weight", &[d, 3, p, p]);
        t.add("vision_model.embeddings.patch_embedding.bias", &[d]);
        for i in 0..self.vision_layers {
            let layer = format!("vision_model.encoder.layers.{i}");
            t.linear(&format!("{layer}.self_attn.qkv"), 3 * d, d);
            t.linear(&format!("{layer}.self_attn.projection"), d, d);
            t.linear(&format!("{layer}.mlp.fc1"), 4 * d, d);
            t.linear(&format!("{layer}.mlp.fc2"), d, 4 * d);
            t.norm(&format!("{layer}.layer_norm1"), d);
            t.norm(&format!("{layer}.layer_norm2"), d);
        }
        t.norm("vision_model.post_layernorm", d);
        let w = self.text_width;
        let text = match part {
            Part::Captioner => "text_decoder.bert",
            Part::Matcher => "text_encoder",
        };
        t.add(&format!("{text}.embeddings.word_embeddings.weight"), &[VOCABULARY, w]);
        t.add(&format!("{text}.embeddings.position_embeddings.weight"), &[POSITIONS, w]);
        t.norm(&format!("{text}.embeddings.LayerNorm"), w);
        for i in 0..self.text_layers {
            let layer = format!("{text}.encoder.layer.{i}");
            for (block, input) in [("attention", w), ("crossattention", d)] {
                t.linear(&format!("{layer}.{block}.self.query"), w, w);
                t.linear(&format!("{layer}.{block}.self.key"), w, input);
                t.linear(&format!("{layer}.{block}.self.value"), w, input);
                t.linear(&format!("{layer}.{block}.output.dense"), w, w);
                t.norm(&format!("{layer}.{block}.output.LayerNorm"), w);
            }
            t.linear(&format!("{layer}.intermediate.dense"), 4 * w, w);
            t.linear(&format!("{layer}.output.dense"), w, 4 * w);
            t.norm(&format!("{layer}.output.LayerNorm"), w);
        }
        match part {
            Part::Captioner => {
                let head = "text_decoder.cls.predictions";
                t.add(&format!("{head}.bias"), &[VOCABULARY]);
                t.linear(&format!("{head}.transform.dense"), w, w);
                t.norm(&format!("{head}.transform.LayerNorm"), w);
            }
            Part::Matcher => {
                t.linear("itm_head", 2, w);
                t.linear("text_proj", PROJECTION, w);
                t.linear("vision_proj", PROJECTION, d);
            }
        }
        t.0
    }
}

struct Tensors(Vec<(String, Vec<usize>)>);

impl Tensors {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.into(), shape.into()));
    }

    fn linear(&mut self, name: &str, out: usize, input: usize) {
        self.add(&format!("{name}.weight"), &[out, input]);
        self.add(&format!("{name}.bias"), &[out]);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }
}

#[derive(Clone, Copy)]
enum Part {
    Captioner,
    Matcher,
}

impl Part {
    fn architecture(self) -> &'static str {
        match self {
            Self::Captioner => "BlipForConditionalGeneration",
            Self::Matcher => "BlipForImageTextRetrieval",
        }
    }
}

/// A captioner and a filter: two checkpoints of one size.
pub(crate) struct Pair {
    pub(crate) shape: Shape,
    pub(crate) captioner: PathBuf,
    pub(crate) filter: PathBuf,
}

impl Pair {
    /// BLIP-base.
    pub(crate) fn base(out: &Path, quick: bool) -> Result<Self> {
        Self::made(out, "base", if quick { Shape::TINY } else { Shape::BASE })
    }

    /// BLIP with ViT-L.
    pub(crate) fn large(out: &Path, quick: bool) -> Result<Self> {
        Self::made(out, "large", if quick { Shape::TINY_LARGE } else { Shape::LARGE })
    }

    fn made(out: &Path, name: &str, shape: Shape) -> Result<Self> {
        let pair = Self {
            captioner: out.join(format!("{name}-captioner")),
            filter: out.join(format!("{name}-filter")),
            shape,
        };
        make(&pair.captioner, &pair.shape, Part::Captioner, 1)?;
        make(&pair.filter, &pair.shape, Part::Matcher, 2)?;
        Ok(pair)
    }

    pub(crate) fn captioner(&self, precision: Precision, threads: usize) -> Result<OrtMed> {
        open(&self.captioner, precision, threads)
    }

    pub(crate) fn filter(&self, precision: Precision, threads: usize) -> Result<OrtMed> {
        open(&self.filter, precision, threads)
    }
}

fn open(dir: &Path, precision: Precision, threads: usize) -> Result<OrtMed> {
    Ok(OrtMed::new(Arc::new(Checkpoint::open(dir)?), "cpu", precision, threads)?)
}

/// Writes the checkpoint unless it exists. config.json is written last, so a matching one implies complete files.
fn make(dir: &Path, shape: &Shape, part: Part, seed: u64) -> Result<()> {
    let config = format!("{:#}\n", shape.config(part));
    let config_path = dir.join("config.json");
    if fs::read_to_string(&config_path).is_ok_and(|there| there == config) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    match fs::remove_file(&config_path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let example = root().join("tests/fixtures/models/captioner");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(example.join(name), dir.join(name))?;
    }
    let preprocessor = fs::read_to_string(example.join("preprocessor_config.json"))?;
    let mut preprocessor: Value = serde_json::from_str(&preprocessor)?;
    preprocessor["size"] = json!({ "height": shape.image_size, "width": shape.image_size });
    fs::write(dir.join("preprocessor_config.json"), format!("{preprocessor:#}\n"))?;
    write_safetensors(&dir.join("model.safetensors"), &shape.tensors(part), shape.deviation(), seed)?;
    Ok(fs::write(config_path, config)?)
}

/// Writes tensor by tensor, so that a gigabyte of weights is never in memory.
fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>)], deviation: f32, seed: u64) -> Result<()> {
    let mut header = Map::from_iter([("__metadata__".into(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::from(header).to_string();
    // The format requires 8-byte alignment.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut normal = Normal::new(seed);
    for (name, shape) in tensors {
        let lower = name.to_lowercase();
        let norm = lower.contains("layernorm") || lower.contains("layer_norm");
        for _ in 0..shape.iter().product() {
            let value: f32 = match norm {
                true if name.ends_with("weight") => 1.0,
                true => 0.0,
                false => deviation * normal.draw(),
            };
            file.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(file.into_inner()?.sync_all()?)
}

/// Standard normal numbers by splitmix64 and Box-Muller: deterministic, and fast enough for a billion.
pub(crate) struct Normal {
    state: u64,
    spare: Option<f32>,
}

impl Normal {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, spare: None }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn draw(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let bits = self.bits();
        // In (0, 1] and [0, 1).
        let unit = |bits: u64| (bits & 0xff_ffff) as f32 / 16_777_216.0;
        let radius = (-2.0 * (1.0 - unit(bits)).ln()).sqrt();
        let angle = std::f32::consts::TAU * unit(bits >> 32);
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}
