//! Decompression of a TIFF's strips or tiles to rows of samples.

use flate2::read::ZlibDecoder;
use std::{
    borrow::Cow,
    io::{self, Cursor, Read},
};
use weezl::{BitOrder, LzwStatus, decode::Configuration};

use super::directory::{Directory, List};
use super::layout::{FORMAT, Layout, MAX_SAMPLES, compression};
use crate::image::contract::{ImageError, Limits};
use crate::image::jpeg;

/// Locates and decompresses strips or tiles.
pub(super) struct Chunks<'a> {
    pub(super) layout: &'a Layout,
    bytes: &'a [u8],
    little: bool,
    offsets: List<'a>,
    /// Compressed sizes in bytes. For uncompressed data they may be absent or wrong.
    lengths: Option<List<'a>>,
    /// JPEG tables shared by all strips or tiles.
    tables: &'a [u8],
    /// Group 3 options; the lowest bit means two-dimensional coding.
    fax: u64,
}

/// Reader of the decompressed rows of one strip or tile, in order.
pub(super) struct Rows<'a> {
    reader: Box<dyn Read + 'a>,
    /// Bytes of a row, and the same after the floating-point predictor.
    row: Vec<u8>,
    swapped: Vec<u8>,
    little: bool,
    bits: u16,
    samples: usize,
    predictor: u64,
}

/// Converts an error of reading rows.
fn failed(error: &io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FORMAT.truncated("it ends within its pixels"),
        _ => FORMAT.corrupt(error.to_string().chars().take(200).collect::<String>()),
    }
}

impl<'a> Chunks<'a> {
    /// Fails unless the lists of strips or tiles have the length that the image size implies, and the compressed sizes
    /// add up to about the file's at most: the same bytes over and over would take hours to decompress.
    pub(super) fn new(bytes: &'a [u8], directory: &Directory<'a>, layout: &'a Layout) -> Result<Self, ImageError> {
        let (offsets, lengths) = if layout.tiled { (324, 325) } else { (273, 279) };
        let expected = layout.across() * layout.down() * layout.planes() as u64;
        let list = |tag, what| match directory.list(tag) {
            Some(list) if list.len() as u64 >= expected => Ok(list),
            Some(list) => Err(FORMAT.corrupt(format!("{} {what} of strips or tiles, not {expected}", list.len()))),
            None => Err(FORMAT.truncated(format!("it has no {what} of strips or tiles, or they lie past its end"))),
        };
        let offsets = list(offsets, "offsets")?;
        let lengths = if layout.compression == 1 { None } else { Some(list(lengths, "lengths")?) };
        let total = lengths.iter().flat_map(|list| list.iter().take(expected as usize)).fold(0, u64::saturating_add);
        let tables = directory.list(347).map_or(&b""[..], |list| list.bytes());
        // Each strip or tile reads the tables, but quickly, so that an eighth of their size counts.
        let total = total.saturating_add(expected.saturating_mul(tables.len() as u64) / 8);
        if total > 2 * bytes.len() as u64 {
            return Err(FORMAT.corrupt("its strips or tiles are longer than the file"));
        }
        let fax = directory.first(292).unwrap_or(0);
        Ok(Self { layout, bytes, little: directory.little(), offsets, lengths, tables, fax })
    }

