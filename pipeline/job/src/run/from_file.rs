//! The job that a job file describes.

use std::collections::BTreeSet;
use std::str::FromStr;

use capfilt_tables::error::{Error, Result};

use crate::job_file::{JobFile, shard};
use crate::options::{Combine, ImageIs, Images, Mode, OutputFormat};
use crate::recipe::builder::RecipeBuilder;
use crate::recipe::params::Params;
use crate::recipe::plan::Recipe;
use crate::run::resume::Job;
use crate::verdicts::Verdicts;

impl JobFile {
    /// The job that this file describes, run in `mode`.
    ///
    /// # Errors
    /// Names an option whose value is not valid, or that does not go with another.
    pub fn job(&self, mode: Mode) -> Result<Job> {
        if self.source.is_empty() || self.dest.as_os_str().is_empty() {
            let missing = if self.source.is_empty() { "source" } else { "dest" };
            return Err(Error::Option(format!("the job has no {missing}: give SOURCE and DEST")));
        }
        let (source, source_version) = self.source();
        let is_jsonl = self.table_format == OutputFormat::JsonLines;
        if is_jsonl && matches!(self.write_images, Some(Images::Kept | Images::All)) {
            let reason = "--table-format jsonl has no images: leave --write-images out, or give another format";
            return Err(Error::Option(reason.to_owned()));
        }
        if self.image_root.is_some() && self.image_is != ImageIs::Path {
            let reason = "--image-root is the root folder of paths: give --image-is path, or leave it out";
            return Err(Error::Option(reason.to_owned()));
        }
        let own =
            [("candidates", self.candidates), ("checkpoint-rows", self.checkpoint_rows), ("round", self.round.into())];
        if let Some((name, _)) = own.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::Option(format!("--{name} 0: expected 1 or more")));
        }
        let bytes = capfilt_udfs::config::bytes(&self.target_file_size).filter(|bytes| *bytes > 0);
        let wrong =
            || Error::Option(format!("--target-file-size {}: expected a size such as 512MB", self.target_file_size));
        self.renames()?;
        let default = if is_jsonl { Images::None } else { Images::Kept };
        Ok(Job {
            options: self.clone(),
            source,
            dest: self.dest.clone(),
            recipe: self.recipe()?,
            source_version,
            moved_root: None,
            images: self.write_images.unwrap_or(default),
            mode,
            file_bytes: bytes.ok_or_else(wrong)?,
            shard: shard(&self.shard).map_err(|e| Error::Option(format!("--shard {}: {e}", self.shard)))?,
            max_failed: self.max_failed.as_deref().map(|text| value("max-failed", text)).transpose()?,
            dedupe: self.dedupe.as_deref().map(|text| value("dedupe", text)).transpose()?,
        })
    }

    /// The recipe with its parameters' values.
    ///
    /// # Errors
    /// Names an option that does not go with the recipe, or a parameter that the recipe does not have.
    pub fn recipe(&self) -> Result<Recipe> {
        let option = |reason: String| Err(Error::Option(reason));
        let (name, sql, verdicts) = match (&self.recipe_sql, &self.recipe) {
            (None, Some(path)) => return option(format!("--recipe {}: its SQL was not read", path.display())),
            (None, None) => {
                let builder = self.builder()?;
                ("capfilt.sql".to_owned(), builder.sql(), builder.verdicts())
            }
            (Some(sql), path) => {
                let built = Self { min_itm: self.min_itm, ..Self::default() };
                let one = [
                    ("min-itm-of", self.min_itm_of != built.min_itm_of),
                    ("candidates", self.candidates != built.candidates),
                    ("best", self.best != built.best),
                    ("combine", self.combine != built.combine),
                    ("itc-gate", self.itc_gate != built.itc_gate),
                ];
                if let Some((name, _)) = one.into_iter().find(|(_, differs)| *differs) {
                    return option(format!(
                        "--{name} composes the built-in recipe, and --recipe replaces it: leave one out"
                    ));
                }
                let name = path.as_ref().map_or("recipe-sql".to_owned(), |path| path.display().to_string());
                (name, sql.clone(), Verdicts::default())
            }
        };
        let asked = Params::asked(&sql).map_err(|e| Error::Recipe { name: name.clone(), reason: e.to_string() })?;
        for (role, given) in [("captioner", &self.captioner), ("filter", &self.filter)] {
            if let Some(n) = (2..=given.len()).find(|n| !asked.contains(&format!("{role}_{n}"))) {
                let reason = format!("it has no parameter ${role}_{n}: give one --{role}, or use ${role}_{n} in it");
                return Err(Error::Recipe { name, reason });
            }
        }
        if let Some(unused) = self.param.keys().find(|param| !asked.contains(*param)) {
            let known: Vec<String> = asked.iter().map(|name| format!("${name}")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let reason = format!("--param {unused}=..: it has no parameter ${unused}; its parameters are: {known}");
            return Err(Error::Recipe { name, reason });
        }
        self.check_effect(&name, &asked)?;
        let mut params = Params::default();
        params.set("min_itm", &self.min_itm.to_string());
        params.set_text("prompt", &self.prompt);
        for (role, models) in [("captioner", &self.captioner), ("filter", &self.filter)] {
            for (n, model) in models.iter().enumerate().skip(1) {
                params.set_text(&format!("{role}_{}", n + 1), model);
            }
        }
        // They come last, so that they take precedence.
        for (name, value) in &self.param {
            params.set(name, value);
        }
        if self.recipe_sql.is_none()
            && asked.contains("min_itm")
            && !params.number_asked(&sql, "min_itm").is_some_and(|least| (0.0..=1.0).contains(&least))
        {
            return option("$min_itm is a probability: expected a number from 0 to 1".to_owned());
        }
        Ok(Recipe { name, sql, params, verdicts })
    }

    /// Errors on an option that would have no effect on the recipe `name`, whose parameters are `asked`.
    fn check_effect(&self, name: &str, asked: &BTreeSet<String>) -> Result<()> {
        let built = Self::default();
        let given =
            [("min-itm", "min_itm", self.min_itm != built.min_itm), ("prompt", "prompt", !self.prompt.is_empty())];
        if let Some((option, param, _)) =
            given.iter().find(|(_, param, given)| *given && self.param.contains_key(*param))
        {
            let reason = format!("--{option} and --param {param} set the same: leave one of them out");
            return Err(Error::Option(reason));
        }
        if let Some((option, param, _)) = given.into_iter().find(|(_, param, given)| *given && !asked.contains(*param))
        {
            let reason =
                format!("--{option} has no effect, because it has no parameter ${param}: leave the option out");
            return Err(Error::Recipe { name: name.to_owned(), reason });
        }
        let is_built_in = self.recipe_sql.is_none();
        let reason = if is_built_in && self.set.contains_key("capfilt.prompt") {
            "--set capfilt.prompt has no effect on the built-in recipe, which prompts with $prompt: give --prompt"
        } else if self.combine != built.combine && self.filter.len() < 2 {
            "--combine has no effect on a single filter: give several --filter, or leave it out"
        } else if self.best && self.candidates == 1 && self.captioner.len() < 2 {
            "--best has no effect on a single synthetic text: give --candidates or several --captioner, or leave it out"
        } else {
            return Ok(());
        };
        Err(Error::Option(reason.to_owned()))
    }

    fn builder(&self) -> Result<RecipeBuilder> {
        if self.best && self.combine == Combine::Vote && self.filter.len() > 1 {
            let reason = "--best needs one score to choose by, and --combine vote has several: give mean, min or max";
            return Err(Error::Option(reason.to_owned()));
        }
        if self.best && self.itc_gate.is_some() {
            let reason =
                "--best needs the ITM score of each text, and --itc-gate leaves some out: leave one of them out";
            return Err(Error::Option(reason.to_owned()));
        }
        let least = |text: &String| {
            let (source, least) = text.split_once('=').unwrap_or((text, ""));
            if !["web", "synthetic"].contains(&source) {
                return Err(Error::Option(format!("--min-itm-of {text}: expected web=P or synthetic=P")));
            }
            let least = least.parse().ok().filter(|least| (0.0..=1.0).contains(least));
            let wrong = || Error::Option(format!("--min-itm-of {text}: expected a number from 0 to 1"));
            Ok((source.to_owned(), least.ok_or_else(wrong)?))
        };
        let sources: Vec<&str> = self.min_itm_of.iter().filter_map(|text| Some(text.split_once('=')?.0)).collect();
        if let Some(twice) = sources.iter().enumerate().find(|(at, source)| sources[..*at].contains(source)) {
            return Err(Error::Option(format!("--min-itm-of {}=..: it is given twice: leave one out", twice.1)));
        }
        let candidates = usize::try_from(self.candidates).ok().filter(|n| *n <= 64);
        let wrong = || Error::Option(format!("--candidates {}: expected 1 to 64", self.candidates));
        Ok(RecipeBuilder {
            candidates: candidates.ok_or_else(wrong)?,
            captioners: self.captioner.len().max(1),
            filters: self.filter.len().max(1),
            combine: self.combine,
            best: self.best,
            itc_gate: self.itc_gate.as_deref().map(|text| value("itc-gate", text)).transpose()?,
            min_itm_of: self.min_itm_of.iter().map(least).collect::<Result<_>>()?,
        })
    }
}

