//! JPEG, the most common format on the web.
//!
//! Decoding is by zune-jpeg, which is lenient: missing data become zeros and grey. So the file is first walked marker
//! by marker, which is cheap. The walk requires an end marker, as Pillow does, and writes a clean copy for the decoder:
//! without metadata (a broken EXIF block must not lose an image), and with one bits before the end marker. No Huffman
//! code is all ones, so a decoder that still needs data there fails instead of inventing them.

use std::ops::RangeInclusive;

use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::contract::{Format, ImageError, Limits};
use super::pixels::Rgb8;

/// Bytes of one bits before the end marker: more than a truncated symbol can still consume (15 bits of its code and 15
/// of its value) plus a whole code.
const ONES: usize = 8;

/// Error text for rare chroma subsampling that the decoder refuses or decodes wrongly.
const SAMPLING: &str = "such sampling of colours";

/// A file's frame header.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Identifier, horizontal and vertical sampling factor of each component.
    pub(super) components: Vec<[u8; 3]>,
    progressive: bool,
    /// Feature that the decoder does not support, if any.
    unsupported: Option<&'static str>,
}

/// Colour model of the components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    /// The decoder's default by number of components: grey, YCbCr or CMYK.
    Usual,
    /// RGB.
    Rgb,
    /// YCbCr for three channels and black as the fourth.
    Ycck,
}

/// Markers that determine the colour model.
#[derive(Debug, Default)]
struct Markings {
    jfif: bool,
    /// Colour transform in Adobe's APP14 marker.
    adobe: Option<u8>,
}

impl Markings {
    fn see(&mut self, marker: u8, body: &[u8]) {
        match marker {
            0xe0 if body.len() >= 14 => self.jfif |= body.starts_with(b"JFIF\0"),
            0xee if body.len() >= 12 && body.starts_with(b"Adobe") => self.adobe = Some(body[11]),
            _ => {}
        }
    }

    /// Same rules as libjpeg (`default_decompress_parms` in jdapimin.c).
    fn colour(&self, frame: &Frame) -> Colour {
        match (frame.components.len(), self.adobe) {
            (3, _) if self.jfif => Colour::Usual,
            (3, Some(0)) => Colour::Rgb,
            (3, None) if frame.is_lettered() => Colour::Rgb,
            (4, Some(1..)) => Colour::Ycck,
            _ => Colour::Usual,
        }
    }
}

/// Result of the walk over a file.
struct Walk {
    frame: Frame,
    colour: Colour,
    /// Whether the decoder buffers all coefficients until the last scan.
    buffered: bool,
    file: Vec<u8>,
}

fn ends_early(where_: &str) -> ImageError {
    Format::Jpeg.truncated(format!("it ends {where_}"))
}

fn corrupt(reason: &str) -> ImageError {
    Format::Jpeg.corrupt(reason)
}

/// Iterator over a file's markers.
struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// Next marker other than stuffing, TEM and restarts; skips garbage before it, as libjpeg does.
    fn next(&mut self) -> Option<u8> {
        loop {
            self.at += self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0xff)?;
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let marker = self.bytes[self.at];
            self.at += 1;
            if !matches!(marker, 0 | 1 | 0xd0..=0xd7) {
                return Some(marker);
            }
        }
    }

    /// Body of the segment of the last marker.
    fn segment(&mut self) -> Result<&'a [u8], ImageError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let [high, low, ..] = *rest else { return Err(ends_early("in its header")) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(corrupt("a segment of no length"));
        }
        let body = rest.get(2..length).ok_or_else(|| ends_early("in its header"))?;
        self.at += length;
        Ok(body)
    }

    /// Entropy-coded data up to the next marker other than a restart.
    fn scan(&mut self) -> Result<&'a [u8], ImageError> {
        let start = self.at;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(found) = rest.iter().position(|byte| *byte == 0xff) else {
                return Err(ends_early("within its picture, before the end marker"));
            };
            self.at += found;
            match rest.get(found + 1) {
                None => return Err(ends_early("within its picture, before the end marker")),
                Some(0 | 0xd0..=0xd7) => self.at += 2,
                Some(0xff) => self.at += 1,
                Some(_) => return Ok(&self.bytes[start..self.at]),
            }
        }
    }
}

