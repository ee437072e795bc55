//! Products of 32 by 32 blocks by Intel's matrix unit (AMX): two tiles of sixteen rows by two tiles
//! of sixteen columns, whose sums stay in the unit from the first to the last step.

use std::arch::asm;
use std::iter::repeat;
use std::marker::PhantomData;

use super::COLUMNS;
use super::blocks::{BLOCK, CHUNK, FETCHES, Sums, WordRows};

/// What a thread tells the unit of its eight tiles: sixteen rows of 64 bytes each.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether the processor has the unit for bfloat16 and int8 and the system lets this process use it.
pub(super) fn is_usable() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let has_unit =
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_TILE_INT8 == BF16_TILE_INT8;
    has_unit && is_permitted()
}

/// Asks Linux for the tiles' registers, which it saves for processes that asked only.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const SYS_ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = SYS_ARCH_PRCTL;
    // SAFETY: the call reads no memory and changes only what the system saves of this process.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What a product by each panel is to fetch of those ahead, or, past their end, of its own, which are
/// in the cache already.
pub(super) fn parts<'a>(
    ahead: &'a [u32],
    panels: &'a [u32],
    panel: usize,
) -> impl Iterator<Item = &'a [u32]> {
    ahead.chunks(panel / FETCHES).chain(repeat(panels))
}

/// This thread's unit, ready to multiply. The system saves its tiles at every change of threads
/// until this is dropped.
pub(super) struct Unit(
    /// Of this thread.
    PhantomData<*mut ()>,
);

macro_rules! block {
    ($name:ident, $number:ty, $product:literal) => {
        /// `out = A B`; meanwhile a sixteenth of a panel comes into the second-level cache, from the
        /// beginning of `ahead` on, whether or not it is that long.
        ///
        /// # Panics
        /// If rows or panel do not hold what the chunks address.
        pub(super) fn $name(
            &self,
            a: WordRows<'_>,
            panel: &[u32],
            ahead: &[u32],
            out: &mut Sums<$number>,
        ) {
            assert!(a.fit(panel.len()), "a block reaches beyond its operands");
            const { assert!(CHUNK == 16 && COLUMNS == 32 && BLOCK == 32 && FETCHES == 16) };
            // SAFETY: every chunk of both halves and the panel were just found to fit, and the sums
            // are 32 rows of 128 bytes. Fetching is a hint, of any address. The unit has its tiles
            // while this lives.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "mov {word}, [{chunks}]",
                    "lea {row}, [{a} + 4 * {word}]",
                    "tileloadd tmm6, [{b} + {columns}]",
                    "tileloadd tmm4, [{row} + {stride}]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b} + {columns} + 64]",
                    "prefetcht1 [{ahead}]",
                    "prefetcht1 [{ahead} + 64]",
                    "add {row}, {lower}",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{row} + {stride}]",
                    "add {chunks}, 8",
                    "add {b}, 2048",
                    "add {ahead}, 128",
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{out} + {columns}], tmm0",
                    "tilestored [{out} + {columns} + 64], tmm1",
                    "tilestored [{out} + {columns} + 2048], tmm2",
                    "tilestored [{out} + {columns} + 2112], tmm3",
                    word = out(reg) _,
                    chunks = inout(reg) a.chunks.as_ptr() => _,
                    count = inout(reg) a.chunks.len() => _,
                    a = in(reg) a.words.as_ptr().add(a.start),
                    row = out(reg) _,
                    lower = in(reg) 4 * a.lower,
                    stride = in(reg) 4 * a.row_stride,
                    b = inout(reg) panel.as_ptr() => _,
                    ahead = inout(reg) ahead.as_ptr() => _,
                    columns = in(reg) 4 * COLUMNS,
                    out = in(reg) out.0.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

impl Unit {
    /// # Safety
    /// [`is_usable`].
    pub(super) unsafe fn new() -> Self {
        // SAFETY: by the contract above; the shapes are 64 bytes that the unit accepts.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack)) };
        Self(PhantomData)
    }

    block!(bf16, f32, "tdpbf16ps");
    block!(int8, i32, "tdpbssd");
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: `new` found a unit here.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}