    /// The compressed bytes of a strip or tile.
    fn packed(&self, index: u64) -> Result<Cow<'a, [u8]>, ImageError> {
        let past = || FORMAT.truncated("its pixels lie past its end");
        let get = |list: &List<'_>| list.get(index as usize).and_then(|number| usize::try_from(number).ok());
        let rest = get(&self.offsets).and_then(|start| self.bytes.get(start..)).ok_or_else(past)?;
        let length = match &self.lengths {
            None => {
                let whole = self.layout.row_bytes().saturating_mul(u64::from(self.layout.chunk.1));
                whole.min(rest.len() as u64) as usize
            }
            Some(lengths) => get(lengths).ok_or_else(past)?,
        };
        let packed = rest.get(..length).ok_or_else(past)?;
        Ok(if self.layout.reversed {
            Cow::Owned(packed.iter().map(|byte| byte.reverse_bits()).collect())
        } else {
            Cow::Borrowed(packed)
        })
    }

    /// Rows of a strip or tile, of which `height` are needed.
    pub(super) fn rows(&self, index: u64, height: u32, limits: &Limits) -> Result<Rows<'a>, ImageError> {
        let layout = self.layout;
        let packed = Cursor::new(self.packed(index)?);
        let reader: Box<dyn Read + 'a> = match layout.compression {
            1 => Box::new(packed),
            3 | 4 => Box::new(Cursor::new(self.fax(packed.get_ref(), height)?)),
            5 => Box::new(Lzw::new(packed.into_inner())),
            7 => Box::new(Cursor::new(self.jpeg(packed.get_ref(), height, limits)?)),
            8 | 32_946 => Box::new(ZlibDecoder::new(packed)),
            32_773 => Box::new(PackBits { packed, left: 0, repeated: None }),
            50_000 => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|error| failed(&error))?;
                // The window takes memory, and one per plane is held.
                let most = limits.memory().ilog2().saturating_sub(3).clamp(10, 27);
                decoder.window_log_max(most).map_err(|error| failed(&error))?;
                Box::new(decoder)
            }
            other => return Err(FORMAT.unsupported(compression(other))),
        };
        let row = vec![0; layout.row_bytes() as usize];
        let swapped = if layout.predictor == 3 { row.clone() } else { Vec::new() };
        let (bits, samples, predictor) = (layout.bits, layout.samples_a_plane(), layout.predictor);
        Ok(Rows { reader, row, swapped, little: self.little, bits, samples, predictor })
    }

    /// Decodes CCITT fax codes to rows of bits, where 1 is black.
    fn fax(&self, packed: &[u8], height: u32) -> Result<Vec<u8>, ImageError> {
        let width = u16::try_from(self.layout.chunk.0).map_err(|_| FORMAT.unsupported("fax data this wide"))?;
        let ends = || FORMAT.truncated("its fax data end early or are garbled");
        let mut rows = Vec::with_capacity(usize::from(width).div_ceil(8) * height as usize);
        let mut push = |transitions: &[u16]| {
            let start = rows.len();
            rows.resize(start + usize::from(width).div_ceil(8), 0);
            let black =
                fax::decoder::pels(transitions, width).enumerate().filter(|(_, colour)| *colour == fax::Color::Black);
            for (x, _) in black {
                rows[start + x / 8] |= 0x80 >> (x % 8);
            }
        };
        // The decoders read past the last code; the last row may lack its end-of-line code.
        let bytes = packed.iter().copied().chain([0, 0, 1]).map(Ok::<u8, std::convert::Infallible>);
        if self.layout.compression == 4 {
            let mut decoder = fax::decoder::Group4Decoder::new(bytes, width).map_err(|_| ends())?;
            for _ in 0..height {
                match decoder.advance() {
                    Ok(fax::decoder::DecodeStatus::Incomplete) => push(decoder.transition()),
                    _ => return Err(ends()),
                }
            }
            return Ok(rows);
        }
        if self.fax & 3 != 0 {
            return Err(FORMAT.unsupported("two-dimensional CCITT Group 3 compression"));
        }
        let mut decoder = fax::decoder::Group3Decoder::new(bytes).map_err(|_| ends())?;
        for _ in 0..height {
            let row = decoder.advance().map(|_| decoder.transitions());
            match row.map_err(|_| ends())? {
                row if row.last() == Some(&width) => push(row),
                _ => return Err(ends()),
            }
        }
        Ok(rows)
    }

    /// Decodes a JPEG, prefixed with the shared tables.
    fn jpeg(&self, packed: &[u8], height: u32, limits: &Limits) -> Result<Vec<u8>, ImageError> {
        let layout = self.layout;
        let tables = self.tables.strip_suffix(b"\xff\xd9").unwrap_or(self.tables);
        // libtiff adds a missing end marker; the data before it show whether they are complete.
        let file = match packed.strip_prefix(b"\xff\xd8") {
            Some(rest) if tables.starts_with(b"\xff\xd8") => [tables, rest, b"\xff\xd9"].concat(),
            Some(_) => [packed, b"\xff\xd9"].concat(),
            None => return Err(FORMAT.corrupt("its JPEG data have no start")),
        };
        let part = jpeg::Part {
            width: layout.chunk.0,
            heights: height..=layout.chunk.1,
            components: layout.samples_a_plane(),
            rgb: layout.photometric == 6 && layout.samples == 3,
            held: u64::from(layout.width) * u64::from(layout.height) * 3,
        };
        jpeg::decode_part(&file, limits, &part).map_err(|error| match error {
            ImageError::Truncated { reason, .. } => FORMAT.truncated(format!("JPEG data: {reason}")),
            ImageError::Corrupt { reason, .. } => FORMAT.corrupt(format!("JPEG data: {reason}")),
            ImageError::Unsupported { reason, .. } => FORMAT.unsupported(format!("JPEG data with {reason}")),
            ImageError::TooMuchMemory { limit, .. } => ImageError::TooMuchMemory { format: FORMAT.label(), limit },
            other => other,
        })
    }
}

