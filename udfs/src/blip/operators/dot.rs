//! Products of 16-bit integers, summed in 32 bits, on the instructions that the processor has.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function is a few instructions with one requirement, stated once at `Dot`: the processor has them"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::lanes::Avx2;
use super::lanes::{LANES, Lanes, Portable};

/// Sixteen 32-bit integers, or as many pairs of 16-bit ones. Every implementation computes the same integers; sums that
/// overflow wrap around.
///
/// # Safety
/// The functions must only be called if the processor has the instructions of the implementing type, and their pointers
/// must be valid for [`LANES`] elements.
pub(super) trait Dot: Copy {
    /// Floats for as many integers.
    type Floats: Lanes;
    /// Number of column vectors, from 1 to 4, whose sums for each of [`ROWS`] rows fit into registers.
    const COLUMNS: usize;

    unsafe fn splat(x: i32) -> Self;
    unsafe fn load(from: *const i32) -> Self;
    unsafe fn store(self, to: *mut i32);
    unsafe fn max(self, other: Self) -> Self;
    /// `self` and, in each lane, the products of the two pairs of 16-bit integers.
    unsafe fn add_products(self, a: Self, b: Self) -> Self;
    unsafe fn floats(self) -> Self::Floats;
    /// Rounds to integers, to even.
    unsafe fn rounded(x: Self::Floats) -> Self;
    /// Integers from -2^15 to 2^15 - 1 as 16-bit ones: of each four lanes those of `self` and then those of `other`, so
    /// that pair `i` is of the lanes [`narrowed`]`(i)`.
    unsafe fn narrow(self, other: Self) -> Self;
    /// Integers from -2^15 to 2^15 - 1 as pairs: lane by lane one of `self` and one of `other`.
    unsafe fn pair(self, other: Self) -> Self;

    /// Transposes a 16 x 16 matrix of lanes. Its rows are `stride` lanes apart in `from` and 16 lanes apart in `to`.
    #[inline(always)]
    unsafe fn transpose(from: *const i32, stride: usize, to: *mut i32) {
        for row in 0..LANES {
            for column in 0..LANES {
                *to.add(column * LANES + row) = *from.add(row * stride + column);
            }
        }
    }
}

/// First of the two lanes that [`Dot::narrow`] makes pair `i`; those of its second operand count from 16.
pub(super) const fn narrowed(i: usize) -> usize {
    i / 4 * 4 + i % 2 * 2 + i % 4 / 2 * LANES
}

/// Number of rows whose sums with [`Dot::COLUMNS`] columns fit into registers.
pub(super) const ROWS: usize = 6;

/// Sums of the products of `count` pairs of [`ROWS`] rows and of `C` times sixteen columns. Rows are `stride` pairs apart;
/// of the columns, pairs are `next` apart and sixteen columns `beside`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the rows of several arrays are walked together")]
pub(super) unsafe fn products<D: Dot, const C: usize>(
    (rows, stride): (*const i32, usize),
    (columns, next, beside): (*const i32, usize, usize),
    count: usize,
) -> [[D; C]; ROWS] {
    let mut sums = [[D::splat(0); C]; ROWS];
    for at in 0..count {
        let mut column = [D::splat(0); C];
        for c in 0..C {
            column[c] = D::load(columns.add(at * next + c * beside));
        }
        for r in 0..ROWS {
            let row = D::splat(*rows.add(r * stride + at));
            for c in 0..C {
                sums[r][c] = sums[r][c].add_products(row, column[c]);
            }
        }
    }
    sums
}

/// Integers without special instructions.
#[derive(Clone, Copy)]
pub(super) struct Plain([i32; LANES]);

impl Dot for Plain {
    type Floats = Portable;
    const COLUMNS: usize = 1;

    unsafe fn splat(x: i32) -> Self {
        Self([x; LANES])
    }

    unsafe fn load(from: *const i32) -> Self {
        Self(from.cast::<[i32; LANES]>().read_unaligned())
    }

    unsafe fn store(self, to: *mut i32) {
        to.cast::<[i32; LANES]>().write_unaligned(self.0);
    }

    unsafe fn max(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].max(other.0[i])))
    }

    unsafe fn add_products(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| {
            let (a, b) = (a.0[i], b.0[i]);
            let low = i32::from(a as i16) * i32::from(b as i16);
            self.0[i].wrapping_add(low).wrapping_add((a >> 16) * (b >> 16))
        }))
    }

    unsafe fn floats(self) -> Portable {
        let floats = self.0.map(|x| x as f32);
        Portable::load(floats.as_ptr())
    }

    unsafe fn rounded(x: Portable) -> Self {
        let mut floats = [0f32; LANES];
        x.store(floats.as_mut_ptr());
        Self(floats.map(|x| x.round_ties_even() as i32))
    }

    unsafe fn narrow(self, other: Self) -> Self {
        let both = [self.0, other.0];
        let both = both.as_flattened();
        Self(std::array::from_fn(|i| join(both[narrowed(i)], both[narrowed(i) + 1])))
    }

    unsafe fn pair(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| join(self.0[i], other.0[i])))
    }
}

