//! `vqa(image, question [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::answering::{self, ANSWER_OPTIONS, Answerer, Asked};
use super::call::Call;
use super::image_arg::Digests;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::engine::{ImageSource, Outcome};

/// The answer to a question about an image.
#[derive(Debug)]
pub(crate) struct Vqa;

impl SqlFunction for Vqa {
    const NAME: &'static str = "vqa";
    const DESCRIPTION: &'static str = "Answers a question about an image with the model of `capfilt.answerer`: BLIP's visual \
        question answering. The answer is written token by token (3 beams, at most 10 tokens with [DEC] counted) or, with the option \
        `answers`, the best of a list. All questions about an image share the work on it. NULL, and an image that cannot be used, \
        give NULL.";
    const RETURNS: &'static str = "Utf8";
    const ARGS: &'static [Arg] = &[Arg::Image, Arg::Text("question"), Arg::Options(ANSWER_OPTIONS)];
    const EXAMPLE: &'static str =
        "SELECT id, vqa(image, 'what color is it?', named_struct('answers', ['red', 'blue'])) AS color FROM web";
    const RELATED: &'static [&'static str] = &["vqa_score", "caption"];
    const COST: Cost = Cost::CAPTION;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        answering::check(plan)?;
        Ok(DataType::Utf8)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (images, questions) = (call.images(0)?, call.texts(1)?);
        let mut answerer = Answerer::new(call, 2, ANSWER_OPTIONS)?;
        let mut digests = Digests::default();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            let (Some(bytes), Some(question)) = (images.get(row), questions.get(row)) else {
                rows.push(None);
                continue;
            };
            let sha256 = digests.of(bytes);
            rows.push(Some((sha256, answerer.ask(row, ImageSource { bytes, sha256 }, question)?)));
        }
        let outcomes = answerer.run()?;
        let answer = |(row, asked): (usize, Option<([u8; 32], Asked)>)| {
            let Some((sha256, asked)) = asked else { return Ok(None) };
            if let Outcome::BadImage(why) = &outcomes[asked.place] {
                call.bad_image(row, &images, &sha256, why)?;
            }
            answerer.text(&outcomes, &asked)
        };
        let answers: Result<StringArray> = rows.into_iter().enumerate().map(answer).collect();
        Ok(ColumnarValue::Array(Arc::new(answers?)))
    }
}
