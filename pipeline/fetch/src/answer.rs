//! Reads the head of an HTTP response as browsers do, which accept more than the standard allows.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, LOCATION};
use url::Url;

use crate::problem::Problem;

/// Encodes non-ASCII bytes only.
const BEYOND_ASCII: &AsciiSet = &AsciiSet::EMPTY;

/// Target of a redirect. Servers put non-ASCII bytes into it unencoded, in UTF-8 or Latin-1; they are percent-encoded
/// byte by byte.
pub(crate) fn location(from: &Url, headers: &HeaderMap) -> Result<Url, Problem> {
    let to = headers.get(LOCATION).ok_or(Problem::Nowhere)?;
    from.join(&percent_encode(to.as_bytes(), BEYOND_ASCII).to_string()).map_err(|_| Problem::Nowhere)
}

/// Whether the response body is complete: status 200, 203 (a proxy's copy), or 206 with a range that covers the whole
/// file.
pub(crate) fn is_whole(status: StatusCode, headers: &HeaderMap) -> bool {
    match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => true,
        StatusCode::PARTIAL_CONTENT => {
            headers.get(CONTENT_RANGE).and_then(|range| covers_all(range.to_str().ok()?)).unwrap_or(false)
        }
        _ => false,
    }
}

/// Whether a `Content-Range` such as `bytes 0-99/100` covers the whole file.
fn covers_all(range: &str) -> Option<bool> {
    let (range, all) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, all): (u64, u64, u64) =
        (first.trim().parse().ok()?, last.trim().parse().ok()?, all.trim().parse().ok()?);
    Some(first == 0 && last.checked_add(1) == Some(all))
}

/// How many times the body was compressed by gzip, the only coding that is requested. Unknown codings are ignored.
pub(crate) fn gzip_layers(headers: &HeaderMap) -> Result<usize, Problem> {
    let values = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut layers = 0;
    for coding in values.flat_map(|value| value.split(',')).map(|coding| coding.trim().to_ascii_lowercase()) {
        match coding.as_str() {
            "gzip" | "x-gzip" => layers += 1,
            "br" | "compress" | "dcb" | "dcz" | "deflate" | "x-compress" | "zstd" => {
                return Err(Problem::Coding(coding));
            }
            _ => {}
        }
    }
    Ok(layers)
}

/// Decompresses a body, which must not become larger than `most` bytes.
pub(crate) fn gunzip(body: &Bytes, most: u64) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    MultiGzDecoder::new(body.as_ref())
        .take(most.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|e| Problem::BrokeOff(format!("it says that it is gzip: {e}")))?;
    if out.len() as u64 > most { Err(Problem::TooLarge(most)) } else { Ok(out.into()) }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_redirect_is_followed_as_it_was_written() {
        let from = Url::parse("http://h/a/b?c").unwrap();
        let to = |to: &[u8]| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_bytes(to).unwrap())]);
            location(&from, &headers).map(String::from).ok()
        };
        for (written, followed) in [
            ("/é/x.jpg".as_bytes(), "http://h/%C3%A9/x.jpg"),
            (b"/\xe9/x.jpg", "http://h/%E9/x.jpg"),
            (b"/a b.jpg", "http://h/a%20b.jpg"),
            (b"/%E9%2F.jpg", "http://h/%E9%2F.jpg"),
            (b"//i/x?y=\xe9#z", "http://i/x?y=%E9#z"),
            (b"x.jpg", "http://h/a/x.jpg"),
        ] {
            assert_eq!(to(written).as_deref(), Some(followed));
        }
        assert_eq!(to(b"http://[").as_deref(), None);
        assert!(location(&from, &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_part_is_not_the_whole() {
        let is = |status, range: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(range))]);
            is_whole(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert!(is(200, "") && is(203, "") && is(206, "bytes 0-99/100"));
        for range in ["bytes 0-98/100", "bytes 1-99/100", "bytes 0-99/*", "bytes */100", "0-99/100", "", "bytes 0-/1"] {
            assert!(!is(206, range), "{range}");
        }
        for status in [201, 202, 204, 205, 226, 300, 304, 404] {
            assert!(!is(status, "bytes 0-99/100"), "{status}");
        }
    }

    #[test]
    fn gzip_has_several_names() {
        let of = |coding: &'static str| {
            gzip_layers(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))]))
        };
        for (coding, layers) in
            [("gzip", 1), ("GZIP", 1), ("x-gzip", 1), ("gzip, X-Gzip", 2), ("identity", 0), ("utf-8", 0), ("", 0)]
        {
            assert_eq!(of(coding).unwrap(), layers, "{coding}");
        }
        for coding in ["br", "gzip, zstd", "deflate"] {
            assert!(of(coding).is_err(), "{coding}");
        }
    }
}
