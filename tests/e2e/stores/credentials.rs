//! Credentials from the places where AWS's programs keep them.

use std::time::{Duration, Instant};

use super::*;

/// Files written by `aws configure` and `aws configure sso`.
const PROFILES: &str = "[profile work]\nregion = us-east-1\nendpoint_url = ENDPOINT\n\n\
    [profile sso]\nsso_session = my-sso\nsso_account_id = 111122223333\nsso_role_name = Reader\nregion = us-east-1\n\n\
    [sso-session my-sso]\nsso_start_url = https://my-sso-portal.example.com/start\nsso_region = us-east-1\n\
    sso_registration_scopes = sso:account:access\n\n\
    [profile process]\ncredential_process = /bin/echo '{\"Version\": 1, \"AccessKeyId\": \"test\", \"SecretAccessKey\": \"SECRET\"}'\n\
    region = us-east-1\nendpoint_url = ENDPOINT\n";

#[test]
fn credentials_are_found_where_aws_keeps_them() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    stores.put(&place, "slice.parquet", "one/slice.parquet");
    let profiles = PROFILES.replace("ENDPOINT", &stores.well).replace("SECRET", SECRET);
    fs::write(place.path("config"), profiles).unwrap();
    let keys = format!("[work]\naws_access_key_id = test\naws_secret_access_key = {SECRET}\n");
    fs::write(place.path("credentials"), keys).unwrap();
    let with = |vars: &[(&str, &str)]| {
        let query = "SELECT count(*) AS n FROM 's3://data/one/slice.parquet'";
        let mut command = command(&place, "", &["sql", "--format", "csv", "-c", query]);
        for name in ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        command.env("AWS_CONFIG_FILE", place.path("config")).env("HOME", place.path(""));
        command.env("AWS_SHARED_CREDENTIALS_FILE", place.path("credentials"));
        command.envs(vars.iter().copied());
        command
    };
    for profile in ["work", "process"] {
        let output = with(&[("AWS_PROFILE", profile), ("AWS_EC2_METADATA_DISABLED", "true")]).output().unwrap();
        assert_eq!(text(&output.stdout), "n\n40\n", "{profile}: {}", text(&output.stderr));
    }
    // No SSO login, or no such profile.
    for (profile, words) in [("sso", "sso"), ("none", "none")] {
        let said = fails(with(&[("AWS_PROFILE", profile), ("AWS_EC2_METADATA_DISABLED", "true")]));
        assert!(said.contains("there are no credentials") && said.to_lowercase().contains(words), "{said}");
    }
    let said = fails(with(&[("AWS_ENDPOINT_URL", "127.0.0.1:9000")]));
    assert!(said.contains("AWS_ENDPOINT_URL = 127.0.0.1:9000 is not a URL: write http://127.0.0.1:9000"), "{said}");

    // A metadata service that accepts connections but never responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let said = fails(with(&[("AWS_METADATA_ENDPOINT", &address)]));
    assert!(said.contains("there are no credentials") && said.contains("AWS_PROFILE"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it was 90 s of silence");
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_ok(), "the machine's own credentials are asked for");
    while silent.accept().is_ok() {}
    fails(with(&[("AWS_METADATA_ENDPOINT", &address), ("AWS_EC2_METADATA_DISABLED", "true")]));
    assert!(silent.accept().is_err(), "AWS_EC2_METADATA_DISABLED");
}
