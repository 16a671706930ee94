//! Shared parts of `caption` and `captions`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use datafusion::common::{Result, plan_err};

use super::call::{Call, Tasks, external, planned_checkpoint};
use super::decoding;
use super::image_arg::Digests;
use super::options_arg::{CallOptions, Layered, OptionField};
use super::plan::Plan;
use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{BlipConfig, TextConfig, generation_defaults};
use crate::config::Key;
use crate::engine::{ImageSource, Outcome, Task, Work};
use crate::text::Tokenizer;

/// Options of captioning functions.
pub(crate) const OPTIONS: &[OptionField] = &[
    OptionField::Setting(Key::Strategy),
    OptionField::Setting(Key::NumBeams),
    OptionField::Setting(Key::TopK),
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

/// Planning-time check of `count` captions; loads no model. For `unnamed` see [`decoding::resolve`].
pub(crate) fn check(plan: &Plan<'_>, unnamed: Option<Strategy>, count: u32) -> Result<()> {
    let (Some(dir), Some(call)) = (planned_checkpoint(plan, Key::Captioner)?, &plan.options) else {
        return Ok(());
    };
    let own = generation_defaults(&dir).map_err(|e| external(plan.function, e))?;
    let asked = Layered { call, session: plan.session };
    let options = decoding::resolve(plan.function, asked, &own, unnamed)?;
    check_count(plan.function, &options, count)?;
    let prompt = asked.text(Key::Prompt).unwrap_or("");
    // A token has at least one byte, except in odd cases that the call itself detects: most prompts need no tokenizer
    // here.
    if prompt.bytes().filter(|byte| !byte.is_ascii_whitespace()).count() + 1 < options.max_length {
        return Ok(());
    }
    let text = BlipConfig::read(&dir).map_err(|e| external(plan.function, e))?.text;
    let tokens = prompt_tokens(dir.join("tokenizer.json"), &text, prompt).map_err(|e| external(plan.function, e))?;
    check_room(plan.function, &options, tokens, text.max_positions)
}

/// Number of tokens of `[DEC]` and a prompt. The last result is cached: planning asks about ten times, and reading a
/// tokenizer takes tens of milliseconds.
fn prompt_tokens(tokenizer: PathBuf, config: &TextConfig, prompt: &str) -> crate::error::Result<usize> {
    type Asked = (PathBuf, Option<SystemTime>, String);
    static LAST: Mutex<Option<(Asked, usize)>> = Mutex::new(None);
    let written = std::fs::metadata(&tokenizer).and_then(|file| file.modified()).ok();
    let asked = (tokenizer, written, prompt.to_owned());
    let mut last = LAST.lock().unwrap_or_else(|e| e.into_inner());
    match &*last {
        Some((known, tokens)) if *known == asked => Ok(*tokens),
        _ => {
            let tokens = Tokenizer::read(&asked.0, config)?.caption_prompt(prompt).len();
            *last = Some((asked, tokens));
            Ok(tokens)
        }
    }
}

fn check_room(function: &str, options: &GenerationOptions, prompt_tokens: usize, positions: usize) -> Result<()> {
    options.check_room(prompt_tokens, positions).or_else(|reason| plan_err!("{function}: {reason}"))
}

fn check_count(function: &str, options: &GenerationOptions, count: u32) -> Result<()> {
    match options.strategy {
        Strategy::Greedy if count > 1 => plan_err!(
            "{function}: {count} captions of an image with strategy 'greedy' would be the same: use strategy 'nucleus', or \
             'beam' for the best beams"
        ),
        Strategy::Beam if count as usize > options.num_beams => plan_err!(
            "{function}: a search with {} beams has no {count} captions: n must be at most num_beams, so raise num_beams, or \
             use strategy 'nucleus'",
            options.num_beams
        ),
        _ => Ok(()),
    }
}

/// Captioning setup for one set of options.
struct Setup {
    model: usize,
    prompt: Arc<[u32]>,
    options: Arc<GenerationOptions>,
    seed: u64,
}

impl Setup {
    /// Work for `count` captions: a search per sample, or one search for all beams.
    fn work(&mut self, count: u32) -> impl Iterator<Item = Work> {
        let beam = self.options.strategy == Strategy::Beam;
        if beam && self.options.num_return_sequences != count as usize {
            Arc::make_mut(&mut self.options).num_return_sequences = count as usize;
        }
        let Self { prompt, options, seed, .. } = &*self;
        (0..if beam { 1 } else { count }).map(move |candidate| Work::Caption {
            prompt: Arc::clone(prompt),
            options: Arc::clone(options),
            seed: *seed,
            candidate,
        })
    }
}

/// Work queued for one row.
struct Asked {
    sha256: [u8; 32],
    model: usize,
    /// Indices of the outcomes.
    places: Vec<usize>,
}

fn setup(call: &Call<'_>, tasks: &mut Tasks<'_>, given: &CallOptions, unnamed: Option<Strategy>) -> Result<Setup> {
    let asked = Layered { call: given, session: call.session };
    let model = tasks.model(Key::Captioner, given.model())?;
    let own = generation_defaults(tasks.checkpoint(model)).map_err(|e| external(call.function, e))?;
    let options = decoding::resolve(call.function, asked, &own, unnamed)?;
    // Only sampling uses the seed; without it, equal work is recognised as equal.
    let seed = if options.strategy == Strategy::Nucleus { asked.integer(Key::Seed).unwrap_or(0) } else { 0 };
    let tokenizer = tasks.handle(model).tokenizer();
    let prompt = tokenizer.caption_prompt(asked.text(Key::Prompt).unwrap_or(""));
    check_room(call.function, &options, prompt.len(), tokenizer.max_positions())?;
    Ok(Setup { model, prompt, options: Arc::new(options), seed })
}

/// Generates `count(row)` captions of each row's image; `None` for a row without a usable image or a count.
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
        let (model, image) = (setup.model, ImageSource { bytes, sha256 });
        let ask = |work| tasks.push(model, Task { image: Some(image), work });
        let places: Vec<usize> = setup.work(count).map(ask).collect();
        rows.push(Some(Asked { sha256, model, places }));
    }
    let outcomes = tasks.run()?;
    let finish = |(row, work): (usize, Option<Asked>)| {
        let Some(Asked { sha256, model, places }) = work else { return Ok(None) };
        let tokenizer = tasks.handle(model).tokenizer();
        let mut captions = vec![];
        for place in places {
            match &outcomes[place] {
                Outcome::Ids(sequences) => captions.extend(sequences.iter().map(|ids| tokenizer.decode(ids))),
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
