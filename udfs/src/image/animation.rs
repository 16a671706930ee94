//! Animated GIF, WebP and PNG: their frames one after another, as Pillow's `convert('RGB')` gives them.
//!
//! A frame is decoded as a file of its own and drawn here, so that what decoders hold and how they fail is as for still
//! pictures.

use super::contract::{Format, ImageError, Limits};
use super::pixels::Rgb8;
use super::{apng, decode, gif, info, webp};

/// Most frames of an animation or packets of a video: ten hours at 25 frames a second.
pub(crate) const MOST_FRAMES: usize = 1_000_000;

/// Frames of a file, none of them decoded yet.
pub(crate) struct Animation<'a> {
    bytes: &'a [u8],
    format: Format,
    width: u32,
    height: u32,
    frames: Vec<Frame<'a>>,
    png: Option<apng::Animation<'a>>,
}

/// A frame, and how it is drawn.
struct Frame<'a> {
    place: Place,
    /// Seconds that it is shown.
    seconds: f64,
    blends: bool,
    disposal: Disposal,
    file: File<'a>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// What becomes of a frame's place after it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposal {
    Keep,
    Fill([u8; 4]),
    Restore,
}

enum File<'a> {
    /// The whole file, which is a still picture.
    Whole,
    Gif(gif::Frame<'a>),
    WebP(webp::Frame<'a>),
    /// Index of the frame in the PNG.
    Png(usize),
}

impl<'a> Animation<'a> {
    /// Reads the headers of a GIF, WebP or PNG, of which a still picture is an animation of one frame; `None` for other
    /// formats.
    ///
    /// # Errors
    /// The bytes are no picture, or end early; more pixels than `limits` allows; more than [`MOST_FRAMES`].
    pub(crate) fn read(bytes: &'a [u8], limits: &Limits) -> Result<Option<Self>, ImageError> {
        let format = match info::sniff(bytes) {
            Ok(format @ (Format::Gif | Format::WebP | Format::Png)) => format,
            _ => return Ok(None),
        };
        let mut png = None;
        let (width, height, mut frames) = match format {
            Format::Gif => {
                let (width, height, frames) = gif::frames(bytes, MOST_FRAMES)?;
                (width, height, frames.into_iter().map(Frame::of_gif).collect::<Vec<_>>())
            }
            Format::WebP => {
                let header = webp::Header::read(bytes)?;
                header.still(bytes)?;
                let frames = header.frames(bytes, MOST_FRAMES)?;
                (header.width, header.height, frames.into_iter().map(Frame::of_webp).collect())
            }
            _ => {
                let header = info::PngHeader::read(bytes)?;
                png = apng::Animation::read(bytes, MOST_FRAMES)?;
                (header.width, header.height, png.as_ref().map_or(vec![], Frame::of_png))
            }
        };
        limits.check_size(width, height)?;
        // The canvas and what is restored, and a frame as its decoder has it, of up to eight bytes a pixel, and in four.
        limits.check_memory(format, u64::from(width) * u64::from(height) * 20)?;
        if frames.is_empty() {
            let place = Place { left: 0, top: 0, width, height };
            frames.push(Frame { place, seconds: 0.0, blends: false, disposal: Disposal::Keep, file: File::Whole });
        }
        Ok(Some(Self { bytes, format, width, height, frames, png }))
    }

    /// `gif`, `webp` or `png`.
    pub(crate) fn format(&self) -> &'static str {
        self.format.name()
    }

    /// Width and height in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Seconds that each frame is shown; at least one frame.
    pub(crate) fn seconds(&self) -> impl ExactSizeIterator<Item = f64> {
        self.frames.iter().map(|frame| frame.seconds)
    }
}

impl<'a> Frame<'a> {
    fn of_gif(frame: gif::Frame<'a>) -> Self {
        let [red, green, blue] = frame.background;
        Self {
            place: Place { left: frame.left, top: frame.top, width: frame.width, height: frame.height },
            seconds: f64::from(frame.hundredths) / 100.0,
            blends: true,
            disposal: match frame.disposal {
                2 => Disposal::Fill([red, green, blue, 0]),
                3 => Disposal::Restore,
                _ => Disposal::Keep,
            },
            file: File::Gif(frame),
        }
    }

