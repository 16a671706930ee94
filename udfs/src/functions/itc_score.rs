//! `itc_score(image, text [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::Float32Builder;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, planned_checkpoint};
use super::filtering::{Filter, TEXT_OPTIONS, vector};
use super::image_arg::Digests;
use super::udf::{Arg, Plan, SqlFunction};
use crate::config::settings::Key;
use crate::engine::{ImageSource, Outcome};

/// The cosine of an image's and a text's embedding.
#[derive(Debug)]
pub(crate) struct ItcScore;

impl SqlFunction for ItcScore {
    const NAME: &'static str = "itc_score";
    const DESCRIPTION: &'static str = "Cosine of the embeddings of an image and a text by the model of \
        `capfilt.filter`, from -1 to 1: BLIP's image-text contrast, which reads them apart and is cheap. NULL, and \
        an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "Float32";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Text, Arg::Options(TEXT_OPTIONS)];
    const EXAMPLE: &'static str =
        "SELECT id, text, itc_score(image, text) AS itc_score FROM web ORDER BY itc_score DESC";
    const RELATED: &'static [&'static str] = &["itm_score", "embed_image", "embed_text"];

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        planned_checkpoint(plan, Key::Filter)?;
        Ok(DataType::Float32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (images, texts) = (call.images(0)?, call.texts(1)?);
        let mut filter = Filter::new(call, 2, TEXT_OPTIONS)?;
        let mut digests = Digests::default();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            let (Some(bytes), Some(text)) = (images.get(row), texts.get(row)) else {
                rows.push(None);
                continue;
            };
            let sha256 = digests.of(bytes);
            let image = filter.embed_image(row, ImageSource { bytes, sha256 })?;
            rows.push(Some((sha256, image, filter.embed_text(row, text)?)));
        }
        let outcomes = filter.run()?;
        let mut scores = Float32Builder::with_capacity(call.rows);
        for (row, asked) in rows.iter().enumerate() {
            let score = match asked {
                None => None,
                Some((sha256, image, text)) => match &outcomes[*image] {
                    Outcome::BadImage(why) => {
                        call.bad_image(row, &images, sha256, why)?;
                        None
                    }
                    image => Some(dot(&vector(call, image)?, &vector(call, &outcomes[*text])?)),
                },
            };
            scores.append_option(score);
        }
        Ok(ColumnarValue::Array(Arc::new(scores.finish())))
    }
}

/// The cosine, as both have unit length.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
