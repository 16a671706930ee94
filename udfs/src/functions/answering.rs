//! Shared parts of `vqa` and `vqa_score`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{Result, exec_err, plan_err};

use super::call::{Call, Tasks, external, planned_checkpoint};
use super::decoding::{of_answers, resolve_over};
use super::options_arg::{CallOptions, Layered, OptionField, RowOptions};
use super::plan::Plan;
use crate::blip::generate::{GenerationOptions, Strategy};
use crate::blip::{PartialGeneration, generation_defaults};
use crate::config::Key;
use crate::engine::{ImageSource, Outcome, Task, Work};
use crate::text::{ItmToken, Tokenizer, clean_question};

/// Options of scoring an answer.
pub(crate) const QUESTION_OPTIONS: &[OptionField] = &[
    OptionField::Setting(Key::QuestionToken),
    OptionField::Setting(Key::MaxTextTokens),
    OptionField::Setting(Key::CleanQuestion),
    OptionField::Model,
];

/// Options of answering a question.
pub(crate) const ANSWER_OPTIONS: &[OptionField] = &[
    OptionField::Answers,
    OptionField::K,
    OptionField::AnswerScore,
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
    OptionField::Setting(Key::QuestionToken),
    OptionField::Setting(Key::MaxTextTokens),
    OptionField::Setting(Key::CleanQuestion),
    OptionField::Model,
];

/// Answers that are scored in full, unless a call says otherwise: `k_test` of BLIP's configs/vqa.yaml.
const USUAL_K: u64 = 128;

/// Planning-time check of a call of `vqa`; loads no model.
pub(crate) fn check(plan: &Plan<'_>) -> Result<()> {
    let (Some(dir), Some(call)) = (planned_checkpoint(plan, Key::Answerer)?, &plan.options) else {
        return Ok(());
    };
    let own = generation_defaults(&dir).map_err(|e| external(plan.function, e))?;
    decoding(plan.function, Layered { call, session: plan.session }, &own).map(drop)
}

/// Options of generation, or `None` if the call has answers to choose from.
fn decoding(function: &str, asked: Layered<'_>, checkpoint: &PartialGeneration) -> Result<Option<GenerationOptions>> {
    let of_rank = |field| matches!(field, OptionField::K | OptionField::AnswerScore);
    let of_question = |field| QUESTION_OPTIONS.contains(&field) || field == OptionField::Answers || of_rank(field);
    if asked.call.answers().is_some() {
        return match asked.call.find(|field| !of_question(field)) {
            None => Ok(None),
            Some(field) => plan_err!(
                "{function}: option {} is of answers that are written, and with answers to choose from none is: leave one \
                 of the two out",
                field.name()
            ),
        };
    }
    if let Some(field) = asked.call.find(of_rank) {
        return plan_err!(
            "{function}: option {} needs answers to choose from: give the option answers too",
            field.name()
        );
    }
    let options = resolve_over(&of_answers(), function, asked, checkpoint, None)?;
    if options.max_length < 2 {
        return plan_err!(
            "{function}: max_length {} leaves no room for an answer, since [DEC] counts: set it to at least 2",
            options.max_length
        );
    }
    Ok(Some(options))
}

/// How a call's questions are answered.
enum Way {
    Generate { options: Arc<GenerationOptions>, seed: u64 },
    Rank { texts: Arc<[String]>, answers: Arc<[Arc<[u32]>]>, k: usize, smoothed: bool },
}

/// Setup of one set of options.
struct Setup {
    model: usize,
    first: ItmToken,
    max_tokens: usize,
    clean: bool,
}

