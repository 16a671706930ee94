//! A small world whose truth is known: pictures of one to three things, with what people and the web write under them.
//!
//! Five sets of rows. `human` is clean but sees a part of the world only: some shapes, patterns, backgrounds and pairs of
//! shape and colour are neither shown nor named in it ([`UNSEEN_SHAPES`], [`unseen_together`] and so on). `things` are pictures of one
//! thing of that part with its name, to learn to see by, as BLIP's vision encoder did on ImageNet. `web` is
//! wider and long-tailed, and most of its texts are wrong. `validation` and `test` show everything alike often, and
//! their captions say enough to tell a picture from almost all others.
//!
//! A caption is made as a [`Meaning`] first and then worded, so that its truth is decided by [`Meaning::describes`] on
//! structure and never read out of a text. A row depends on the seed, its set and its number only: rows can be made in any
//! order, on any platform, in parallel.

mod backdrop;
mod caption;
mod dice;
mod draw;
mod kinds;
mod meaning;
mod noise;
mod parts;
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
pub use scene::{Object, Scene};
pub use vocabulary::{SPECIALS, tokenizer, tokens, words};

use caption::{Detail, tell};
use dice::Dice;
use noise::{WebText, web_text};
use scene::Distribution;
use wording::word;

/// What can be chosen about a world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Captions for each picture of the human, validation and test sets.
    pub captions: usize,
    /// Share of the human captions that leave something out.
    pub human_loose: f64,
    /// Share of the web's captions that leave something out.
    pub web_loose: f64,
    /// The web shows the kind of rank r as often as 1 / (r + tail): the larger, the more evenly.
    pub web_tail: f64,
    /// What web texts are.
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
    /// Unique among all rows of a world.
    pub key: String,
    /// The picture, 64 x 64.
    pub image_png: Vec<u8>,
    /// What people say of it.
    pub captions: Vec<String>,
    /// What it shows.
    pub scene: Scene,
}

/// A picture with a text found beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct WebRow {
    /// Unique among all rows of a world.
    pub key: String,
    /// The picture, 64 x 64.
    pub image_png: Vec<u8>,
    /// What stood beside it.
    pub text: String,
    /// What a person who looks closely would say of it.
    pub truth: String,
    /// What the text is.
    pub kind: WebKind,
    /// What a near-miss gets wrong.
    pub wrong: Option<Attribute>,
    /// Whether the text is a caption and true of the picture. Keywords are not: some of them fit, but at least one does
    /// not.
    pub is_true: bool,
    /// What the picture shows.
    pub scene: Scene,
}

/// A set of rows.
#[derive(Debug, Clone, Copy)]
pub enum Split {
    /// Small and clean.
    Human,
    /// Large and noisy.
    Web,
    /// To choose settings by.
    Validation,
    /// To judge by.
    Test,
    /// One thing a picture, with its name.
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

/// A world: as many rows of each set as one likes.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    seed: u64,
    config: Config,
}

impl World {
    /// The world of a seed.
    pub const fn new(seed: u64, config: Config) -> Self {
        Self { seed, config }
    }

    /// Row `i` of the small clean set.
    pub fn human(&self, i: u64) -> ImageResult<HumanRow> {
        self.captioned(Split::Human, i)
    }

    /// Row `i` of the set to choose settings by.
    pub fn validation(&self, i: u64) -> ImageResult<HumanRow> {
        self.captioned(Split::Validation, i)
    }

    /// Row `i` of the set to judge by.
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

    fn captioned(&self, split: Split, i: u64) -> ImageResult<HumanRow> {
        if matches!(split, Split::Things) {
            let dice = &mut self.dice(split, i);
            let scene = Distribution::Human.scene_of(1, dice);
            let captions = vec![dice.usual(scene.objects[0].shape.words()).into()];
            return Ok(HumanRow { key: split.key(i), image_png: png(&scene)?, captions, scene });
        }
        let (scene, told) = self.told(split, i);
        let captions = told.into_iter().map(|(_, caption)| caption).collect();
        Ok(HumanRow { key: split.key(i), image_png: png(&scene)?, captions, scene })
    }

    fn dice(&self, split: Split, i: u64) -> Dice {
        Dice::new(self.seed, split as u64, i)
    }

    /// A scene and what is said of it, all different.
    fn told(&self, split: Split, i: u64) -> (Scene, Vec<(Meaning, String)>) {
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
        let mut told: Vec<(Meaning, String)> = Vec::new();
        for _ in 0..self.config.captions {
            let mut said = say();
            for _ in 0..TRIES {
                if told.iter().all(|(_, caption)| *caption != said.1) {
                    break;
                }
                said = say();
            }
            told.push(said);
        }
        (scene, told)
    }

    /// A scene and what stands beside it.
    fn found(&self, dice: &mut Dice) -> (Scene, WebKind, WebText) {
        let web = Distribution::Web { tail: self.config.web_tail };
        let scene = web.scene(dice);
        let kind = self.config.web_shares.kind(dice);
        let text = web_text(kind, &scene, web, self.config.web_loose, dice);
        (scene, kind, text)
    }
}

/// Draws a scene as a PNG file.
fn png(scene: &Scene) -> ImageResult<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    draw(scene).write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

#[cfg(test)]
mod tests;