fn value<T: FromStr<Err = String>>(option: &str, text: &str) -> Result<T> {
    text.parse().map_err(|e| Error::Option(format!("--{option} {text}: {e}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::options::Pairs;

    fn file() -> JobFile {
        JobFile { source: "web.parquet".to_owned(), dest: "pairs".into(), ..JobFile::default() }
    }

    #[test]
    fn a_file_is_a_job_and_a_job_is_a_file() {
        let text = r#"{"source": "lake@12", "dest": "pairs", "filter": ["a", "b"], "max-failed": 7, "target-file-size": 1048576,
            "dedupe": "near", "shard": "2/3", "table-format": "jsonl", "set": {"capfilt.batch_size": 8}, "param": {"x": "'7'"},
            "rename": ["a=b"], "write-pairs": "kept", "image-is": "url"}"#;
        let file: JobFile = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::from_value::<JobFile>(serde_json::to_value(&file).unwrap()).unwrap(), file);
        let one = JobFile { param: BTreeMap::new(), ..file.clone() };
        let job = one.job(Mode::Create).unwrap();
        assert_eq!((job.source.to_str(), job.source_version.as_deref()), (Some("lake"), Some("12")));
        assert_eq!((job.shard, job.file_bytes, job.images), ((2, 3), 1 << 20, Images::None));
        let options = &job.options;
        assert_eq!((options.image_is, options.table_format), (ImageIs::Url, OutputFormat::JsonLines));
        assert_eq!(
            (options.write_pairs, options.filter.as_slice()),
            (Pairs::Kept, &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(file.settings()[0].1, "capfilt.batch_size");
        let record = options.recorded();
        assert!(Path::new(&record.source).is_absolute() && record.source.ends_with("lake@12"), "{}", record.source);
        assert!(record.filter.iter().all(|path| Path::new(path).is_absolute()));
    }

    #[test]
    fn wrong_values_are_named() {
        for (wrong, words) in [
            (JobFile { dest: PathBuf::new(), ..file() }, "no dest"),
            (JobFile { min_itm_of: vec!["human=0.5".to_owned()], ..file() }, "web=P or synthetic=P"),
            (JobFile { min_itm_of: vec!["web=2".to_owned()], ..file() }, "from 0 to 1"),
            (JobFile { candidates: 65, ..file() }, "--candidates 65"),
            (JobFile { shard: "3/2".to_owned(), ..file() }, "--shard 3/2"),
            (JobFile { itc_gate: Some("1".to_owned()), ..file() }, "--itc-gate 1: expected LOW,HIGH"),
            (JobFile { best: true, itc_gate: Some("0.1,0.2".to_owned()), ..file() }, "--best"),
            (JobFile { recipe_sql: Some("SELECT 1".to_owned()), best: true, ..file() }, "--best composes"),
            (
                JobFile { recipe_sql: Some("SELECT 1".to_owned()), prompt: "a".to_owned(), ..file() },
                "no parameter $prompt",
            ),
            (JobFile { recipe_sql: Some("SELECT 1".to_owned()), min_itm: 0.6, ..file() }, "no parameter $min_itm"),
            (
                JobFile { set: BTreeMap::from([("capfilt.prompt".to_owned(), "a".to_owned())]), ..file() },
                "give --prompt",
            ),
            (JobFile { combine: Combine::Vote, ..file() }, "a single filter"),
            (JobFile { min_itm_of: vec!["web=0.5".to_owned(), "web=0.6".to_owned()], ..file() }, "given twice"),
            (
                JobFile { min_itm: 0.6, param: BTreeMap::from([("min_itm".to_owned(), "0.7".to_owned())]), ..file() },
                "--min-itm and --param min_itm set the same",
            ),
            (JobFile { best: true, ..file() }, "a single synthetic text"),
            (JobFile { image_root: Some("a".into()), ..file() }, "--image-is path"),
            (JobFile { min_itm: -1.0, ..file() }, "from 0 to 1"),
            (JobFile { param: BTreeMap::from([("min_itm".to_owned(), "7".to_owned())]), ..file() }, "from 0 to 1"),
            (JobFile { param: BTreeMap::from([("x".to_owned(), "1".to_owned())]), ..file() }, "no parameter $x"),
            (JobFile { target_file_size: "0".to_owned(), ..file() }, "--target-file-size 0"),
        ] {
            let said = wrong.job(Mode::Create).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        let said = serde_json::from_str::<JobFile>(r#"{"unit-rows": 5}"#).unwrap_err().to_string();
        assert!(said.contains("unit-rows") && said.contains("checkpoint-rows"), "{said}");
    }
}
