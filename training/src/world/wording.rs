//! Wording of meanings as text.

use super::dice::Dice;
use super::kinds::{Direction, Place, plural};
use super::meaning::{Meaning, Relation, Thing};

/// Possible beginnings of a caption that is a noun phrase.
pub(super) const TITLES: &[&str] = &[
    "a picture of",
    "a photo of",
    "an image of",
    "a drawing of",
    "a painting of",
    "a sketch of",
    "an illustration of",
    "a view of",
    "a cartoon of",
    "a photograph of",
    "a close view of",
    "a scene with",
    "a simple drawing of",
    "a print of",
    "artwork of",
];

/// Possible beginnings that form a sentence with a noun phrase.
pub(super) const SENTENCES: &[&str] = &[
    "this picture shows",
    "the image shows",
    "the picture shows",
    "we see",
    "we can see",
    "i see",
    "i can see",
    "you can see",
    "here we have",
    "here is a picture with",
    "someone drew",
    "somebody painted",
    "look at",
    "the artist painted",
    "this drawing has",
    "in this picture we see",
    "in the photo you see",
];

/// Participles to be put before a thing's place.
pub(super) const POSES: &[&str] =
    &["sitting", "lying", "resting", "standing", "placed", "drawn", "painted", "shown", "seen", "located"];

/// Adjectives without meaning.
pub(super) const FILLERS: &[&str] = &["nice", "pretty", "lovely", "cute", "simple", "fine", "beautiful", "funny"];

/// General nouns for several things.
pub(super) const THINGS: &[&str] = &["things", "objects", "items"];

/// Words that join two things.
pub(super) const AND: &[&str] = &["and", "with", "and also", "along with", "together with", "as well as"];

/// Additions after a place.
pub(super) const OF_THE_PICTURE: &[&str] = &["of the picture", "of the image", "of the scene", "of the frame"];

/// Words used in the code below.
pub(super) const GLUE: &[&str] =
    &["a an the there is are it them that in with and between both others pair of", "one two three four"];

const NUMBERS: [&str; 5] = ["no", "one", "two", "three", "four"];

/// Puts the meaning into words, at random: the first wording that is short enough, or else the shortest of several.
pub(super) fn word(meaning: &Meaning, dice: &mut Dice) -> String {
    const TRIES: usize = 20;
    const MOST_WORDS: usize = 18;
    let words = |caption: &String| caption.split(' ').count();
    let mut shortest = wording(meaning, dice);
    for _ in 1..TRIES {
        if words(&shortest) <= MOST_WORDS {
            break;
        }
        let another = wording(meaning, dice);
        if words(&another) < words(&shortest) {
            shortest = another;
        }
    }
    shortest
}

fn wording(meaning: &Meaning, dice: &mut Dice) -> String {
    let mut wording = Wording::new(meaning, dice);
    let body = wording.body();
    let body = match meaning.total {
        Some(total) => format!("{} {}, {body}", number(total), wording.dice.usual(THINGS)),
        None => body,
    };
    let placed = meaning.things.iter().any(|thing| thing.place.is_some());
    let (before, after) = wording.background(placed);
    let mut frame = wording.dice.below(100);
    if !before.is_empty() {
        // "On the grass, there is a star", but not "on the grass, a picture of a star".
        frame = frame * 84 / 100;
    }
    let sentence = match frame {
        0..75 => body,
        75..84 => {
            let one = meaning.total.is_none() && (body.starts_with("a ") || body.starts_with("an "));
            format!("there {} {body}", if one { "is" } else { "are" })
        }
        84..91 => format!("{} {body}", wording.dice.pick(SENTENCES)),
        _ => format!("{} {body}", wording.dice.usual(TITLES)),
    };
    format!("{before}{sentence}{after}")
}

/// A number in words.
fn number(n: usize) -> &'static str {
    NUMBERS.get(n).copied().unwrap_or("many")
}

struct Wording<'a> {
    meaning: &'a Meaning,
    dice: &'a mut Dice,
    /// Noun chosen for each thing, so that it is not called first a boat and then a ship.
    nouns: Vec<String>,
}

impl<'a> Wording<'a> {
    fn new(meaning: &'a Meaning, dice: &'a mut Dice) -> Self {
        let mut noun = |thing: &Thing| {
            let noun = dice.usual(thing.shape.words());
            if thing.count > 1 { plural(noun) } else { noun.to_string() }
        };
        let nouns = meaning.things.iter().map(&mut noun).collect();
        Self { meaning, dice, nouns }
    }

    /// Background phrases before and after the sentence.
    fn background(&mut self, placed: bool) -> (String, String) {
        const FIRST: f64 = 0.06;
        const BEHIND: f64 = 0.3;
        let Some(background) = self.meaning.background else { return Default::default() };
        if self.dice.chance(FIRST) {
            return (format!("{}, ", self.dice.pick(background.words())), String::new());
        }
        let behind = self.dice.chance(if placed { 2.0 * BEHIND } else { BEHIND });
        let phrases = if behind { background.behind() } else { background.words() };
        let pose = if !placed && !behind && self.meaning.things.len() == 1 { self.pose() } else { String::new() };
        (String::new(), format!(" {pose}{}", self.dice.pick(phrases)))
    }

