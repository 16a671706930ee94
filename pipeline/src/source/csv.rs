//! What the types that are found for a CSV file do not tell: whether its quotes are well, and which numbers are none.

/// A CSV file as it goes by.
pub(super) struct Seen {
    at: At,
    line: u64,
    /// Bytes of the file so far, up to those of a byte order mark.
    bytes: usize,
    row: u64,
    column: usize,
    /// How the field begins.
    head: [u8; 3],
    length: usize,
    /// The line of the last quote that opened a field.
    opened: u64,
    /// The line of the first one after whose end the field goes on.
    stray: Option<u64>,
    /// Columns in which a number begins with a zero, as those of an id or a postal code do.
    zeros: Vec<bool>,
}

/// Where in a field.
#[derive(PartialEq)]
enum At {
    Start,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    Closed,
}

impl Seen {
    pub(super) fn new() -> Self {
        let (line, opened) = (1, 1);
        Self {
            at: At::Start,
            line,
            bytes: 0,
            row: 0,
            column: 0,
            head: [0; 3],
            length: 0,
            opened,
            stray: None,
            zeros: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.bytes < 3 {
                self.bytes += 1;
                if byte == [0xef, 0xbb, 0xbf][self.bytes - 1] {
                    continue;
                }
                self.bytes = 3;
            }
            self.line += u64::from(byte == b'\n');
            match (&self.at, byte) {
                (At::Start, b'"') => (self.at, self.opened) = (At::Quoted, self.line),
                (At::Start | At::Plain | At::Closed, b',') => self.end(false),
                (At::Start | At::Plain | At::Closed, b'\n') => self.end(true),
                (At::Start | At::Closed, b'\r') => {}
                (At::Quoted, b'"') => self.at = At::Closed,
                (At::Closed, b'"') => self.at = At::Quoted,
                (At::Closed, _) => {
                    self.stray.get_or_insert(self.opened);
                    self.at = At::Plain;
                }
                (at, byte) => {
                    if *at == At::Start {
                        self.at = At::Plain;
                    }
                    if let Some(place) = self.head.get_mut(self.length) {
                        (*place, self.length) = (byte, self.length + 1);
                    }
                }
            }
        }
    }

    fn end(&mut self, of_row: bool) {
        let head = &self.head[..self.length];
        let digits = head.strip_prefix(b"-").unwrap_or(head);
        // The first row are the names.
        if self.row > 0 && digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit() {
            self.zeros.resize(self.zeros.len().max(self.column + 1), false);
            self.zeros[self.column] = true;
        }
        (self.at, self.length) = (At::Start, 0);
        (self.row, self.column) = if of_row { (self.row + 1, 0) } else { (self.row, self.column + 1) };
    }

    /// The file is read to its end. Errors say what is wrong with its quotes.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        let line = match (&self.stray, &self.at) {
            (Some(line), _) => line,
            (None, At::Quoted) => &self.opened,
            _ => {
                self.end(true);
                return Ok(());
            }
        };
        Err(format!(
            "the quote that opens a field in line {line} is not closed at the field's end: write a quote that is part of a text twice, \
             and quotes around the text"
        ))
    }

    /// Whether a column has numbers that begin with a zero.
    pub(super) fn has_zeros(&self, column: usize) -> bool {
        self.zeros.get(column).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Seen {
        let mut seen = Seen::new();
        // In pieces, as a file comes.
        text.as_bytes().chunks(3).for_each(|piece| seen.read(piece));
        seen
    }

    #[test]
    fn quotes_are_closed() {
        for well in [
            "a,b\n1,2\n",
            "a,b\n\"x, \"\"y\"\"\n z\",2\r\n\"\",\"3\"",
            "\u{feff}\"a\",b\n1,12\" pipe\n",
            "a\r\n\"1\"\r\n",
            "",
        ] {
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

    #[test]
    fn zeros_are_seen() {
        let mut all = seen("00,b,c,d,e\n1,007,0,\"01\",x\n2,3,0.5,4,-01");
        all.finish().unwrap();
        let zeros: Vec<bool> = (0..5).map(|column| all.has_zeros(column)).collect();
        assert_eq!(zeros, [false, true, false, true, true]);
    }
}
