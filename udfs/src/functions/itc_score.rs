//! `itc_score(image, text [, options])`.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, planned_checkpoint};
use super::filtering::{TEXT_OPTIONS, scores, vector};
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::config::Key;
use crate::cost::Cost;
use crate::engine::Outcome;

/// Cosine of an image's and a text's embeddings.
#[derive(Debug)]
pub(crate) struct ItcScore;

impl SqlFunction for ItcScore {
    const NAME: &'static str = "itc_score";
    const DESCRIPTION: &'static str = "Cosine of the embeddings of an image and a text by the model of \
        `capfilt.filter`, from -1 to 1: BLIP's image-text contrast, which reads them apart and is cheap. NULL, and \
        an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "Float32";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Text("text"), Arg::Options(TEXT_OPTIONS)];
    const EXAMPLE: &'static str =
        "SELECT id, text, itc_score(image, text) AS itc_score FROM web ORDER BY itc_score DESC";
    const RELATED: &'static [&'static str] = &["itm_score", "embed_image", "embed_text"];
    const COST: Cost = Cost::EMBED;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        planned_checkpoint(plan, Key::Filter)?;
        Ok(DataType::Float32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        scores(
            call,
            TEXT_OPTIONS,
            |filter, row, image, text| Ok((filter.embed_image(row, image)?, filter.embed_text(row, text)?)),
            |outcomes, (image, text)| match &outcomes[image] {
                Outcome::BadImage(why) => Ok(Err(why)),
                image => Ok(Ok(dot(&vector(call, image)?, &vector(call, &outcomes[text])?))),
            },
        )
    }
}

/// Dot product, which is the cosine because both have unit length.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
