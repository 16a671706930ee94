//! `embed_image(image [, options])`.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::filtering::{Filter, IMAGE_OPTIONS, embedding_type, embeddings, vector};
use super::image_arg::Digests;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::engine::{ImageSource, Outcome};

/// An image's ITC embedding.
#[derive(Debug)]
pub(crate) struct EmbedImage;

impl SqlFunction for EmbedImage {
    const NAME: &'static str = "embed_image";
    const DESCRIPTION: &'static str = "Embedding of an image by the model of `capfilt.filter`, of unit length, in \
        the space of `embed_text`. NULL, and an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "FixedSizeList(Float32, d), with the model's d";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Options(IMAGE_OPTIONS)];
    const EXAMPLE: &'static str = "SELECT id, embed_image(image) AS embedding FROM web";
    const RELATED: &'static [&'static str] = &["embed_text", "itc_score"];
    const COST: Cost = Cost::EMBED;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        embedding_type(plan)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let images = call.images(0)?;
        let mut filter = Filter::new(call, 1, IMAGE_OPTIONS)?;
        let mut digests = Digests::default();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            let Some(bytes) = images.get(row) else {
                rows.push(None);
                continue;
            };
            let sha256 = digests.of(bytes);
            rows.push(Some((sha256, filter.embed_image(row, ImageSource { bytes, sha256 })?)));
        }
        let outcomes = filter.run()?;
        let mut vectors = Vec::with_capacity(call.rows);
        for (row, asked) in rows.iter().enumerate() {
            vectors.push(match asked.map(|(sha256, place)| (sha256, &outcomes[place])) {
                None => None,
                Some((sha256, Outcome::BadImage(why))) => {
                    call.bad_image(row, &images, &sha256, why)?;
                    None
                }
                Some((_, outcome)) => Some(vector(call, outcome)?),
            });
        }
        embeddings(call, &vectors)
    }
}
