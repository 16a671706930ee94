//! Settings of a run. presets/defaults.toml lists and explains every key; presets, a file and the command line override
//! some.

#![expect(
    missing_docs,
    reason = "each field is a key of presets/defaults.toml, which explains it; a test holds it to that"
)]

use std::path::{Path, PathBuf};

use capfilt_udfs::blip::{TextConfig, VisionConfig};
use capfilt_udfs::text::SpecialIds;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use crate::adamw::AdamWOptions;
use crate::checkpoint::Export;
use crate::config::{DecoderReads, MedConfig, Sharing};
use crate::error::{Error, Result};
use crate::step_options::StepOptions;

/// Every key with its default and its explanation.
pub const DEFAULTS: &str = include_str!("../presets/defaults.toml");

/// Presets by name; each overrides some of the defaults.
pub const PRESETS: [(&str, &str); 7] = [
    ("base-129m", include_str!("../presets/base-129m.toml")),
    ("base-14m", include_str!("../presets/base-14m.toml")),
    ("finetune-captioner", include_str!("../presets/finetune-captioner.toml")),
    ("finetune-filter", include_str!("../presets/finetune-filter.toml")),
    ("finetune-vqa", include_str!("../presets/finetune-vqa.toml")),
    ("large", include_str!("../presets/large.toml")),
    ("tiny", include_str!("../presets/tiny.toml")),
];

/// Presets of the paper's pretraining runs. Finetuning takes only the model's sizes from them.
const PRETRAINING: [&str; 3] = ["base-129m", "base-14m", "large"];

/// Presets of finetuning. A table of that name in another preset applies only to that finetuning.
const FINETUNING: [&str; 3] = ["finetune-captioner", "finetune-filter", "finetune-vqa"];

/// All settings of a run, as explained in presets/defaults.toml.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub seed: u64,
    pub device: String,
    pub bfloat16: bool,
    pub threads: usize,
    pub model: ModelSettings,
    pub data: DataSettings,
    pub loss: LossSettings,
    pub train: TrainSettings,
    pub export: ExportSettings,
}

/// The model to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    pub start: PathBuf,
    pub vit: PathBuf,
    pub bert: PathBuf,
    pub tokenizer: PathBuf,
    pub sharing: String,
    pub image_size: usize,
    pub patch_size: usize,
    pub vision_width: usize,
    pub vision_mlp_width: usize,
    pub vision_layers: usize,
    pub vision_heads: usize,
    pub text_width: usize,
    pub text_mlp_width: usize,
    pub text_layers: usize,
    pub text_heads: usize,
    pub text_positions: usize,
    pub projection: usize,
    pub dropout: f64,
    pub drop_path: f64,
}

/// One table of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    pub path: PathBuf,
    /// Version of a Delta table, a number or a time; the latest by default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "version")]
    pub version: Option<String>,
    #[serde(default)]
    pub query: String,
    #[serde(default)]
    pub weight: f64,
}

/// Accepts `version = 3` as well as `version = "3"`.
fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a version is a number or a text")]
    enum Version {
        Number(u64),
        Text(String),
    }
    Ok(Some(match Version::deserialize(from)? {
        Version::Number(number) => number.to_string(),
        Version::Text(text) => text,
    }))
}

/// Selection of the texts of an image that form samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextChoice {
    /// Every text forms a sample with the image.
    All,
    /// One random text, drawn anew each time.
    One,
}

/// Training data and their preparation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    pub tables: Vec<TableSettings>,
    pub texts: TextChoice,
    pub batch: usize,
    pub accumulate: usize,
    pub shuffle_buffer: usize,
    pub shuffle_bytes: usize,
    pub text_tokens: usize,
    pub clean_text: bool,
    pub crop: [f64; 2],
    pub flip: f64,
    pub randaugment: bool,
    pub threads: usize,
    pub max_image_bytes: u64,
    pub max_image_pixels: u64,
}

/// Training objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSettings {
    pub itc: bool,
    pub itm: bool,
    pub lm: bool,
    pub momentum: f64,
    pub queue: i64,
    pub alpha: f64,
    pub alpha_epochs: f64,
    pub by_image: bool,
    pub hard_negatives: bool,
    pub label_smoothing: f64,
    pub prompt: String,
}

/// Schedule of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Decays by a factor per epoch.
    Exponential,
    /// Decays along half a cosine.
    Cosine,
    /// Stays constant.
    Constant,
}

/// Granularity of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Each {
    /// Changes at the end of each epoch.
    Epoch,
    /// Changes with each step.
    Step,
}

/// Duration, schedule and optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    pub epochs: f64,
    pub epoch_pairs: u64,
    pub steps: u64,
    pub lr: f64,
    pub warmup_steps: u64,
    pub warmup_lr: f64,
    pub schedule: Schedule,
    pub decay: f64,
    pub min_lr: f64,
    pub each: Each,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub clip: f64,
    pub checkpoint_steps: u64,
    pub log_steps: u64,
}

