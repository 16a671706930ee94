//! The prompt of `capfilt sql` on a terminal.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rexpect::session::{PtySession, spawn_command};

use super::{Place, root, web};

const PATIENCE: Duration = Duration::from_secs(120);

/// A prompt over the web table.
struct Prompt(PtySession);

impl Prompt {
    fn new(place: &Place) -> Self {
        let mut command = place.command(&["sql", "--format", "csv", "--table", &format!("web={}", web())]);
        for (setting, model) in
            [("captioner", "tests/fixtures/models/captioner"), ("filter", "tests/fixtures/models/matcher")]
        {
            command.args(["--set", &format!("capfilt.{setting}={}", root(model))]);
        }
        // All three streams are the terminal.
        command.stdin(Stdio::inherit()).env("TERM", "xterm").env("XDG_DATA_HOME", place.folder.path());
        let terminal = spawn_command(command, Some(PATIENCE.as_millis() as u64)).unwrap();
        let mut prompt = Self(terminal);
        prompt.wait("capfilt> ");
        prompt
    }

    fn wait(&mut self, words: &str) {
        self.0.exp_string(words).unwrap_or_else(|e| panic!("waited for {words:?}: {e}"));
    }

    /// Sends a statement, and returns the number in its answer. The echo has `'va' || 'lue='`, so it does not match.
    fn number(&mut self, of: &str) -> u64 {
        self.0.send_line(&format!("SELECT 'va' || 'lue=' || ({of}) || ';' AS answer;")).unwrap();
        let (_, answer) = self.0.exp_regex("value=[0-9]+;").unwrap();
        self.wait("capfilt> ");
        answer.trim_start_matches("value=").trim_end_matches(';').parse().unwrap()
    }
}

#[test]
fn ctrl_c_stops_the_statement_and_no_more() {
    let place = Place::new();
    let mut prompt = Prompt::new(&place);
    // Loads the models.
    assert_eq!(prompt.number("SELECT count(itm_score(image, caption(image))) FROM web WHERE id = 1"), 1);
    let encoded = "SELECT CAST(sum(images_encoded) AS BIGINT) FROM capfilt_stats()";
    assert_eq!(prompt.number(encoded), 2);

    let all = "SELECT count(itm_score(image, caption(image))) FROM web;";
    prompt.0.send_line(all).unwrap();
    // Long enough for some images, not for all 1,512.
    sleep(Duration::from_secs(3));
    prompt.0.send_control('c').unwrap();
    let asked = Instant::now();
    prompt.wait("cancelled");
    assert!(asked.elapsed() < Duration::from_secs(20), "it must not finish its work first");
    prompt.wait("capfilt> ");
    let then = prompt.number(encoded);
    assert!((3..2 * 1400).contains(&then), "{then} images were encoded");
    sleep(Duration::from_secs(1));
    assert_eq!(prompt.number(encoded), then, "the engine went on");

    // A second statement is unaffected; Ctrl-C without a running statement does not exit, nor does an error.
    prompt.0.send_control('c').unwrap();
    prompt.wait("capfilt> ");
    prompt.0.send_line("SELECT nope;").unwrap();
    prompt.wait("error: ");
    prompt.wait("capfilt> ");
    assert_eq!(prompt.number("SELECT count(itm_score(image, caption(image))) FROM web WHERE id IN (2, 3)"), 2);
    prompt.0.send_line("\\q").unwrap();
    prompt.0.exp_eof().unwrap();
    // The library does not export this type.
    let ended = format!("{:?}", prompt.0.process().wait().unwrap());
    assert!(ended.starts_with("Exited(") && ended.ends_with(", 0)"), "{ended}");
}

#[test]
fn ctrl_c_stops_what_only_computes() {
    let place = Place::new();
    let mut prompt = Prompt::new(&place);
    let pairs = "generate_series(1, 3000000) a, generate_series(1, 3000) b";
    for statement in [
        format!("SELECT count(*) FROM {pairs} WHERE (a.value * b.value) % 7 = 3;"),
        // No pair satisfies the predicate, so the join never returns a batch.
        format!("SELECT count(*) FROM {pairs} WHERE a.value * b.value = -1;"),
        format!("SELECT max(md5(CAST(a.value * b.value AS VARCHAR))) FROM {pairs};"),
        format!("CREATE TABLE t AS SELECT a.value AS v FROM {pairs};"),
        "SELECT max(image_phash(image)) FROM web, generate_series(1, 500);".to_owned(),
        "SELECT count(image_error(image)) FROM web, generate_series(1, 500);".to_owned(),
        "SELECT image_phash(image) FROM web, generate_series(1, 500) ORDER BY 1;".to_owned(),
        "SELECT max(regexp_replace(repeat('ab', 20000), '(a|b)*c', CAST(value AS VARCHAR))) FROM generate_series(1, 200000);"
            .to_owned(),
    ] {
        prompt.0.send_line(&statement).unwrap();
        sleep(Duration::from_secs(1));
        prompt.0.send_control('c').unwrap();
        let asked = Instant::now();
        prompt.wait("cancelled");
        prompt.wait("capfilt> ");
        assert!(asked.elapsed() < Duration::from_secs(3), "{statement}: {:?}", asked.elapsed());
    }
    // The threads are free again.
    assert_eq!(prompt.number("SELECT count(*) FROM web, generate_series(1, 2)"), 2 * 1512);
    prompt.0.send_line("\\q").unwrap();
    prompt.0.exp_eof().unwrap();
}

#[test]
fn signals_end_a_script() {
    let place = Place::new();
    let endless =
        "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000) b WHERE a.value * b.value = -1";
    for signal in ["-INT", "-TERM"] {
        let mut child = place.command(&["sql", "-c", endless]).stdout(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_secs(1));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let asked = Instant::now();
        let ended = child.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(!ended.success());
    }
}
