//! Inputs and outputs of the sessions.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard};

use half::f16;
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef};

use crate::error::{Error, Result};

/// Inputs of a run by name.
pub(super) type Inputs<'v> = Vec<(Cow<'static, str>, SessionInputValue<'v>)>;

/// Tensors by name.
pub(super) type Named = Vec<(Cow<'static, str>, DynValue)>;

/// The tensors as inputs.
pub(super) fn inputs(values: Named) -> Inputs<'static> {
    values.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// Cross-attention keys and values: `ck.0, cv.0, ck.1, ..`, each `[images, ..]` of one type. In an answer decoder
/// questions take the place of images.
pub(super) struct CrossKv {
    pub(super) values: Vec<DynValue>,
    pub(super) images: usize,
    /// `[images, tokens]`: 1 where a question has a token, 0 where it is padded. Images have all.
    pub(super) mask: Option<Vec<i32>>,
}

impl CrossKv {
    /// Adds the inputs of `count` images from `first` on, without copying them.
    pub(super) fn push_inputs<'v>(&'v self, first: usize, count: usize, inputs: &mut Inputs<'v>) -> Result<()> {
        for (i, value) in self.values.iter().enumerate() {
            let name = format!("{}.{}", if i % 2 == 0 { "ck" } else { "cv" }, i / 2);
            let view = if is_half(value) {
                self.view::<f16>(value, first, count)
            } else {
                self.view::<f32>(value, first, count)
            };
            inputs.push((name.into(), view?));
        }
        if let Some(mask) = &self.mask {
            let each = mask.len() / self.images.max(1);
            let view = TensorRef::from_array_view(([count, each], &mask[first * each..(first + count) * each]));
            inputs.push(("cross_mask".into(), view.map_err(internal)?.into()));
        }
        Ok(())
    }

    fn view<'v, T: Element>(&self, value: &'v DynValue, first: usize, count: usize) -> Result<SessionInputValue<'v>> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(internal)?;
        let each = data.len() / self.images.max(1);
        let mut dims = shape.to_vec();
        dims[0] = count as i64;
        let view = TensorRef::from_array_view((dims, &data[first * each..(first + count) * each]));
        Ok(view.map_err(internal)?.into())
    }

    /// A copy of some images' keys and values.
    pub(super) fn take(&self, images: &[usize]) -> Result<Self> {
        let copy = |value: &DynValue| {
            if is_half(value) { self.copy::<f16>(value, images) } else { self.copy::<f32>(value, images) }
        };
        let values = self.values.iter().map(copy).collect::<Result<_>>()?;
        let mask = self.mask.as_ref().map(|mask| {
            let each = mask.len() / self.images.max(1);
            images.iter().flat_map(|&i| &mask[i * each..(i + 1) * each]).copied().collect()
        });
        Ok(Self { values, images: images.len(), mask })
    }

    fn copy<T: Element>(&self, value: &DynValue, images: &[usize]) -> Result<DynValue> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(internal)?;
        let each = data.len() / self.images.max(1);
        let mut dims = shape.to_vec();
        dims[0] = images.len() as i64;
        let mut copied = Vec::with_capacity(each * images.len());
        for &i in images {
            copied.extend_from_slice(&data[i * each..(i + 1) * each]);
        }
        Ok(Tensor::from_array((dims, copied)).map_err(internal)?.into_dyn())
    }

    /// Removes one image; the last one takes its place.
    pub(super) fn swap_remove(&mut self, image: usize, live: usize) -> Result<()> {
        let (from, images) = (live - 1, self.images);
        if image == from {
            return Ok(());
        }
        for value in &mut self.values {
            if is_half(value) {
                move_image::<f16>(value, images, from, image)?;
            } else {
                move_image::<f32>(value, images, from, image)?;
            }
        }
        if let Some(mask) = &mut self.mask {
            let each = mask.len() / images.max(1);
            mask.copy_within(from * each..(from + 1) * each, image * each);
        }
        Ok(())
    }
}

/// Copies the part of image `from`, of `images`, over that of image `to`.
fn move_image<T: Element>(value: &mut DynValue, images: usize, from: usize, to: usize) -> Result<()> {
    let (_, data) = value.try_extract_tensor_mut::<T>().map_err(internal)?;
    let each = data.len() / images.max(1);
    data.copy_within(from * each..(from + 1) * each, to * each);
    Ok(())
}

/// Type of the elements of keys and values.
trait Element: PrimitiveTensorElementType + Copy + Debug + 'static {}

impl Element for f32 {}
impl Element for f16 {}

fn is_half(value: &DynValue) -> bool {
    value.dtype().tensor_type() == Some(TensorElementType::Float16)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) fn internal(e: ort::Error) -> Error {
    Error::Internal(e.to_string())
}

pub(super) fn floats(value: &DynValue) -> Result<&[f32]> {
    Ok(value.try_extract_tensor::<f32>().map_err(internal)?.1)
}

pub(super) fn int32s(value: &DynValue) -> Result<&[i32]> {
    Ok(value.try_extract_tensor::<i32>().map_err(internal)?.1)
}

pub(super) fn tensor_u8(shape: &[usize], data: Vec<u8>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn tensor(shape: &[usize], data: Vec<f32>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn tensor_f16(shape: &[usize], data: Vec<half::f16>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn tensor_i64(shape: &[usize], data: Vec<i64>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn tensor_i32(shape: &[usize], data: Vec<i32>) -> Result<DynValue> {
    Ok(Tensor::from_array((shape.to_vec(), data)).map_err(internal)?.into_dyn())
}

pub(super) fn ints(values: &[usize]) -> Result<DynValue> {
    tensor_i64(&[values.len()], values.iter().map(|&v| v as i64).collect())
}
