//! What may stand in names, since all of it becomes addresses and paths.

use percent_encoding::percent_decode_str;

/// Revision of a name without one.
const MAIN: &str = "main";
/// Most characters of an owner or a name.
const LONGEST: usize = 96;

/// Whether `text` is the full hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `path` stays inside the folder that it is appended to, on every system.
pub(crate) fn is_plain(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let odd = |c: char| c == '\\' || c.is_control() || cfg!(windows) && c == ':';
    path.split('/').all(plain) && !path.contains(odd)
}

/// Checks `OWNER/NAME` by the rules of the hub.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let [owner, name] = id.split('/').collect::<Vec<_>>()[..] else {
        return Err(format!("a repository is named OWNER/NAME, not {id:?}"));
    };
    for part in [owner, name] {
        let problem = match part {
            "" => "is empty",
            _ if part.len() > LONGEST => "has more than 96 characters",
            _ if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
                "has characters other than letters, digits, -, _ and ."
            }
            _ if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) => "starts or ends with - or .",
            _ if part.contains("--") || part.contains("..") => "contains -- or ..",
            _ => continue,
        };
        return Err(format!("{part:?} in OWNER/NAME {problem}"));
    }
    if name.ends_with(".git") { Err(format!("{name:?} ends with .git")) } else { Ok(()) }
}

/// Decodes and checks a revision by the rules of git for references; it becomes a path in the cache.
pub(crate) fn revision(written: Option<&str>) -> Result<String, String> {
    let Some(written) = written else { return Ok(MAIN.to_owned()) };
    let decoded = percent_decode_str(written).decode_utf8().map_err(|_| "the revision is not UTF-8".to_owned())?;
    if decoded.len() == 40 && decoded.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(decoded.to_ascii_lowercase());
    }
    let part = |part: &str| !part.starts_with(['.', '-']) && !part.ends_with(".lock") && !part.ends_with('.');
    let forbidden = |c: char| c.is_whitespace() || "~^:?*[\"".contains(c);
    if decoded.is_empty() {
        Err("the revision after @ is empty".to_owned())
    } else if !is_plain(&decoded)
        || decoded.contains(forbidden)
        || ["..", "@{"].iter().any(|bad| decoded.contains(bad))
        || !decoded.split('/').all(part)
    {
        Err(format!("{decoded:?} is not a branch, tag, reference or commit"))
    } else {
        Ok(decoded.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_stay_inside_their_folder() {
        for path in ["config.json", "a/b.c/d", "..a/b..", "a b", "ä"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a\\b", "..\\a", "a\0b", "a\nb"] {
            assert!(!is_plain(path), "{path:?}");
        }
    }
}
