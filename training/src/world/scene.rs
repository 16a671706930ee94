//! Scenes and their random generation.

use serde::{Deserialize, Serialize};

use super::dice::Dice;
use super::kinds::{
    Background, Colour, Direction, Place, Shape, Size, Texture, UNSEEN_BACKGROUNDS, UNSEEN_SHAPES, UNSEEN_TEXTURES,
    unseen_together,
};

/// A thing in a picture. Lengths are shares of the picture's side; y grows downwards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Shape of the thing.
    pub shape: Shape,
    /// Colour of the thing.
    pub colour: Colour,
    /// Size by name.
    pub size: Size,
    /// Pattern of the thing.
    pub texture: Texture,
    /// Centre, from the left edge.
    pub x: f32,
    /// Centre, from the top edge.
    pub y: f32,
    /// Half of the width.
    pub radius: f32,
}

/// The complete ground truth of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Background behind the things.
    pub background: Background,
    /// The things, one to three.
    pub objects: Vec<Object>,
    /// Seed of details that no caption mentions: tints, rotations, positions of clouds.
    pub look: u32,
}

/// Distribution from which scenes are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Distribution {
    /// Everything but the unseen kinds, uniformly.
    Human,
    /// Everything, long-tailed: the kind of rank r has a frequency of 1 / (r + tail).
    Web { tail: f64 },
    /// Everything, uniformly.
    Even,
}

/// Centres of the columns, 0.28 apart; things are moved by up to 0.05 (`JITTER`) within theirs.
const COLUMNS: [f32; 3] = [0.22, 0.5, 0.78];
const JITTER: f32 = 0.05;
/// Distance threshold: things in the same column are nearer than this, those in different columns farther.
const APART: f32 = 0.14;
/// Boundaries between the columns.
const EDGES: [f32; 2] = [0.36, 0.64];
/// Minimum distance of two centres, as a share of the sum of their radii.
const CLEARANCE: f32 = 0.93;

impl Object {
    /// The one of the nine places that contains its centre.
    pub fn place(&self) -> Place {
        use Place::*;
        let third = |v: f32| usize::from(v > EDGES[0]) + usize::from(v > EDGES[1]);
        let rows = [[TopLeft, Top, TopRight], [Left, Middle, Right], [BottomLeft, Bottom, BottomRight]];
        rows[third(self.y)][third(self.x)]
    }

    /// Whether it lies in this direction from `other`.
    pub fn is(&self, direction: Direction, other: &Self) -> bool {
        match direction {
            Direction::LeftOf => self.x + APART < other.x,
            Direction::RightOf => other.x + APART < self.x,
            Direction::Above => self.y + APART < other.y,
            Direction::Below => other.y + APART < self.y,
        }
    }

    /// Whether it lies between two others, from left to right or from top to bottom.
    pub fn is_between(&self, a: &Self, b: &Self) -> bool {
        let lies = |towards: Direction| self.is(towards, a) && b.is(towards, self);
        Direction::ALL.iter().any(|direction| lies(*direction))
    }

    fn is_clear_of(&self, other: &Self) -> bool {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        let least = CLEARANCE * (self.radius + other.radius);
        dx * dx + dy * dy >= least * least
    }
}

impl Distribution {
    fn frequency(self, rank: usize, unseen: bool) -> f64 {
        match self {
            Self::Human if unseen => 0.0,
            Self::Web { tail } => 1.0 / (rank as f64 + tail),
            _ => 1.0,
        }
    }

    fn one_of<T: Copy + PartialEq>(self, all: &[T], unseen: &[T], dice: &mut Dice) -> T {
        let weight = |(rank, kind)| self.frequency(rank, unseen.contains(kind));
        all[dice.weighted(all.iter().enumerate().map(weight))]
    }

    /// Draws a colour visible on the background. On the web each shape has its own favourite colours.
    fn colour(self, shape: Shape, background: Background, dice: &mut Dice) -> Colour {
        let all = Colour::ALL;
        let weight = |(rank, colour): (usize, &Colour)| {
            let own_rank = (rank + shape as usize * 5) % all.len();
            let visible = !background.hides().contains(colour);
            let frequency = self.frequency(rank, unseen_together(shape, *colour)) * self.frequency(own_rank, false);
            if visible { frequency } else { 0.0 }
        };
        all[dice.weighted(all.iter().enumerate().map(weight))]
    }

    fn texture(self, dice: &mut Dice) -> Texture {
        const PLAIN: f64 = 0.55;
        if dice.chance(PLAIN) { Texture::Plain } else { self.one_of(&Texture::ALL[1..], UNSEEN_TEXTURES, dice) }
    }

    fn object(self, background: Background, dice: &mut Dice) -> Object {
        let shape = self.one_of(Shape::ALL, UNSEEN_SHAPES, dice);
        let colour = self.colour(shape, background, dice);
        Object { shape, colour, size: Size::Medium, texture: self.texture(dice), x: 0.5, y: 0.5, radius: 0.0 }
    }

