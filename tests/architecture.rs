//! The order of crates, folders and files that docs/architecture.md describes: imports run one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::root;

/// Crates of the workspace, and those that each may depend on.
const CRATES: [(&str, &[&str]); 8] = [
    ("capfilt-udfs", &[]),
    ("capfilt-fetch", &["capfilt-udfs"]),
    ("capfilt-hub", &[]),
    ("capfilt-tables", &["capfilt-hub", "capfilt-udfs"]),
    ("capfilt-job", &["capfilt-fetch", "capfilt-tables", "capfilt-udfs"]),
    ("capfilt", &["capfilt-fetch", "capfilt-job", "capfilt-tables", "capfilt-udfs"]),
    ("capfilt-python", &["capfilt", "capfilt-job", "capfilt-tables", "capfilt-udfs"]),
    ("capfilt-training", &["capfilt-tables", "capfilt-udfs"]),
];
/// Crates whose files are checked, by their folders.
const CHECKED: [&str; 8] =
    ["udfs", "pipeline/fetch", "pipeline/hub", "pipeline/tables", "pipeline/job", "pipeline/cli", "python", "training"];
/// Those of them whose folders have an order too, which the page lists.
const LAYERED: [&str; 4] = ["pipeline/fetch", "pipeline/tables", "pipeline/job", "pipeline/cli"];

#[test]
fn crates_depend_downwards() {
    let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(names, CRATES.iter().map(|(name, _)| *name).collect(), "a crate without a place in the order");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = CRATES.iter().find(|(known, _)| *known == name).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            // Tests may use what they test with.
            if names.contains(other) && dependency["kind"] != "dev" {
                assert!(allowed.contains(&other), "{name} must not depend on {other}");
            }
        }
    }
}

#[test]
fn files_and_folders_do_not_import_each_other_in_a_circle() {
    for folder in CHECKED {
        let source = root().join(folder).join("src");
        let files = imports(&source);
        assert!(files.len() > 3, "{folder}: no files were found");
        let edges: usize = files.values().map(BTreeSet::len).sum();
        assert!(edges > files.len() / 2, "{folder}: {edges} imports were found among {} files", files.len());
        assert_eq!(circle(&files), None, "{folder}: files that import each other");
        if !LAYERED.contains(&folder) {
            continue;
        }
        let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
        let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in &files {
            let to = to.iter().map(|module| top(module)).filter(|other| *other != top(from));
            folders.entry(top(from)).or_default().extend(to);
        }
        // The face of a crate names what stands below it.
        folders.remove("");
        assert_eq!(circle(&folders), None, "{folder}: folders that import each other");
    }
}

#[test]
fn the_architecture_page_names_every_folder() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    assert!(page.lines().count() <= 150, "docs/architecture.md has more than 150 lines");
    for folder in LAYERED {
        let source = root().join(folder).join("src");
        let listed: BTreeSet<String> = section(&page, folder);
        let is_module = |path: &Path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
        let there: BTreeSet<String> = fs::read_dir(&source)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| is_module(path))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(listed, there, "docs/architecture.md lists other folders and files of {folder} than there are");
    }
}

/// Names in the first column of the table below the heading of a crate.
fn section(page: &str, folder: &str) -> BTreeSet<String> {
    let lines = page.lines().skip_while(|line| !(line.starts_with("### ") && line.contains(&format!("`{folder}`"))));
    let rows = lines.skip(1).take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split(','));
    names.map(|name| name.trim().trim_matches('`').trim_end_matches('/').trim_end_matches(".rs").to_owned()).collect()
}

/// Modules of a crate by their path (`format::parquet`; empty for the crate's root), and those that each imports.
fn imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut texts = BTreeMap::new();
    collect(source, source, &mut texts);
    let tests: BTreeSet<String> = texts.iter().flat_map(|(module, text)| tests(module, text)).collect();
    texts.retain(|module, _| !tests.iter().any(|test| module == test || module.starts_with(&format!("{test}::"))));
    let modules: BTreeSet<String> = texts.keys().cloned().collect();
    let imported = |module: &String, text: &str| {
        let paths = paths(text);
        let found = paths.iter().filter_map(|path| resolve(module, path, &modules)).filter(|other| other != module);
        found.collect::<BTreeSet<String>>()
    };
    texts.iter().map(|(module, text)| (module.clone(), imported(module, text))).collect()
}

/// The modules below a module that only tests have.
fn tests(module: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let marked =
        lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(test)]") || pair[0].starts_with("#[cfg(all(test,"));
    let names =
        marked.filter_map(|pair| pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';'));
    names.map(|name| below(module, name)).collect()
}