impl Frame {
    /// Reads up to and including the frame header.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut markers = Markers::new(bytes);
        loop {
            match markers.next() {
                None => return Err(ends_early("in its header")),
                Some(0xd9 | 0xda) => return Err(corrupt("no frame header before the picture")),
                Some(marker) => {
                    let body = markers.segment()?;
                    if is_frame(marker) {
                        return Self::parse(marker, body);
                    }
                }
            }
        }
    }

    fn parse(marker: u8, body: &[u8]) -> Result<Self, ImageError> {
        let [depth, a, b, c, d, count, rest @ ..] = body else { return Err(corrupt("a short frame header")) };
        let (height, width) = (u32::from(u16::from_be_bytes([*a, *b])), u32::from(u16::from_be_bytes([*c, *d])));
        let components: Vec<[u8; 3]> = rest.as_chunks::<3>().0.iter().map(|c| [c[0], c[1] >> 4, c[1] & 15]).collect();
        if height == 0 || width == 0 {
            return Err(corrupt("a side of no length"));
        }
        if components.is_empty() || components.len() != usize::from(*count) || rest.len() % 3 != 0 {
            return Err(corrupt("a frame header of a wrong length"));
        }
        if components.iter().any(|[_, h, v]| !(1..=4).contains(h) || !(1..=4).contains(v)) {
            return Err(corrupt("a sampling factor out of range"));
        }
        let widest = components.iter().map(|c| c[1]).max().unwrap_or(1);
        let unsupported = match marker {
            0xc3 => Some("lossless coding"),
            0xc9..=0xcb => Some("arithmetic coding"),
            0xc5.. => Some("hierarchical coding"),
            _ if *depth != 8 => Some("more than 8 bits a sample"),
            _ if !matches!(count, 1 | 3 | 4) => Some("neither 1, 3 nor 4 components"),
            // The decoder lacks a horizontal factor of three, and silently garbles chroma sampled finer than luma.
            _ if components[0][1] < widest || components.iter().any(|c| c[1] == 3) => Some(SAMPLING),
            _ => None,
        };
        Ok(Self { width, height, components, progressive: marker == 0xc2, unsupported })
    }

    /// Whether the identifiers are the letters R, G and B.
    fn is_lettered(&self) -> bool {
        self.components.iter().map(|c| c[0]).eq(*b"RGB")
    }

    /// Size in bytes of the whole image's coefficients: two bytes each, all components, in whole blocks.
    fn coefficients(&self) -> u64 {
        let most = |at: usize| self.components.iter().map(|c| u64::from(c[at])).max().unwrap_or(1);
        let (h, v) = (most(1), most(2));
        let units = u64::from(self.width).div_ceil(8 * h) * u64::from(self.height).div_ceil(8 * v);
        self.components.iter().map(|[_, h, v]| units * u64::from(*h) * u64::from(*v) * 128).sum()
    }
}

fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// Replaces the identifiers R, G and B in a frame or scan header by numbers: from these letters the decoder would infer
/// RGB, whatever the markers say.
fn numbered(marker: u8, header: &[u8]) -> Vec<u8> {
    let (first, step) = if marker == 0xda { (1, 2) } else { (6, 3) };
    let count = header.get(first - 1).map_or(0, |count| usize::from(*count));
    let mut header = header.to_vec();
    for identifier in header.iter_mut().skip(first).step_by(step).take(count) {
        *identifier = match *identifier {
            b'R' => 1,
            b'G' => 2,
            b'B' => 3,
            other => other,
        };
    }
    header
}

impl Walk {
    fn new(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut markers = Markers::new(bytes);
        let mut file = Vec::with_capacity(bytes.len() + 2 * ONES + 2);
        file.extend_from_slice(&[0xff, 0xd8]);
        let (mut frame, mut markings, mut scans) = (None::<Frame>, Markings::default(), 0_usize);
        // Whether any scan is interleaved (several components), and whether there are restart markers.
        let (mut mixed, mut restarts) = (false, false);
        // Components seen so far; in a progressive file, only those whose DC coefficients were seen.
        let mut seen: Vec<u8> = Vec::new();
        loop {
            let Some(marker) = markers.next() else { return Err(ends_early("before its end marker")) };
            if marker == 0xd9 {
                break;
            }
            if marker == 0xd8 {
                return Err(corrupt("a second start"));
            }
            let body = markers.segment()?;
            match marker {
                0xe0 | 0xee if scans == 0 => markings.see(marker, body),
                0xdd => restarts |= body != [0, 0],
                _ if is_frame(marker) && frame.is_some() => return Err(corrupt("a second frame header")),
                _ if is_frame(marker) => frame = Some(Frame::parse(marker, body)?),
                _ => {}
            }
            // Copy tables, frame and scan headers and restart intervals; also APP0, by which the decoder recognises
            // Motion JPEG without tables.
            if is_frame(marker) || matches!(marker, 0xc4 | 0xda | 0xdb | 0xdd | 0xe0) {
                file.extend_from_slice(&[0xff, marker]);
                file.extend_from_slice(&(body.len() as u16 + 2).to_be_bytes());
                let letters = frame.as_ref().is_some_and(Frame::is_lettered) && (marker == 0xda || is_frame(marker));
                if letters {
                    file.extend(numbered(marker, body));
                } else {
                    file.extend_from_slice(body);
                }
            }
            if marker == 0xda {
                let Some(frame) = &frame else { return Err(corrupt("no frame header before the picture")) };
                let [count, rest @ ..] = body else { return Err(corrupt("a short scan header")) };
                let count = usize::from(*count);
                let Some([start, ..]) = rest.get(count * 2..) else { return Err(corrupt("a short scan header")) };
                if !frame.progressive || *start == 0 {
                    seen.extend(rest[..count * 2].iter().step_by(2));
                }
                scans += 1;
                mixed |= count > 1;
                file.extend_from_slice(markers.scan()?);
            }
        }
        let Some(frame) = frame else { return Err(ends_early("before its picture")) };
        if frame.components.iter().any(|[id, ..]| !seen.contains(id)) {
            return Err(ends_early("before the last of its components"));
        }
        // No one bits after a lone progressive (DC) scan: the decoder must find the next marker right after the first
        // scan.
        if !frame.progressive || scans > 1 {
            file.extend_from_slice(&[0xff, 0].repeat(ONES));
        }
        file.extend_from_slice(&[0xff, 0xd9]);
        let colour = markings.colour(&frame);
        let buffered = frame.progressive || scans > 1;
        // The decoder is correct for several sequential scans only with one component a scan, unsampled rows and no
        // restarts; it garbles the rest, mostly silently.
        let sampled = frame.components.iter().any(|[_, h, v]| *v > 1 || *h > 1 && mixed);
        if scans > 1 && !frame.progressive && (sampled || restarts) {
            return Err(Format::Jpeg.unsupported("sequential coding in several scans with sampled rows or restarts"));
        }
        Ok(Self { frame, colour, buffered, file })
    }

