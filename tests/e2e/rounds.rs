//! `capfilt rounds`, with `capfilt-train` if it has been built, and with a script in its place where no training is
//! needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::{Place, has_trainer, root, text, web};

/// A MED of a few thousand parameters.
const TINY: &str = "device=cpu threads=1 model.image_size=16 model.vision_width=32 model.vision_mlp_width=32 \
    model.vision_layers=1 model.vision_heads=2 model.text_width=32 model.text_mlp_width=32 model.text_layers=1 \
    model.text_heads=2 model.tokenizer=world/tokenizer.json data.batch=6 data.threads=1 data.shuffle_buffer=50";

/// Stand-in for `capfilt-train`: records its calls, prints its arguments as settings, and leaves a training's files. It
/// waits while a file wait-COMMAND exists, and fails if a file fail-COMMAND exists.
const SCRIPT: &str = r#"#!/bin/sh
if [ "$1" = config ]; then
    case "$*" in *train.lr=fast*) echo 'error: settings: train.lr' >&2; exit 1 ;; esac
    case "$*" in *model.tokenizer=t*) tokenizer=t ;; esac
    printf 'seed = 1\n\n[model]\nstart = ""\ntokenizer = "%s"\n\n[train]\ntold = "%s"\n' "$tokenizer" "$*"
    exit 0
fi
echo "$*" >> asked
command=$1
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then out=$2; fi
    shift
done
while [ -e "wait-$command" ]; do sleep 0.05; done
if [ -e "fail-$command" ]; then exit 3; fi
mkdir -p "$out"
case $command in finetune-captioner) model=captioner ;; *) model=matcher ;; esac
ln -s "MODELS/$model" "$out/checkpoint"
echo '{}' > "$out/done.json"
"#;

/// A folder with small web.parquet and human.parquet, and the script as `trainer`.
fn with_script() -> Place {
    let place = Place::new();
    let usable = "image_error(image) IS NULL AND text IS NOT NULL ORDER BY id LIMIT";
    let copies = format!(
        "COPY (SELECT image, text FROM web WHERE {usable} 5) TO 'web.parquet'; \
         COPY (SELECT image, text FROM web WHERE {usable} 2) TO 'human.parquet'"
    );
    place.ok(&["sql", "--table", &format!("web={}", web()), "-c", &copies]);
    fs::write(place.path("script"), SCRIPT.replace("MODELS", &root("tests/fixtures/models"))).unwrap();
    // Written by another program: if this process had it open for writing, a concurrent test could inherit the
    // descriptor, and running the file would fail as busy.
    let mut install = Command::new("install");
    install.args(["-m", "755", "script", "trainer"]).current_dir(place.folder.path());
    assert!(install.status().unwrap().success());
    place
}

/// `capfilt rounds web.parquet out` with the small checkpoints in the first round, and the arguments `more`.
fn rounds(place: &Place, more: &[&str]) -> Command {
    let models = ["captioner", "matcher"].map(|name| root(&format!("tests/fixtures/models/{name}")));
    let mut command =
        place.command(&["rounds", "web.parquet", "out", "--captioner", &models[0], "--filter", &models[1]]);
    command.args(more);
    command
}

/// Runs a command that must succeed. Returns its messages and its output.
#[track_caller]
fn done(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    (said, text(&output.stdout))
}

#[track_caller]
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && !said.contains("panicked"), "{said}");
    said
}

/// Modification time and size of every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path, (about.modified().unwrap(), about.len()));
        }
    }
    all
}

/// Round, captioner and filter in a pair table's provenance.
fn provenance(place: &Place, table: &str) -> (i64, String, String) {
    let rows = place.rows(
        table,
        "SELECT DISTINCT provenance['round'] AS round, provenance['captioner'] AS c, provenance['filter'] AS f FROM t",
    );
    assert_eq!(rows.len(), 1, "{rows:?}");
    let name = |column: &str| rows[0][column].as_str().unwrap().to_owned();
    (rows[0]["round"].as_i64().unwrap(), name("c"), name("f"))
}

fn digest(place: &Place, checkpoint: &str) -> String {
    let json = place.ok(&["model", "inspect", checkpoint, "--format", "json"]);
    serde_json::from_str::<Value>(&json).unwrap()["digest"].as_str().unwrap().to_owned()
}

