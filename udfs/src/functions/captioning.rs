//! What `caption` and `captions` share.

use std::sync::Arc;

use datafusion::common::{Result, plan_err};

use super::call::{Call, Tasks, external, planned_checkpoint};
use super::decoding;
use super::image_arg::Digests;
use super::options_arg::{CallOptions, Layered, OptionField};
use super::udf::Plan;
use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::generation_defaults;
use crate::config::settings::Key;
use crate::engine::{ImageSource, Outcome, Task, Work};

/// The options of a caption.
pub(crate) const OPTIONS: &[OptionField] = &[
    OptionField::Setting(Key::Strategy),
    OptionField::Setting(Key::NumBeams),
    OptionField::Setting(Key::TopP),
    OptionField::Setting(Key::Temperature),
    OptionField::Setting(Key::MinLength),
    OptionField::Setting(Key::MaxLength),
    OptionField::Setting(Key::LengthPenalty),
    OptionField::Setting(Key::RepetitionPenalty),
    OptionField::Setting(Key::EarlyStopping),
    OptionField::Setting(Key::Seed),
    OptionField::Setting(Key::Prompt),
    OptionField::Model,
];

/// Checks what is known of `count` captions while planning. `unnamed`: see [`decoding::resolve`].
pub(crate) fn check(plan: &Plan<'_>, unnamed: Option<Strategy>, count: u32) -> Result<()> {
    let (Some(dir), Some(call)) = (planned_checkpoint(plan, Key::Captioner)?, &plan.options) else {
        return Ok(());
    };
    let own = generation_defaults(&dir).map_err(|e| external(plan.function, e))?;
    let options = decoding::resolve(plan.function, Layered { call, session: plan.session }, &own, unnamed)?;
    check_count(plan.function, &options, count)
}

fn check_count(function: &str, options: &GenerationOptions, count: u32) -> Result<()> {
    if count > 1 && options.strategy != Strategy::Nucleus {
        return plan_err!(
            "{function}: {count} captions of an image with strategy '{}' would be the same: use strategy 'nucleus'",
            options.strategy
        );
    }
    Ok(())
}

/// How one set of options has captions made.
struct Setup {
    model: usize,
    prompt: Arc<[u32]>,
    options: Arc<GenerationOptions>,
    seed: u64,
}

/// What was asked of the engine for one row.
struct Asked {
    sha256: [u8; 32],
    model: usize,
    /// Of the outcomes.
    places: Vec<usize>,
}

fn setup(call: &Call<'_>, tasks: &mut Tasks<'_>, given: &CallOptions, unnamed: Option<Strategy>) -> Result<Setup> {
    let asked = Layered { call: given, session: call.session };
    let model = tasks.model(Key::Captioner, given.model())?;
    let own = generation_defaults(tasks.checkpoint(model)).map_err(|e| external(call.function, e))?;
    let options = decoding::resolve(call.function, asked, &own, unnamed)?;
    // Only sampling has a seed: without it, equal work is known to be equal.
    let seed = if options.strategy == Strategy::Nucleus { asked.integer(Key::Seed).unwrap_or(0) } else { 0 };
    let prompt = tasks.handle(model).tokenizer().caption_prompt(asked.text(Key::Prompt).unwrap_or(""));
    Ok(Setup { model, prompt, options: Arc::new(options), seed })
}

/// Makes `count(row)` captions of each row's image. A row without an image, with a bad one or without a count gives
/// `None`.
pub(crate) fn run<'a>(
    call: &'a Call<'a>,
    options_arg: usize,
    unnamed: Option<Strategy>,
    count: impl Fn(usize) -> Result<Option<u32>>,
) -> Result<Vec<Option<Vec<String>>>> {
    let images = call.images(0)?;
    let options = call.options(options_arg, OPTIONS)?;
    let mut setups: Vec<Option<Setup>> = options.distinct.iter().map(|_| None).collect();
    let mut tasks = Tasks::new(call);
    let mut digests = Digests::default();
    let mut rows = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let (Some(bytes), Some(count)) = (images.get(row), count(row)?) else {
            rows.push(None);
            continue;
        };
        let which = options.of(row);
        let setup = match &mut setups[which] {
            Some(setup) => setup,
            slot => slot.insert(setup(call, &mut tasks, &options.distinct[which], unnamed)?),
        };
        check_count(call.function, &setup.options, count)?;
        let sha256 = digests.of(bytes);
        let places: Vec<usize> = (0..count)
            .map(|candidate| {
                let work = Work::Caption {
                    prompt: Arc::clone(&setup.prompt),
                    options: Arc::clone(&setup.options),
                    seed: setup.seed,
                    candidate,
                };
                tasks.push(setup.model, Task { image: Some(ImageSource { bytes, sha256 }), work })
            })
            .collect();
        rows.push(Some(Asked { sha256, model: setup.model, places }));
    }
    let outcomes = tasks.run()?;
    let finish = |(row, work): (usize, Option<Asked>)| {
        let Some(Asked { sha256, model, places }) = work else { return Ok(None) };
        let tokenizer = tasks.handle(model).tokenizer();
        let mut captions = Vec::with_capacity(places.len());
        for place in places {
            match &outcomes[place] {
                Outcome::Ids(ids) => captions.push(tokenizer.decode(ids)),
                Outcome::BadImage(why) => {
                    call.bad_image(row, &images, &sha256, why)?;
                    return Ok(None);
                }
                _ => return call.confused(),
            }
        }
        Ok(Some(captions))
    };
    rows.into_iter().enumerate().map(finish).collect()
}
