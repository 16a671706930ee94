use super::*;

/// An image's queries, keys and values with their bias.
struct Image {
    tokens: usize,
    heads: usize,
    size: usize,
    qkv: Vec<f32>,
    bias: Vec<f32>,
}

/// Numbers of mean 0 and deviation 1, nearly normal.
fn normal(count: usize, seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(move |_| (0..12).map(|_| uniform()).sum())
}

impl Image {
    /// Queries and keys have deviation `spread`, and `outliers` of their columns ten times that.
    fn new((tokens, heads, size): (usize, usize, usize), spread: f32, outliers: usize) -> Self {
        let width = heads * size;
        let mut qkv: Vec<f32> = normal(tokens * 3 * width, 1).collect();
        for (i, x) in qkv.iter_mut().enumerate() {
            let column = i % (3 * width);
            if column < 2 * width {
                *x *= if column % size % 17 == 5 && column % size / 17 < outliers { 10.0 * spread } else { spread };
            }
        }
        Self { tokens, heads, size, qkv, bias: normal(3 * width, 2).collect() }
    }

    fn width(&self) -> usize {
        self.heads * self.size
    }

    fn attended(&self, attend: Attend) -> Vec<f32> {
        self.attended_in(attend, &mut Memory::default())
    }

    fn attended_in(&self, attend: Attend, memory: &mut Memory) -> Vec<f32> {
        let (width, real) = (self.width(), real_pairs(self.tokens));
        let mut out = vec![0.0; self.tokens * width];
        let parts = Parts::of(&mut out);
        for first in (0..width).step_by(self.size) {
            let (qkv, bias, size) = (&self.qkv[..], &self.bias[..], self.size);
            // SAFETY: one head after the other, and the processor has the instructions.
            unsafe { attend(&Head { qkv, bias, width, first, size }, &real, memory, &parts, first) };
        }
        out
    }

    /// Attention in float64.
    fn exact(&self) -> Vec<f64> {
        let width = self.width();
        let at = |third: usize, token: usize, column: usize| {
            let column = third * width + column;
            f64::from(self.qkv[token * 3 * width + column]) + f64::from(self.bias[column])
        };
        let mut out = vec![0.0; self.tokens * width];
        for first in (0..width).step_by(self.size) {
            for row in 0..self.tokens {
                let columns = first..first + self.size;
                let score = |token: usize| columns.clone().map(|c| at(0, row, c) * at(1, token, c)).sum::<f64>();
                let scores: Vec<f64> = (0..self.tokens).map(|token| score(token) / (self.size as f64).sqrt()).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                for (token, score) in scores.iter().enumerate() {
                    let weight = (score - most).exp() / sum;
                    columns.clone().for_each(|c| out[row * width + c] += weight * at(2, token, c));
                }
            }
        }
        out
    }

    /// Error of `found`, relative to what the values contribute without their bias.
    fn error(&self, found: &[f32]) -> f64 {
        let (mut error, mut size) = (0.0, 0.0);
        for (i, (found, exact)) in found.iter().zip(self.exact()).enumerate() {
            let bias = f64::from(self.bias[2 * self.width() + i % self.width()]);
            error += (f64::from(*found) - exact).powi(2);
            size += (exact - bias).powi(2);
        }
        (error / size).sqrt()
    }
}

const SHAPES: [(usize, usize, usize); 12] = [
    (577, 1, 64),
    (1025, 1, 64),
    (130, 2, 64),
    (65, 3, 20),
    (50, 2, 16),
    (17, 2, 48),
    (33, 1, 80),
    (97, 1, 144),
    (16, 1, 32),
    (31, 2, 7),
    (2, 1, 1),
    (1, 2, 64),
];

#[test]
fn all_implementations_attend_as_in_mathematics() {
    for shape in SHAPES {
        for (spread, outliers, most) in [(0.0, 0, 2e-3), (1.0, 0, 2e-3), (3.0, 0, 5e-3), (1.0, 3, 5e-3), (3.0, 3, 1e-2)]
        {
            let image = Image::new(shape, spread, outliers);
            let all: Vec<Vec<f32>> = implementations().into_iter().map(|f| image.attended(f)).collect();
            let error = image.error(&all[0]);
            assert!(error <= most, "{shape:?}, {spread}, {outliers}: {error}");
            assert!(all.iter().all(|found| *found == all[0]), "{shape:?}, {spread}, {outliers}");
        }
    }
}

#[test]
fn an_image_attends_alone_as_it_does_after_others() {
    for shape in SHAPES {
        let images = [Image::new(shape, 1.0, 0), Image::new(shape, 3.0, 3), Image::new(shape, 0.0, 0)];
        for attend in implementations() {
            let mut memory = Memory::default();
            for image in &images {
                assert_eq!(image.attended_in(attend, &mut memory), image.attended(attend), "{shape:?}");
            }
        }
    }
}

#[test]
fn a_shift_of_all_keys_changes_nothing_and_one_of_values_is_added() {
    let mut image = Image::new((100, 1, 64), 1.0, 0);
    for row in image.qkv.chunks_exact_mut(3 * 64) {
        row[64..128].iter_mut().for_each(|key| *key += 20.0);
        row[128..].iter_mut().for_each(|value| *value += 100.0);
    }
    let found = image.attended(implementations()[0]);
    for (found, exact) in found.iter().zip(image.exact()) {
        assert!((f64::from(*found) - exact).abs() <= 1e-2, "{found}, not {exact}");
    }
}

#[test]
fn what_is_no_number_stays_in_its_head() {
    let clean = Image::new((40, 2, 32), 1.0, 0);
    let wanted = clean.attended(implementations()[0]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        for third in 0..3 {
            let mut image = Image { qkv: clean.qkv.clone(), bias: clean.bias.clone(), ..clean };
            image.qkv[7 * 192 + third * 64 + 40] = bad;
            for attend in implementations() {
                let found = image.attended(attend);
                for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    let (row, column) = (i / 64, i % 64);
                    if column < 32 || (third == 0 && row != 7) || (third == 2 && column != 40) {
                        assert_eq!(found, wanted);
                    } else if bad != f32::MAX {
                        assert!(!found.is_finite(), "{bad} in {third}: {found} at {row}, {column}");
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_are_averaged() {
    let mut image = Image::new((19, 1, 16), 1.0, 0);
    image.bias.fill(0.0);
    for row in image.qkv.chunks_exact_mut(3 * 16) {
        row[..32].fill(0.0);
    }
    assert!(image.error(&image.attended(implementations()[0])) <= 1e-3);
    image.qkv.fill(0.0);
    assert!(implementations().into_iter().all(|attend| image.attended(attend) == [0.0; 19 * 16]));
}

#[test]
fn sums_at_their_limits_do_not_overflow() {
    for size in [1, 2, 7, 64, 80, 144] {
        let tokens = 512;
        // Weights that are all as large as can be, once with scores that are so too.
        let element = |i: usize| {
            let (token, third) = (i / (3 * size), i / size % 3);
            if third == 0 {
                (token % 2) as f32
            } else if token < tokens / 2 {
                1.0
            } else {
                -1.0
            }
        };
        let qkv = (0..tokens * 3 * size).map(element).collect();
        let image = Image { tokens, heads: 1, size, qkv, bias: vec![0.0; 3 * size] };
        for attend in implementations() {
            for (found, exact) in image.attended(attend).iter().zip(image.exact()) {
                assert!((f64::from(*found) - exact).abs() <= 1e-3, "{size}: {found}, not {exact}");
            }
        }
    }
}
