//! ffmpeg's output of frames, PPM one after another, each with its size.

use std::ops::ControlFlow;

use super::super::contract::VideoError;
use crate::image::{Limits, Rgb8};

/// Reads the output piece by piece.
pub(super) struct Reader {
    limits: Limits,
    /// Bytes that are not read yet, of a header.
    head: Vec<u8>,
    /// The picture whose pixels come in.
    picture: Option<Rgb8>,
}

/// Longest header, in bytes.
const MOST_HEAD: usize = 64;

impl Reader {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, head: vec![], picture: None }
    }

    /// Takes output, and calls `done` with each picture that is complete; breaks when it does.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        mut done: impl FnMut(&Rgb8) -> Result<ControlFlow<()>, VideoError>,
    ) -> Result<ControlFlow<()>, VideoError> {
        while !bytes.is_empty() {
            let Some(mut picture) = self.picture.take() else {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                self.picture = self.header()?;
                continue;
            };
            let size = picture.width as usize * picture.height as usize * 3;
            let (pixels, rest) = bytes.split_at(bytes.len().min(size - picture.data.len()));
            picture.data.extend_from_slice(pixels);
            bytes = rest;
            if picture.data.len() < size {
                self.picture = Some(picture);
            } else if done(&picture)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The picture that the header announces, once it is complete: three lines.
    fn header(&mut self) -> Result<Option<Rgb8>, VideoError> {
        let lines = self.head.iter().filter(|byte| **byte == b'\n').count();
        if lines < 3 && self.head.len() < MOST_HEAD {
            return Ok(None);
        }
        let head = std::mem::take(&mut self.head);
        let size = std::str::from_utf8(&head).ok().and_then(|head| {
            let (width, height) = head.strip_prefix("P6\n")?.strip_suffix("\n255\n")?.split_once(' ')?;
            Some((width.parse().ok()?, height.parse().ok()?))
        });
        let Some((width, height)) = size.filter(|(width, height)| *width > 0 && *height > 0) else {
            return Err(VideoError::NoDecoder("ffmpeg's output is not what was asked for".into()));
        };
        self.limits.check_size(width, height)?;
        Ok(Some(Rgb8 { width, height, data: Vec::with_capacity(width as usize * height as usize * 3) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_however_they_are_cut() {
        let output = b"P6\n2 1\n255\nabcdefP6\n1 2\n255\nghijklP6\n1 1\n255\nxyz";
        for size in [1, 3, 10, 100] {
            let mut reader = Reader::new(Limits::default());
            let mut read = vec![];
            for piece in output.chunks(size) {
                let flow = reader.take(piece, |picture| {
                    read.push((picture.width, picture.height, picture.data.clone()));
                    Ok(if read.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                });
                if flow.unwrap().is_break() {
                    break;
                }
            }
            assert_eq!(read, [(2, 1, b"abcdef".to_vec()), (1, 2, b"ghijkl".to_vec())]);
        }
    }

    #[test]
    fn other_output_is_refused() {
        for output in [&b"P5\n1 1\n255\nx"[..], b"P6\n0 1\n255\n", &[b' '; 100], b"P6\n1 x\n255\n", b"P6\n1 1\n65535\n"]
        {
            let read = Reader::new(Limits::default()).take(output, |_| Ok(ControlFlow::Continue(())));
            assert!(matches!(read, Err(VideoError::NoDecoder(_))), "{output:?}");
        }
        let limits = Limits { max_pixels: 100, ..Limits::default() };
        let read = Reader::new(limits).take(b"P6\n11 10\n255\n", |_| Ok(ControlFlow::Continue(())));
        assert!(matches!(read, Err(VideoError::Image(_))));
    }
}