    fn of_webp(frame: webp::Frame<'a>) -> Self {
        Self {
            place: Place { left: frame.left, top: frame.top, width: frame.width, height: frame.height },
            seconds: f64::from(frame.milliseconds) / 1000.0,
            blends: frame.blends,
            disposal: if frame.clears { Disposal::Fill([0; 4]) } else { Disposal::Keep },
            file: File::WebP(frame),
        }
    }

    fn of_png(png: &apng::Animation<'a>) -> Vec<Self> {
        let fill = Disposal::Fill(png.background());
        let frame = |(i, frame): (usize, &apng::Frame<'a>)| Self {
            place: Place { left: frame.left, top: frame.top, width: frame.width, height: frame.height },
            seconds: frame.seconds,
            // There is nothing before the first.
            blends: frame.blends && i > 0,
            disposal: match frame.disposal {
                1 => fill,
                2 if i == 0 => fill,
                2 => Disposal::Restore,
                _ => Disposal::Keep,
            },
            file: File::Png(i),
        };
        png.frames.iter().enumerate().map(frame).collect()
    }
}

/// Draws an animation frame by frame.
pub(crate) struct Player<'a> {
    animation: &'a Animation<'a>,
    limits: &'a Limits,
    /// Rows of RGBA.
    canvas: Vec<u8>,
    /// What the last frame's place was before, if that will be restored.
    before: Vec<u8>,
    /// Index of the next frame.
    next: usize,
    /// Whether the last frame is a key frame of a WebP.
    was_key: bool,
}

impl<'a> Player<'a> {
    pub(crate) fn new(animation: &'a Animation<'a>, limits: &'a Limits) -> Self {
        let size = animation.width as usize * animation.height as usize * 4;
        Self { animation, limits, canvas: vec![0; size], before: vec![], next: 0, was_key: false }
    }

    /// Draws the next frame; false after the last.
    ///
    /// # Errors
    /// Those of decoding a picture.
    pub(crate) fn advance(&mut self) -> Result<bool, ImageError> {
        let Some(frame) = self.animation.frames.get(self.next) else { return Ok(false) };
        let last = self.next.checked_sub(1).map(|i| &self.animation.frames[i]);
        if let Some(last) = last {
            match last.disposal {
                Disposal::Keep => {}
                Disposal::Fill(colour) => {
                    self.rows(last.place).for_each(|row| row.as_chunks_mut::<4>().0.fill(colour));
                }
                Disposal::Restore => {
                    let before = std::mem::take(&mut self.before);
                    for (row, before) in
                        self.rows(last.place).zip(before.chunks_exact(last.place.width.max(1) as usize * 4))
                    {
                        row.copy_from_slice(&before[..row.len()]);
                    }
                }
            }
        }
        if frame.disposal == Disposal::Restore {
            let mut before = vec![];
            // A frame may lie outside in part; its rows are stored as wide as it is.
            let width = frame.place.width as usize * 4;
            for row in self.rows(frame.place) {
                before.extend_from_slice(row);
                before.resize(before.len() + width - row.len(), 0);
            }
            self.before = before;
        }
        let (bytes, size) = (self.animation.bytes, (frame.place.width, frame.place.height));
        let format = self.animation.format;
        let pixels = match &frame.file {
            File::Gif(_) | File::Whole if self.next == 0 => {
                self.whole(&decode::decode(bytes, &Limits { max_bytes: u64::MAX, ..*self.limits })?);
                self.next = 1;
                return Ok(true);
            }
            File::Whole => return Ok(false),
            File::Gif(frame) => decode::rgba(format, &frame.file(), size, self.limits)?,
            File::WebP(frame) => decode::rgba(format, &frame.file()?, size, self.limits)?,
            File::Png(i) => match &self.animation.png {
                Some(png) => decode::rgba(format, &png.file(&png.frames[*i]), size, self.limits)?,
                None => return Ok(false),
            },
        };
        match format {
            Format::WebP => self.draw_webp(frame, last, &pixels),
            _ if frame.blends => self.draw(frame.place, &pixels, |there, pixel, _, _| match pixel[3] {
                255 => *there = pixel,
                0 => {}
                alpha => *there = pasted(*there, pixel, alpha),
            }),
            _ => self.draw(frame.place, &pixels, |there, pixel, _, _| *there = pixel),
        }
        self.next += 1;
        Ok(true)
    }

