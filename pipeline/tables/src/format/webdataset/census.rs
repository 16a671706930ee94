//! Grouping of tar members into samples, and counts of skipped members.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash as _, Hasher as _};

use crate::format::sidecar::MOST_TEXT_BYTES;
use crate::format::webdataset::member::{Kind, Member, Part, shown};

/// Reason to skip a member, or to warn of its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    Twice,
    Dotted,
    Field,
    Link,
    Special,
    TooLong,
    Parted,
}

/// Skipped members: their number and the first one, by reason.
#[derive(Debug, Default)]
pub(crate) struct Passed(BTreeMap<Why, (u64, String)>);

impl Passed {
    fn note(&mut self, why: Why, name: impl FnOnce() -> String) {
        self.0.entry(why).or_insert_with(|| (0, name())).0 += 1;
    }

    /// Adds the skipped members of `file`.
    pub(crate) fn add(&mut self, file: &str, others: Self) {
        for (why, (members, first)) in others.0 {
            let first = format!("{first} in {file}");
            let all = self.0.entry(why).or_insert_with(|| (0, first.clone()));
            all.0 += members;
            // Files are inspected concurrently: the smallest name is the same in every run.
            all.1 = std::mem::take(&mut all.1).min(first);
        }
    }

    /// Logs a warning for each reason.
    pub(crate) fn warn(&self) {
        for (why, (members, first)) in &self.0 {
            let others = match members - 1 {
                0 => String::new(),
                1 => " and 1 more member".to_owned(),
                more => format!(" and {more} more members"),
            };
            let text = match why {
                Why::Twice => "their samples have an image, a text or a json already",
                Why::Dotted => {
                    "a sample's key ends at the first dot of its members' names, and what it has beside KEY.jpg, KEY.txt or KEY.json (or \
                     another image format) is not read: name them so, with no other dot"
                }
                Why::Field => "no image, text or json by what their names end in",
                Why::Link => {
                    "links, whose files are elsewhere: write the tar file with --dereference --hard-dereference"
                }
                Why::Special => "neither files nor folders",
                Why::TooLong => "texts of more than 8 MiB",
                Why::Parted => {
                    let samples =
                        if *members == 1 { "1 sample goes".to_owned() } else { format!("{members} samples go") };
                    log::warn!(
                        "{samples} on after another one has begun, the first is {first}: members of a sample stand side by side, or each \
                         piece is a row of its own; write the tar file with --sort=name"
                    );
                    continue;
                }
            };
            log::warn!("passed over {first}{others}: {text}");
        }
    }
}

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
