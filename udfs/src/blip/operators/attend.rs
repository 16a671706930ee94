//! `CrossAttention`: attention of few rows over packed keys and values, each of which is read once.

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float16, Float32};

use super::arithmetic::exp;
use super::context::{Parts, input, output};
use super::lanes::{LANES, Lanes, dispatch};
use super::pack::{heads, packed_keys, packed_values};

/// Queries `[B, rows, width]`, packed keys and values `[B, heads, ..]`, attribute `num_heads` -> `[B, rows, width]`:
/// `softmax(q k^T / sqrt(head size)) v` for each head. A row's result does not depend on other rows.
pub(super) struct CrossAttention;

impl Operator for CrossAttention {
    type Kernel<'a> = CrossAttentionKernel;

    fn name(&self) -> &str {
        "CrossAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32), OperatorInput::required(Float16), OperatorInput::required(Float16)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, kernel: &KernelContext<'a>) -> ort::Result<CrossAttentionKernel> {
        Ok(CrossAttentionKernel { heads: heads(kernel)? })
    }
}

pub(super) struct CrossAttentionKernel {
    heads: usize,
}

impl Kernel for CrossAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (queries, keys, values) = (input(context, 0)?, input(context, 1)?, input(context, 2)?);
        let (shape, queries) = queries.try_extract_tensor::<f32>()?;
        let &[images, rows, width] = &**shape else { return Err(ort::Error::new("queries have three dimensions")) };
        let (keys, values) = (keys.try_extract_tensor::<f16>()?.1, values.try_extract_tensor::<f16>()?.1);
        let mut out = output(context, 0, vec![images, rows, width])?;
        let out = Parts::of(out.try_extract_tensor_mut::<f32>()?.1);
        let (images, rows, width, heads) = (images as usize, rows as usize, width as usize, self.heads);
        let head_size = width / heads;
        let tokens = values.len() / (images * heads * head_size.next_multiple_of(LANES)).max(1);
        let (keys_each, values_each) = (packed_keys(tokens, head_size), packed_values(tokens, head_size));
        if keys.len() != images * heads * keys_each || values.len() != images * heads * values_each {
            return Err(ort::Error::new("the packed keys and values are not of the queries' images and heads"));
        }
        context.par_for(images * heads, 0, |number| {
            let (image, head) = (number / heads, number % heads);
            let task = Task {
                keys: &keys[number * keys_each..][..keys_each],
                values: &values[number * values_each..][..values_each],
                tokens,
                head_size,
            };
            let first = image * rows * width + head * head_size;
            let mut scratch = Scratch::new(&task, rows);
            for row in 0..rows {
                let from = &queries[first + row * width..][..head_size];
                scratch.queries[row * head_size..][..head_size].copy_from_slice(from);
            }
            attend(&task, &mut scratch);
            for row in 0..rows {
                // SAFETY: a row's part of a head is written by one call.
                let to = unsafe { out.part(first + row * width, head_size) };
                to.copy_from_slice(&scratch.out[row * head_size.next_multiple_of(LANES)..][..head_size]);
            }
        })
    }
}

/// Keys and values of one head of an image.
struct Task<'a> {
    keys: &'a [f16],
    values: &'a [f16],
    tokens: usize,
    head_size: usize,
}

/// Memory of a task.
struct Scratch {
    /// `[rows, head size]`.
    queries: Vec<f32>,
    /// Scores, and then their exponentials, of as many rows as are computed at once.
    scores: Vec<f32>,
    /// `[rows, padded head size]`.
    out: Vec<f32>,
}

impl Scratch {
    fn new(task: &Task<'_>, rows: usize) -> Self {
        Self {
            queries: vec![0.0; rows * task.head_size],
            scores: vec![0.0; MOST_ROWS.min(rows) * task.tokens.next_multiple_of(LANES)],
            out: vec![0.0; rows * task.head_size.next_multiple_of(LANES)],
        }
    }
}

/// Largest [`Lanes::ROWS`].
const MOST_ROWS: usize = 8;

