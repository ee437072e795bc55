//! The instruction sets, and running one piece of work compiled for the best of them.

use std::sync::OnceLock;

use super::{Tile, tiles};

/// An instruction set: its register tiles and its fused multiply-add.
pub(crate) trait Level: Copy + Send + Sync + 'static {
    /// `a * b + c`, fused where the set has it.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;

    /// `tile = A B` in float32, see [`Rows`] for `A`; `b` is a panel.
    ///
    /// # Safety
    /// The CPU has this level.
    ///
    /// # Panics
    /// If a row, step or segment lies outside `a`, or `b` does not hold 32 values per step.
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_, f32>,
        b: &[f32],
        tile: &mut Tile,
    );

    /// `tile = A B` with pairs of bfloat16 in each word, summed in float32.
    ///
    /// # Safety
    /// As [`Level::tile_f32`].
    ///
    /// # Panics
    /// As [`Level::tile_f32`].
    unsafe fn tile_bf16<const R: usize, const PACKED: bool>(
        a: Rows<'_, u32>,
        b: &[u32],
        tile: &mut Tile,
    );
}

/// Where a tile's rows of `A` lie: word `(row, step)` of segment `s` is at `segments[s] + row *
/// row_stride + step`, or, packed with `R` rows, at `segments[s] + step * R + row`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) words: &'a [T],
    pub(crate) segments: &'a [usize],
    /// Steps in each segment.
    pub(crate) steps: usize,
    /// Ignored when packed.
    pub(crate) row_stride: usize,
}

// The portable level checks every index itself.
#[cfg(any(test, target_arch = "x86_64"))]
impl<T> Rows<'_, T> {
    /// Whether all rows, steps and segments of a tile of `R` rows lie inside `words`, and a panel
    /// of `panel` values has 32 for each step.
    #[inline(always)]
    pub(super) fn fit<const R: usize, const PACKED: bool>(&self, panel: usize) -> bool {
        let reach = if PACKED {
            self.steps * R
        } else {
            (R - 1) * self.row_stride + self.steps
        };
        let last = self.words.len().checked_sub(reach);
        panel >= self.segments.len() * self.steps * super::COLUMNS
            && last.is_some_and(|last| self.segments.iter().all(|&segment| segment <= last))
    }
}

/// Work compiled once per instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Task {
    fn run<L: Level>(&mut self);
}

/// AVX-512 with bfloat16 dot products.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16;
/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512;
/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2;
/// Whatever the compiler makes of plain loops for its target; NEON on Apple and other ARM machines.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Best {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

fn best() -> Best {
    static BEST: OnceLock<Best> = OnceLock::new();
    *BEST.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 =
                avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if avx512
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vl")
            {
                return Best::Avx512Bf16;
            }
            if avx512 {
                return Best::Avx512;
            }
            if avx2 {
                return Best::Avx2;
            }
        }
        Best::Portable
    })
}

/// The name of the instruction set in use, for reports.
pub fn instruction_set() -> &'static str {
    match best() {
        #[cfg(target_arch = "x86_64")]
        Best::Avx512Bf16 => "AVX-512 with BF16",
        #[cfg(target_arch = "x86_64")]
        Best::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Best::Avx2 => "AVX2",
        Best::Portable => "portable",
    }
}

/// Whether this CPU multiplies pairs of bfloat16 natively.
pub(crate) fn bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return best() == Best::Avx512Bf16;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `task` as compiled for the best instruction set of this CPU.
#[inline]
pub(crate) fn run(task: &mut impl Task) {
    match best() {
        #[cfg(target_arch = "x86_64")]
        Best::Avx512Bf16 => {
            // SAFETY: `best` has just found the features on this CPU.
            unsafe { on_avx512_bf16(task) }
        }
        #[cfg(target_arch = "x86_64")]
        Best::Avx512 => {
            // SAFETY: as above.
            unsafe { on_avx512(task) }
        }
        #[cfg(target_arch = "x86_64")]
        Best::Avx2 => {
            // SAFETY: as above.
            unsafe { on_avx2(task) }
        }
        Best::Portable => task.run::<Portable>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
fn on_avx512_bf16(task: &mut impl Task) {
    task.run::<Avx512Bf16>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
fn on_avx512(task: &mut impl Task) {
    task.run::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn on_avx2(task: &mut impl Task) {
    task.run::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
impl Level for Avx512Bf16 {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_, f32>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        // SAFETY: by the caller's contract.
        unsafe { tiles::avx512::f32::<R, PACKED>(a, b, tile) }
    }

    #[inline(always)]
    unsafe fn tile_bf16<const R: usize, const PACKED: bool>(
        a: Rows<'_, u32>,
        b: &[u32],
        tile: &mut Tile,
    ) {
        // SAFETY: by the caller's contract.
        unsafe { tiles::avx512::bf16::<R, PACKED>(a, b, tile) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Level for Avx512 {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_, f32>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        // SAFETY: by the caller's contract.
        unsafe { tiles::avx512::f32::<R, PACKED>(a, b, tile) }
    }

    #[inline(always)]
    unsafe fn tile_bf16<const R: usize, const PACKED: bool>(
        a: Rows<'_, u32>,
        b: &[u32],
        tile: &mut Tile,
    ) {
        tiles::portable::bf16::<Self, R, PACKED>(a, b, tile);
    }
}

#[cfg(target_arch = "x86_64")]
impl Level for Avx2 {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_, f32>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        // Sixteen registers: four rows of two are sums, the rest operands.
        tiles::portable::f32::<Self, R, PACKED, 4, 16>(a, b, tile);
    }

    #[inline(always)]
    unsafe fn tile_bf16<const R: usize, const PACKED: bool>(
        a: Rows<'_, u32>,
        b: &[u32],
        tile: &mut Tile,
    ) {
        tiles::portable::bf16::<Self, R, PACKED>(a, b, tile);
    }
}

impl Level for Portable {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        // Without a fused instruction `f32::mul_add` is a library call.
        if cfg!(target_arch = "aarch64") {
            a.mul_add(b, c)
        } else {
            a * b + c
        }
    }

    #[inline(always)]
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_, f32>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        tiles::portable::f32::<Self, R, PACKED, 4, 16>(a, b, tile);
    }

    #[inline(always)]
    unsafe fn tile_bf16<const R: usize, const PACKED: bool>(
        a: Rows<'_, u32>,
        b: &[u32],
        tile: &mut Tile,
    ) {
        tiles::portable::bf16::<Self, R, PACKED>(a, b, tile);
    }
}

#[cfg(test)]
mod tests {
    use super::super::COLUMNS;
    use super::*;

    #[test]
    fn rows_outside_the_words_do_not_fit() {
        let words = [0f32; 24];
        let rows = |segments, steps, row_stride| Rows {
            words: &words,
            segments,
            steps,
            row_stride,
        };
        // Packed: three rows side by side, twice, from either end.
        assert!(rows(&[0, 18], 2, 0).fit::<3, true>(4 * COLUMNS));
        assert!(!rows(&[0, 19], 2, 0).fit::<3, true>(4 * COLUMNS));
        assert!(!rows(&[0, 18], 2, 0).fit::<3, true>(4 * COLUMNS - 1));
        // In place: the last row begins at twice the stride.
        assert!(rows(&[0, 14], 2, 4).fit::<3, false>(4 * COLUMNS));
        assert!(!rows(&[15, 0], 2, 4).fit::<3, false>(4 * COLUMNS));
        assert!(!rows(&[0], 25, 0).fit::<1, true>(25 * COLUMNS));
    }
}
