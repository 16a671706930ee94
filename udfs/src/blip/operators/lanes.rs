//! Sixteen floats at once, on the instructions that the processor has.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function is a few instructions with one requirement, stated once at `Lanes`: the processor has them"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Floats in a value of [`Lanes`].
pub(super) const LANES: usize = 16;

/// Sixteen floats. Code over them is in functions that are always inlined, and not in closures, which would be compiled
/// without the instructions and call each of them.
///
/// # Safety
/// The functions must only be called if the processor has the instructions of the implementing type, which [`dispatch`]
/// sees to, and their pointers must be valid for [`LANES`] elements.
pub(super) trait Lanes: Copy {
    /// Most rows whose sums stay in registers.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Widens half-precision floats.
    unsafe fn load_half(from: *const u16) -> Self;
    /// Rounds to half-precision floats, to even.
    unsafe fn store_half(self, to: *mut u16);
    /// Rounds to integers, to even, adds 128 and stores them; they must be from -128 to 127.
    unsafe fn store_bytes(self, to: *mut u8);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// `self * factor + term`, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Rounds to an integer, to even.
    unsafe fn round(self) -> Self;
    /// 2 to the power of integers from -126 to 127.
    unsafe fn power_of_two(self) -> Self;
    /// `self` times 2 to the power of integers, at most 127; those below -126 may count as -126.
    #[inline(always)]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        self.mul(exponent.max(Self::splat(-126.0)).power_of_two())
    }
    /// `then` where `self` is greater than `other`, else `otherwise`.
    unsafe fn if_greater(self, other: Self, then: Self, otherwise: Self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn with_sign(self, sign: Self) -> Self;

    /// Largest element.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut all = [0.0; LANES];
        self.store(all.as_mut_ptr());
        all.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Sum of the elements.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut all = [0.0; LANES];
        self.store(all.as_mut_ptr());
        all.into_iter().sum()
    }
}

/// Lanes without special instructions.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(self.0.map(f))
    }

    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    const ROWS: usize = 4;

    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    unsafe fn load(from: *const f32) -> Self {
        Self(from.cast::<[f32; LANES]>().read_unaligned())
    }

    unsafe fn store(self, to: *mut f32) {
        to.cast::<[f32; LANES]>().write_unaligned(self.0);
    }

    unsafe fn load_half(from: *const u16) -> Self {
        Self(from.cast::<[half::f16; LANES]>().read_unaligned().map(f32::from))
    }

    unsafe fn store_half(self, to: *mut u16) {
        to.cast::<[half::f16; LANES]>().write_unaligned(self.0.map(half::f16::from_f32));
    }

    unsafe fn store_bytes(self, to: *mut u8) {
        to.cast::<[u8; LANES]>().write(self.0.map(|x| (x.round_ties_even() + 128.0) as u8));
    }

    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, f32::max)
    }

    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, f32::min)
    }

    unsafe fn abs(self) -> Self {
        self.map(f32::abs)
    }

    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
    }

    unsafe fn round(self) -> Self {
        self.map(f32::round_ties_even)
    }

    unsafe fn power_of_two(self) -> Self {
        self.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }

    unsafe fn if_greater(self, other: Self, then: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > other.0[i] { then.0[i] } else { otherwise.0[i] }))
    }

    unsafe fn with_sign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m512 {
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        _mm512_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        _mm512_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self);
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }

    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self));
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        let whole = _mm512_add_epi32(_mm512_cvtps_epi32(self), _mm512_set1_epi32(128));
        _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(whole));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_ps(self, other)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        _mm512_mul_ps(self, other)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        _mm512_div_ps(self, other)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        _mm512_max_ps(self, other)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        _mm512_min_ps(self, other)
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        _mm512_abs_ps(self)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        _mm512_fmadd_ps(self, factor, term)
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(self)
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }

    #[inline(always)]
    unsafe fn times_power_of_two(self, exponent: Self) -> Self {
        _mm512_scalef_ps(self, exponent)
    }

    #[inline(always)]
    unsafe fn if_greater(self, other: Self, then: Self, otherwise: Self) -> Self {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, other), otherwise, then)
    }

    #[inline(always)]
    unsafe fn with_sign(self, sign: Self) -> Self {
        let bit = _mm512_set1_epi32(i32::MIN);
        let sign = _mm512_and_si512(_mm512_castps_si512(sign), bit);
        _mm512_castsi512_ps(_mm512_or_si512(_mm512_andnot_si512(bit, _mm512_castps_si512(self)), sign))
    }
}

/// Sixteen floats in two AVX registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256, pub(super) __m256);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm256_set1_ps(x), _mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self.0);
        _mm256_storeu_ps(to.add(8), self.1);
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())))
    }

    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
        _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        let low = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(128));
        let high = _mm256_add_epi32(_mm256_cvtps_epi32(self.1), _mm256_set1_epi32(128));
        // Each half of a register is packed apart.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(to.cast(), bytes);
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        let bit = _mm256_set1_ps(-0.0);
        Self(_mm256_andnot_ps(bit, self.0), _mm256_andnot_ps(bit, self.1))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, factor.0, term.0), _mm256_fmadd_ps(self.1, factor.1, term.1))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        const TO_EVEN: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        Self(_mm256_round_ps::<TO_EVEN>(self.0), _mm256_round_ps::<TO_EVEN>(self.1))
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        let bias = _mm256_set1_epi32(127);
        let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(self.0), bias));
        let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(self.1), bias));
        Self(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
    }

    #[inline(always)]
    unsafe fn if_greater(self, other: Self, then: Self, otherwise: Self) -> Self {
        let low = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0);
        let high = _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, other.1);
        Self(_mm256_blendv_ps(otherwise.0, then.0, low), _mm256_blendv_ps(otherwise.1, then.1, high))
    }

    #[inline(always)]
    unsafe fn with_sign(self, sign: Self) -> Self {
        let bit = _mm256_set1_ps(-0.0);
        let low = _mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0));
        let high = _mm256_or_ps(_mm256_andnot_ps(bit, self.1), _mm256_and_ps(bit, sign.1));
        Self(low, high)
    }
}

/// Calls `$f::<L>($args)` with the widest [`Lanes`] `L` of the processor, compiled with its instructions.
macro_rules! dispatch {
    ($f:ident($($name:ident: $of:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx2,fma,f16c")]
            unsafe fn avx512($($name: $of),*) {
                // SAFETY: the caller's, and the instructions are there.
                unsafe { $f::<std::arch::x86_64::__m512>($($name),*) }
            }
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($name: $of),*) {
                // SAFETY: as above.
                unsafe { $f::<crate::blip::operators::lanes::Avx2>($($name),*) }
            }
            if crate::blip::operators::lanes::has_avx512() {
                // SAFETY: the caller's; the processor has the instructions.
                return unsafe { avx512($($name),*) };
            }
            if crate::blip::operators::lanes::has_avx2() {
                // SAFETY: as above.
                return unsafe { avx2($($name),*) };
            }
        }
        // SAFETY: the caller's; no special instructions are needed.
        unsafe { $f::<crate::blip::operators::lanes::Portable>($($name),*) }
    }};
}
pub(super) use dispatch;

#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && has_avx2()
}

#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}
