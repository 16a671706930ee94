//! Shared parts of `itm_score`, `itc_score`, `embed_image` and `embed_text`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Float32Builder};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, exec_err, internal_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

use super::call::{Call, Tasks, checkpoint, external};
use super::image_arg::Digests;
use super::options_arg::{Layered, OptionField, RowOptions};
use super::plan::Plan;
use crate::blip::projection_dim;
use crate::config::Key;
use crate::engine::{ImageSource, Outcome, Task, Work};
use crate::image::ImageError;
use crate::text::{self, ItmToken};

/// Options of functions of an image only.
pub(crate) const IMAGE_OPTIONS: &[OptionField] = &[OptionField::Model];
/// Options of functions that embed texts.
pub(crate) const TEXT_OPTIONS: &[OptionField] =
    &[OptionField::Setting(Key::MaxTextTokens), OptionField::Setting(Key::CleanText), OptionField::Model];
/// Options of ITM.
pub(crate) const MATCH_OPTIONS: &[OptionField] = &[
    OptionField::Setting(Key::ItmToken),
    OptionField::Setting(Key::MaxTextTokens),
    OptionField::Setting(Key::CleanText),
    OptionField::Model,
];

/// Width of ITC embeddings in every checkpoint published by BLIP's authors; assumed at planning time if a call names
/// the model and `capfilt.filter` is unset.
const USUAL_WIDTH: usize = 256;

/// Type of an embedding. It must be known before the options of a call, so `capfilt.filter` determines it, and a call
/// may only name models of the same width.
pub(crate) fn embedding_type(plan: &Plan<'_>) -> Result<DataType> {
    let width = |named: Option<&str>| -> Result<usize> {
        let dir = checkpoint(plan.function, Key::Filter, named, plan.session)?;
        projection_dim(&dir).map_err(|e| external(plan.function, e))
    };
    let named = plan.options.as_ref().and_then(|o| o.model());
    let undecided = plan.options.is_none() && plan.may_name_model;
    let planned = match plan.session.text(Key::Filter) {
        None if named.is_some() || undecided || plan.listed => USUAL_WIDTH,
        Some(_) if plan.listed => width(None).unwrap_or(USUAL_WIDTH),
        _ => width(None)?,
    };
    if let Some(model) = named {
        let own = width(named)?;
        if own != planned {
            return plan_err!(
                "{}: embeddings of {model} have {own} numbers, but {planned} were planned: \
                 SET capfilt.filter = '{model}' instead",
                plan.function
            );
        }
    }
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    match i32::try_from(planned) {
        Ok(planned) => Ok(DataType::FixedSizeList(item, planned)),
        Err(_) => plan_err!("{}: embeddings of {planned} numbers", plan.function),
    }
}

/// The filter's work for a call.
pub(crate) struct Filter<'a> {
    call: &'a Call<'a>,
    options: RowOptions,
    setups: Vec<Option<Setup>>,
    tasks: Tasks<'a>,
    ids: HashMap<(usize, bool, &'a str), Arc<[u32]>>,
}

/// Text settings of one set of options.
#[derive(Clone, Copy)]
struct Setup {
    model: usize,
    first: ItmToken,
    max_tokens: usize,
    clean: bool,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(call: &'a Call<'a>, options_arg: usize, known: &[OptionField]) -> Result<Self> {
        let options = call.options(options_arg, known)?;
        let setups = vec![None; options.distinct.len()];
        Ok(Self { call, options, setups, tasks: Tasks::new(call), ids: HashMap::new() })
    }

    fn setup(&mut self, row: usize) -> Result<(usize, Setup)> {
        let which = self.options.of(row);
        if let Some(setup) = self.setups[which] {
            return Ok((which, setup));
        }
        let given = &self.options.distinct[which];
        let asked = Layered { call: given, session: self.call.session };
        let setup = Setup {
            model: self.tasks.model(Key::Filter, given.model())?,
            first: asked.text(Key::ItmToken).and_then(|t| t.parse().ok()).unwrap_or_default(),
            max_tokens: asked.integer(Key::MaxTextTokens).map_or(35, |n| n as usize),
            clean: asked.flag(Key::CleanText).unwrap_or(false),
        };
        self.setups[which] = Some(setup);
        Ok((which, setup))
    }