/// Exported checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSettings {
    pub what: String,
    pub kind: String,
}

impl Settings {
    /// Reads the defaults, overridden by the named presets, then a file, then `changes` such as `train.lr=1e-4`, each
    /// in order.
    pub fn read(presets: &[&str], file: Option<&Path>, changes: &[String]) -> Result<Self> {
        let mut table = parse(DEFAULTS, "presets/defaults.toml")?;
        for name in presets {
            let Some((_, text)) = PRESETS.iter().find(|(known, _)| known == name) else {
                let known: Vec<&str> = PRESETS.iter().map(|(known, _)| *known).collect();
                return Err(Error::Option(format!("preset '{name}': use one of {}", known.join(", "))));
            };
            let mut preset = parse(text, name)?;
            // Overrides for finetuning, which replace everything in a pretraining preset except the model's sizes.
            let own: Vec<_> = FINETUNING.iter().filter_map(|of| Some((*of, preset.remove(*of)?))).collect();
            if let Some(of) = presets.iter().find(|of| FINETUNING.contains(of))
                && PRETRAINING.contains(name)
            {
                preset.retain(|section, _| section == "model");
                if let Some((_, Value::Table(own))) = own.into_iter().find(|(name, _)| name == of) {
                    merge(&mut preset, own);
                }
            }
            merge(&mut table, preset);
        }
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
            merge(&mut table, parse(&text, &path.display().to_string())?);
        }
        for change in changes {
            merge(&mut table, assignment(change)?);
        }
        let settings: Self =
            table.try_into().map_err(|e| Error::Option(format!("settings: {}", e.to_string().trim_end())))?;
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Option(text));
        let (d, l, t) = (&self.data, &self.loss, &self.train);
        if [d.batch, d.accumulate, d.threads, d.shuffle_buffer, d.shuffle_bytes].contains(&0) {
            return wrong("data.batch, accumulate, threads, shuffle_buffer and shuffle_bytes must be 1 or more".into());
        }
        if !(0.0 < d.crop[0] && d.crop[0] <= d.crop[1] && d.crop[1] <= 1.0) {
            return wrong(format!("data.crop {:?}: two shares, the first over 0, the second up to 1", d.crop));
        }
        if [d.flip, l.alpha, l.momentum, l.label_smoothing].iter().any(|share| !(0.0..=1.0).contains(share)) {
            return wrong("data.flip, loss.alpha, loss.momentum and loss.label_smoothing must lie from 0 to 1".into());
        }
        if l.queue < 0 || (l.itc && l.queue % d.batch as i64 != 0) {
            return wrong(format!("loss.queue {} is not a multiple of data.batch {}", l.queue, d.batch));
        }
        if !(l.itc || l.itm || l.lm) {
            return wrong("all losses are off: leave on loss.itc, loss.itm or loss.lm".into());
        }
        if self.answers()? && (l.itc || l.itm || !l.lm || !l.prompt.is_empty() || d.texts != TextChoice::All) {
            return wrong(
                "export.what answerer: it learns by loss.lm alone, without loss.prompt, and from every question (data.texts all)"
                    .into(),
            );
        }
        if d.text_tokens < 3 {
            return wrong(format!("data.text_tokens {}: 3 or more", d.text_tokens));
        }
        let rates = [("lr", t.lr), ("warmup_lr", t.warmup_lr), ("min_lr", t.min_lr), ("weight_decay", t.weight_decay)];
        for (name, value) in rates {
            if !value.is_finite() || value < 0.0 {
                return wrong(format!("train.{name} {value}: 0 or more"));
            }
        }
        if t.log_steps == 0 || t.checkpoint_steps == 0 {
            return wrong("train.log_steps and train.checkpoint_steps must be 1 or more".into());
        }
        if t.steps == 0 && (t.epochs.is_nan() || t.epochs <= 0.0) {
            return wrong(format!("train.epochs {}: more than 0, or set train.steps", t.epochs));
        }
        self.export_kind()?;
        self.model.sharing.parse::<Sharing>().map(drop)
    }

    /// Serialises the settings as TOML for the run's folder.
    pub fn toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Option(format!("settings: {e}")))
    }

    /// SHA-256 of all settings that change a result: all except the steps between checkpoints, the steps between
    /// progress lines, and the loader's threads.
    pub fn digest(&self) -> Result<String> {
        let mut same = self.clone();
        (same.train.checkpoint_steps, same.train.log_steps, same.data.threads) = (1, 1, 1);
        Ok(hex::encode(Sha256::digest(same.toml()?)))
    }

    /// Options for [`crate::step::Trainer`]. `prompt_tokens` is the number of tokens of loss.prompt.
    pub fn step_options(&self, prompt_tokens: i64) -> StepOptions {
        let (l, t) = (&self.loss, &self.train);
        StepOptions {
            itc: l.itc,
            itm: l.itm,
            lm: l.lm,
            by_image: l.by_image,
            hard_negatives: l.hard_negatives,
            label_smoothing: l.label_smoothing,
            momentum: l.momentum,
            queue: l.queue,
            bfloat16: self.bfloat16,
            clip: if t.clip > 0.0 { t.clip } else { f64::INFINITY },
            prompt_tokens,
            adamw: AdamWOptions { beta1: t.beta1, beta2: t.beta2, epsilon: t.epsilon, weight_decay: t.weight_decay },
        }
    }

    /// Number type of the exported weights.
    pub fn export_kind(&self) -> Result<tch::Kind> {
        match self.export.kind.as_str() {
            "float32" => Ok(tch::Kind::Float),
            "float16" => Ok(tch::Kind::Half),
            "bfloat16" => Ok(tch::Kind::BFloat16),
            other => Err(Error::Option(format!("export.kind '{other}': use float32, float16 or bfloat16"))),
        }
    }

    /// Parts of the model to export.
    pub fn export_what(&self) -> Result<Export> {
        self.export.what.parse()
    }

    /// Whether the model is an answerer, which is trained on questions rather than pairs.
    pub fn answers(&self) -> Result<bool> {
        Ok(self.export_what()? == Export::Answerer)
    }

    /// Tensors that the model's encoder and decoder share.
    pub fn sharing(&self) -> Result<Sharing> {
        if self.answers()? { Ok(Sharing::None) } else { self.model.sharing.parse() }
    }

    /// Input of the decoder's cross-attention.
    pub fn decoder_reads(&self) -> Result<DecoderReads> {
        Ok(if self.answers()? { DecoderReads::Question } else { DecoderReads::Image })
    }

    /// Device of the run.
    pub fn device(&self) -> Result<tch::Device> {
        let cuda = tch::Cuda::device_count();
        match self.device.as_str() {
            "cpu" => Ok(tch::Device::Cpu),
            "auto" => Ok(if cuda > 0 { tch::Device::Cuda(0) } else { tch::Device::Cpu }),
            name => match name.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) {
                Some(n) if (n as i64) < cuda => Ok(tch::Device::Cuda(n)),
                Some(_) => Err(Error::Option(format!("device '{name}': libtorch sees {cuda} GPUs"))),
                None => Err(Error::Option(format!("device '{name}': use auto, cpu or cuda:N"))),
            },
        }
    }

    /// Configuration of a model from scratch, with a tokenizer's vocabulary size and special tokens.
    pub fn config(&self, tokens: &SpecialIds) -> Result<MedConfig> {
        let m = &self.model;
        let vision = VisionConfig {
            width: m.vision_width,
            mlp_width: m.vision_mlp_width,
            layers: m.vision_layers,
            heads: m.vision_heads,
            image_size: m.image_size,
            patch_size: m.patch_size,
            layer_norm_eps: 1e-5,
        };
        let text = TextConfig {
            width: m.text_width,
            encoder_width: m.vision_width,
            mlp_width: m.text_mlp_width,
            layers: m.text_layers,
            heads: m.text_heads,
            vocab_size: tokens.vocab_size,
            max_positions: m.text_positions,
            layer_norm_eps: 1e-12,
            bos_token_id: tokens.dec,
            sep_token_id: tokens.sep,
            pad_token_id: tokens.pad,
        };
        let config = MedConfig {
            vision,
            text,
            projection: m.projection,
            sharing: self.sharing()?,
            decoder_reads: self.decoder_reads()?,
            enc_token_id: tokens.enc,
            dropout: m.dropout,
            drop_path: m.drop_path,
        };
        config.validate()?;
        Ok(config)
    }
}

fn parse(text: &str, name: &str) -> Result<Table> {
    text.parse().map_err(|e: toml::de::Error| Error::Option(format!("{name}: {}", e.to_string().trim_end())))
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Parses `section.key=value`; a value that is not valid TOML is taken as a string.
fn assignment(change: &str) -> Result<Table> {
    let Some((key, value)) = change.split_once('=') else {
        return Err(Error::Option(format!("--set {change}: give section.key=value")));
    };
    // With whitespace before the `=`, the value is trimmed; without it, a prompt keeps its trailing space.
    let value = if key.ends_with(char::is_whitespace) { value.trim() } else { value };
    let key = key.trim();
    let quoted = || format!("{key} = {}", Value::String(value.into()));
    match format!("{key} = {value}").parse::<Table>() {
        Ok(table) => Ok(table),
        Err(_) => parse(&quoted(), &format!("--set {change}")),
    }
}

#[cfg(test)]
mod tests;
