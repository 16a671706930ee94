//! `image_phash(image)`.

use std::sync::Arc;

use datafusion::arrow::array::Int64Array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::image_arg::Digests;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;
use crate::{image, query};

/// 64-bit perceptual hash of an image.
#[derive(Debug)]
pub(crate) struct ImagePhash;

impl SqlFunction for ImagePhash {
    const NAME: &'static str = "image_phash";
    const DESCRIPTION: &'static str = "A perceptual hash of 64 bits: of a small grey copy the low frequencies (DCT), each above their \
        median or not. Pictures that look alike, scaled or compressed anew, have hashes that differ in few bits, which `hamming` \
        counts. NULL, and an image that cannot be decoded, give NULL. Needs no model.";
    const RETURNS: &'static str = "Int64";
    const ARGS: &'static [Arg] = &[Arg::Image];
    const EXAMPLE: &'static str =
        "SELECT image_phash(image) AS hash, count(*) FROM web GROUP BY hash HAVING count(*) > 1";
    const RELATED: &'static [&'static str] = &["hamming"];
    const COST: Cost = Cost::DECODE;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let images = call.images(0)?;
        let limits = call.session.image_limits();
        let mut hashes = Vec::with_capacity(call.rows);
        for row in 0..call.rows {
            query::check_cancelled()?;
            hashes.push(match images.get(row).map(|bytes| (bytes, image::phash(bytes, &limits))) {
                None => None,
                Some((_, Ok(hash))) => Some(hash),
                Some((bytes, Err(why))) => {
                    call.bad_image(row, &images, &Digests::default().of(bytes), &why)?;
                    None
                }
            });
        }
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from(hashes))))
    }
}
