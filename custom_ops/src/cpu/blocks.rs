//! Blocks of 32 rows by 32 columns, as products of words of small numbers take them.
//!
//! The rows' words lie in *chunks* of sixteen, a line of the cache, at places that a list names: of
//! a packed matrix they follow each other, of a convolution they are where its taps begin. A panel
//! has 32 words a step, one of each column, as [`super::panels`] packs it.

use super::COLUMNS;

/// Words of a row that lie side by side.
pub(crate) const CHUNK: usize = 16;
/// Rows of a block, in two halves.
pub(crate) const BLOCK: usize = 32;
/// Panels whose sums are in the first-level cache at a time.
pub(crate) const PANELS: usize = 4;
/// Products of a block after which as many panels as it was multiplied by are fetched.
pub(crate) const FETCHES: usize = 16;
/// Rows of half a block.
pub(crate) const HALF: usize = BLOCK / 2;

/// A block's sums, row after row.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Sums<T>(pub [[T; COLUMNS]; BLOCK]);

impl Sums<f32> {
    pub(crate) const ZERO: Self = Self([[0.; COLUMNS]; BLOCK]);
}

impl Sums<i32> {
    pub(crate) const ZERO: Self = Self([[0; COLUMNS]; BLOCK]);
}

/// The rows of a block: chunk `c` of row `r` begins at `start + chunks[c] + r * row_stride`, and
/// rows from the sixteenth on lie `lower` words further than the first sixteen.
#[derive(Clone, Copy)]
pub(crate) struct WordRows<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) start: usize,
    pub(crate) lower: usize,
    pub(crate) row_stride: usize,
    pub(crate) chunks: &'a [usize],
}

impl<'a> WordRows<'a> {
    /// Words of a panel.
    pub(crate) fn panel(&self) -> usize {
        self.chunks.len() * CHUNK * COLUMNS
    }

    /// Whether there are chunks, all of them lie inside `words`, and a panel of `panel` words has
    /// 32 for each step.
    pub(super) fn fit(&self, panel: usize) -> bool {
        let reach = self.start + self.lower + (HALF - 1) * self.row_stride + CHUNK;
        let last = self.words.len().checked_sub(reach);
        !self.chunks.is_empty()
            && panel >= self.panel()
            && last.is_some_and(|last| self.chunks.iter().all(|&chunk| chunk <= last))
    }

    /// Chunk `c` of row `r`.
    #[inline(always)]
    pub(super) fn chunk(&self, r: usize, c: usize) -> &'a [u32; CHUNK] {
        let row = r / HALF * self.lower + r % HALF * self.row_stride;
        let first = self.start + self.chunks[c] + row;
        self.words[first..]
            .first_chunk()
            .expect("a chunk inside the words")
    }
}