/// Path of a module below another.
fn below(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

fn collect(source: &Path, folder: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            collect(source, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(source).unwrap().with_extension("");
            let mut parts: Vec<&str> = below.iter().map(|part| part.to_str().unwrap()).collect();
            if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
                parts.pop();
            }
            texts.insert(parts.join("::"), code(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The text without comments, and without its tests, which stand at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a file names: those that begin with `crate` or `super` anywhere, others in `use` only.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::").chain(text.match_indices("super::")) {
        let before = text[..at].chars().next_back();
        // A colon: the second of `super::super`, which the first one's path has.
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            expand(&text[at..], &mut Vec::new(), &mut found);
        }
    }
    for (at, _) in text.match_indices("use ") {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        if line.is_empty() || line == "pub" || line.starts_with("pub(") && line.ends_with(')') {
            expand(&text[at + "use ".len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads a path, which may end in a list in braces, and returns what follows it.
fn expand<'a>(mut text: &'a str, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let depth = before.len();
    loop {
        text = text.trim_start();
        if let Some(list) = text.strip_prefix('{') {
            text = list;
            loop {
                text = expand(text, before, found).trim_start();
                match text.strip_prefix(',') {
                    Some(rest) if !rest.trim_start().starts_with('}') => text = rest,
                    Some(rest) => text = rest.trim_start(),
                    None => break,
                }
                if text.starts_with('}') {
                    break;
                }
            }
            before.truncate(depth);
            return text.strip_prefix('}').unwrap_or(text);
        }
        let length = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        before.push(text[..length].to_owned());
        text = &text[length..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => break,
        }
    }
    found.push(before.clone());
    before.truncate(depth);
    text.strip_prefix(" as ").map_or(text, |alias| &alias[alias.find([',', '}', ';']).unwrap_or(0)..])
}

/// The longest module that a path in `module` begins with.
fn resolve(module: &str, path: &[String], modules: &BTreeSet<String>) -> Option<String> {
    let mut whole: Vec<&str> = module.split("::").filter(|name| !name.is_empty()).collect();
    let mut rest: &[String] = path;
    match path.first()?.as_str() {
        "crate" => {
            whole.clear();
            rest = &path[1..];
        }
        "super" => {
            while let Some((_, after)) = rest.split_first().filter(|(first, _)| *first == "super") {
                whole.pop();
                rest = after;
            }
        }
        "self" => rest = &path[1..],
        // Another crate's, unless it is a module below.
        name if !modules.contains(&below(module, name)) => return None,
        _ => {}
    }
    whole.extend(rest.iter().map(String::as_str));
    (1..=whole.len()).rev().map(|length| whole[..length].join("::")).find(|module| modules.contains(module))
}

/// A circle of a graph, if it has one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(first) = path.iter().position(|module| module == at) {
            return Some(path[first..].to_vec());
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        path.push(at.to_owned());
        let found = graph.get(at).into_iter().flatten().find_map(|other| visit(other, graph, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| visit(module, graph, &mut Vec::new(), &mut done))
}

/// Optional parts of the crates are chosen in registers, and nowhere else.
#[test]
fn features_are_asked_for_in_registers_alone() {
    // Beside the registers: declarations of modules, the command's two optional functions of SQL, and option values.
    let allowed = ["register.rs", "providers.rs", "mod.rs", "cli/src/session.rs", "cli/src/docs.rs"];
    let mut asked = 0;
    for folder in LAYERED {
        let mut folders = vec![root().join(folder).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs")
                    && fs::read_to_string(&path)
                        .unwrap()
                        .lines()
                        .any(|line| line.contains("feature = \"") && !line.contains("(test,"))
                {
                    asked += 1;
                    let name = path.to_string_lossy();
                    assert!(allowed.iter().any(|end| name.ends_with(end)), "{name} asks for a feature");
                }
            }
        }
    }
    assert!(asked >= 6, "only {asked} files with features were found");
}

#[test]
fn circles_are_found() {
    let text = "use crate::a::{self, b::{C, d}, e as f};\nfn g() { crate::h::i(); other_crate::x(); } // crate::no\n";
    let modules: BTreeSet<String> = ["a", "a::b", "a::b::d", "a::e", "h", "x"].map(str::to_owned).into();
    let found = |module: &str, text: &str| -> BTreeSet<String> {
        paths(&code(text)).iter().filter_map(|path| resolve(module, path, &modules)).collect()
    };
    assert_eq!(found("x", text), ["a", "a::b", "a::b::d", "a::e", "h"].map(str::to_owned).into());
    let relative =
        "use super::{C, e};\npub use d::D;\npub(crate) use x::y;\nfn g() { super::super::h::i(\"use d\"); }\n";
    assert_eq!(found("a::b", relative), ["a", "a::b::d", "a::e", "h"].map(str::to_owned).into());
    assert_eq!(
        tests("a", "#[cfg(test)]\nmod b;\nmod c;\n#[cfg(all(test, unix))]\npub(crate) mod d;\n"),
        ["a::b", "a::d"]
    );
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    assert_eq!(circle(&graph(&[("z", "a"), ("a", "b"), ("b", "c"), ("c", "a")])).map(|found| found.len()), Some(3));
}
