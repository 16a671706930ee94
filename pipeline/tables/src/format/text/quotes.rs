//! Check that the quotes of a CSV file are closed: an unclosed quote would swallow the rows after it.

use std::io::{self, Read};

/// Reader that checks the quotes of a CSV file, without its byte order mark, as it is read.
pub(crate) struct Quotes<R> {
    file: R,
    at: At,
    line: u64,
    /// Line of the last quote that opened a field.
    opened: u64,
    /// Line of the first opening quote whose field goes on after the closing quote.
    stray: Option<u64>,
}

/// Scanner state within a field.
#[derive(PartialEq)]
enum At {
    Start,
    Plain,
    Quoted,
    /// After a quote in a quoted field: the closing one, or the first of two.
    Closed,
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.see(&into[..read]);
        Ok(read)
    }
}

impl<R> Quotes<R> {
    pub(crate) fn of(file: R) -> Self {
        Self { file, at: At::Start, line: 1, opened: 1, stray: None }
    }

    fn see(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line += u64::from(byte == b'\n');
            match (&self.at, byte) {
                (At::Start, b'"') => (self.at, self.opened) = (At::Quoted, self.line),
                (At::Start | At::Plain | At::Closed, b',' | b'\n') => self.at = At::Start,
                (At::Start | At::Closed, b'\r') | (At::Plain, _) => {}
                (At::Quoted, b'"') => self.at = At::Closed,
                (At::Quoted, _) => {}
                (At::Closed, b'"') => self.at = At::Quoted,
                (At::Closed, _) => {
                    self.stray.get_or_insert(self.opened);
                    self.at = At::Plain;
                }
                (At::Start, _) => self.at = At::Plain,
            }
        }
    }

    /// Checks the quotes after the file was read to its end; the error names the line of the faulty one.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let line = match (&self.stray, &self.at) {
            (Some(line), _) => line,
            (None, At::Quoted) => &self.opened,
            _ => return Ok(()),
        };
        Err(format!(
            "the quote that opens a field in line {line} is not closed at the field's end: write a quote that is part of a text twice, \
             and quotes around the text"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Quotes<()> {
        let mut seen = Quotes::of(());
        // In pieces, as a file is read.
        text.as_bytes().chunks(3).for_each(|piece| seen.see(piece));
        seen
    }

    #[test]
    fn quotes_are_closed() {
        for well in
            ["a,b\n1,2\n", "a,b\n\"x, \"\"y\"\"\n z\",2\r\n\"\",\"3\"", "\"a\",b\n1,12\" pipe\n", "a\r\n\"1\"\r\n", ""]
        {
            assert_eq!(seen(well).finish(), Ok(()), "{well:?}");
        }
        for (text, line) in [
            ("a,b\n1,2\n3,\"12 inch\n4,5\n", 3),
            ("a,b\n1,\"x\n2,y\"z\n", 2),
            ("a,b\n\"two\nlines\",2\n1,\"x\"y\n", 4),
            ("a\n\"", 2),
        ] {
            let problem = seen(text).finish().unwrap_err();
            assert!(problem.contains(&format!("line {line} ")), "{text:?}: {problem}");
        }
    }
}
