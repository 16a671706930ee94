//! Environment variables, read as huggingface_hub reads them.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Error;

/// Looks an environment variable up, as [`std::env::var_os`] does.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Variables of the process.
pub(crate) fn of_process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Returns the value of a variable. An empty variable counts as unset.
pub(crate) fn value(environment: Environment<'_>, name: &str) -> Result<Option<String>, Error> {
    let text = environment(name).map(OsString::into_string).transpose();
    let text = text.map_err(|_| wrong(name, "its value is not UTF-8".to_owned()))?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// Whether a flag is 1, true, yes or on.
pub(crate) fn is_on(environment: Environment<'_>, name: &str) -> Result<bool, Error> {
    let on = |text: String| ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str());
    Ok(value(environment, name)?.is_some_and(on))
}

/// Folder or file that a variable names, with `~`, `$NAME` and `${NAME}` expanded.
pub(crate) fn path(environment: Environment<'_>, name: &str) -> Result<Option<PathBuf>, Error> {
    let Some(text) = value(environment, name)? else { return Ok(None) };
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", user_home(environment)?.trim_end_matches('/'))
        }
        Some(_) => return Err(wrong(name, format!("the home folder in {text:?} is not looked up: write it out"))),
        None => text,
    };
    let path = PathBuf::from(with_variables(environment, &text)?);
    std::path::absolute(&path).map(Some).map_err(|e| wrong(name, format!("{}: {e}", path.display())))
}

/// Home folder of everything of Hugging Face's.
pub(crate) fn hugging_face_home(environment: Environment<'_>) -> Result<PathBuf, Error> {
    if let Some(home) = path(environment, "HF_HOME")? {
        return Ok(home);
    }
    let caches = path(environment, "XDG_CACHE_HOME")?;
    let caches = caches.map_or_else(|| Ok(PathBuf::from(user_home(environment)?).join(".cache")), Ok)?;
    Ok(caches.join("huggingface"))
}

pub(crate) fn wrong(variable: &str, problem: String) -> Error {
    Error::Setting { variable: variable.to_owned(), problem }
}

fn user_home(environment: Environment<'_>) -> Result<String, Error> {
    if let Some(home) = value(environment, "HOME")? {
        return Ok(home);
    }
    let home = std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
    home.ok_or_else(|| wrong("HOME", "it is not set, and the cache is there: set HF_HOME to a folder".to_owned()))
}

/// Unknown variables stay as they are written.
fn with_variables(environment: Environment<'_>, text: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let (name, next) = braced.unwrap_or_else(|| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
        });
        match value(environment, name)? {
            Some(value) if !name.is_empty() => out.push_str(&value),
            _ => out.extend(["$", &after[..after.len() - next.len()]]),
        }
        rest = next;
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_are_expanded_as_shells_do() {
        let environment = |name: &str| {
            Some(OsString::from(match name {
                "HOME" => "/home/me",
                "DISK" => "/disk",
                written => written,
            }))
        };
        let none = |name: &str| environment(name).filter(|_| ["HOME", "DISK"].contains(&name));
        let expanded = |text: &str| path(&|name| if name == "X" { Some(text.into()) } else { none(name) }, "X");
        for (text, path) in [
            ("~", "/home/me"),
            ("~/hub", "/home/me/hub"),
            ("/a/~b", "/a/~b"),
            ("$DISK/hub", "/disk/hub"),
            ("/x${DISK}y/$DISK", "/x/disky/disk"),
            ("/$OTHER/${OTHER}/$", "/$OTHER/${OTHER}/$"),
        ] {
            assert_eq!(expanded(text).unwrap().as_deref(), Some(Path::new(path)), "{text}");
        }
        assert_eq!(expanded("").unwrap(), None);
        assert!(expanded("~other/x").unwrap_err().to_string().starts_with("X: "));
    }

    #[test]
    fn flags_are_on_in_four_words() {
        let on = |text: &'static str| is_on(&|_| Some(text.into()), "X").unwrap();
        assert!(["1", "true", "Yes", "ON"].into_iter().all(on));
        assert!(!["", "0", "off", "2", "false"].into_iter().any(on));
    }
}
