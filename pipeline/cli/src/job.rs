//! The verbs on a job: `capfilt run`, `resume`, `update`, `retry`, `job` and `recipe`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use capfilt_job::{Job, JobFile, Mode, Recorded, Stop};
use capfilt_tables::hub::is_name;
use datafusion::prelude::SessionContext;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::args::job::{ContinueArgs, RunArgs, ShowRecipeArgs};
use crate::console::{Progress, Stats, clear_bar, put, say};
use crate::hub;
use crate::metrics::Metrics;
use crate::session;
use crate::signals::Signals;
use crate::sql::script::script;

/// Grace period after the second signal, then the process exits: the job may be blocked where it cannot react.
const STOP_AFTER: Duration = Duration::from_secs(2);

/// `capfilt run`.
pub(crate) async fn run(args: &RunArgs) -> Result<()> {
    let (ctx, jobs) = begun(args).await?;
    if let (Some(sample), [job]) = (args.operation.dry_run, &*jobs) {
        if job.dedupe.is_some() {
            bail!("--dry-run does not look for duplicates: leave one of --dry-run and --dedupe out");
        }
        return estimate(&ctx, job, sample.into()).await;
    }
    execute(&ctx, &jobs, args.operation.metrics_addr.as_deref()).await
}

/// The job that `capfilt run` begins, and its session.
pub(crate) async fn begun(args: &RunArgs) -> Result<(SessionContext, Vec<Job>)> {
    let mut file = described(args.job.as_deref(), args)?;
    let ctx = session::of_new_job(&mut file).await?;
    let mode = if args.operation.overwrite { Mode::Overwrite } else { Mode::Create };
    if mode == Mode::Create {
        hub::name_moved(&file);
    }
    let job = file.job(mode).map_err(|e| anyhow!(e))?;
    if mode == Mode::Overwrite && job.shard.1 > 1 {
        bail!(
            "--overwrite replaces a table of one shard: leave one of --overwrite and --shard out, or give another folder"
        );
    }
    Ok((ctx, vec![job]))
}

/// `capfilt update` and `retry`; without a mode `capfilt resume`.
pub(crate) async fn go_on(args: &ContinueArgs, mode: Option<Mode>) -> Result<()> {
    let (ctx, jobs) = continued(args, mode).await?;
    execute(&ctx, &jobs, args.metrics_addr.as_deref()).await
}

/// The jobs of a table's shards that `capfilt update`, `retry` or, without a mode, `resume` continues, and their session.
pub(crate) async fn continued(args: &ContinueArgs, mode: Option<Mode>) -> Result<(SessionContext, Vec<Job>)> {
    let mut shards = capfilt_job::recorded(&args.dest).map_err(|e| anyhow!(e))?;
    let table = args.dest.display();
    if let Some(shard) = &args.shard {
        let (shard, count) = capfilt_job::shard(shard).map_err(|e| anyhow!("--shard {shard}: {e}"))?;
        if count != shards.len() as u64 {
            bail!("--shard {shard}/{count}: the table {table} was begun with --shard I/{}", shards.len());
        }
        shards.retain(|recorded| recorded.shard.0 == shard);
    }
    if mode.is_none() {
        shards.retain(|shard| !shard.is_finished);
        if shards.is_empty() {
            bail!(
                "{table} is finished: `capfilt update {table}` adds what is new in its source, `capfilt retry {table}` does failed \
                 rows again"
            );
        }
    }
    if mode == Some(Mode::Retry)
        && shards.len() > 1
        && let Some(begun) = shards.iter().find(|shard| !shard.is_finished && !shard.is_retry)
    {
        bail!(
            "shard {} of {} of {table} is not finished: finish it first with `capfilt resume {table}`",
            begun.shard.0,
            begun.shard.1
        );
    }
    let mut jobs = Vec::new();
    let mut ctx = None;
    for shard in &shards {
        let mut file = recorded(args, mode, shard)?;
        // A recorded job is complete.
        ctx = Some(match args.job {
            Some(_) => session::of_new_job(&mut file).await?,
            None => session::of_job(&file).await?,
        });
        let mut job = file.job(mode.unwrap_or_else(|| shard.resume())).map_err(|e| anyhow!(e))?;
        job.moved_root = args.image_root.clone().or_else(|| shard.image_root.clone());
        jobs.push(job);
    }
    Ok((ctx.context("the table has no shard")?, jobs))
}

