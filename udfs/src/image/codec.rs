//! What is shared by the codecs of the crate `image`: reading their pixels, and their errors in this crate's words.

use image::{ImageDecoder, ImageError as Failure};
use std::error::Error;

use super::contract::{Format, ImageError, Limits};

/// Reads an image in the decoder's channels. The only place that allocates an image's memory.
pub(super) fn read(format: Format, decoder: impl ImageDecoder, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format.corrupt(format!("its size is {width} x {height}")));
    }
    limits.check_size(width, height)?;
    limits.check_memory(format, decoder.total_bytes())?;
    let mut data = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut data).map_err(|e| error(format, limits, e))?;
    Ok(data)
}

/// RGBA to RGB, in place.
pub(super) fn drop_alpha(data: &mut Vec<u8>) {
    let pixels = data.len() / 4;
    for at in 0..pixels {
        data.copy_within(at * 4..at * 4 + 3, at * 3);
    }
    data.truncate(pixels * 3);
}

/// Converts a decoder's error: its kind selects the variant, its text is only the reason.
pub(super) fn error(format: Format, limits: &Limits, failure: Failure) -> ImageError {
    let reason = match &failure {
        Failure::Decoding(inner) => inner.source().map_or_else(|| inner.to_string(), ToString::to_string),
        Failure::Unsupported(inner) => inner.to_string(),
        other => other.to_string(),
    };
    // The format is already named.
    let reason = reason.split_once("does not support the format features ").map_or(&*reason, |(_, feature)| feature);
    let reason = match reason.split_once("Unrecognized critical chunk: ") {
        Some((_, chunk)) => format!("unrecognized critical chunk {chunk}"),
        None => reason.to_string(),
    };
    let reason = undebugged(&reason);
    let reason: String = reason.lines().next().unwrap_or_default().trim_end_matches('.').chars().take(200).collect();
    match failure {
        Failure::Limits(_) => ImageError::TooMuchMemory { format: format.label(), limit: limits.memory() },
        Failure::Unsupported(_) => format.unsupported(reason),
        Failure::IoError(inner) if inner.kind() == std::io::ErrorKind::UnexpectedEof => {
            format.truncated("it ends early")
        }
        _ if ["unexpected end", "eof", "end of file", "truncated"]
            .iter()
            .any(|word| reason.to_ascii_lowercase().contains(word)) =>
        {
            format.truncated(reason)
        }
        _ => format.corrupt(reason),
    }
}

/// Removes Rust debug output (chunks, error codes) from the png crate's messages.
fn undebugged(reason: &str) -> String {
    if reason.starts_with("Corrupt deflate stream") {
        return "its compressed data are garbled".into();
    }
    if reason.starts_with("Invalid color/depth combination") {
        return "its header names colours and a depth that do not go together".into();
    }
    match reason.split_once("ChunkType { type: ") {
        Some((before, chunk)) => {
            let (name, after) = chunk.split_once(" }").unwrap_or((chunk, ""));
            let name = name.split_once(", critical").map_or(name, |(name, _)| name);
            // Chunk names are letters only; other bytes are printed as escapes.
            let name = if name.contains('\\') { "of no name" } else { name };
            format!("{before}{name}{after}")
        }
        None => reason.to_string(),
    }
}
