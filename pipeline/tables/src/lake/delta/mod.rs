//! Delta tables, read and written through deltalake-core.

pub mod actions;
pub mod commit;
pub(crate) mod open;
pub(crate) mod provider;
pub(crate) mod schema;
pub(crate) mod snapshot;
