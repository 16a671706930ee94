//! Backgrounds: a colour for every point behind the things.

use super::dice::Dice;
use super::kinds::Background;

/// Red, green and blue from 0 to 255.
pub(super) type Rgb = [f32; 3];

/// Linear interpolation from the first colour (`share` 0) to the second (1).
pub(super) fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    let share = share.clamp(0.0, 1.0);
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// A parabolic wave through 0, 1, 0, -1 with period 1, because the standard library's sine differs between platforms.
fn wave(t: f32) -> f32 {
    let t = t - t.floor();
    let half = if t < 0.5 { t } else { t - 0.5 } * 2.0;
    let hill = 4.0 * half * (1.0 - half);
    if t < 0.5 { hill } else { -hill }
}

/// A background with its random details, such as the positions of clouds and stones.
pub(super) struct Backdrop {
    kind: Background,
    seed: u32,
    tint: Rgb,
    slope: [f32; 2],
    shift: [f32; 2],
}

impl Backdrop {
    /// Draws the random details of a background for one picture.
    pub(super) fn new(kind: Background, dice: &mut Dice) -> Self {
        let light = dice.between(-8.0, 8.0);
        let tint = std::array::from_fn(|_| light + dice.between(-5.0, 5.0));
        let slope = std::array::from_fn(|_| dice.between(-0.5, 0.5));
        let shift = std::array::from_fn(|_| dice.between(0.0, 64.0));
        Self { kind, seed: dice.number(), tint, slope, shift }
    }

    /// Colour at a point, given in pixels.
    pub(super) fn at(&self, x: f32, y: f32) -> Rgb {
        let colour = self.untinted(x, y);
        std::array::from_fn(|i| (colour[i] + self.tint[i]).clamp(0.0, 255.0))
    }

    fn untinted(&self, x: f32, y: f32) -> Rgb {
        let down = y / 64.0;
        let (u, v) = (x + self.shift[0], y + self.shift[1]);
        match self.kind {
            Background::White => self.plain([246.0, 246.0, 244.0], x, y),
            Background::Grey => self.plain([158.0, 160.0, 164.0], x, y),
            Background::Black => self.plain([24.0, 24.0, 26.0], x, y),
            Background::Yellow => self.plain([250.0, 226.0, 110.0], x, y),
            Background::Pink => self.plain([246.0, 180.0, 206.0], x, y),
            Background::Blue => self.plain([92.0, 138.0, 222.0], x, y),
            Background::Sky => {
                let wisps = (self.noise(u / 17.0, v / 7.0) - 0.5) * 1.5;
                mix(mix([92.0, 172.0, 240.0], [196.0, 228.0, 250.0], down), [255.0; 3], wisps)
            }
            Background::Grass => {
                let blades = self.noise(u / 1.3 + wave(v / 14.0) * 0.8, v / 7.0);
                mix(
                    [62.0, 138.0, 48.0],
                    [136.0, 200.0, 82.0],
                    blades * 0.8 + self.noise(u / 11.0, v / 11.0) * 0.4 - 0.1,
                )
            }
            Background::Sand => {
                let ripple = wave(v / 9.0 + wave(u / 40.0) * 0.5) * 0.25 + 0.4;
                mix([206.0, 174.0, 118.0], [240.0, 220.0, 172.0], ripple + self.grain(x, y) * 0.5)
            }
            Background::Water => {
                let crest = wave(v / 8.0 + wave(u / 13.0) * 0.22) - 0.45;
                mix(mix([44.0, 136.0, 196.0], [18.0, 84.0, 160.0], down), [176.0, 226.0, 242.0], crest * 1.3)
            }
            Background::Night => {
                let star = if self.speck(u, v, 7.0, 0.45) { 0.9 } else { 0.0 };
                mix(mix([12.0, 14.0, 46.0], [46.0, 42.0, 98.0], down), [255.0, 250.0, 220.0], star)
            }
            Background::Brick => self.bricks(u, v),
            Background::Wood => {
                let plank = (v / 16.0).floor();
                let knots = self.noise(u / 22.0 + plank * 7.0, v / 2.2);
                let wood =
                    mix([176.0, 122.0, 70.0], [212.0, 164.0, 104.0], knots + self.random(plank, 3.0) * 0.4 - 0.2);
                if v - plank * 16.0 < 1.0 { [104.0, 66.0, 36.0] } else { wood }
            }
            Background::Snow => {
                let hill = if down > 0.72 + 0.05 * wave(u / 64.0) { 0.9 } else { 0.0 };
                let flake = if self.speck(u, v, 6.0, 0.95) { 1.0 } else { hill };
                mix(mix([142.0, 170.0, 200.0], [196.0, 212.0, 230.0], down), [253.0, 254.0, 255.0], flake)
            }
            Background::Sunset => {
                let low = mix([250.0, 128.0, 92.0], [255.0, 208.0, 112.0], down * 2.0 - 1.0);
                let sky = mix([96.0, 62.0, 134.0], low, down * 1.7);
                mix(sky, [255.0, 232.0, 180.0], (self.noise(u / 18.0, v / 3.0) - 0.7) * 1.5)
            }
            Background::Paper => {
                let line = |t: f32| t - (t / 8.0).floor() * 8.0 < 0.8;
                if line(u) || line(v) { [158.0, 190.0, 226.0] } else { [250.0, 249.0, 240.0] }
            }
            Background::Tiles => self.tiles(u, v),
        }
    }

