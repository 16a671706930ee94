//! Interactive prompt of `capfilt sql`.

use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::console::say;
use crate::session;
use crate::sql::script;
use crate::sql::statement::Sql;

/// How long the prompt waits for a stopped statement.
const PATIENCE: Duration = Duration::from_secs(1);
/// Exit status that a shell reports for a command ended by SIGINT.
const INTERRUPTED: i32 = 130;

const HELP: &str = "\
statements end with ;  and may run over several lines
  \\d          the tables
  \\d NAME     the columns of a table
  \\?          this help
  \\q          leave (as Ctrl-D)
Ctrl-C stops the statement that runs. SHOW ALL lists the settings, SHOW FUNCTIONS the functions.";

/// Reads and runs statements until the end of input.
pub(crate) fn main(runtime: &Runtime, sql: &Sql) -> Result<()> {
    let mut editor: Editor<Lines, DefaultHistory> =
        Editor::with_config(Config::builder().auto_add_history(true).build())?;
    editor.set_helper(Some(Lines));
    let history = history_file();
    if let Some(file) = &history {
        // The file does not exist the first time.
        let _ = editor.load_history(file);
    }
    say(&format!("capfilt {}; \\? for help", env!("CARGO_PKG_VERSION")));
    loop {
        match editor.readline("capfilt> ") {
            Ok(line) => {
                if !answer(runtime, sql, script::unmarked(&line).trim())? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(e) => return Err(e.into()),
        }
        if let Some(file) = &history
            && let Err(e) = editor.save_history(file)
        {
            log::warn!("cannot keep the history in {}: {e}", file.display());
        }
    }
    Ok(())
}

/// Runs a command or statements; returns false to leave the prompt.
fn answer(runtime: &Runtime, sql: &Sql, line: &str) -> Result<bool> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = rest.trim().trim_end_matches(';').trim();
    let text = match word.trim_end_matches(';') {
        "\\q" | "exit" | "quit" if name.is_empty() => return Ok(false),
        "\\?" => {
            say(HELP);
            return Ok(true);
        }
        "\\d" if name.is_empty() => "SELECT table_name, table_type FROM information_schema.tables \
                                     WHERE table_schema <> 'information_schema' ORDER BY table_name"
            .to_owned(),
        "\\d" => format!("DESCRIBE {name}"),
        word if word.starts_with('\\') => {
            say(&format!("no command {word}; \\? for help"));
            return Ok(true);
        }
        _ => line.to_owned(),
    };
    match statements(runtime, sql, &text) {
        Ok(()) => {}
        Err(error) if error.downcast_ref::<io::Error>().is_some() => return Err(error),
        Err(error) => say(&format!("error: {error}")),
    }
    Ok(true)
}

fn statements(runtime: &Runtime, sql: &Sql, text: &str) -> Result<()> {
    for statement in sql.parse(text)? {
        let started = Instant::now();
        let this = sql.clone();
        let task = runtime.spawn(async move {
            let mut out = BufWriter::new(io::stdout());
            let rows = this.execute(statement, &mut out).await?;
            out.flush()?;
            Ok::<_, anyhow::Error>(rows)
        });
        match interruptible(&sql.ctx, task)? {
            Some(rows) => {
                let unit = if rows == 1 { "row" } else { "rows" };
                say(&format!("{rows} {unit}, {:.1} s", started.elapsed().as_secs_f64()));
            }
            None => {
                say("cancelled");
                break;
            }
        }
    }
    Ok(())
}

/// Waits for a statement; `None` if Ctrl-C stopped it.
fn interruptible(ctx: &SessionContext, task: JoinHandle<Result<usize>>) -> Result<Option<usize>> {
    // A runtime of its own: operators that compute may occupy every thread of the statement's runtime, so that none
    // would see the signal.
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stop = task.abort_handle();
        tokio::pin!(task);
        tokio::select! {
            ended = &mut task => ended?.map(Some),
            _ = tokio::signal::ctrl_c() => {
                // Model calls end with their slice, joins with their next batch, and everything else at its next await.
                session::cancel(ctx);
                stop.abort();
                tokio::select! {
                    _ = &mut task => {}
                    // The rest of a batch in a slow function is not waited for.
                    () = tokio::time::sleep(PATIENCE) => {}
                    _ = tokio::signal::ctrl_c() => std::process::exit(INTERRUPTED),
                }
                Ok(None)
            }
        }
    })
}

fn history_file() -> Option<PathBuf> {
    let data = match std::env::var_os("XDG_DATA_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => std::env::home_dir()?.join(".local/share"),
    };
    let folder = data.join("capfilt");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// Lets a statement span lines until its semicolon.
struct Lines;

impl Validator for Lines {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(ctx.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Lines {
    type Candidate = String;
}
impl Hinter for Lines {
    type Hint = String;
}
impl Highlighter for Lines {}
impl Helper for Lines {}

/// Whether `text` is complete: blank, a command, or with a semicolon as its last token apart from comments. A semicolon
/// in quotes or in a comment does not count.
fn is_complete(text: &str) -> bool {
    let text = script::unmarked(text);
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.starts_with('\\') || ["exit", "quit"].contains(&trimmed) {
        return true;
    }
    // The tokenizer fails at open quotes.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return false };
    let last = tokens.iter().rev().find(|token| !matches!(token, Token::Whitespace(_) | Token::EOF));
    matches!(last, Some(Token::SemiColon) | None)
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn a_statement_ends_at_its_semicolon() {
        for text in [
            "",
            "\\d",
            "\\d web",
            "SELECT 1;",
            "\u{feff}SELECT 1;",
            "\u{feff}\\d",
            "SELECT 1; -- why",
            "SELECT ';' ;",
            "quit",
            "-- nothing",
        ] {
            assert!(is_complete(text), "{text}");
        }
        for text in ["SELECT 1", "SELECT ';", "SELECT 1 -- ;", "SELECT ';'", "SELECT /* ; */ 1", "SELECT 1; SELECT"] {
            assert!(!is_complete(text), "{text}");
        }
    }
}
