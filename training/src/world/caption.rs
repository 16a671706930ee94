//! Captions as people write them; everything they say is true.

use super::dice::Dice;
use super::kinds::{Direction, Place, Size, Texture};
use super::meaning::{Meaning, Relation, Thing};
use super::scene::{Object, Scene};

/// Level of detail of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Every thing with shape, colour and pattern, and more, so that hardly any other scene fits.
    Full,
    /// Something is omitted.
    Loose,
}

/// Things alike, described together.
struct Group<'a> {
    thing: Thing,
    members: Vec<&'a Object>,
}

/// Generates a random true meaning for a scene.
pub(super) fn tell(scene: &Scene, detail: Detail, dice: &mut Dice) -> Meaning {
    let loose = detail == Detail::Loose;
    let mut groups = groups(scene);
    dice.shuffle(&mut groups);
    if loose && groups.len() > 1 && dice.chance(0.4) {
        groups.pop();
    }
    let alone = groups.len() == 1;
    for group in &mut groups {
        describe(&mut group.thing, group.members[0], alone, detail, dice);
    }
    let mut meaning = Meaning::default();
    if !loose || dice.chance(0.4) {
        arrange(&mut groups, &mut meaning, dice);
    }
    meaning.things = groups.into_iter().map(|group| group.thing).collect();
    let things = &meaning.things;
    let places = things.iter().filter(|thing| thing.place.is_some()).count();
    let chance = match things.len() {
        // Three things with their places are long enough.
        3 if places == 3 => return meaning,
        _ if loose => 0.4,
        1 => 1.0,
        2 => 0.6,
        _ => 0.4,
    };
    meaning.background = dice.chance(chance).then_some(scene.background);
    // A total is only useful if all things are named.
    let all_named = things.iter().map(|thing| thing.count).sum::<usize>() == scene.objects.len();
    meaning.total = (things.len() > 1 && all_named && dice.chance(0.08)).then_some(scene.objects.len());
    meaning
}

fn groups(scene: &Scene) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for object in &scene.objects {
        let alike = |other: &&Object| (other.shape, other.colour) == (object.shape, object.colour);
        match groups.iter_mut().find(|group| alike(&group.members[0])) {
            Some(group) => {
                group.thing.count += 1;
                group.members.push(object);
            }
            None => {
                let shape = object.shape;
                let thing = Thing { count: 1, shape, colour: None, size: None, texture: None, place: None };
                groups.push(Group { thing, members: vec![object] });
            }
        }
    }
    groups
}

/// Chooses which attributes to state.
fn describe(thing: &mut Thing, object: &Object, alone: bool, detail: Detail, dice: &mut Dice) {
    const PLAIN: f64 = 0.04;
    let full = detail == Detail::Full;
    thing.colour = (full || thing.count > 1 || dice.chance(0.85)).then_some(object.colour);
    let chance = match (full, alone) {
        (true, true) => 1.0,
        (true, false) => 0.4,
        (false, _) => 0.3,
    };
    if object.size != Size::Medium && dice.chance(chance) {
        thing.size = Some(object.size);
    }
    let chance = if object.texture == Texture::Plain {
        PLAIN
    } else if full {
        1.0
    } else {
        0.4
    };
    if dice.chance(chance) {
        thing.texture = Some(object.texture);
    }
}