#[test]
fn two_rounds_of_real_training() {
    let trainer = Path::new(env!("CARGO_BIN_EXE_capfilt")).with_file_name("capfilt-train");
    if !has_trainer(&trainer) {
        return;
    }
    let place = Place::new();
    let mut world = Command::new(&trainer);
    world.args("world --out world --human 24 --web 12 --things 1 --validation 1 --test 1".split_whitespace());
    world.current_dir(place.folder.path());
    done(world);
    fs::rename(place.path("world/web.parquet"), place.path("web.parquet")).unwrap();
    let tiny = TINY.split_whitespace().flat_map(|setting| ["--set-train", setting]);
    let command = |pretrain_steps: &str, more: &[&str]| {
        let mut command = rounds(&place, &["--human", "world/human.parquet", "--preset", "tiny"]);
        command.args(tiny.clone()).args(["--set-train", &format!("pretrain:train.steps={pretrain_steps}")]);
        command.args(["--set-train", "captioner:train.steps=2", "--set-train", "filter:train.steps=2"]).args(more);
        // Keep the pairs of untrained models for pretraining.
        command.args(["--", "--min-itm", "0", "--set", "capfilt.max_length=12"]);
        command
    };
    let (said, printed) = done(command("3", &["--rounds", "2"]));
    assert!(said.contains("round 1 of 2, pair table") && said.contains("round 2 of 2, filter"), "{said}");
    let place_of = |line: usize| printed.lines().nth(line).unwrap().split_once(' ').unwrap().1.trim().to_owned();
    assert!(printed.starts_with("captioner ") && place_of(2).ends_with("out/round-2/pairs"), "{printed}");

    // Each round's table is made with the models of the previous round.
    let (one, two) = (provenance(&place, "out/round-1/pairs"), provenance(&place, "out/round-2/pairs"));
    assert_eq!((one.0, two.0), (1, 2));
    assert!(one.1 != two.1 && one.2 != two.2);
    assert_eq!(one.1, digest(&place, &root("tests/fixtures/models/captioner")));
    assert_eq!(two.1, digest(&place, "out/round-1/captioner/checkpoint"));
    assert_eq!(two.2, digest(&place, "out/round-1/filter/checkpoint"));
    // Each MED is trained on the human table and that round's pairs.
    let card = fs::read_to_string(place.path("out/round-2/med/checkpoint/README.md")).unwrap();
    assert!(card.contains("world/human.parquet") && card.contains("out/round-2/pairs"), "{card}");
    assert!(card.contains("3 steps"), "{card}");
    // The printed captioner and filter are usable.
    place.ok(&[
        "sql",
        "--captioner",
        &place_of(0),
        "--filter",
        &place_of(1),
        "-c",
        "SELECT caption(image), itm_score(image, text) FROM 'web.parquet' LIMIT 1",
    ]);

    // A repetition does nothing; other steps are refused.
    let before = files(&place.path("out"));
    let (said, again) = done(command("3", &["--rounds", "2"]));
    assert_eq!((files(&place.path("out")), again.as_str()), (before.clone(), printed.as_str()), "{said}");
    let said = refused(command("4", &["--rounds", "2"]));
    assert!(said.contains("med: train.steps was 3 and is 4"), "{said}");
    assert_eq!(files(&place.path("out")), before);

    // An invalid setting is reported in capfilt-train's own words, before anything is made.
    let said = refused(command("3", &["--rounds", "2", "--set-train", "filter:train.rate=1"]));
    assert!(said.contains("settings of filter") && said.contains("unknown field `rate`"), "{said}");
}