    /// The things and their places.
    fn body(&mut self) -> String {
        match self.meaning.relations.first() {
            None => self.list(),
            Some(Relation::Between { subject, others: [a, b] }) => {
                let (o, a, b) = (self.thing(*subject), self.thing(*a), self.thing(*b));
                match self.dice.below(3) {
                    0 => format!("{a} and {b} with {o} between them"),
                    _ => format!("{o} {}between {a} and {b}", self.pose()),
                }
            }
            Some(Relation::Towards { subject, direction, other }) => {
                let pair = self.pair(*subject, *direction, *other);
                let left = (0..self.meaning.things.len()).find(|i| i != subject && i != other);
                left.map_or(pair.clone(), |left| format!("{pair}{}", self.last(left)))
            }
        }
    }

    fn list(&mut self) -> String {
        let mut things: Vec<String> = (0..self.nouns.len()).map(|i| self.thing(i)).collect();
        match (things.pop(), things.as_slice()) {
            (Some(last), []) => last,
            (Some(last), [one]) => format!("{one} {} {last}", self.dice.usual(AND)),
            (Some(last), _) => format!("{} and {last}", things.join(", ")),
            (None, _) => String::new(),
        }
    }

    fn pair(&mut self, subject: usize, direction: Direction, other: usize) -> String {
        const WITH_IT: f64 = 0.3;
        let (a, b) = (self.thing(subject), self.thing(other));
        let direction = self.dice.usual(direction.words());
        if self.dice.chance(WITH_IT) {
            let it = if self.meaning.things[other].count > 1 { "them" } else { "it" };
            return format!("{b} with {a} {direction} {it}");
        }
        format!("{a} {}{direction} {b}", self.pose())
    }

    /// The third thing, after two that were named with their relation.
    fn last(&mut self, i: usize) -> String {
        let thing = self.thing(i);
        match self.meaning.relations.get(1) {
            Some(Relation::Towards { direction, other, .. }) => {
                let direction = self.dice.usual(direction.words());
                format!(" and {thing} {direction} the {}", self.nouns[*other])
            }
            _ => format!(", {} {thing}", self.dice.pick(&["and", "with", "and also"])),
        }
    }

    /// A thing with its place.
    fn thing(&mut self, i: usize) -> String {
        const OF_THE_PICTURE_TOO: f64 = 0.08;
        let thing = self.meaning.things[i];
        let name = self.name(i, &thing);
        let Some(place) = thing.place else { return name };
        let alone = self.nouns.len() == 1;
        let pose = if alone { self.pose() } else { String::new() };
        let of = alone && place != Place::Middle && self.dice.chance(OF_THE_PICTURE_TOO);
        let of = if of { format!(" {}", self.dice.usual(OF_THE_PICTURE)) } else { String::new() };
        format!("{name} {pose}{}{of}", self.dice.usual(place.words()))
    }

    /// "a small striped red star", "two stars in red with stripes".
    fn name(&mut self, i: usize, thing: &Thing) -> String {
        const AFTER: f64 = 0.2;
        const COLOUR_AFTER: f64 = 0.08;
        const FILLED: f64 = 0.03;
        let dice = &mut *self.dice;
        let mut before: Vec<&str> = Vec::new();
        let mut after = String::new();
        if dice.chance(FILLED) {
            before.push(dice.pick(FILLERS));
        }
        before.extend(thing.size.map(|size| dice.usual(size.words())));
        let colour = thing.colour.map(|colour| dice.usual(colour.words()));
        match colour {
            Some(colour) if dice.chance(COLOUR_AFTER) => {
                let that = if thing.count > 1 { "that are" } else { "that is" };
                after = format!(" {} {colour}", dice.pick(&["in", that]));
            }
            _ => before.extend(colour),
        }
        match thing.texture {
            Some(texture) if after.is_empty() && dice.chance(AFTER) => {
                after = format!(" {}", dice.usual(texture.after()));
            }
            Some(texture) => {
                let coloured = after.is_empty() && colour.is_some();
                let from_end = if coloured { dice.below(2) } else { 0 };
                before.insert(before.len() - from_end, dice.usual(texture.words()));
            }
            None => {}
        }
        before.push(&self.nouns[i]);
        let words = format!("{}{after}", before.join(" "));
        match thing.count {
            1 => format!("{} {words}", article(&words)),
            2 if dice.chance(0.15) => format!("a pair of {words}"),
            n => format!("{} {words}", number(n)),
        }
    }

    fn pose(&mut self) -> String {
        const POSED: f64 = 0.06;
        if self.dice.chance(POSED) { format!("{} ", self.dice.pick(POSES)) } else { String::new() }
    }
}

fn article(words: &str) -> &'static str {
    if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
