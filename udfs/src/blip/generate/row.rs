//! Rows that the decoder computes.

/// One row of the decoder's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index of the row of the previous step that this row continues.
    pub parent: usize,
    /// Input token.
    pub token: u32,
}

/// Rows before the first step: one for the whole prompt, or none if there is no room for a token.
pub(super) fn first_rows(prompt: &[u32], max_length: usize) -> Vec<Row> {
    let last = prompt.last().filter(|_| prompt.len() < max_length);
    last.map(|&token| Row { parent: 0, token }).into_iter().collect()
}
