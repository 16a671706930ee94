//! A TIFF's first directory: tags with lists of numbers.

/// Directory of the first image. Nothing is copied: tags and numbers are read in place, so that a list takes no memory
/// whatever length it claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// BigTIFF: eight-byte offsets and counts.
    big: bool,
    start: usize,
    entries: u64,
}

/// A list of numbers within the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    data: &'a [u8],
    little: bool,
    /// Bytes per number.
    size: usize,
}

fn number(little: bool, digits: &[u8]) -> u64 {
    let push = |number: u64, digit: &u8| number << 8 | u64::from(*digit);
    if little { digits.iter().rev().fold(0, push) } else { digits.iter().fold(0, push) }
}

impl<'a> Directory<'a> {
    /// `None` if the file ends before the directory does.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let little = bytes.first() == Some(&b'I');
        let at = |at: usize, size: usize| bytes.get(at..at.checked_add(size)?).map(|digits| number(little, digits));
        let big = at(2, 2)? == 43;
        let (start, counter) = if big { (at(8, 8)?, 8) } else { (at(4, 4)?, 2) };
        let start = usize::try_from(start).ok()?;
        let entries = at(start, counter)?;
        let directory = Self { bytes, little, big, start: start.checked_add(counter)?, entries };
        let length = usize::try_from(entries).ok()?.checked_mul(directory.entry())?;
        bytes.get(directory.start..directory.start.checked_add(length)?)?;
        Some(directory)
    }

    pub(super) fn little(&self) -> bool {
        self.little
    }

    /// Bytes per entry: tag, type, count, and the value or its offset.
    fn entry(&self) -> usize {
        if self.big { 20 } else { 12 }
    }

    /// Numbers of a tag; `None` if the tag is missing, of another type, empty, or past the end of the file.
    pub(super) fn list(&self, tag: u16) -> Option<List<'a>> {
        let word = if self.big { 8 } else { 4 };
        let entry = (self.start..).step_by(self.entry()).take(self.entries as usize).find_map(|at| {
            let entry = self.bytes.get(at..at + self.entry())?;
            (number(self.little, &entry[..2]) == u64::from(tag)).then_some(entry)
        })?;
        let size = match number(self.little, &entry[2..4]) {
            1 | 7 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => return None,
        };
        let count = usize::try_from(number(self.little, &entry[4..4 + word])).ok()?;
        let length = count.checked_mul(size).filter(|length| *length > 0)?;
        let value = &entry[4 + word..];
        let data = match value.get(..length) {
            Some(data) => data,
            None => {
                let start = usize::try_from(number(self.little, value)).ok()?;
                self.bytes.get(start..start.checked_add(length)?)?
            }
        };
        Some(List { data, little: self.little, size })
    }

    /// The first number of a tag.
    pub(super) fn first(&self, tag: u16) -> Option<u64> {
        self.list(tag)?.get(0)
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        self.data.len() / self.size
    }

    pub(super) fn get(&self, index: usize) -> Option<u64> {
        let at = index.checked_mul(self.size)?;
        Some(number(self.little, self.data.get(at..at.checked_add(self.size)?)?))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + 'a {
        let little = self.little;
        self.data.chunks_exact(self.size).map(move |digits| number(little, digits))
    }

    /// Bytes of the list as stored in the file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.data
    }
}
