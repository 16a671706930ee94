//! Kinds of things, attributes and places in the world, and their words.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($(#[$about:meta])* $name:ident { $($kind:ident: [$($word:literal),+],)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $(#[doc = stringify!($kind)] $kind,)+
        }

        impl $name {
            /// All of them. Shapes, colours, patterns and backgrounds are sorted by their frequency on the web.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Words for it, the usual one first.
            pub const fn words(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($word),+],)+ }
            }
        }
    };
}

kinds! {
    /// Shape of a thing.
    Shape {
        Circle: ["circle", "disc"],
        Star: ["star"],
        Heart: ["heart"],
        Car: ["car"],
        Tree: ["tree", "pine tree"],
        House: ["house", "cottage"],
        Butterfly: ["butterfly"],
        Flower: ["flower", "blossom"],
        Square: ["square"],
        Fish: ["fish"],
        Umbrella: ["umbrella", "parasol"],
        Moon: ["moon", "crescent", "crescent moon"],
        Boat: ["boat", "sailboat"],
        Triangle: ["triangle"],
        Crown: ["crown"],
        Arrow: ["arrow"],
    }
}

kinds! {
    /// Colour of a thing.
    Colour {
        Red: ["red"],
        Blue: ["blue"],
        Yellow: ["yellow"],
        Green: ["green"],
        White: ["white"],
        Black: ["black"],
        Pink: ["pink"],
        Orange: ["orange"],
        Purple: ["purple", "violet"],
        Brown: ["brown"],
        Grey: ["grey", "gray"],
        Turquoise: ["turquoise", "teal"],
    }
}

kinds! {
    /// Size of a thing; captions never say "medium".
    Size {
        Medium: ["medium"],
        Big: ["big", "large", "huge"],
        Small: ["small", "little", "tiny"],
    }
}

kinds! {
    /// Pattern of a thing.
    Texture {
        Plain: ["plain"],
        Striped: ["striped", "stripy"],
        Dotted: ["dotted", "spotted"],
        Zigzag: ["zigzag", "zigzagged"],
        Checked: ["checked", "checkered"],
        Glowing: ["glowing", "shining"],
    }
}

kinds! {
    /// Background behind the things, worded as where they are.
    Background {
        White: ["on a white background", "on a plain white background", "against a white background"],
        Sky: ["in the sky", "in a blue sky", "up in the air", "against the sky"],
        Grass: ["on the grass", "on green grass", "on a lawn", "in a meadow", "in a green field"],
        Grey: ["on a grey background", "on a plain gray background", "against a grey background"],
        Night: ["at night", "in the night sky", "in the dark", "on a dark night"],
        Water: ["on the water", "in the water", "in the sea", "on the waves", "on the ocean"],
        Brick: ["on a brick wall", "in front of a brick wall", "against a wall of bricks"],
        Black: ["on a black background", "on a plain black background", "against a black background"],
        Sand: ["on the sand", "on a sandy beach", "on the beach", "in the desert"],
        Wood: ["on a wooden table", "on wood", "on a wooden floor", "on wooden planks", "on a wooden board"],
        Snow: ["in the snow", "on the snow", "in snowy weather", "in falling snow"],
        Yellow: ["on a yellow background", "on a plain yellow background", "against a yellow background"],
        Sunset: ["at sunset", "in the evening", "in front of a sunset", "in the evening sky"],
        Paper: ["on squared paper", "on paper", "on a sheet of paper", "on a page of a notebook"],
        Pink: ["on a pink background", "on a plain pink background", "against a pink background"],
        Tiles: ["on a tiled floor", "on tiles", "on the kitchen floor", "on floor tiles"],
        Blue: ["on a blue background", "on a plain blue background", "against a blue background"],
    }
}

kinds! {
    /// Place in the picture. A thing in a corner is also at both sides that meet there.
    Place {
        Middle: ["in the middle", "in the centre", "in the center", "at the centre"],
        Left: ["on the left", "on the left side", "at the left"],
        Right: ["on the right", "on the right side", "at the right"],
        Top: ["at the top", "near the top", "in the upper part"],
        Bottom: ["at the bottom", "near the bottom", "in the lower part"],
        TopLeft: ["at the top left", "in the top left corner", "in the upper left corner"],
        TopRight: ["at the top right", "in the top right corner", "in the upper right corner"],
        BottomLeft: ["at the bottom left", "in the bottom left corner", "in the lower left corner"],
        BottomRight: ["at the bottom right", "in the bottom right corner", "in the lower right corner"],
    }
}

kinds! {
    /// Direction from one thing to another. Diagonally, two directions are true.
    Direction {
        LeftOf: ["left of", "to the left of", "on the left of"],
        RightOf: ["right of", "to the right of", "on the right of"],
        Above: ["above", "over"],
        Below: ["below", "under", "beneath"],
    }
}

kinds! {
    /// Attribute that a near miss gets wrong.
    Attribute {
        Colour: ["colour"],
        Shape: ["shape"],
        Texture: ["texture"],
        Size: ["size"],
        Place: ["place"],
        Count: ["count"],
        Relation: ["relation"],
        Background: ["background"],
    }
}

