//! Structured meaning of captions, and whether it is true of a scene.

use super::dice::Dice;
use super::kinds::{Attribute, Background, Colour, Direction, Place, Shape, Size, Texture};
use super::scene::{Object, Scene};

/// A caption's statement about one thing, or about several alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thing {
    /// Number of things. 1 means at least one; a larger number is exact.
    pub count: usize,
    /// Shape, always stated.
    pub shape: Shape,
    /// Colour, if stated.
    pub colour: Option<Colour>,
    /// Size, if stated.
    pub size: Option<Size>,
    /// Pattern, if stated.
    pub texture: Option<Texture>,
    /// Place in the picture, if stated.
    pub place: Option<Place>,
}

/// Spatial relation of things, given as indices into [`Meaning::things`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Relation {
    /// `subject` lies in a direction from `other`.
    Towards {
        /// Thing being located.
        subject: usize,
        /// Direction of the subject.
        direction: Direction,
        /// Thing from which the direction is taken.
        other: usize,
    },
    /// `subject` lies between two others.
    Between {
        /// Thing in the middle.
        subject: usize,
        /// Things on both sides.
        others: [usize; 2],
    },
}

/// Complete meaning of a caption.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meaning {
    /// Total number of things, if stated.
    pub total: Option<usize>,
    /// Things in the order of their mention. The scene may contain others.
    pub things: Vec<Thing>,
    /// Spatial relations between the things.
    pub relations: Vec<Relation>,
    /// Background, if stated.
    pub background: Option<Background>,
}

impl Thing {
    /// Whether an object matches all stated attributes except the place.
    fn is_like(&self, object: &Object) -> bool {
        self.shape == object.shape
            && self.colour.is_none_or(|colour| colour == object.colour)
            && self.size.is_none_or(|size| size == object.size)
            && self.texture.is_none_or(|texture| texture == object.texture)
    }
}

impl Meaning {
    /// Whether all of it is true of the scene: each thing has objects of its own that match it, and the relations hold.
    pub fn describes(&self, scene: &Scene) -> bool {
        let alike = |thing: &Thing| scene.objects.iter().filter(|object| thing.is_like(object)).count();
        self.total.is_none_or(|total| total == scene.objects.len())
            && self.background.is_none_or(|background| background == scene.background)
            && self.things.iter().all(|thing| thing.count < 2 || alike(thing) == thing.count)
            && self.can_be_found(scene, &mut Vec::new())
    }

    /// Tries every assignment of the objects to things (or to none).
    fn can_be_found(&self, scene: &Scene, roles: &mut Vec<Option<usize>>) -> bool {
        let Some(object) = scene.objects.get(roles.len()) else {
            let count = |i| roles.iter().filter(|role| **role == Some(i)).count();
            return self.things.iter().enumerate().all(|(i, thing)| count(i) == thing.count)
                && self.relations.iter().all(|relation| relation.holds(scene, roles));
        };
        let fits = |i: &usize| {
            let thing = &self.things[*i];
            thing.is_like(object) && thing.place.is_none_or(|place| place.holds(object.place()))
        };
        let choices: Vec<usize> = (0..self.things.len()).filter(fits).collect();
        choices.into_iter().map(Some).chain([None]).any(|role| {
            roles.push(role);
            let found = self.can_be_found(scene, roles);
            roles.pop();
            found
        })
    }

    /// Changes one attribute at random; `None` if this meaning does not state it.
    pub(super) fn with_wrong(&self, attribute: Attribute, dice: &mut Dice) -> Option<Self> {
        let mut wrong = self.clone();
        let thing = dice.below(self.things.len());
        let changed = &mut wrong.things[thing];
        match attribute {
            Attribute::Colour => changed.colour = Some(dice.pick(Colour::ALL)),
            Attribute::Shape => changed.shape = dice.pick(Shape::ALL),
            Attribute::Texture => changed.texture = Some(dice.pick(&Texture::ALL[1..])),
            Attribute::Size => changed.size = Some(dice.pick(&Size::ALL[1..])),
            Attribute::Place => *changed.place.as_mut()? = dice.pick(Place::ALL),
            Attribute::Background => *wrong.background.as_mut()? = dice.pick(Background::ALL),
            Attribute::Count => match &mut wrong.total {
                Some(total) => *total = 2 + dice.below(3),
                None => changed.count = 1 + dice.below(3),
            },
            Attribute::Relation => match wrong.relations.first_mut()? {
                Relation::Towards { direction, .. } => *direction = direction.back(),
                Relation::Between { subject, others } => std::mem::swap(subject, &mut others[dice.below(2)]),
            },
        }
        Some(wrong)
    }
}

