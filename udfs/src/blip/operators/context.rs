//! Tensors of a node while it is computed.

use std::marker::PhantomData;

use ort::operator::ComputeContext;
use ort::value::{ValueRef, ValueRefMut};

/// An input of the node.
pub(super) fn input(context: &ComputeContext, number: usize) -> ort::Result<ValueRef<'_>> {
    context.input(number)?.ok_or_else(|| ort::Error::new(format!("input {number} is missing")))
}

/// An output of the node, with the given dimensions.
pub(super) fn output(context: &ComputeContext, number: usize, dims: Vec<i64>) -> ort::Result<ValueRefMut<'_>> {
    context.output(number, dims)?.ok_or_else(|| ort::Error::new(format!("output {number} is missing")))
}

/// A slice of which several threads write different parts.
pub(super) struct Parts<'a, T> {
    first: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is handed out as `&mut [T]`, and `Parts::part` requires that parts do not overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn of(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` elements from `start` on.
    ///
    /// # Safety
    /// No two parts that are in use at the same time overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller sees to it that parts do not overlap")]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "{start} + {len} of {}", self.len);
        // SAFETY: within the slice, which `slice` borrows; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), len) }
    }
}

/// A slice that is only read, by pointer, since an output may lie in its memory.
pub(super) struct Source<T> {
    first: *const T,
    len: usize,
}

// SAFETY: the pointer is only handed out; its users keep to `Source::pointer`.
unsafe impl<T: Sync> Sync for Source<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for Source<T> {}

impl<T> Source<T> {
    pub(super) fn of(slice: &[T]) -> Self {
        Self { first: slice.as_ptr(), len: slice.len() }
    }

    /// Pointer to `len` elements from `start` on, valid as long as the input.
    pub(super) fn pointer(&self, start: usize, len: usize) -> *const T {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "{start} + {len} of {}", self.len);
        // SAFETY: within the slice.
        unsafe { self.first.add(start) }
    }
}

/// Rows for each call of a parallel loop: enough for some 50 microseconds of work.
pub(super) fn rows_at_once(width: usize) -> usize {
    (32_768 / width.max(1)).max(1)
}

/// Runs `work` with the first row and the number of rows of each block of `rows` rows, on the session's threads.
pub(super) fn by_rows(
    context: &ComputeContext,
    rows: usize,
    width: usize,
    work: impl Fn(usize, usize) + Send + Sync,
) -> ort::Result<()> {
    let each = rows_at_once(width);
    context.par_for(rows.div_ceil(each), 0, |block| {
        let first = block * each;
        work(first, each.min(rows - first));
    })
}
