//! The order of pairs: tables mixed by their shares, each shuffled within a bounded buffer, epoch after epoch.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::table::{Answer, Rows, Table};
use crate::error::Result;
use crate::random::{Purpose, below, generator, unit};
use crate::settings::TextChoice;

/// Current epoch of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Epoch number, from 0.
    pub number: u64,
    /// Pairs of the table drawn before this epoch.
    pub before: u64,
}

/// Position of a sampler, from which a run is resumed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Pairs drawn from all tables.
    #[serde(rename = "position")]
    pub pairs: u64,
    /// Epoch of each table; missing entries mean the first epoch.
    pub epochs: Vec<Epoch>,
}

/// An image with one of its texts or questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Number of pairs drawn before it.
    pub number: u64,
    /// Encoded image.
    pub image: Arc<[u8]>,
    /// Id of the image; equal for equal bytes.
    pub image_id: u64,
    /// Text of the pair, or question.
    pub text: Arc<str>,
    /// The question's answers; empty for a pair.
    pub answers: Arc<[Answer]>,
    /// Epoch of each table once this pair is drawn.
    pub epochs: Arc<[Epoch]>,
}

/// Limits of the shuffle buffer, over all tables. It is held in memory, and always has room for one group of any size.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Maximum number of groups.
    pub groups: usize,
    /// Maximum bytes of their encoded images; an image in several groups counts in each.
    pub bytes: usize,
}

/// A text, and its answers if it is a question.
type Text = (Arc<str>, Arc<[Answer]>);

/// Unit of shuffling: an image with one text or, with [`TextChoice::One`], with all its consecutive texts.
type Group = (Arc<[u8]>, Vec<Text>);

/// Endless stream of one table's pairs.
#[derive(Debug)]
struct Stream {
    table: Arc<Table>,
    number: u64,
    epoch: Epoch,
    rows: Rows,
    /// The next group, which is still collecting consecutive rows.
    ahead: Option<Group>,
    ended: bool,
    buffer: Vec<Group>,
    /// Bytes of the images in the buffer.
    bytes: usize,
    rng: ChaCha8Rng,
    taken: u64,
}

/// An endless, reproducible sequence of pairs that depends only on tables, seed and options.
#[derive(Debug)]
pub struct Sampler {
    streams: Vec<Stream>,
    seed: u64,
    texts: TextChoice,
    /// Limits of each table's buffer.
    most: Buffer,
    number: u64,
    epochs: Arc<[Epoch]>,
}

