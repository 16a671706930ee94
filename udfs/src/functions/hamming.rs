//! `hamming(a, b)`.

use std::sync::Arc;

use datafusion::arrow::array::Int32Array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::call::Call;
use super::plan::Plan;
use super::udf::{Arg, SqlFunction};
use crate::cost::Cost;

/// Number of bits in which two hashes differ.
#[derive(Debug)]
pub(crate) struct Hamming;

impl SqlFunction for Hamming {
    const NAME: &'static str = "hamming";
    const DESCRIPTION: &'static str = "In how many of their 64 bits two perceptual hashes differ: 0 for the same picture, about 32 \
        for two that have nothing in common. Needs no model.";
    const RETURNS: &'static str = "Int32";
    const ARGS: &'static [Arg] = &[Arg::Hash("a"), Arg::Hash("b")];
    const EXAMPLE: &'static str =
        "SELECT x.id, y.id FROM hashes x JOIN hashes y ON x.id < y.id AND hamming(x.hash, y.hash) <= 4";
    const RELATED: &'static [&'static str] = &["image_phash"];
    const COST: Cost = Cost::FREE;

    fn return_type(_: &Plan<'_>) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn invoke(call: &Call<'_>) -> Result<ColumnarValue> {
        let (a, b) = (call.integers(0)?, call.integers(1)?);
        let bits = a.iter().zip(&b).map(|(a, b)| Some((a? ^ b?).count_ones() as i32));
        Ok(ColumnarValue::Array(Arc::new(bits.collect::<Int32Array>())))
    }
}