/// A shard's recorded job, with the command line's options applied.
fn recorded(args: &ContinueArgs, mode: Option<Mode>, shard: &Recorded) -> Result<JobFile> {
    let (number, shards) = shard.shard;
    let mut file = match (&args.job, &shard.file) {
        (Some(path), _) => JobFile {
            dest: args.dest.clone(),
            shard: format!("{number}/{shards}"),
            ..described(Some(path), &Value::Null)?
        },
        (None, Some(file)) => file.clone(),
        (None, None) => bail!(
            "{} does not record its job in a form that this version of capfilt reads: describe it with --job FILE, a file with the \
             options of the command that began it",
            args.dest.display()
        ),
    };
    if mode == Some(Mode::Update) {
        // New rows of a Delta source are in a later version.
        file.source = file.source().0.to_string_lossy().into_owned();
    }
    file = merged(serde_json::to_value(&file)?, args)?;
    hub::pin(&mut file)?;
    let places = [("source", file.source().0)].into_iter();
    let models = [("captioner", &file.captioner), ("filter", &file.filter)];
    let models = models.into_iter().flat_map(|(option, all)| all.iter().map(move |path| (option, path.into())));
    for (option, place) in places.chain(models) {
        let is_elsewhere = |text: &str| text.contains("://") || text.contains(['*', '?', '[']) || is_name(text);
        if !is_elsewhere(&place.to_string_lossy()) && !place.exists() {
            bail!(
                "{}: the job's {option} is not there: put it back, or name its new place by --{option}",
                place.display()
            );
        }
    }
    if let (Some(source), Some(version)) = (&args.source, shard.source_version)
        && mode != Some(Mode::Update)
        && file.source().1.is_none()
    {
        file.source = format!("{source}@{version}");
    }
    Ok(file)
}

/// The job that a job file, if any, and the command line describe; the command line takes precedence.
fn described(path: Option<&Path>, options: &impl Serialize) -> Result<JobFile> {
    let mut base = Value::Object(Map::new());
    if let Some(path) = path {
        let of = || format!("--job {}", path.display());
        let text = std::fs::read(path).with_context(of)?;
        let text = script(text).map_err(|e| anyhow!(e)).with_context(of)?;
        // Parsed twice, because only the typed form names an unknown key with its line.
        let typed = toml::from_str::<JobFile>(&text).map_err(|e| anyhow!(in_words(&e))).with_context(of)?;
        if typed.recipe.is_some() && typed.recipe_sql.is_some() {
            bail!("{}: recipe and recipe-sql are both recipes: leave one of them out", of());
        }
        base = toml::from_str::<Value>(&text).with_context(of)?;
    }
    let mut file = merged(base, options)?;
    if let Some(recipe) = &file.recipe
        && file.recipe_sql.is_none()
    {
        let of = || format!("--recipe {}", recipe.display());
        let sql = std::fs::read(recipe).with_context(of)?;
        file.recipe_sql = Some(script(sql).map_err(|e| anyhow!(e)).with_context(of)?);
    }
    Ok(file)
}

/// The message of an error in a job file, with the names of Rust's types replaced.
fn in_words(error: &toml::de::Error) -> String {
    let text = error.to_string().replace("expected f64", "expected a number");
    let whole = "expected a whole number";
    text.trim_end().replace("expected u64", whole).replace("expected u32", whole)
}

/// Overrides `base` with the options that are given; tables such as `set` are merged entry by entry.
fn merged(mut base: Value, options: &impl Serialize) -> Result<JobFile> {
    let is_given = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(all) => !all.is_empty(),
        _ => true,
    };
    let Value::Object(options) = serde_json::to_value(options)? else { return Ok(serde_json::from_value(base)?) };
    let Some(all) = base.as_object_mut() else { bail!("a job is a table of options") };
    // A setting of the command line overrides the option of the base that sets the same.
    for name in ["captioner", "filter", "device"] {
        if options.get("set").is_some_and(|set| set.get(format!("capfilt.{name}")).is_some()) {
            if options.get(name).is_some_and(is_given) {
                bail!("--{name} and --set capfilt.{name} set the same: leave one of them out");
            }
            all.remove(name);
        }
    }
    for (name, value) in options.into_iter().filter(|(_, value)| is_given(value)) {
        match (all.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(new)) => known.extend(new),
            (_, value) => {
                if name == "recipe" {
                    all.remove("recipe-sql");
                }
                all.insert(name, value);
            }
        }
    }
    Ok(serde_json::from_value(base)?)
}

