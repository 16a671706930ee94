//! Opening and validation of a checkpoint folder before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::config::{BlipConfig, Tying};
use super::digests;
use super::files;
use super::generation_config::PartialGeneration;
use super::graph::tensors::TextNames;
use super::med::Precision;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::image::Preprocessor;
use crate::text::{self, Tokenizer};

/// Tensor names of the image-grounded and the unimodal encoder.
pub(crate) struct EncoderNames;

impl TextNames for EncoderNames {
    fn embeddings(&self, name: &str) -> String {
        format!("text_encoder.embeddings.{name}")
    }
    fn layer(&self, i: usize, name: &str) -> String {
        format!("text_encoder.encoder.layer.{i}.{name}")
    }
    fn head_weight(&self) -> String {
        String::new()
    }
    fn head_bias(&self) -> String {
        String::new()
    }
}

/// Tensor names of the decoder: its own where the file has them, else the encoder's. An answerer's are its own.
pub(crate) struct DecoderNames<'a> {
    weights: &'a Weights,
    tied: bool,
    shares: bool,
}

impl DecoderNames<'_> {
    fn own_or_shared(&self, name: String) -> String {
        let own = format!("text_decoder.bert.{name}");
        let there = self.weights.contains(&own) || self.weights.contains(&format!("{own}.weight"));
        let shared = format!("text_encoder.{name}");
        let elsewhere =
            self.shares && (self.weights.contains(&shared) || self.weights.contains(&format!("{shared}.weight")));
        if there || !elsewhere { own } else { shared }
    }
}

impl TextNames for DecoderNames<'_> {
    fn embeddings(&self, name: &str) -> String {
        self.own_or_shared(format!("embeddings.{name}"))
    }
    fn layer(&self, i: usize, name: &str) -> String {
        self.own_or_shared(format!("encoder.layer.{i}.{name}"))
    }
    fn head_weight(&self) -> String {
        if self.tied { self.embeddings("word_embeddings.weight") } else { self.head("decoder.weight") }
    }
    fn head_bias(&self) -> String {
        // transformers adds decoder.bias; with a tied head, and always in transformers 4, `bias` is the same tensor.
        let own = self.head("decoder.bias");
        if !self.tied && self.weights.contains(&own) { own } else { self.head("bias") }
    }
}

/// A validated checkpoint in Hugging Face layout: its files are complete, and every tensor that its parts need is
/// present with the shape that config.json implies.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) dir: PathBuf,
    pub(crate) config: BlipConfig,
    pub(crate) weights: Weights,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) preprocessor: Preprocessor,
    pub(crate) parts: Parts,
    /// Tensors that are unused and in no known version of BLIP.
    pub(crate) unknown: Vec<String>,
    used: BTreeSet<String>,
    /// Files other than the weights that affect results.
    inputs: Vec<PathBuf>,
}

/// Capabilities of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Has a decoder: `caption`.
    pub captioner: bool,
    /// Has an image-grounded encoder and an ITM head: `itm_score`.
    pub matcher: bool,
    /// Has a unimodal encoder and projections: `itc_score`, `embed_image`, `embed_text`.
    pub contrastive: bool,
    /// Has a question encoder and an answer decoder: `vqa`, `vqa_score`.
    pub answerer: bool,
}

/// Error text for captioning with a checkpoint that is not a captioner.
pub(crate) const NO_DECODER: &str = "no text decoder: it is not a captioner";
/// Error text for ITM scoring with a checkpoint that is not a filter.
pub(crate) const NO_ITM_HEAD: &str = "no ITM head: it is not a filter";
/// Error text for answering with a checkpoint that is not an answerer.
pub(crate) const NO_QUESTIONS: &str = "no question encoder: it is not an answerer (BlipForQuestionAnswering)";
/// Error text for other work with an answerer.
const ANSWERS_ONLY: &str = "an answerer of questions (BlipForQuestionAnswering), for vqa and vqa_score: it is neither a captioner nor a filter";

