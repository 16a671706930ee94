//! `itm_score(image, text [, options])`.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, planned_checkpoint};
use super::filtering::{Filter, MATCH_OPTIONS, scores};
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::config::Key;
use crate::cost::Cost;
use crate::engine::Outcome;

/// The filter's probability that a text matches an image.
#[derive(Debug)]
pub(crate) struct ItmScore;

impl SqlFunction for ItmScore {
    const NAME: &'static str = "itm_score";
    const DESCRIPTION: &'static str = "Probability, by the model of `capfilt.filter`, that a text matches an image: \
        BLIP's image-text matching, which reads both together. NULL, and an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "Float32";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Text("text"), Arg::Options(MATCH_OPTIONS)];
    const EXAMPLE: &'static str = "SELECT id, text FROM web WHERE itm_score(image, text) >= 0.5";
    const RELATED: &'static [&'static str] = &["itc_score", "caption"];
    const COST: Cost = Cost::MATCH;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        planned_checkpoint(plan, Key::Filter)?;
        Ok(DataType::Float32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        scores(call, MATCH_OPTIONS, Filter::match_text, |outcomes, place| match &outcomes[place] {
            Outcome::Score(score) => Ok(Ok(*score)),
            Outcome::BadImage(why) => Ok(Err(why)),
            _ => call.confused(),
        })
    }
}
