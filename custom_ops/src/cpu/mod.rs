//! What the CPU side of every op shares: the choice of instruction set, packed matrices, the
//! register tiles, and the few elementary functions.
//!
//! One scheme serves linear layers, convolutions and attention. A product `A B` is computed in
//! tiles of at most 12 rows by 32 columns that live in registers from the first to the last step of
//! the inner dimension, so partial sums never travel to memory and whatever follows (bias, GELU,
//! residual) is applied while the tile is hot. `B` is stored in *panels* of 32 columns,
//! `[panel][step][32]`; `A` either in row tiles, `[tile][step][rows]`, or as it lies in memory when
//! its rows do not collide in the cache.
//!
//! In bfloat16 a step is a pair of neighbouring values in one 32-bit word, and sums are kept in
//! float32; in int8 it is four values, with exact sums. Their products are blocks of 32 rows by 32
//! columns ([`blocks`]), which suit Intel's matrix unit as well as registers.

#![allow(unsafe_code)] // SIMD loads and disjoint writes from several threads; each use states its invariant.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod blocks;
pub(crate) mod element;
pub(crate) mod elementary;
mod int8;
pub(crate) mod levels;
pub(crate) mod lines;
pub(crate) mod panels;
mod tiles;
pub(crate) mod words;

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, bail};

/// Rows of the largest register tile.
pub(crate) const ROWS: usize = 12;
/// Columns of every register tile and of a panel.
pub(crate) const COLUMNS: usize = 32;

/// One register tile's sums, row after row.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Tile(pub [[f32; COLUMNS]; ROWS]);

impl Tile {
    pub(crate) const ZERO: Self = Self([[0.; COLUMNS]; ROWS]);
}

/// An output that several threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    first: *mut T,
    length: usize,
    /// Nobody else has the slice meanwhile.
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: users write disjoint ranges.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            first: slice.as_mut_ptr(),
            length: slice.len(),
            slice: PhantomData,
        }
    }

    /// The `length` elements from `start`.
    ///
    /// # Safety
    /// No other thread touches the range meanwhile.
    ///
    /// # Panics
    /// If it does not lie inside the slice given to `new`.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, length: usize) -> &mut [T] {
        assert!(
            start <= self.length && length <= self.length - start,
            "a range outside the output"
        );
        // SAFETY: it lies inside, and by the contract above nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), length) }
    }
}

/// A vector of `length` elements that `fill` writes, not cleared before.
///
/// # Safety
/// `fill` writes every element of the slice that it is given.
pub(crate) unsafe fn written<T>(length: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut values = Vec::with_capacity(length);
    fill(&mut values.spare_capacity_mut()[..length]);
    // SAFETY: the capacity is at least `length`, and by the contract above all of it is written.
    unsafe { values.set_len(length) };
    values
}

/// The f32 elements of a contiguous argument.
pub(crate) fn contiguous_f32<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: on the CPU activations are f32, got another dtype");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!(
            "{op}: input must be contiguous, got strides {:?}",
            layout.stride()
        ),
    }
}

/// The f32 elements behind a strided argument, from its first element on.
pub(crate) fn strided_f32<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: on the CPU activations are f32, got another dtype");
    };
    Ok(&values[layout.start_offset()..])
}
