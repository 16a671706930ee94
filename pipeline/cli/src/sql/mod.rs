//! `capfilt sql`.

mod print;
mod prompt;
pub(crate) mod script;
pub(crate) mod scripts;
mod statement;
