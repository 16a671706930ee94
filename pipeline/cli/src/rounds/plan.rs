//! The programs that make the rounds, and their arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use capfilt_tables::hub::is_name;

use crate::args::rounds::{RoundsArgs, Staged, Training};
use crate::rounds::stage::Stage;

/// Plan of the rounds.
pub(crate) struct Plan<'a> {
    pub(crate) args: &'a RoundsArgs,
    pub(crate) dest: PathBuf,
    pub(crate) trainer: PathBuf,
    /// The program of `capfilt`, and its first arguments.
    pub(crate) capfilt: Vec<OsString>,
}

impl Plan<'_> {
    /// The destination, for error messages.
    pub(crate) fn place(&self) -> String {
        format!("destination {}", self.dest.display())
    }

    pub(crate) fn folder(&self, round: u32, name: &str) -> PathBuf {
        self.dest.join(format!("round-{round}")).join(name)
    }

    /// All stages in order.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        let (mut captioner, mut filter) = (absolute(&self.args.captioner), absolute(&self.args.filter));
        let mut stages = Vec::new();
        for round in 1..=self.args.rounds {
            stages.push(self.pairs(round, &captioner, &filter));
            stages.extend(Training::ALL.map(|training| self.training(round, training)));
            let checkpoint = |name| self.folder(round, name).join(CHECKPOINT);
            (captioner, filter) = (checkpoint("captioner"), checkpoint("filter"));
        }
        if self.args.final_pairs {
            stages.push(self.pairs(self.args.rounds + 1, &captioner, &filter));
        }
        stages
    }

    fn pairs(&self, round: u32, captioner: &Path, filter: &Path) -> Stage {
        let folder = self.folder(round, "pairs");
        let mut args: Vec<OsString> = vec!["run".into(), absolute(&self.args.source).into(), folder.clone().into()];
        args.extend(["--captioner".into(), captioner.into(), "--filter".into(), filter.into()]);
        args.extend(["--round".into(), round.to_string().into()]);
        args.extend(self.args.run.iter().cloned());
        self.stage(round, "pair table", folder, &self.capfilt, args)
    }

    fn training(&self, round: u32, training: Training) -> Stage {
        let [_, command, folder, what] = training.words();
        let folder = self.folder(round, folder);
        let mut args: Vec<OsString> = vec![command.into()];
        args.extend(self.settings(training));
        let (start, web) = match training {
            Training::Pretrain => (self.args.start.as_deref().map(absolute), Some(self.folder(round, "pairs"))),
            _ => (Some(self.folder(round, "med").join(CHECKPOINT)), None),
        };
        args.extend(start.into_iter().flat_map(|start| ["--start".into(), start.into()]));
        args.extend(self.data(web.as_deref()));
        args.extend(["--out".into(), folder.clone().into()]);
        self.stage(round, what, folder, &[self.trainer.clone().into()], args)
    }

    fn stage(
        &self,
        round: u32,
        what: &'static str,
        folder: PathBuf,
        program: &[OsString],
        args: Vec<OsString>,
    ) -> Stage {
        let last = self.args.rounds;
        let of = if round <= last { format!("round {round} of {last}") } else { format!("after round {last}") };
        Stage { name: format!("{of}, {what}"), folder, program: program.to_owned(), args }
    }

    /// Command-line settings of a training for capfilt-train.
    pub(crate) fn settings(&self, training: Training) -> Vec<OsString> {
        let a = self.args;
        let given = |of: &[Staged]| -> Vec<String> {
            let theirs = of.iter().filter(|one| one.only.is_none_or(|only| only == training));
            theirs.map(|one| one.value.clone()).collect()
        };
        let own = a.train_config.iter().rfind(|one| one.only == Some(training));
        let config = own.or_else(|| a.train_config.iter().rfind(|one| one.only.is_none()));
        let mut args: Vec<OsString> = Vec::new();
        args.extend(given(&a.preset).into_iter().flat_map(|name| ["--preset".into(), name.into()]));
        args.extend(config.into_iter().flat_map(|one| ["--config".into(), absolute(Path::new(&one.value)).into()]));
        args.extend(given(&a.set_train).into_iter().flat_map(|set| ["--set".into(), set.into()]));
        args
    }

    /// Data arguments: the human table, and a round's pair table if given.
    fn data(&self, web: Option<&Path>) -> Vec<OsString> {
        let human = absolute(&self.args.human);
        let share = self.args.human_share.filter(|_| web.is_some());
        let query = self.args.human_query.as_deref();
        if share.is_none() && query.is_none() {
            let tables = [Some(human.as_path()), web].into_iter().flatten();
            return tables.flat_map(|table| ["--data".into(), table.into()]).collect();
        }
        let table = |path: &Path, query: &str, share: Option<f64>| {
            // A JSON string is also a valid TOML string.
            let [path, query] =
                [path.to_string_lossy().as_ref(), query].map(|text| serde_json::Value::from(text).to_string());
            let weight = share.map(|share| format!(", weight = {share:?}")).unwrap_or_default();
            format!("{{ path = {path}, query = {query}{weight} }}")
        };
        let human = table(&human, query.unwrap_or_default(), share);
        let web = web.map(|web| table(web, "", share.map(|share| 1.0 - share)));
        let tables: Vec<String> = [Some(human), web].into_iter().flatten().collect();
        vec!["--set".into(), format!("data.tables=[{}]", tables.join(", ")).into()]
    }
}

/// Makes a path absolute, since a resumed training must find the names it began with. URLs and names on the hub are
/// unchanged.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let whole = if text.contains("://") || is_name(&text) { None } else { std::path::absolute(path).ok() };
    whole.unwrap_or_else(|| path.to_owned())
}

/// Subfolder of a training's folder that holds its checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
