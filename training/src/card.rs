//! The model card of an exported checkpoint: its training data, its settings, and its final losses.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use capfilt_tables::hub;
use capfilt_udfs::blip::weight_files;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::config::{MedConfig, parameter_counts};
use crate::data::{Table, hash};
use crate::error::{Error, Result};
use crate::settings::{ModelSettings, Settings};
use crate::summary::Summary;

/// File name of the card.
const CARD: &str = "README.md";
const TRAINED_ON: &str = "## Trained on\n";
const BEGAN_WITH: &str = "## Began with\n";

/// Writes the card into a checkpoint's folder. `began` is the result of [`began_with`] at the run's start.
pub(crate) fn write(
    folder: &Path,
    settings: &Settings,
    config: &MedConfig,
    tables: &[Arc<Table>],
    summary: &Summary,
    began: &str,
) -> Result<()> {
    let path = folder.join(CARD);
    let text = card(settings, config, tables, summary, began)?;
    std::fs::write(&path, text).map_err(|e| Error::file(path, e))
}

fn card(
    settings: &Settings,
    config: &MedConfig,
    tables: &[Arc<Table>],
    summary: &Summary,
    began: &str,
) -> Result<String> {
    let architecture = settings.export_what()?.architecture();
    let (v, t) = (&config.vision, &config.text);
    let mut card = format!(
        "---\nlibrary_name: capfilt\ntags: [blip, image-text]\n---\n\n# {architecture}\n\n\
         BLIP's model, trained by capfilt-train {}: {} million parameters in training; ViT of {} layers and width {}, \
         {} x {} pixels in patches of {}; text transformer of {} layers and width {}, {} words.\n\n",
        env!("CARGO_PKG_VERSION"),
        parameter_counts(config).0 as f64 / 1e6,
        v.layers,
        v.width,
        v.image_size,
        v.image_size,
        v.patch_size,
        t.layers,
        t.width,
        t.vocab_size,
    );
    card.push_str(TRAINED_ON);
    let rows = if config.is_answerer() { "questions" } else { "pairs" };
    let _ = write!(card, "\n| table | {rows} | images | share | sha256 |\n|---|---|---|---|---|\n");
    let total: f64 = tables.iter().map(|table| table.share()).sum();
    for (table, named) in tables.iter().zip(&settings.data.tables) {
        let query = if named.query.is_empty() { String::new() } else { format!(": `{}`", named.query.trim()) };
        let share = 100.0 * table.share() / total;
        // Writing to a String cannot fail.
        let _ = writeln!(
            card,
            "| {}{}{} | {} | {} | {share:.1} % | {} |",
            table.path().display(),
            table.version().map(|version| format!(", version {version}")).unwrap_or_default(),
            query.replace('|', "\\|"),
            table.pairs,
            table.images,
            table.digest()?,
        );
    }
    let _ = write!(
        card,
        "\n{} steps, {} {rows}, {:.0} seconds; {} {rows} were passed over because their image could not be used.\n\n\
         ## Losses\n\nMeans of the last steps.\n\n| ITC | ITM | LM |\n|---|---|---|\n| {:.4} | {:.4} | {:.4} |\n\n\
         {began}## Settings\n\nThe sizes are the model's.\n\n```toml\n{}```\n",
        summary.steps,
        summary.pairs,
        summary.seconds,
        summary.skipped,
        summary.itc,
        summary.itm,
        summary.lm,
        sized(settings, config).toml()?,
    );
    Ok(card)
}

/// Describes the initial weights of a run: their files and, for our own checkpoints, the training data that their cards
/// list, back to the first. Empty for a model from scratch.
pub(crate) fn began_with(model: &ModelSettings) -> Result<String> {
    let mut text = String::new();
    for folder in [&model.start, &model.vit, &model.bert] {
        if folder.as_os_str().is_empty() {
            continue;
        }
        for path in weight_files(folder)? {
            let mut digest = Sha256::new();
            hash(&path, &mut digest)?;
            // A name on the hub says more than a folder of the cache.
            let name =
                hub::name_of(folder).zip(path.file_name()).map(|(name, file)| format!("{name}/{}", file.display()));
            let name = name.unwrap_or_else(|| path.display().to_string());
            let _ = write!(text, "`{name}`, sha256 {}.\n\n", hex::encode(digest.finalize()));
        }
        let card = std::fs::read_to_string(folder.join(CARD)).unwrap_or_default();
        for heading in [TRAINED_ON, BEGAN_WITH] {
            if let Some((_, body)) = card.split_once(heading) {
                let body = body.find("\n## ").map_or(body, |at| &body[..at]);
                let _ = write!(text, "{}\n\n", body.trim());
            }
        }
    }
    Ok(if text.is_empty() { text } else { format!("{BEGAN_WITH}\n{text}") })
}

