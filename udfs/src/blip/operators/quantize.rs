//! `QuantizeRows`: activations of integer products as bytes.

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Uint8};

use super::context::{Parts, by_rows, input, output};
use super::lanes::{LANES, Lanes, dispatch};

/// `x` `[.., width]` -> bytes of its shape and a scale for each row `[.., 1]`: `x` is `(byte - 128) scale`, and the largest
/// magnitude of a row becomes 127. A row's bytes do not depend on other rows.
pub(super) struct QuantizeRows;

impl Operator for QuantizeRows {
    type Kernel<'a> = QuantizeRowsKernel;

    fn name(&self) -> &str {
        "QuantizeRows"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Uint8), OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<QuantizeRowsKernel> {
        Ok(QuantizeRowsKernel)
    }
}

pub(super) struct QuantizeRowsKernel;

impl Kernel for QuantizeRowsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = input(context, 0)?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let mut dims = shape.to_vec();
        let mut bytes = output(context, 0, dims.clone())?;
        let width = dims.last().map_or(1, |&width| width as usize);
        if let Some(last) = dims.last_mut() {
            *last = 1;
        }
        let mut scales = output(context, 1, dims)?;
        let (bytes, scales) = (bytes.try_extract_tensor_mut::<u8>()?.1, scales.try_extract_tensor_mut::<f32>()?.1);
        let rows = scales.len();
        let (bytes, scales) = (Parts::of(bytes), Parts::of(scales));
        by_rows(context, rows, width, |first, count| {
            // SAFETY: each block of rows is written by one call.
            let (bytes, scales) = unsafe { (bytes.part(first * width, count * width), scales.part(first, count)) };
            quantize_rows(&x[first * width..(first + count) * width], width, bytes, scales);
        })
    }
}

fn quantize_rows(x: &[f32], width: usize, bytes: &mut [u8], scales: &mut [f32]) {
    assert!(x.len() == bytes.len() && x.len() == width * scales.len());
    dispatch!(quantize(x: &[f32], width: usize, bytes: &mut [u8], scales: &mut [f32]))
}

/// # Safety
/// That of [`Lanes`]; `x` and `bytes` have `width` elements for each of `scales`.
#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn quantize<L: Lanes>(x: &[f32], width: usize, bytes: &mut [u8], scales: &mut [f32]) {
    /// Least magnitude, by which a row of zeros is divided.
    const TINY: f32 = 1e-8;
    let (whole, rest) = (width / LANES * LANES, width % LANES);
    for (row, scale) in scales.iter_mut().enumerate() {
        let (from, to) = (x.as_ptr().add(row * width), bytes.as_mut_ptr().add(row * width));
        let mut tail = [0f32; LANES];
        tail[..rest].copy_from_slice(&x[row * width + whole..(row + 1) * width]);
        let mut largest = L::load(tail.as_ptr()).abs();
        for at in (0..whole).step_by(LANES) {
            largest = largest.max(L::load(from.add(at)).abs());
        }
        let magnitude = largest.largest().max(TINY);
        let factor = L::splat(127.0 / magnitude);
        for at in (0..whole).step_by(LANES) {
            L::load(from.add(at)).mul(factor).store_bytes(to.add(at));
        }
        let mut last = [0u8; LANES];
        L::load(tail.as_ptr()).mul(factor).store_bytes(last.as_mut_ptr());
        bytes[row * width + whole..(row + 1) * width].copy_from_slice(&last[..rest]);
        *scale = magnitude * (1.0 / 127.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Portable;
    use super::*;

    #[test]
    fn a_row_has_bytes_of_its_own() {
        for width in [1, 15, 16, 17, 48, 100] {
            let rows = 5;
            let x: Vec<f32> =
                (0..rows * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / (1.0 + (i / width) as f32)).collect();
            let (mut bytes, mut scales) = (vec![0; x.len()], vec![0.0; rows]);
            quantize_rows(&x, width, &mut bytes, &mut scales);
            let (mut same_bytes, mut same_scales) = (vec![0; x.len()], vec![0.0; rows]);
            // SAFETY: needs no special instructions.
            unsafe { quantize::<Portable>(&x, width, &mut same_bytes, &mut same_scales) };
            assert_eq!((&bytes, &scales), (&same_bytes, &same_scales));
            for row in 0..rows {
                let (values, found) = (&x[row * width..][..width], &bytes[row * width..][..width]);
                let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
                assert!((scales[row] * 127.0 - most).abs() <= 1e-6 * most);
                for (x, byte) in values.iter().zip(found) {
                    assert_eq!(*byte, (x * (127.0 / most)).round_ties_even() as i32 as u8 ^ 128, "{x} of {most}");
                }
                let (mut alone, mut scale) = (vec![0; width], vec![0.0]);
                quantize_rows(values, width, &mut alone, &mut scale);
                assert_eq!((&alone[..], scale[0]), (found, scales[row]));
            }
        }
        let (mut bytes, mut scales) = (vec![0; 32], vec![1.0; 2]);
        quantize_rows(&[0.0; 32], 16, &mut bytes, &mut scales);
        assert_eq!(bytes, [128; 32]);
    }
}
