//! Runs scripts; without a script, opens the prompt.

use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::runtime::Runtime;

use crate::args::command::{Script, SqlArgs};
use crate::session;
use crate::sql::print::Out;
use crate::sql::statement::Sql;
use crate::sql::{prompt, script};

/// Runs the scripts. Without a script, opens the prompt, or runs standard input if it is not a terminal.
pub(crate) fn main(runtime: &Runtime, args: &SqlArgs, mut scripts: Vec<Script>) -> Result<()> {
    let sql = runtime.block_on(async {
        for (option, values) in [("captioner", &args.session.models.captioner), ("filter", &args.session.models.filter)]
        {
            if values.len() > 1 {
                bail!("capfilt sql takes one --{option}: name others in the calls, named_struct('model', DIR)");
            }
        }
        let ctx = session::open(&args.session).await?;
        for (name, path) in &args.table {
            session::register(&ctx, name, path).await.with_context(|| format!("--table {name}={path}"))?;
        }
        Ok::<_, anyhow::Error>(Sql { ctx, params: session::params(&args.params), format: args.format })
    })?;
    if scripts.is_empty() {
        if io::stdin().is_terminal() {
            return prompt::main(runtime, &sql);
        }
        scripts.push(Script::File("-".into()));
    }
    runtime.block_on(async {
        let mut out = BufWriter::new(io::stdout());
        for script in scripts {
            let (name, text) = read(script)?;
            run(&sql, &name, &text, &mut out).await?;
        }
        Ok(out.flush()?)
    })
}

fn read(script: Script) -> Result<(String, String)> {
    match script {
        Script::Text(text) => Ok(("-c".to_owned(), text)),
        Script::File(path) if path == Path::new("-") => {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).context("standard input")?;
            let text = script::script(text).map_err(|e| anyhow!(e)).context("standard input")?;
            Ok(("standard input".to_owned(), text))
        }
        Script::File(path) => {
            let name = path.display().to_string();
            let text = std::fs::read(&path).map_err(anyhow::Error::from);
            let text = text.and_then(|text| script::script(text).map_err(|e| anyhow!(e)));
            let text = text.with_context(|| format!("-f {name}"))?;
            Ok((name, text))
        }
    }
}

/// Runs the statements of `text` in turn, up to the first that fails. If the text does not parse, none is run.
async fn run(sql: &Sql, name: &str, text: &str, out: Out<'_>) -> Result<()> {
    let statements = sql.parse(text).with_context(|| name.to_owned())?;
    let many = statements.len() > 1;
    for (number, statement) in statements.into_iter().enumerate() {
        let ended = sql.execute(statement, out).await;
        // Output from before the error must precede it.
        out.flush()?;
        ended.with_context(|| if many { format!("{name}, statement {}", number + 1) } else { name.to_owned() })?;
    }
    Ok(())
}
