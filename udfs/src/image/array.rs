//! Arrow arrays of encoded images.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryViewBuilder};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::error::ArrowError;

/// A `BinaryView` array of encoded images, whose bytes it shares instead of copying them.
///
/// # Errors
/// An image of 4 GiB or more.
pub fn binary_view<B: Into<Buffer> + AsRef<[u8]>>(
    images: impl IntoIterator<Item = Option<B>>,
) -> Result<ArrayRef, ArrowError> {
    let mut builder = BinaryViewBuilder::new();
    for image in images {
        let Some(image) = image else {
            builder.append_null();
            continue;
        };
        let length = u32::try_from(image.as_ref().len())
            .map_err(|_| ArrowError::InvalidArgumentError("an image of over 4 GB".to_owned()))?;
        let block = builder.append_block(image.into());
        builder.try_append_view(block, 0, length)?;
    }
    Ok(Arc::new(builder.finish()))
}