    /// The canvas without its alpha.
    pub(crate) fn picture(&self) -> Rgb8 {
        let data =
            self.canvas.as_chunks::<4>().0.iter().flat_map(|[red, green, blue, _]| [*red, *green, *blue]).collect();
        Rgb8 { width: self.animation.width, height: self.animation.height, data }
    }

    fn whole(&mut self, picture: &Rgb8) {
        for (pixel, [red, green, blue]) in
            self.canvas.as_chunks_mut::<4>().0.iter_mut().zip(picture.data.as_chunks::<3>().0)
        {
            *pixel = [*red, *green, *blue, 255];
        }
    }

    /// Rows of the canvas in a place, as far as they lie on it.
    fn rows(&mut self, place: Place) -> impl Iterator<Item = &mut [u8]> {
        let width = self.animation.width as usize;
        let left = (place.left as usize).min(width);
        let right = (place.left as usize + place.width as usize).min(width);
        let rows = self.canvas.chunks_exact_mut(width.max(1) * 4);
        rows.skip(place.top as usize).take(place.height as usize).map(move |row| &mut row[left * 4..right * 4])
    }

    /// Draws pixels, rows of RGBA as wide as the place, by a function of what is there, the pixel, and its column and row on
    /// the canvas.
    fn draw(&mut self, place: Place, pixels: &[u8], mut put: impl FnMut(&mut [u8; 4], [u8; 4], u32, u32)) {
        let rows = self.rows(place).zip(pixels.chunks_exact(place.width as usize * 4));
        for (y, (row, pixels)) in (place.top..).zip(rows) {
            for (x, (there, pixel)) in
                (place.left..).zip(row.as_chunks_mut::<4>().0.iter_mut().zip(pixels.as_chunks::<4>().0))
            {
                put(there, *pixel, x, y);
            }
        }
    }

    /// Draws a frame as libwebp's WebPAnimDecoder does: a key frame on nothing, another over what is there, except where the
    /// last one was cleared away.
    fn draw_webp(&mut self, frame: &Frame<'_>, last: Option<&Frame<'_>>, pixels: &[u8]) {
        let whole = |place: Place| (place.width, place.height) == (self.animation.width, self.animation.height);
        let opaque = || pixels.as_chunks::<4>().0.iter().all(|pixel| pixel[3] == 255);
        let cleared = last.filter(|last| last.disposal != Disposal::Keep).map(|last| last.place);
        let is_key = match last {
            None => true,
            Some(_) if whole(frame.place) && (!frame.blends || opaque()) => true,
            Some(last) => cleared.is_some() && (whole(last.place) || self.was_key),
        };
        if is_key {
            self.canvas.fill(0);
        }
        let blends = frame.blends && !is_key;
        self.draw(frame.place, pixels, |there, pixel, x, y| {
            let is_cleared = cleared.is_some_and(|place| {
                (place.left..place.left + place.width).contains(&x)
                    && (place.top..place.top + place.height).contains(&y)
            });
            *there = if blends && pixel[3] != 255 && !is_cleared { blended(*there, pixel) } else { pixel };
        });
        self.was_key = is_key;
    }
}

/// A pixel pasted by its alpha, by Pillow's arithmetic.
fn pasted(there: [u8; 4], pixel: [u8; 4], alpha: u8) -> [u8; 4] {
    let alpha = u32::from(alpha);
    std::array::from_fn(|i| {
        let sum = u32::from(pixel[i]) * alpha + u32::from(there[i]) * (255 - alpha) + 128;
        (((sum >> 8) + sum) >> 8) as u8
    })
}

/// A pixel over another, by libwebp's arithmetic.
fn blended(there: [u8; 4], pixel: [u8; 4]) -> [u8; 4] {
    let alpha = u32::from(pixel[3]);
    if alpha == 0 {
        return there;
    }
    let rest = (u32::from(there[3]) * (256 - alpha)) >> 8;
    let sum = alpha + rest;
    let scale = (1 << 24) / sum;
    let channel = |i: usize| {
        let mixed = u32::from(pixel[i]) * alpha + u32::from(there[i]) * rest;
        ((u64::from(mixed) * u64::from(scale)) >> 24) as u8
    };
    [channel(0), channel(1), channel(2), sum as u8]
}