#[test]
fn what_is_finished_is_not_done_again() {
    let place = with_script();
    let common = ["--human", "human.parquet", "--trainer", "trainer", "--set-train", "model.tokenizer=t"];
    let with = |more: &[&str]| rounds(&place, &[&common[..], more].concat());
    let asked = || fs::read_to_string(place.path("asked")).unwrap_or_default();
    let commands = || asked().lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();

    // A stage is killed, another one fails; each time the same command resumes.
    let mut killed = with(&["--rounds", "2"]);
    killed.env("CAPFILT_KILL_AT", "unit-done:1");
    let said = refused(killed);
    assert!(
        said.contains("round 1 of 2, pair table: capfilt failed") && said.contains("same command goes on"),
        "{said}"
    );
    let said = refused(with(&["--rounds", "2", "--", "--min-itm", "0.4"]));
    assert!(said.contains("pairs: capfilt run's arguments was nothing and is --min-itm 0.4"), "{said}");
    fs::write(place.path("fail-pretrain"), "").unwrap();
    let said = refused(with(&["--rounds", "2"]));
    assert!(said.contains("round 1 of 2, MED: trainer failed (exit status: 3)"), "{said}");
    assert_eq!(commands(), ["pretrain"]);
    // Nothing depends on the MED's settings yet, so they may change.
    fs::remove_file(place.path("fail-pretrain")).unwrap();
    fs::write(place.path("fail-finetune-captioner"), "").unwrap();
    let more = ["--rounds", "2", "--set-train", "pretrain:train.steps=7", "--human-share", "0.4"];
    assert!(refused(with(&more)).contains("round 1 of 2, captioner: trainer failed"));
    fs::remove_file(place.path("fail-finetune-captioner")).unwrap();
    let (said, printed) = done(with(&[&more[..], &["--final-pairs"]].concat()));
    assert!(
        said.contains("round 1 of 2, MED: finished before") && said.contains("after round 2, pair table"),
        "{said}"
    );
    let out = fs::canonicalize(place.path("out")).unwrap();
    let results = ["captioner  OUT/round-2/captioner/checkpoint", "filter     OUT/round-2/filter/checkpoint"];
    let results = format!("{}\n{}\npairs      OUT/round-3/pairs\n", results[0], results[1]);
    assert_eq!(printed, results.replace("OUT", &out.display().to_string()));
    let round = ["pretrain", "finetune-captioner", "finetune-filter"];
    assert_eq!(commands(), [&["pretrain", "pretrain", "finetune-captioner"], &round[1..], &round].concat());
    assert_eq!(provenance(&place, "out/round-3/pairs").0, 3);
    let second = asked().lines().rfind(|line| line.starts_with("pretrain")).unwrap().to_owned();
    let tables = format!(
        "{}/human.parquet\", query = \"\", weight = 0.4 }}, {{ path = \"{}",
        out.parent().unwrap().display(),
        out.display()
    );
    assert!(second.contains(&tables) && second.contains("/round-2/pairs\", query = \"\", weight = 0.6 }]"), "{second}");
    assert!(second.contains("--set train.steps=7"), "{second}");

    let (before, requests) = (files(&out), asked());
    assert_eq!(done(with(&[&more[..], &["--final-pairs"]].concat())).1, printed);
    assert_eq!((files(&out), asked()), (before.clone(), requests));

    // Other options are refused and named.
    let matcher = root("tests/fixtures/models/matcher");
    for (other, difference) in [
        (&["--set-train", "pretrain:train.steps=8", "--human-share", "0.4"][..], "med: train.told was"),
        (&["--set-train", "pretrain:train.steps=7", "--human-share", "0.5"], "med: human-share was 0.4 and is 0.5"),
        (
            &["--set-train", "pretrain:train.steps=7", "--human-share", "0.4", "--start", &matcher],
            "med: start was nothing and is",
        ),
        (
            &["--set-train", "pretrain:train.steps=7", "--human-share", "0.4", "--set-train", "filter:train.steps=1"],
            "filter: train.told was",
        ),
        (
            &["--set-train", "pretrain:train.steps=7", "--human-share", "0.4", "--", "--prompt", "a b"],
            "and is --prompt 'a b'",
        ),
    ] {
        let said = refused(with(&[&["--rounds", "2"], other].concat()));
        assert!(said.contains(difference) && said.contains("another folder"), "{other:?}: {said}");
    }
    let captioner = root("tests/fixtures/models/captioner");
    let mut swapped =
        place.command(&["rounds", "web.parquet", "out", "--captioner", &captioner, "--filter", &captioner]);
    swapped.args(common).args(more);
    assert!(refused(swapped).contains("pairs: filter was"));
    assert_eq!(files(&out), before);

    // A further round begins with the existing table.
    done(with(&["--rounds", "3", "--set-train", "pretrain:train.steps=7", "--human-share", "0.4"]));
    assert_eq!(commands()[8..], round);
    let after = files(&out);
    assert!(before.iter().all(|(path, was)| after.get(path) == Some(was)));

    // A changed table counts as another one.
    fs::copy(place.path("web.parquet"), place.path("human.parquet")).unwrap();
    assert!(refused(with(&more)).contains("med: human.bytes was"));
}

