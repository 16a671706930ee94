//! What is wrong is noticed, named and not kept.

use std::fs;

use crate::hub::world::{ONE, World, name};
use crate::hub::{Fault, cache, git_sha1};
use capfilt_hub::{Client, Error};

#[tokio::test]
async fn a_damaged_file_never_gets_its_place() {
    let world = World::new();
    for (file, etag) in
        [("config.json", git_sha1(&world.files["config.json"].0)), ("model.safetensors", world.weights())]
    {
        let part = if file == "config.json" { "resolve-cache" } else { &etag };
        world.hub.fault("GET", part, 1, Fault::Flip);
        let error = world.fetch().await.unwrap_err();
        let Error::Digest { file: damaged, expected, found, .. } = &error else { panic!("{error}") };
        assert!(damaged == file && *expected == etag && found.len() == etag.len() && *found != etag);
        let said = error.to_string();
        assert!([file, expected, found, "fetch it again"].iter().all(|part| said.contains(part)), "{said}");
        assert!(!world.partial(&etag).exists() && !world.blobs().join(&etag).exists());
        assert!(!world.dir.path().join("models--a--b/refs/main").exists());
    }
    world.assert_whole(&world.fetch().await.unwrap());
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let world = World::new();
    world.hub.close_to_all_but("a/b", "hf_right");
    let said = world.fetch().await.unwrap_err().to_string();
    let parts = ["gated or private", "401", "HF_TOKEN", "hf auth login", "Access to it is restricted."];
    assert!(parts.iter().all(|part| said.contains(part)) && said.contains("hf:a/b@main"), "{said}");
    let wrong = world.hub.settings(&[("HF_TOKEN", "hf_wrong")]);
    let wrong = Client::new(wrong, cache(world.dir.path())).unwrap();
    let said = wrong.resolve(&name("hf:a/b")).await.unwrap_err().to_string();
    assert!(said.contains("403") && said.contains("ask the owner") && !said.contains("hf_wrong"), "{said}");
    for (text, part) in [("hf:a/none", "does not exist, or is private"), ("hf:a/c@v9", "no such revision")] {
        world.hub.commit("a/c", "main", ONE, &world.files);
        let error = world.client().resolve(&name(text)).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }));
        assert!(error.to_string().contains(part) && error.to_string().contains(text), "{error}");
    }
    // None of these is tried again.
    assert_eq!(world.hub.seen("GET", "/api/models").len(), 4);
    let repository = world.client().resolve(&name("hf:a/c")).await.unwrap();
    let error = world.client().download(&repository, &["none".to_owned()], &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}

#[tokio::test]
async fn answers_of_no_hub_are_refused() {
    for (method, part, fault, reason) in [
        ("GET", "/api/models", Fault::Answer(200, String::new()), "no answer of the hub"),
        ("HEAD", "resolve-cache", Fault::Header("X-Repo-Commit", "0".repeat(40)), "X-Repo-Commit"),
        ("HEAD", "resolve-cache", Fault::Header("ETag", "\"../../x\"".to_owned()), "is no digest"),
        ("HEAD", "model.safetensors", Fault::Header("X-Linked-Size", "7".to_owned()), "7 were announced"),
        ("HEAD", "resolve/", Fault::Header("Location", "ftp://127.0.0.1/x".to_owned()), "ftp"),
        ("HEAD", "resolve/", Fault::Header("Location", "/a/b/resolve/x".to_owned()), "no such revision"),
        ("GET", "resolve-cache", Fault::Header("Content-Encoding", "gzip".to_owned()), "gzip"),
    ] {
        let world = World::new();
        world.hub.fault(method, part, 1, fault.clone());
        let said = world.fetch().await.unwrap_err().to_string();
        assert!(said.contains(reason) && said.contains("hf:a/b@"), "{fault:?}: {said}");
    }
    let world = World::new();
    world.hub.fault("GET", "resolve/", 1, Fault::Cut(0));
    world.hub.fault("GET", &world.weights(), 1, Fault::Cut(1_000_000));
    world.hub.fault("GET", &world.weights(), 1, Fault::Header("Content-Range", "bytes 5-9/3145728".to_owned()));
    let said = world.fetch().await.unwrap_err().to_string();
    assert!(said.contains("bytes 5-9/3145728") && !said.contains("Signature"), "{said}");
    let world = World::new();
    let tls = world.hub.endpoint.replace("http:", "https:");
    let tls = Client::new(world.hub.settings(&[("HF_ENDPOINT", &tls)]), cache(world.dir.path())).unwrap();
    assert!(matches!(tls.resolve(&name("hf:a/b")).await, Err(Error::Connection { .. })));
    let world = World::new();
    world.hub.fault("HEAD", "", 100, Fault::Answer(307, "Location: /again\r\n".to_owned()));
    assert!(world.fetch().await.unwrap_err().to_string().contains("redirects"));
}

#[tokio::test]
async fn files_stay_in_their_folder() {
    let world = World::new();
    let evil = ["../../../evil", "/evil", "x/../../evil", "..\\evil"];
    let mut files = world.files.clone();
    files.extend(evil.map(|name| (name.to_owned(), (b"evil".to_vec(), false))));
    world.hub.commit("a/b", "main", ONE, &files);
    let repository = world.client().resolve(&name("hf:a/b")).await.unwrap();
    assert_eq!(repository.files(), ["config.json", "model.safetensors"]);
    for file in evil {
        let error = world.client().download(&repository, &[file.to_owned()], &|_| {}).await.unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, Error::UnsafeFile { .. }) && said.contains("refused") && said.contains("hf:a/b"),
            "{said}"
        );
    }
    assert!(fs::read_dir(world.dir.path()).unwrap().next().is_none());
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_full_disk_and_a_cache_that_is_none_are_named() {
    let world = World::new();
    fs::create_dir_all(world.blobs()).unwrap();
    let partial = world.partial(&world.weights());
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    let said = world.fetch().await.unwrap_err().to_string();
    assert!(said.contains(partial.to_str().unwrap()) && said.contains("free some space"), "{said}");

    let file = world.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = world.hub.client(&file.join("hub")).checkpoint(&name("hf:a/b"), false, &|_| {}).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(file.to_str().unwrap()) && said.contains("set HF_HUB_CACHE"), "{said}");
}

#[tokio::test]
#[cfg(unix)]
async fn what_cannot_have_room_is_not_begun() {
    let world = World::new();
    world.hub.fault("HEAD", "model.safetensors", 1, Fault::Header("X-Linked-Size", (1_u64 << 60).to_string()));
    let error = world.fetch().await.unwrap_err();
    let Error::NoSpace { path, file, needed, .. } = &error else { panic!("{error}") };
    assert!(*path == world.blobs() && file == "model.safetensors" && *needed == 1 << 60);
    assert!(world.ranges().is_empty());
}
