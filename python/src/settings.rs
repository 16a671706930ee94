//! Settings as Python gives them, and the functions under them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use capfilt_udfs::CapfiltOptions;
use capfilt_udfs::engine::Client;
use datafusion::common::config::{ConfigOptions, ExtensionOptions as _};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::ScalarUDF;

use crate::logging;

/// Values of SQL's SET, by name without the prefix `capfilt.`.
pub(crate) type Settings = BTreeMap<String, String>;

/// Prefix of the settings in SQL.
pub(crate) const PREFIX: &str = "capfilt.";

/// Clients of the engine for functions in the sessions of others.
pub(crate) struct Clients {
    pub(crate) datafusion: Client,
    pub(crate) polars: Client,
}

pub(crate) static CLIENTS: LazyLock<Clients> =
    LazyLock::new(|| Clients { datafusion: Client::new(), polars: Client::new() });

/// Cancels the work of all clients.
pub(crate) fn cancel() {
    CLIENTS.datafusion.cancel_running();
    CLIENTS.polars.cancel_running();
}

/// Names of all settings, without prefix.
pub(crate) fn names() -> Vec<String> {
    CapfiltOptions::new().entries().into_iter().map(|entry| entry.key.trim_start_matches(PREFIX).to_owned()).collect()
}

/// The settings, checked.
pub(crate) fn options(settings: &Settings) -> Result<CapfiltOptions> {
    logging::install();
    let options = CapfiltOptions::new().with_client(CLIENTS.datafusion.clone());
    settings.iter().try_fold(options, |options, (name, value)| options.with(name, value))
}

/// The function `name` under `options`.
pub(crate) fn function(name: &str, options: CapfiltOptions) -> Result<Arc<ScalarUDF>> {
    let Some(function) = capfilt_udfs::functions().into_iter().find(|function| function.name() == name) else {
        return plan_err!("capfilt has no function {name}");
    };
    let mut config = ConfigOptions::default();
    config.extensions.insert(options);
    Ok(Arc::new(function.inner().with_updated_config(&config).unwrap_or(function)))
}