/// The settings with the model's actual sizes, which come from the checkpoint if the run started with one.
fn sized(settings: &Settings, config: &MedConfig) -> Settings {
    let mut settings = settings.clone();
    let (v, t, model) = (&config.vision, &config.text, &mut settings.model);
    (model.image_size, model.patch_size, model.projection) = (v.image_size, v.patch_size, config.projection);
    (model.vision_width, model.vision_mlp_width) = (v.width, v.mlp_width);
    (model.vision_layers, model.vision_heads) = (v.layers, v.heads);
    (model.text_width, model.text_mlp_width) = (t.width, t.mlp_width);
    (model.text_layers, model.text_heads, model.text_positions) = (t.layers, t.heads, t.max_positions);
    settings
}

/// Adds scores to the card of a checkpoint, keeping those of other kinds.
pub(crate) fn add_scores(folder: &Path, scores: &Map<String, Value>) -> Result<()> {
    let path = folder.join(CARD);
    let card = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let (begin, end) = ("## Scores\n\n```json\n", "\n```");
    let before = card.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(json, _)| json);
    let mut all: Map<String, Value> = match before {
        Some(json) => serde_json::from_str(json).map_err(|e| Error::file(&path, format!("its scores: {e}")))?,
        None => Map::new(),
    };
    all.extend(scores.clone());
    let json = serde_json::to_string_pretty(&all).map_err(|e| Error::file(&path, e))?;
    add_section(folder, "Scores", &format!("```json\n{json}\n```"))
}

/// Copies the card of `from` to `to`, which was exported from it.
pub(crate) fn carry(from: &Path, to: &Path) -> Result<()> {
    let path = from.join(CARD);
    let card = match std::fs::read_to_string(&path) {
        Ok(card) => card,
        Err(e) if e.kind() == ErrorKind::NotFound => "# A checkpoint without a card\n".into(),
        Err(e) => return Err(Error::file(path, e)),
    };
    let own = to.join(CARD);
    std::fs::write(&own, card).map_err(|e| Error::file(own, e))?;
    add_section(to, "Exported", &format!("From `{}` by capfilt-train {}.", from.display(), env!("CARGO_PKG_VERSION")))
}

/// Adds a section, such as scores, to the card of a checkpoint, replacing one of the same title.
fn add_section(folder: &Path, title: &str, body: &str) -> Result<()> {
    let path = folder.join(CARD);
    let card = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let heading = format!("## {title}\n");
    let (before, after) = match card.split_once(&heading) {
        Some((before, rest)) => (before, rest.find("\n## ").map_or("", |at| &rest[at + 1..])),
        None => (card.as_str(), ""),
    };
    let text = format!(
        "{}\n\n{heading}\n{}\n{}{after}",
        before.trim_end(),
        body.trim_end(),
        if after.is_empty() { "" } else { "\n" }
    );
    std::fs::write(&path, text).map_err(|e| Error::file(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_added_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CARD);
        std::fs::write(&path, "# Model\n\n## Losses\n\nx\n").unwrap();
        add_section(dir.path(), "Scores", "one").unwrap();
        add_section(dir.path(), "More", "three").unwrap();
        add_section(dir.path(), "Scores", "two").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# Model\n\n## Losses\n\nx\n\n## Scores\n\ntwo\n\n## More\n\nthree\n");
    }

    #[test]
    fn scores_of_another_kind_stay_and_an_export_has_its_sources_card() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join(CARD), "# Model\n").unwrap();
        let scores = |name: &str, value: f64| Map::from_iter([(name.to_owned(), Value::from(value))]);
        for (name, value) in [("captions", 0.25), ("filter", 0.5), ("captions", 0.75)] {
            add_scores(from.path(), &scores(name, value)).unwrap();
        }
        carry(from.path(), to.path()).unwrap();
        add_scores(to.path(), &scores("retrieval", 1.5)).unwrap();
        let card = std::fs::read_to_string(to.path().join(CARD)).unwrap();
        let kept = ["\"captions\": 0.75", "\"filter\": 0.5", "\"retrieval\": 1.5", "## Exported", "# Model"];
        assert!(kept.iter().all(|part| card.contains(part)) && !card.contains("0.25"), "{card}");
    }
}