/// `capfilt job`: the job of a table as a job file.
pub(crate) fn toml(dest: &Path) -> Result<String> {
    let shards = capfilt_job::recorded(dest).map_err(|e| anyhow!(e))?;
    // Of several shards, the file is about all.
    let file = shards
        .into_iter()
        .next()
        .and_then(|shard| Some(JobFile { shard: "1/1".to_owned(), recipe: None, ..shard.file? }));
    let Some(file) = file else {
        bail!("{} does not record its job in a form that this version of capfilt reads", dest.display());
    };
    Ok(toml::to_string(&file)?)
}

/// `capfilt recipe`: the SQL with its parameters' values.
pub(crate) fn recipe(args: &ShowRecipeArgs) -> Result<String> {
    let file = described(None, args)?;
    Ok(file.recipe().map_err(|e| anyhow!(e))?.annotated())
}

/// Runs the jobs one after another, until a signal stops them.
async fn execute(ctx: &SessionContext, jobs: &[Job], metrics_addr: Option<&str>) -> Result<()> {
    let options = capfilt_udfs::options(ctx);
    let stats: Stats = Arc::new(move || options.engine().stats());
    let metrics = match metrics_addr {
        Some(address) => Some(Metrics::serve(address, Arc::clone(&stats)).await?),
        None => None,
    };
    let (stop, stopped) = watch::channel(Stop::No);
    // Set at the first progress report; from then on a unit is in progress.
    let begun = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::listen()?;
    let signalled = tokio::spawn({
        let (ctx, begun) = (ctx.clone(), Arc::clone(&begun));
        async move {
            signals.next().await;
            let _ = stop.send(Stop::AtUnit);
            say(match begun.load(Ordering::Relaxed) {
                true => "finishing the unit in hand; once more to stop at once (the unit is then done anew) ..",
                false => "stopping ..",
            });
            signals.next().await;
            // Request the stop before cancelling the engine, or the job would report the cancellation as a failure.
            let _ = stop.send(Stop::Now);
            session::cancel(&ctx);
            say("stopping at once ..");
            tokio::time::sleep(STOP_AFTER).await;
            // The next run repeats the unfinished unit, as after a kill.
            say("error: interrupted");
            std::process::exit(130);
        }
    });
    let mut ended = Ok(());
    for job in jobs {
        if jobs.len() > 1 {
            say(&format!("shard {} of {}", job.shard.0, job.shard.1));
        }
        let progress = Progress::new(Arc::clone(&stats));
        let update = |done: &capfilt_job::Done| {
            begun.store(true, Ordering::Relaxed);
            progress.update(done);
            if let Some(metrics) = &metrics {
                metrics.update(done);
            }
        };
        let result = capfilt_job::run(ctx, job, stopped.clone(), &update).await;
        clear_bar();
        match result {
            Ok(summary) => say(&format!("{summary}\ntable      {}", job.dest.display())),
            Err(failure) => {
                ended = Err(anyhow!(as_options(failure.to_string())));
                break;
            }
        }
    }
    signalled.abort();
    ended
}

/// Prints an estimate of the job.
async fn estimate(ctx: &SessionContext, job: &Job, sample: usize) -> Result<()> {
    say("running the recipe on a sample; nothing is written ..");
    let mut signals = Signals::listen()?;
    let estimate = tokio::select! {
        estimate = capfilt_job::dry_run(ctx, job, sample) => estimate.map_err(|e| anyhow!(as_options(e.to_string())))?,
        _ = signals.next() => {
            session::cancel(ctx);
            bail!("interrupted");
        }
    };
    put(&estimate.to_string(), "\n")
}

/// Replaces the functions' advice to use SET by the corresponding option.
pub fn as_options(text: String) -> String {
    ["captioner", "filter"].iter().fold(text, |text, role| {
        text.replace(&format!("SET capfilt.{role} = '/path/to/checkpoint'"), &format!("give --{role} DIR"))
    })
}
