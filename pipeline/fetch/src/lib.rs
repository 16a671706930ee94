//! `fetch_url(url)`: images by their URL, as a SQL function and as a stage of a job.

mod address;
mod answer;
pub mod client;
pub mod options;
mod problem;
mod settings;
mod udf;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry as _;
use datafusion::prelude::SessionContext;

pub use client::Fetcher;
pub use options::FetchOptions;

/// Adds `fetch_url(url)` and its settings to a session.
pub fn register_fetch(ctx: &SessionContext) -> Result<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    let options = FetchOptions::default();
    state.config_mut().options_mut().extensions.insert(options.clone());
    state.register_udf(Arc::new(udf::Fetch::new(options).into()))?;
    Ok(())
}

/// The session's fetcher, under its settings.
pub fn fetcher(ctx: &SessionContext) -> Result<Arc<Fetcher>, String> {
    let options = ctx.copied_config().options().extensions.get::<FetchOptions>().cloned().unwrap_or_default();
    options.fetcher()
}

/// Settings of the session that affect which images are fetched, not only when.
pub fn deciding(ctx: &SessionContext) -> BTreeMap<String, String> {
    let options = ctx.copied_config().options().extensions.get::<FetchOptions>().cloned().unwrap_or_default();
    settings::deciding(&options.settings)
}

/// Function and settings in Markdown.
pub fn markdown() -> String {
    let (returns, description, syntax, example) = (udf::RETURNS, udf::DESCRIPTION, udf::SYNTAX, udf::EXAMPLE);
    format!(
        "\n# Fetching\n\n## fetch_url\n\n{description}\n\n    {syntax}\n\nReturns {returns}.\n\n```sql\n{example}\n```\n\n\
         `SET fetch.name = 'value'`; the empty string, or `default`, takes it back.\n\n{}",
        capfilt_udfs::config::settings::markdown::<settings::Key>()
    )
}
