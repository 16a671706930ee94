//! Images and the texts beside them, which folders and tar files name alike.

/// What the names of images end in whose format is decoded.
pub(crate) const IMAGES: [&str; 11] = ["bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// A text beside an image is no larger; a file of that name that is larger is not read.
pub(crate) const MOST_TEXT_BYTES: u64 = 8 << 20;

/// The column that says why a row has no image; tables have it until their rows are read.
pub(crate) const PROBLEM: &str = "problem";

/// A text without the byte order mark and the blanks around it. One that begins with UTF-16's mark is decoded as UTF-16; what is
/// not valid becomes U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let mut units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        if bytes.len() % 2 == 1 {
            // Half a unit.
            units.push(0xfffd);
        }
        String::from_utf16_lossy(&units)
    };
    let decoded = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        plain => String::from_utf8_lossy(plain).into_owned(),
    };
    decoded.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_editors_write_it() {
        let utf16 = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("eine Käte 🐈\r\n".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        for bytes in [
            b"eine K\xc3\xa4te \xf0\x9f\x90\x88".to_vec(),
            b"\xef\xbb\xbf eine K\xc3\xa4te \xf0\x9f\x90\x88\n".to_vec(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(text(&bytes), "eine Käte 🐈");
        }
        assert_eq!(text(b"caf\xe9"), "caf\u{fffd}");
        assert_eq!(text(&[0xff, 0xfe, b'a', 0, b'b']), "a\u{fffd}");
    }
}
