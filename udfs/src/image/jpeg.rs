//! JPEG: most of the web's pictures.
//!
//! zune-jpeg decodes, but it is lenient: data that end early become zeros and grey. So the file is walked first, marker
//! by marker, which is cheap. The walk demands an end marker, as Pillow does, and writes a clean copy for the decoder:
//! without metadata (a broken EXIF block is no reason to lose a picture), and with ones before the end marker. No
//! Huffman code is all ones, so a decoder that still wants data there fails instead of inventing them.

use std::ops::RangeInclusive;

use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Format, ImageError, Limits, Rgb8};

/// Bytes of ones before the end marker: more than what one symbol that was cut can still swallow, 15 bits of its code
/// and 15 of its value, and a whole code.
const ONES: usize = 8;

/// Subsampling that the decoder refuses or gets wrong: seldom seen.
const SAMPLING: &str = "such sampling of colours";

/// A file's frame header.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Identifier, horizontal and vertical sampling factor of each.
    pub(super) components: Vec<[u8; 3]>,
    progressive: bool,
    /// What cannot be decoded about it.
    unsupported: Option<&'static str>,
}

/// What the components mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    /// What the decoder takes for granted: grey, YCbCr or CMYK, by the number of components.
    Usual,
    /// RGB.
    Rgb,
    /// YCbCr for three channels, black as the fourth.
    Ycck,
}

/// The markers that say what the components mean.
#[derive(Debug, Default)]
struct Markings {
    jfif: bool,
    /// The transform that Adobe's marker names.
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

    /// Decides as libjpeg does (`default_decompress_parms` in jdapimin.c).
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

/// What the walk finds.
struct Walk {
    frame: Frame,
    colour: Colour,
    /// Several scans, whose coefficients the decoder holds until the last.
    buffered: bool,
    file: Vec<u8>,
}

fn ends_early(where_: &str) -> ImageError {
    Format::Jpeg.truncated(format!("it ends {where_}"))
}

fn corrupt(reason: &str) -> ImageError {
    Format::Jpeg.corrupt(reason)
}

/// Steps from marker to marker.
struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// The next marker that has a meaning between segments; bytes before it are skipped, as libjpeg does.
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

    /// The body of the segment whose marker was read last.
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

    /// The entropy-coded data up to the next marker but a restart.
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
    /// Reads up to the frame header.
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
            // The decoder knows no factor of three along the rows, and silently garbles colours finer than the
            // brightness.
            _ if components[0][1] < widest || components.iter().any(|c| c[1] == 3) => Some(SAMPLING),
            _ => None,
        };
        Ok(Self { width, height, components, progressive: marker == 0xc2, unsupported })
    }

    /// Whether the identifiers are the letters R, G and B.
    fn is_lettered(&self) -> bool {
        self.components.iter().map(|c| c[0]).eq(*b"RGB")
    }

    /// Bytes of the coefficients of the whole picture: two for each, of all components, in whole blocks.
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

/// A frame or scan header with numbers for the identifiers R, G and B: by these letters the decoder would judge what the
/// components mean, whatever the markers say.
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
        // Whether there are scans of several components, and restart markers.
        let (mut mixed, mut restarts) = (false, false);
        // Components that have been seen: at all where sequential, with their mean value where progressive.
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
            // Tables, frame and scan headers, restart interval; and APP0, by which the decoder knows Motion JPEG's
            // missing tables.
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
        // After a first scan the decoder must see the next marker at once; a lone one of mean values is the only case.
        if !frame.progressive || scans > 1 {
            file.extend_from_slice(&[0xff, 0].repeat(ONES));
        }
        file.extend_from_slice(&[0xff, 0xd9]);
        let colour = markings.colour(&frame);
        let buffered = frame.progressive || scans > 1;
        // What the decoder does of such files is right for one component a scan, whole rows and no restarts; the rest
        // it garbles, mostly in silence.
        let sampled = frame.components.iter().any(|[_, h, v]| *v > 1 || *h > 1 && mixed);
        if scans > 1 && !frame.progressive && (sampled || restarts) {
            return Err(Format::Jpeg.unsupported("sequential coding in several scans with sampled rows or restarts"));
        }
        Ok(Self { frame, colour, buffered, file })
    }

    /// Bytes of coefficients that the decoder holds at once.
    fn coefficients(&self) -> u64 {
        if self.buffered { self.frame.coefficients() } else { 0 }
    }

    /// `length` bytes: rows of the wanted channels.
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

/// Decodes a JPEG. CMYK becomes RGB as in Pillow, which takes Adobe's inverted values for granted.
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
        // Asked for what it takes for granted, the decoder copies.
        Colour::Rgb => ColorSpace::YCbCr,
        Colour::Usual | Colour::Ycck => ColorSpace::RGB,
    };
    Ok(Rgb8 { width, height, data: walk.pixels(wanted, output)? })
}

/// What a JPEG within another format must be.
pub(super) struct Part {
    pub(super) width: u32,
    pub(super) heights: RangeInclusive<u32>,
    pub(super) components: usize,
    /// Whether the components are YCbCr and wanted as RGB; otherwise they are taken as they are. Markers do not matter.
    pub(super) rgb: bool,
    /// Bytes that are held already.
    pub(super) held: u64,
}

/// Decodes a JPEG within another format: rows of samples.
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
    // Where the ones before the end marker were read, or data that make no sense.
    if reason.contains("Huffman Code") || reason.contains("Premature end") {
        return Format::Jpeg.truncated("its picture ends early or is garbled");
    }
    if reason.contains("component dimensions") || reason.contains("Missing samples") {
        return Format::Jpeg.unsupported(SAMPLING);
    }
    Format::Jpeg.corrupt(reason.lines().next().unwrap_or_default().chars().take(200).collect::<String>())
}
