//! Members of a zip file as torch writes it: uncompressed and consecutive.
//!
//! Only the central directory is read, for the members' offsets; a zip library would decompress and extract, and
//! allocate by the directory's claims.

use std::collections::HashMap;
use std::ops::Range;

/// Maximum number of members. A whole MED with its optimiser has about 3,000.
const MAX_MEMBERS: usize = 1 << 18;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Byte range of a member, and its checksum.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) range: Range<usize>,
    crc: u32,
}

impl Member {
    /// The member's bytes in `file`, if their checksum is right.
    pub(super) fn checked<'a>(&self, file: &'a [u8], name: &str) -> Result<&'a [u8], String> {
        let bytes = file.get(self.range.clone()).ok_or("a member leaves the file")?;
        // torch writes 0 if checksums are disabled.
        if self.crc != 0 && crc32fast::hash(bytes) != self.crc {
            return Err(format!(
                "{name} in it has another checksum than when it was written: damaged; fetch the file again"
            ));
        }
        Ok(bytes)
    }
}

const CUT: &str = "its list of members is missing or damaged: was its download cut short? Fetch it again";

/// Members of a zip file by name.
pub(super) fn members(file: &[u8]) -> Result<HashMap<&str, Member>, String> {
    let (mut at, count) = directory(file).ok_or(CUT)?;
    if count > MAX_MEMBERS {
        return Err(format!("it has {count} members: no checkpoint of BLIP has"));
    }
    let mut members = HashMap::new();
    for _ in 0..count {
        let (name, member, next) = entry(file, at).ok_or(CUT)??;
        if let Ok(name) = std::str::from_utf8(name)
            && members.insert(name, member).is_some()
        {
            return Err(format!("it has two members of the name {name:?}"));
        }
        at = next;
    }
    Ok(members)
}

fn number(file: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(len)?)?;
    usize::try_from(bytes.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte))).ok()
}

fn starts(file: &[u8], at: usize, signature: &[u8]) -> Option<()> {
    file.get(at..)?.starts_with(signature).then_some(())
}

/// Offset of the central directory, and number of entries.
fn directory(file: &[u8]) -> Option<(usize, usize)> {
    // The end record is the file's last 22 bytes, apart from a comment.
    let last = file.len().checked_sub(22)?;
    let end = (last.saturating_sub(0xffff)..=last).rev().find(|at| starts(file, *at, END).is_some())?;
    let (count, start) = (number(file, end + 10, 2)?, number(file, end + 16, 4)?);
    if count != 0xffff && start != 0xffff_ffff {
        return Some((start, count));
    }
    let locator = end.checked_sub(20)?;
    starts(file, locator, LOCATOR_64)?;
    let wide = number(file, locator + 8, 8)?;
    starts(file, wide, END_64)?;
    Some((number(file, wide.checked_add(48)?, 8)?, number(file, wide.checked_add(32)?, 8)?))
}

type Entry<'a> = (&'a [u8], Member, usize);

/// Entry at `at`: its name, its member, and the offset of the next one. `None` if the file is damaged.
fn entry(file: &[u8], at: usize) -> Option<Result<Entry<'_>, String>> {
    starts(file, at, ENTRY)?;
    let field = |offset: usize, len| number(file, at.checked_add(offset)?, len);
    let (method, crc) = (field(10, 2)?, field(16, 4)? as u32);
    let (mut stored, mut size, mut local) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    let (name_len, extra_len, comment_len) = (field(28, 2)?, field(30, 2)?, field(32, 2)?);
    let name = file.get(at + 46..)?.get(..name_len)?;
    let extra_at = at + 46 + name_len;
    // Numbers that exceed four bytes are in the zip64 extra field, in this order.
    let mut extra = file.get(extra_at..)?.get(..extra_len)?;
    while let (Some(tag), Some(len)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let body = extra.get(4..)?.get(..len)?;
        if tag == 1 {
            let wide = [&mut size, &mut stored, &mut local].into_iter().filter(|field| **field == 0xffff_ffff);
            for (i, field) in wide.enumerate() {
                *field = number(body, i * 8, 8)?;
            }
        }
        extra = &extra[4 + len..];
    }
    if method != 0 || stored != size {
        let name = String::from_utf8_lossy(name);
        return Some(Err(format!("{name} in it is compressed: torch does not; pack it anew without compression")));
    }
    starts(file, local, LOCAL)?;
    let start = local.checked_add(30)?;
    let start = start.checked_add(number(file, local.checked_add(26)?, 2)?)?;
    let start = start.checked_add(number(file, local.checked_add(28)?, 2)?)?;
    let range = start..start.checked_add(size)?;
    file.get(range.clone())?;
    Some(Ok((name, Member { range, crc }, extra_at + extra_len + comment_len)))
}
