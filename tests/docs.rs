//! The pages of docs/: functions.md is up to date with the code, and every command and statement shown in the guide runs.
//!
//! The blocks of a page run from top to bottom in one shell and one folder, which has the repository's examples.
//! `console` blocks have commands after `$ `; those marked `no-run` need a network, a GPU or minutes, and are left out.
//! `sql` blocks of a page are one script over examples/web.parquet as the table `web`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{root, without_settings};
use crate::hub_server::{Hub, files};

#[test]
fn functions_md_is_fresh() {
    let path = root().join("docs/functions.md");
    let written = fs::read_to_string(&path).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_capfilt")).arg("docs").output().unwrap();
    assert!(output.status.success());
    assert!(written.as_bytes() == output.stdout, "docs/functions.md is stale: run make docs");
}

/// The contents of a page's blocks whose info string is `info`.
fn blocks(page: &str, info: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in page.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(given)) => open = Some((given.trim() == info, String::new())),
            (Some(_), Some(_)) => {
                let (is_wanted, text) = open.take().unwrap();
                found.extend(is_wanted.then_some(text));
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// The commands of a console block: what follows `$ `, with its continuation lines; other lines are output.
fn commands(block: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut continues = false;
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => all.push(command.to_owned()),
            None if continues => {
                let last = all.last_mut().unwrap();
                last.push('\n');
                last.push_str(line);
            }
            None => continue,
        }
        continues = line.ends_with('\\');
    }
    all
}

/// Runs a page's commands, then its SQL.
fn runs(name: &str) {
    let page = fs::read_to_string(root().join(name)).unwrap();
    let mut script = "set -euo pipefail\n".to_owned();
    let shown: Vec<String> = blocks(&page, "console").iter().flat_map(|block| commands(block)).collect();
    for command in &shown {
        let quoted = command.replace('\'', "'\\''");
        script += &format!("printf '$ %s\\n' '{quoted}' >&2\n{command}\n");
    }
    let sql = blocks(&page, "sql");
    let folder = tempfile::tempdir().unwrap();
    if !sql.is_empty() {
        fs::write(folder.path().join("page.sql"), sql.concat()).unwrap();
        script += "capfilt sql --table web=examples/web.parquet -f page.sql\n";
    }
    assert!(!shown.is_empty() || !sql.is_empty(), "{name}: nothing to run was found");
    for shared in ["examples", "sql", "tests"] {
        symlink(root().join(shared), folder.path().join(shared)).unwrap();
    }
    fs::create_dir(folder.path().join("demo-out")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_capfilt")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    // BLIP's names stand for the small models, in a hub on this machine.
    let hub = Hub::start();
    for (name, model) in [("blip-image-captioning-base", "captioner"), ("blip-itm-base-coco", "filter")] {
        let files = files(&root().join("examples/models").join(model));
        hub.commit(&format!("Salesforce/{name}"), "main", "0123456789abcdef0123456789abcdef01234567", &files);
    }
    let output = without_settings(&mut Command::new("bash"))
        .args(["-c", &script])
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", folder.path().join("hugging-face"))
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{said}", output.status);
}

#[test]
fn readme_runs() {
    runs("README.md");
}

#[test]
fn getting_started_runs() {
    runs("docs/getting-started.md");
}

#[test]
fn sql_runs() {
    runs("docs/sql.md");
}

#[test]
fn job_runs() {
    runs("docs/job.md");
}

#[test]
fn performance_runs() {
    runs("docs/performance.md");
}

#[test]
fn training_runs() {
    runs("docs/training.md");
}

/// Every command of the guide is run by a test above: no other page has a block that runs. functions.md is generated; the
/// SQL logic tests run the functions' examples.
#[test]
fn no_page_is_forgotten() {
    let run = ["getting-started.md", "sql.md", "job.md", "training.md", "performance.md", "functions.md"];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "md") && !run.contains(&name.as_str()) {
            let page = fs::read_to_string(&path).unwrap();
            let shown = blocks(&page, "console").iter().flat_map(|block| commands(block)).count();
            assert_eq!((shown, blocks(&page, "sql").len()), (0, 0), "{name}");
        }
    }
}

/// Links between pages, and their headings, exist.
#[test]
fn links_lead_somewhere() {
    let anchor = |heading: &str| -> String {
        let plain = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = plain.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let mut pages = vec![root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} does not exist", page.display());
            if let Some(heading) = heading.filter(|_| target.extension().is_some_and(|extension| extension == "md")) {
                let text = fs::read_to_string(&target).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{}: {link} names no heading", page.display());
            }
        }
    }
}
