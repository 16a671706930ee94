//! Queries, keys and values of a head as 16-bit integers, for [`super::self_attention`].
//!
//! Keys lack their mean over the tokens, which changes no softmax, and are of 16 bits for the head; each query is of as
//! many bits as leave its scores in 32 bits, some 12. Values lack their mean, which is added to the results since weights
//! sum to one, and are of 12 bits for each column.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function has the one requirement of `Dot`: the processor has the instructions"
)]

use super::dot::{Dot, narrowed};
use super::lanes::{LANES, Lanes};

/// Elements that [`Dot::narrow`] turns into pairs.
pub(super) const GROUP: usize = 2 * LANES;

/// Sixteen elements at an address from which they are read at once.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T>([T; LANES]);

/// Memory for as many elements, a multiple of [`LANES`], which are zeros or those of an earlier use of the same length.
pub(super) fn room<T: Copy + Default>(lines: &mut Vec<Line<T>>, len: usize) -> *mut T {
    lines.resize(len / LANES, Line([T::default(); LANES]));
    lines.as_mut_ptr().cast()
}

/// Largest magnitude of keys and queries.
const MOST_KEY: f32 = 32_767.0;

/// Sum of a query's magnitudes: its products with keys sum to less than 2^31.
const MOST_QUERY: f32 = 65_535.0;

/// Largest magnitude of values.
pub(super) const MOST_VALUE: f32 = 2040.0;

/// Least magnitude, by which zeros are divided.
const TINY: f32 = 1e-30;

/// A head of an image: its columns of queries, keys and values.
pub(super) struct Head<'a> {
    /// `[tokens, 3 width]`.
    pub(super) qkv: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) width: usize,
    /// First column.
    pub(super) first: usize,
    /// Number of columns.
    pub(super) size: usize,
}

/// Which third of `qkv`.
#[derive(Clone, Copy)]
pub(super) enum Third {
    Queries,
    Keys,
    Values,
}

impl Head<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.qkv.len() / (3 * self.width)
    }

    pub(super) fn row(&self, third: Third, token: usize) -> &[f32] {
        &self.qkv[(3 * token + third as usize) * self.width + self.first..][..self.size]
    }

    fn bias(&self, third: Third) -> &[f32] {
        &self.bias[third as usize * self.width + self.first..][..self.size]
    }
}

/// Keys as integers.
pub(super) struct Keys {
    /// `[tokens / 16, pairs, 16]` pairs of dimensions, of a multiple of sixteen tokens.
    pub(super) packed: *const i32,
    pub(super) pairs: usize,
    /// Divisor of the keys; NaN if a key is NaN or infinite.
    pub(super) scale: f32,
}

/// Values as integers.
pub(super) struct Values {
    /// `[pairs of tokens, chunks, 16]`, in the order of [`Dot::narrow`].
    pub(super) packed: *const i32,
    pub(super) chunks: usize,
    /// What each column was divided by.
    pub(super) scales: Vec<f32>,
    /// What each column lacks, its bias included.
    pub(super) shifts: Vec<f32>,
}

/// Writes the queries of as many tokens as there are `scales` from `first` on, `[tokens, pairs]`, and the divisor of
/// each, which is NaN if the query is not finite.
#[inline(always)]
pub(super) unsafe fn pack_queries<D: Dot>(head: &Head<'_>, first: usize, to: *mut i32, scales: &mut [f32]) {
    let (bias, size) = (head.bias(Third::Queries), head.size);
    // Each step for all queries, of which one would wait for the step before.
    let mut magnitudes = [(D::Floats::splat(0.0), D::Floats::splat(0.0)); MOST_QUERIES];
    let magnitudes = &mut magnitudes[..scales.len()];
    for (magnitudes, token) in magnitudes.iter_mut().zip(first..) {
        *magnitudes = query_magnitudes(head.row(Third::Queries, token), bias);
    }
    for (scale, (largest, sum)) in scales.iter_mut().zip(magnitudes) {
        let (largest, sum) = (largest.largest(), sum.sum());
        // Rounding adds at most 1/2 for each dimension.
        *scale = (largest / MOST_KEY).max(sum / (MOST_QUERY - size as f32)) + 0.0 * sum;
    }
    for (i, scale) in scales.iter().enumerate() {
        let to = to.add(i * size.next_multiple_of(GROUP) / 2);
        narrow::<D>(head.row(Third::Queries, first + i), bias, 1.0 / scale, to);
    }
}

/// Most queries that are packed at once.
pub(super) const MOST_QUERIES: usize = 24;

/// Largest magnitude of a query and the sum of magnitudes, lane by lane.
#[inline(always)]
unsafe fn query_magnitudes<L: Lanes>(from: &[f32], bias: &[f32]) -> (L, L) {
    let (mut largest, mut sum) = (L::splat(TINY), L::splat(0.0));
    for at in (0..from.len()).step_by(LANES) {
        let magnitude = lanes::<L>(from, at).add(lanes::<L>(bias, at)).abs();
        largest = largest.max(magnitude);
        sum = sum.add(magnitude);
    }
    (largest, sum)
}

/// `(row + shift) factor` as pairs of integers.
#[inline(always)]
unsafe fn narrow<D: Dot>(row: &[f32], shift: &[f32], factor: f32, to: *mut i32) {
    let factor = D::Floats::splat(factor);
    for at in (0..row.len()).step_by(GROUP) {
        let low = lanes::<D::Floats>(row, at).add(lanes(shift, at)).mul(factor);
        let high = lanes::<D::Floats>(row, at + LANES).add(lanes(shift, at + LANES)).mul(factor);
        D::rounded(low).narrow(D::rounded(high)).store(to.add(at / 2));
    }
}

