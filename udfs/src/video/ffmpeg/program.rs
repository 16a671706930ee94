//! Where ffmpeg is.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::contract::VideoError;

/// Variable that names the program.
const VARIABLE: &str = "CAPFILT_FFMPEG";

/// Where the project's set-up puts it.
const SET_UP: &str = ".deps/ffmpeg/ffmpeg";

const HOW_TO_GET: &str = "install ffmpeg 5.1 or later (Debian and Ubuntu: apt install ffmpeg; Python: pip install imageio-ffmpeg; here: \
     make setup-video), and set CAPFILT_FFMPEG to it unless it is in PATH";

/// The program that CAPFILT_FFMPEG names, else that of the project's set-up in a folder above the executable or in the source
/// tree, else `ffmpeg` in PATH.
pub(crate) fn find() -> Result<PathBuf, VideoError> {
    let named = env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let exe = env::current_exe().ok();
    let above = exe.iter().flat_map(|exe| exe.ancestors().skip(1)).map(Path::to_path_buf);
    let folders: Vec<PathBuf> = above.chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("..")]).collect();
    choose(named.as_deref(), &folders, env::var_os("PATH").as_deref())
}

/// The error of a program before 5.1.
pub(super) fn too_old(program: &Path) -> VideoError {
    VideoError::NoDecoder(format!("{} is older than 5.1; {HOW_TO_GET}", program.display()))
}

fn choose(named: Option<&OsStr>, folders: &[PathBuf], path: Option<&OsStr>) -> Result<PathBuf, VideoError> {
    let in_path =
        |name: &OsStr| path.and_then(|path| env::split_paths(path).map(|f| f.join(name)).find(|p| p.is_file()));
    if let Some(name) = named {
        let program = PathBuf::from(name);
        let found =
            if program.components().count() > 1 { Some(program).filter(|p| p.is_file()) } else { in_path(name) };
        let missing = || format!("{VARIABLE} is {}, and there is no such program; {HOW_TO_GET}", name.display());
        return found.ok_or_else(|| VideoError::NoDecoder(missing()));
    }
    let set_up = folders.iter().map(|folder| folder.join(SET_UP)).find(|program| program.is_file());
    set_up
        .or_else(|| in_path(OsStr::new("ffmpeg")))
        .ok_or_else(|| VideoError::NoDecoder(format!("there is no ffmpeg to read it; {HOW_TO_GET}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_comes_first_and_path_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let (own, set_up, installed) = (file("own/decoder"), file("up/.deps/ffmpeg/ffmpeg"), file("bin/ffmpeg"));
        let folders = [dir.path().join("nowhere"), dir.path().join("up")];
        let path = env::join_paths([dir.path().join("none"), dir.path().join("bin"), dir.path().join("own")]).unwrap();
        let path = Some(path.as_os_str());
        assert_eq!(choose(Some(own.as_os_str()), &folders, path), Ok(own.clone()));
        assert_eq!(choose(Some(OsStr::new("decoder")), &folders, path), Ok(own));
        assert_eq!(choose(None, &folders, path), Ok(set_up));
        assert_eq!(choose(None, &[], path), Ok(installed));
        for (named, words) in
            [(None, "there is no ffmpeg"), (Some("/nowhere/x"), "CAPFILT_FFMPEG is /nowhere/x, and there")]
        {
            let error = choose(named.map(OsStr::new), &[], None).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("pip install imageio-ffmpeg"), "{error}");
        }
    }
}
