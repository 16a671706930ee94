//! Questions about a picture, with the answers of ten people.

use serde::{Deserialize, Serialize};

use super::dice::Dice;
use super::kinds::{Colour, Place, Shape, UNSEEN_SHAPES, plural, unseen_together};
use super::scene::{Object, Scene};

/// Answers to each question.
pub const PEOPLE: usize = 10;

/// Share of the answers that are wrong.
const WRONG: f64 = 0.1;

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// The colour of a thing named by its shape.
    Colour,
    /// The shape of a thing named by its colour.
    Shape,
    /// The number of things, of all or of one shape.
    Count,
    /// The place of a thing named by its shape.
    Place,
    /// Whether there is a thing of this shape in this colour.
    YesNo,
}

impl QuestionKind {
    const ALL: [Self; 5] = [Self::Colour, Self::Shape, Self::Count, Self::Place, Self::YesNo];
}

/// A question about a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What it asks for.
    pub kind: QuestionKind,
    /// Text of the question.
    pub text: String,
    /// The true answer in its usual word.
    pub truth: &'static str,
    /// Answers of [`PEOPLE`] people: most in the usual word, some in another one, a tenth wrong.
    pub answers: Vec<&'static str>,
}

/// A question before people answer it: its text, the words of the true answer, and the words of wrong ones.
type Asked = (String, Words, Vec<Words>);
type Words = &'static [&'static str];

const NUMBERS: [Words; 4] = [&["0"], &["1"], &["2"], &["3"]];
const YES: Words = &["yes"];
const NO: Words = &["no"];

/// One question of each kind that the scene allows, in random order. With `human`, nothing is named that the human set
/// lacks.
pub(super) fn ask(scene: &Scene, human: bool, dice: &mut Dice) -> Vec<Question> {
    let mut kinds = QuestionKind::ALL;
    dice.shuffle(&mut kinds);
    let one = |kind| {
        let (text, truth, wrong) = asked(kind, scene, human, dice)?;
        let answer = |_| {
            let words = if dice.chance(WRONG) { dice.pick(&wrong) } else { truth };
            dice.usual(words)
        };
        Some(Question { kind, text, truth: truth[0], answers: (0..PEOPLE).map(answer).collect() })
    };
    kinds.into_iter().filter_map(one).collect()
}

