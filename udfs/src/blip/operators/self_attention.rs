//! `SelfAttention`: self-attention over an image's tokens, computed with products of 16-bit integers.
//!
//! Processors with AVX-512 multiply twice as many 16-bit integers at once as floats, and what rounding to them loses
//! (0.1 % of the result) is less than the int8 products around lose. Weights are of 13 bits below the row's largest,
//! which is 1, and results are divided by the sum of the rounded ones. Sums over [`SUMMED`] tokens fit in 32 bits;
//! beyond that they are of floats.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every unsafe function has the requirement of `Dot` or of `Attend`, and so have its calls"
)]

use std::f32::consts::LOG2_E;
use std::sync::{Mutex, PoisonError};

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::Float32;

use super::arithmetic::exp2_roughly;
use super::context::{Parts, input, output};
use super::dot::{Dot, Plain, ROWS, products};
use super::lanes::{LANES, Lanes};
use super::pack::heads;
use super::words::{
    GROUP, Head, Keys, Line, MOST_QUERIES, Third, Values, pack_keys, pack_queries, pack_values, prefetch, real_pairs,
    room,
};

/// `qkv` `[B, tokens, 3 width]` and their bias `[3 width]`, attribute `num_heads` -> `[B, tokens, width]`:
/// `softmax(q k^T / sqrt(head size)) v` for each head, where the keys' bias, which changes no softmax, is left out. An
/// image's result does not depend on other images.
pub(super) struct SelfAttention;

impl Operator for SelfAttention {
    type Kernel<'a> = SelfAttentionKernel;

    fn name(&self) -> &str {
        "SelfAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32), OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, kernel: &KernelContext<'a>) -> ort::Result<SelfAttentionKernel> {
        Ok(SelfAttentionKernel { heads: heads(kernel)? })
    }
}

pub(super) struct SelfAttentionKernel {
    heads: usize,
}

impl Kernel for SelfAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (qkv, bias) = (input(context, 0)?, input(context, 1)?);
        let (shape, qkv) = qkv.try_extract_tensor::<f32>()?;
        let bias = bias.try_extract_tensor::<f32>()?.1;
        let &[images, tokens, all] = &**shape else {
            return Err(ort::Error::new("queries, keys and values have three dimensions"));
        };
        let (images, tokens, width, heads) = (images as usize, tokens as usize, all as usize / 3, self.heads);
        let size = width / heads;
        if all as usize != 3 * heads * size || bias.len() != 3 * width {
            return Err(ort::Error::new("queries, keys, values and bias are not of the same heads"));
        }
        if size == 0 || size > MOST_SIZE || tokens > MOST_TOKENS {
            return Err(ort::Error::new(format!("attention of {tokens} tokens and heads of {size} is not supported")));
        }
        let mut out = output(context, 0, vec![images as i64, tokens as i64, width as i64])?;
        let out = Parts::of(out.try_extract_tensor_mut::<f32>()?.1);
        if tokens == 0 {
            return Ok(());
        }
        // Memory of as many heads as there are threads.
        let memory = Mutex::new(Vec::<Memory>::new());
        let free = || memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (each, real, attend) = (tokens * 3 * width, real_pairs(tokens), implementations()[0]);
        context.par_for(images * heads, 0, |number| {
            let (image, first) = (number / heads, number % heads * size);
            let head = Head { qkv: &qkv[image * each..][..each], bias, width, first, size };
            let mut memory = free().pop().unwrap_or_default();
            // SAFETY: the columns of each head of an image are written by one call.
            unsafe { attend(&head, &real, &mut memory, &out, image * tokens * width + first) };
            free().push(memory);
        })
    }
}

/// Largest supported head size: queries keep at least one bit per dimension.
const MOST_SIZE: usize = 1 << 14;

/// Most tokens, so that the sum of a row's weights fits in 32 bits.
const MOST_TOKENS: usize = 1 << 21;

