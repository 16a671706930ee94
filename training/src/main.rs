//! `capfilt-train`: see `capfilt-train --help`.

mod cli;

use anyhow::Context as _;
use capfilt_training::world::{World, tables};
use clap::Parser as _;
use cli::{Cli, Command, WorldArgs};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::World(args) => world(&args),
    }
}

fn world(args: &WorldArgs) -> anyhow::Result<()> {
    let world = World::new(args.seed, Default::default());
    let rows = [("human", args.human), ("web", args.web), ("validation", args.validation), ("test", args.test)];
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    for (set, pictures) in rows {
        let path = args.out.join(format!("{set}.parquet"));
        let written = tables::write(&world, set.parse()?, pictures, &path)?;
        eprintln!("{}: {written} texts of {pictures} pictures", path.display());
    }
    let path = args.out.join("tokenizer.json");
    let text = format!("{:#}\n", capfilt_training::world::tokenizer());
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    eprintln!("{}: {} tokens", path.display(), capfilt_training::world::tokens().len());
    Ok(())
}
