//! `embed_text(text [, options])`.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::filtering::{Filter, TEXT_OPTIONS, embedding_type, embeddings, vector};
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;

/// A text's ITC embedding.
#[derive(Debug)]
pub(crate) struct EmbedText;

impl SqlFunction for EmbedText {
    const NAME: &'static str = "embed_text";
    const DESCRIPTION: &'static str = "Embedding of a text by the model of `capfilt.filter`, of unit length, in the \
        space of `embed_image`. NULL gives NULL.";
    const RETURNS: &'static str = "FixedSizeList(Float32, d), with the model's d";
    const ARGS: &'static [Arg] = &[Arg::Text("text"), Arg::Options(TEXT_OPTIONS)];
    const EXAMPLE: &'static str = "SELECT embed_text('a red apple') AS query";
    const RELATED: &'static [&'static str] = &["embed_image", "itc_score"];
    const COST: Cost = Cost::EMBED;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        embedding_type(plan)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let texts = call.texts(0)?;
        let mut filter = Filter::new(call, 1, TEXT_OPTIONS)?;
        let mut places = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            places.push(match texts.get(row) {
                Some(text) => Some(filter.embed_text(row, text)?),
                None => None,
            });
        }
        let outcomes = filter.run()?;
        let vectors: Result<Vec<_>> =
            places.into_iter().map(|place| place.map(|p| vector(call, &outcomes[p])).transpose()).collect();
        embeddings(call, &vectors?)
    }
}
