//! Command-line arguments. Doc comments of arguments are their help texts.

pub(crate) mod command;
pub(crate) mod job;
pub(crate) mod rounds;
pub(crate) mod values;
