//! Rendering of scenes.
//!
//! Shapes are signed distance fields, which give smooth edges, outlines, shadows and halos for free. Only sums,
//! products, quotients and square roots are used, which are the same on every platform.

use image::RgbImage;

use super::backdrop::{Backdrop, Rgb, mix};
use super::dice::Dice;
use super::kinds::{Colour, Texture};
use super::parts::{Form, Part, parts};
use super::scene::{Object, Scene};

/// Side of a picture in pixels.
pub const SIDE: u32 = 64;
/// Sample points per pixel in each direction.
const FINE: usize = 2;
const PURPOSE: u64 = 0x6472_6177;

/// Renders a scene.
pub fn draw(scene: &Scene) -> RgbImage {
    let mut dice = Dice::new(scene.look.into(), PURPOSE, 0);
    let backdrop = Backdrop::new(scene.background, &mut dice);
    let mut canvas = Canvas::new(|x, y| backdrop.at(x, y));
    for object in &scene.objects {
        Figure::new(object, &mut dice).paint(&mut canvas);
    }
    canvas.image()
}

struct Canvas {
    points: Vec<Rgb>,
    width: usize,
}

impl Canvas {
    fn new(colour: impl Fn(f32, f32) -> Rgb) -> Self {
        let width = SIDE as usize * FINE;
        let points = (0..width * width).map(|i| colour(middle(i % width), middle(i / width))).collect();
        Self { points, width }
    }

    /// Blends a colour over the sample points of a box, with the opacity that `colour` returns.
    fn lay(&mut self, (from, to): ([f32; 2], [f32; 2]), colour: impl Fn(f32, f32) -> (Rgb, f32)) {
        let range = |axis: usize| {
            let edge = |v: f32| ((v * FINE as f32).max(0.0) as usize).min(self.width);
            edge(from[axis])..edge(to[axis] + 1.0)
        };
        let (columns, rows) = (range(0), range(1));
        for row in rows {
            for column in columns.clone() {
                let (paint, density) = colour(middle(column), middle(row));
                let point = &mut self.points[row * self.width + column];
                *point = mix(*point, paint, density);
            }
        }
    }

    fn image(&self) -> RgbImage {
        RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let mut sum = [0.0; 3];
            for i in 0..FINE * FINE {
                let (column, row) = (x as usize * FINE + i % FINE, y as usize * FINE + i / FINE);
                let point = self.points[row * self.width + column];
                sum = std::array::from_fn(|channel| sum[channel] + point[channel]);
            }
            image::Rgb(sum.map(|v| (v / (FINE * FINE) as f32 + 0.5) as u8))
        })
    }
}

/// Centre of a sample point, in pixels.
fn middle(point: usize) -> f32 {
    (point as f32 + 0.5) / FINE as f32
}

/// Coverage of a sample point, from the signed distance of its centre to the edge in pixels.
fn inside(distance: f32) -> f32 {
    (0.5 - distance * FINE as f32).clamp(0.0, 1.0)
}

/// An object with its random details.
struct Figure<'a> {
    object: &'a Object,
    /// Centre in pixels; `radius` is in pixels too.
    middle: [f32; 2],
    radius: f32,
    cos: f32,
    sin: f32,
    stretch: [f32; 2],
    fill: Rgb,
    shift: f32,
}

impl<'a> Figure<'a> {
    fn new(object: &'a Object, dice: &mut Dice) -> Self {
        let side = SIDE as f32;
        let half = dice.between(-0.09, 0.09);
        let long = dice.between(0.95, 1.0);
        let mirror = if dice.chance(0.5) { -1.0 } else { 1.0 };
        let stretch = if dice.chance(0.5) { [mirror * long, 1.0] } else { [mirror, long] };
        let fill = colour(object.colour).map(|v| (v + dice.between(-9.0, 9.0)).clamp(0.0, 255.0));
        Self {
            object,
            middle: [object.x * side, object.y * side],
            radius: object.radius * side,
            cos: (1.0 - half * half) / (1.0 + half * half),
            sin: 2.0 * half / (1.0 + half * half),
            stretch,
            fill,
            shift: dice.between(0.0, 1.0),
        }
    }

    /// Converts a point of the picture to the object's coordinates, in pixels.
    fn local(&self, x: f32, y: f32) -> [f32; 2] {
        let (dx, dy) = (x - self.middle[0], y - self.middle[1]);
        [(dx * self.cos + dy * self.sin) / self.stretch[0], (dy * self.cos - dx * self.sin) / self.stretch[1]]
    }

