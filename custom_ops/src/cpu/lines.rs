//! Memory that vectors and tiles of the matrix unit are read from.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use rayon::prelude::*;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Values that begin with a line of the cache. A vector of 64 bytes that lies across two lines is
/// read in two steps, a tile of Intel's matrix unit in a third of the speed.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    values: Vec<MaybeUninit<T>>,
    start: usize,
    length: usize,
}

impl<T: Copy + Default + Send> Lines<T> {
    /// `count` parts of `length` values side by side; all threads clear them and hand them to
    /// `fill`.
    pub(crate) fn filled(
        count: usize,
        length: usize,
        fill: impl Fn(usize, &mut [T]) + Sync,
    ) -> Self {
        let clear_and_fill = |index, part: &mut [MaybeUninit<T>]| {
            part.fill(MaybeUninit::new(T::default()));
            // SAFETY: all were just written.
            fill(index, unsafe { part.assume_init_mut() });
        };
        // SAFETY: they are all cleared.
        unsafe { Self::written(count, length, clear_and_fill) }
    }

    /// The same, not cleared before.
    ///
    /// # Safety
    /// `fill` writes every value of its part.
    pub(crate) unsafe fn written(
        count: usize,
        length: usize,
        fill: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
    ) -> Self {
        let total = count * length;
        let spare = LINE / size_of::<T>();
        let mut values = Vec::<MaybeUninit<T>>::with_capacity(total + spare);
        // SAFETY: there is room, and values that may be uninitialised need not be written.
        unsafe { values.set_len(total + spare) };
        let start = values.as_ptr().align_offset(LINE);
        values[start..][..total]
            .par_chunks_mut(length.max(1))
            .enumerate()
            .for_each(|(index, part)| fill(index, part));
        Self {
            values,
            start,
            length: total,
        }
    }

    pub(crate) fn zeros(length: usize) -> Self {
        Self::filled(1, length, |_, _| {})
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `written` wrote them.
        unsafe { self.values[self.start..][..self.length].assume_init_ref() }
    }
}

impl<T> DerefMut for Lines<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { self.values[self.start..][..self.length].assume_init_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_with_a_line_and_are_what_was_written() {
        for length in [0, 1, 3, 1000] {
            let lines = Lines::<u32>::filled(7, length, |index, part| {
                assert!(part.iter().all(|&value| value == 0));
                part.fill(index as u32);
            });
            assert!(lines.as_ptr().addr().is_multiple_of(LINE));
            let want: Vec<u32> = (0..7).flat_map(|index| vec![index; length]).collect();
            assert_eq!(*lines, want);
        }
        assert_eq!(*Lines::<u16>::zeros(5), [0; 5]);
    }
}