/// Shapes that the human set neither shows nor names.
pub const UNSEEN_SHAPES: &[Shape] = &[Shape::Butterfly, Shape::Umbrella, Shape::Crown];

/// Textures that the human set neither shows nor names.
pub const UNSEEN_TEXTURES: &[Texture] = &[Texture::Zigzag, Texture::Glowing];

/// Backgrounds that the human set neither shows nor names.
pub const UNSEEN_BACKGROUNDS: &[Background] = &[Background::Brick, Background::Snow];

/// Whether the human set has no thing of this shape in this colour; it may have each separately.
pub fn unseen_together(shape: Shape, colour: Colour) -> bool {
    (shape as usize * 5 + colour as usize * 3).is_multiple_of(7)
}

impl Texture {
    /// Wordings of the pattern after the thing's name.
    pub(super) const fn after(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["without a pattern"],
            Self::Striped => &["with stripes", "covered in stripes"],
            Self::Dotted => &["with dots", "with spots", "covered in dots"],
            Self::Zigzag => &["with zigzag lines", "with a zigzag pattern"],
            Self::Checked => &["with checks", "with a checked pattern"],
            Self::Glowing => &["with a bright glow", "full of light"],
        }
    }
}

impl Background {
    /// Wordings of the background at the end of a caption.
    pub(super) const fn behind(self) -> &'static [&'static str] {
        match self {
            Self::White => &["with a white background"],
            Self::Sky => &["with the sky behind", "under a blue sky"],
            Self::Grass => &["with grass behind", "with green grass in the background"],
            Self::Grey => &["with a grey background", "with a gray background"],
            Self::Night => &["with the night sky behind", "with a dark sky in the background"],
            Self::Water => &["with water behind", "with the sea in the background"],
            Self::Brick => &["with a brick wall behind", "with bricks in the background"],
            Self::Black => &["with a black background"],
            Self::Sand => &["with sand behind", "with sand in the background"],
            Self::Wood => &["with wood behind", "with a wooden background"],
            Self::Snow => &["with snow all around", "with snow in the background"],
            Self::Yellow => &["with a yellow background"],
            Self::Sunset => &["with a sunset behind", "with an evening sky in the background"],
            Self::Paper => &["with squared paper behind", "with paper in the background"],
            Self::Pink => &["with a pink background"],
            Self::Tiles => &["with tiles behind", "with a tiled background"],
            Self::Blue => &["with a blue background"],
        }
    }

    /// Colours that are barely visible on this background.
    pub(super) const fn hides(self) -> &'static [Colour] {
        match self {
            Self::White | Self::Paper => &[Colour::White],
            Self::Sky => &[Colour::Blue, Colour::Turquoise, Colour::White],
            Self::Grass => &[Colour::Green],
            Self::Grey => &[Colour::Grey],
            Self::Night => &[Colour::Black, Colour::Blue],
            Self::Water => &[Colour::Blue, Colour::Turquoise],
            Self::Brick => &[Colour::Red, Colour::Brown, Colour::Orange],
            Self::Black => &[Colour::Black],
            Self::Sand => &[Colour::Yellow, Colour::Orange],
            Self::Wood => &[Colour::Brown, Colour::Orange],
            Self::Snow | Self::Tiles => &[Colour::White, Colour::Grey],
            Self::Yellow => &[Colour::Yellow],
            Self::Sunset => &[Colour::Orange, Colour::Pink, Colour::Purple, Colour::Red],
            Self::Pink => &[Colour::Pink],
            Self::Blue => &[Colour::Blue, Colour::Turquoise],
        }
    }
}

impl Place {
    /// Whether a thing in `cell` (one of the nine places) is also at this place.
    pub(super) const fn holds(self, cell: Self) -> bool {
        use Place::*;
        match self {
            Left => matches!(cell, Left | TopLeft | BottomLeft),
            Right => matches!(cell, Right | TopRight | BottomRight),
            Top => matches!(cell, Top | TopLeft | TopRight),
            Bottom => matches!(cell, Bottom | BottomLeft | BottomRight),
            _ => self as usize == cell as usize,
        }
    }
}

impl Direction {
    /// The opposite direction.
    pub(super) const fn back(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// Plural of a thing's name.
pub(super) fn plural(noun: &str) -> String {
    if noun == "fish" {
        return noun.into();
    }
    noun.strip_suffix("fly").map_or_else(|| format!("{noun}s"), |before| format!("{before}flies"))
}

#[cfg(test)]
mod tests {
    use super::{Colour, Shape, plural, unseen_together};

    #[test]
    fn plurals() {
        let some = ["butterfly", "fish", "pine tree"].map(plural);
        assert_eq!(some, ["butterflies", "fish", "pine trees"]);
    }

    #[test]
    fn a_seventh_of_the_pairs_is_unseen_but_no_shape_in_all_colours() {
        let unseen = |shape| Colour::ALL.iter().filter(|c| unseen_together(shape, **c)).count();
        assert!(Shape::ALL.iter().all(|shape| (1..=2).contains(&unseen(*shape))));
    }
}
