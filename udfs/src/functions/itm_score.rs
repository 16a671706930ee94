//! `itm_score(image, text [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::Float32Builder;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, planned_checkpoint};
use super::filtering::{Filter, MATCH_OPTIONS};
use super::image_arg::Digests;
use super::udf::{Arg, Plan, SqlFunction};
use crate::config::settings::Key;
use crate::engine::{ImageSource, Outcome};

/// The filter's probability that a text matches an image.
#[derive(Debug)]
pub(crate) struct ItmScore;

impl SqlFunction for ItmScore {
    const NAME: &'static str = "itm_score";
    const DESCRIPTION: &'static str = "Probability, by the model of `capfilt.filter`, that a text matches an image: \
        BLIP's image-text matching, which reads both together. NULL, and an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "Float32";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Text, Arg::Options(MATCH_OPTIONS)];
    const EXAMPLE: &'static str = "SELECT id, text FROM web WHERE itm_score(image, text) >= 0.5";
    const RELATED: &'static [&'static str] = &["itc_score", "caption"];

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        planned_checkpoint(plan, Key::Filter)?;
        Ok(DataType::Float32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (images, texts) = (call.images(0)?, call.texts(1)?);
        let mut filter = Filter::new(call, 2, MATCH_OPTIONS)?;
        let mut digests = Digests::default();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            let (Some(bytes), Some(text)) = (images.get(row), texts.get(row)) else {
                rows.push(None);
                continue;
            };
            let sha256 = digests.of(bytes);
            rows.push(Some((sha256, filter.match_text(row, ImageSource { bytes, sha256 }, text)?)));
        }
        let outcomes = filter.run()?;
        let mut scores = Float32Builder::with_capacity(call.rows);
        for (row, asked) in rows.iter().enumerate() {
            let score = match asked.map(|(sha256, place)| (sha256, &outcomes[place])) {
                None => None,
                Some((_, Outcome::Score(score))) => Some(*score),
                Some((sha256, Outcome::BadImage(why))) => {
                    call.bad_image(row, &images, &sha256, why)?;
                    None
                }
                Some(_) => return call.confused(),
            };
            scores.append_option(score);
        }
        Ok(ColumnarValue::Array(Arc::new(scores.finish())))
    }
}
