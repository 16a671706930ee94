//! Settings as Python gives them, and the functions under them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use capfilt_udfs::CapfiltOptions;
use capfilt_udfs::engine::Client;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::ScalarUDF;

/// Values of SQL's SET, by name without the prefix `capfilt.`.
pub(crate) type Settings = BTreeMap<String, String>;

/// The client of functions in the sessions of others.
pub(crate) fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(Client::new);
    &CLIENT
}

/// The settings, checked.
pub(crate) fn options(settings: &Settings) -> Result<CapfiltOptions> {
    let options = CapfiltOptions::new().with_client(client().clone());
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