impl Checkpoint {
    /// Opens and validates the folder `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = BlipConfig::read(dir)?;
        let weights = Weights::open(dir)?;
        weights.check_names()?;
        let (path, preprocessor) = files::preprocessor(dir)?;
        let side = config.vision.image_size;
        if (preprocessor.width as usize, preprocessor.height as usize) != (side, side) {
            let reason = format!(
                "it makes images of {}x{}, but config.json's image_size is {side}",
                preprocessor.width, preprocessor.height
            );
            return Err(Error::checkpoint(path, reason));
        }
        let tokenizer = Tokenizer::read(dir, &config.text)?;
        let inputs = [dir.join(files::CONFIG), path].into_iter().chain(text::files(dir)?).collect();
        let decoder = weights.has_prefix("text_decoder.");
        let encoder = weights.has_prefix("text_encoder.");
        let answerer = config.is_answerer();
        if answerer && !(decoder && encoder) {
            let reason = format!(
                "its architecture is {}, but it has no {}",
                config.architecture,
                if encoder { "text_decoder" } else { "text_encoder" }
            );
            return Err(Error::checkpoint(dir, reason));
        }
        let parts = Parts {
            captioner: decoder && !answerer,
            matcher: encoder && !answerer && weights.has_prefix("itm_head."),
            contrastive: encoder && !answerer && weights.has_prefix("text_proj.") && weights.has_prefix("vision_proj."),
            answerer,
        };
        if parts == (Parts { captioner: false, matcher: false, contrastive: false, answerer: false }) {
            return Err(Error::checkpoint(
                dir,
                "it has neither a text_decoder nor a text_encoder with itm_head: no captioner and no filter",
            ));
        }
        let mut checkpoint = Self {
            dir: dir.into(),
            config,
            weights,
            tokenizer,
            preprocessor,
            parts,
            unknown: vec![],
            used: BTreeSet::new(),
            inputs,
        };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Error that the checkpoint lacks `what`. Of an answerer it says what it is instead.
    pub(crate) fn lacks(&self, what: &str) -> Error {
        Error::checkpoint(&self.dir, if self.parts.answerer { ANSWERS_ONLY } else { what })
    }

    /// Sizes and special tokens.
    pub fn config(&self) -> &BlipConfig {
        &self.config
    }

    /// Tokenizer of the checkpoint.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Image preprocessing of the checkpoint.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Whether the LM head shares the word embedding's tensor.
    pub fn tied(&self) -> bool {
        match self.config.tying {
            Tying::Tied => true,
            Tying::Untied => false,
            Tying::AsStored => !self.weights.contains("text_decoder.cls.predictions.decoder.weight"),
        }
    }