    /// Size in bytes of the coefficients that the decoder buffers.
    fn coefficients(&self) -> u64 {
        if self.buffered { self.frame.coefficients() } else { 0 }
    }

    /// Decodes to rows of the wanted channels, `length` bytes in all.
    fn pixels(mut self, wanted: ColorSpace, length: u64) -> Result<Vec<u8>, ImageError> {
        let options = DecoderOptions::default().set_strict_mode(true).set_max_width(65_535).set_max_height(65_535);
        if self.colour == Colour::Ycck {
            self.file.splice(2..2, *b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x02");
        }
        let options = options.jpeg_set_out_colorspace(wanted);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&self.file[..]), options);
        let mut data = vec![0; length as usize];
        decoder.decode_into(&mut data).map_err(error)?;
        Ok(data)
    }
}

/// Decodes a JPEG. CMYK becomes RGB as in Pillow, which assumes Adobe's inverted values.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let Frame { width, height, unsupported, .. } = Frame::read(bytes)?;
    limits.check_size(width, height)?;
    if let Some(kind) = unsupported {
        return Err(Format::Jpeg.unsupported(kind));
    }
    let walk = Walk::new(bytes)?;
    let output = u64::from(width) * u64::from(height) * 3;
    limits.check_memory(Format::Jpeg, output + walk.coefficients())?;
    let wanted = match walk.colour {
        // The decoder copies samples unchanged if asked for the model that it assumes.
        Colour::Rgb => ColorSpace::YCbCr,
        Colour::Usual | Colour::Ycck => ColorSpace::RGB,
    };
    Ok(Rgb8 { width, height, data: walk.pixels(wanted, output)? })
}

/// Requirements on a JPEG embedded in another format.
pub(super) struct Part {
    pub(super) width: u32,
    pub(super) heights: RangeInclusive<u32>,
    pub(super) components: usize,
    /// Whether the components are YCbCr to be converted to RGB; otherwise they are left unconverted. Colour markers are
    /// ignored.
    pub(super) rgb: bool,
    /// Bytes already held by the outer format.
    pub(super) held: u64,
}

/// Decodes a JPEG embedded in another format to rows of samples.
pub(super) fn decode_part(bytes: &[u8], limits: &Limits, part: &Part) -> Result<Vec<u8>, ImageError> {
    let Frame { width, height, components, unsupported, .. } = Frame::read(bytes)?;
    if width != part.width || !part.heights.contains(&height) || components.len() != part.components {
        let count = components.len();
        return Err(corrupt(&format!("{width} x {height} pixels of {count} components are not what belongs there")));
    }
    if let Some(kind) = unsupported {
        return Err(Format::Jpeg.unsupported(kind));
    }
    let mut walk = Walk::new(bytes)?;
    walk.colour = Colour::Usual;
    let output = u64::from(width) * u64::from(height) * components.len() as u64;
    limits.check_memory(Format::Jpeg, part.held.saturating_add(output + walk.coefficients()))?;
    let wanted = match components.len() {
        1 => ColorSpace::Luma,
        3 if part.rgb => ColorSpace::RGB,
        3 => ColorSpace::YCbCr,
        _ => ColorSpace::CMYK,
    };
    walk.pixels(wanted, output)
}

fn error(error: DecodeErrors) -> ImageError {
    let reason = match error {
        DecodeErrors::ExhaustedData => return ends_early("within its picture"),
        DecodeErrors::Unsupported(kind) => return Format::Jpeg.unsupported(format!("{kind:?}")),
        DecodeErrors::Format(text) => text,
        DecodeErrors::FormatStatic(text) => text.to_string(),
        other => other.to_string(),
    };
    // The decoder read the one bits before the end marker, or garbage.
    if reason.contains("Huffman Code") || reason.contains("Premature end") {
        return Format::Jpeg.truncated("its picture ends early or is garbled");
    }
    if reason.contains("component dimensions") || reason.contains("Missing samples") {
        return Format::Jpeg.unsupported(SAMPLING);
    }
    Format::Jpeg.corrupt(reason.lines().next().unwrap_or_default().chars().take(200).collect::<String>())
}
