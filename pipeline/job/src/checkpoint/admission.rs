//! Whether a job may write to a destination, and what it continues there.

use std::path::Path;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::pair_table::State;

use crate::checkpoint::contract::{Contents, JobStore};
use crate::checkpoint::manifest::{Identity, Manifest};
use crate::options::Mode;

/// How an admitted job begins.
#[derive(Debug)]
pub(crate) enum Admission {
    /// At its first row. `replaces`: an existing table is removed once the new one is complete.
    Begin { replaces: bool },
    /// At the first row of its shard; another shard of the job has this manifest.
    BeginShard(Box<Manifest>),
    /// From this shard's manifest: the shard is unfinished, or finished and about to be updated or retried.
    Continue(Box<Manifest>),
}

/// Admits a job to its destination. Errors if it must not touch the contents.
pub(crate) fn admit(store: &dyn JobStore, job: &Identity, mode: Mode) -> Result<Admission> {
    let manifests = match store.manifests() {
        // An unreadable manifest can still be replaced.
        Err(_) if mode == Mode::Overwrite => Vec::new(),
        manifests => manifests?,
    };
    let table = store.table();
    let refused = |reason| Error::dest(table, reason);
    let admission = decide(manifests, store.contents()?, table, store.shard(), job, mode).map_err(refused)?;
    // Before its first unit, a process has no manifest that would show it.
    let except = (mode != Mode::Overwrite).then_some(store.shard().1);
    if store.has_other_writer(except)? {
        return Err(Error::dest(table, "another job is writing to it"));
    }
    Ok(admission)
}

/// Decides on the manifests of all shards and the other contents. Returns the reason for a refusal.
fn decide(
    all: Vec<Manifest>,
    contents: Contents,
    table: &Path,
    (shard, shards): (u64, u64),
    job: &Identity,
    mode: Mode,
) -> Result<Admission, String> {
    let own = all.iter().find(|m| m.shard == shard && m.job.shards == shards).cloned();
    if mode == Mode::Overwrite {
        // A replacement that was stopped resumes instead of starting over.
        let same = own.filter(|own| {
            own.state != State::Finished && own.replaces && own.retried.is_none() && own.job.difference(job).is_none()
        });
        return Ok(match same {
            Some(own) => Admission::Continue(Box::new(own)),
            None => Admission::Begin { replaces: contents.is_table || !all.is_empty() },
        });
    }
    if let Some(difference) = all.iter().find_map(|other| other.job.difference(job)) {
        return Err(format!(
            "the job there is another one: {difference}: write the table anew with `capfilt run --overwrite`, or give another folder"
        ));
    }
    let retry = mode == Mode::Retry;
    if retry && let Some(reason) = job.retry_refused() {
        return Err(reason.to_owned());
    }
    match own {
        Some(own) if own.state == State::Finished && mode == Mode::Create => {
            if own.verdicts.selected {
                return Err("its table is finished: give --overwrite or another folder".to_owned());
            }
            let table = table.display();
            // Suggest a retry only if it would be accepted.
            let retry = match own.job.retry_refused() {
                None => format!("`capfilt retry {table}` does failed rows again, "),
                Some(_) => String::new(),
            };
            Err(format!(
                "its table is finished: `capfilt update {table}` adds what is new in the source, {retry}--overwrite replaces it"
            ))
        }
        // Its good rows are still in the old table, and only a retry copies them from there.
        Some(own) if own.retried.is_some() && !retry => {
            Err("a retry was stopped there: `capfilt resume` finishes it".to_owned())
        }
        Some(own) if retry && own.state != State::Finished && own.retried.is_none() => {
            Err("its table is not finished: finish it first with `capfilt resume`".to_owned())
        }
        Some(own) => Ok(Admission::Continue(Box::new(own))),
        None if retry && !all.is_empty() => {
            Err(format!("shard {shard} of {shards} of its table has not begun: run it first with `capfilt resume`"))
        }
        None if retry => Err("there is no table whose failed rows could be done again".to_owned()),
        None if let Some(first) = all.into_iter().next() => Ok(Admission::BeginShard(Box::new(first))),
        None => match contents.files {
            0 => Ok(Admission::Begin { replaces: false }),
            1 => Err("it holds 1 file: give --overwrite or another folder".to_owned()),
            files => Err(format!("it holds {files} files: give --overwrite or another folder")),
        },
    }
}

