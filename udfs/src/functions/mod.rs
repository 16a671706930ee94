//! The SQL functions, one a file.

mod call;
mod caption;
mod captioning;
mod captions;
mod decoding;
mod embed_image;
mod embed_text;
mod filtering;
mod image_arg;
mod image_error;
mod image_info;
mod itc_score;
mod itm_score;
mod options_arg;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
mod text_arg;
mod udf;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use crate::config::CapfiltOptions;
pub(crate) use options_arg::OptionField;
use udf::{Arg, SqlFunction, Udf};

/// What the documentation says of a function.
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
    fn of<F: SqlFunction>() -> Self {
        let options = F::ARGS.iter().find_map(|a| if let Arg::Options(fields) = a { Some(*fields) } else { None });
        Self {
            name: F::NAME,
            syntax: udf::syntax::<F>(),
            returns: F::RETURNS,
            description: F::DESCRIPTION,
            arguments: F::ARGS.iter().map(|a| (a.name(), a.description())).collect(),
            options: options.unwrap_or(&[]),
            example: F::EXAMPLE,
            related: F::RELATED,
        }
    }
}

/// Whether a function is one of these.
pub(crate) fn is_ours(function: &ScalarUDF) -> bool {
    function.documentation().is_some_and(|d| d.doc_section.label == udf::SECTION.label)
}

macro_rules! functions {
    ($($function:ty),* $(,)?) => {
        /// Every function, by name, under the settings of `session`.
        pub(crate) fn with_options(session: &Arc<CapfiltOptions>) -> Vec<ScalarUDF> {
            vec![$(Udf::<$function>::new(Arc::clone(session)).into()),*]
        }

        /// The pages of the documentation, in the same order.
        pub(crate) fn pages() -> Vec<Page> {
            vec![$(Page::of::<$function>()),*]
        }
    };
}

// Sorted by name.
functions![
    caption::Caption,
    captions::Captions,
    embed_image::EmbedImage,
    embed_text::EmbedText,
    image_error::ImageError,
    image_info::ImageInfo,
    itc_score::ItcScore,
    itm_score::ItmScore,
];
