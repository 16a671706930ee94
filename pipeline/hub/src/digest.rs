//! Digests by which the hub names the contents of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::Sha256;

/// Entity tag of a file, which is also the name of its blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Etag {
    /// SHA-256 of a large file, 64 hex digits.
    Sha256(String),
    /// SHA-1 that git gives a small file, 40 hex digits.
    Git(String),
}

impl Etag {
    /// Parses a header: `"HEX"`, `W/"HEX"` or `HEX`.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let tag = header.trim_start_matches(['W', '/']).trim_matches('"');
        if !tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        match tag.len() {
            64 => Some(Self::Sha256(tag.to_owned())),
            40 => Some(Self::Git(tag.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        let (Self::Sha256(hex) | Self::Git(hex)) = self;
        hex
    }

    /// Digest of the same kind of what the file at `path` holds, hex. Blocks.
    pub(crate) fn of_file(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        match self {
            Self::Sha256(_) => {
                let mut hash = <Sha256 as sha2::Digest>::new();
                each(&mut file, &mut buffer, |bytes| sha2::Digest::update(&mut hash, bytes))?;
                Ok(hex::encode(sha2::Digest::finalize(hash)))
            }
            Self::Git(_) => {
                let head = format!("blob {}\0", file.metadata()?.len());
                let mut hash = <Sha1 as sha1::Digest>::new_with_prefix(head);
                each(&mut file, &mut buffer, |bytes| sha1::Digest::update(&mut hash, bytes))?;
                Ok(hex::encode(sha1::Digest::finalize(hash)))
            }
        }
    }
}

fn each(file: &mut File, buffer: &mut [u8], mut with: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => with(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_large_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same.
        let git = Etag::parse("\"ce013625030ba8dba906f756967f9e9ca394464a\"").unwrap();
        let sha = Etag::parse("W/\"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\"").unwrap();
        for etag in [git, sha] {
            assert_eq!(etag.of_file(&path).unwrap(), etag.as_str());
        }
        std::fs::write(&path, "").unwrap();
        let empty = Etag::parse("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").unwrap();
        assert_eq!(empty.of_file(&path).unwrap(), empty.as_str());
    }

    #[test]
    fn only_digests_are_entity_tags() {
        for header in ["", "\"\"", "abc", &"g".repeat(40), &"../".repeat(16), &"a".repeat(41), &"A".repeat(64)] {
            assert_eq!(Etag::parse(header), None, "{header}");
        }
    }
}
