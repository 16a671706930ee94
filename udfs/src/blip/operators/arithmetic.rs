//! Functions of [`Lanes`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function has the one requirement of `Lanes`: the processor has the instructions"
)]

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::lanes::Lanes;

/// `coefficients[0] x^n + .. + coefficients[n]`.
#[inline(always)]
unsafe fn polynomial<L: Lanes>(x: L, coefficients: &[f32]) -> L {
    let mut y = L::splat(coefficients[0]);
    for &c in &coefficients[1..] {
        y = y.mul_add(x, L::splat(c));
    }
    y
}

/// e to the power of numbers that are not positive, to 2e-7 of the result; 0 is at most e^-87.
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L) -> L {
    let x = x.max(L::splat(-87.0));
    // 2^n e^r, with ln 2 in two parts, whose products with n are exact or small.
    let n = x.mul(L::splat(LOG2_E)).round();
    let r = n.mul_add(L::splat(-0.693_359_4), x);
    let r = n.mul_add(L::splat(2.121_944_4e-4), r);
    // Cephes' polynomial for (e^r - 1 - r) / r^2.
    let p = polynomial(r, &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let p = p.mul(r).mul_add(r, r.add(L::splat(1.0)));
    p.mul(n.power_of_two())
}

/// 2 to the power of numbers up to 100, to 8e-5 of the result; 0 or next to it where that is below 2^-126.
#[inline(always)]
pub(super) unsafe fn exp2_roughly<L: Lanes>(x: L) -> L {
    let n = x.round();
    let r = n.mul_add(L::splat(-1.0), x);
    // Of the least relative error from -1/2 to 1/2.
    polynomial(r, &[5.517_167e-2, 2.426_111_2e-1, 6.932_61e-1, 9.999_280_7e-1]).times_power_of_two(n)
}

/// Error function, to 3e-7.
#[inline(always)]
unsafe fn erf<L: Lanes>(x: L) -> L {
    // Near 0 a polynomial of x^2, else 1 - e^p(|x|); erf(4) is 1 in float32.
    let square = x.mul(x);
    let near = [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1];
    let near = polynomial(square, &near).mul_add(x, x);
    let size = x.abs().min(L::splat(4.0));
    let far = [
        -1.728_534_7e-5,
        3.831_971_3e-4,
        -3.883_964_4e-3,
        2.425_462_2e-2,
        -1.067_778_8e-1,
        -6.348_467e-1,
        -1.287_175_1e-1,
    ];
    let exponent = polynomial(size, &far).mul_add(size, size.mul(L::splat(-1.0)));
    let far = L::splat(1.0).add(exp(exponent.min(L::splat(0.0))).mul(L::splat(-1.0)));
    size.if_greater(L::splat(0.927_734_4), far.with_sign(x), near)
}

/// GELU by the error function: `x (1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub(super) unsafe fn gelu<L: Lanes>(x: L) -> L {
    let half = x.mul(L::splat(0.5));
    erf(x.mul(L::splat(FRAC_1_SQRT_2))).mul_add(half, half)
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{LANES, dispatch};
    use super::*;

    type Pair = ([f32; LANES], [f32; LANES]);

    unsafe fn both<L: Lanes>(x: &[f32; LANES], to: &mut Pair) {
        let lanes = L::load(x.as_ptr());
        exp(lanes.abs().mul(L::splat(-1.0))).store(to.0.as_mut_ptr());
        gelu(lanes).store(to.1.as_mut_ptr());
    }

    fn widest(x: &[f32; LANES], to: &mut Pair) {
        dispatch!(both(x: &[f32; LANES], to: &mut Pair))
    }

    /// erf by its series, which converges for all x that are tested.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn exp_and_gelu_are_those_of_mathematics() {
        for first in (-640..640).step_by(LANES) {
            let x: [f32; LANES] = std::array::from_fn(|i| (first + i as i32) as f32 / 128.0);
            let mut found: [Pair; 2] = [([0.0; LANES], [0.0; LANES]); 2];
            widest(&x, &mut found[0]);
            // SAFETY: needs no special instructions.
            unsafe { both::<super::super::lanes::Portable>(&x, &mut found[1]) };
            for (i, x) in x.iter().enumerate().map(|(i, x)| (i, f64::from(*x))) {
                let gelu = 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt()));
                for (e, g) in found.map(|(e, g)| (f64::from(e[i]), f64::from(g[i]))) {
                    assert!((e - (-x.abs()).exp()).abs() <= 3e-7 * e, "exp({x}) = {e}");
                    assert!((g - gelu).abs() <= 3e-7 * x.abs().max(0.1), "gelu({x}) = {g}, not {gelu}");
                }
            }
        }
        let far =
            [f32::MIN, -1e30, -200.0, -88.0, 88.0, 200.0, 1e30, f32::MAX, 0.0, -0.0, 9.0, -9.0, 1.0, 2.0, 3.0, 4.0];
        let mut found: Pair = ([0.0; LANES], [0.0; LANES]);
        widest(&far, &mut found);
        assert!(found.0[..8].iter().all(|e| (0.0..2e-38).contains(e)), "{:?}", found.0);
        assert_eq!(found.1[4..8], far[4..8]);
        assert!(found.1[..4].iter().all(|g| *g == 0.0), "{:?}", found.1);
    }

    unsafe fn power<L: Lanes>(x: &[f32; LANES], to: &mut [f32; LANES]) {
        exp2_roughly(L::load(x.as_ptr())).store(to.as_mut_ptr());
    }

    fn widest_power(x: &[f32; LANES], to: &mut [f32; LANES]) {
        dispatch!(power(x: &[f32; LANES], to: &mut [f32; LANES]))
    }

    #[test]
    fn powers_of_two_are_roughly_those_of_mathematics_and_everywhere_the_same() {
        for first in (-2000..320).step_by(LANES) {
            let x: [f32; LANES] = std::array::from_fn(|i| (first + i as i32) as f32 / 16.0);
            let mut found = [[0f32; LANES]; 2];
            widest_power(&x, &mut found[0]);
            // SAFETY: needs no special instructions.
            unsafe { power::<super::super::lanes::Portable>(&x, &mut found[1]) };
            assert_eq!(found[0], found[1]);
            for (x, found) in x.iter().zip(found[0]) {
                let exact = f64::from(*x).exp2();
                assert!((f64::from(found) - exact).abs() <= 8e-5 * exact, "2^{x} = {found}");
            }
        }
        let far = [f32::MIN, -1e30, -1e9, -1e4, -200.0, -151.0, -140.0, -128.0];
        let far: [f32; LANES] = std::array::from_fn(|i| far[i % 8]);
        let mut found = [0f32; LANES];
        widest_power(&far, &mut found);
        assert!(found.iter().all(|x| (0.0..2e-38).contains(x)), "{found:?}");
    }
}
