//! Documentation of a function as data.

use super::options_arg::OptionField;
use super::udf::{Arg, SqlFunction, syntax};

/// Documentation of a function.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: &'static str,
    pub(crate) syntax: String,
    pub(crate) returns: &'static str,
    pub(crate) description: &'static str,
    pub(crate) arguments: Vec<(&'static str, String)>,
    pub(crate) options: &'static [OptionField],
    pub(crate) example: &'static str,
    pub(crate) related: &'static [&'static str],
}

impl Page {
    pub(super) fn of<F: SqlFunction>() -> Self {
        let options = F::ARGS.iter().find_map(|a| if let Arg::Options(fields) = a { Some(*fields) } else { None });
        Self {
            name: F::NAME,
            syntax: syntax::<F>(),
            returns: F::RETURNS,
            description: F::DESCRIPTION,
            arguments: F::ARGS.iter().map(|a| (a.name(), a.description())).collect(),
            options: options.unwrap_or(&[]),
            example: F::EXAMPLE,
            related: F::RELATED,
        }
    }
}
