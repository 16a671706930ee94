//! Grouping of tar members into samples.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use crate::format::passed::{Passed, Why};
use crate::format::sidecar::MOST_TEXT_BYTES;
use crate::format::webdataset::member::{Kind, Member, Part, shown};

/// Tracks the samples of one file, member by member.
#[derive(Default)]
pub(crate) struct Census {
    last: Option<Vec<u8>>,
    /// Hashes of the keys so far.
    keys: HashSet<u64>,
    has: Vec<Part>,
    pub(crate) samples: u64,
    pub(crate) passed: Passed,
}

/// Position and role of a member in its sample.
pub(crate) struct Place {
    /// Whether the member is the sample's first.
    pub(crate) begins: bool,
    /// Part to read from the member; `None` if its content is skipped.
    pub(crate) part: Option<Part>,
    /// Whether the skipped member may be the image that its sample seems to lack.
    pub(crate) may_be_image: bool,
}

impl Census {
    /// Place of the next member; `None` if it belongs to no sample.
    pub(crate) fn next(&mut self, member: &Member) -> Option<Place> {
        let (key, field) = member.cut()?;
        let part = Part::of(field);
        let last = field.rsplit(|b| *b == b'.').next().and_then(Part::of);
        let why = match member.kind {
            Kind::Apart => return None,
            Kind::Link if part.is_some() => Why::Link,
            Kind::Special if part.is_some() => Why::Special,
            Kind::Link | Kind::Special => return None,
            Kind::File => match part {
                None if last.is_some() => Why::Dotted,
                None => Why::Field,
                Some(part) => {
                    let begins = self.begin(key);
                    let part = match part {
                        twice if self.has.contains(&twice) => {
                            self.passed.note(Why::Twice, || member.shown());
                            None
                        }
                        Part::Text | Part::Json if member.size > MOST_TEXT_BYTES => {
                            self.passed.note(Why::TooLong, || member.shown());
                            None
                        }
                        part => {
                            self.has.push(part);
                            Some(part)
                        }
                    };
                    return Some(Place { begins, part, may_be_image: false });
                }
            },
        };
        self.passed.note(why, || member.shown());
        // Only a file begins a sample.
        let begins = member.kind == Kind::File && self.begin(key);
        let is_same = self.last.as_deref() == Some(key);
        is_same.then_some(Place { begins, part: None, may_be_image: last == Some(Part::Image) })
    }

    fn begin(&mut self, key: &[u8]) -> bool {
        if self.last.as_deref() == Some(key) {
            return false;
        }
        let mut hash = DefaultHasher::new();
        key.hash(&mut hash);
        if !self.keys.insert(hash.finish()) {
            self.passed.note(Why::Parted, || shown(key).into_owned());
        }
        self.last = Some(key.to_vec());
        self.has.clear();
        self.samples += 1;
        true
    }
}