impl Relation {
    /// Whether it holds for all objects assigned to its things.
    fn holds(&self, scene: &Scene, roles: &[Option<usize>]) -> bool {
        let of =
            |thing: usize| scene.objects.iter().zip(roles).filter(move |(_, r)| **r == Some(thing)).map(|(o, _)| o);
        match *self {
            Self::Towards { subject, direction, other } => of(subject).all(|a| of(other).all(|b| a.is(direction, b))),
            Self::Between { subject, others: [left, right] } => {
                of(subject).all(|o| of(left).all(|a| of(right).all(|b| o.is_between(a, b))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(shape: Shape, colour: Colour, x: f32, y: f32) -> Object {
        Object { shape, colour, size: Size::Small, texture: Texture::Plain, x, y, radius: 0.13 }
    }

    fn thing(count: usize, shape: Shape, colour: Colour) -> Thing {
        Thing { count, shape, colour: Some(colour), size: None, texture: None, place: None }
    }

    /// A red star left of a blue star, and a red star at the right.
    fn scene() -> Scene {
        let objects = vec![
            object(Shape::Star, Colour::Red, 0.2, 0.5),
            object(Shape::Star, Colour::Blue, 0.5, 0.2),
            object(Shape::Star, Colour::Red, 0.8, 0.5),
        ];
        Scene { background: Background::Sky, objects, look: 0 }
    }

    fn says(things: &[Thing], relations: &[Relation]) -> bool {
        Meaning { things: things.to_vec(), relations: relations.to_vec(), ..Meaning::default() }.describes(&scene())
    }

    #[test]
    fn counts() {
        let (red, blue) = (thing(1, Shape::Star, Colour::Red), thing(1, Shape::Star, Colour::Blue));
        assert!(says(&[red, blue], &[]) && says(&[red, red], &[]) && !says(&[blue, blue], &[]));
        assert!(says(&[Thing { count: 2, ..red }], &[]) && !says(&[Thing { count: 2, ..blue }], &[]));
        assert!(!says(&[Thing { count: 2, colour: None, ..red }], &[]), "there are three stars");
        assert!(says(&[Thing { count: 3, colour: None, ..red }], &[]));
        assert!(!says(&[thing(1, Shape::Car, Colour::Red)], &[]));
        let total = |n| Meaning { total: Some(n), ..Meaning::default() }.describes(&scene());
        assert!(total(3) && !total(2));
    }

    #[test]
    fn places_and_relations() {
        let (red, blue) = (thing(1, Shape::Star, Colour::Red), thing(1, Shape::Star, Colour::Blue));
        let left = |count| Thing { count, place: Some(Place::Left), ..red };
        assert!(says(&[left(1)], &[]) && !says(&[left(2)], &[]));
        let red_is = |direction| [Relation::Towards { subject: 0, direction, other: 1 }];
        for direction in [Direction::LeftOf, Direction::RightOf, Direction::Below] {
            assert!(says(&[red, blue], &red_is(direction)));
        }
        assert!(!says(&[red, blue], &red_is(Direction::Above)));
        assert!(!says(&[Thing { count: 2, ..red }, blue], &red_is(Direction::LeftOf)), "one of them is right of it");
        assert!(says(&[Thing { count: 2, ..red }, blue], &red_is(Direction::Below)));
        assert!(says(&[red, blue, red], &[Relation::Between { subject: 1, others: [0, 2] }]));
        assert!(!says(&[red, blue, red], &[Relation::Between { subject: 0, others: [1, 2] }]));
    }
}
