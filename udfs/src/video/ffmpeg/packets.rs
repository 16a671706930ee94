//! ffmpeg's text output of packets or frames, `framecrc`: a line for each, after lines that describe the stream.

/// Packets or frames of a video stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timeline {
    /// Seconds after the first at which each is shown, in ascending order; at least one.
    pub(crate) times: Vec<f64>,
    /// Length in seconds, the last one's duration included; `None` if unknown.
    pub(crate) seconds: Option<f64>,
    /// ffmpeg's name of the codec.
    pub(crate) codec: String,
    /// Width in pixels as stored; 0 if unknown.
    pub(crate) width: u32,
    /// Height in pixels as stored.
    pub(crate) height: u32,
    /// Degrees clockwise by which frames are turned.
    pub(crate) rotation: u16,
}

/// Reads the output piece by piece.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What there is of the current line.
    line: Vec<u8>,
    /// Seconds of a unit of time.
    unit: f64,
    codec: String,
    size: (u32, u32),
    times: Vec<i64>,
    /// End of the packet that ends last.
    end: i64,
}

/// What ffmpeg prints for an unknown time.
const NO_TIME: i64 = i64::MIN;

/// Longest line that is read, in bytes.
const MOST_LINE: usize = 4096;

impl Reader {
    /// Takes output; false once there are more than `most` packets.
    pub(super) fn take(&mut self, bytes: &[u8], most: usize) -> bool {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MOST_LINE - self.line.len().min(MOST_LINE);
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.read(String::from_utf8_lossy(&line).trim());
            }
        }
        self.times.len() <= most
    }

    fn read(&mut self, line: &str) {
        if let Some(fact) = line.strip_prefix('#') {
            let Some((name, value)) = fact.split_once(" 0: ") else { return };
            let pair = |by: char| value.split_once(by).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            match name {
                "tb" => self.unit = pair('/').filter(|(_, b)| *b > 0.0).map_or(0.0, |(a, b): (f64, f64)| a / b),
                "codec_id" => value.clone_into(&mut self.codec),
                "dimensions" => {
                    let size = value.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
                    self.size = size.unwrap_or_default();
                }
                _ => {}
            }
            return;
        }
        let mut fields = line.split(',').skip(1).map(|field| field.trim().parse().unwrap_or(NO_TIME));
        let (Some(decoded), Some(shown), Some(lasts)) = (fields.next(), fields.next(), fields.next()) else { return };
        let known = [shown, decoded].into_iter().find(|time| *time != NO_TIME);
        // One without a time stands where the last one does.
        let time = known.or(self.times.last().copied()).unwrap_or(0);
        let end = time.saturating_add(lasts.max(0));
        self.end = if self.times.is_empty() { end } else { self.end.max(end) };
        self.times.push(time);
    }

    /// The timeline; `None` without packets.
    pub(super) fn timeline(mut self) -> Option<Timeline> {
        self.times.sort_unstable();
        let first = *self.times.first()?;
        let seconds = |time: i64| (i128::from(time) - i128::from(first)) as f64 * self.unit;
        Some(Timeline {
            times: self.times.iter().map(|time| seconds(*time)).collect(),
            seconds: Some(seconds(self.end)).filter(|seconds| *seconds > 0.0),
            codec: self.codec.clone(),
            width: self.size.0,
            height: self.size.1,
            rotation: 0,
        })
    }
}

/// Degrees clockwise of the display matrix among ffmpeg's messages, which has them counterclockwise; 0 without one.
pub(super) fn rotation(messages: &str) -> u16 {
    let degrees = messages.lines().find_map(|line| {
        let line = line.trim_start_matches("[info]").trim_start().to_ascii_lowercase();
        let rest = line.strip_prefix("displaymatrix: ").or_else(|| line.strip_prefix("display matrix: "))?;
        rest.strip_prefix("rotation of ")?.split(' ').next()?.parse::<f64>().ok()
    });
    // Other angles than right ones are drawn slanted by ffmpeg, within the nearest of these sizes.
    (-degrees.unwrap_or(0.0) / 90.0).round().rem_euclid(4.0) as u16 * 90
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "#extradata 0:       45, 0x37500f3a\n#tb 0: 1/12800\n#media_type 0: video\n#codec_id 0: h264\n\
        #dimensions 0: 96x72\n#sar 0: 0/1\n0,      -1024,          0,      512,     1189, 0xdf7dee19\n\
        0,       -512,       1536,      512,      181, 0x65e6551a, F=0x0\n0, 0, 512, 512, 25, 0x62fd0941, F=0x0\n";

    #[test]
    fn output_is_read_however_it_is_cut() {
        let mut whole = Reader::default();
        assert!(whole.take(OUTPUT.as_bytes(), 3));
        let whole = whole.timeline().unwrap();
        assert_eq!((whole.codec.as_str(), whole.width, whole.height), ("h264", 96, 72));
        assert_eq!(whole.times, [0.0, 0.04, 0.12]);
        assert_eq!(whole.seconds, Some(0.16));
        for size in [1, 2, 7, 50] {
            let mut reader = Reader::default();
            assert!(OUTPUT.as_bytes().chunks(size).all(|piece| reader.take(piece, 3)));
            assert_eq!(reader.timeline().as_ref(), Some(&whole));
        }
        assert!(!Reader::default().take(OUTPUT.as_bytes(), 2));
        assert_eq!(Reader::default().timeline(), None);
    }

    #[test]
    fn times_that_are_missing_or_absurd_do_no_harm() {
        let mut reader = Reader::default();
        let lines = "#tb 0: 1/0\n0, -9223372036854775808, -9223372036854775808, 0, 1, 0x0\n\
                     0, -9223372036854775808, 9223372036854775807, 9223372036854775807, 1, 0x0\n0, -9223372036854775807, x, 1, 1\nnonsense\n";
        assert!(reader.take(lines.as_bytes(), 10));
        let timeline = reader.timeline().unwrap();
        assert_eq!((timeline.times.len(), timeline.seconds), (3, None));
    }

    #[test]
    fn the_rotation_is_clockwise() {
        assert_eq!(rotation("[info]       Display Matrix: rotation of 90.00 degrees"), 270);
        assert_eq!(rotation("  Side data:\n      displaymatrix: rotation of -90.00 degrees"), 90);
        assert_eq!(rotation("[info]   displaymatrix: rotation of -180.00 degrees"), 180);
        assert_eq!(rotation("[info]     title           : displaymatrix: rotation of 90.00 degrees"), 0);
        assert_eq!(rotation(""), 0);
    }
}