fn join(low: i32, high: i32) -> i32 {
    (low & 0xffff) | (high << 16)
}

/// Integers on AVX-512, with its instructions for neural networks or without.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512<const IS_VNNI: bool>(__m512i);

#[cfg(target_arch = "x86_64")]
impl<const IS_VNNI: bool> Dot for Avx512<IS_VNNI> {
    type Floats = __m512;
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        Self(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        Self(_mm512_loadu_si512(from.cast()))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        _mm512_storeu_si512(to.cast(), self.0);
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm512_max_epi32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn add_products(self, a: Self, b: Self) -> Self {
        if IS_VNNI {
            Self(dot_accumulate(self.0, a.0, b.0))
        } else {
            Self(_mm512_add_epi32(self.0, _mm512_madd_epi16(a.0, b.0)))
        }
    }

    #[inline(always)]
    unsafe fn floats(self) -> __m512 {
        _mm512_cvtepi32_ps(self.0)
    }

    #[inline(always)]
    unsafe fn rounded(x: __m512) -> Self {
        Self(_mm512_cvtps_epi32(x))
    }

    #[inline(always)]
    unsafe fn narrow(self, other: Self) -> Self {
        Self(_mm512_packs_epi32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn pair(self, other: Self) -> Self {
        Self(_mm512_mask_blend_epi16(0xaaaa_aaaa, self.0, _mm512_slli_epi32::<16>(other.0)))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const i32, stride: usize, to: *mut i32) {
        let mut quads = [_mm512_setzero_si512(); LANES];
        // Within each 128 bits: rows 4 i .. 4 i + 3 of columns 4 l + j, for lane l, in quads[4 i + j].
        for i in 0..4 {
            let row = from.add(4 * i * stride);
            let a = _mm512_loadu_si512(row.cast());
            let b = _mm512_loadu_si512(row.add(stride).cast());
            let c = _mm512_loadu_si512(row.add(2 * stride).cast());
            let d = _mm512_loadu_si512(row.add(3 * stride).cast());
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            quads[4 * i] = _mm512_unpacklo_epi64(ab, cd);
            quads[4 * i + 1] = _mm512_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            quads[4 * i + 2] = _mm512_unpacklo_epi64(ab, cd);
            quads[4 * i + 3] = _mm512_unpackhi_epi64(ab, cd);
        }
        for j in 0..4 {
            let (a, b, c, d) = (quads[j], quads[4 + j], quads[8 + j], quads[12 + j]);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d));
            _mm512_storeu_si512(to.add(j * LANES).cast(), _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd));
            _mm512_storeu_si512(to.add((8 + j) * LANES).cast(), _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd));
            let (ab, cd) = (_mm512_shuffle_i32x4::<0b11_01_11_01>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d));
            _mm512_storeu_si512(to.add((4 + j) * LANES).cast(), _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd));
            _mm512_storeu_si512(to.add((12 + j) * LANES).cast(), _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd));
        }
    }
}

/// `_mm512_dpwssd_epi32`, which the compiler would turn into a product and a sum where it takes that for faster.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_accumulate(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: works on the registers alone, by an instruction that the processor has.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Sixteen integers in two AVX registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Two(__m256i, __m256i);

#[cfg(target_arch = "x86_64")]
impl Dot for Two {
    type Floats = Avx2;
    const COLUMNS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        Self(_mm256_set1_epi32(x), _mm256_set1_epi32(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        Self(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast()))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        _mm256_storeu_si256(to.cast(), self.0);
        _mm256_storeu_si256(to.add(8).cast(), self.1);
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm256_max_epi32(self.0, other.0), _mm256_max_epi32(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn add_products(self, a: Self, b: Self) -> Self {
        let low = _mm256_add_epi32(self.0, _mm256_madd_epi16(a.0, b.0));
        let high = _mm256_add_epi32(self.1, _mm256_madd_epi16(a.1, b.1));
        Self(low, high)
    }

    #[inline(always)]
    unsafe fn floats(self) -> Avx2 {
        Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1))
    }

    #[inline(always)]
    unsafe fn rounded(x: Avx2) -> Self {
        Self(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1))
    }

    #[inline(always)]
    unsafe fn narrow(self, other: Self) -> Self {
        Self(_mm256_packs_epi32(self.0, other.0), _mm256_packs_epi32(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn pair(self, other: Self) -> Self {
        let low = _mm256_blend_epi16::<0b1010_1010>(self.0, _mm256_slli_epi32::<16>(other.0));
        let high = _mm256_blend_epi16::<0b1010_1010>(self.1, _mm256_slli_epi32::<16>(other.1));
        Self(low, high)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512_words() -> bool {
    super::lanes::has_avx512() && is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
pub(super) fn has_vnni() -> bool {
    has_avx512_words() && is_x86_feature_detected!("avx512vnni")
}
