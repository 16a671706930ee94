//! CSV and JSON lines.

pub(crate) mod csv;
pub(crate) mod infer;
pub(crate) mod json;
pub(crate) mod kinds;
pub(crate) mod message;
pub(crate) mod quotes;
