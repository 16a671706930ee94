//! Texts that the web puts beside its pictures.

use serde::{Deserialize, Serialize};

use super::caption::{Detail, tell};
use super::dice::Dice;
use super::kinds::{Attribute, Background, Colour, Shape, Texture};
use super::meaning::Meaning;
use super::scene::{Distribution, Scene};
use super::wording::word;

/// Kind of a web text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebKind {
    /// A true caption.
    True,
    /// A true caption with one attribute changed, so that it is false.
    NearMiss,
    /// A caption of another scene, false for this one.
    Other,
    /// A text unrelated to any picture.
    Boilerplate,
    /// Tags, of which some fit and at least one does not.
    Keywords,
}

impl WebKind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[Self::True, Self::NearMiss, Self::Other, Self::Boilerplate, Self::Keywords];
}

/// Relative frequencies of the kinds of web texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// True captions.
    pub truth: f64,
    /// True captions with one attribute changed.
    pub near_miss: f64,
    /// Captions of other scenes.
    pub other: f64,
    /// Texts unrelated to any picture.
    pub boilerplate: f64,
    /// Tags.
    pub keywords: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { truth: 0.30, near_miss: 0.25, other: 0.25, boilerplate: 0.12, keywords: 0.08 }
    }
}

impl Shares {
    pub(super) fn kind(&self, dice: &mut Dice) -> WebKind {
        let weights = [self.truth, self.near_miss, self.other, self.boilerplate, self.keywords];
        WebKind::ALL[dice.weighted(weights.into_iter())]
    }
}

/// A web text, its meaning if it is a caption, and the wrong attribute if it is a near miss.
pub(super) struct WebText {
    pub(super) text: String,
    pub(super) meaning: Option<Meaning>,
    pub(super) wrong: Option<Attribute>,
}

/// Generates a text of this kind for a picture of `scene`; `loose` is the share of captions that omit something.
pub(super) fn web_text(kind: WebKind, scene: &Scene, web: Distribution, loose: f64, dice: &mut Dice) -> WebText {
    let detail = if dice.chance(loose) { Detail::Loose } else { Detail::Full };
    let (meaning, wrong) = match kind {
        WebKind::True => (tell(scene, detail, dice), None),
        WebKind::NearMiss => {
            let (meaning, wrong) = near_miss(scene, detail, dice);
            (meaning, Some(wrong))
        }
        WebKind::Other => (other(scene, web, detail, dice), None),
        WebKind::Boilerplate => return WebText { text: boilerplate(dice), meaning: None, wrong: None },
        WebKind::Keywords => return WebText { text: keywords(scene, dice), meaning: None, wrong: None },
    };
    WebText { text: word(&meaning, dice), meaning: Some(meaning), wrong }
}

/// Meaning of a true caption with one attribute changed so that it is false for the scene.
fn near_miss(scene: &Scene, detail: Detail, dice: &mut Dice) -> (Meaning, Attribute) {
    const TRIES: usize = 100;
    let truth = tell(scene, detail, dice);
    let mut wrong = || {
        let attribute = dice.pick(Attribute::ALL);
        truth
            .with_wrong(attribute, dice)
            .filter(|meaning| !meaning.describes(scene))
            .map(|meaning| (meaning, attribute))
    };
    (0..TRIES).find_map(|_| wrong()).unwrap_or_else(|| {
        let mut meaning = truth.clone();
        meaning.things[0].colour =
            unlike(Colour::ALL, |c| scene.objects.iter().any(|o| o.colour == *c)).first().copied();
        (meaning, Attribute::Colour)
    })
}

/// Meaning of another scene's caption that is false for this scene.
fn other(scene: &Scene, web: Distribution, detail: Detail, dice: &mut Dice) -> Meaning {
    const TRIES: usize = 100;
    let mut strange = || Some(tell(&web.scene(dice), detail, dice)).filter(|meaning| !meaning.describes(scene));
    (0..TRIES).find_map(|_| strange()).unwrap_or_else(|| near_miss(scene, detail, dice).0)
}

fn unlike<T: Copy>(all: &[T], seen: impl Fn(&T) -> bool) -> Vec<T> {
    all.iter().copied().filter(|kind| !seen(kind)).collect()
}

/// Shop tags, unrelated to the picture.
pub(super) const TAGS: &[&str] = &[
    "free",
    "hd",
    "vector",
    "clipart",
    "sale",
    "shop",
    "art",
    "design",
    "print",
    "poster",
    "kids",
    "gift",
    "home",
    "decor",
    "icon",
    "logo",
    "stock",
    "new",
    "best",
    "cheap",
    "original",
    "sticker",
    "wallpaper",
    "download",
];

