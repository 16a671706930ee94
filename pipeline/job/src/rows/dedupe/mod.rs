//! `--dedupe`: finds rows that repeat an earlier one, before any model runs.
//!
//! The first pass writes a hash of each row beside the table, one file per source file; a finished file survives any
//! interruption. The hashes are then sorted on disk, which brings equal ones together. Pictures that merely look alike
//! are found by an equal part of their perceptual hash ([`hamming`]), and similar texts ([`text_sketch`]) by a band of their
//! MinHash signature ([`minhash_bands`], LSH). Beside a gigabyte or two, memory holds 16 bytes for each picture with a new
//! perceptual hash or each new text, and one bit for each row. On disk, a text temporarily takes about a kilobyte.
//!
//! In this module `at` is a row's number, counted through all files in the source's order.

pub(crate) mod duplicates;
pub(crate) mod hamming;
pub(crate) mod hashes;
pub(crate) mod minhash_bands;
pub(crate) mod options;
pub(crate) mod pass;
pub(crate) mod repeats;
pub(crate) mod representatives;
pub(crate) mod sorted_files;
pub(crate) mod text_sketch;
