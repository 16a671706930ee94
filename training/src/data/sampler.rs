//! Which pair comes next: tables mixed by their shares, each shuffled within a bounded buffer, epoch after epoch.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::table::{Rows, Table};
use crate::error::Result;
use crate::random::{Purpose, below, generator, unit};
use crate::settings::TextChoice;

/// An image with one of its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// How many came before it.
    pub number: u64,
    /// Encoded.
    pub image: Arc<[u8]>,
    /// Equal for equal bytes.
    pub image_id: u64,
    /// Its text.
    pub text: Arc<str>,
}

/// What is shuffled: an image with one text or, with [`TextChoice::One`], all that follow each other.
type Group = (Arc<[u8]>, Vec<Arc<str>>);

/// One table's pairs, without end.
#[derive(Debug)]
struct Stream {
    table: Arc<Table>,
    number: u64,
    epoch: u64,
    rows: Rows,
    /// The first row of the next group.
    ahead: Option<Group>,
    ended: bool,
    buffer: Vec<Group>,
    rng: ChaCha8Rng,
    taken: f64,
}

/// An endless, reproducible sequence of pairs: it depends on tables, seed and options only.
#[derive(Debug)]
pub struct Sampler {
    streams: Vec<Stream>,
    seed: u64,
    texts: TextChoice,
    most: usize,
    number: u64,
}

impl Sampler {
    /// `buffer`: groups that are shuffled among each other, of all tables together.
    pub fn new(tables: Vec<Arc<Table>>, seed: u64, texts: TextChoice, buffer: usize) -> Result<Self> {
        let most = (buffer / tables.len().max(1)).max(1);
        let streams = tables.into_iter().enumerate().map(|(number, table)| {
            let (rows, number) = (table.rows()?, number as u64);
            let rng = generator(seed, number << 32, Purpose::Shuffle);
            let (ahead, ended, buffer) = (None, false, vec![]);
            Ok(Stream { table, number, epoch: 0, rows, ahead, ended, buffer, rng, taken: 0.0 })
        });
        Ok(Self { streams: streams.collect::<Result<_>>()?, seed, texts, most, number: 0 })
    }

    /// Passes over pairs, as a resumed run does. It reads what it passes over, but decodes nothing.
    pub fn skip(&mut self, pairs: u64) -> Result<()> {
        for _ in 0..pairs {
            self.draw()?;
        }
        Ok(())
    }

    /// The next pair.
    pub fn draw(&mut self) -> Result<Pair> {
        let total: f64 = self.streams.iter().map(|s| s.table.share()).sum();
        // The table that is furthest behind its share: every stretch of the sequence has the mixture's proportions.
        let due = (self.number + 1) as f64 / total;
        let behind = |s: &Stream| s.table.share() * due - s.taken;
        let mut next = 0;
        for i in 1..self.streams.len() {
            if behind(&self.streams[i]) > behind(&self.streams[next]) {
                next = i;
            }
        }
        let stream = &mut self.streams[next];
        stream.taken += 1.0;
        let (image, texts) = stream.draw(self.seed, self.texts, self.most)?;
        let number = self.number;
        self.number += 1;
        let text = match &texts[..] {
            [text] => Arc::clone(text),
            texts => Arc::clone(&texts[below(texts.len(), &mut generator(self.seed, number, Purpose::Text))]),
        };
        let [a, b, c, d, e, f, g, h, ..] = Into::<[u8; 32]>::into(Sha256::digest(&image));
        // A positive int64, as the queue holds it.
        let image_id = u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1;
        Ok(Pair { number, image, image_id, text })
    }
}

impl Stream {
    /// A group from anywhere in the buffer, whose place the next one takes. An epoch ends with an empty buffer.
    fn draw(&mut self, seed: u64, texts: TextChoice, most: usize) -> Result<Group> {
        loop {
            while !self.ended && self.buffer.len() < most {
                self.read(texts)?;
            }
            if !self.buffer.is_empty() {
                let at = below(self.buffer.len(), &mut self.rng);
                return Ok(self.buffer.swap_remove(at));
            }
            // Weights below 1 may leave an epoch with no row at all; the table's size is above 0, so one comes.
            self.epoch += 1;
            self.rows = self.table.rows()?;
            self.ended = false;
            self.rng = generator(seed, self.number << 32 | self.epoch, Purpose::Shuffle);
        }
    }

    /// Reads a row into the buffer.
    fn read(&mut self, texts: TextChoice) -> Result<()> {
        let Some(row) = self.rows.next().transpose()? else {
            self.ended = true;
            self.buffer.extend(self.ahead.take());
            return Ok(());
        };
        let copies =
            row.weight.floor() as u64 + u64::from(row.weight.fract() > 0.0 && unit(&mut self.rng) < row.weight.fract());
        for _ in 0..copies {
            match (&mut self.ahead, texts) {
                (_, TextChoice::All) => self.buffer.push((Arc::clone(&row.image), vec![Arc::clone(&row.text)])),
                (Some((image, of_image)), _) if Arc::ptr_eq(image, &row.image) => of_image.push(Arc::clone(&row.text)),
                (ahead, _) => {
                    let group = (Arc::clone(&row.image), vec![Arc::clone(&row.text)]);
                    self.buffer.extend(ahead.replace(group));
                }
            }
        }
        Ok(())
    }
}
