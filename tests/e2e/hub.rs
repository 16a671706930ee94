//! Checkpoints and datasets by their names, from a loopback server that answers as the hub does.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Place, has_trainer, root, text, web};
use crate::hub_server::{Files, Hub, files};

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";

fn model(name: &str) -> Files {
    files(Path::new(&root(&format!("tests/fixtures/models/{name}"))))
}

/// A hub with the small checkpoints, and a place whose commands use it.
struct Far {
    hub: Hub,
    place: Place,
}

impl Far {
    fn new() -> Self {
        let hub = Hub::start();
        hub.commit("acme/captioner", "main", ONE, &model("captioner"));
        hub.commit("acme/filter", "main", ONE, &model("matcher"));
        Self { hub, place: Place::new() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env("HF_ENDPOINT", &self.hub.endpoint).env("HF_HOME", self.place.path("hf"));
        command.env("CAPFILT_CACHE", self.place.path("cache")).env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE");
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.command(args).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{args:?}:\n{said}");
        (text(&output.stdout), said)
    }

    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}:\n{said}");
        assert!(said.contains("error: ") && !said.contains("panicked"), "{said}");
        said
    }
}

#[test]
fn names_of_the_hub_are_checkpoints() {
    let far = Far::new();
    let source = far.place.slice();
    let models = ["--captioner", "hf:acme/captioner", "--filter", "hf:acme/filter"];
    far.ok(&[&["run", source, "pairs"][..], &models].concat());
    far.place.job_ok(&[source, "plain"]);
    let all = "SELECT * EXCLUDE (provenance) FROM t";
    assert_eq!(far.place.rows("pairs", all), far.place.rows("plain", all));
    // The table records the commit, and the cache has what later commands need.
    let job = far.ok(&["job", "pairs"]).0;
    assert!(
        job.contains(&format!("hf:acme/captioner@{ONE}")) && job.contains(&format!("hf:acme/filter@{ONE}")),
        "{job}"
    );
    let offline = |args: &[&str]| far.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline(&["update", "pairs"]).status.success());
    let sql = "SET capfilt.captioner = 'hf:acme/captioner'; SELECT count(caption(image)) AS n FROM t LIMIT 1";
    let counted = offline(&["sql", "--table", &format!("t={source}"), "--format", "json", "-c", sql]);
    assert!(text(&counted.stdout).contains("\"n\":"), "{}", text(&counted.stderr));
    let (folder, said) = far.ok(&["model", "fetch", "hf:acme/filter"]);
    assert!(folder.trim().ends_with(&format!("models--acme--filter/snapshots/{ONE}")), "{folder}");
    assert!(said.contains(&format!("hf:acme/filter@{ONE}")), "{said}");
    assert!(far.ok(&["model", "inspect", "hf:acme/filter"]).0.contains("digest"));
    // One download each.
    assert_eq!(far.hub.seen("GET", "/resolve/").iter().filter(|seen| seen.path.contains("safetensors")).count(), 2);
}

#[test]
fn a_name_that_moved_does_not_change_a_table() {
    let far = Far::new();
    let source = far.place.slice();
    let run = ["run", source, "pairs", "--captioner", "hf:acme/captioner", "--filter", "hf:acme/filter"];
    far.ok(&run);
    let mut other = model("captioner");
    let config = String::from_utf8(other["generation_config.json"].0.clone()).unwrap();
    let config = config.replacen('{', "{\"num_beams\": 5,", 1);
    other.insert("generation_config.json".to_owned(), (config.into_bytes(), false));
    far.hub.commit("acme/captioner", "main", TWO, &other);
    let said = far.fails(&run);
    for words in [&format!("hf:acme/captioner@{ONE}"), &format!("hf:acme/captioner@{TWO}"), "captioner was"] {
        assert!(said.contains(words), "{said}");
    }
    // The table's own commit goes on.
    far.ok(&["update", "pairs"]);
    // A commit with the same content is the same model.
    far.hub.commit("acme/captioner", "main", "3333333333333333333333333333333333333333", &model("captioner"));
    far.ok(&["update", "pairs", "--captioner", "hf:acme/captioner"]);
}