/// Chooses how to state where the things are.
fn arrange(groups: &mut [Group<'_>], meaning: &mut Meaning, dice: &mut Dice) {
    const LISTED: f64 = 0.15;
    match groups.len() {
        1 if dice.chance(0.9) => groups[0].thing.place = place(&groups[0], dice),
        n if n > 1 && !dice.chance(LISTED) => {
            if n == 3 && dice.chance(0.5) {
                meaning.relations.extend(between(groups));
            }
            if meaning.relations.is_empty() && dice.chance(0.65) {
                relate(groups, meaning, dice);
            }
            if meaning.relations.is_empty() {
                for group in groups {
                    group.thing.place = place(group, dice);
                    group.thing.size = group.thing.size.filter(|_| n < 3);
                }
            }
        }
        _ => {}
    }
}

/// A place that all things of the group share: usually the exact one, now and then only the side.
fn place(group: &Group<'_>, dice: &mut Dice) -> Option<Place> {
    const VAGUE: f64 = 0.1;
    let exact = group.members[0].place();
    let holds = |place: &Place| group.members.iter().all(|object| place.holds(object.place()));
    if holds(&exact) && !dice.chance(VAGUE) {
        return Some(exact);
    }
    let sides: Vec<Place> = Place::ALL[..5].iter().copied().filter(holds).collect();
    (!sides.is_empty()).then(|| dice.pick(&sides))
}

/// The relation that one of three lies between the others, if it holds.
fn between(groups: &[Group<'_>]) -> Option<Relation> {
    let members = |i: usize| groups[i].members.iter();
    [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
        .into_iter()
        .find(|[o, a, b]| members(*o).all(|o| members(*a).all(|a| members(*b).all(|b| o.is_between(a, b)))))
        .map(|[subject, a, b]| Relation::Between { subject, others: [a, b] })
}

/// Relates the first thing to the second, and the third to one of them if all three have different shapes.
fn relate(groups: &mut [Group<'_>], meaning: &mut Meaning, dice: &mut Dice) {
    meaning.relations.extend(towards(groups, 0, 1, dice));
    if meaning.relations.is_empty() || groups.len() < 3 {
        return;
    }
    let [a, b, c] = [0, 1, 2].map(|i| groups[i].thing.shape);
    if a != b && b != c && a != c && dice.chance(0.6) {
        let other = dice.below(2);
        meaning.relations.extend(towards(groups, 2, other, dice));
    }
    if meaning.relations.len() < 2 {
        groups[2].thing.place = place(&groups[2], dice);
    }
}

fn towards(groups: &[Group<'_>], subject: usize, other: usize, dice: &mut Dice) -> Option<Relation> {
    let (from, to) = (&groups[subject].members, &groups[other].members);
    let holds = |direction: &Direction| from.iter().all(|a| to.iter().all(|b| a.is(*direction, b)));
    let directions: Vec<Direction> = Direction::ALL.iter().copied().filter(holds).collect();
    let direction = (!directions.is_empty()).then(|| dice.pick(&directions))?;
    Some(Relation::Towards { subject, direction, other })
}

#[cfg(test)]
mod tests {
    use super::super::scene::Distribution;
    use super::*;

    #[test]
    fn every_statement_is_true() {
        for i in 0..4000 {
            let dice = &mut Dice::new(5, 0, i);
            let scene = Distribution::Even.scene(dice);
            for detail in [Detail::Full, Detail::Full, Detail::Loose, Detail::Loose] {
                let meaning = tell(&scene, detail, dice);
                assert!(meaning.describes(&scene), "{meaning:?} {scene:?}");
                if detail == Detail::Full {
                    let counted: usize = meaning.things.iter().map(|thing| thing.count).sum();
                    assert_eq!(counted, scene.objects.len());
                    assert!(meaning.things.iter().all(|thing| thing.colour.is_some()));
                }
            }
        }
    }

    #[test]
    fn a_full_telling_fits_hardly_another_scene() {
        let scene = |i| Distribution::Even.scene(&mut Dice::new(6, 0, i));
        let scenes: Vec<Scene> = (0..1000).map(scene).collect();
        let fitting = |i: usize| {
            let meaning = tell(&scenes[i], Detail::Full, &mut Dice::new(6, 1, i as u64));
            scenes.iter().filter(|scene| meaning.describes(scene)).count()
        };
        let fits: usize = (0..1000).map(fitting).sum();
        assert!(fits < 1020, "{fits}");
    }
}