    pub(crate) fn decoder_names(&self) -> DecoderNames<'_> {
        DecoderNames { weights: &self.weights, tied: self.tied(), shares: !self.parts.answerer }
    }

    /// Checks the presence and shape of every tensor that the parts use; the error names the first faulty one.
    fn check(&mut self) -> Result<()> {
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        self.expect_vision(&mut expected);
        let c = &self.config;
        let (t, d) = (&c.text, c.text.width);
        let mut add = |name: String, shape: &[usize]| expected.insert(name, shape.to_vec());
        if self.parts.captioner || self.parts.answerer {
            let names = self.decoder_names();
            add(names.head("transform.dense.weight"), &[d, d]);
            add(names.head("transform.dense.bias"), &[d]);
            add(names.head("transform.LayerNorm.weight"), &[d]);
            add(names.head("transform.LayerNorm.bias"), &[d]);
            add(names.head_bias(), &[t.vocab_size]);
            add(names.head_weight(), &[t.vocab_size, d]);
        }
        if self.parts.matcher {
            add("itm_head.weight".into(), &[2, d]);
            add("itm_head.bias".into(), &[2]);
        }
        if self.parts.contrastive {
            add("text_proj.weight".into(), &[c.projection, d]);
            add("text_proj.bias".into(), &[c.projection]);
            add("vision_proj.weight".into(), &[c.projection, c.vision.width]);
            add("vision_proj.bias".into(), &[c.projection]);
        }
        let image = Some(t.encoder_width);
        if self.parts.captioner {
            self.expect_text(&self.decoder_names(), image, &mut expected);
        }
        if self.parts.matcher || self.parts.contrastive {
            self.expect_text(&EncoderNames, image.filter(|_| self.parts.matcher), &mut expected);
        }
        if self.parts.answerer {
            self.expect_text(&EncoderNames, image, &mut expected);
            self.expect_text(&self.decoder_names(), Some(d), &mut expected);
        }
        for (name, shape) in &expected {
            self.weights.expect(name, shape)?;
        }
        self.check_tied()?;
        self.used = expected.into_keys().collect();
        self.unknown =
            self.weights.names().filter(|n| !self.used.contains(*n) && !known_extra(n)).map(Into::into).collect();
        for name in &self.unknown {
            log::warn!("checkpoint {}: unknown tensor {name} is ignored", self.dir.display());
        }
        Ok(())
    }

    fn expect_vision(&self, expected: &mut BTreeMap<String, Vec<usize>>) {
        let v = &self.config.vision;
        let (d, m, p) = (v.width, v.mlp_width, v.patch_size);
        let mut add = |name: String, shape: &[usize]| {
            expected.insert(format!("vision_model.{name}"), shape.to_vec());
        };
        add("embeddings.class_embedding".into(), &[1, 1, d]);
        add("embeddings.position_embedding".into(), &[1, v.tokens(), d]);
        add("embeddings.patch_embedding.weight".into(), &[d, 3, p, p]);
        add("embeddings.patch_embedding.bias".into(), &[d]);
        add("post_layernorm.weight".into(), &[d]);
        add("post_layernorm.bias".into(), &[d]);
        for i in 0..v.layers {
            for (name, out, input) in
                [("self_attn.qkv", 3 * d, d), ("self_attn.projection", d, d), ("mlp.fc1", m, d), ("mlp.fc2", d, m)]
            {
                add(format!("encoder.layers.{i}.{name}.weight"), &[out, input]);
                add(format!("encoder.layers.{i}.{name}.bias"), &[out]);
            }
            for name in ["layer_norm1", "layer_norm2"] {
                add(format!("encoder.layers.{i}.{name}.weight"), &[d]);
                add(format!("encoder.layers.{i}.{name}.bias"), &[d]);
            }
        }
    }

    /// Tensors of a text transformer; `source` is the width of what its cross-attention reads, if it has one.
    fn expect_text(&self, names: &dyn TextNames, source: Option<usize>, expected: &mut BTreeMap<String, Vec<usize>>) {
        let t = &self.config.text;
        let (d, m) = (t.width, t.mlp_width);
        let mut add = |name: String, shape: &[usize]| {
            expected.insert(name, shape.to_vec());
        };
        let norm = |layer: String| [(format!("{layer}.weight"), vec![d]), (format!("{layer}.bias"), vec![d])];
        add(names.embeddings("word_embeddings.weight"), &[t.vocab_size, d]);
        add(names.embeddings("position_embeddings.weight"), &[t.max_positions, d]);
        let mut norms: Vec<_> = norm(names.embeddings("LayerNorm")).into();
        for i in 0..t.layers {
            let mut linear = |name: &str, out: usize, input: usize| {
                let layer = names.layer(i, name);
                add(format!("{layer}.weight"), &[out, input]);
                add(format!("{layer}.bias"), &[out]);
            };
            for (block, key_width) in std::iter::once(("attention", d)).chain(source.map(|n| ("crossattention", n))) {
                linear(&format!("{block}.self.query"), d, d);
                linear(&format!("{block}.self.key"), d, key_width);
                linear(&format!("{block}.self.value"), d, key_width);
                linear(&format!("{block}.output.dense"), d, d);
                norms.extend(norm(names.layer(i, &format!("{block}.output.LayerNorm"))));
            }
            linear("intermediate.dense", m, d);
            linear("output.dense", d, m);
            norms.extend(norm(names.layer(i, "output.LayerNorm")));
        }
        for (name, shape) in norms {
            add(name, &shape);
        }
    }

    /// A tied tensor may be stored twice, but then both copies must be equal.
    fn check_tied(&self) -> Result<()> {
        if !(self.parts.captioner || self.parts.answerer) || !self.tied() {
            return Ok(());
        }
        let names = self.decoder_names();
        for (copy, original) in [
            (names.head("decoder.bias"), names.head("bias")),
            (names.head("decoder.weight"), names.embeddings("word_embeddings.weight")),
        ] {
            if self.weights.contains(&copy) && !self.weights.equal(&copy, &original) {
                let reason = format!(
                    "{copy} and {original} are tied, but the file holds different values for them; \
                     set \"tie_word_embeddings\": false in config.json if the head is its own"
                );
                return Err(Error::checkpoint(&self.dir, reason));
            }
        }
        Ok(())
    }

    /// SHA-256 of everything that affects results: weights, configuration, tokenizer, preprocessing, and the supported
    /// keys of generation_config.json. That of unchanged files is read from the user's cache.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut sha = Sha256::new();
        for path in &self.inputs {
            let bytes = std::fs::read(path).map_err(|e| files::unreadable(path, &e))?;
            sha.update((bytes.len() as u64).to_le_bytes());
            sha.update(&bytes);
        }
        let generation = PartialGeneration::read(&self.dir)?;
        if generation != PartialGeneration::default() {
            // Hash only the values: the file also names the version of transformers that wrote it.
            sha.update(serde_json::to_vec(&generation).map_err(|e| Error::Internal(e.to_string()))?);
        }
        let handles: Vec<_> = self.weights.files().map(|file| &file.handle).collect();
        let folder = digests::cache_folder().map(|cache| cache.join("digests"));
        digests::cached(folder.as_deref(), &sha.clone().finalize(), &handles, SystemTime::now(), || {
            for file in self.weights.files() {
                sha.update((file.map.len() as u64).to_le_bytes());
                sha.update(&file.map);
            }
            Ok(sha.finalize().into())
        })
    }

    /// Bytes of weights that sessions of all parts hold in this precision.
    pub(crate) fn resident_bytes(&self, precision: Precision) -> usize {
        self.used
            .iter()
            .map(|name| {
                let elements = self.weights.size(name).map_or(0, |s| s.0);
                let float = name.contains("embedding") || name.ends_with(".bias") || name.contains("LayerNorm");
                let head = name.contains("cls.predictions") || name.contains("_proj.") || name.contains("itm_head");
                match precision {
                    Precision::Int8 if !float && !head => elements,
                    // A word embedding is looked up in the file and multiplied from a packed copy; both can be
                    // resident.
                    Precision::Fp16 if !head && !name.contains("word_embeddings") => 2 * elements,
                    _ if name.contains("word_embeddings") && (self.parts.captioner || self.parts.answerer) => {
                        8 * elements
                    }
                    _ => 4 * elements,
                }
            })
            .sum()
    }
}

