//! Pillow's bicubic `resize`, byte for byte.
//!
//! `fast_image_resize` follows Pillow's windows, but has 16-bit weights and always resizes vertically first: on real
//! images it is off by up to two grey levels, where a test against a golden file should demand equality. Pillow's
//! algorithm (22-bit weights, bytes between the two passes) is short. The intermediate image is never stored, so that a
//! strip of a million rows does not exhaust memory.

/// Fractional bits of a weight: 32, less 8 of a sample, less 2 against overflow.
const PRECISION: u32 = 22;

/// Input samples and weights of one output sample.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    }
}

/// Windows of `to` output samples over `from` input samples; wider when shrinking, which is the antialiasing.
fn windows(from: u32, to: u32) -> Vec<Window> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let inverse = 1.0 / stretch;
    let window = |at: u32| {
        let centre = (f64::from(at) + 0.5) * scale;
        // Truncated like C's casts.
        let start = (centre - support + 0.5).max(0.0) as u32;
        let end = ((centre + support + 0.5) as u32).min(from);
        let weights: Vec<f64> = (start..end).map(|x| cubic((f64::from(x) - centre + 0.5) * inverse)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let scaled = weight / sum * f64::from(1 << PRECISION);
            (scaled + 0.5_f64.copysign(scaled)) as i32
        };
        Window { start: start as usize, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

const HALF: i32 = 1 << (PRECISION - 1);

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes one row horizontally. Wrapping sums only please the compiler: absolute weights add up to less than two.
fn squash_row(row: &[u8], windows: &[Window], out: &mut [u8]) {
    for (pixel, window) in out.as_chunks_mut::<3>().0.iter_mut().zip(windows) {
        let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
        for (sample, weight) in row[window.start * 3..].as_chunks::<3>().0.iter().zip(&window.weights) {
            red = red.wrapping_add(weight.wrapping_mul(i32::from(sample[0])));
            green = green.wrapping_add(weight.wrapping_mul(i32::from(sample[1])));
            blue = blue.wrapping_add(weight.wrapping_mul(i32::from(sample[2])));
        }
        *pixel = [byte(red), byte(green), byte(blue)];
    }
}

/// Resizes rows of RGB from size `from` = (width, height), neither zero, to size `to`.
pub(super) fn bicubic(data: &[u8], from: (u32, u32), to: (u32, u32)) -> Vec<u8> {
    let columns = (from.0 != to.0).then(|| windows(from.0, to.0));
    let rows = (from.1 != to.1).then(|| windows(from.1, to.1));
    let length = from.0 as usize * 3;
    match (columns, rows) {
        (None, None) => data.to_vec(),
        (None, Some(rows)) => down_first(data, length, None, &rows),
        (Some(columns), None) => {
            let mut out = vec![0; columns.len() * 3 * to.1 as usize];
            for (row, out) in data.chunks_exact(length).zip(out.chunks_exact_mut(columns.len() * 3)) {
                squash_row(row, &columns, out);
            }
            out
        }
        (Some(columns), Some(rows)) => {
            // Pillow's rule since 13.0; before, it always resized horizontally first. The order matters, because a byte
            // is rounded (and clipped, around hard edges) between the two passes.
            let shrinks = (i64::from(from.0) - i64::from(to.0), i64::from(from.1) - i64::from(to.1));
            if shrinks.1 > 0 && shrinks.1 > 2 * shrinks.0 {
                down_first(data, length, Some(&columns), &rows)
            } else {
                along_first(data, length, &columns, &rows)
            }
        }
    }
}

fn add(sums: &mut [i32], row: &[u8], weight: i32) {
    for (sum, sample) in sums.iter_mut().zip(row) {
        *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(*sample)));
    }
}

/// Vertical pass first: each output row is a weighted sum of input rows, then resized horizontally.
fn down_first(data: &[u8], length: usize, columns: Option<&[Window]>, rows: &[Window]) -> Vec<u8> {
    let mut sums = vec![0; length];
    let mut tall = vec![0; length];
    let out_length = columns.map_or(length, |columns| columns.len() * 3);
    let mut out = vec![0; out_length * rows.len()];
    for (window, out) in rows.iter().zip(out.chunks_exact_mut(out_length)) {
        sums.fill(HALF);
        for (row, weight) in data.chunks_exact(length).skip(window.start).zip(&window.weights) {
            add(&mut sums, row, *weight);
        }
        let bytes = if columns.is_some() { &mut tall[..] } else { &mut *out };
        bytes.iter_mut().zip(&sums).for_each(|(to, sum)| *to = byte(*sum));
        if let Some(columns) = columns {
            squash_row(&tall, columns, out);
        }
    }
    out
}

/// Horizontal pass first: each input row is resized, added to the output rows that it contributes to, and dropped.
fn along_first(data: &[u8], length: usize, columns: &[Window], rows: &[Window]) -> Vec<u8> {
    let out_length = columns.len() * 3;
    let mut squashed = vec![0; out_length];
    let mut sums = vec![HALF; out_length * rows.len()];
    // Output rows before this one are complete.
    let mut first = 0;
    for (y, row) in data.chunks_exact(length).enumerate() {
        squash_row(row, columns, &mut squashed);
        while rows.get(first).is_some_and(|window| window.start + window.weights.len() <= y) {
            first += 1;
        }
        let touched = rows[first..].iter().take_while(|window| window.start <= y);
        for (window, sums) in touched.zip(sums.chunks_exact_mut(out_length).skip(first)) {
            if let Some(weight) = window.weights.get(y - window.start) {
                add(sums, &squashed, *weight);
            }
        }
    }
    sums.into_iter().map(byte).collect()
}
