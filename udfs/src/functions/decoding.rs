//! Precedence of decoding options: the call, then SET, then the checkpoint's generation_config.json, then the built-in
//! default.

use datafusion::common::{Result, plan_err};

use super::options_arg::Layered;
use crate::blip::PartialGeneration;
use crate::blip::generate::{GenerationOptions, Strategy};
use crate::config::Key;

/// Built-in options of answers, which are those of BLIP's evaluation (`generate` in models/blip_vqa.py).
pub(crate) fn of_answers() -> GenerationOptions {
    GenerationOptions { max_length: 10, ..Default::default() }
}

/// Resolves the options of a caption as [`resolve_over`] does.
pub(crate) fn resolve(
    function: &str,
    asked: Layered<'_>,
    checkpoint: &PartialGeneration,
    unnamed: Option<Strategy>,
) -> Result<GenerationOptions> {
    resolve_over(&GenerationOptions::default(), function, asked, checkpoint, unnamed)
}

/// Resolves the options of a text over built-in ones. `unnamed` is the strategy if neither the call nor SET names one and the call sets
/// no beams; if it is `None`, the checkpoint decides. The error names the invalid option.
pub(crate) fn resolve_over(
    built_in: &GenerationOptions,
    function: &str,
    asked: Layered<'_>,
    checkpoint: &PartialGeneration,
    unnamed: Option<Strategy>,
) -> Result<GenerationOptions> {
    let integer = |key, own: Option<usize>, last| asked.integer(key).map(|n| n as usize).or(own).unwrap_or(last);
    let float = |key, own: Option<f32>, last| asked.float(key).or(own).unwrap_or(last);
    // Setting num_beams implies beam search.
    let beam = |asked: bool| asked.then_some(Strategy::Beam);
    let strategy = asked.text(Key::Strategy).and_then(|s| s.parse().ok());
    let strategy = strategy.or(beam(asked.call.has(Key::NumBeams))).or(unnamed);
    let strategy = match strategy.or(beam(asked.integer(Key::NumBeams).is_some())) {
        Some(strategy) => strategy,
        None => match (checkpoint.do_sample, checkpoint.num_beams) {
            (Some(true), _) => Strategy::Nucleus,
            (Some(false) | None, Some(1)) => Strategy::Greedy,
            _ => built_in.strategy,
        },
    };
    let max_length = integer(Key::MaxLength, checkpoint.max_length, built_in.max_length);
    // The checkpoint's own minimum yields to a shorter maximum, as transformers has it; one that was asked for is an error.
    let min_length = checkpoint.min_length.map(|least| least.min(max_length));
    let options = GenerationOptions {
        strategy,
        num_beams: integer(Key::NumBeams, checkpoint.num_beams, built_in.num_beams),
        num_return_sequences: built_in.num_return_sequences,
        top_k: integer(Key::TopK, checkpoint.top_k, built_in.top_k),
        top_p: float(Key::TopP, checkpoint.top_p, built_in.top_p),
        temperature: float(Key::Temperature, checkpoint.temperature, built_in.temperature),
        min_length: integer(Key::MinLength, min_length, built_in.min_length),
        max_length,
        length_penalty: float(Key::LengthPenalty, checkpoint.length_penalty, built_in.length_penalty),
        repetition_penalty: float(Key::RepetitionPenalty, checkpoint.repetition_penalty, built_in.repetition_penalty),
        early_stopping: asked.flag(Key::EarlyStopping).or(checkpoint.early_stopping).unwrap_or(built_in.early_stopping),
    };
    match options.validate() {
        Ok(()) => Ok(options),
        Err(reason) => plan_err!("{function}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::options_arg::{CallOptions, OptionField};
    use super::*;
    use crate::config::CapfiltOptions;

    fn call(fields: Vec<(&str, ScalarValue)>) -> Result<CallOptions> {
        const KNOWN: &[OptionField] = &[OptionField::Setting(Key::Strategy), OptionField::Setting(Key::NumBeams)];
        let mut builder = datafusion::common::scalar::ScalarStructBuilder::new();
        for (name, value) in fields {
            let field = datafusion::arrow::datatypes::Field::new(name, value.data_type(), true);
            builder = builder.with_scalar(field, value);
        }
        CallOptions::of_scalar("caption", KNOWN, &builder.build()?)
    }

    #[test]
    fn precedence() -> Result<()> {
        let checkpoint = PartialGeneration { num_beams: Some(5), max_length: Some(30), ..Default::default() };
        let session = CapfiltOptions::new();
        let none = CallOptions::default();
        let plain = resolve("caption", Layered { call: &none, session: &session }, &Default::default(), None)?;
        assert_eq!(plain, GenerationOptions::default());
        let own = resolve("caption", Layered { call: &none, session: &session }, &checkpoint, None)?;
        assert_eq!((own.strategy, own.num_beams, own.max_length), (Strategy::Beam, 5, 30));
        let session = session.with("max_length", "25")?.with("num_beams", "4")?;
        let set = resolve("caption", Layered { call: &none, session: &session }, &checkpoint, None)?;
        assert_eq!((set.num_beams, set.max_length), (4, 25));
        let cut = PartialGeneration { top_k: Some(7), ..checkpoint.clone() };
        assert_eq!(resolve("caption", Layered { call: &none, session: &session }, &cut, None)?.top_k, 7);
        let all = session.clone().with("top_k", "0")?;
        assert_eq!(resolve("caption", Layered { call: &none, session: &all }, &cut, None)?.top_k, 0);
        let two = call(vec![("num_beams", ScalarValue::Int64(Some(2))), ("strategy", ScalarValue::Utf8(None))])?;
        let called = resolve("caption", Layered { call: &two, session: &session }, &checkpoint, None)?;
        assert_eq!((called.num_beams, called.max_length), (2, 25));
        Ok(())
    }

    #[test]
    fn strategies() -> Result<()> {
        let session = CapfiltOptions::new();
        let none = CallOptions::default();
        let layered = Layered { call: &none, session: &session };
        let sampling = PartialGeneration { do_sample: Some(true), ..Default::default() };
        assert_eq!(resolve("caption", layered, &sampling, None)?.strategy, Strategy::Nucleus);
        let one = PartialGeneration { num_beams: Some(1), ..Default::default() };
        assert_eq!(resolve("caption", layered, &one, None)?.strategy, Strategy::Greedy);
        assert_eq!(resolve("captions", layered, &one, Some(Strategy::Nucleus))?.strategy, Strategy::Nucleus);
        let called = call(vec![("num_beams", ScalarValue::Int64(Some(4)))])?;
        let asks_for_beams = Layered { call: &called, session: &session };
        assert_eq!(resolve("captions", asks_for_beams, &one, Some(Strategy::Nucleus))?.strategy, Strategy::Beam);
        let beams = CapfiltOptions::new().with("num_beams", "3")?;
        let layered = Layered { call: &none, session: &beams };
        assert_eq!(resolve("caption", layered, &sampling, None)?.strategy, Strategy::Beam);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_together_is_refused() -> Result<()> {
        let session = CapfiltOptions::new().with("min_length", "21")?;
        let none = CallOptions::default();
        let error =
            resolve("caption", Layered { call: &none, session: &session }, &Default::default(), None).unwrap_err();
        assert!(error.to_string().contains("caption: min_length must be at most max_length"), "{error}");
        Ok(())
    }
}
