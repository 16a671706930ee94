//! `PackKeys` and `PackValues`: cross-attention keys and values in the order in which [`super::attend`] reads them.
//!
//! Keys of a head are `[tokens / 16, head size, 16]`: sixteen tokens' scores are sums of sixteen lanes over the head's
//! dimensions. Values are `[head size / 16, tokens, 16]`. Both are padded with zeros and in half precision, whose error
//! (5e-4 of a value) is below that of the int8 products that they come from, and which halves what each step reads.

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float16, Float32};

use super::context::{Parts, input, output};
use super::lanes::{LANES, Lanes, dispatch};

/// `y` `[B, tokens, width]`, attribute `num_heads` -> packed keys `[B, heads, ..]`.
pub(super) struct PackKeys;

/// `y` `[B, tokens, width]`, attribute `num_heads` -> packed values `[B, heads, ..]`.
pub(super) struct PackValues;

impl Operator for PackKeys {
    type Kernel<'a> = PackKernel;

    fn name(&self) -> &str {
        "PackKeys"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float16)]
    }

    fn create_kernel<'a>(&self, kernel: &KernelContext<'a>) -> ort::Result<PackKernel> {
        Ok(PackKernel { heads: heads(kernel)?, are_keys: true })
    }
}

impl Operator for PackValues {
    type Kernel<'a> = PackKernel;

    fn name(&self) -> &str {
        "PackValues"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        PackKeys.inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        PackKeys.outputs()
    }

    fn create_kernel<'a>(&self, kernel: &KernelContext<'a>) -> ort::Result<PackKernel> {
        Ok(PackKernel { heads: heads(kernel)?, are_keys: false })
    }
}

/// The attribute `num_heads`.
pub(super) fn heads(kernel: &KernelContext<'_>) -> ort::Result<usize> {
    let heads: Option<i64> = kernel.get("num_heads");
    heads
        .and_then(|heads| usize::try_from(heads).ok())
        .filter(|heads| *heads > 0)
        .ok_or_else(|| ort::Error::new("no num_heads"))
}

/// Elements of the packed keys of a head.
pub(super) fn packed_keys(tokens: usize, head_size: usize) -> usize {
    tokens.next_multiple_of(LANES) * head_size
}

/// Elements of the packed values of a head.
pub(super) fn packed_values(tokens: usize, head_size: usize) -> usize {
    tokens * head_size.next_multiple_of(LANES)
}

pub(super) struct PackKernel {
    heads: usize,
    are_keys: bool,
}

impl Kernel for PackKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let y = input(context, 0)?;
        let (shape, y) = y.try_extract_tensor::<f32>()?;
        let &[images, tokens, width] = &**shape else {
            return Err(ort::Error::new("keys and values have three dimensions"));
        };
        let (tokens, width, heads) = (tokens as usize, width as usize, self.heads);
        let head_size = width / heads;
        let each = if self.are_keys { packed_keys(tokens, head_size) } else { packed_values(tokens, head_size) };
        let mut packed = output(context, 0, vec![images, heads as i64, each as i64])?;
        let packed = Parts::of(packed.try_extract_tensor_mut::<f16>()?.1);
        let are_keys = self.are_keys;
        context.par_for(images as usize * heads, 0, |number| {
            let (image, head) = (number / heads, number % heads);
            let y =
                Head { y: &y[image * tokens * width..][..tokens * width], width, first: head * head_size, head_size };
            // SAFETY: each head is written by one call.
            let packed = unsafe { packed.part(number * each, each) };
            if are_keys { pack_keys(y, packed) } else { pack_values(y, packed) }
        })
    }
}

/// A head's columns of a matrix `[tokens, width]`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) y: &'a [f32],
    pub(super) width: usize,
    /// First column.
    pub(super) first: usize,
    /// Number of columns.
    pub(super) head_size: usize,
}

impl Head<'_> {
    fn row(&self, token: usize) -> &[f32] {
        &self.y[token * self.width + self.first..][..self.head_size]
    }

    fn tokens(&self) -> usize {
        self.y.len() / self.width
    }
}

pub(super) fn pack_keys(y: Head<'_>, packed: &mut [f16]) {
    assert_eq!(packed.len(), packed_keys(y.tokens(), y.head_size));
    dispatch!(keys(y: Head<'_>, packed: &mut [f16]))
}

pub(super) fn pack_values(y: Head<'_>, packed: &mut [f16]) {
    assert_eq!(packed.len(), packed_values(y.tokens(), y.head_size));
    dispatch!(values(y: Head<'_>, packed: &mut [f16]))
}

#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn keys<L: Lanes>(y: Head<'_>, packed: &mut [f16]) {
    for (block, to) in packed.chunks_exact_mut(y.head_size * LANES).enumerate() {
        let first = block * LANES;
        let count = LANES.min(y.tokens() - first);
        for (at, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = [0f32; LANES];
            for (lane, token) in lanes[..count].iter_mut().zip(first..) {
                *lane = y.y[token * y.width + y.first + at];
            }
            L::load(lanes.as_ptr()).store_half(to.as_mut_ptr().cast());
        }
    }
}

#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn values<L: Lanes>(y: Head<'_>, packed: &mut [f16]) {
    for (chunk, to) in packed.chunks_exact_mut(y.tokens().max(1) * LANES).enumerate() {
        let first = chunk * LANES;
        let count = LANES.min(y.head_size - first);
        for (token, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = [0f32; LANES];
            lanes[..count].copy_from_slice(&y.row(token)[first..first + count]);
            L::load(lanes.as_ptr()).store_half(to.as_mut_ptr().cast());
        }
    }
}