#[test]
fn trainings_and_rounds_keep_the_name() {
    let far = Far::new();
    let source = far.place.slice();
    let pinned = format!("hf:acme/captioner@{ONE}");
    let rounds =
        ["rounds", "--print", "--rounds", "1", source, "out", "--human", source, "--captioner", "hf:acme/captioner"];
    let printed = far.ok(&[&rounds[..], &["--filter", "hf:acme/filter"]].concat()).0;
    assert!(printed.contains(&format!("--captioner {pinned} --filter hf:acme/filter@{ONE}")), "{printed}");
    let trainer = Path::new(env!("CARGO_BIN_EXE_capfilt")).with_file_name("capfilt-train");
    if !has_trainer(&trainer) {
        return;
    }
    let mut train = far.command(&[]);
    let mut command = Command::new(trainer);
    command.envs(train.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(train.current_dir(far.place.path("")).get_current_dir().unwrap());
    command.args(["finetune-captioner", "--start", "hf:acme/captioner", "--data", source, "--out", "out"]);
    command.args(["--set", "train.steps=1", "--set", "data.batch=2", "--set", "model.image_size=0"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let card = fs::read_to_string(far.place.path("out/checkpoint/README.md")).unwrap();
    assert!(card.contains(&format!("`{pinned}/model.safetensors`, sha256 ")), "{card}");
}

#[test]
fn weights_that_are_a_pickle_alone_are_converted_once() {
    let far = Far::new();
    let mut files = files(Path::new(&root("tests/fixtures/pickles/hf")));
    files.insert("tf_model.h5".to_owned(), (vec![7; 1000], true));
    far.hub.commit("acme/pickled", "main", ONE, &files);
    let (folder, _) = far.ok(&["model", "fetch", "hf:acme/pickled"]);
    let folder = Path::new(folder.trim());
    assert!(folder.starts_with(far.place.path("cache")) && folder.join("model.safetensors").is_file(), "{folder:?}");
    far.place.ok(&["model", "convert", &root("tests/fixtures/pickles/hf"), "converted"]);
    let written = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(written(folder) == written(&far.place.path("converted")));
    assert_eq!(far.ok(&["model", "fetch", "hf:acme/pickled"]).0.trim(), folder.to_str().unwrap());
    assert!(far.hub.seen("GET", "tf_model.h5").is_empty());
}

#[test]
fn datasets_of_the_hub_are_tables() {
    let far = Far::new();
    let table = fs::read(web()).unwrap();
    let files = Files::from([
        ("README.md".to_owned(), (b"---\n".to_vec(), false)),
        ("data/train-00000-of-00001.parquet".to_owned(), (table, true)),
    ]);
    far.hub.commit("datasets/acme/web", "main", ONE, &files);
    far.hub.commit("datasets/acme/web", "refs/convert/parquet", TWO, &files);
    let count = |url: &str| far.ok(&["sql", "--format", "json", "-c", &format!("SELECT count(*) AS n FROM '{url}'")]).0;
    let rows = count(&web());
    for url in [
        "hf://datasets/acme/web/data",
        "hf://datasets/acme/web/data/train-00000-of-00001.parquet",
        "hf://datasets/acme/web@refs/convert/parquet/data",
        &format!("hf://datasets/acme/web@{ONE}/data"),
    ] {
        assert_eq!(count(url), rows, "{url}");
    }
    fs::write(far.place.path("all.sql"), super::KEEP_ALL).unwrap();
    let run = |source: &str, dest: &str| far.ok(&["run", source, dest, "--recipe", "all.sql"]);
    run("hf://datasets/acme/web", "far");
    run(&web(), "near");
    let all = "SELECT * EXCLUDE (provenance) FROM t";
    assert_eq!(far.place.rows("far", all), far.place.rows("near", all));
}

#[test]
fn a_job_reads_one_commit_of_a_dataset() {
    let far = Far::new();
    let place = &far.place;
    fs::write(place.path("all.sql"), super::KEEP_ALL).unwrap();
    let shard = |rows: &str| {
        let part = place.path("part.parquet");
        place.ok(&["sql", "-c", &format!("COPY (SELECT * FROM '{}' WHERE {rows}) TO '{}'", web(), part.display())]);
        (fs::read(part).unwrap(), true)
    };
    let (first, second, other) = (shard("id < 40"), shard("id BETWEEN 40 AND 59"), shard("id > 1000"));
    let files = |a, b| Files::from([("a.parquet".to_owned(), a), ("b.parquet".to_owned(), b)]);
    far.hub.commit("datasets/acme/web", "main", ONE, &files(first.clone(), second.clone()));
    let run = ["run", "hf://datasets/acme/web", "pairs", "--recipe", "all.sql", "--checkpoint-rows", "16"];
    // It is killed after its first units, and the branch moves.
    let killed = far.command(&run).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert!(!killed.status.success(), "{}", text(&killed.stderr));
    far.hub.commit("datasets/acme/web", "main", TWO, &files(first.clone(), other.clone()));
    far.ok(&["resume", "pairs"]);
    let count = "SELECT count(DISTINCT id) AS n, max(id) AS last FROM t";
    assert_eq!(place.rows("pairs", count)[0]["last"], 59);
    // What came since, update takes in.
    far.hub.commit("datasets/acme/web", "main", "3333333333333333333333333333333333333333", &{
        let mut all = files(first, second);
        all.insert("c.parquet".to_owned(), other);
        all
    });
    far.ok(&["update", "pairs"]);
    assert!(place.rows("pairs", count)[0]["last"].as_i64().unwrap() > 1000);
}

#[test]
fn errors_say_what_to_do() {
    let far = Far::new();
    far.hub.commit("acme/private", "main", ONE, &model("captioner"));
    far.hub.close_to_all_but("acme/private", "secret");
    far.hub.commit("acme/empty", "main", ONE, &Files::from([("README.md".to_owned(), (vec![], false))]));
    for (name, words) in [
        ("hf:acme/none", "hf:acme/none"),
        ("hf:acme/private", "HF_TOKEN"),
        ("hf:acme/captioner@none", "none"),
        ("hf:acme/empty", "weights"),
        ("hf:acme", "OWNER/NAME"),
        ("hf:acme/a/b", "hf:acme/a/b"),
        ("hf://datasets/acme/web", "hf://datasets/acme/web"),
    ] {
        let said = far.fails(&["model", "fetch", name]);
        assert!(said.contains(words), "{name}: {said}");
    }
    let output = far.command(&["model", "fetch", "hf:acme/private"]).env("HF_TOKEN", "secret").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = far.command(&["model", "fetch", "hf:acme/filter"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(text(&output.stderr).contains("HF_HUB_OFFLINE"), "{}", text(&output.stderr));
    let said = far.fails(&["sql", "-c", "SELECT * FROM 'hf://datasets/acme/none/a.parquet'"]);
    assert!(said.contains("acme/none"), "{said}");
}
