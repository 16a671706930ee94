//! What the two hosts answer, before anything goes wrong.

use std::collections::BTreeMap;

use super::{Answer, Files, Seen, State, etag, git_sha1, sha256};

/// Answer of the hub itself, or the code of what is missing.
pub(super) fn hub(state: &State, seen: &Seen, host: &str) -> Result<Answer, &'static str> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let (api, parts) = if parts[0] == "api" { (true, &parts[1..]) } else { (false, &parts[..]) };
    let cached = api && parts[0] == "resolve-cache";
    let (prefix, parts) = match &parts[usize::from(cached)..] {
        ["datasets", rest @ ..] => ("datasets/", rest),
        ["models", rest @ ..] => ("", rest),
        rest => ("", rest),
    };
    let [owner, name, rest @ ..] = parts else { return Err("RepoNotFound") };
    // The address in the hub's cache has no such word.
    let (action, rest) = if cached { ("resolve", rest) } else { (rest[0], &rest[1..]) };
    let (revision, rest) = (rest[0], &rest[1..]);
    let id = format!("{prefix}{owner}/{name}");
    let repository = state.repositories.get(&id).ok_or("RepoNotFound")?;
    if let Some(to) = &repository.moved_to {
        let to = seen.path.replace(&format!("{owner}/{name}"), to.trim_start_matches("datasets/"));
        return Ok((307, format!("Location: {to}\r\n"), Vec::new()));
    }
    if let Some(token) = &repository.token
        && seen.headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        let status = if seen.headers.contains_key("authorization") { 403 } else { 401 };
        let words = "X-Error-Code: GatedRepo\r\nX-Error-Message: Access to it is restricted.\r\n";
        return Ok((status, words.to_owned(), Vec::new()));
    }
    let revision = revision.replace("%2F", "/");
    let commit = repository.revisions.get(&revision).unwrap_or(&revision);
    let files = repository.commits.get(commit).ok_or("RevisionNotFound")?;
    let rest = rest.join("/").replace("%20", " ");
    match action {
        "revision" if api => {
            let names = files.keys().map(|name| format!("{{\"rfilename\":{name:?}}}")).collect::<Vec<_>>().join(",");
            let siblings = if query == "expand=sha" { String::new() } else { format!(",\"siblings\":[{names}]") };
            let body = format!("{{\"id\":\"{id}\",\"sha\":\"{commit}\"{siblings}}}");
            Ok((200, "Content-Type: application/json\r\n".to_owned(), body.into_bytes()))
        }
        "tree" if api => tree(state, files, &rest, path, query, host),
        "resolve" => {
            let found = files.get(&rest).ok_or("EntryNotFound")?;
            let (bytes, large) = found;
            let tag = etag(found);
            let mut head = format!("X-Repo-Commit: {commit}\r\n");
            if *large {
                let (length, place) = (bytes.len(), &state.storage);
                head += &format!("X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {length}\r\nETag: \"other\"\r\n");
                head += &format!("Location: {place}/{tag}?Signature=secret\r\n");
                Ok((302, head, Vec::new()))
            } else if cached {
                head += &format!("ETag: \"{tag}\"\r\n");
                Ok((200, head, bytes.clone()))
            } else {
                let id = id.trim_start_matches("datasets/");
                let kind = if prefix.is_empty() { "models/" } else { prefix };
                head += &format!("Location: /api/resolve-cache/{kind}{id}/{commit}/{}\r\n", rest.replace(' ', "%20"));
                Ok((307, head, Vec::new()))
            }
        }
        _ => Err("RepoNotFound"),
    }
}

fn tree(
    state: &State,
    files: &Files,
    folder: &str,
    path: &str,
    query: &str,
    host: &str,
) -> Result<Answer, &'static str> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let recursive = query.to_lowercase().contains("recursive=true");
    let mut items = BTreeMap::new();
    for (name, file) in files.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        let below = &name[prefix.len()..];
        for (at, _) in below.match_indices('/').take(if recursive { usize::MAX } else { 1 }) {
            let inner = format!("{prefix}{}", &below[..at]);
            items.insert(
                inner.clone(),
                format!("{{\"type\":\"directory\",\"oid\":\"0\",\"size\":0,\"path\":{inner:?}}}"),
            );
        }
        if recursive || !below.contains('/') {
            let (bytes, large) = file;
            let (size, git, sha) = (bytes.len(), git_sha1(bytes), sha256(bytes));
            let lfs = format!(",\"lfs\":{{\"oid\":\"{sha}\",\"size\":{size},\"pointerSize\":134}}");
            let lfs = if *large { lfs } else { String::new() };
            let item = format!("{{\"type\":\"file\",\"oid\":\"{git}\",\"size\":{size},\"path\":{name:?}{lfs}}}");
            items.insert(name.clone(), item);
        }
    }
    if items.is_empty() && !folder.is_empty() {
        return Err("EntryNotFound");
    }
    let from = query.split("cursor=").nth(1).map_or(0, |from| from.parse().unwrap());
    let page: Vec<_> = items.into_values().skip(from).collect();
    let mut head = "Content-Type: application/json\r\n".to_owned();
    if page.len() > state.page {
        let query = query.split("&cursor=").next().unwrap();
        head += &format!("Link: <{host}{path}?{query}&cursor={}>; rel=\"next\"\r\n", from + state.page);
    }
    let body = format!("[{}]", page.into_iter().take(state.page).collect::<Vec<_>>().join(","));
    Ok((200, head, body.into_bytes()))
}

/// Storage: files by their digest. A request with a token is refused, as signed addresses do.
pub(super) fn stored(state: &State, seen: &Seen) -> Result<Answer, &'static str> {
    if seen.headers.contains_key("authorization") {
        return Ok((400, String::new(), Vec::new()));
    }
    let tag = seen.path.trim_start_matches('/').split('?').next().unwrap();
    let mut files =
        state.repositories.values().flat_map(|repository| repository.commits.values()).flat_map(Files::values);
    let (bytes, _) = files.find(|file| file.1 && etag(file) == tag).ok_or("EntryNotFound")?;
    Ok((200, "ETag: \"of-the-storage\"\r\n".to_owned(), bytes.clone()))
}