/// Packs keys into `packed`, of zeros or an earlier head's of as many tokens and dimensions.
#[inline(always)]
pub(super) unsafe fn pack_keys<D: Dot>(head: &Head<'_>, packed: &mut Vec<Line<i32>>) -> Keys {
    let (tokens, size) = (head.tokens(), head.size);
    let pairs = size.next_multiple_of(GROUP) / 2;
    let (means, magnitudes) = columns::<D::Floats>(head, Third::Keys);
    let scale = magnitudes.iter().fold(TINY, |most, x| most.max(*x)) / MOST_KEY;
    let minus: Vec<f32> = means.iter().map(|mean| -mean).collect();
    let to = room(packed, tokens.next_multiple_of(LANES) * pairs);
    let mut block = vec![0; LANES * pairs];
    for first in (0..tokens).step_by(LANES) {
        for row in 0..LANES {
            // Further tokens have the last one's key, which changes no largest score.
            let from = head.row(Third::Keys, (first + row).min(tokens - 1));
            narrow::<D>(from, &minus[..size], 1.0 / scale, block.as_mut_ptr().add(row * pairs));
        }
        for at in (0..pairs).step_by(LANES) {
            D::transpose(block.as_ptr().add(at), pairs, to.add(first * pairs + at * LANES));
        }
    }
    // NaN if a key is not finite.
    Keys { packed: to, pairs, scale: scale + 0.0 * means.iter().sum::<f32>() }
}

/// Packs values into `packed`, of zeros or an earlier head's of as many tokens and columns.
#[inline(always)]
pub(super) unsafe fn pack_values<D: Dot>(head: &Head<'_>, packed: &mut Vec<Line<i32>>) -> Values {
    let (tokens, size) = (head.tokens(), head.size);
    let stride = size.next_multiple_of(LANES);
    let (mut shifts, mut scales) = columns::<D::Floats>(head, Third::Values);
    scales.iter_mut().for_each(|scale| *scale = scale.max(TINY) / MOST_VALUE);
    let minus: Vec<f32> = shifts.iter().map(|mean| -mean).collect();
    let factors: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
    let to = room(packed, tokens.next_multiple_of(GROUP) / 2 * stride);
    for i in 0..tokens.next_multiple_of(GROUP) / 2 {
        let token = first_of_pair(i);
        if token >= tokens {
            continue;
        }
        let from = (head.row(Third::Values, token), head.row(Third::Values, (token + 1).min(tokens - 1)));
        for at in (0..size).step_by(LANES) {
            let (minus, factor) = (lanes::<D::Floats>(&minus, at), lanes::<D::Floats>(&factors, at));
            let low = D::rounded(lanes::<D::Floats>(from.0, at).add(minus).mul(factor));
            let mut high = D::splat(0);
            if token + 1 < tokens {
                high = D::rounded(lanes::<D::Floats>(from.1, at).add(minus).mul(factor));
            }
            low.pair(high).store(to.add(i * stride + at));
        }
    }
    shifts.iter_mut().zip(head.bias(Third::Values)).for_each(|(shift, bias)| *shift += bias);
    Values { packed: to, chunks: stride / LANES, scales, shifts }
}

/// Asks for what is read soon.
#[inline(always)]
pub(super) fn prefetch(x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..x.len()).step_by(LANES) {
        // SAFETY: reads nothing.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(x.as_ptr().add(at).cast()) };
    }
}

/// Sixteen elements from `at` on, zeros after the last.
#[inline(always)]
unsafe fn lanes<L: Lanes>(from: &[f32], at: usize) -> L {
    if at + LANES <= from.len() {
        return L::load(from.as_ptr().add(at));
    }
    let mut some = [0f32; LANES];
    if at < from.len() {
        some[..from.len() - at].copy_from_slice(&from[at..]);
    }
    L::load(some.as_ptr())
}

/// Mean of each column and its largest distance from it, for a multiple of sixteen columns.
#[inline(always)]
unsafe fn columns<L: Lanes>(head: &Head<'_>, third: Third) -> (Vec<f32>, Vec<f32>) {
    let padded = head.size.next_multiple_of(LANES);
    let (mut means, mut distances) = (vec![0f32; padded], vec![0f32; padded]);
    for at in (0..head.size).step_by(4 * LANES) {
        let (mut sums, mut least, mut most) = ([L::splat(0.0); 4], [L::splat(f32::MAX); 4], [L::splat(f32::MIN); 4]);
        for token in 0..head.tokens() {
            let row = head.row(third, token);
            // Rows are too far apart for the processor to see that they follow each other.
            prefetch(head.row(third, (token + 16).min(head.tokens() - 1)));
            for i in 0..4 {
                let x = lanes::<L>(row, at + i * LANES);
                sums[i] = sums[i].add(x);
                least[i] = least[i].min(x);
                most[i] = most[i].max(x);
            }
        }
        for i in 0..4 {
            let at = at + i * LANES;
            if at < padded {
                let mean = sums[i].div(L::splat(head.tokens() as f32));
                let minus = mean.mul(L::splat(-1.0));
                mean.store(means.as_mut_ptr().add(at));
                most[i].add(minus).max(least[i].add(minus).abs()).store(distances.as_mut_ptr().add(at));
            }
        }
    }
    (means, distances)
}

/// First token of pair `i` of weights.
fn first_of_pair(i: usize) -> usize {
    i / LANES * GROUP + narrowed(i % LANES)
}

/// For each pair of tokens 1 for those that there are.
pub(super) fn real_pairs(tokens: usize) -> Vec<i32> {
    let pair = |i: usize| {
        let token = first_of_pair(i);
        i32::from(token < tokens) | i32::from(token + 1 < tokens) << 16
    };
    (0..tokens.next_multiple_of(GROUP) / 2).map(pair).collect()
}
