//! The SQL functions, one per file.

mod aggregate;
mod answering;
mod bleu;
pub(crate) mod byte_length;
mod call;
mod caption;
mod captioning;
mod captions;
mod cider;
mod decoding;
mod embed_image;
mod embed_text;
mod filtering;
mod hamming;
mod image_arg;
mod image_error;
mod image_info;
mod image_phash;
mod itc_score;
mod itm_score;
mod options_arg;
mod page;
mod plan;
mod recall_at;
mod rouge_l;
pub(crate) mod section;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
mod text_arg;
mod udf;
mod vqa;
mod vqa_score;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

use crate::config::CapfiltOptions;
pub(crate) use options_arg::OptionField;
pub(crate) use page::Page;
pub use section::SECTION;
use udf::Udf;

/// Names of the functions that the ITC gate knows.
pub(crate) const ITC_SCORE: &str = <itc_score::ItcScore as udf::SqlFunction>::NAME;
pub(crate) const ITM_SCORE: &str = <itm_score::ItmScore as udf::SqlFunction>::NAME;

/// All documentation pages, sorted by name.
pub(crate) fn pages() -> Vec<Page> {
    let mut pages = scalar_pages();
    pages.extend(aggregate_pages());
    pages.sort_by_key(|page| page.name);
    pages
}

macro_rules! functions {
    ($($function:ty),* $(,)?) => {
        /// All scalar functions under the settings of `session`, sorted by name.
        pub(crate) fn with_options(session: &Arc<CapfiltOptions>) -> Vec<ScalarUDF> {
            vec![$(Udf::<$function>::new(Arc::clone(session)).into()),*]
        }

        fn scalar_pages() -> Vec<Page> {
            vec![$(Page::of::<$function>()),*]
        }
    };
}

macro_rules! aggregates {
    ($($function:ty),* $(,)?) => {
        /// All aggregate functions, sorted by name.
        pub(crate) fn aggregates() -> Vec<AggregateUDF> {
            vec![$(aggregate::Udaf::<$function>::create()),*]
        }

        fn aggregate_pages() -> Vec<Page> {
            vec![$(aggregate::page::<$function>()),*]
        }
    };
}

// Sorted by name.
functions![
    caption::Caption,
    captions::Captions,
    embed_image::EmbedImage,
    embed_text::EmbedText,
    hamming::Hamming,
    image_error::ImageError,
    image_info::ImageInfo,
    image_phash::ImagePhash,
    itc_score::ItcScore,
    itm_score::ItmScore,
    vqa::Vqa,
    vqa_score::VqaScore,
];

aggregates![
    bleu::Bleu<1>,
    bleu::Bleu<2>,
    bleu::Bleu<3>,
    bleu::Bleu<4>,
    cider::Cider,
    cider::CiderPlain,
    recall_at::RecallAt,
    rouge_l::RougeL,
];
