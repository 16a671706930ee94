//! `vqa_score(image, question, answer [, options])`.

use std::sync::Arc;

use datafusion::arrow::array::Float32Builder;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::answering::{Answerer, QUESTION_OPTIONS};
use super::call::{Call, planned_checkpoint};
use super::image_arg::Digests;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::config::Key;
use crate::cost::Cost;
use crate::engine::{ImageSource, Outcome};

/// The probability of an answer to a question about an image.
#[derive(Debug)]
pub(crate) struct VqaScore;

impl SqlFunction for VqaScore {
    const NAME: &'static str = "vqa_score";
    const DESCRIPTION: &'static str = "Probability, by the model of `capfilt.answerer`, that it answers a question about an image \
        with exactly this text: the exponential of the log-likelihood of the answer's tokens and of its end. All answers to a \
        question about an image share the work on both. NULL, and an image that cannot be used, give NULL.";
    const RETURNS: &'static str = "Float32";
    const ARGS: &'static [Arg] =
        &[Arg::Image, Arg::Text("question"), Arg::Text("answer"), Arg::Options(QUESTION_OPTIONS)];
    const EXAMPLE: &'static str =
        "SELECT id FROM web WHERE vqa_score(image, 'is there a watermark in the picture?', 'yes') < 0.5";
    const RELATED: &'static [&'static str] = &["vqa", "itm_score"];
    const COST: Cost = Cost::MATCH;

    fn return_type(plan: &Plan<'_>) -> Result<DataType> {
        planned_checkpoint(plan, Key::Answerer)?;
        Ok(DataType::Float32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (images, questions, answers) = (call.images(0)?, call.texts(1)?, call.texts(2)?);
        let mut answerer = Answerer::new(call, 3, QUESTION_OPTIONS)?;
        let mut digests = Digests::default();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            let asked = (images.get(row), questions.get(row), answers.get(row));
            let (Some(bytes), Some(question), Some(answer)) = asked else {
                rows.push(None);
                continue;
            };
            let sha256 = digests.of(bytes);
            rows.push(Some((sha256, answerer.score(row, ImageSource { bytes, sha256 }, question, answer)?)));
        }
        let outcomes = answerer.run()?;
        let mut scores = Float32Builder::with_capacity(call.rows);
        for (row, asked) in rows.into_iter().enumerate() {
            scores.append_option(match asked {
                None => None,
                Some((sha256, place)) => match &outcomes[place] {
                    Outcome::Score(score) => Some(*score),
                    Outcome::BadImage(why) => {
                        call.bad_image(row, &images, &sha256, why)?;
                        None
                    }
                    _ => return call.confused(),
                },
            });
        }
        Ok(ColumnarValue::Array(Arc::new(scores.finish())))
    }
}
