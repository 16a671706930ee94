//! The session that statements and recipes run in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use capfilt::{Params, message};
use capfilt_udfs::CapfiltOptions;
use datafusion::error::DataFusionError;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionConfig, SessionContext};

use crate::cli::SessionArgs;

/// A DataFusion error in the words that a user can act on.
pub(crate) fn readable(error: &DataFusionError) -> anyhow::Error {
    anyhow!(message(error))
}

/// A session with the functions and the settings of the command line.
pub(crate) async fn open(args: &SessionArgs) -> Result<SessionContext> {
    // So that FROM 'file.parquet' works.
    let ctx = capfilt_udfs::session(SessionConfig::new()).map_err(|e| readable(&e))?.enable_url_table();
    capfilt::register_webdataset(&ctx).map_err(|e| readable(&e))?;
    #[cfg(feature = "fetch")]
    capfilt::register_fetch(&ctx).map_err(|e| readable(&e))?;
    for (option, values) in [("captioner", &args.captioner), ("filter", &args.filter)] {
        if let Some(value) = values.first() {
            set(&ctx, &format!("capfilt.{option}"), value).await.with_context(|| format!("--{option} {value}"))?;
        }
    }
    for (name, value) in &args.set {
        set(&ctx, name, value).await.with_context(|| format!("--set {name}={value}"))?;
    }
    Ok(ctx)
}

/// As SET does, which also tells the functions.
async fn set(ctx: &SessionContext, name: &str, value: &str) -> Result<()> {
    let sql = format!("SET {name} = '{}'", value.replace('\'', "''"));
    ctx.sql(&sql).await.map(drop).map_err(|e| readable(&e))
}

/// The values of --param.
pub(crate) fn params(args: &SessionArgs) -> Params {
    let mut params = Params::default();
    for (name, value) in &args.param {
        params.set(name, value);
    }
    params
}

/// Stops what the models are doing for this session.
pub(crate) fn cancel(ctx: &SessionContext) {
    if let Some(options) = ctx.copied_config().options().extensions.get::<CapfiltOptions>() {
        options.client().cancel_running();
    }
}

/// Registers a file or folder as a table; of a Delta table the version after an @, where there is one.
pub(crate) async fn register(ctx: &SessionContext, name: &str, path: &str) -> Result<()> {
    let is_file = path.starts_with("file://");
    let in_store = path.contains("://") && !is_file;
    let is_delta = |path: &str| if is_file { Ok(false) } else { capfilt::is_delta(Path::new(path)) };
    let (path, version) = match path.rsplit_once('@') {
        // In a URL there may be a user's @, before the host.
        Some((_, version)) if in_store && version.contains('/') => (path, None),
        // Where an @ is part of a name, what stands before it may be nothing, or nothing that one may list.
        Some((before, version)) if !matches!(is_delta(path), Ok(true)) && matches!(is_delta(before), Ok(true)) => {
            (before, Some(version))
        }
        _ => (path, None),
    };
    if version.is_some() || is_delta(path)? {
        return Ok(capfilt::register_pairs(ctx, name, Path::new(path), version).await?);
    }
    if in_store {
        bail!("it is no Delta table, and SQL reads no other tables from stores: download it");
    }
    let local = Path::new(path);
    let kind = if local.is_dir() { kind_in(local)? } else { extension(local) };
    let is_glob = path.contains(['*', '?', '[']);
    if !local.exists() && !is_glob && !is_file {
        bail!("no such file or folder");
    }
    match kind.as_deref() {
        Some("csv") => ctx.register_csv(name, path, CsvReadOptions::new()).await,
        Some(ext @ ("json" | "jsonl" | "ndjson")) => {
            let ext = format!(".{ext}");
            ctx.register_json(name, path, JsonReadOptions::default().file_extension(&ext)).await
        }
        Some("parquet") => ctx.register_parquet(name, path, ParquetReadOptions::default()).await,
        Some("tar") => {
            let (name, path) = (name.replace('"', "\"\""), path.replace('\'', "''"));
            let sql = format!("CREATE EXTERNAL TABLE \"{name}\" STORED AS WEBDATASET LOCATION '{path}'");
            ctx.sql(&sql).await.map(drop)
        }
        _ => bail!("its name must end in .parquet, .tar, .csv, .json, .jsonl or .ndjson"),
    }
    .map_err(|e| readable(&e))
}

fn extension(path: &Path) -> Option<String> {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase())
}

/// The kind of the files in a folder: that of the first one known, at any depth.
fn kind_in(folder: &Path) -> Result<Option<String>> {
    let mut entries = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    let bookkeeping = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['.', '_']));
    for path in entries.into_iter().filter(|path| !bookkeeping(path)) {
        let kind = if path.is_dir() { kind_in(&path)? } else { extension(&path) };
        if let Some("parquet" | "tar" | "csv" | "json" | "jsonl" | "ndjson") = kind.as_deref() {
            return Ok(kind);
        }
    }
    Ok(None)
}