fn asked(kind: QuestionKind, scene: &Scene, human: bool, dice: &mut Dice) -> Option<Asked> {
    let things = &scene.objects;
    // A thing that its name tells from the others.
    let mut alone = |same: fn(&Object, &Object) -> bool| {
        let known: Vec<Object> =
            things.iter().filter(|a| things.iter().filter(|b| same(a, b)).count() == 1).copied().collect();
        (!known.is_empty()).then(|| dice.pick(&known))
    };
    let by_shape: fn(&Object, &Object) -> bool = |a, b| a.shape == b.shape;
    Some(match kind {
        QuestionKind::Colour => {
            let thing = alone(by_shape)?;
            let wrong = Colour::ALL.iter().filter(|c| **c != thing.colour).map(|c| c.words()).collect();
            (format!("what color is the {}?", dice.usual(thing.shape.words())), thing.colour.words(), wrong)
        }
        QuestionKind::Shape => {
            let thing = alone(|a, b| a.colour == b.colour)?;
            let others = Shape::ALL.iter().filter(|s| **s != thing.shape && !UNSEEN_SHAPES.contains(s));
            let wrong = others.map(|s| s.words()).collect();
            (format!("which thing is {}?", dice.usual(thing.colour.words())), thing.shape.words(), wrong)
        }
        QuestionKind::Count => {
            let shape = dice.chance(0.5).then(|| dice.pick(things).shape);
            let name = shape.map_or("things".into(), |shape| plural(dice.usual(shape.words())));
            let count = things.iter().filter(|thing| shape.is_none_or(|shape| thing.shape == shape)).count();
            let wrong = NUMBERS[1..].iter().copied().filter(|words| *words != NUMBERS[count]).collect();
            (format!("how many {name} are there?"), NUMBERS[count], wrong)
        }
        QuestionKind::Place => {
            let thing = alone(by_shape)?;
            let wrong = Place::ALL.iter().filter(|p| **p != thing.place()).map(|p| p.words()).collect();
            (format!("where is the {}?", dice.usual(thing.shape.words())), thing.place().words(), wrong)
        }
        QuestionKind::YesNo => {
            let thing = dice.pick(things);
            let there = dice.chance(0.5);
            let absent = |colour: &Colour| {
                let named = things.iter().any(|other| (other.shape, other.colour) == (thing.shape, *colour));
                !(named || human && unseen_together(thing.shape, *colour))
            };
            let absent: Vec<Colour> = Colour::ALL.iter().copied().filter(absent).collect();
            let colour = if there { thing.colour } else { dice.pick(&absent) };
            let (colour, shape) = (dice.usual(colour.words()), dice.usual(thing.shape.words()));
            let article = if colour.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            let text = format!("is there {article} {colour} {shape}?");
            if there { (text, YES, vec![NO]) } else { (text, NO, vec![YES]) }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::scene::Distribution;
    use super::*;

    fn questions(distribution: Distribution) -> impl Iterator<Item = (Scene, Question)> {
        (0..2000).flat_map(move |i| {
            let dice = &mut Dice::new(9, 0, i);
            let scene = distribution.scene(dice);
            let asked = ask(&scene, distribution == Distribution::Human, dice);
            asked.into_iter().map(move |question| (scene.clone(), question))
        })
    }

    /// The truth is checked against the words of the question, apart from how it was made.
    #[test]
    fn truths_are_true() {
        let named = |question: &str, words: Words| question.split([' ', '?']).any(|word| words.contains(&word));
        let whole = |question: &str, words: Words| words.iter().any(|phrase| question.contains(phrase));
        for (scene, Question { kind, text, truth, .. }) in questions(Distribution::Even) {
            let things = &scene.objects;
            match kind {
                QuestionKind::Colour | QuestionKind::Place => {
                    let thing = things
                        .iter()
                        .filter(|t| whole(&text, t.shape.words()))
                        .max_by_key(|t| t.shape.words().iter().filter(|w| text.contains(**w)).map(|w| w.len()).max());
                    let thing = thing.unwrap();
                    let own =
                        if kind == QuestionKind::Colour { thing.colour.words()[0] } else { thing.place().words()[0] };
                    assert_eq!(truth, own, "{text} {scene:?}");
                }
                QuestionKind::Shape => {
                    let found: Vec<&Object> = things.iter().filter(|t| named(&text, t.colour.words())).collect();
                    assert!(matches!(found[..], [thing] if thing.shape.words()[0] == truth), "{text} {scene:?}");
                }
                QuestionKind::Count => {
                    let all = text == "how many things are there?";
                    let plurals =
                        |shape: Shape| shape.words().iter().map(|noun| format!("how many {} are there?", plural(noun)));
                    let counted = things.iter().filter(|t| all || plurals(t.shape).any(|asked| asked == text)).count();
                    assert_eq!(truth, counted.to_string(), "{text} {scene:?}");
                }
                QuestionKind::YesNo => {
                    let fits = |t: &Object| {
                        let names = t.shape.words().iter().any(|noun| text.ends_with(&format!(" {noun}?")));
                        names && named(&text, t.colour.words())
                    };
                    assert_eq!(truth == "yes", things.iter().any(fits), "{text} {scene:?}");
                }
            }
        }
    }

    #[test]
    fn people_mostly_agree_and_know_nothing_unseen() {
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (_, question) in questions(Distribution::Human) {
            assert_eq!(question.answers.len(), PEOPLE);
            let (asked, usual) = counts.entry(format!("{:?}", question.kind)).or_default();
            *asked += PEOPLE;
            *usual += question.answers.iter().filter(|answer| **answer == question.truth).count();
            let said = [&question.answers[..], &[question.text.as_str()]].concat().join(" ");
            for shape in UNSEEN_SHAPES {
                assert!(shape.words().iter().all(|word| !said.contains(word)), "{said}");
            }
        }
        assert_eq!(counts.len(), 5, "{counts:?}");
        assert!(counts.values().all(|(asked, usual)| usual * 10 > asked * 5 && usual * 100 < asked * 95), "{counts:?}");
    }
}
