//! Decoding of SQL files as editors save them.

/// Byte order mark, with which some editors begin a file.
const MARK: char = '\u{feff}';

/// The text of a file: UTF-8, with a byte order mark or without.
///
/// # Errors
/// Says what it is instead, and what to do.
pub(crate) fn script(bytes: Vec<u8>) -> Result<String, String> {
    // SQL has no NUL in it, but in UTF-16 every second byte of it is one.
    let utf16 = matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]);
    if utf16 {
        return Err("it is UTF-16 (as of PowerShell's >, or of \"Unicode\" in an editor): save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8: save it as UTF-8")
    })?;
    Ok(unmarked(&text).to_owned())
}

/// Text without a leading byte order mark.
pub(crate) fn unmarked(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_save_is_read_or_named() {
        assert_eq!(script(b"\xef\xbb\xbfSELECT 'caf\xc3\xa9';".to_vec()).unwrap(), "SELECT 'café';");
        assert_eq!(script(b"SELECT 1".to_vec()).unwrap(), "SELECT 1");
        assert_eq!(script(Vec::new()).unwrap(), "");
        let utf16 = |mark: bool, bytes: fn(u16) -> [u8; 2]| {
            let text = if mark { "\u{feff}SELECT 1;" } else { "SELECT 1;" };
            text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            for mark in [true, false] {
                assert!(script(utf16(mark, bytes)).unwrap_err().contains("UTF-16"));
            }
        }
        assert!(script(b"-- one\nSELECT 'caf\xe9'".to_vec()).unwrap_err().contains("line 2 is not UTF-8"));
    }
}
