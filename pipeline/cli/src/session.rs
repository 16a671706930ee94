//! The session that statements and recipes run in.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use capfilt_job::Params;
use capfilt_tables::error::message;
use capfilt_udfs::CapfiltOptions;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::args::SessionArgs;

/// DataFusion error with a message that a user can act on.
pub(crate) fn readable(error: &DataFusionError) -> anyhow::Error {
    anyhow!(message(error))
}

/// Opens a session with the functions and the settings of the command line.
pub(crate) async fn open(args: &SessionArgs) -> Result<SessionContext> {
    let ctx = capfilt_udfs::session(SessionConfig::new()).map_err(|e| readable(&e))?;
    capfilt_tables::register_formats(&ctx).map_err(|e| readable(&e))?;
    let ctx = capfilt_tables::sql::enable::enable_named_tables(ctx);
    #[cfg(feature = "fetch")]
    capfilt_fetch::register_fetch(&ctx).map_err(|e| readable(&e))?;
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

/// Runs SET, which also updates the functions.
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
