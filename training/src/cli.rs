//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// BLIP's MED in libtorch.
#[derive(Debug, Parser)]
#[command(name = "capfilt-train", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes a small world whose truth is known: tables of pictures with human and web texts
    World(WorldArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorldArgs {
    /// Folder for human.parquet, web.parquet, validation.parquet, test.parquet and tokenizer.json
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Another seed, another world
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Pictures with clean captions, five each; they show a part of the world only
    #[arg(long, default_value_t = 3000)]
    pub(crate) human: u64,
    /// Pictures with the text that stood beside them
    #[arg(long, default_value_t = 16000)]
    pub(crate) web: u64,
    /// Pictures to choose settings by
    #[arg(long, default_value_t = 1000)]
    pub(crate) validation: u64,
    /// Pictures to judge by
    #[arg(long, default_value_t = 2000)]
    pub(crate) test: u64,
}
