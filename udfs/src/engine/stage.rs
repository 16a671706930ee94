//! Model calls split into pieces that fit into memory.

use super::shared::Inner;
use crate::error::{Error, Result};

/// A stage of a batch: model calls that can be split into pieces of any size.
pub(super) trait Stage<T> {
    /// Bytes that one call needs for these items.
    fn bytes(&self, items: &[T]) -> usize;
    /// Index at which to split these items in two.
    fn middle(&self, items: &[T]) -> usize;
    /// Whether nobody waits for these items any more.
    fn is_cancelled(&self, items: &[T]) -> bool;
    /// Calls the model and delivers the results.
    fn call(&mut self, items: &mut [T]) -> Result<()>;
    /// Reports that memory did not suffice for these items.
    fn fail(&mut self, items: &mut [T], error: Error);

    /// Calls the model for all items, as many at once as memory allows.
    fn run(&mut self, inner: &Inner, mut items: &mut [T]) -> Result<()> {
        while !items.is_empty() {
            let free = inner.room_for_work(self.bytes(&items[..1]));
            let mut n = 1;
            while n < items.len() && self.bytes(&items[..=n]) <= free {
                n += 1;
            }
            let (piece, rest) = items.split_at_mut(n);
            self.halving(inner, piece)?;
            items = rest;
        }
        Ok(())
    }

    /// Makes one call, or two of half the size if memory runs out, recursively down to one item.
    fn halving(&mut self, inner: &Inner, items: &mut [T]) -> Result<()> {
        if self.is_cancelled(items) {
            return Ok(());
        }
        match self.call(items) {
            Err(Error::OutOfMemory(why)) if items.len() > 1 => {
                log::debug!("out of memory with {} at once, trying half: {why}", items.len());
                let middle = self.middle(items);
                let (a, b) = items.split_at_mut(middle);
                self.halving(inner, a)?;
                self.halving(inner, b)
            }
            Err(Error::OutOfMemory(_)) => {
                inner.shed();
                match self.call(items) {
                    Err(Error::OutOfMemory(why)) => {
                        let message = format!(
                            "{why}; it was one image or text alone, with the embedding cache and idle models given up: free \
                             memory on the device, or leave more of it by a lower SET capfilt.memory_limit, \
                             capfilt.device_memory or capfilt.max_batch_images"
                        );
                        self.fail(items, Error::OutOfMemory(message));
                        Ok(())
                    }
                    other => other,
                }
            }
            other => other,
        }
    }
}