    /// Signed distances in pixels to the edges of the whole shape and of its parts in the second shade.
    fn distances(&self, [x, y]: [f32; 2]) -> (f32, f32) {
        let (x, y) = (x / self.radius, y / self.radius);
        let (mut whole, mut ink) = (f32::MAX, f32::MAX);
        for part in parts(self.object.shape) {
            match part {
                Part::Add(form) => {
                    let d = form.distance(x, y);
                    (whole, ink) = (whole.min(d), ink.max(-d));
                }
                Part::Cut(form) => whole = whole.max(-form.distance(x, y)),
                Part::Keep(form) => whole = whole.max(form.distance(x, y)),
                Part::Ink(form) => {
                    let d = form.distance(x, y);
                    (whole, ink) = (whole.min(d), ink.min(d));
                }
            }
        }
        (whole * self.radius, ink * self.radius)
    }

    fn paint(&self, canvas: &mut Canvas) {
        const HALO: f32 = 8.0;
        const SHADOW: [f32; 2] = [1.1, 1.7];
        let reach = |margin: f32| {
            let reach = self.radius * 1.1 + margin;
            (self.middle.map(|v| v - reach), self.middle.map(|v| v + reach))
        };
        if self.object.texture == Texture::Glowing {
            let halo = match self.object.colour {
                Colour::Black | Colour::Grey => [255.0, 206.0, 80.0],
                _ => mix(self.fill, [255.0; 3], 0.35),
            };
            canvas.lay(reach(HALO), |x, y| {
                let near = 1.0 - (self.distances(self.local(x, y)).0 / HALO).clamp(0.0, 1.0);
                (halo, near * near * 0.85)
            });
        } else {
            canvas.lay(reach(3.0), |x, y| {
                let distance = self.distances(self.local(x - SHADOW[0], y - SHADOW[1])).0;
                ([0.0; 3], (0.5 - distance / 3.0).clamp(0.0, 1.0) * 0.35)
            });
        }
        canvas.lay(reach(1.0), |x, y| self.paint_at(self.local(x, y)));
    }

    /// Colour of the object at a point, and its coverage of the point.
    fn paint_at(&self, point: [f32; 2]) -> (Rgb, f32) {
        const EDGE: f32 = 0.9;
        let (whole, ink) = self.distances(point);
        if whole > 1.0 {
            return (self.fill, 0.0);
        }
        let dark = self.object.colour == Colour::Black;
        let second = if dark { [144.0, 144.0, 150.0] } else { mix(self.fill, [0.0; 3], 0.5) };
        let edge = if dark { [84.0, 84.0, 90.0] } else { mix(self.fill, [0.0; 3], 0.42) };
        let light = -(point[0] * self.stretch[0] + point[1]) / self.radius * 0.12;
        let shaded = mix(self.textured(point, whole), if light > 0.0 { [255.0; 3] } else { [0.0; 3] }, light.abs());
        let painted = mix(shaded, second, inside(ink));
        (mix(painted, edge, inside(-whole - EDGE)), inside(whole))
    }

    fn textured(&self, [x, y]: [f32; 2], whole: f32) -> Rgb {
        let period = 3.4 + 0.13 * self.radius;
        // Light colours get thin darker marks, so that they remain the larger part; other colours get whitish ones.
        let (other, width) = match self.object.colour {
            Colour::White => ([138.0, 142.0, 160.0], 0.42),
            Colour::Grey => ([52.0, 54.0, 60.0], 0.4),
            Colour::Yellow => ([150.0, 96.0, 20.0], 0.4),
            _ => (mix(self.fill, [255.0; 3], 0.78), 0.45),
        };
        // Signed distance to the edge of a band that fills `share` of each period.
        let band = |t: f32, period: f32, share: f32| {
            let t = t / period + self.shift;
            ((t - t.floor() - 0.5).abs() - share / 2.0) * period
        };
        let share = match self.object.texture {
            Texture::Plain => 0.0,
            Texture::Striped => inside(band((x + y) * 0.707, period, width)),
            Texture::Dotted => {
                let row = (y / period + self.shift).floor();
                let dx = band(x + period * 0.5 * (row - (row / 2.0).floor() * 2.0), period, 0.0);
                let dy = band(y, period, 0.0);
                inside((dx * dx + dy * dy).sqrt() - period * width * 0.66)
            }
            Texture::Zigzag => {
                let turn = x / (period * 2.2) + self.shift;
                let zig = (turn - turn.floor() - 0.5).abs() * period * 2.2;
                inside(band(y + zig, period * 1.5, width))
            }
            Texture::Checked => {
                let (a, b) = (inside(band(x, period * 1.5, 0.5)), inside(band(y, period * 1.5, 0.5)));
                a + b - 2.0 * a * b
            }
            Texture::Glowing => return mix(self.fill, [255.0, 250.0, 205.0], (-whole / self.radius * 2.0).min(0.5)),
        };
        mix(self.fill, other, share)
    }
}