impl Sampler {
    /// Starts each table's first epoch.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub fn new(tables: Vec<Arc<Table>>, seed: u64, texts: TextChoice, buffer: Buffer) -> Result<Self> {
        let share = |all: usize| all / tables.len().max(1);
        let most = Buffer { groups: share(buffer.groups), bytes: share(buffer.bytes) };
        let streams = tables.into_iter().enumerate().map(|(number, table)| {
            let (rows, number, epoch) = (table.rows()?, number as u64, Epoch::default());
            let rng = epoch.shuffle(seed, number);
            let (ahead, ended, buffer) = (None, false, vec![]);
            Ok(Stream { table, number, epoch, rows, ahead, ended, buffer, bytes: 0, rng, taken: 0 })
        });
        let streams = streams.collect::<Result<Vec<_>>>()?;
        let epochs = streams.iter().map(|stream| stream.epoch).collect();
        Ok(Self { streams, seed, texts, most, number: 0, epochs })
    }

    /// Fast-forwards a new sampler of the same tables, seed and options to a position. It rereads each table's current
    /// epoch up to there, without decoding images.
    pub fn skip(&mut self, to: &Position) -> Result<()> {
        for _ in self.number..to.pairs {
            let next = self.next();
            self.streams[next].taken += 1;
            self.number += 1;
        }
        for (i, stream) in self.streams.iter_mut().enumerate() {
            stream.epoch = to.epochs.get(i).copied().unwrap_or_default();
            stream.rng = stream.epoch.shuffle(self.seed, stream.number);
            let taken = std::mem::replace(&mut stream.taken, stream.epoch.before);
            while stream.taken < taken {
                stream.draw(self.seed, self.texts, self.most)?;
            }
        }
        self.epochs = self.streams.iter().map(|stream| stream.epoch).collect();
        Ok(())
    }

    /// Index of the table furthest behind its share, so that every stretch of the sequence has the mixture's
    /// proportions.
    fn next(&self) -> usize {
        let total: f64 = self.streams.iter().map(|s| s.table.share()).sum();
        let due = (self.number + 1) as f64 / total;
        let behind = |s: &Stream| s.table.share() * due - s.taken as f64;
        let mut next = 0;
        for i in 1..self.streams.len() {
            if behind(&self.streams[i]) > behind(&self.streams[next]) {
                next = i;
            }
        }
        next
    }

    /// Draws the next pair.
    pub fn draw(&mut self) -> Result<Pair> {
        let next = self.next();
        let stream = &mut self.streams[next];
        let (image, texts) = stream.draw(self.seed, self.texts, self.most)?;
        if stream.epoch != self.epochs[next] {
            self.epochs = self.streams.iter().map(|stream| stream.epoch).collect();
        }
        let number = self.number;
        self.number += 1;
        let (text, answers) = match &texts[..] {
            [text] => text.clone(),
            texts => texts[below(texts.len(), &mut generator(self.seed, number, Purpose::Text))].clone(),
        };
        let [a, b, c, d, e, f, g, h, ..] = Into::<[u8; 32]>::into(Sha256::digest(&image));
        // A non-negative int64, as the ITC queue stores it.
        let image_id = u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1;
        Ok(Pair { number, image, image_id, text, answers, epochs: Arc::clone(&self.epochs) })
    }
}

impl Epoch {
    /// Random generator that shuffles a table in this epoch.
    fn shuffle(self, seed: u64, table: u64) -> ChaCha8Rng {
        generator(seed, table << 32 | self.number, Purpose::Shuffle)
    }
}

impl Stream {
    /// Draws a random group from the buffer, which is refilled first. An epoch ends when the buffer is empty.
    fn draw(&mut self, seed: u64, texts: TextChoice, most: Buffer) -> Result<Group> {
        loop {
            let more = |s: &Self| s.buffer.is_empty() || s.buffer.len() < most.groups && s.bytes < most.bytes;
            while !self.ended && more(self) {
                self.read(texts)?;
            }
            if !self.buffer.is_empty() {
                let at = below(self.buffer.len(), &mut self.rng);
                self.taken += 1;
                let group = self.buffer.swap_remove(at);
                self.bytes -= group.0.len();
                return Ok(group);
            }
            // Weights below 1 may leave an epoch without any row. The table's size is above 0, so a later epoch has
            // one.
            self.epoch = Epoch { number: self.epoch.number + 1, before: self.taken };
            self.rows = self.table.rows()?;
            self.ended = false;
            self.rng = self.epoch.shuffle(seed, self.number);
        }
    }

    /// Reads one row, which may complete a group for the buffer.
    fn read(&mut self, texts: TextChoice) -> Result<()> {
        let Some(row) = self.rows.next().transpose()? else {
            self.ended = true;
            let last = self.ahead.take();
            self.hold(last);
            return Ok(());
        };
        let copies =
            row.weight.floor() as u64 + u64::from(row.weight.fract() > 0.0 && unit(&mut self.rng) < row.weight.fract());
        let text = || (Arc::clone(&row.text), Arc::clone(&row.answers));
        for _ in 0..copies {
            match (&mut self.ahead, texts) {
                (_, TextChoice::All) => self.hold(Some((Arc::clone(&row.image), vec![text()]))),
                (Some((image, of_image)), _) if Arc::ptr_eq(image, &row.image) => of_image.push(text()),
                (ahead, _) => {
                    let group = (Arc::clone(&row.image), vec![text()]);
                    let before = ahead.replace(group);
                    self.hold(before);
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, group: Option<Group>) {
        self.bytes += group.as_ref().map_or(0, |(image, _)| image.len());
        self.buffer.extend(group);
    }
}