/// Errors if other shards belong to another job, or read another source.
pub(crate) fn check_agreement(store: &dyn JobStore, manifest: &Manifest) -> Result<()> {
    let own = |other: &Manifest| (other.shard, other.job.shards) == (manifest.shard, manifest.job.shards);
    for other in store.manifests()?.iter().filter(|other| !own(other)) {
        if let Some(difference) = other.job.difference(&manifest.job) {
            let reason = format!("shard {} there is of another job: {difference}", other.shard);
            return Err(Error::dest(store.table(), reason));
        }
        // One of them may have been updated before the other, so only the common prefix is compared.
        let both = other.files.len().min(manifest.files.len());
        // A retry takes a mended file, and the shards are retried one after another.
        let is_retry = manifest.retried.is_some();
        let same = |(a, b): (&FileRecord, &FileRecord)| a == b || is_retry && a.has_rows_of(b);
        if !other.files[..both].iter().zip(&manifest.files[..both]).all(same) {
            let reason = format!(
                "shard {} there has another source, or its files in another order: give all shards the same files, or write the table anew",
                other.shard
            );
            return Err(Error::dest(store.table(), reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::manifest::identity;
    use crate::tally::counts::Tally;
    use crate::verdicts::Verdicts;

    /// A manifest of shard `shard` of 2.
    fn manifest(shard: u64, state: State, retries: bool) -> Manifest {
        let job = Identity { shards: 2, ..identity() };
        let mut manifest = json!({
            "format": 2, "state": state, "shard": shard, "job": job, "source": "web", "files": [], "columns": [], "replaces": retries,
            "parts": [], "done": {"file": 0, "row": 0}, "tally": Tally::default(), "verdicts": Verdicts::default(),
            "run": "", "committed": 0,
        });
        if retries {
            manifest["retried"] = json!(self::manifest(shard, State::Finished, false));
        }
        serde_json::from_value(manifest).unwrap()
    }

    /// What shard 1 of 2 is answered: how it begins, or why it is refused.
    fn answer(all: &[Manifest], files: usize, job: &Identity, mode: Mode) -> String {
        let contents = Contents { is_table: files > 1, files };
        match decide(all.to_vec(), contents, Path::new("pairs"), (1, 2), job, mode) {
            Ok(Admission::Begin { replaces: false }) => "begin".to_owned(),
            Ok(Admission::Begin { replaces: true }) => "replace".to_owned(),
            Ok(Admission::BeginShard(other)) => format!("begin beside {}", other.shard),
            Ok(Admission::Continue(own)) => format!("continue {}", own.shard),
            Err(reason) => reason,
        }
    }

    #[test]
    fn each_mode_meets_each_state() {
        let own = |state| manifest(1, state, false);
        let (running, placing, finished) = (own(State::Running), own(State::Placing), own(State::Finished));
        let (other, retry) = (manifest(2, State::Finished, false), manifest(1, State::Running, true));
        let job = &Identity { shards: 2, ..identity() };
        let states: [(&str, &[Manifest], usize, [&str; 4]); 8] = [
            ("nothing", &[], 0, ["begin", "begin", "begin", "there is no table"]),
            ("a stranger's file", &[], 1, ["it holds 1 file", "begin", "it holds 1 file", "there is no table"]),
            ("a stranger's table", &[], 3, ["it holds 3 files", "replace", "it holds 3 files", "there is no table"]),
            (
                "another shard",
                std::slice::from_ref(&other),
                1,
                ["begin beside 2", "replace", "begin beside 2", "shard 1 of 2 of its"],
            ),
            (
                "unfinished",
                &[running, other.clone()],
                1,
                ["continue 1", "replace", "continue 1", "its table is not finished"],
            ),
            ("placing", &[placing], 2, ["continue 1", "replace", "continue 1", "its table is not finished"]),
            (
                "finished",
                &[finished, other.clone()],
                2,
                ["its table is finished", "replace", "continue 1", "continue 1"],
            ),
            ("a retry", &[retry], 2, ["a retry was stopped", "replace", "a retry was stopped", "continue 1"]),
        ];
        for (state, all, files, expected) in states {
            let modes = [Mode::Create, Mode::Overwrite, Mode::Update, Mode::Retry];
            for (mode, expected) in modes.into_iter().zip(expected) {
                let given = answer(all, files, job, mode);
                assert!(given.starts_with(expected), "{state}, {mode:?}: {given}");
            }
        }
    }

    #[test]
    fn only_the_same_replacement_is_continued() {
        let mut own = manifest(1, State::Running, false);
        own.replaces = true;
        let job = Identity { shards: 2, ..identity() };
        assert_eq!(answer(&[own.clone()], 2, &job, Mode::Overwrite), "continue 1");
        let other = Identity { round: 2, ..job };
        assert_eq!(answer(&[own.clone()], 2, &other, Mode::Overwrite), "replace");
        let refused = answer(&[own], 2, &other, Mode::Create);
        assert!(refused.contains("another one: round was 1 and is 2"), "{refused}");
    }

    #[test]
    fn a_retry_needs_failed_rows_in_parquet() {
        let mut finished = manifest(1, State::Finished, false);
        finished.job.format = "jsonlines".to_owned();
        let job = finished.job.clone();
        assert!(answer(&[finished.clone()], 2, &job, Mode::Retry).contains("has none"));
        let hint = answer(&[finished], 2, &job, Mode::Create);
        assert!(!hint.contains("retry"), "a retry is not suggested: {hint}");
    }
}