impl Rows<'_> {
    /// Reads a row and passes each sample to `put`, with its index in the row.
    pub(super) fn next(&mut self, mut put: impl FnMut(usize, u32)) -> Result<(), ImageError> {
        self.reader.read_exact(&mut self.row).map_err(|error| failed(&error))?;
        let little = self.little;
        let row = if self.predictor == 3 {
            for at in self.samples..self.row.len() {
                self.row[at] = self.row[at].wrapping_add(self.row[at - self.samples]);
            }
            // The first bytes of all numbers come first, then the second ones.
            let numbers = self.row.len() / 4;
            for (at, byte) in self.row.iter().enumerate() {
                let (digit, number) = (at / numbers, at % numbers);
                self.swapped[number * 4 + if little { 3 - digit } else { digit }] = *byte;
            }
            &self.swapped
        } else {
            &self.row
        };
        let difference = self.predictor == 2;
        let mut before = [0_u32; MAX_SAMPLES];
        let (samples, mask) = (self.samples, u32::MAX >> (32 - self.bits));
        let mut push = |at: usize, number: u32| {
            if difference {
                let before = &mut before[at % samples];
                *before = before.wrapping_add(number) & mask;
                put(at, *before);
            } else {
                put(at, number);
            }
        };
        match self.bits {
            8 => row.iter().enumerate().for_each(|(at, byte)| push(at, u32::from(*byte))),
            16 => row.as_chunks().0.iter().enumerate().for_each(|(at, pair)| {
                push(at, u32::from(if little { u16::from_le_bytes(*pair) } else { u16::from_be_bytes(*pair) }));
            }),
            32 => row.as_chunks().0.iter().enumerate().for_each(|(at, four)| {
                push(at, if little { u32::from_le_bytes(*four) } else { u32::from_be_bytes(*four) });
            }),
            12 => row.chunks(3).enumerate().for_each(|(at, three)| {
                let [a, b, c] = [0, 1, 2].map(|at| u32::from(three.get(at).copied().unwrap_or_default()));
                push(at * 2, a << 4 | b >> 4);
                push(at * 2 + 1, (b & 15) << 8 | c);
            }),
            bits => {
                let each = 8 / usize::from(bits);
                for (at, byte) in row.iter().enumerate() {
                    for part in 0..each {
                        let shift = 8 - usize::from(bits) * (part + 1);
                        push(at * each + part, u32::from(*byte) >> shift & mask);
                    }
                }
            }
        }
        Ok(())
    }
}

/// TIFF's variant of LZW.
struct Lzw<'a> {
    packed: Cow<'a, [u8]>,
    at: usize,
    decoder: weezl::decode::Decoder,
}

impl<'a> Lzw<'a> {
    fn new(packed: Cow<'a, [u8]>) -> Self {
        let decoder = Configuration::with_tiff_size_switch(BitOrder::Msb, 8).with_yield_on_full_buffer(true).build();
        Self { packed, at: 0, decoder }
    }
}

impl Read for Lzw<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // The decoder may report no progress twice: once for a code that only resets its table, from bits that it had
        // already consumed.
        let mut stalled = 0;
        loop {
            let result = self.decoder.decode_bytes(&self.packed[self.at..], out);
            self.at += result.consumed_in;
            match result.status {
                Ok(LzwStatus::Ok | LzwStatus::NoProgress) if result.consumed_out == 0 && stalled < 2 => {
                    stalled = if result.consumed_in == 0 { stalled + 1 } else { 0 };
                }
                Ok(_) => return Ok(result.consumed_out),
                Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "garbled LZW data")),
            }
        }
    }
}

/// Apple's PackBits: runs of one byte, and literal runs.
struct PackBits<'a> {
    packed: Cursor<Cow<'a, [u8]>>,
    left: usize,
    repeated: Option<u8>,
}

impl PackBits<'_> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.packed.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

impl Read for PackBits<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.byte()? {
                128 => {}
                count @ 0..128 => (self.left, self.repeated) = (usize::from(count) + 1, None),
                count => (self.left, self.repeated) = (257 - usize::from(count), Some(self.byte()?)),
            }
        }
        let length = self.left.min(out.len());
        let out = &mut out[..length];
        match self.repeated {
            Some(byte) => out.fill(byte),
            None => self.packed.read_exact(out)?,
        }
        self.left -= length;
        Ok(length)
    }
}
