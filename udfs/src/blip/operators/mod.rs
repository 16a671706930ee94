//! Operators that ONNX Runtime lacks, for the CPU and int8: it calls them as nodes of the graphs, on its own threads.
//!
//! - [`quantize`]: activations to bytes, a scale for each row, in one pass.
//! - [`rescale`]: what follows an integer product, in one pass: the row's scale, the bias and, in the feed-forward
//!   layers, GELU.
//! - [`pack`] and [`attend`]: keys and values in half precision, in the order in which they are read, and attention of
//!   few rows over them.
//! - [`self_attention`]: self-attention over an image's tokens, in 16-bit integers.

mod arithmetic;
mod attend;
mod context;
mod dot;
mod lanes;
mod pack;
mod quantize;
mod rescale;
mod self_attention;
mod words;

use ort::operator::OperatorDomain;

pub(super) use self_attention::has_fast_self_attention;

/// Domain of the operators in the graphs.
pub(super) const DOMAIN: &str = "capfilt";

/// The operators, for one session.
///
/// # Errors
/// What ONNX Runtime refuses.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    let domain = OperatorDomain::new(DOMAIN)?;
    let domain = domain.add(quantize::QuantizeRows)?.add(rescale::Rescale)?.add(rescale::RescaleGelu)?;
    let domain = domain.add(pack::PackKeys)?.add(pack::PackValues)?.add(attend::CrossAttention)?;
    domain.add(self_attention::SelfAttention)
}