    /// Draws a thing that differs from all others in shape or colour; `None` after too many tries.
    fn another(self, background: Background, others: &[Object], dice: &mut Dice) -> Option<Object> {
        const TRIES: usize = 20;
        let alike = |a: &Object, b: &Object| (a.shape, a.colour) == (b.shape, b.colour);
        (0..TRIES)
            .map(|_| self.object(background, dice))
            .find(|object| !others.iter().any(|other| alike(object, other)))
    }

    /// Draws a scene of one to three things.
    pub(super) fn scene(self, dice: &mut Dice) -> Scene {
        /// Weights of zero, one and two more things after the first.
        const MORE: [f64; 3] = [0.5, 0.35, 0.15];
        let more = dice.weighted(MORE.into_iter());
        self.scene_of(1 + more, dice)
    }

    /// Draws a scene of `things` things. Those of the same shape and colour differ only in their places.
    pub(super) fn scene_of(self, things: usize, dice: &mut Dice) -> Scene {
        const TWIN: f64 = 0.15;
        let background = self.one_of(Background::ALL, UNSEEN_BACKGROUNDS, dice);
        let mut objects = vec![self.object(background, dice)];
        let mut twins = vec![false];
        for _ in 1..things {
            let last = objects[objects.len() - 1];
            let another = if dice.chance(TWIN) { None } else { self.another(background, &objects, dice) };
            twins.push(another.is_none());
            objects.push(another.unwrap_or(last));
        }
        arrange(&mut objects, &twins, dice);
        Scene { background, objects, look: dice.number() }
    }
}

/// Gives each thing a size and a place so that none hides another.
fn arrange(objects: &mut [Object], twins: &[bool], dice: &mut Dice) {
    const TRIES: usize = 200;
    for _ in 0..TRIES {
        let mut size = Size::Medium;
        for (object, twin) in objects.iter_mut().zip(twins) {
            size = if *twin { size } else { dice.pick(Size::ALL) };
            put(object, size, [dice.below(3), dice.below(3)], dice);
        }
        let clear = |i: usize| objects[..i].iter().all(|other| objects[i].is_clear_of(other));
        if (1..objects.len()).all(clear) {
            return;
        }
    }
    for (i, object) in objects.iter_mut().enumerate() {
        put(object, Size::Small, [i % 2 * 2, i / 2 * 2], dice);
    }
}

fn put(object: &mut Object, size: Size, [column, row]: [usize; 2], dice: &mut Dice) {
    const MARGIN: f32 = 0.025;
    let (least, most) = match size {
        Size::Small => (0.17, 0.18),
        Size::Medium => (0.215, 0.225),
        Size::Big => (0.26, 0.27),
    };
    let radius = dice.between(least, most);
    let mut near = |v: f32| (v + dice.between(-JITTER, JITTER)).clamp(radius + MARGIN, 1.0 - radius - MARGIN);
    (object.x, object.y) = (near(COLUMNS[column]), near(COLUMNS[row]));
    (object.size, object.radius) = (size, radius);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(distribution: Distribution) -> impl Iterator<Item = Scene> {
        (0..3000).map(move |i| distribution.scene(&mut Dice::new(1, 2, i)))
    }

    #[test]
    fn places_and_directions_are_clear() {
        for scene in scenes(Distribution::Even) {
            for (i, a) in scene.objects.iter().enumerate() {
                for v in [a.x, a.y] {
                    let column = COLUMNS.iter().filter(|c| (v - **c).abs() < 0.08).count();
                    assert_eq!(column, 1, "{v}");
                }
                for b in &scene.objects[..i] {
                    let apart = [(a.x - b.x).abs(), (a.y - b.y).abs()];
                    assert!(apart.iter().all(|d| !(0.13..0.15).contains(d)), "{apart:?}");
                    assert!(a.is_clear_of(b));
                }
            }
        }
    }

    #[test]
    fn the_human_set_lacks_what_the_others_have() {
        let unseen = |distribution| {
            let mut found = [false; 4];
            for scene in scenes(distribution) {
                found[0] |= UNSEEN_BACKGROUNDS.contains(&scene.background);
                for object in scene.objects {
                    found[1] |= UNSEEN_SHAPES.contains(&object.shape);
                    found[2] |= UNSEEN_TEXTURES.contains(&object.texture);
                    found[3] |= unseen_together(object.shape, object.colour);
                }
            }
            found
        };
        assert_eq!(unseen(Distribution::Human), [false; 4]);
        assert_eq!(unseen(Distribution::Web { tail: 2.0 }), [true; 4]);
        assert_eq!(unseen(Distribution::Even), [true; 4]);
    }

    #[test]
    fn the_web_is_long_tailed() {
        let count = |shape| {
            scenes(Distribution::Web { tail: 2.0 }).flat_map(|s| s.objects).filter(|o| o.shape == shape).count()
        };
        let counts = [Shape::ALL[0], Shape::ALL[4], Shape::ALL[15]].map(count);
        assert!(counts[0] > 2 * counts[1] && counts[1] > 2 * counts[2] && counts[2] > 20, "{counts:?}");
    }
}
