//! Sparse members described by PAX headers, as `tar -S --format=posix` writes them (GNU tar's manual, "Storing Sparse
//! Files").

use std::io::{self, Read};

use tar::Entry;

const BLOCK: usize = 512;

/// Layout of a sparse member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Real name of the member; its header may have another.
    pub(crate) name: Option<Vec<u8>>,
    /// Size of the file including its holes, bytes.
    pub(crate) size: u64,
    /// Offsets and lengths of the data; `None` if they precede the data (format 1.0).
    map: Option<Vec<(u64, u64)>>,
}

impl Sparse {
    /// Layout from a member's PAX headers; `None` if the member is not sparse.
    pub(crate) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<Self>> {
        // The tar crate may consider other programs' keywords malformed; such keywords are ignored.
        match entry.pax_extensions()? {
            Some(keywords) => Self::from_keywords(keywords.flatten().map(|one| (one.key_bytes(), one.value_bytes()))),
            None => Ok(None),
        }
    }

    fn from_keywords<'a>(keywords: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> io::Result<Option<Self>> {
        let (mut name, mut size, mut before) = (None, None, false);
        let mut map: Vec<(u64, u64)> = Vec::new();
        let mut offset = None;
        for (key, value) in keywords {
            match key {
                b"GNU.sparse.name" => name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => size = Some(number(value)?),
                b"GNU.sparse.major" => before = number(value)? == 1,
                b"GNU.sparse.map" if value.is_empty() => {}
                b"GNU.sparse.map" => {
                    let all = value.split(|b| *b == b',').map(number).collect::<io::Result<Vec<u64>>>()?;
                    map = all
                        .chunks(2)
                        .map(|pair| Ok((pair[0], *pair.get(1).ok_or_else(wrong)?)))
                        .collect::<io::Result<_>>()?;
                }
                b"GNU.sparse.offset" => offset = Some(number(value)?),
                b"GNU.sparse.numbytes" => map.push((offset.take().ok_or_else(wrong)?, number(value)?)),
                _ => {}
            }
        }
        let Some(size) = size else { return Ok(None) };
        Ok(Some(Self { name, size, map: if before { None } else { Some(map) } }))
    }

    /// Reads the file, with zeros for its holes.
    pub(crate) fn read(&self, stored: &mut impl Read) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        let found;
        let map = match &self.map {
            Some(map) => map,
            None => {
                found = map_before(stored, self.size)?;
                &found
            }
        };
        let mut bytes = vec![0; size];
        let mut end = 0;
        for &(offset, length) in map {
            let (from, to) = (offset, offset.checked_add(length).ok_or_else(wrong)?);
            if from < end || to > self.size {
                return Err(wrong());
            }
            end = to;
            // Both are at most the size.
            stored.read_exact(&mut bytes[from as usize..to as usize])?;
        }
        Ok(bytes)
    }
}

/// Reads the map of format 1.0: decimal numbers, one per line, padded to a full block.
fn map_before(stored: &mut impl Read, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut block, mut at) = ([0; BLOCK], BLOCK);
    let mut next = || {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK {
                stored.read_exact(&mut block)?;
                at = 0;
            }
            at += 1;
            match block[at - 1] {
                b'\n' => return number(&digits),
                // A number of 64 bits has at most 20 digits.
                digit if digits.len() < 20 => digits.push(digit),
                _ => return Err(wrong()),
            }
        }
    };
    let pieces = next()?;
    // Each piece has at least one byte, except for the last, which marks the end.
    if pieces > size.saturating_add(1) {
        return Err(wrong());
    }
    (0..pieces).map(|_| Ok((next()?, next()?))).collect()
}

fn number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)
}

fn wrong() -> io::Error {
    io::Error::other("a sparse member's map is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_keywords(keywords: &[(&str, &str)]) -> io::Result<Option<Sparse>> {
        Sparse::from_keywords(keywords.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn all_three_formats_are_read() {
        let wanted = b"\0\0ab\0\0\0c\0";
        let first = [
            ("GNU.sparse.size", "9"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "2"),
            ("GNU.sparse.numbytes", "2"),
            ("GNU.sparse.offset", "7"),
            ("GNU.sparse.numbytes", "1"),
        ];
        let second = [("GNU.sparse.size", "9"), ("GNU.sparse.name", "d/a.bmp"), ("GNU.sparse.map", "2,2,7,1,9,0")];
        for keywords in [&first[..], &second[..]] {
            let sparse = from_keywords(keywords).unwrap().unwrap();
            assert_eq!(sparse.read(&mut &b"abc"[..]).unwrap(), wanted);
        }
        assert_eq!(from_keywords(&second).unwrap().unwrap().name.unwrap(), b"d/a.bmp");
        let third =
            from_keywords(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]);
        let mut stored = b"3\n2\n2\n7\n1\n9\n0\n".to_vec();
        stored.resize(BLOCK, 0);
        stored.extend(b"abc");
        assert_eq!(third.unwrap().unwrap().read(&mut stored.as_slice()).unwrap(), wanted);
        assert_eq!(from_keywords(&[("path", "a.jpg"), ("mtime", "1")]).unwrap(), None);
    }

    #[test]
    fn a_damaged_map_is_an_error() {
        let map = |map: &str| from_keywords(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", map)]);
        for odd in ["1", "a,b", "1,2,3"] {
            assert!(map(odd).is_err(), "{odd}");
        }
        // Beyond the end; before the end of the previous piece; missing data; overflow.
        for wrong in ["8,2", "4,2,5,1", "0,9", "1,18446744073709551615"] {
            assert!(map(wrong).unwrap().unwrap().read(&mut &b"abcd"[..]).is_err(), "{wrong}");
        }
        let before = Sparse { name: None, size: 9, map: None };
        for wrong in ["99\n", "1\nx\n1\n", "111111111111111111111\n", "1\n1\n"] {
            let mut stored = wrong.as_bytes().to_vec();
            stored.resize(BLOCK, 0);
            assert!(before.read(&mut stored.as_slice()).is_err(), "{wrong}");
        }
    }
}
