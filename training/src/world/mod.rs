//! A small synthetic world with known ground truth: pictures of one to three things, with texts as people and the web
//! write them.
//!
//! It has five sets of rows. `human` is clean but covers only part of the world: some shapes, patterns, backgrounds and
//! pairs of shape and colour are neither shown nor named in it ([`UNSEEN_SHAPES`], [`unseen_together`] and so on).
//! `things` are pictures of a single thing from that part with its name, for learning to see, as BLIP's vision encoder
//! did on ImageNet. `web` is wider and long-tailed, and most of its texts are wrong. `validation` and `test` draw from
//! everything uniformly, and their captions say enough to tell a picture from almost all others.
//!
//! [`World::questions`] asks about a picture, and ten people answer, most of them rightly.
//!
//! A caption is generated as a [`Meaning`] first and then worded, so that [`Meaning::describes`] decides its truth on
//! structure rather than from text. A row depends only on the seed, its set and its number: rows can be generated in
//! any order, on any platform, in parallel.

mod backdrop;
mod caption;
mod dice;
mod draw;
mod kinds;
mod meaning;
mod noise;
mod parts;
mod questions;
mod scene;
pub mod tables;
mod vocabulary;
mod wording;

use std::io::Cursor;

use image::{ImageFormat, ImageResult};
use serde::{Deserialize, Serialize};

pub use draw::{SIDE, draw};
pub use kinds::{
    Attribute, Background, Colour, Direction, Place, Shape, Size, Texture, UNSEEN_BACKGROUNDS, UNSEEN_SHAPES,
    UNSEEN_TEXTURES, unseen_together,
};
pub use meaning::{Meaning, Relation, Thing};
pub use noise::{Shares, WebKind};
pub use questions::{PEOPLE, Question, QuestionKind};
pub use scene::{Object, Scene};
pub use vocabulary::{SPECIALS, tokenizer, tokens, words};

use caption::{Detail, tell};
use dice::Dice;
use noise::{WebText, web_text};
use scene::Distribution;
use wording::word;

/// Parameters of a world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Captions for each picture of the human, validation and test sets.
    pub captions: usize,
    /// Share of the human captions that omit something.
    pub human_loose: f64,
    /// Share of the web's captions that omit something.
    pub web_loose: f64,
    /// Flatness of the web's long tail: it shows the kind of rank r in proportion to 1 / (r + tail).
    pub web_tail: f64,
    /// Proportions of the kinds of web texts.
    pub web_shares: Shares,
}

impl Default for Config {
    fn default() -> Self {
        Self { captions: 5, human_loose: 0.2, web_loose: 0.4, web_tail: 2.0, web_shares: Shares::default() }
    }
}

/// A picture with true captions.
#[derive(Debug, Clone, PartialEq)]
pub struct HumanRow {
    /// Key, unique among all rows of a world.
    pub key: String,
    /// PNG file of the picture, 64 x 64.
    pub image_png: Vec<u8>,
    /// True captions, as people would write them.
    pub captions: Vec<String>,
    /// Scene that the picture shows.
    pub scene: Scene,
}

/// A picture with the text found beside it on the web.
#[derive(Debug, Clone, PartialEq)]
pub struct WebRow {
    /// Key, unique among all rows of a world.
    pub key: String,
    /// PNG file of the picture, 64 x 64.
    pub image_png: Vec<u8>,
    /// Text beside the picture.
    pub text: String,
    /// A true caption, as written by a person who looks closely.
    pub truth: String,
    /// Kind of the text.
    pub kind: WebKind,
    /// Attribute that a near miss gets wrong.
    pub wrong: Option<Attribute>,
    /// Whether the text is a caption that is true of the picture. Keywords are not: some of them fit, but at least one
    /// does not.
    pub is_true: bool,
    /// Scene that the picture shows.
    pub scene: Scene,
}

/// A set of rows.
#[derive(Debug, Clone, Copy)]
pub enum Split {
    /// Small clean set.
    Human,
    /// Large noisy set.
    Web,
    /// Set for choosing settings.
    Validation,
    /// Held-out set for final scores.
    Test,
    /// Pictures of a single thing with its name.
    Things,
}