fn attend(task: &Task<'_>, scratch: &mut Scratch) {
    dispatch!(all_rows(task: &Task<'_>, scratch: &mut Scratch))
}

/// # Safety
/// That of [`Lanes`]; the slices have the lengths that `task` says.
#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn all_rows<L: Lanes>(task: &Task<'_>, scratch: &mut Scratch) {
    let rows = scratch.queries.len() / task.head_size;
    let padded = task.head_size.next_multiple_of(LANES);
    let mut row = 0;
    while row < rows {
        let queries = scratch.queries.as_ptr().add(row * task.head_size);
        let (scores, out) = (scratch.scores.as_mut_ptr(), scratch.out.as_mut_ptr().add(row * padded));
        // Each row's sums are its own whatever the number of rows beside it.
        let count = (rows - row).min(L::ROWS);
        match count {
            1 => some_rows::<L, 1>(task, queries, scores, out),
            2 => some_rows::<L, 2>(task, queries, scores, out),
            3 => some_rows::<L, 3>(task, queries, scores, out),
            4 => some_rows::<L, 4>(task, queries, scores, out),
            5 => some_rows::<L, 5>(task, queries, scores, out),
            6 => some_rows::<L, 6>(task, queries, scores, out),
            7 => some_rows::<L, 7>(task, queries, scores, out),
            _ => some_rows::<L, 8>(task, queries, scores, out),
        }
        row += count;
    }
}

#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
#[allow(clippy::needless_range_loop, reason = "the rows of several arrays are walked together")]
unsafe fn some_rows<L: Lanes, const R: usize>(task: &Task<'_>, queries: *const f32, scores: *mut f32, out: *mut f32) {
    let (tokens, size) = (task.tokens, task.head_size);
    let (padded_tokens, padded) = (tokens.next_multiple_of(LANES), size.next_multiple_of(LANES));
    let scale = L::splat(1.0 / (size as f32).sqrt());
    let mut most = [L::splat(f32::MIN); R];
    for first in (0..tokens).step_by(LANES) {
        let keys = task.keys.as_ptr().add(first * size).cast::<u16>();
        let mut sums = [L::splat(0.0); R];
        for at in 0..size {
            let key = L::load_half(keys.add(at * LANES));
            for r in 0..R {
                sums[r] = L::splat(*queries.add(r * size + at)).mul_add(key, sums[r]);
            }
        }
        for r in 0..R {
            let to = scores.add(r * padded_tokens + first);
            sums[r].mul(scale).store(to);
            // The tokens that fill up the last block.
            for at in tokens.min(first + LANES)..first + LANES {
                *to.add(at - first) = f32::MIN;
            }
            most[r] = most[r].max(L::load(to));
        }
    }
    let mut divisors = [0f32; R];
    for r in 0..R {
        let minus = L::splat(-most[r].largest());
        let mut sum = L::splat(0.0);
        for first in (0..tokens).step_by(LANES) {
            let at = scores.add(r * padded_tokens + first);
            let e = exp(L::load(at).add(minus));
            e.store(at);
            sum = sum.add(e);
        }
        divisors[r] = sum.sum();
    }
    for chunk in 0..padded / LANES {
        let values = task.values.as_ptr().add(chunk * tokens * LANES).cast::<u16>();
        let mut sums = [L::splat(0.0); R];
        for token in 0..tokens {
            let value = L::load_half(values.add(token * LANES));
            for r in 0..R {
                sums[r] = L::splat(*scores.add(r * padded_tokens + token)).mul_add(value, sums[r]);
            }
        }
        for r in 0..R {
            sums[r].div(L::splat(divisors[r])).store(out.add(r * padded + chunk * LANES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Portable;
    use super::super::pack::{Head, pack_keys, pack_values};
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// Attention in float64 over keys and values rounded to half precision.
    fn exact(
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        tokens: usize,
        width: usize,
        head: (usize, usize),
    ) -> Vec<f64> {
        let (first, size) = head;
        let half = |x: f32| f64::from(f16::from_f32(x).to_f32());
        let mut out = vec![];
        for query in queries.chunks_exact(size) {
            let score = |token: usize| {
                let products = (0..size).map(|at| f64::from(query[at]) * half(keys[token * width + first + at]));
                products.sum::<f64>() / (size as f64).sqrt()
            };
            let scores: Vec<f64> = (0..tokens).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            out.extend((0..size).map(|at| {
                let weighted =
                    (0..tokens).map(|token| (scores[token] - most).exp() * half(values[token * width + first + at]));
                weighted.sum::<f64>() / sum
            }));
        }
        out
    }

    #[test]
    fn few_rows_attend_as_in_mathematics_and_apart_from_each_other() {
        for (tokens, heads, size) in [(577, 2, 64), (65, 4, 32), (16, 1, 16), (1, 1, 48), (50, 3, 20)] {
            let width = heads * size;
            let (keys, values) = (numbers(tokens * width, 1), numbers(tokens * width, 2));
            let head = heads - 1;
            let columns = |y| Head { y, width, first: head * size, head_size: size };
            let mut packed = (vec![f16::ZERO; packed_keys(tokens, size)], vec![f16::ZERO; packed_values(tokens, size)]);
            pack_keys(columns(&keys), &mut packed.0);
            pack_values(columns(&values), &mut packed.1);
            let task = Task { keys: &packed.0, values: &packed.1, tokens, head_size: size };
            let attended = |queries: &[f32], is_portable: bool| {
                let rows = queries.len() / size;
                let mut scratch = Scratch::new(&task, rows);
                scratch.queries.copy_from_slice(queries);
                if is_portable {
                    // SAFETY: needs no special instructions.
                    unsafe { all_rows::<Portable>(&task, &mut scratch) };
                } else {
                    attend(&task, &mut scratch);
                }
                let padded = size.next_multiple_of(LANES);
                scratch.out.chunks_exact(padded).flat_map(|row| row[..size].to_vec()).collect::<Vec<f32>>()
            };
            let queries: Vec<f32> = numbers(19 * size, 3).iter().map(|q| q * 8.0).collect();
            let wanted = exact(&queries, &keys, &values, tokens, width, (head * size, size));
            for is_portable in [false, true] {
                let all = attended(&queries, is_portable);
                for (found, wanted) in all.iter().zip(&wanted) {
                    assert!((f64::from(*found) - wanted).abs() <= 2e-6, "{found}, not {wanted}");
                }
                for rows in 1..=9 {
                    let some = attended(&queries[..rows * size], is_portable);
                    assert_eq!(some, all[..rows * size], "{rows} rows of {tokens} tokens");
                }
            }
        }
    }
}
