//! BLIP's captioner and filter as DataFusion functions over ONNX Runtime.
//!
//! [`register`] adds CapFilt's functions to a session: `caption` and `captions` write texts for an image, `itm_score`
//! and `itc_score` score how well a text fits an image, `vqa` and `vqa_score` answer questions about one, `embed_image`
//! and `embed_text` return embeddings, `image_info` and `image_error` inspect the encoded bytes, and the table function
//! `capfilt_stats` reports work counters. `SET capfilt.x = ..` selects models and options. The aggregates `bleu1` to
//! `bleu4`, `cider`, `rouge_l` and `recall_at` evaluate captions and retrieval.
//!
//! ```no_run
//! # async fn f() -> datafusion::common::Result<()> {
//! let ctx = capfilt_udfs::session(datafusion::prelude::SessionConfig::new())?;
//! ctx.sql("SET capfilt.captioner = '/models/blip-captioner'").await?;
//! ctx.sql("SELECT id, caption(image) FROM 'web.parquet'").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//!
//! All sessions share one engine unless one is given with [`CapfiltOptions::with_engine`].

pub mod blip;
pub mod config;
pub mod cost;
pub mod docs;
pub mod engine;
pub mod error;
mod functions;
mod gate;
pub mod image;
mod json;
mod late;
pub mod metrics;
#[cfg(feature = "polars")]
pub mod polars;
mod query;
mod refuse;
mod scan;
pub mod text;

use std::sync::Arc;

use datafusion::common::Result as SqlResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::{SessionConfig, SessionContext};
use engine::Client;

pub use blip::runtime::set_runtime;
pub use blip::{Converted, Inspection, cache_folder, convert, inspect};
pub use config::{CapfiltOptions, ItcGate, Provenance};
pub use error::{Error, Result};
pub use query::current_query;
pub use scan::sound_scans;

/// Batch size of [`session`], in rows: with DataFusion's 8192 images a batch, a LIMIT's first row would take hours.
pub const BATCH_SIZE: usize = 64;

/// All scalar functions with default settings, sorted by name. A session with [`CapfiltOptions`] among its extensions
/// applies its own when it is built or a setting changes.
pub fn functions() -> Vec<ScalarUDF> {
    functions::with_options(&Arc::new(CapfiltOptions::new()))
}

/// All aggregate functions, sorted by name.
pub fn aggregate_functions() -> Vec<AggregateUDF> {
    functions::aggregates()
}

/// Registers the functions and, unless the session has them, the settings. The planner then calls costly functions on
/// as few rows as possible (see [`cost`]), Parquet scans become sound as by [`sound_scans`], and DataFusion's
/// `octet_length`, `bit_length` and `length` also accept binary values and count their bytes.
pub fn register(ctx: &SessionContext) -> SqlResult<()> {
    register_with(ctx, options(ctx))
}

/// Registers the functions with these settings, which replace the session's.
pub fn register_with(ctx: &SessionContext, options: CapfiltOptions) -> SqlResult<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    state.config_mut().options_mut().extensions.insert(options.clone());
    for function in functions::with_options(&Arc::new(options)) {
        state.register_udf(Arc::new(function))?;
    }
    for function in functions::aggregates() {
        state.register_udaf(Arc::new(function))?;
    }
    for name in functions::byte_length::NAMES {
        if let Some(strings) = state.scalar_functions().get(name).cloned()
            && let Some(function) = functions::byte_length::ByteLength::over(strings)
        {
            state.register_udf(Arc::new(function))?;
        }
    }
    state.register_udtf(functions::stats::NAME, Arc::new(functions::stats::Stats));
    if !state.physical_optimizers().iter().any(|rule| rule.name() == query::QueryScopeRule.name()) {
        let builder = late::install(state.clone());
        *state = builder.with_physical_optimizer_rule(Arc::new(query::QueryScopeRule)).build();
        state.register_function_rewrite(Arc::new(gate::ItcGateRewrite))?;
        state.register_relation_planner(Arc::new(refuse::RefuseIgnored))?;
    }
    drop(state);
    sound_scans(ctx);
    Ok(())
}

/// The session's settings; the defaults without [`register`].
pub fn options(ctx: &SessionContext) -> CapfiltOptions {
    ctx.copied_config().options().extensions.get::<CapfiltOptions>().cloned().unwrap_or_default()
}

/// The session's engine client, whose `cancel_running` cancels its in-flight work. `None` without [`register`].
pub fn client(ctx: &SessionContext) -> Option<Client> {
    ctx.copied_config().options().extensions.get::<CapfiltOptions>().map(|o| o.client().clone())
}

/// A session with the functions, the information schema (for SHOW) and, unless `config` overrides DataFusion's
/// defaults, batches of [`BATCH_SIZE`] rows and NULLS LAST in every order: rows without a score must not precede the
/// best.
pub fn session(config: SessionConfig) -> SqlResult<SessionContext> {
    let default = SessionConfig::new();
    let untouched = config.batch_size() == default.batch_size();
    let mut config = if untouched { config.with_batch_size(BATCH_SIZE) } else { config };
    let nulls = &mut config.options_mut().sql_parser.default_null_ordering;
    if *nulls == default.options().sql_parser.default_null_ordering {
        "nulls_last".clone_into(nulls);
    }
    // A cached list would lack the files that came since, those that the session wrote among them.
    let runtime = RuntimeEnvBuilder::new().with_object_list_cache_limit(0).build_arc()?;
    let ctx = SessionContext::new_with_config_rt(config.with_information_schema(true), runtime);
    register(&ctx)?;
    Ok(ctx)
}
