//! The reference of functions and settings, docs/functions.md.

/// docs/functions.md: every SQL function and setting, in Markdown.
pub(crate) fn functions_markdown() -> String {
    let page = capfilt_udfs::docs::functions_markdown();
    #[cfg(feature = "fetch")]
    let page = page + &capfilt_fetch::markdown();
    page
}
