//! Shapes as tables of simple parts, in a square from -1 to 1 with y downwards.

use super::kinds::Shape;

/// A part and how it is combined with the parts before it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Adds the form to the shape.
    Add(Form),
    /// Removes the form.
    Cut(Form),
    /// Removes everything outside the form.
    Keep(Form),
    /// Adds the form, drawn in the thing's second shade.
    Ink(Form),
}

/// A simple form.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Centre and radius.
    Disc(f32, f32, f32),
    /// Centre, half width, half height.
    Oval(f32, f32, f32, f32),
    /// Centre, half width, half height; with slightly rounded corners.
    Block(f32, f32, f32, f32),
    /// Start, end, half width.
    Line(f32, f32, f32, f32, f32),
    /// Corners.
    Polygon(&'static [(f32, f32)]),
}

use Form::{Block, Disc, Line, Oval, Polygon};
use Part::{Add, Cut, Ink, Keep};

/// Parts of a shape.
pub(super) const fn parts(shape: Shape) -> &'static [Part] {
    match shape {
        Shape::Circle => &[Add(Disc(0.0, 0.0, 0.92))],
        Shape::Star => &[Add(Polygon(&[
            (0.0, -1.0),
            (0.25, -0.34),
            (0.95, -0.31),
            (0.4, 0.13),
            (0.59, 0.81),
            (0.0, 0.42),
            (-0.59, 0.81),
            (-0.4, 0.13),
            (-0.95, -0.31),
            (-0.25, -0.34),
        ]))],
        Shape::Heart => &[
            Add(Disc(-0.45, -0.35, 0.5)),
            Add(Disc(0.45, -0.35, 0.5)),
            Add(Polygon(&[(0.0, 0.92), (0.83, -0.02), (0.45, -0.35), (-0.45, -0.35), (-0.83, -0.02)])),
        ],
        Shape::Car => &[
            Add(Block(0.0, 0.18, 0.96, 0.28)),
            Add(Polygon(&[(-0.65, -0.05), (-0.4, -0.58), (0.35, -0.58), (0.62, -0.05)])),
            Cut(Polygon(&[(-0.45, -0.1), (-0.3, -0.42), (-0.08, -0.42), (-0.08, -0.1)])),
            Cut(Polygon(&[(0.08, -0.1), (0.08, -0.42), (0.25, -0.42), (0.42, -0.1)])),
            Ink(Disc(-0.5, 0.45, 0.26)),
            Ink(Disc(0.5, 0.45, 0.26)),
        ],
        Shape::Tree => &[
            Ink(Block(0.0, 0.8, 0.15, 0.2)),
            Add(Polygon(&[(0.0, -1.0), (0.5, -0.35), (-0.5, -0.35)])),
            Add(Polygon(&[(0.0, -0.7), (0.68, 0.15), (-0.68, 0.15)])),
            Add(Polygon(&[(0.0, -0.3), (0.85, 0.65), (-0.85, 0.65)])),
        ],
        Shape::House => &[
            Add(Block(0.0, 0.4, 0.7, 0.52)),
            Add(Block(0.5, -0.6, 0.13, 0.3)),
            Ink(Polygon(&[(-1.0, -0.05), (0.0, -0.95), (1.0, -0.05)])),
            Ink(Block(-0.25, 0.6, 0.17, 0.32)),
            Ink(Block(0.33, 0.38, 0.16, 0.16)),
        ],
        Shape::Butterfly => &[
            Add(Oval(-0.52, -0.38, 0.45, 0.42)),
            Add(Oval(0.52, -0.38, 0.45, 0.42)),
            Add(Disc(-0.42, 0.42, 0.36)),
            Add(Disc(0.42, 0.42, 0.36)),
            Ink(Line(0.0, -0.45, 0.0, 0.65, 0.1)),
            Ink(Line(0.0, -0.45, -0.3, -0.92, 0.05)),
            Ink(Line(0.0, -0.45, 0.3, -0.92, 0.05)),
        ],
        Shape::Flower => &[
            Add(Disc(0.0, -0.6, 0.36)),
            Add(Disc(0.52, -0.3, 0.36)),
            Add(Disc(0.52, 0.3, 0.36)),
            Add(Disc(0.0, 0.6, 0.36)),
            Add(Disc(-0.52, 0.3, 0.36)),
            Add(Disc(-0.52, -0.3, 0.36)),
            Ink(Disc(0.0, 0.0, 0.3)),
        ],
        Shape::Square => &[Add(Block(0.0, 0.0, 0.8, 0.8))],
        Shape::Fish => &[
            Add(Oval(-0.2, 0.0, 0.75, 0.5)),
            Add(Polygon(&[(0.3, 0.0), (0.98, -0.55), (0.82, 0.0), (0.98, 0.55)])),
            Add(Polygon(&[(-0.4, -0.3), (0.05, -0.78), (0.25, -0.3)])),
            Ink(Disc(-0.58, -0.1, 0.11)),
        ],
        Shape::Umbrella => &[
            Add(Disc(0.0, 0.05, 0.96)),
            Keep(Block(0.0, -0.5, 1.0, 0.55)),
            Cut(Disc(-0.64, 0.12, 0.3)),
            Cut(Disc(0.0, 0.12, 0.3)),
            Cut(Disc(0.64, 0.12, 0.3)),
            Ink(Line(0.0, -0.2, 0.0, 0.8, 0.07)),
            Ink(Line(0.0, 0.85, 0.25, 0.85, 0.07)),
            Ink(Line(0.25, 0.85, 0.25, 0.68, 0.07)),
        ],
        Shape::Moon => &[Add(Disc(0.0, 0.0, 0.95)), Cut(Disc(0.45, -0.15, 0.75))],
        Shape::Boat => &[
            Add(Polygon(&[(-0.98, 0.35), (0.98, 0.35), (0.6, 0.88), (-0.6, 0.88)])),
            Ink(Line(0.0, -0.9, 0.0, 0.4, 0.06)),
            Add(Polygon(&[(0.12, -0.95), (0.85, 0.2), (0.12, 0.2)])),
            Add(Polygon(&[(-0.12, -0.7), (-0.65, 0.2), (-0.12, 0.2)])),
        ],
        Shape::Triangle => &[Add(Polygon(&[(0.0, -0.92), (0.98, 0.78), (-0.98, 0.78)]))],
        Shape::Crown => &[
            Add(Polygon(&[
                (-0.8, 0.7),
                (-0.95, -0.45),
                (-0.42, 0.05),
                (0.0, -0.75),
                (0.42, 0.05),
                (0.95, -0.45),
                (0.8, 0.7),
            ])),
            Add(Disc(-0.9, -0.5, 0.13)),
            Add(Disc(0.0, -0.78, 0.13)),
            Add(Disc(0.9, -0.5, 0.13)),
            Ink(Block(0.0, 0.6, 0.8, 0.12)),
        ],
        Shape::Arrow => &[Add(Polygon(&[
            (-0.98, -0.24),
            (0.1, -0.24),
            (0.1, -0.72),
            (1.0, 0.0),
            (0.1, 0.72),
            (0.1, 0.24),
            (-0.98, 0.24),
        ]))],
    }
}
