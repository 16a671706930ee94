//! Provenance: everything that determines a session's results, recorded with the tables it produces.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::keys::Key;
use super::options::CapfiltOptions;
use super::settings::SettingKey as _;
use crate::blip::{Checkpoint, NO_DECODER, NO_ITM_HEAD, NO_QUESTIONS, Parts, checkpoint_dir, runtime};
use crate::error::Result;

/// Everything that determines a session's results: content of the models, kind of device, and settings, except those
/// that only affect speed or memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// SHA-256 of the captioner's weights, configuration, tokenizer and preprocessing; `None` if no captioner is set.
    pub captioner: Option<String>,
    /// SHA-256 of the filter's files, likewise.
    pub filter: Option<String>,
    /// SHA-256 of the answerer's files, likewise; tables of before there were any have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerer: Option<String>,
    /// `cpu` or `cuda`; `None` if no model is set.
    pub device: Option<String>,
    /// Settings by name (without `capfilt.`), with values as SHOW prints them.
    pub settings: BTreeMap<String, String>,
}

impl CapfiltOptions {
    /// Reads the configured checkpoints in full. Fails if one is broken or unfit for its role, or if the device cannot
    /// be used.
    pub fn provenance(&self) -> Result<Provenance> {
        let captioner = self.text(Key::Captioner).map(|name| digest(name, Key::Captioner)).transpose()?;
        let filter = match self.text(Key::Filter) {
            Some(same) if Some(same) == self.text(Key::Captioner) => {
                open(same, Key::Filter)?;
                captioner.clone()
            }
            other => other.map(|name| digest(name, Key::Filter)).transpose()?,
        };
        let answerer = self.text(Key::Answerer).map(|name| digest(name, Key::Answerer)).transpose()?;
        let device = match (&captioner, &filter) {
            // Answerers run nowhere else.
            (None, None) => answerer.as_ref().map(|_| "cpu".to_owned()),
            _ => {
                let devices = runtime::devices(self.device())?;
                let devices = devices.iter().map(|name| runtime::device(name)).collect::<Result<Vec<_>>>()?;
                devices.first().map(|device| device.kind().to_owned())
            }
        };
        // A gate that is off is one that was never set.
        let is_off = |key| key == Key::ItcGate && self.itc_gate().is_none();
        let settings = Key::ALL.iter().filter(|s| s.key.changes_results() && !is_off(s.key));
        let settings = settings.filter_map(|s| Some((s.name.to_owned(), self.value(s.key)?.to_string()))).collect();
        Ok(Provenance { captioner, filter, answerer, device, settings })
    }
}

fn digest(name: &str, role: Key) -> Result<String> {
    Ok(hex::encode(open(name, role)?.digest()?))
}

/// Opens a checkpoint and checks that it has the parts its role needs.
fn open(name: &str, role: Key) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(Path::new(&checkpoint_dir(name)?))?;
    let Parts { captioner, matcher, contrastive, answerer } = checkpoint.parts;
    match role {
        Key::Captioner if !captioner => Err(checkpoint.lacks(NO_DECODER)),
        // A contrastive part suffices: the filter may be used for ITC alone.
        Key::Filter if !matcher && !contrastive => Err(checkpoint.lacks(NO_ITM_HEAD)),
        Key::Answerer if !answerer => Err(checkpoint.lacks(NO_QUESTIONS)),
        _ => Ok(checkpoint),
    }
}

impl Key {
    /// Whether different values can give different results. Models and device are recorded separately, by content and
    /// kind.
    fn changes_results(self) -> bool {
        !matches!(
            self,
            Self::Captioner
                | Self::Filter
                | Self::Answerer
                | Self::Device
                | Self::Threads
                | Self::MaxBatchImages
                | Self::MemoryLimit
                | Self::DeviceMemory
                | Self::MemoLimit
                | Self::OnError
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_no_result() {
        let of = |options: &CapfiltOptions| options.provenance().unwrap();
        let plain = of(&CapfiltOptions::new());
        assert_eq!(plain.device, None);
        assert_eq!(of(&CapfiltOptions::new().with("threads", "1").unwrap().with("memo_limit", "1MB").unwrap()), plain);
        let other = of(&CapfiltOptions::new().with("seed", "7").unwrap());
        assert_ne!(other, plain);
        assert_eq!(other.settings["seed"], "7");
        assert_eq!(plain.settings.get("top_p"), None, "what is unset is the checkpoint's");
    }

    #[test]
    fn a_model_must_have_what_it_is_set_for() {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/");
        for (role, model, words) in [
            ("captioner", "matcher", "not a captioner"),
            ("filter", "captioner", "not a filter"),
            ("answerer", "captioner", "not an answerer"),
            ("answerer", "matcher", "not an answerer"),
            ("captioner", "answerer", "an answerer of questions"),
            ("filter", "answerer", "neither a captioner nor a filter"),
        ] {
            let options = CapfiltOptions::new().with(role, &format!("{models}{model}")).unwrap();
            let error = options.provenance().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(model), "{error}");
        }
    }

    #[test]
    fn a_model_is_its_content() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/matcher");
        let of = |path: &str| CapfiltOptions::new().with("filter", path).unwrap().provenance().unwrap();
        let digest = crate::inspect(Path::new(model)).unwrap().digest;
        let answerer = model.replace("matcher", "answerer");
        let answers = CapfiltOptions::new().with("answerer", &answerer).unwrap().provenance().unwrap();
        assert_eq!(answers.answerer, Some(crate::inspect(Path::new(&answerer)).unwrap().digest));
        assert_eq!(answers.device.as_deref(), Some("cpu"));
        let got = of(model);
        assert!(!serde_json::to_string(&got).unwrap().contains("answerer"), "as tables of before recorded it");
        assert_eq!(got.filter, Some(digest));
        assert!(got.device.is_some() && got.captioner.is_none());
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(model).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
        }
        assert_eq!(of(copy.path().to_str().unwrap()), got);
        // Decoding options in generation_config.json are part of the content; the version that wrote the file is not.
        let generation = |text: &str| std::fs::write(copy.path().join("generation_config.json"), text).unwrap();
        generation(r#"{"transformers_version": "4.15.0"}"#);
        assert_eq!(of(copy.path().to_str().unwrap()), got);
        generation(r#"{"num_beams": 5}"#);
        assert_ne!(of(copy.path().to_str().unwrap()), got);
    }
}