impl Form {
    /// Signed distance of a point to the edge, negative inside; approximate for ovals.
    fn distance(&self, x: f32, y: f32) -> f32 {
        const ROUND: f32 = 0.06;
        let length = |x: f32, y: f32| (x * x + y * y).sqrt();
        match *self {
            Self::Disc(cx, cy, radius) => length(x - cx, y - cy) - radius,
            Self::Oval(cx, cy, rx, ry) => {
                let (u, v) = ((x - cx) / rx, (y - cy) / ry);
                let (one, two) = (length(u, v), length(u / rx, v / ry));
                if two > 0.0 { one * (one - 1.0) / two } else { -rx.min(ry) }
            }
            Self::Block(cx, cy, half_width, half_height) => {
                let (dx, dy) = ((x - cx).abs() - half_width + ROUND, (y - cy).abs() - half_height + ROUND);
                length(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0) - ROUND
            }
            Self::Line(x0, y0, x1, y1, half_width) => from_line([x, y], [x0, y0], [x1, y1]) - half_width,
            Self::Polygon(corners) => from_polygon([x, y], corners),
        }
    }
}

fn from_line([x, y]: [f32; 2], [x0, y0]: [f32; 2], [x1, y1]: [f32; 2]) -> f32 {
    let (dx, dy) = (x1 - x0, y1 - y0);
    let along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    let (ex, ey) = (x - x0 - dx * along, y - y0 - dy * along);
    (ex * ex + ey * ey).sqrt()
}

fn from_polygon([x, y]: [f32; 2], corners: &[(f32, f32)]) -> f32 {
    let (mut nearest, mut within) = (f32::MAX, false);
    let ahead = corners.iter().skip(1).chain(corners.first());
    for (&(x0, y0), &(x1, y1)) in corners.iter().zip(ahead) {
        nearest = nearest.min(from_line([x, y], [x0, y0], [x1, y1]));
        if (y0 > y) != (y1 > y) && x < (x1 - x0) * (y - y0) / (y1 - y0) + x0 {
            within = !within;
        }
    }
    if within { -nearest } else { nearest }
}

const fn colour(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [216.0, 38.0, 38.0],
        Colour::Orange => [246.0, 138.0, 26.0],
        Colour::Yellow => [250.0, 214.0, 40.0],
        Colour::Green => [44.0, 160.0, 66.0],
        Colour::Blue => [40.0, 84.0, 212.0],
        Colour::Purple => [134.0, 60.0, 178.0],
        Colour::Pink => [250.0, 134.0, 188.0],
        Colour::Brown => [124.0, 74.0, 38.0],
        Colour::Black => [34.0, 34.0, 40.0],
        Colour::White => [248.0, 248.0, 246.0],
        Colour::Grey => [136.0, 140.0, 146.0],
        Colour::Turquoise => [38.0, 200.0, 196.0],
    }
}

/// Number of pixels of each object that no later object covers.
#[cfg(test)]
pub(super) fn visible_pixels(scene: &Scene) -> Vec<usize> {
    let mut dice = Dice::new(scene.look.into(), PURPOSE, 0);
    Backdrop::new(scene.background, &mut dice);
    let figures: Vec<Figure<'_>> = scene.objects.iter().map(|object| Figure::new(object, &mut dice)).collect();
    let mut seen = vec![0; figures.len()];
    for i in 0..SIDE * SIDE {
        let (x, y) = ((i % SIDE) as f32 + 0.5, (i / SIDE) as f32 + 0.5);
        if let Some(top) = figures.iter().rposition(|figure| figure.distances(figure.local(x, y)).0 < 0.0) {
            seen[top] += 1;
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{Background, Shape};
    use super::super::scene::Distribution;
    use super::*;

    #[test]
    fn every_thing_is_seen() {
        let mut least = usize::MAX;
        for i in 0..2000 {
            let scene = Distribution::Even.scene(&mut Dice::new(3, 0, i));
            let seen = visible_pixels(&scene);
            assert!(seen.iter().all(|n| *n >= 45), "{seen:?} {scene:?}");
            least = least.min(seen.into_iter().min().unwrap());
        }
        assert!(least < 200, "the test would see small things");
    }

    #[test]
    fn a_thing_is_where_the_scene_says_and_in_its_colour() {
        let mut scene = Distribution::Human.scene(&mut Dice::new(4, 0, 0));
        let texture = Texture::Plain;
        scene.background = Background::Black;
        scene.objects =
            vec![Object { shape: Shape::Circle, colour: Colour::Red, texture, x: 0.3, y: 0.7, ..scene.objects[0] }];
        let picture = draw(&scene);
        let image::Rgb([red, green, blue]) = *picture.get_pixel(19, 45);
        assert!(red > 190 && green < 80 && blue < 80);
        let image::Rgb([red, ..]) = *picture.get_pixel(60, 4);
        assert!(red < 60);
    }
}