/// Tensors that are unused here: written by older versions, or needed only for training.
fn known_extra(name: &str) -> bool {
    name.ends_with("position_ids")
        || name == "temp"
        || name == "logit_scale"
        || name.contains(".pooler.")
        || name.starts_with("text_decoder.cls.predictions.decoder.")
        || name == "text_decoder.cls.predictions.bias"
}

/// Report of `capfilt model inspect`.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Checkpoint folder.
    pub folder: PathBuf,
    /// Architecture according to config.json.
    pub architecture: String,
    /// Capabilities.
    pub parts: Parts,
    /// Side of the input images, in pixels.
    pub image_size: usize,
    /// Layers, width and heads of the vision encoder.
    pub vision: [usize; 3],
    /// Layers, width and heads of the text transformer.
    pub text: [usize; 3],
    /// Vocabulary size of the model.
    pub vocab_size: usize,
    /// Special tokens and their ids; the tokenizer need not know [DEC] and [ENC].
    pub special_tokens: BTreeMap<String, u32>,
    /// Number of parameters, counting each stored tensor once.
    pub parameters: usize,
    /// Number of elements by type of the stored tensors.
    pub dtypes: BTreeMap<String, usize>,
    /// Bytes of weights that sessions of all parts hold, by precision.
    pub resident_bytes: BTreeMap<String, usize>,
    /// Whether the LM head shares the word embedding's tensor.
    pub tied: bool,
    /// SHA-256 of weights, configuration, tokenizer and preprocessing.
    pub digest: String,
    /// Unknown tensors, which are ignored.
    pub unknown_tensors: Vec<String>,
}