/// The answerer's work for a call.
pub(crate) struct Answerer<'a> {
    call: &'a Call<'a>,
    options: RowOptions,
    setups: Vec<Option<Setup>>,
    ways: Vec<Option<Way>>,
    tasks: Tasks<'a>,
    questions: HashMap<(usize, &'a str), Arc<[u32]>>,
    answers: HashMap<(usize, &'a str), Arc<[u32]>>,
}

/// Work queued for a row of `vqa`.
pub(crate) struct Asked {
    /// Index of the outcome.
    pub(crate) place: usize,
    /// Index of the row's options.
    which: usize,
}

impl<'a> Answerer<'a> {
    pub(crate) fn new(call: &'a Call<'a>, options_arg: usize, known: &[OptionField]) -> Result<Self> {
        let options = call.options(options_arg, known)?;
        let none = || options.distinct.iter().map(|_| None).collect();
        let (setups, ways) = (none(), options.distinct.iter().map(|_| None).collect());
        let (questions, answers) = (HashMap::new(), HashMap::new());
        Ok(Self { call, options, setups, ways, tasks: Tasks::new(call), questions, answers })
    }

    fn setup(&mut self, which: usize) -> Result<&Setup> {
        if self.setups[which].is_none() {
            let given = &self.options.distinct[which];
            let asked = Layered { call: given, session: self.call.session };
            self.setups[which] = Some(Setup {
                model: self.tasks.model(Key::Answerer, given.model())?,
                first: asked.text(Key::QuestionToken).and_then(|t| t.parse().ok()).unwrap_or_default(),
                max_tokens: asked.integer(Key::MaxTextTokens).map_or(35, |n| n as usize),
                clean: asked.flag(Key::CleanQuestion).unwrap_or(true),
            });
        }
        match &self.setups[which] {
            Some(setup) => Ok(setup),
            None => self.call.confused(),
        }
    }

    /// Model of a set of options, and token ids of a question under them; each question of a batch is tokenised once.
    fn question(&mut self, which: usize, question: &'a str) -> Result<(usize, Arc<[u32]>)> {
        let Setup { model, first, max_tokens, clean } = *self.setup(which)?;
        let tokenizer = self.tasks.handle(model).tokenizer();
        let ids = self.questions.entry((which, question)).or_insert_with(|| {
            let cleaned = if clean { Cow::Owned(clean_question(question)) } else { Cow::Borrowed(question) };
            tokenizer.match_ids(&cleaned, max_tokens, first)
        });
        Ok((model, Arc::clone(ids)))
    }

    fn way(&mut self, which: usize, model: usize) -> Result<&Way> {
        if self.ways[which].is_none() {
            let (call, given) = (self.call, &self.options.distinct[which]);
            let asked = Layered { call: given, session: call.session };
            let own = generation_defaults(self.tasks.checkpoint(model)).map_err(|e| external(call.function, e))?;
            self.ways[which] = Some(match (decoding(call.function, asked, &own)?, given.answers()) {
                (Some(options), _) => {
                    // Only sampling uses the seed; without it, equal work is recognised as equal.
                    let is_drawn = options.strategy == Strategy::Nucleus;
                    let seed = if is_drawn { asked.integer(Key::Seed).unwrap_or(0) } else { 0 };
                    Way::Generate { options: Arc::new(options), seed }
                }
                (None, Some(texts)) => rank(call.function, self.tasks.handle(model).tokenizer(), given, texts)?,
                (None, None) => return call.confused(),
            });
        }
        match &self.ways[which] {
            Some(way) => Ok(way),
            None => self.call.confused(),
        }
    }

    /// Queues the answer to row `row`'s question.
    pub(crate) fn ask(&mut self, row: usize, image: ImageSource<'a>, question: &'a str) -> Result<Asked> {
        let which = self.options.of(row);
        let (model, question) = self.question(which, question)?;
        let prompt = self.tasks.handle(model).tokenizer().caption_prompt("");
        let work = match self.way(which, model)? {
            Way::Generate { options, seed } => {
                Work::Answer { question, prompt, options: Arc::clone(options), seed: *seed }
            }
            Way::Rank { answers, k, smoothed, .. } => {
                Work::RankAnswers { question, answers: Arc::clone(answers), k: *k, smoothed: *smoothed }
            }
        };
        Ok(Asked { place: self.tasks.push(model, Task { image: Some(image), work }), which })
    }

    /// Queues the score of row `row`'s answer; returns the index of the outcome.
    pub(crate) fn score(
        &mut self,
        row: usize,
        image: ImageSource<'a>,
        question: &'a str,
        answer: &'a str,
    ) -> Result<usize> {
        let which = self.options.of(row);
        let (model, question) = self.question(which, question)?;
        let tokenizer = self.tasks.handle(model).tokenizer();
        let ids = self.answers.entry((which, answer)).or_insert_with(|| tokenizer.answer_ids(answer));
        if let Err(reason) = check_length(ids, tokenizer) {
            return exec_err!("{}: row {row} of the batch: the answer {reason}", self.call.function);
        }
        let work = Work::ScoreAnswer { question, answer: Arc::clone(ids) };
        Ok(self.tasks.push(model, Task { image: Some(image), work }))
    }

    /// Runs the queued work.
    pub(crate) fn run(&mut self) -> Result<Vec<Outcome>> {
        self.tasks.run()
    }

    /// Text of an answer; `None` if the image cannot be used.
    pub(crate) fn text(&self, outcomes: &[Outcome], asked: &Asked) -> Result<Option<String>> {
        let tokenizer = match &self.setups[asked.which] {
            Some(setup) => self.tasks.handle(setup.model).tokenizer(),
            None => return self.call.confused(),
        };
        match (&outcomes[asked.place], &self.ways[asked.which]) {
            (Outcome::Ids(sequences), _) => Ok(sequences.first().map(|ids| tokenizer.decode(ids))),
            (Outcome::Best(best), Some(Way::Rank { texts, .. })) => Ok(texts.get(*best).cloned()),
            (Outcome::BadImage(_), _) => Ok(None),
            _ => self.call.confused(),
        }
    }
}

/// Ranking of the answers `texts`.
fn rank(function: &str, tokenizer: &Tokenizer, given: &CallOptions, texts: &Arc<[String]>) -> Result<Way> {
    let answers: Arc<[Arc<[u32]>]> = texts.iter().map(|text| tokenizer.answer_ids(text)).collect();
    for (i, (ids, text)) in answers.iter().zip(&**texts).enumerate() {
        if let Err(reason) = check_length(ids, tokenizer) {
            let start: String = text.chars().take(40).collect();
            return plan_err!("{function}: option answers: number {} (\"{start}..\") {reason}", i + 1);
        }
    }
    let k = usize::try_from(given.k().unwrap_or(USUAL_K)).unwrap_or(usize::MAX);
    let smoothed = given.answer_score() != Some("likelihood");
    Ok(Way::Rank { texts: Arc::clone(texts), answers, k, smoothed })
}

/// Checks that the model can read an answer, given from [DEC] to [SEP]; the last is not read.
fn check_length(ids: &[u32], tokenizer: &Tokenizer) -> Result<(), String> {
    let (tokens, most) = (ids.len() - 1, tokenizer.max_positions());
    if tokens <= most {
        return Ok(());
    }
    Err(format!(
        "has {tokens} tokens with [DEC], and the checkpoint reads {most} at most (max_position_embeddings): shorten it or \
         leave it out"
    ))
}
