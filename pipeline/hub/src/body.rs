//! Contents of files, which go on where a connection broke.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};

use crate::Error;
use crate::answer::Facts;
use crate::request::{Http, Pauses, Target};

/// Bytes after which earlier tries are forgotten.
const PROGRESS: u64 = 1 << 20;

/// Content of a file, or a part of it, as it comes.
#[derive(Debug)]
pub(crate) struct Body {
    http: Arc<Http>,
    target: Target,
    open: Option<Response>,
    at: u64,
    /// End of the range to read; `None` reads to the end of the file.
    until: Option<u64>,
    pub(crate) facts: Facts,
    pauses: Pauses,
    /// Bytes beyond those of earlier tries.
    since: u64,
    furthest: u64,
}

impl Body {
    /// Prepares to read from the byte `at`, up to `until` or the end. `size` is that of the file, if known.
    pub(crate) fn new(http: Arc<Http>, target: Target, at: u64, until: Option<u64>, size: Option<u64>) -> Self {
        let facts = Facts::of_size(size);
        let pauses = Pauses::new(&http.settings);
        Self { http, target, open: None, at, until, facts, pauses, since: 0, furthest: at }
    }

    /// Returns the next bytes and their offset in the file. A server that ignores ranges begins at 0, so the offset can be
    /// lower than the one asked for.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Error> {
        loop {
            let end = self.until.into_iter().chain(self.facts.size).min();
            if end.is_some_and(|end| self.at >= end) {
                return Ok(None);
            }
            if !self.open().await? {
                return Ok(None);
            }
            let Some(response) = &mut self.open else { continue };
            let error = match response.chunk().await {
                Ok(Some(bytes)) => {
                    let at = self.at;
                    self.at += bytes.len() as u64;
                    self.since += self.at.saturating_sub(self.furthest).min(bytes.len() as u64);
                    self.furthest = self.furthest.max(self.at);
                    if let Some(size) = self.facts.size.filter(|size| self.at > *size) {
                        return Err(self.target.wrong(&format!("more than the {size} bytes that were announced")));
                    }
                    return Ok(Some((at, bytes)));
                }
                // Where the size was never named, this is the end.
                Ok(None) if end.is_none() => return Ok(None),
                Ok(None) => self.target.broke_off(self.at),
                Err(e) => self.target.broken(&e),
            };
            self.open = None;
            self.wait(error).await?;
        }
    }

    /// Opens a connection unless one is open, which also fills `facts`. Returns false at the end of the file.
    pub(crate) async fn open(&mut self) -> Result<bool, Error> {
        while self.open.is_none() {
            let last = self.until.map(|until| until.saturating_sub(1).to_string());
            let range = format!("bytes={}-{}", self.at, last.as_deref().unwrap_or_default());
            let range = (self.at > 0 || last.is_some()).then_some(range);
            let reply = match self.http.once(Method::GET, &self.target, range, None).await {
                Ok(reply) => reply,
                // A part of unknown size that was whole already.
                Err(Error::Status { status: 416, .. }) if self.facts.size.is_none() && self.until.is_none() => {
                    return Ok(false);
                }
                Err(e) => {
                    self.wait(e).await?;
                    continue;
                }
            };
            self.begin(&reply.response)?;
            let announced = self.facts.size;
            if let (Some(announced), Some(sent)) = (announced, reply.facts.size)
                && announced != sent
            {
                let problem = format!("a file of {sent} bytes, where {announced} were announced");
                return Err(self.target.wrong(&problem));
            }
            self.facts = reply.facts;
            self.facts.size = self.facts.size.or(announced);
            self.open = Some(reply.response);
        }
        Ok(true)
    }

    /// Checks where the answer begins.
    fn begin(&mut self, response: &Response) -> Result<(), Error> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            self.at = 0;
            return Ok(());
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
        let first = range.trim().strip_prefix("bytes ").and_then(|range| range.split('-').next()?.trim().parse().ok());
        if first == Some(self.at) {
            return Ok(());
        }
        Err(self.target.wrong(&format!("the range {range:?}, where bytes from {} on were asked for", self.at)))
    }

    async fn wait(&mut self, error: Error) -> Result<(), Error> {
        if self.since >= PROGRESS {
            self.since = 0;
            self.pauses = Pauses::new(&self.http.settings);
        }
        self.pauses.after(error).await
    }

    /// Returns the next bytes of the range `left`. Bytes that are sent again after a broken connection are dropped.
    pub(crate) async fn next_of(&mut self, left: &mut Range<u64>) -> Result<Option<Bytes>, Error> {
        while let Some(chunk) = self.next().await? {
            let bytes = clip(chunk, left);
            if !bytes.is_empty() {
                left.start += bytes.len() as u64;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// Part of a chunk that lies in `range`.
fn clip((at, bytes): (u64, Bytes), range: &Range<u64>) -> Bytes {
    let inside = |place: u64| usize::try_from(place.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    let (from, to) = (inside(range.start), inside(range.end));
    bytes.slice(from.min(to)..to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_to_the_range() {
        let clip = |range| clip((10, Bytes::from_static(b"abcdef")), &range);
        assert_eq!(clip(12..14), "cd");
        assert_eq!(clip(0..12), "ab");
        assert_eq!(clip(14..99), "ef");
        assert_eq!(clip(10..16), "abcdef");
        assert_eq!(clip(0..10), "");
        assert_eq!(clip(16..20), "");
    }
}