#[test]
fn a_stage_that_outlives_a_kill_is_left_alone() {
    let place = with_script();
    fs::write(place.path("wait-pretrain"), "").unwrap();
    let common =
        ["--rounds", "1", "--human", "human.parquet", "--trainer", "trainer", "--set-train", "model.tokenizer=t"];
    let asked = || fs::read_to_string(place.path("asked")).unwrap_or_default().lines().count();
    let training = |number: usize| {
        let mut child = rounds(&place, &common).stderr(Stdio::piped()).spawn().unwrap();
        let patience = Instant::now();
        while asked() < number {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
            assert!(patience.elapsed() < Duration::from_secs(120), "no training began");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    };
    // SIGTERM reaches the training.
    let child = training(1);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("round 1 of 1, MED: stopped"), "{said}");
    // A training that outlives its rounds keeps others out until it ends.
    let mut child = training(2);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = refused(rounds(&place, &common));
    assert!(said.contains("left running"), "{said}");
    fs::remove_file(place.path("wait-pretrain")).unwrap();
    let patience = Instant::now();
    let said = loop {
        let output = rounds(&place, &common).output().unwrap();
        let said = text(&output.stderr);
        if output.status.success() {
            break said;
        }
        assert!(said.contains("left running") && patience.elapsed() < Duration::from_secs(60), "{said}");
    };
    assert!(said.contains("round 1 of 1, MED: finished before"), "{said}");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_made() {
    let place = with_script();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/notes.txt"), "").unwrap();
    let common = ["--rounds", "1", "--human", "human.parquet", "--set-train", "model.tokenizer=t"];
    let with = |more: &[&str]| rounds(&place, &[&common[..], more].concat());
    for (more, words) in [
        (&["--trainer", "nowhere"][..], "--trainer nowhere: there is no such file"),
        (&["--trainer", "trainer", "--set-train", "train.lr=fast"], "settings of pretrain: settings: train.lr"),
        (&["--trainer", "trainer", "--start", "nowhere"], "--start nowhere"),
        (&["--trainer", "trainer", "--", "--shard", "1/2"], "after --: --shard"),
        (&["--trainer", "trainer", "--", "--min-itn", "1"], "--min-itn"),
    ] {
        let said = refused(with(more));
        assert!(said.contains(words), "{more:?}: {said}");
    }
    if !Path::new(env!("CARGO_BIN_EXE_capfilt")).with_file_name("capfilt-train").exists() {
        let mut command = with(&[]);
        command.env("PATH", "");
        assert!(refused(command).contains("give --trainer FILE"));
    }
    let more = ["--rounds", "1", "--trainer", "trainer", "--human"];
    let said = refused(rounds(&place, &[&more[..], &["human.parquet"]].concat()));
    assert!(said.contains("--set-train model.tokenizer=FILE") && said.contains("--start DIR"), "{said}");
    let said = refused(rounds(
        &place,
        &[&more[..], &["none.parquet", "--start", &root("tests/fixtures/models/matcher")]].concat(),
    ));
    assert!(said.contains("--human none.parquet: there is no such file"), "{said}");
    assert!(place.fails(2, &["rounds", "web.parquet", "out", "--set-train", "data.tables=[]"]).contains("--human"));
    assert!(!place.path("out").exists());
    fs::rename(place.path("full"), place.path("out")).unwrap();
    let said = refused(with(&["--trainer", "trainer"]));
    assert!(said.contains("it holds notes.txt, and no rounds"), "{said}");
    assert_eq!(place.names("out"), ["notes.txt"]);
    assert!(!place.path("asked").exists());
}

#[test]
fn commands_are_printed_for_a_shell() {
    let place = Place::new();
    let mut command = place.command(&["rounds", "my web", "out", "--captioner", "c", "--filter", "f", "--print"]);
    command.args(["--rounds", "2", "--human", "h.parquet", "--final-pairs", "--trainer", "/bin/trainer"]);
    command.args(["--preset", "pretrain:base-14m", "--train-config", "all.toml", "--train-config", "filter:own.toml"]);
    command.args(["--set-train", "seed=2", "--set-train", "filter:train.steps=9", "--", "--prompt", "a picture of "]);
    let (said, printed) = done(command);
    let here = fs::canonicalize(place.folder.path()).unwrap().display().to_string();
    let exe = fs::canonicalize(env!("CARGO_BIN_EXE_capfilt")).unwrap().display().to_string();
    let lines: Vec<String> = printed.lines().map(|line| line.replace(&here, "HERE").replace(&exe, "capfilt")).collect();
    let run = |round: u32, models: [&str; 2]| {
        let [captioner, filter] = models;
        format!(
            "capfilt run 'HERE/my web' HERE/out/round-{round}/pairs --captioner {captioner} --filter {filter} --round {round} \
             --prompt 'a picture of '"
        )
    };
    assert_eq!(
        lines[..5],
        [
            run(1, ["HERE/c", "HERE/f"]),
            "/bin/trainer pretrain --preset base-14m --config HERE/all.toml --set 'seed=2' --data HERE/h.parquet \
             --data HERE/out/round-1/pairs --out HERE/out/round-1/med"
                .to_owned(),
            "/bin/trainer finetune-captioner --config HERE/all.toml --set 'seed=2' --start HERE/out/round-1/med/checkpoint \
             --data HERE/h.parquet --out HERE/out/round-1/captioner"
                .to_owned(),
            "/bin/trainer finetune-filter --config HERE/own.toml --set 'seed=2' --set 'train.steps=9' \
             --start HERE/out/round-1/med/checkpoint --data HERE/h.parquet --out HERE/out/round-1/filter"
                .to_owned(),
            run(2, ["HERE/out/round-1/captioner/checkpoint", "HERE/out/round-1/filter/checkpoint"]),
        ]
    );
    assert_eq!(lines.len(), 9);
    assert_eq!(lines[8], run(3, ["HERE/out/round-2/captioner/checkpoint", "HERE/out/round-2/filter/checkpoint"]));
    assert!(said.is_empty() && place.names("").is_empty(), "nothing is made: {said}");
}