impl Split {
    const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Web => "web",
            Self::Validation => "validation",
            Self::Test => "test",
            Self::Things => "things",
        }
    }

    fn key(self, i: u64) -> String {
        format!("{}-{i:06}", self.name())
    }
}

/// A world, which generates any number of rows of each set.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    seed: u64,
    config: Config,
}

impl World {
    /// Creates the world of a seed.
    pub const fn new(seed: u64, config: Config) -> Self {
        Self { seed, config }
    }

    /// Row `i` of the small clean set.
    pub fn human(&self, i: u64) -> ImageResult<HumanRow> {
        self.captioned(Split::Human, i)
    }

    /// Row `i` of the set for choosing settings.
    pub fn validation(&self, i: u64) -> ImageResult<HumanRow> {
        self.captioned(Split::Validation, i)
    }

    /// Row `i` of the held-out set.
    pub fn test(&self, i: u64) -> ImageResult<HumanRow> {
        self.captioned(Split::Test, i)
    }

    /// Row `i` of the large noisy set.
    pub fn web(&self, i: u64) -> ImageResult<WebRow> {
        let dice = &mut self.dice(Split::Web, i);
        let (scene, kind, WebText { text, meaning, wrong }) = self.found(dice);
        let truth = word(&tell(&scene, Detail::Full, dice), dice);
        let is_true = meaning.is_some_and(|meaning| meaning.describes(&scene));
        Ok(WebRow { key: Split::Web.key(i), image_png: png(&scene)?, text, truth, kind, wrong, is_true, scene })
    }

    /// Questions about picture `i` of a set of captioned pictures, of each kind that the picture allows one.
    pub fn questions(&self, split: Split, i: u64) -> Vec<Question> {
        // A stream of its own, so that pictures and captions are the same with and without questions.
        const STREAM: u64 = 1 << 8;
        let scene = self.captions(split, i).0;
        let human = matches!(split, Split::Human);
        questions::ask(&scene, human, &mut Dice::new(self.seed, STREAM + split as u64, i))
    }

    fn captioned(&self, split: Split, i: u64) -> ImageResult<HumanRow> {
        if matches!(split, Split::Things) {
            let dice = &mut self.dice(split, i);
            let scene = Distribution::Human.scene_of(1, dice);
            let captions = vec![dice.usual(scene.objects[0].shape.words()).into()];
            return Ok(HumanRow { key: split.key(i), image_png: png(&scene)?, captions, scene });
        }
        let (scene, captions) = self.captions(split, i);
        let captions = captions.into_iter().map(|(_, caption)| caption).collect();
        Ok(HumanRow { key: split.key(i), image_png: png(&scene)?, captions, scene })
    }

    fn dice(&self, split: Split, i: u64) -> Dice {
        Dice::new(self.seed, split as u64, i)
    }

    /// Generates a scene with captions, all different where possible.
    fn captions(&self, split: Split, i: u64) -> (Scene, Vec<(Meaning, String)>) {
        const TRIES: usize = 20;
        let dice = &mut self.dice(split, i);
        let (distribution, loose) = match split {
            Split::Human => (Distribution::Human, self.config.human_loose),
            _ => (Distribution::Even, 0.0),
        };
        let scene = distribution.scene(dice);
        let mut say = || {
            let meaning = tell(&scene, if dice.chance(loose) { Detail::Loose } else { Detail::Full }, dice);
            let caption = word(&meaning, dice);
            (meaning, caption)
        };
        let mut captions: Vec<(Meaning, String)> = Vec::new();
        for _ in 0..self.config.captions {
            let mut said = say();
            for _ in 0..TRIES {
                if captions.iter().all(|(_, caption)| *caption != said.1) {
                    break;
                }
                said = say();
            }
            captions.push(said);
        }
        (scene, captions)
    }

    /// Generates a scene with the web text beside it.
    fn found(&self, dice: &mut Dice) -> (Scene, WebKind, WebText) {
        let web = Distribution::Web { tail: self.config.web_tail };
        let scene = web.scene(dice);
        let kind = self.config.web_shares.kind(dice);
        let text = web_text(kind, &scene, web, self.config.web_loose, dice);
        (scene, kind, text)
    }
}

/// Renders a scene as a PNG file.
fn png(scene: &Scene) -> ImageResult<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    draw(scene).write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

#[cfg(test)]
mod tests;
