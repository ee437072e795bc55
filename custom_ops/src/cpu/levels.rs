//! The instruction sets, and running one piece of work compiled for the best of them.

use std::sync::OnceLock;

use super::{COLUMNS, Tile, blocks::CHUNK, element::bf16_pair, tiles};

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
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(a: Rows<'_>, b: &[f32], tile: &mut Tile);

    /// `values += more`. The compiler unrolls loops of this length into single numbers before it
    /// looks for vectors, here and below.
    #[inline(always)]
    fn add(values: &mut [f32; COLUMNS], more: &[f32; COLUMNS]) {
        for (value, more) in values.iter_mut().zip(more) {
            *value += more;
        }
    }

    /// `values = factor values + more`, fused where the set has it.
    #[inline(always)]
    fn scale_add(values: &mut [f32; COLUMNS], factor: f32, more: &[f32; COLUMNS]) {
        for (value, &more) in values.iter_mut().zip(more) {
            *value = Self::mul_add(*value, factor, more);
        }
    }

    /// `largest = max(largest, values)`; what is not a number counts for nothing.
    #[inline(always)]
    fn maximum(largest: &mut [f32; COLUMNS], values: &[f32; COLUMNS]) {
        for (largest, &value) in largest.iter_mut().zip(values) {
            *largest = if value > *largest { value } else { *largest };
        }
    }

    /// The largest of numbers, by halves.
    #[inline(always)]
    fn largest(values: &[f32; COLUMNS]) -> f32 {
        let mut values = *values;
        let mut width = COLUMNS / 2;
        while width > 0 {
            for i in 0..width {
                values[i] = values[i].max(values[i + width]);
            }
            width /= 2;
        }
        values[0]
    }

    /// A chunk of words of two bfloat16, rounded as [`bf16_pair`] does.
    #[inline(always)]
    fn bf16_words(values: &[f32; COLUMNS]) -> [u32; CHUNK] {
        std::array::from_fn(|i| bf16_pair(values[2 * i], values[2 * i + 1]))
    }
}

/// Where a tile's rows of `A` lie: word `(row, step)` of segment `s` is at `segments[s] + row *
/// row_stride + step`, or, packed with `R` rows, at `segments[s] + step * R + row`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) words: &'a [f32],
    pub(crate) segments: &'a [usize],
    /// Steps in each segment.
    pub(crate) steps: usize,
    /// Ignored when packed.
    pub(crate) row_stride: usize,
}

// The portable level checks every index itself.
#[cfg(any(test, target_arch = "x86_64"))]
impl Rows<'_> {
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

/// What this process multiplies with: a [`Level`] for float32 and for everything around products,
/// and instructions for smaller numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    /// AVX-512 with bfloat16 and int8 dot products, and Intel's matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with bfloat16 and int8 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 with int8 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA and int8 dot products.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with matrix products of int8.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    /// NEON with int8 dot products.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// Plain loops.
    Portable,
}

/// The sets, best first, with the names that [`FORCED`] takes and those of reports.
const SETS: &[(Set, &str, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (Set::Amx, "amx", "AVX-512 with AMX"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx512Bf16, "avx512-bf16", "AVX-512 with BF16"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx512Vnni, "avx512-vnni", "AVX-512 with VNNI"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx512, "avx512", "AVX-512"),
    #[cfg(target_arch = "x86_64")]
    (Set::AvxVnni, "avx-vnni", "AVX2 with VNNI"),
    #[cfg(target_arch = "x86_64")]
    (Set::Avx2, "avx2", "AVX2"),
    #[cfg(target_arch = "aarch64")]
    (Set::NeonI8mm, "neon-i8mm", "NEON with I8MM"),
    #[cfg(target_arch = "aarch64")]
    (Set::NeonDot, "neon-dotprod", "NEON with dot products"),
    (Set::Portable, "portable", "portable"),
];

/// The environment variable that names the instruction set to use in place of the best.
const FORCED: &str = "MAST3R_INSTRUCTIONS";

impl Set {
    /// Whether this processor has it.
    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = || {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            };
            let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
            let bf16 = || vnni() && is_x86_feature_detected!("avx512bf16");
            match self {
                Self::Amx => bf16() && super::amx::is_usable(),
                Self::Avx512Bf16 => bf16(),
                Self::Avx512Vnni => vnni(),
                Self::Avx512 => avx512(),
                Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
                Self::Avx2 => avx2(),
                Self::Portable => true,
            }
        }
        #[cfg(target_arch = "aarch64")]
        match self {
            Self::NeonI8mm => std::arch::is_aarch64_feature_detected!("i8mm"),
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            Self::Portable => true,
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        true
    }

    /// All that this processor has, best first.
    pub(crate) fn here() -> impl Iterator<Item = Self> {
        SETS.iter()
            .map(|&(set, ..)| set)
            .filter(|set| set.is_here())
    }
}

