//! `Rescale` and `RescaleGelu`: what follows an integer product.

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::Float32;

use super::arithmetic::gelu;
use super::context::{Parts, Source, by_rows, input, output};
use super::lanes::{LANES, Lanes, dispatch};

/// `y` `[.., width]`, a scale for each row `[.., 1]` and a bias `[width]` -> `y scale + bias`.
pub(super) struct Rescale;

/// GELU of what [`Rescale`] gives.
pub(super) struct RescaleGelu;

impl Operator for Rescale {
    type Kernel<'a> = RescaleKernel;

    const INPLACES: &'static [(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        "Rescale"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32), OperatorInput::required(Float32), OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<RescaleKernel> {
        Ok(RescaleKernel { is_gelu: false })
    }
}

impl Operator for RescaleGelu {
    type Kernel<'a> = RescaleKernel;

    const INPLACES: &'static [(u32, u32)] = Rescale::INPLACES;

    fn name(&self) -> &str {
        "RescaleGelu"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        Rescale.inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        Rescale.outputs()
    }

    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<RescaleKernel> {
        Ok(RescaleKernel { is_gelu: true })
    }
}

pub(super) struct RescaleKernel {
    is_gelu: bool,
}

impl Kernel for RescaleKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (y, scales, bias) = (input(context, 0)?, input(context, 1)?, input(context, 2)?);
        let (shape, y) = y.try_extract_tensor::<f32>()?;
        let (scales, bias) = (scales.try_extract_tensor::<f32>()?.1, bias.try_extract_tensor::<f32>()?.1);
        let mut out = output(context, 0, shape.to_vec())?;
        let out = out.try_extract_tensor_mut::<f32>()?.1;
        let (width, is_gelu) = (bias.len(), self.is_gelu);
        if y.len() != width * scales.len() {
            return Err(ort::Error::new("the shapes of product, scales and bias do not agree"));
        }
        let (from, out) = (Source::of(y), Parts::of(out));
        by_rows(context, scales.len(), width, |first, count| {
            let from = from.pointer(first * width, count * width);
            // SAFETY: each block of rows is read and written by one call.
            let to = unsafe { out.part(first * width, count * width) };
            rescale_rows(from, &scales[first..first + count], bias, is_gelu, to);
        })
    }
}

/// `from` has as many elements as `to`, and may be `to` itself.
fn rescale_rows(from: *const f32, scales: &[f32], bias: &[f32], is_gelu: bool, to: &mut [f32]) {
    assert_eq!(to.len(), scales.len() * bias.len());
    let to = to.as_mut_ptr();
    if is_gelu {
        rescale_gelu(from, scales, bias, to);
    } else {
        rescale_only(from, scales, bias, to);
    }
}

fn rescale_only(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32) {
    dispatch!(plain(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32))
}

fn rescale_gelu(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32) {
    dispatch!(with_gelu(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32))
}

#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn plain<L: Lanes>(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32) {
    each::<L, false>(from, scales, bias, to);
}

#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn with_gelu<L: Lanes>(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32) {
    each::<L, true>(from, scales, bias, to);
}

/// # Safety
/// That of [`Lanes`]; `from` and `to` are valid for as many elements as `scales` times `bias` have.
#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn each<L: Lanes, const IS_GELU: bool>(from: *const f32, scales: &[f32], bias: &[f32], to: *mut f32) {
    let width = bias.len();
    let (whole, rest) = (width / LANES * LANES, width % LANES);
    let mut last_bias = [0f32; LANES];
    last_bias[..rest].copy_from_slice(&bias[whole..]);
    for (row, scale) in scales.iter().enumerate() {
        let (from, to, scale) = (from.add(row * width), to.add(row * width), L::splat(*scale));
        let mut at = 0;
        while at < whole {
            one::<L, IS_GELU>(L::load(from.add(at)), scale, L::load(bias.as_ptr().add(at))).store(to.add(at));
            at += LANES;
        }
        let mut last = [0f32; LANES];
        std::ptr::copy_nonoverlapping(from.add(whole), last.as_mut_ptr(), rest);
        one::<L, IS_GELU>(L::load(last.as_ptr()), scale, L::load(last_bias.as_ptr())).store(last.as_mut_ptr());
        std::ptr::copy_nonoverlapping(last.as_ptr(), to.add(whole), rest);
    }
}

// Not a closure: it would be compiled without the instructions.
#[inline(always)]
#[allow(unsafe_op_in_unsafe_fn, reason = "the requirement of the function is that of its calls")]
unsafe fn one<L: Lanes, const IS_GELU: bool>(y: L, scale: L, bias: L) -> L {
    let y = y.mul_add(scale, bias);
    if IS_GELU { gelu(y) } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_scaled_and_get_the_bias() {
        for width in [1, 15, 16, 33, 48] {
            let y: Vec<f32> = (0..4 * width).map(|i| (i * 31 % 47) as f32 - 23.0).collect();
            let (scales, bias) = ([0.5, 0.01, 2.0, 0.0], (0..width).map(|i| i as f32 / 7.0 - 1.0).collect::<Vec<_>>());
            for is_gelu in [false, true] {
                let mut out = vec![0.0; y.len()];
                rescale_rows(y.as_ptr(), &scales, &bias, is_gelu, &mut out);
                let mut in_place = y.clone();
                rescale_rows(in_place.as_ptr(), &scales, &bias, is_gelu, &mut in_place);
                assert_eq!(out, in_place);
                for (i, found) in out.iter().enumerate() {
                    let x = y[i].mul_add(scales[i / width], bias[i % width]);
                    // The error function has a test of its own; its limits are these.
                    let right = match is_gelu {
                        false => *found == x,
                        true if x >= 0.0 => (x / 2.0..=x).contains(found),
                        true => (-0.17..=0.0).contains(found),
                    };
                    assert!(right, "{x}: {found}");
                }
            }
        }
    }
}