/// Opens and describes the checkpoint in `dir`.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    let c = Checkpoint::open(dir)?;
    let mut dtypes = BTreeMap::new();
    for name in c.weights.names() {
        if let Some((elements, dtype)) = c.weights.size(name) {
            *dtypes.entry(dtype).or_insert(0) += elements;
        }
    }
    let (v, t) = (&c.config.vision, &c.config.text);
    Ok(Inspection {
        folder: dir.into(),
        architecture: c.config.architecture.clone(),
        parts: c.parts,
        image_size: v.image_size,
        vision: [v.layers, v.width, v.heads],
        text: [t.layers, t.width, t.heads],
        vocab_size: t.vocab_size,
        special_tokens: c.tokenizer.special_tokens(),
        parameters: c.used.iter().filter_map(|n| c.weights.size(n)).map(|s| s.0).sum(),
        dtypes,
        resident_bytes: [Precision::Fp32, Precision::Int8].map(|p| (p.to_string(), c.resident_bytes(p))).into(),
        tied: c.tied(),
        digest: hex::encode(c.digest()?),
        unknown_tensors: c.unknown,
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let can: Vec<&str> = [
            (self.parts.captioner, "caption"),
            (self.parts.matcher, "itm_score"),
            (self.parts.contrastive, "itc_score, embed_image, embed_text"),
            (self.parts.answerer, "vqa, vqa_score"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect();
        writeln!(f, "folder        {}", self.folder.display())?;
        writeln!(f, "architecture  {}", self.architecture)?;
        writeln!(f, "usable for    {}", can.join(", "))?;
        let [layers, width, heads] = self.vision;
        writeln!(f, "vision        {layers} layers, width {width}, {heads} heads, {0} x {0} pixels", self.image_size)?;
        let [layers, width, heads] = self.text;
        writeln!(f, "text          {layers} layers, width {width}, {heads} heads, vocabulary {}", self.vocab_size)?;
        let tokens: Vec<String> = self.special_tokens.iter().map(|(name, id)| format!("{name} {id}")).collect();
        writeln!(f, "tokens        {}", tokens.join(", "))?;
        let dtypes: Vec<String> = self.dtypes.iter().map(|(d, n)| format!("{n} {d}")).collect();
        let tied = if self.tied { "tied" } else { "untied" };
        writeln!(f, "parameters    {} ({}; word embedding {tied})", self.parameters, dtypes.join(", "))?;
        let resident: Vec<String> =
            self.resident_bytes.iter().map(|(p, b)| format!("{:.1} MB in {p}", *b as f64 / 1e6)).collect();
        writeln!(f, "in memory     {}", resident.join(", "))?;
        write!(f, "digest        {}", self.digest)?;
        for name in &self.unknown_tensors {
            write!(f, "\nwarning: unknown tensor {name} is ignored")?;
        }
        Ok(())
    }
}
