//! Connections break, servers are busy, programs are killed, and downloads go on.

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::hub::world::{WEIGHTS, World, name};
use crate::hub::{Fault, cache, noise};
use capfilt_hub::{Client, Error};

#[tokio::test]
async fn a_connection_that_breaks_goes_on_where_it_was() {
    let world = World::new();
    for at in [1_000_000, 500_000, 0] {
        world.hub.fault("GET", &world.weights(), 1, Fault::Cut(at));
    }
    world.assert_whole(&world.fetch().await.unwrap());
    let ranges = [None, Some("bytes=1000000-"), Some("bytes=1500000-"), Some("bytes=1500000-")];
    assert_eq!(world.ranges(), ranges.map(|range| range.map(str::to_owned)));
}

#[tokio::test]
async fn it_does_not_go_on_for_ever_and_what_came_stays() {
    let world = World::new();
    world.hub.fault("GET", &world.weights(), 100, Fault::Cut(1000));
    let error = world.fetch().await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    // The first try and three more.
    assert_eq!(world.ranges().len(), 4);
    assert_eq!(fs::metadata(world.partial(&world.weights())).unwrap().len(), 4000);
    let other = World::new();
    other.hub.fault("GET", &other.weights(), 100, Fault::Cut(0));
    other.fetch().await.unwrap_err();
    // A MiB of progress is a new beginning: here more often than there are tries.
    let slow = World::new();
    slow.hub.fault("GET", &slow.weights(), 3, Fault::Cut(0));
    slow.hub.fault("GET", &slow.weights(), 1, Fault::Cut(2 << 20));
    slow.hub.fault("GET", &slow.weights(), 2, Fault::Cut(0));
    slow.assert_whole(&slow.fetch().await.unwrap());
}

#[tokio::test]
async fn a_server_without_ranges_starts_anew() {
    let world = World::new();
    world.hub.fault("GET", &world.weights(), 1, Fault::Cut(2_000_000));
    world.hub.fault("GET", &world.weights(), 1, Fault::NoRange);
    world.assert_whole(&world.fetch().await.unwrap());
    assert_eq!(world.ranges(), [None, Some("bytes=2000000-".to_owned())]);
    // Also where it breaks again before what was there, so that the file is longer than what came.
    let world = World::new();
    world.hub.fault("GET", &world.weights(), 1, Fault::Cut(2_000_000));
    world.hub.fault("GET", &world.weights(), 1, Fault::NoRange);
    fs::create_dir_all(world.blobs()).unwrap();
    fs::write(world.partial(&world.weights()), noise(WEIGHTS + 1, 9)).unwrap();
    world.assert_whole(&world.fetch().await.unwrap());
    assert_eq!(world.ranges()[0], None);
}

#[tokio::test]
async fn what_is_whole_already_is_only_checked() {
    let world = World::new();
    fs::create_dir_all(world.blobs()).unwrap();
    fs::write(world.partial(&world.weights()), &world.files["model.safetensors"].0).unwrap();
    world.assert_whole(&world.fetch().await.unwrap());
    assert!(world.ranges().is_empty());
    // What is no beginning of this file is replaced.
    let world = World::new();
    fs::create_dir_all(world.blobs()).unwrap();
    fs::write(world.partial(&world.weights()), noise(WEIGHTS, 9)).unwrap();
    world.assert_whole(&world.fetch().await.unwrap());
    assert_eq!(world.ranges(), [None]);
}

/// Not a test: the program that is killed.
#[tokio::test]
#[ignore = "run by a_killed_download_goes_on"]
async fn child() {
    let (Ok(endpoint), Ok(root)) = (std::env::var("HUB_TEST_ENDPOINT"), std::env::var("HUB_TEST_CACHE")) else {
        return;
    };
    let settings = capfilt_hub::Settings::new(&|name| match name {
        "HF_ENDPOINT" => Some(endpoint.clone().into()),
        "HF_HUB_DOWNLOAD_TIMEOUT" => Some("60".into()),
        "HOME" => Some("/nowhere".into()),
        _ => None,
    });
    let client = Client::new(settings.unwrap(), cache(Path::new(&root))).unwrap();
    let report = |p: capfilt_hub::Progress<'_>| writeln!(std::io::stderr(), "{} {}", p.file, p.done).unwrap();
    client.checkpoint(&name("hf:a/b"), false, &report).await.unwrap();
}