/// Texts unrelated to any picture: `#` stands for a digit, `@` for a month, `%` for a product.
pub(super) const BOILERPLATE: &[&str] = &[
    "click here to see larger image",
    "click to enlarge",
    "image # of ##",
    "img_#### jpg",
    "dsc0####.jpg",
    "img ####.png",
    "screenshot ##.##.20##",
    "untitled-#.jpg",
    "stock photo free shipping",
    "photo taken on @ ##, 20##",
    "posted by admin on @ ##, 20##",
    "uploaded ## @ 20##",
    "last updated ##/##/20##",
    "add to cart",
    "buy now, only $##.99",
    "was $##.00, now $##.99",
    "no image available",
    "share this page with your friends",
    "all rights reserved 20##",
    "copyright 20## all rights reserved",
    "sign up for our newsletter",
    "thumbnail ###x###",
    "free download hd wallpaper ####x####",
    "in stock, ships in # days",
    "item number ######",
    "order no. ####-###",
    "## percent off this week",
    "previous page, next page",
    "loading, please wait",
    "follow us for more pictures",
    "best price, free delivery",
    "customer review: # out of #",
    "more images from this album",
    "view all ## photos",
    "read more about our shop",
    "log in to leave a comment",
    "% #### free shipping",
    "new % collection @ 20##",
    "shop % online",
    "% for sale, only $##",
    "% wallpaper, hd download",
    "cheap % for kids",
    "best % of 20##",
    "% product photo, size ##x## cm",
    "top ## % ideas for your home",
    "@ ##, 20##",
    "royalty free % stock image",
    "visit our website for more",
    "terms and conditions apply",
    "photo by user####",
];

/// Products, for `%` in boilerplate texts.
pub(super) const WARES: &[&str] =
    &["shirt", "poster", "sticker", "gift", "phone case", "toy", "card", "pillow", "decor", "clipart", "vector"];

/// Months, for `@` in boilerplate texts.
pub(super) const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn boilerplate(dice: &mut Dice) -> String {
    let mut text = String::new();
    for c in dice.pick(BOILERPLATE).chars() {
        match c {
            '#' => text.push(char::from(b'0' + dice.below(10) as u8)),
            '@' => text.push_str(dice.pick(MONTHS)),
            '%' => text.push_str(dice.pick(WARES)),
            other => text.push(other),
        }
    }
    text
}

/// Two to four tags that fit, one or two that do not, and as many shop tags.
fn keywords(scene: &Scene, dice: &mut Dice) -> String {
    let mut fitting: Vec<&str> = vec![tag(scene.background)];
    for object in &scene.objects {
        fitting.extend([dice.usual(object.shape.words()), dice.usual(object.colour.words())]);
        fitting.extend((object.texture != Texture::Plain).then(|| dice.usual(object.texture.words())));
    }
    dice.shuffle(&mut fitting);
    fitting.truncate(2 + dice.below(3));
    let shapes = unlike(Shape::ALL, |shape| scene.objects.iter().any(|o| o.shape == *shape));
    let backgrounds = unlike(Background::ALL, |background| scene.background == *background);
    let mut tags = fitting;
    for _ in 0..1 + dice.below(2) {
        let (shape, background) = (dice.pick(&shapes), dice.pick(&backgrounds));
        tags.push(if dice.chance(0.7) { dice.usual(shape.words()) } else { tag(background) });
        tags.push(dice.pick(TAGS));
    }
    dice.shuffle(&mut tags);
    // Duplicate tags are dropped.
    let repeated = |i: &usize| tags[..*i].contains(&tags[*i]);
    let tags: Vec<&str> = (0..tags.len()).filter(|i| !repeated(i)).map(|i| tags[i]).collect();
    tags.join(dice.usual(&[", ", " "]))
}

/// A background as a tag.
const fn tag(background: Background) -> &'static str {
    match background {
        Background::White => "white background",
        Background::Sky => "sky",
        Background::Grass => "grass",
        Background::Grey => "grey background",
        Background::Night => "night",
        Background::Water => "sea",
        Background::Brick => "brick wall",
        Background::Black => "black background",
        Background::Sand => "beach",
        Background::Wood => "wood",
        Background::Snow => "snow",
        Background::Yellow => "yellow background",
        Background::Sunset => "sunset",
        Background::Paper => "paper",
        Background::Pink => "pink background",
        Background::Tiles => "tiles",
        Background::Blue => "blue background",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Distribution = Distribution::Web { tail: 2.0 };

    #[test]
    fn near_misses_and_other_captions_are_false_and_true_ones_true() {
        let mut wrongs = vec![0; Attribute::ALL.len()];
        for i in 0..4000 {
            let dice = &mut Dice::new(7, 0, i);
            let scene = WEB.scene(dice);
            for kind in [WebKind::True, WebKind::NearMiss, WebKind::Other] {
                let WebText { meaning, wrong, .. } = web_text(kind, &scene, WEB, 0.3, dice);
                assert_eq!(meaning.unwrap().describes(&scene), kind == WebKind::True);
                assert_eq!(wrong.is_some(), kind == WebKind::NearMiss);
                wrong.into_iter().for_each(|attribute| wrongs[attribute as usize] += 1);
            }
        }
        assert!(wrongs.iter().all(|n| *n > 100), "{wrongs:?}");
    }

    #[test]
    fn some_tag_does_not_fit() {
        let dice = &mut Dice::new(9, 0, 0);
        for _ in 0..500 {
            let scene = WEB.scene(dice);
            let text = keywords(&scene, dice);
            let fits = |word: &&str| scene.objects.iter().any(|o| o.shape.words().contains(word));
            let named = |word: &&str| Shape::ALL.iter().any(|shape| shape.words().contains(word));
            assert!(text.split([',', ' ']).filter(|w| !w.is_empty()).count() >= 3, "{text}");
            let strange = text.split(", ").any(|w| TAGS.contains(&w) || (named(&w) && !fits(&w)));
            assert!(strange || !text.contains(", "), "{text}");
        }
    }
}
