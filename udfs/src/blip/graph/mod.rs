//! BLIP as ONNX graphs, built here because no Python exporter covers all of them.
//!
//! The graphs use ONNX Runtime's fused operators (domain com.microsoft) directly, so they need no optimiser. Weights
//! are external: each session receives the checkpoint's tensors by name ([`super::weights`]), shared by all sessions.
//! Linear layers keep the checkpoint's layout `[out, in]`; the product transposes.

mod builder;
pub(crate) mod proto;
pub(crate) mod tensors;
mod text;
mod vision;

pub(crate) use builder::{EXTERNAL_FOLDER, Graph, PROBE_WIDTH, probe};
pub(crate) use text::{Source, answer_scores, cross_kv, decoder_step, match_texts, question_encoder, text_encoder};
pub(crate) use vision::{image_name, image_projection, pixels, selected_rows, vision_encoder};
