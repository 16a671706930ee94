//! The verbs on a job: what the manifest records is all that `resume`, `update` and `retry` need.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use super::{Place, root, text, verb};

const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      $score AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";
const PICTURES: [&str; 3] = ["emoji_cat_face_google.png", "emoji_fox_twitter.png", "cat_baseline.jpg"];

/// A folder of forty images, two of which cannot be read, and a job over it.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::create_dir(place.path("data")).unwrap();
    for n in 0..40 {
        let image = place.path(&format!("data/{n:02}.png"));
        fs::copy(root(&format!("tests/fixtures/images/{}", PICTURES[n % 3])), &image).unwrap();
        fs::write(image.with_extension("txt"), format!("picture {n}")).unwrap();
    }
    for lost in [3, 33] {
        fs::write(place.path(&format!("data/{lost:02}.png")), "no picture").unwrap();
    }
    place
}

const JOB: [&str; 9] =
    ["run", "data", "pairs", "--recipe", "recipe.sql", "--param", "score=0.75", "--checkpoint-rows", "8"];

fn counts(place: &Place) -> (i64, i64) {
    (place.number("pairs", "SELECT count(*) FROM t"), place.number("pairs", "SELECT count(*) FROM t WHERE kept"))
}

#[test]
fn a_stopped_job_is_resumed_from_any_folder_without_its_options() {
    let place = place();
    let output = place.command(&JOB).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    // The record has the recipe's SQL, and absolute paths.
    fs::remove_file(place.path("recipe.sql")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let pairs = place.path("pairs").to_string_lossy().into_owned();
    let said = place.command(&["resume", &pairs]).current_dir(elsewhere.path()).output().unwrap();
    assert!(
        said.status.success() && text(&said.stderr).contains("going on after 16 of 40 rows"),
        "{}",
        text(&said.stderr)
    );
    assert_eq!(counts(&place), (40, 38));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE itm_score = 0.75"), 40);
    let said = place.fails(1, &["resume", "pairs"]);
    assert!(said.contains("pairs is finished: `capfilt update pairs`"), "{said}");
    let said = place.fails(1, &["resume", "data"]);
    assert!(said.contains("there is no pair table"), "{said}");

    // A source that has moved is named.
    fs::rename(place.path("data"), place.path("moved")).unwrap();
    let said = place.fails(1, &["retry", "pairs"]);
    assert!(said.contains("data: the job's source is not there") && said.contains("--source"), "{said}");
    fs::copy(root("tests/fixtures/images/cat_baseline.jpg"), place.path("moved/03.png")).unwrap();
    place.ok(&["retry", "pairs", "--source", "moved"]);
    assert_eq!(counts(&place), (40, 39));
    fs::copy(root("tests/fixtures/images/cat_baseline.jpg"), place.path("moved/40.png")).unwrap();
    // The new place is recorded.
    place.ok(&["update", "pairs"]);
    assert_eq!(counts(&place), (41, 40));
    fs::rename(place.path("moved"), place.path("again")).unwrap();
    fs::copy(root("tests/fixtures/images/cat_baseline.jpg"), place.path("again/41.png")).unwrap();
    place.ok(&["update", "pairs", "--source", "again"]);
    fs::copy(root("tests/fixtures/images/cat_baseline.jpg"), place.path("again/42.png")).unwrap();
    // The models of the environment are for new jobs.
    let mut update = place.command(&["update", "pairs"]);
    let said = update.env("CAPFILT_CAPTIONER", root("tests/fixtures/models/captioner")).output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(counts(&place), (43, 42));
    // A table that has lost a file is not updated.
    fs::remove_file(place.path("pairs/part-00000.parquet")).unwrap();
    let said = place.fails(1, &["update", "pairs"]);
    assert!(said.contains("part-00000.parquet") && said.contains("is lost or was changed"), "{said}");

    // Before the first unit, there is nothing to resume.
    let other = [&["run", "again", "other"][..], &JOB[3..]].concat();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    let output = place.command(&other).env("CAPFILT_KILL_AT", "unit:1").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    let said = place.fails(1, &["resume", "other"]);
    assert!(said.contains("no unit of its job is done yet"), "{said}");
}

/// A job in one shard and one in two do not share a table, although neither has a manifest before its first unit.
#[test]
fn jobs_in_other_numbers_of_shards_are_refused_while_one_runs() {
    let place = place();
    let lock = place.path("pairs/_capfilt/shard-1-of-2/lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let file = fs::File::create(lock).unwrap();
    file.lock().unwrap();
    let said = place.fails(1, &JOB);
    assert!(said.contains("another job is writing to it"), "{said}");
    drop(file);
    place.ok(&JOB);
}

#[test]
fn all_shards_are_gone_through_or_one() {
    let place = place();
    let shard = |shard: &'static str| [&JOB[..], &["--shard", shard]].concat();
    place.ok(&shard("2/3"));
    let said = place.fails(1, &["retry", "pairs"]);
    assert!(said.contains("shard 1 of 3 of pairs is not finished"), "{said}");
    let said = place.run(&["resume", "pairs"]);
    let words = text(&said.stderr);
    assert!(said.status.success(), "{words}");
    assert!(
        words.contains("shard 1 of 3") && words.contains("shard 3 of 3") && !words.contains("shard 2 of 3"),
        "{words}"
    );
    assert_eq!(counts(&place), (40, 38));
    // Rows 3 and 33 are of the first and the second shard; both take the mended folder.
    for lost in ["03", "33"] {
        let image = place.path(&format!("data/{lost}.png"));
        fs::copy(root("tests/fixtures/images/cat_baseline.jpg"), image).unwrap();
    }
    let said = place.run(&verb("retry", &shard("1/3")));
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(counts(&place), (40, 39));
    let said = place.fails(1, &["report", "pairs", "-o", "report.html"]);
    assert!(said.contains("only one of them was updated or retried"), "{said}");
    place.ok(&["retry", "pairs"]);
    assert_eq!(counts(&place), (40, 40));
    place.ok(&["report", "pairs", "-o", "report.html"]);
    let said = place.fails(1, &["update", "pairs", "--shard", "1/2"]);
    assert!(said.contains("the table pairs was begun with --shard I/3"), "{said}");
}

#[test]
fn a_job_file_is_a_job() {
    let place = place();
    let file = "source = 'data'\ndest = 'pairs'\nrecipe = 'recipe.sql'\ncheckpoint-rows = 16\nmax-failed = 3\n\n\
                [param]\nscore = 0.5\n";
    fs::write(place.path("job.toml"), file).unwrap();
    place.ok(&["run", "--job", "job.toml", "--param", "score=0.25"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE itm_score = 0.25"), 40);
    // What is printed is a file of the same job.
    let printed = place.ok(&["job", "pairs"]);
    assert!(printed.contains("checkpoint-rows = 16") && printed.contains("score = \"0.25\""), "{printed}");
    fs::write(place.path("again.toml"), &printed).unwrap();
    let said = place.fails(1, &["run", "--job", "again.toml"]);
    assert!(said.contains("is finished"), "{said}");
    let said = place.fails(1, &["run", "--job", "again.toml", "--checkpoint-rows", "4"]);
    assert!(said.contains("--checkpoint-rows was 16 and is 4"), "{said}");
    place.ok(&["run", "--job", "again.toml", "data", "other"]);
    let rows = "SELECT id, kept, text, image_sha256, itm_score FROM (SELECT key AS id, * EXCLUDE key FROM t)";
    assert_eq!(place.rows("other", rows), place.rows("pairs", rows));

    for (wrong, words) in [
        ("unit-rows = 5", &["unknown field `unit-rows`", "checkpoint-rows", "line 1"][..]),
        ("candidates = 'many'", &["line 1", "invalid type: string \"many\""]),
        ("source = 'data'", &["the job has no dest"]),
        ("source = ", &["line 1"]),
        ("[set]\ncapfilt.max_length = 5", &["line 2", "a key with a dot is quoted"]),
        ("source = 'data'\ndest = 'x'\nshard = '3/2'", &["--shard 3/2: expected I/N"]),
        ("recipe = 'recipe.sql'\nrecipe-sql = 'SELECT 1'", &["leave one of them out"]),
    ] {
        fs::write(place.path("wrong.toml"), wrong).unwrap();
        let said = place.fails(1, &["run", "--job", "wrong.toml"]);
        assert!(words.iter().all(|word| said.contains(word)), "{wrong}: {said}");
    }
    assert!(place.fails(1, &["run", "--job", "none.toml"]).contains("--job none.toml"));
    assert!(place.fails(2, &["run"]).contains("SOURCE"));
}

/// Environment variables set models and device, and the job's record includes them.
#[test]
fn models_and_device_come_from_the_environment() {
    let place = Place::new();
    let slice = place.slice();
    let [captioner, filter] = ["captioner", "matcher"].map(|name| root(&format!("tests/fixtures/models/{name}")));
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("CAPFILT_CAPTIONER", &captioner).env("CAPFILT_FILTER", &filter).env("CAPFILT_DEVICE", "cpu");
        command.output().unwrap()
    };
    let output = run(&["run", slice, "pairs"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = place.ok(&["job", "pairs"]);
    for words in
        [format!("captioner = [\"{captioner}\"]"), format!("filter = [\"{filter}\"]"), "device = \"cpu\"".to_owned()]
    {
        assert!(printed.contains(&words), "{printed}");
    }
    place.ok(&["update", "pairs"]);
    let output = run(&["sql", "--format", "csv", "-c", "SHOW capfilt.filter"]);
    assert!(text(&output.stdout).contains(&filter), "{}", text(&output.stdout));
    // An option comes before the environment.
    let said = run(&["sql", "--filter", "/nowhere/at/all", "--format", "csv", "-c", "SHOW capfilt.filter"]);
    let both = text(&said.stdout) + &text(&said.stderr);
    assert!(both.contains("/nowhere/at/all"), "{both}");
    let output = place.command(&["sql", "-c", "SELECT 1"]).env("CAPFILT_DEVICE", "toaster").output().unwrap();
    assert!(text(&output.stderr).contains("CAPFILT_DEVICE=toaster"), "{}", text(&output.stderr));
}

#[test]
fn shells_complete_the_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.ok(&["completions", shell]);
        assert!(script.contains("checkpoint-rows") && script.contains("resume"), "{shell}");
    }
}

/// A source of paths whose root folder moves twice.
#[test]
fn the_place_of_an_image_root_is_recorded() {
    let place = place();
    let rows: String = (0..40).map(|n| format!("{n:02}.png,text {n}\n")).collect();
    fs::create_dir(place.path("lists")).unwrap();
    fs::write(place.path("lists/a.csv"), format!("path,text\n{rows}")).unwrap();
    let root_at = |root| ["--image-column", "path", "--image-is", "path", "--image-root", root];
    let run = [&["run", "lists"], &JOB[2..], &root_at("data")].concat();
    let output = place.command(&run).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    fs::rename(place.path("data"), place.path("moved")).unwrap();
    assert!(place.fails(1, &["resume", "pairs"]).contains("there is no such folder"));
    place.ok(&["resume", "pairs", "--image-root", "moved"]);
    fs::write(place.path("lists/b.csv"), "path,text\n00.png,more\n").unwrap();
    place.ok(&["update", "pairs"]);
    assert_eq!(counts(&place), (41, 39));
}

/// What another version records is not read, and stops nothing else.
#[test]
fn options_of_another_version_do_not_make_a_table_unreadable() {
    let place = place();
    let output = place.command(&JOB).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    let manifest = place.path("pairs/_capfilt/shard-1-of-1/manifest.json");
    let with =
        fs::read_to_string(&manifest).unwrap().replacen("\"candidates\":", "\"imagined\": 1, \"candidates\":", 1);
    fs::write(&manifest, with).unwrap();
    let said = place.fails(1, &["resume", "pairs"]);
    assert!(said.contains("does not record its job in a form that this version of capfilt reads"), "{said}");
    place.ok(&JOB);
    place.ok(&["update", "pairs"]);
    assert_eq!(counts(&place), (40, 38));
}

#[test]
fn a_selection_is_not_continued_as_a_job() {
    let place = place();
    place.ok(&JOB);
    let select = ["select", "pairs", "best", "--min-itm", "0.5"];
    place.ok(&select);
    for verb in ["resume", "update", "retry", "job"] {
        let said = place.fails(1, &[verb, "best"]);
        assert!(said.contains("`capfilt select` made this table"), "{verb}: {said}");
    }
    let said = place.fails(1, &select);
    assert!(said.contains("give --overwrite") && !said.contains("capfilt update"), "{said}");
}

/// The command line takes precedence over a job file, whether it gives a model as an option or as a setting.
#[test]
fn a_model_of_the_command_line_overrides_a_setting_of_the_job_file() {
    let place = place();
    let matcher = root("tests/fixtures/models/matcher");
    fs::write(
        place.path("job.toml"),
        "recipe = 'recipe.sql'\n[param]\nscore = 1\n[set]\n'capfilt.filter' = '/nowhere'\n",
    )
    .unwrap();
    let run = ["run", "--job", "job.toml", "data", "pairs", "--filter", &matcher];
    place.ok(&run);
    fs::write(place.path("job.toml"), "recipe = 'recipe.sql'\nfilter = ['/nowhere']\n[param]\nscore = 1\n").unwrap();
    let set = format!("capfilt.filter={matcher}");
    place.ok(&["run", "--job", "job.toml", "data", "other", "--set", &set]);
    let printed = place.ok(&["job", "other"]);
    assert!(!printed.contains("nowhere"), "{printed}");
}

/// Whatever of a stopped job is lost or changed is done again or refused, and nothing is left out silently.
#[test]
fn what_is_lost_of_a_stopped_job_is_noticed() {
    let place = place();
    let shard = |name: &str| place.path(&format!("pairs/_capfilt/shard-1-of-1/{name}"));
    let stopped = |at: &str| {
        fs::remove_dir_all(place.path("pairs")).ok();
        let output = place.command(&JOB).env("CAPFILT_KILL_AT", at).output();
        assert_eq!(output.unwrap().status.signal(), Some(9));
    };
    // A unit: it and what follows are done again.
    stopped("unit-done:2");
    fs::remove_file(shard("unit-00000000-000000000000.parquet")).unwrap();
    let said = text(&place.run(&["resume", "pairs"]).stderr);
    assert!(said.contains("the unit before it is missing"), "{said}");
    assert_eq!(counts(&place), (40, 38));
    // A staged part.
    stopped("place:1");
    let part = shard("parts/part-00000.parquet");
    let whole = fs::read(&part).unwrap();
    fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    let said = place.fails(1, &["resume", "pairs"]);
    assert!(said.contains("part-00000.parquet: this part was changed"), "{said}");
    fs::write(&part, &whole).unwrap();
    place.ok(&["resume", "pairs"]);
    assert_eq!(counts(&place), (40, 38));
    // A part of the table, for whoever reads it.
    let part = place.path("pairs/part-00000.parquet");
    fs::write(&part, [&whole[..], b"more"].concat()).unwrap();
    let changed = "its part part-00000.parquet was changed";
    for args in [&["report", "pairs", "-o", "x.html"][..], &["select", "pairs", "s", "--min-itm", "0.5"]] {
        let said = place.fails(1, args);
        assert!(said.contains(changed), "{args:?}: {said}");
    }
    let sql = ["sql", "--table", "t=pairs", "-c", "SELECT count(*) FROM t"];
    assert!(text(&place.run(&sql).stderr).contains(changed), "SQL reads what there is, and says so");
    fs::remove_file(&part).unwrap();
    assert!(place.fails(1, &sql).contains("its part part-00000.parquet is missing"));
}

/// `..` in the place of the source or of the image root is a place like any other; in a name it is refused.
#[test]
fn folders_may_be_named_by_their_parents() {
    let place = place();
    fs::create_dir_all(place.path("lists/deep")).unwrap();
    fs::write(place.path("lists/a.csv"), "path,text\n00.png,a\n../data/01.png,b\n").unwrap();
    let more = ["--recipe", "../../recipe.sql", "--param", "score=1", "--image-column", "path", "--image-is", "path"];
    let run = |dest: &str, root: &str| {
        let args = [&["run", "../../lists/a.csv", dest], &more[..], &["--image-root", root]].concat();
        let output = place.command(&args).current_dir(place.path("lists/deep")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    run("../../pairs", "../../data");
    assert_eq!(counts(&place), (2, 1));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE error LIKE '%it is not below%'"), 1);
}
