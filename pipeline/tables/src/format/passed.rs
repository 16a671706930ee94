//! Members of archives that are passed over, counted over all files of a source.

use std::collections::BTreeMap;

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
    pub(crate) fn note(&mut self, why: Why, name: impl FnOnce() -> String) {
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
