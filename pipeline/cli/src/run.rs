//! The command `capfilt run`.

use anyhow::{Context as _, Result, anyhow, bail};
use capfilt_job::{Again, Combine, Compose, ImageIs, Images, Job, Params, Parts, Recipe, Stop, Verdicts};
use capfilt_udfs::CapfiltOptions;
use datafusion::prelude::SessionContext;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

use crate::args::{CombineArg, ImageArg, PartsArg, RunArgs};
use crate::console::{Progress, Stats, say};
use crate::metrics::Metrics;
use crate::session;

/// Grace period after the second signal, then the process exits: the job may be blocked where it cannot react.
const STOP_AFTER: Duration = Duration::from_secs(2);

/// Runs the job, or prints its SQL.
pub(crate) async fn main(args: &RunArgs) -> Result<()> {
    let recipe = recipe(args)?;
    if args.print_sql {
        let mut out = io::stdout().lock();
        out.write_all(recipe.annotated().as_bytes())?;
        return Ok(out.flush()?);
    }
    let ctx = session::open(&args.session).await?;
    let images = match args.image {
        None if matches!(args.format, PartsArg::Jsonl) => Images::None,
        Some(ImageArg::Kept | ImageArg::All) if matches!(args.format, PartsArg::Jsonl) => {
            bail!("--format jsonl has no images: leave --image out, or give another format")
        }
        None | Some(ImageArg::Kept) => Images::Kept,
        Some(ImageArg::All) => Images::All,
        Some(ImageArg::None) => Images::None,
    };
    let (image_column, image_is) = match (&args.url_column, &args.path_column) {
        (Some(url), _) => (url, ImageIs::Url),
        (_, Some(path)) => (path, ImageIs::Path),
        (None, None) => (&args.image_column, ImageIs::Bytes),
    };
    let job = Job {
        source: args.source.clone(),
        dest: args.dest.clone(),
        recipe,
        image_column: image_column.clone(),
        image_is,
        source_version: args.source_version.clone(),
        path_root: args.path_root.clone(),
        text_column: args.text_column.clone(),
        renames: args.rename.clone(),
        kept_only: args.kept_only,
        images,
        parts: match args.format {
            PartsArg::Parquet => Parts::Parquet,
            PartsArg::Webdataset => Parts::WebDataset,
            PartsArg::Delta => Parts::Delta,
            PartsArg::Jsonl => Parts::JsonLines,
        },
        again: match args {
            RunArgs { overwrite: true, .. } => Again::Overwrite,
            RunArgs { update: true, .. } => Again::Update,
            RunArgs { retry_failed: true, .. } => Again::RetryFailed,
            _ => Again::No,
        },
        unit_rows: args.unit_rows,
        file_bytes: args.file_size,
        shard: args.shard,
        max_failed: args.max_failed,
        round: args.round,
        dedupe: args.dedupe,
        captioners: args.session.captioner.iter().skip(1).cloned().collect(),
        filters: args.session.filter.iter().skip(1).cloned().collect(),
    };
    if let Some(sample) = args.dry_run {
        return estimate(&ctx, &job, sample.into()).await;
    }
    let options = ctx.copied_config().options().extensions.get::<CapfiltOptions>().cloned().unwrap_or_default();
    let stats: Stats = Arc::new(move || options.engine().stats());
    let metrics = match &args.metrics_addr {
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
    let progress = Progress::new(stats);
    let update = |done: &capfilt_job::Done<'_>| {
        begun.store(true, Ordering::Relaxed);
        progress.update(done);
        if let Some(metrics) = &metrics {
            metrics.update(done);
        }
    };
    let ended = capfilt_job::run(&ctx, &job, stopped, &update).await;
    signalled.abort();
    progress.end();
    match ended {
        Ok(summary) => {
            say(&format!("{summary}\ntable      {}", job.dest.display()));
            Ok(())
        }
        Err(failure) => Err(anyhow!(as_options(failure.to_string()))),
    }
}

/// Prints an estimate of the job.
async fn estimate(ctx: &SessionContext, job: &Job, sample: usize) -> Result<()> {
    say("running the recipe on a sample; nothing is written ..");
    let mut signals = Signals::listen()?;
    let estimate = tokio::select! {
        estimate = capfilt_job::dry_run(ctx, job, sample) => estimate.map_err(|e| anyhow!(as_options(e.to_string())))?,
        () = signals.next() => {
            session::cancel(ctx);
            bail!("interrupted");
        }
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{estimate}")?;
    Ok(out.flush()?)
}

/// Replaces the functions' advice to use SET by the corresponding option.
fn as_options(text: String) -> String {
    ["captioner", "filter"].iter().fold(text, |text, role| {
        text.replace(&format!("SET capfilt.{role} = '/path/to/checkpoint'"), &format!("give --{role} DIR"))
    })
}

fn recipe(args: &RunArgs) -> Result<Recipe> {
    let models = &args.session;
    let (name, sql, verdicts) = match &args.recipe {
        None => {
            if args.best && matches!(args.combine, CombineArg::Vote) && models.filter.len() > 1 {
                bail!("--best needs one score to choose by, and --combine vote has several: give mean, min or max");
            }
            if let Some((source, _)) = args.min_itm_of.iter().find(|(s, _)| !["web", "synthetic"].contains(&s.as_str()))
            {
                bail!("--min-itm-of {source}=..: texts are of web or synthetic");
            }
            let compose = Compose {
                candidates: usize::try_from(args.candidates)?,
                captioners: models.captioner.len().max(1),
                filters: models.filter.len().max(1),
                combine: match args.combine {
                    CombineArg::Mean => Combine::Mean,
                    CombineArg::Min => Combine::Min,
                    CombineArg::Max => Combine::Max,
                    CombineArg::Vote => Combine::Vote,
                },
                best: args.best,
                agreement: args.agreement,
                min_itm_of: args.min_itm_of.clone(),
            };
            ("capfilt.sql".to_owned(), compose.sql(), compose.verdicts())
        }
        Some(file) => {
            let name = file.display().to_string();
            let sql = std::fs::read(file).map_err(anyhow::Error::from);
            let sql = sql.and_then(|sql| crate::sql::script::script(sql).map_err(|e| anyhow!(e)));
            let sql = sql.with_context(|| format!("--recipe {name}"))?;
            (name, sql, Verdicts::default())
        }
    };
    let asked = Params::asked(&sql).map_err(|e| anyhow!("recipe {name}: {e}"))?;
    for (role, given) in [("captioner", &models.captioner), ("filter", &models.filter)] {
        if let Some(n) = (2..=given.len()).find(|n| !asked.contains(&format!("{role}_{n}"))) {
            bail!("recipe {name} does not ask for ${role}_{n}: give it one --{role}, or use it there");
        }
    }
    if let Some((unused, _)) = models.param.iter().find(|(param, _)| !asked.contains(param)) {
        bail!("--param {unused}=..: recipe {name} does not ask for ${unused}; --print-sql shows what it asks for");
    }
    let mut params = session::params(&args.session);
    params.set_default("min_itm", &args.min_itm);
    params.set_text_default("prompt", &args.prompt);
    for (role, models) in [("captioner", &models.captioner), ("filter", &models.filter)] {
        for (n, model) in models.iter().enumerate().skip(1) {
            params.set_text_default(&format!("{role}_{}", n + 1), model);
        }
    }
    Ok(Recipe { name, sql, params, verdicts })
}

/// Ctrl-C and SIGTERM, which batch systems send before a kill. A signal that arrives while another is handled is not
/// lost.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "as with signals")]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