    fn plain(&self, colour: Rgb, x: f32, y: f32) -> Rgb {
        let light = (x / 32.0 - 1.0) * self.slope[0] + (y / 32.0 - 1.0) * self.slope[1];
        if light > 0.0 { mix(colour, [255.0; 3], light * 0.15) } else { mix(colour, [0.0; 3], -light * 0.15) }
    }

    fn bricks(&self, u: f32, v: f32) -> Rgb {
        let row = (v / 7.0).floor();
        let along = u + (row - (row / 2.0).floor() * 2.0) * 7.0;
        let column = (along / 14.0).floor();
        if v - row * 7.0 < 1.0 || along - column * 14.0 < 1.0 {
            return [208.0, 196.0, 184.0];
        }
        mix([150.0, 66.0, 50.0], [192.0, 96.0, 72.0], self.random(column, row) + self.grain(u, v) * 0.3)
    }

    fn tiles(&self, u: f32, v: f32) -> Rgb {
        let (column, row) = ((u / 13.0).floor(), (v / 13.0).floor());
        if u - column * 13.0 < 1.0 || v - row * 13.0 < 1.0 {
            return [138.0, 142.0, 146.0];
        }
        let odd = (column + row) / 2.0;
        let tile = if odd == odd.floor() { [204.0, 216.0, 214.0] } else { [238.0, 238.0, 232.0] };
        mix(tile, [160.0, 160.0, 160.0], self.random(column, row) * 0.15)
    }

    /// Whether a point lies in a speck: `share` of the squares of side `cell` have one each.
    fn speck(&self, u: f32, v: f32, cell: f32, share: f32) -> bool {
        let (column, row) = ((u / cell).floor(), (v / cell).floor());
        let random = |salt: f32| self.random(column + salt, row - 2.0 * salt);
        let radius = 0.5 + 0.6 * random(1000.0);
        let inside = |salt: f32| (0.2 + 0.6 * random(salt)) * cell;
        let (dx, dy) = (u - column * cell - inside(2000.0), v - row * cell - inside(3000.0));
        random(4000.0) < share && dx * dx + dy * dy < radius * radius
    }

    /// A random number from 0 to 1 for every pair of integers.
    fn random(&self, x: f32, y: f32) -> f32 {
        let mut h =
            self.seed ^ (x as i32 as u32).wrapping_mul(0x9e37_79b1) ^ (y as i32 as u32).wrapping_mul(0x85eb_ca77);
        for factor in [0x7feb_352d, 0x846c_a68b] {
            h = (h ^ (h >> 16)).wrapping_mul(factor);
        }
        ((h ^ (h >> 16)) >> 8) as f32 / (1 << 24) as f32
    }

    fn grain(&self, x: f32, y: f32) -> f32 {
        self.random(x.floor(), y.floor())
    }

    /// Smooth noise from 0 to 1, interpolated between the random numbers at integers.
    fn noise(&self, x: f32, y: f32) -> f32 {
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (x0, y0) = (x.floor(), y.floor());
        let (u, v) = (ease(x - x0), ease(y - y0));
        let row = |y: f32| self.random(x0, y) * (1.0 - u) + self.random(x0 + 1.0, y) * u;
        row(y0) * (1.0 - v) + row(y0 + 1.0) * v
    }
}