/// The set in use: the best of this processor, or the one that the environment names.
pub(crate) fn set() -> Set {
    static SET: OnceLock<Set> = OnceLock::new();
    *SET.get_or_init(|| {
        let best = || Set::here().next().unwrap_or(Set::Portable);
        forced().ok().flatten().unwrap_or_else(best)
    })
}

/// The set that the environment names, or why it cannot be used.
fn forced() -> Result<Option<Set>, String> {
    let Some(name) = std::env::var_os(FORCED).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    named(&name.to_string_lossy()).map(Some)
}

fn named(name: &str) -> Result<Set, String> {
    let here: Vec<_> = SETS.iter().filter(|(set, ..)| set.is_here()).collect();
    match here.iter().find(|(_, short, _)| *short == name) {
        Some(&&(set, ..)) => Ok(set),
        None => {
            let names: Vec<_> = here.iter().map(|(_, short, _)| *short).collect();
            Err(format!(
                "{FORCED}={name}: this processor has {}",
                names.join(", ")
            ))
        }
    }
}

/// Whether the instruction set that the environment variable `MAST3R_INSTRUCTIONS` names, if it
/// names one, is there; where it is not, the best one is used.
///
/// # Errors
/// With the names of those that are.
pub fn check_instruction_set() -> Result<(), String> {
    forced().map(|_| ())
}

/// The name of the instruction set in use, for reports.
pub fn instruction_set() -> &'static str {
    let set = set();
    SETS.iter()
        .find(|(other, ..)| *other == set)
        .map_or("portable", |(_, _, name)| name)
}

/// Whether this CPU multiplies pairs of bfloat16 natively.
pub(crate) fn bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(set(), Set::Amx | Set::Avx512Bf16);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `task` as compiled for the best instruction set of this CPU.
#[inline]
pub(crate) fn run(task: &mut impl Task) {
    match set() {
        #[cfg(target_arch = "x86_64")]
        Set::Amx | Set::Avx512Bf16 | Set::Avx512Vnni | Set::Avx512 => {
            // SAFETY: `set` has found the features on this CPU.
            unsafe { on_avx512(task) }
        }
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni | Set::Avx2 => {
            // SAFETY: as above.
            unsafe { on_avx2(task) }
        }
        _ => task.run::<Portable>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn on_avx512(task: &mut impl Task) {
    task.run::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn on_avx2(task: &mut impl Task) {
    task.run::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
impl Level for Avx512 {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn tile_f32<const R: usize, const PACKED: bool>(
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        // SAFETY: by the caller's contract.
        unsafe { tiles::avx512::f32::<R, PACKED>(a, b, tile) }
    }

    #[inline(always)]
    fn add(values: &mut [f32; COLUMNS], more: &[f32; COLUMNS]) {
        // SAFETY: code for this level runs where `run` has found its features only.
        unsafe { tiles::avx512::add(values, more) }
    }

    #[inline(always)]
    fn scale_add(values: &mut [f32; COLUMNS], factor: f32, more: &[f32; COLUMNS]) {
        // SAFETY: as above.
        unsafe { tiles::avx512::scale_add(values, factor, more) }
    }

    #[inline(always)]
    fn maximum(largest: &mut [f32; COLUMNS], values: &[f32; COLUMNS]) {
        // SAFETY: as above.
        unsafe { tiles::avx512::maximum(largest, values) }
    }

    #[inline(always)]
    fn largest(values: &[f32; COLUMNS]) -> f32 {
        // SAFETY: as above.
        unsafe { tiles::avx512::largest(values) }
    }

    #[inline(always)]
    fn bf16_words(values: &[f32; COLUMNS]) -> [u32; CHUNK] {
        // SAFETY: as above.
        unsafe { tiles::avx512::bf16_words(values) }
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
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        // SAFETY: by the caller's contract.
        unsafe {
            if R.is_multiple_of(6) {
                tiles::avx2::f32::<R, PACKED, 6>(a, b, tile);
            } else {
                tiles::avx2::f32::<R, PACKED, 4>(a, b, tile);
            }
        }
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
        a: Rows<'_>,
        b: &[f32],
        tile: &mut Tile,
    ) {
        tiles::portable::f32::<Self, R, PACKED, 4, 16>(a, b, tile);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_found_by_name_where_the_processor_has_them() {
        for set in Set::here() {
            let (_, name, _) = SETS.iter().find(|(other, ..)| *other == set).unwrap();
            assert_eq!(named(name), Ok(set));
        }
        let message = named("mmx").unwrap_err();
        assert!(
            message.contains("mmx") && message.contains("portable"),
            "{message}"
        );
    }

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
