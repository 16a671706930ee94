use std::collections::BTreeSet;

use super::*;

fn world() -> World {
    World::new(1, Config::default())
}

#[test]
fn a_row_depends_on_seed_set_and_number_only() {
    let (one, two) = (world(), World::new(2, Config::default()));
    assert_eq!(one.human(7).unwrap(), world().human(7).unwrap());
    assert_eq!(one.web(7).unwrap(), world().web(7).unwrap());
    let scenes = [one.human(7), one.validation(7), one.test(7), one.test(8), two.test(7)].map(|row| row.unwrap().scene);
    for (i, scene) in scenes.iter().enumerate() {
        assert!(scenes[..i].iter().all(|other| other != scene));
    }
}

/// Fails if anything is drawn or worded differently, since earlier results would then come from another world.
#[test]
fn a_row_stays_as_it_is() {
    let row = world().test(0).unwrap();
    assert_eq!(row.captions[0], "a small plain red square located at the bottom of the picture on the beach");
    let pixels = image::load_from_memory(&row.image_png).unwrap().into_rgb8();
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    assert_eq!(pixels.as_raw().iter().fold(0xcbf2_9ce4_8422_2325, hash), 9_547_635_522_646_578_788);
}

#[test]
fn pictures_are_64_by_64_in_colour() {
    for row in [world().human(0), world().validation(0), world().test(0)] {
        let picture = image::load_from_memory(&row.unwrap().image_png).unwrap();
        assert_eq!((picture.width(), picture.height(), picture.color()), (SIDE, SIDE, image::ColorType::Rgb8));
    }
}

#[test]
fn captions_are_true_different_and_short() {
    let (mut words, mut count) = (0, 0);
    for split in [Split::Human, Split::Validation, Split::Test] {
        for i in 0..1500 {
            let (scene, captions) = world().captions(split, i);
            assert_eq!(captions.iter().map(|(_, caption)| caption).collect::<BTreeSet<_>>().len(), 5);
            for (meaning, caption) in captions {
                assert!(meaning.describes(&scene), "{caption}");
                let length = caption.split(' ').count();
                assert!((2..=30).contains(&length), "{caption}");
                (words, count) = (words + length, count + 1);
            }
        }
    }
    let mean = words as f64 / count as f64;
    assert!((8.0..16.0).contains(&mean), "{mean}");
}

#[test]
fn things_are_alone_and_have_their_name() {
    for i in 0..500 {
        let row = world().captioned(Split::Things, i).unwrap();
        let [thing] = &row.scene.objects[..] else { panic!("{} things", row.scene.objects.len()) };
        assert!(!UNSEEN_SHAPES.contains(&thing.shape));
        assert!(matches!(&row.captions[..], [name] if thing.shape.words().contains(&name.as_str())));
    }
}

#[test]
fn web_texts_have_their_shares() {
    const ROWS: u64 = 5000;
    let mut counts = [0.0; 5];
    for i in 0..ROWS {
        let (scene, kind, text) = world().found(&mut world().dice(Split::Web, i));
        counts[kind as usize] += 1.0 / ROWS as f64;
        assert!(text.text.split(' ').count() <= 30);
        assert_eq!(text.meaning.is_some_and(|meaning| meaning.describes(&scene)), kind == WebKind::True);
    }
    let wanted = [0.30, 0.25, 0.25, 0.12, 0.08];
    assert!(counts.iter().zip(wanted).all(|(a, b): (&f64, f64)| (a - b).abs() < 0.02), "{counts:?}");
}

#[test]
fn every_word_is_in_the_vocabulary() {
    let tokens: BTreeSet<String> = tokens().into_iter().collect();
    let known = |caption: &str| caption.split([' ', ',']).all(|word| word.is_empty() || tokens.contains(word));
    for i in 0..2000 {
        for split in [Split::Human, Split::Test] {
            assert!(world().captions(split, i).1.iter().all(|(_, caption)| known(caption)));
        }
        let (_, _, text) = world().found(&mut world().dice(Split::Web, i));
        assert!(text.meaning.is_none() || known(&text.text), "{}", text.text);
        let spelt = |c: char| c == ' ' || tokens.contains(&c.to_string());
        assert!(text.text.chars().all(spelt), "{}", text.text);
    }
}

#[test]
fn people_neither_see_nor_name_what_is_kept_from_them() {
    let mut unseen: BTreeSet<&str> = UNSEEN_SHAPES.iter().flat_map(|shape| shape.words()).copied().collect();
    unseen.extend(UNSEEN_TEXTURES.iter().flat_map(|texture| texture.words()));
    unseen.extend(["brick", "bricks", "wall", "snow", "snowy", "glow", "light", "lines"]);
    unseen.extend(["butterflies", "umbrellas", "crowns"]);
    for i in 0..3000 {
        let (scene, captions) = world().captions(Split::Human, i);
        assert!(!UNSEEN_BACKGROUNDS.contains(&scene.background));
        for object in &scene.objects {
            assert!(!UNSEEN_SHAPES.contains(&object.shape) && !UNSEEN_TEXTURES.contains(&object.texture));
            assert!(!unseen_together(object.shape, object.colour));
        }
        for (_, caption) in captions {
            assert!(caption.split([' ', ',']).all(|word| !unseen.contains(word)), "{caption}");
        }
    }
}

#[test]
fn a_scene_survives_json() {
    let scene = world().web(3).unwrap().scene;
    assert_eq!(serde_json::from_str::<Scene>(&serde_json::to_string(&scene).unwrap()).unwrap(), scene);
}