    /// Token ids of `text` for ITM or ITC; each text of a batch is tokenised once.
    fn ids(&mut self, which: usize, setup: Setup, for_itm: bool, text: &'a str) -> Arc<[u32]> {
        let tokenizer = self.tasks.handle(setup.model).tokenizer();
        let ids = self.ids.entry((which, for_itm, text)).or_insert_with(|| {
            let text = if setup.clean { Cow::Owned(text::clean(text)) } else { Cow::Borrowed(text) };
            if for_itm {
                tokenizer.match_ids(&text, setup.max_tokens, setup.first)
            } else {
                tokenizer.itc_ids(&text, setup.max_tokens)
            }
        });
        Arc::clone(ids)
    }

    /// Queues ITM of row `row`'s text and image; returns the index of the outcome.
    pub(crate) fn match_text(&mut self, row: usize, image: ImageSource<'a>, text: &'a str) -> Result<usize> {
        let (which, setup) = self.setup(row)?;
        let ids = self.ids(which, setup, true, text);
        Ok(self.tasks.push(setup.model, Task { image: Some(image), work: Work::Match { ids } }))
    }

    /// Queues the embedding of an image; returns the index of the outcome.
    pub(crate) fn embed_image(&mut self, row: usize, image: ImageSource<'a>) -> Result<usize> {
        let (_, setup) = self.setup(row)?;
        Ok(self.tasks.push(setup.model, Task { image: Some(image), work: Work::EmbedImage }))
    }

    /// Queues the embedding of a text; returns the index of the outcome.
    pub(crate) fn embed_text(&mut self, row: usize, text: &'a str) -> Result<usize> {
        let (which, setup) = self.setup(row)?;
        let ids = self.ids(which, setup, false, text);
        Ok(self.tasks.push(setup.model, Task { image: None, work: Work::EmbedText { ids } }))
    }

    /// Runs the queued work.
    pub(crate) fn run(&mut self) -> Result<Vec<Outcome>> {
        self.tasks.run()
    }
}

/// Scores of a call on `(image, text [, options])`, one per row: `ask` queues a row's work, and `read` makes a score of
/// its outcomes or says why the image cannot be used.
pub(crate) fn scores<'a, Asked>(
    call: &'a Call<'a>,
    known: &[OptionField],
    ask: impl Fn(&mut Filter<'a>, usize, ImageSource<'a>, &'a str) -> Result<Asked>,
    read: impl for<'o> Fn(&'o [Outcome], Asked) -> Result<Result<f32, &'o ImageError>>,
) -> Result<ColumnarValue> {
    let (images, texts) = (call.images(0)?, call.texts(1)?);
    let mut filter = Filter::new(call, 2, known)?;
    let mut digests = Digests::default();
    let mut rows = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let (Some(bytes), Some(text)) = (images.get(row), texts.get(row)) else {
            rows.push(None);
            continue;
        };
        let sha256 = digests.of(bytes);
        rows.push(Some((sha256, ask(&mut filter, row, ImageSource { bytes, sha256 }, text)?)));
    }
    let outcomes = filter.run()?;
    let mut scores = Float32Builder::with_capacity(call.rows);
    for (row, asked) in rows.into_iter().enumerate() {
        let score = match asked {
            None => None,
            Some((sha256, asked)) => match read(&outcomes, asked)? {
                Ok(score) => Some(score),
                Err(why) => {
                    call.bad_image(row, &images, &sha256, why)?;
                    None
                }
            },
        };
        scores.append_option(score);
    }
    Ok(ColumnarValue::Array(Arc::new(scores.finish())))
}

/// Vector of an outcome; an error for other kinds of outcome.
pub(crate) fn vector(call: &Call<'_>, outcome: &Outcome) -> Result<Arc<[f32]>> {
    match outcome {
        Outcome::Vector(vector) => Ok(Arc::clone(vector)),
        _ => call.confused(),
    }
}

/// Embeddings as the planned list type.
pub(crate) fn embeddings(call: &Call<'_>, rows: &[Option<Arc<[f32]>>]) -> Result<ColumnarValue> {
    let DataType::FixedSizeList(item, width) = call.return_type else {
        return internal_err!("{} was planned as {}", call.function, call.return_type);
    };
    let size = usize::try_from(*width).unwrap_or(0);
    let mut values = Vec::with_capacity(size * rows.len());
    for row in rows {
        match row {
            Some(vector) if vector.len() == size => values.extend_from_slice(vector),
            Some(vector) => {
                return exec_err!(
                    "{}: the model's embeddings have {} numbers, but {size} were planned: \
                     SET capfilt.filter to this model instead of naming it in the call",
                    call.function,
                    vector.len()
                );
            }
            None => values.resize(values.len() + size, 0.0),
        }
    }
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    let values: ArrayRef = Arc::new(Float32Array::from(values));
    Ok(ColumnarValue::Array(Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *width, values, Some(nulls))?)))
}