#[tokio::test]
async fn a_killed_download_goes_on() {
    let world = World::new();
    world.hub.fault("GET", &world.weights(), 1, Fault::Stall(2_000_000));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child", "--ignored", "--nocapture"])
        .env("HUB_TEST_ENDPOINT", &world.hub.endpoint)
        .env("HUB_TEST_CACHE", world.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "model.safetensors 2000000"));
    child.kill().unwrap();
    child.wait().unwrap();
    let had = fs::metadata(world.partial(&world.weights())).unwrap().len();
    assert!((1_000_000..=2_000_000).contains(&had), "{had}");
    assert!(!world.dir.path().join("models--a--b/refs/main").exists());
    world.assert_whole(&world.fetch().await.unwrap());
    assert_eq!(world.ranges(), [None, Some(format!("bytes={had}-"))]);
    // What was whole was not fetched again.
    assert_eq!(world.hub.seen("GET", "resolve-cache").len(), 1);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says() {
    let world = World::new();
    let wait = |header: &str| Fault::Answer(429, format!("{header}\r\n"));
    world.hub.fault("GET", "/api/models", 1, wait("Retry-After: 1"));
    world.hub.fault("HEAD", "config.json", 1, wait("RateLimit: \"resolvers\";r=0;t=1"));
    world.hub.fault("GET", &world.weights(), 1, Fault::Answer(503, String::new()));
    // As a signed address that is too old.
    world.hub.fault("GET", &world.weights(), 1, Fault::Answer(403, String::new()));
    let begun = Instant::now();
    world.assert_whole(&world.fetch().await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());

    let world = World::new();
    world.hub.fault("GET", "/api/models", 100, wait("Retry-After: 3600"));
    let said = world.fetch().await.unwrap_err().to_string();
    assert!(said.contains("429") && said.contains("3600 s"), "{said}");
    assert_eq!(world.hub.seen("GET", "").len(), 1);
    let world = World::new();
    world.hub.fault("GET", "/api/models", 100, Fault::Answer(500, String::new()));
    assert!(matches!(world.fetch().await, Err(Error::Status { status: 500, .. })));
    assert_eq!(world.hub.seen("GET", "").len(), 4);
}

#[tokio::test]
async fn nothing_hangs() {
    let world = World::new();
    let mut settings = world.hub.settings(&[]);
    settings.etag_timeout = Duration::from_millis(300);
    settings.download_timeout = Duration::from_millis(300);
    let client = Client::new(settings, cache(world.dir.path())).unwrap();
    let fetch = async || {
        let name = name("hf:a/b");
        let fetched = client.checkpoint(&name, false, &|_| {});
        tokio::time::timeout(Duration::from_secs(20), fetched).await.unwrap()
    };
    world.hub.fault("GET", &world.weights(), 1, Fault::Stall(1_000_000));
    world.hub.fault("GET", "/api/models", 1, Fault::Stall(5));
    world.assert_whole(&fetch().await.unwrap());
    assert_eq!(world.ranges()[1].as_deref(), Some("bytes=1000000-"));
    let world = World::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut settings = world.hub.settings(&[("HF_ENDPOINT", &endpoint)]);
    settings.download_timeout = Duration::from_millis(200);
    let client = Client::new(settings, cache(world.dir.path())).unwrap();
    let name = name("hf:a/b");
    let said =
        tokio::time::timeout(Duration::from_secs(20), client.resolve(&name)).await.unwrap().unwrap_err().to_string();
    assert!(said.contains("timed out") && said.contains(&endpoint), "{said}");
}
