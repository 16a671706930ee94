//! Raw footer of a Parquet file.

use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader as _, Length as _};
use sha2::{Digest as _, Sha256};

use crate::file::Chunks;

/// Field of the footer that holds the encryption algorithm.
const ENCRYPTION: i64 = 8;
/// Nesting limit, deeper than any footer.
const MOST_NESTED: u32 = 64;

/// Digest (16 hex digits) of the footer, which has sizes, offsets and statistics of everything in the file. A copy of
/// the file has the same digest.
pub(crate) fn digest(file: &Chunks) -> Result<String, ParquetError> {
    let (footer, _) = read(file)?;
    Ok(hex::encode(&Sha256::digest(&footer)[..8]))
}

/// Whether the file is encrypted, with an encrypted or a plaintext footer.
pub(crate) fn is_encrypted(file: &Chunks) -> bool {
    read(file).is_ok_and(|(footer, magic)| magic == *b"PARE" || tells_encryption(&footer))
}

fn read(file: &Chunks) -> Result<(Vec<u8>, [u8; 4]), ParquetError> {
    let tail = file.get_bytes(file.len().saturating_sub(8), 8)?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let footer = file.get_bytes(file.len().saturating_sub(8 + u64::from(length)), length as usize)?;
    Ok((footer.to_vec(), [tail[4], tail[5], tail[6], tail[7]]))
}

/// Looks for the encryption field in the outermost struct, in Thrift's compact protocol.
fn tells_encryption(footer: &[u8]) -> bool {
    let (mut rest, mut field) = (footer, 0);
    while let Some(of) = next_field(&mut rest, &mut field) {
        if field == ENCRYPTION {
            return true;
        }
        if skip(&mut rest, of, 0).is_none() {
            return false;
        }
    }
    false
}

/// Type of a struct's next field, whose number is stored in `field`; `None` at the end.
fn next_field(rest: &mut &[u8], field: &mut i64) -> Option<u8> {
    let header = byte(rest)?;
    let of = header & 0x0f;
    if of == 0 {
        return None;
    }
    *field = match i64::from(header >> 4) {
        0 => {
            let number = varint(rest)?;
            (number >> 1) as i64 ^ -((number & 1) as i64)
        }
        more => *field + more,
    };
    Some(of)
}

/// Skips a value of type `of`; `None` if it is malformed.
fn skip(rest: &mut &[u8], of: u8, depth: u32) -> Option<()> {
    if depth > MOST_NESTED {
        return None;
    }
    let bytes = |rest: &mut &[u8], count: u64| {
        *rest = rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    };
    match of {
        // A Boolean's value is encoded in its type.
        1 | 2 => Some(()),
        3 => bytes(rest, 1),
        4..=6 => varint(rest).map(drop),
        7 => bytes(rest, 8),
        8 => {
            let length = varint(rest)?;
            bytes(rest, length)
        }
        9 | 10 => {
            let header = byte(rest)?;
            let count = if header >> 4 == 15 { varint(rest)? } else { u64::from(header >> 4) };
            // In a list, each Boolean is a byte.
            let of = if matches!(header & 0x0f, 1 | 2) { 3 } else { header & 0x0f };
            (0..count).try_for_each(|_| skip(rest, of, depth + 1))
        }
        12 => {
            let mut field = 0;
            while let Some(of) = next_field(rest, &mut field) {
                skip(rest, of, depth + 1)?;
            }
            Some(())
        }
        // A footer has no maps.
        _ => None,
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let next = byte(rest)?;
        number |= u64::from(next & 0x7f).checked_shl(7 * place)?;
        if next & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_tells_that_columns_are_encrypted() {
        // Footer with the fields 1 (a number), 2 (a list of structs that have a field 8), 6 (a text) and 7 (a list of
        // empty structs).
        let mut footer =
            vec![0x15, 0x02, 0x19, 0x2c, 0x88, 0x01, b'x', 0x00, 0x00, 0x48, 0x02, b'a', b'b', 0x19, 0x1c, 0x00];
        let plain: Vec<u8> = footer.iter().copied().chain([0x00]).collect();
        assert!(!tells_encryption(&plain));
        // Field 8, a union with an empty struct; then the signature.
        footer.extend([0x1c, 0x1c, 0x00, 0x00, 0x00, 0xff, 0xff]);
        assert!(tells_encryption(&footer));
        for end in 0..footer.len() {
            tells_encryption(&footer[..end]);
        }
        // A list whose declared length exceeds the file.
        assert!(!tells_encryption(&[0x19, 0xf8, 0xff, 0xff, 0xff, 0xff, 0x0f]));
    }
}
