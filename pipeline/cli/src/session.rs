//! The session that statements and recipes run in.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use capfilt_job::{JobFile, Params};
use capfilt_tables::error::message;
use capfilt_udfs::CapfiltOptions;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::args::job::{ParamArgs, SessionArgs};
use crate::hub;

/// DataFusion error with a message that a user can act on.
pub(crate) fn readable(error: &DataFusionError) -> anyhow::Error {
    anyhow!(message(error))
}

/// Environment variables for settings of the machine; options and job files take precedence.
const ENVIRONMENT: [(&str, &str); 3] =
    [("captioner", "CAPFILT_CAPTIONER"), ("filter", "CAPFILT_FILTER"), ("device", "CAPFILT_DEVICE")];

/// Opens a session with the functions and the settings of the command line.
pub(crate) async fn open(args: &SessionArgs) -> Result<SessionContext> {
    let mut file = JobFile {
        captioner: args.models.captioner.clone(),
        filter: args.models.filter.clone(),
        device: args.device.clone(),
        set: args.set.iter().cloned().collect(),
        ..JobFile::default()
    };
    let ctx = in_environment(&mut file).await?;
    apply(ctx, &file).await
}

/// Opens a session with the functions and the settings of a job. The environment gives those that the job does not,
/// and is recorded in it.
pub(crate) async fn of_new_job(file: &mut JobFile) -> Result<SessionContext> {
    let ctx = in_environment(file).await?;
    hub::pin(file)?;
    apply(ctx, file).await
}

/// A session with the functions, and the environment's settings added to those of `file`.
async fn in_environment(file: &mut JobFile) -> Result<SessionContext> {
    let ctx = bare()?;
    let given: Vec<String> = file.settings().into_iter().map(|(_, setting, _)| setting).collect();
    for (name, variable) in ENVIRONMENT {
        let setting = format!("capfilt.{name}");
        let value = std::env::var(variable).unwrap_or_default();
        if value.is_empty() || given.contains(&setting) {
            continue;
        }
        set(&ctx, &setting, &value).await.with_context(|| format!("{variable}={value}"))?;
        match name {
            "captioner" => file.captioner.push(value),
            "filter" => file.filter.push(value),
            _ => file.device = Some(value),
        }
    }
    Ok(ctx)
}

/// Opens a session with the functions and the settings of a recorded job, whatever the environment is.
pub(crate) async fn of_job(file: &JobFile) -> Result<SessionContext> {
    apply(bare()?, file).await
}

async fn apply(ctx: SessionContext, file: &JobFile) -> Result<SessionContext> {
    for (option, name, value) in file.settings() {
        set(&ctx, &name, &value).await.context(option)?;
    }
    Ok(ctx)
}

/// A session with the functions.
fn bare() -> Result<SessionContext> {
    // Arrow's own schema in a Parquet file would name the view types, which not all readers know.
    let config = SessionConfig::new().set_bool("datafusion.execution.parquet.skip_arrow_metadata", true);
    let ctx = capfilt_udfs::session(config).map_err(|e| readable(&e))?;
    capfilt_tables::register_formats(&ctx).map_err(|e| readable(&e))?;
    let ctx = capfilt_tables::sql::enable::enable_named_tables(ctx);
    #[cfg(feature = "fetch")]
    capfilt_fetch::register_fetch(&ctx).map_err(|e| readable(&e))?;
    Ok(ctx)
}

/// Runs SET, which also updates the functions.
async fn set(ctx: &SessionContext, name: &str, value: &str) -> Result<()> {
    let sql = format!("SET {name} = '{}'", value.replace('\'', "''"));
    ctx.sql(&sql).await.map(drop).map_err(|e| readable(&e))
}

/// The values of --param.
pub(crate) fn params(args: &ParamArgs) -> Params {
    let mut params = Params::default();
    for (name, value) in &args.param {
        params.set(name, value);
    }
    params
}

/// Cancels the session's model calls.
pub(crate) fn cancel(ctx: &SessionContext) {
    if let Some(options) = ctx.copied_config().options().extensions.get::<CapfiltOptions>() {
        options.client().cancel_running();
    }
}

/// Registers the table at a path or URL as `name`.
pub(crate) async fn register(ctx: &SessionContext, name: &str, path: &str) -> Result<()> {
    let Some(table) = capfilt_tables::sql::named::named_table(ctx, path).await? else {
        let there = path.contains(['*', '?', '[']) || path.contains("://") || Path::new(path).exists();
        if !there {
            bail!("no such file or folder");
        }
        let endings = capfilt_tables::format::register::sql_endings();
        bail!("its name must end in {endings}, or it must be a folder of such files or a Delta table");
    };
    ctx.register_table(name, table).map(drop).map_err(|e| readable(&e))
}
