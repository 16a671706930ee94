//! `image_info(image)`.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, StructArray, UInt8Array, UInt32Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::image_arg::Digests;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::{image, query};

/// Facts from an image's header.
#[derive(Debug)]
pub(crate) struct ImageInfo;

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("format", DataType::Utf8, true),
        Field::new("width", DataType::UInt32, true),
        Field::new("height", DataType::UInt32, true),
        Field::new("channels", DataType::UInt8, true),
    ])
}

impl SqlFunction for ImageInfo {
    const NAME: &'static str = "image_info";
    const DESCRIPTION: &'static str = "What an image's header says: its format, its width and height in pixels, and \
        its channels. No pixel is decoded, so a picture that is damaged further on passes: `image_error` finds \
        that. NULL, and bytes without a usable header, give NULL. Needs no model.";
    const RETURNS: &'static str = "Struct(format Utf8, width UInt32, height UInt32, channels UInt8)";
    const ARGS: &'static [Arg] = &[Arg::Image];
    const EXAMPLE: &'static str = "SELECT id FROM web WHERE image_info(image)['width'] >= 64";
    const RELATED: &'static [&'static str] = &["image_error"];
    const COST: Cost = Cost::DECODE;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Struct(fields()))
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let images = call.images(0)?;
        let limits = call.session.image_limits();
        let mut rows = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            query::check_cancelled()?;
            rows.push(match images.get(row).map(|bytes| (bytes, image::info(bytes, &limits))) {
                None => None,
                Some((_, Ok(info))) => Some(info),
                Some((bytes, Err(why))) => {
                    call.bad_image(row, &images, &Digests::default().of(bytes), &why)?;
                    None
                }
            });
        }
        let of = |row: &Option<image::ImageInfo>| row.as_ref().map(|info| (info.width, info.height));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.as_ref().map(|info| info.format)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| of(row).map(|(width, _)| width)).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|row| of(row).map(|(_, height)| height)).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|row| row.as_ref().map(|info| info.channels)).collect::<UInt8Array>()),
        ];
        let nulls: NullBuffer = rows.iter().map(Option::is_some).collect();
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(fields(), columns, Some(nulls))?)))
    }
}