/// Bits of the largest weight of a row, which is 2^13 and, inexact as it is, one more at most.
const WEIGHT_BITS: f32 = 13.0;

/// Number of tokens whose weighted values are summed in 32 bits: each product is at most 8193 times
/// [`super::words::MOST_VALUE`].
const SUMMED: usize = 128;

/// Number of rows whose scores are in memory at once.
const BLOCK: usize = MOST_QUERIES;
const _: () = assert!(BLOCK.is_multiple_of(ROWS));

/// Writes the head's columns of `out`, from element `start` on; `real` is what [`real_pairs`] gives.
///
/// # Safety
/// Nothing else uses these columns of `out` at the same time.
type Attend = unsafe fn(head: &Head<'_>, real: &[i32], memory: &mut Memory, out: &Parts<'_, f32>, start: usize);

/// The implementations for which the processor has the instructions, the fastest first. All give the same.
fn implementations() -> Vec<Attend> {
    let mut all: Vec<Attend> = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        use super::dot::{Avx512, Two, has_avx512_words, has_vnni};
        use super::lanes::has_avx2;

        #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
        unsafe fn vnni(head: &Head<'_>, real: &[i32], memory: &mut Memory, out: &Parts<'_, f32>, start: usize) {
            // SAFETY: the caller's, and the instructions are there.
            unsafe { all_rows::<Avx512<true>>(head, real, memory, out, start) }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
        unsafe fn avx512(head: &Head<'_>, real: &[i32], memory: &mut Memory, out: &Parts<'_, f32>, start: usize) {
            // SAFETY: as above.
            unsafe { all_rows::<Avx512<false>>(head, real, memory, out, start) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(head: &Head<'_>, real: &[i32], memory: &mut Memory, out: &Parts<'_, f32>, start: usize) {
            // SAFETY: as above.
            unsafe { all_rows::<Two>(head, real, memory, out, start) }
        }
        if has_vnni() {
            all.push(vnni);
        }
        if has_avx512_words() {
            all.push(avx512);
        }
        if has_avx2() {
            all.push(avx2);
        }
    }
    all.push(all_rows::<Plain>);
    all
}

/// Whether the processor has the instructions with which this operator is faster than ONNX Runtime's attention in
/// floats.
pub(crate) fn has_fast_self_attention() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::lanes::has_avx2();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// # Safety
/// That of [`Dot`] and of [`Attend`].
#[inline(always)]
unsafe fn all_rows<D: Dot>(head: &Head<'_>, real: &[i32], memory: &mut Memory, out: &Parts<'_, f32>, start: usize) {
    let tokens = head.tokens();
    let (keys, values) = (pack_keys::<D>(head, &mut memory.keys), pack_values::<D>(head, &mut memory.values));
    let block = &Block {
        queries: room(&mut memory.queries, BLOCK * keys.pairs),
        scores: room(&mut memory.scores, BLOCK * tokens.next_multiple_of(GROUP)),
        most: room(&mut memory.most, BLOCK * LANES),
        sums: room(&mut memory.sums, BLOCK * values.chunks * LANES),
    };
    for first in (0..tokens).step_by(BLOCK) {
        let count = BLOCK.min(tokens - first);
        for row in first + BLOCK..tokens.min(first + 2 * BLOCK) {
            prefetch(head.row(Third::Queries, row));
        }
        for row in first..first + count {
            prefetch(out.part(start + row * head.width, head.size));
        }
        let mut scales = [0f32; BLOCK];
        let scales = &mut scales[..count];
        pack_queries::<D>(head, first, block.queries, scales);
        scales.iter_mut().for_each(|scale| *scale *= keys.scale * (LOG2_E / (head.size as f32).sqrt()));
        all_scores::<D>(&keys, tokens, count, block);
        all_weights::<D>(tokens, real, scales, block);
        all_averages::<D>(&values, tokens, count, block);
        for (row, factor) in scales.iter().enumerate() {
            let to = out.part(start + (first + row) * head.width, head.size).as_mut_ptr();
            let sums = block.sums.add(row * values.chunks * LANES);
            let factor = D::Floats::splat(*factor);
            for at in (0..head.size).step_by(LANES) {
                let scale = D::Floats::load(values.scales.as_ptr().add(at)).mul(factor);
                let shift = D::Floats::load(values.shifts.as_ptr().add(at));
                let x = D::Floats::load(sums.add(at)).mul_add(scale, shift);
                if at + LANES <= head.size {
                    x.store(to.add(at));
                } else {
                    x.store(sums.add(at));
                    std::ptr::copy_nonoverlapping(sums.add(at), to.add(at), head.size - at);
                }
            }
        }
    }
}

/// Memory of a head, and then of another one of the same shape.
#[derive(Default)]
struct Memory {
    keys: Vec<Line<i32>>,
    values: Vec<Line<i32>>,
    queries: Vec<Line<i32>>,
    scores: Vec<Line<i32>>,
    most: Vec<Line<i32>>,
    sums: Vec<Line<f32>>,
}

/// Memory of [`BLOCK`] rows.
struct Block {
    /// `[rows, pairs]`.
    queries: *mut i32,
    /// Scores `[rows, tokens]`, a multiple of [`GROUP`] tokens, and then in their place pairs of weights.
    scores: *mut i32,
    /// Largest scores of each row, and then sums of its weights, lane by lane.
    most: *mut i32,
    /// `[rows, chunks, 16]`.
    sums: *mut f32,
}

#[inline(always)]
unsafe fn all_scores<D: Dot>(keys: &Keys, tokens: usize, rows: usize, block: &Block) {
    let (end, stride, pairs) = (tokens.next_multiple_of(LANES), tokens.next_multiple_of(GROUP), keys.pairs);
    for row in 0..rows.next_multiple_of(ROWS) {
        D::splat(i32::MIN).store(block.most.add(row * LANES));
    }
    let mut token = 0;
    while token < end {
        let columns = match (end - token) / LANES {
            // Five as three and two, since one alone would wait for its sums.
            5 if D::COLUMNS == 4 => 3,
            columns => columns.min(D::COLUMNS),
        };
        for row in (0..rows).step_by(ROWS) {
            let from = (keys.packed.add(token * pairs), block.queries.add(row * pairs).cast_const());
            let (to, most) = (block.scores.add(row * stride + token), block.most.add(row * LANES));
            match columns {
                1 => score::<D, 1>(from, pairs, to, stride, most),
                2 => score::<D, 2>(from, pairs, to, stride, most),
                3 => score::<D, 3>(from, pairs, to, stride, most),
                _ => score::<D, 4>(from, pairs, to, stride, most),
            }
        }
        token += columns * LANES;
    }
}

/// Turns scores into weights, and `scales` from the scores' into what the weighted values are multiplied by.
#[inline(always)]
unsafe fn all_weights<D: Dot>(tokens: usize, real: &[i32], scales: &mut [f32], block: &Block) {
    let (end, stride) = (tokens.next_multiple_of(LANES), tokens.next_multiple_of(GROUP));
    // Largest scores and sums apart, for which the weights would wait.
    let mut largest = [0f32; BLOCK];
    for (row, largest) in largest[..scales.len()].iter_mut().enumerate() {
        *largest = D::load(block.most.add(row * LANES)).floats().largest();
    }
    for (row, scale) in scales.iter().enumerate() {
        let scores = block.scores.add(row * stride);
        let sum = weigh::<D>(scores, end, largest[row], *scale, real.as_ptr());
        sum.store(block.most.add(row * LANES));
    }
    for (row, scale) in scales.iter_mut().enumerate() {
        let sum = D::load(block.most.add(row * LANES)).floats().sum();
        // NaN if the scale is NaN.
        *scale = (1.0 + 0.0 * *scale) / sum;
    }
}

#[inline(always)]
unsafe fn all_averages<D: Dot>(values: &Values, tokens: usize, rows: usize, block: &Block) {
    let (stride, chunks) = (tokens.next_multiple_of(GROUP), values.chunks);
    for at in 0..rows.next_multiple_of(ROWS) * chunks {
        D::Floats::splat(0.0).store(block.sums.add(at * LANES));
    }
    for token in (0..stride).step_by(SUMMED) {
        let count = SUMMED.min(stride - token) / 2;
        for chunk in (0..chunks).step_by(D::COLUMNS) {
            let values = values.packed.add((token / 2 * chunks + chunk) * LANES);
            for row in (0..rows).step_by(ROWS) {
                let from = (values, block.scores.add(row * stride + token / 2).cast_const());
                let to = block.sums.add((row * chunks + chunk) * LANES);
                match (chunks - chunk).min(D::COLUMNS) {
                    1 => average::<D, 1>(from, chunks, stride, count, to),
                    2 => average::<D, 2>(from, chunks, stride, count, to),
                    3 => average::<D, 3>(from, chunks, stride, count, to),
                    _ => average::<D, 4>(from, chunks, stride, count, to),
                }
            }
        }
    }
}

/// Scores of [`ROWS`] queries with `C` times sixteen keys, and the largest of each row so far.
#[inline(always)]
unsafe fn score<D: Dot, const C: usize>(
    (keys, queries): (*const i32, *const i32),
    pairs: usize,
    scores: *mut i32,
    stride: usize,
    most: *mut i32,
) {
    let sums = products::<D, C>((queries, pairs), (keys, LANES, pairs * LANES), pairs);
    for (r, sums) in sums.iter().enumerate() {
        let mut largest = D::load(most.add(r * LANES));
        for (c, sum) in sums.iter().enumerate() {
            sum.store(scores.add(r * stride + c * LANES));
            largest = largest.max(*sum);
        }
        largest.store(most.add(r * LANES));
    }
}

/// Turns a row's scores into pairs of weights, and gives the sum of those of `real` tokens.
#[inline(always)]
unsafe fn weigh<D: Dot>(scores: *mut i32, tokens: usize, most: f32, scale: f32, real: *const i32) -> D {
    let (minus, scale) = (D::Floats::splat(-most), D::Floats::splat(scale));
    let mut sum = D::splat(0);
    for token in (0..tokens).step_by(GROUP) {
        let low = weights::<D>(scores.add(token), minus, scale);
        let mut high = D::splat(0);
        if token + LANES < tokens {
            high = weights::<D>(scores.add(token + LANES), minus, scale);
        }
        let pairs = low.narrow(high);
        sum = sum.add_products(pairs, D::load(real.add(token / 2)));
        // The scores that lie there have been read.
        pairs.store(scores.add(token / 2));
    }
    sum
}

#[inline(always)]
unsafe fn weights<D: Dot>(scores: *const i32, minus: D::Floats, scale: D::Floats) -> D {
    // The largest score's exponent is exact.
    let exponents = D::load(scores).floats().add(minus).mul_add(scale, D::Floats::splat(WEIGHT_BITS));
    D::rounded(exp2_roughly(exponents))
}

/// Adds to sums of [`ROWS`] rows the weighted values of `count` pairs of tokens, in `C` times sixteen columns.
#[inline(always)]
unsafe fn average<D: Dot, const C: usize>(
    (values, weights): (*const i32, *const i32),
    chunks: usize,
    stride: usize,
    count: usize,
    to: *mut f32,
) {
    let sums = products::<D, C>((weights, stride), (values, chunks * LANES, LANES), count);
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            let to = to.add((r * chunks + c) * LANES);
            D::Floats::load(to).add(sum.floats()).store(to);
        }
    }
}

#[cfg(test)]
mod tests;
