//! The list of all file formats, and how files are recognised.

use std::io::Read as _;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::file::DataFile;
use crate::format::contract::{FileFormat, InSql};
use crate::format::image_folder::ImageFolder;
use crate::format::parquet::Parquet;
use crate::format::sidecar::{is_image, is_text};
use crate::format::text::infer::Text;
use crate::format::webdataset::member;
use crate::format::webdataset::source::WebDataset;
use crate::layout::Role;
use crate::store::location::Roles;

/// The formats of this crate.
static FORMATS: &[&dyn FileFormat] = &[PARQUET, &WebDataset, &Text::Csv, &Text::JsonLines, IMAGES];

/// Format of the files of lakehouse tables.
pub(crate) const PARQUET: &dyn FileFormat = &Parquet;
/// Format of a source without a file of another one.
pub(crate) const IMAGES: &dyn FileFormat = &ImageFolder;

/// Formats that programs have added.
static ADDED: RwLock<Vec<&'static dyn FileFormat>> = RwLock::new(Vec::new());

/// Adds a format to those that jobs and SQL read in this process. Sessions that
/// [`crate::register_formats`] prepares later know it after `STORED AS` too.
///
/// # Errors
/// [`Error::Option`] if another format has its name or one of its extensions.
pub fn register(format: &'static dyn FileFormat) -> Result<()> {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let taken = |known: &&dyn FileFormat| {
        known.about().name.eq_ignore_ascii_case(format.about().name)
            || all_of(format).any(|new| all_of(*known).any(|old| old == new))
    };
    if let Some(known) = FORMATS.iter().chain(&*added).find(|known| taken(known)) {
        let reason = format!(
            "format {}: its name or an extension of it is taken by {}",
            format.about().name,
            known.about().name
        );
        return Err(Error::Option(reason));
    }
    added.push(format);
    Ok(())
}

/// Extensions of a format's files, shared ones included.
fn all_of(format: &dyn FileFormat) -> impl Iterator<Item = &'static str> {
    format.about().extensions.iter().chain(format.about().shared_extensions).copied()
}

/// All formats.
pub fn formats() -> Vec<&'static dyn FileFormat> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    FORMATS.iter().chain(&*added).copied().collect()
}

/// First format that `is_it` accepts.
pub(crate) fn find(is_it: impl Fn(&dyn FileFormat) -> bool) -> Option<&'static dyn FileFormat> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    FORMATS.iter().chain(&*added).copied().find(|format| is_it(*format))
}

/// Format by an extension without its dot, in upper or lower case. Shared extensions count if the file is named itself.
pub(crate) fn of_extension(extension: &str, is_named: bool) -> Option<&'static dyn FileFormat> {
    let has = |extensions: &[&str]| extensions.iter().any(|known| known.eq_ignore_ascii_case(extension));
    find(|format| has(format.about().extensions) || is_named && has(format.about().shared_extensions))
}

/// Whether a file is compressed by its extension.
pub(crate) fn is_packed(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ["gz", "bz2", "xz", "zst", "tgz", "tbz2", "txz", "tzst"].contains(&ending.as_str())
}

/// Format of a file in a folder, by its extension.
pub(crate) fn of_path(path: &Path) -> Option<&'static dyn FileFormat> {
    of_extension(&path.extension()?.to_string_lossy(), false)
}

/// Roles of the files of a folder, by their extensions.
pub(crate) static ROLES: Roles = Roles { of: role, endings: || endings(false) };

/// Role of a file in a folder, by its extension; `None` if it is passed over.
pub(crate) fn role(path: &Path) -> Option<Role> {
    match path {
        table if of_path(table).is_some() => Some(Role::Table),
        image if is_image(image) => Some(Role::Image),
        text if is_text(text) => Some(Role::Text),
        _ => None,
    }
}

/// Format of a file that is named itself: by its extension, else by its first bytes.
///
/// # Errors
/// A file that is compressed, or of no known format.
pub(crate) fn of_file(root: &Path, file: &DataFile) -> Result<&'static dyn FileFormat> {
    let ending = file.below(root).extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if let Some(format) = of_extension(&ending, true) {
        return Ok(format);
    }
    let mut begin = Vec::new();
    let read = file.open().and_then(|input| input.take(16).read_to_end(&mut begin));
    read.map_err(|e| file.error(|| format!("cannot read: {e}")))?;
    if let Some(format) = find(|format| !format.about().magic.is_empty() && begin.starts_with(format.about().magic)) {
        return Ok(format);
    }
    let is_packed = is_packed(Path::new(&format!("x.{ending}")));
    Err(file.error(|| match member::compressed(&begin) {
        Some(_) => "it is compressed, and a job goes on in the middle of a file: unpack it".to_owned(),
        None if is_packed => {
            "it is compressed by its name, and a job goes on in the middle of a file: unpack it".to_owned()
        }
        None => format!("its format is unknown: name it {}; of images give their folder", endings(true)),
    }))
}

/// Text such as `.parquet, .tar or .csv`: the extension that each format recommends. With `is_named` a format's name
/// follows where it differs.
pub(crate) fn endings(is_named: bool) -> String {
    let ending = |format: &dyn FileFormat| {
        let (extension, name) = (format.about().extensions.first()?, format.about().name);
        let is_clear = !is_named || name.eq_ignore_ascii_case(extension);
        Some(if is_clear { format!(".{extension}") } else { format!(".{extension} ({name})") })
    };
    listed(formats().into_iter().filter_map(ending).collect())
}

/// Text such as `.parquet, .csv or .json`: all extensions that SQL reads.
pub fn sql_endings() -> String {
    let is_read = |format: &&dyn FileFormat| format.about().in_sql != InSql::None;
    listed(formats().into_iter().filter(is_read).flat_map(all_of).map(|extension| format!(".{extension}")).collect())
}

fn listed(mut words: Vec<String>) -> String {
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}
