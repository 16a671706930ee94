//! `capfilt-train`: see `capfilt-train --help`.

mod cli;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use capfilt_tables::hub;
use capfilt_training::checkpoint::{Export, export};
use capfilt_training::data::Table;
use capfilt_training::evaluate::{Evaluated, Items, captions, filter, retrieval};
use capfilt_training::memory::keep_freed;
use capfilt_training::pretrained::start;
use capfilt_training::run::{CHECKPOINT, train};
use capfilt_training::settings::{DEFAULTS, Settings, TableSettings};
use capfilt_training::world::{World, tables};
use capfilt_udfs::blip::BlipConfig;
use capfilt_udfs::blip::generate::{GenerationOptions, Strategy};
use clap::Parser as _;
use cli::{Cli, Command, EvaluateArgs, ExportArgs, SettingsArgs, TrainArgs, WorldArgs};
use serde_json::{Value, json};

fn main() -> ExitCode {
    keep_freed();
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Pretrain(args) => run(&args, None),
        Command::FinetuneCaptioner(args) => run(&args, Some("finetune-captioner")),
        Command::FinetuneFilter(args) => run(&args, Some("finetune-filter")),
        Command::FinetuneVqa(args) => run(&args, Some("finetune-vqa")),
        Command::Evaluate(args) => evaluate(&args),
        Command::Export(args) => export_part(&args),
        Command::Config(args) => config(&args),
        Command::World(args) => world(&args),
    }
}

fn put(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

fn settings(args: &SettingsArgs, command: Option<&'static str>, more: &[String]) -> anyhow::Result<Settings> {
    let presets: Vec<&str> = command.into_iter().chain(args.preset.iter().map(String::as_str)).collect();
    let changes: Vec<String> = more.iter().chain(&args.set).cloned().collect();
    Ok(Settings::read(&presets, args.config.as_deref(), &changes)?)
}

fn config(args: &SettingsArgs) -> anyhow::Result<()> {
    if args.preset.is_empty() && args.config.is_none() && args.set.is_empty() {
        return put(DEFAULTS);
    }
    put(&settings(args, None, &[])?.toml()?)
}

fn run(args: &TrainArgs, command: Option<&'static str>) -> anyhow::Result<()> {
    let mut settings = settings(&args.settings, command, &[])?;
    if let Some(dir) = &args.start {
        settings.model.start.clone_from(dir);
    }
    if !args.data.is_empty() {
        let table =
            |path: &_| TableSettings { path: Clone::clone(path), version: None, query: String::new(), weight: 0.0 };
        settings.data.tables = args.data.iter().map(table).collect();
    }
    let model = &mut settings.model;
    for named in [&mut model.start, &mut model.vit, &mut model.bert] {
        *named = folder(named)?;
    }
    if command.is_some() && settings.model.start.as_os_str().is_empty() {
        bail!("finetuning starts from a checkpoint: give --start with a folder or hf:OWNER/NAME");
    }
    let summary = train(&settings, &args.out)?;
    let (steps, seconds) = (summary.steps, summary.seconds);
    eprintln!("{steps} steps in {seconds:.0} s; itc {:.4}, itm {:.4}, lm {:.4}", summary.itc, summary.itm, summary.lm);
    put(&args.out.join(CHECKPOINT).display().to_string())
}

/// The folder of a checkpoint's name on the hub, `hf:OWNER/NAME`, or of a path, which is left as it is.
fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    match path.to_str().filter(|text| hub::is_name(text)) {
        Some(name) => {
            let last = Mutex::new(Instant::now());
            let progress = |file: &str, done: u64, all: u64| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= Duration::from_secs(5) {
                    *last = Instant::now();
                    eprintln!("{name}: {file}: {:.0} of {:.0} MB", done as f64 / 1e6, all as f64 / 1e6);
                }
            };
            Ok(hub::checkpoint(name, &progress).map_err(|e| anyhow!(e))?.folder)
        }
        None => Ok(path.to_owned()),
    }
}

fn table(path: &Path, query: String) -> anyhow::Result<Table> {
    Ok(Table::open(&TableSettings { path: path.into(), version: None, query, weight: 0.0 })?)
}

fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    if args.retrieval.is_none() && args.captions.is_none() && args.filter.is_none() {
        bail!("there is nothing to evaluate: give --retrieval, --captions or --filter with a table");
    }
    if args.card && args.checkpoint.to_str().is_some_and(hub::is_name) {
        bail!("--card writes into the checkpoint's folder, and a model of the hub has one in its cache: leave it out");
    }
    let of =
        Evaluated::open(&folder(&args.checkpoint)?, &args.device, args.threads, args.text_tokens, args.clean_text)?;
    let mut scores = serde_json::Map::new();
    // Adds the table and the options to its scores.
    let mut add = |kind: &str, table: &str, mut found: Value, options: Value| {
        if let (Value::Object(found), Value::Object(options)) = (&mut found, options) {
            found.extend(options);
            found.insert("table".into(), table.into());
            found.insert("text_tokens".into(), args.text_tokens.into());
            found.insert("clean_text".into(), args.clean_text.into());
        }
        scores.insert(kind.to_owned(), found);
    };
    let items = |path: &Path, query| -> anyhow::Result<(Items, String)> {
        let table = table(path, query)?;
        let named = format!("{}, sha256 {}", path.display(), table.digest()?);
        let items = Items::read(&table, args.images, of.limits())?;
        let (path, texts, images, unusable) = (path.display(), items.texts(), items.images(), items.unusable);
        eprintln!("{path}: {texts} texts of {images} images; {unusable} images cannot be used");
        if table.unusable > 0 {
            let rows = table.unusable;
            eprintln!(
                "{path}: {rows} rows have no image or no text, and are not evaluated (capfilt run --write-images all keeps images)"
            );
        }
        Ok((items, named))
    };
    if let Some(path) = &args.retrieval {
        let (items, named) = items(path, String::new())?;
        let found = retrieval(&of, &items, args.rerank)?;
        add("retrieval", &named, serde_json::to_value(found)?, json!({}));
    }
    if let Some(path) = &args.captions {
        let options = GenerationOptions {
            strategy: if args.beams > 1 { Strategy::Beam } else { Strategy::Greedy },
            num_beams: args.beams,
            min_length: args.min_length,
            max_length: args.max_length,
            ..Default::default()
        };
        let (items, named) = items(path, String::new())?;
        let (found, made) = captions(&of, &items, &options, &args.prompt)?;
        let options = json!({
            "prompt": args.prompt, "beams": args.beams, "min_length": args.min_length, "max_length": args.max_length,
        });
        add("captions", &named, serde_json::to_value(found)?, options);
        if let Some(file) = &args.captions_out {
            let lines: Result<Vec<String>, _> = made.iter().map(serde_json::to_string).collect();
            std::fs::write(file, lines?.join("\n") + "\n").with_context(|| file.display().to_string())?;
        }
    }
    if let Some(path) = &args.filter {
        // The row's weight holds the truth label here.
        let truth = format!("\"{}\"", args.truth.replace('"', "\"\""));
        let query =
            format!("SELECT image, text, CAST({truth} AS DOUBLE) AS weight FROM pairs WHERE {truth} IS NOT NULL");
        let (items, named) = items(path, query)?;
        let found = filter(&of, &items, args.threshold)?;
        add("filter", &named, serde_json::to_value(found)?, json!({ "truth": args.truth }));
    }
    let json = serde_json::to_string_pretty(&scores)?;
    // Printed before the card is written, so that a failure there loses no results that took long to compute.
    put(&json)?;
    if args.card {
        capfilt_training::run::add_scores(&args.checkpoint, &scores)?;
    }
    Ok(())
}

fn export_part(args: &ExportArgs) -> anyhow::Result<()> {
    let changes = [
        ("export.what", args.what.as_str()),
        ("export.kind", &args.kind),
        ("model.sharing", &args.sharing),
        ("model.image_size", "0"),
        ("loss.queue", "0"),
        ("device", "cpu"),
    ];
    let command: &[&str] = if args.what == "answerer" { &["finetune-vqa"] } else { &[] };
    let mut settings = Settings::read(command, None, &changes.map(|(key, value)| format!("{key}={value}")))?;
    let checkpoint = folder(&args.checkpoint)?;
    settings.model.start.clone_from(&checkpoint);
    let (what, kind) = (settings.export_what()?, settings.export_kind()?);
    let named = format!("{} {}", if what == Export::Answerer { "an" } else { "a" }, args.what);
    // A MED can begin an answerer, and is none.
    if settings.answers()? != BlipConfig::read(&checkpoint)?.is_answerer() {
        bail!("{}: it is not {named}", args.checkpoint.display());
    }
    let start = start(&settings)?;
    let trainer = &start.trainer;
    let missing: Vec<&str> = start.drawn.iter().map(String::as_str).filter(|name| what.needs(name)).collect();
    if let Some(first) = missing.first() {
        bail!("{}: it is not {named}: it has no {first}", args.checkpoint.display());
    }
    export(&args.out, trainer.config(), trainer.params(), what, &start.tokenizer_json, &start.preprocessor, kind)?;
    capfilt_training::run::carry_card(&checkpoint, &args.out)?;
    put(&args.out.display().to_string())
}

fn world(args: &WorldArgs) -> anyhow::Result<()> {
    let world = World::new(args.seed, Default::default());
    let rows = [
        ("human", args.human),
        ("things", args.things),
        ("web", args.web),
        ("validation", args.validation),
        ("test", args.test),
    ];
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    for (set, pictures) in rows {
        let path = args.out.join(format!("{set}.parquet"));
        let written = tables::write(&world, set.parse()?, pictures, &path)?;
        eprintln!("{}: {written} texts of {pictures} pictures", path.display());
    }
    for (set, pictures) in [("human", args.human), ("validation", args.validation), ("test", args.test)] {
        let path = args.out.join(format!("{set}-questions.parquet"));
        let written = tables::write_questions(&world, set.parse()?, pictures, &path)?;
        eprintln!("{}: {written} questions about {pictures} pictures", path.display());
    }
    let path = args.out.join("tokenizer.json");
    let text = format!("{:#}\n", capfilt_training::world::tokenizer());
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    eprintln!("{}: {} tokens", path.display(), capfilt_training::world::tokens().len());
    Ok(())
}
