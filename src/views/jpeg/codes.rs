//! Huffman codes, and the bits that they are read from.

use super::super::header::Failure;

/// Coded data that no encoder writes.
pub(super) struct Corrupt;

/// Bits of the code that one look-up covers.
pub(super) const LOOK: u32 = 11;
pub(super) const LONGEST: usize = 16;

/// Set in a look-up entry that has the value as well as the code.
pub(super) const HAS_VALUE: u32 = 1 << 6;
pub(super) const LENGTH: u32 = HAS_VALUE - 1;

/// A code table, for look-ups.
///
/// An entry has the bits to drop (0 of a code longer than the look-up), [`HAS_VALUE`], from bit 8
/// the run of zeros, from bit 12 the size of the value, and from bit 16 the value, where it lies
/// within the look-up too.
pub(super) struct Huffman {
    pub(super) look: Box<[u32; 1 << LOOK]>,
    /// For each length, the first code that is longer, aligned to 16 bits.
    end: [u32; LONGEST + 1],
    /// For each length, what to add to a code for the place of its symbol.
    offset: [i32; LONGEST + 1],
    pub(super) symbols: [u8; 256],
}

impl Huffman {
    /// A table from the counts of codes by length, and their symbols.
    pub(super) fn new(
        counts: &[u8; LONGEST],
        symbols: &[u8],
        is_dc: bool,
    ) -> Result<Self, Failure> {
        let damaged = || Failure::Damaged("a Huffman table contradicts itself".to_owned());
        let mut table = Self {
            look: Box::new([0; 1 << LOOK]),
            end: [0; LONGEST + 1],
            offset: [0; LONGEST + 1],
            symbols: [0; 256],
        };
        table
            .symbols
            .get_mut(..symbols.len())
            .ok_or_else(damaged)?
            .copy_from_slice(symbols);
        // 16 is of lossless files alone.
        if is_dc && symbols.iter().any(|&symbol| symbol > 16) {
            return Err(damaged());
        }
        let (mut code, mut place) = (0u32, 0);
        for (length, &count) in (1u32..).zip(counts) {
            let slot = length as usize;
            table.offset[slot] = place as i32 - code as i32;
            for _ in 0..count {
                if length <= LOOK {
                    let free = LOOK - length;
                    for rest in 0..1 << free {
                        let entry = table
                            .look
                            .get_mut((code << free | rest) as usize)
                            .ok_or_else(damaged)?;
                        *entry = entry_of(table.symbols[place], length, rest, free);
                    }
                }
                code += 1;
                place += 1;
            }
            if code > 1 << length {
                return Err(damaged());
            }
            table.end[slot] = code << (LONGEST as u32 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// The entry for a symbol whose code has `length` bits and is followed by the `free` bits of
/// `rest`.
fn entry_of(symbol: u8, length: u32, rest: u32, free: u32) -> u32 {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    let common = run << 8 | size << 12;
    if size == 0 || size > free {
        return common | length;
    }
    let value = extend(rest >> (free - size), size);
    common | HAS_VALUE | (length + size) | (value as u32) << 16
}

/// The value of `size` bits, of which the smaller half are negative.
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    // One where the first bit is 0.
    let negative = (bits >> (size.wrapping_sub(1) & 31)) as i32 - 1;
    bits as i32 + (negative & (1 - (1 << size)))
}

/// The standard's tables for luma and chroma, which streams of Motion JPEG leave out.
pub(super) fn standard(number: usize, is_dc: bool) -> Option<Box<Huffman>> {
    const DC: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    let (counts, symbols): (&[u8; LONGEST], &[u8]) = match (is_dc, number) {
        (true, 0) => (&[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &DC),
        (true, 1) => (&[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &DC),
        (false, 0) => (
            &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
            &STANDARD_AC_LUMA,
        ),
        (false, 1) => (
            &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
            &STANDARD_AC_CHROMA,
        ),
        _ => return None,
    };
    Huffman::new(counts, symbols, is_dc).ok().map(Box::new)
}

#[rustfmt::skip]
const STANDARD_AC_LUMA: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
    0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
    0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
    0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];

#[rustfmt::skip]
const STANDARD_AC_CHROMA: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
    0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
    0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
    0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
    0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];

/// Bits from coded data, up to the next marker.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    /// The next bits, from the highest on.
    window: u64,
    /// How many of them count.
    count: u32,
    /// Zeros that were added behind the end, all in all.
    added: u64,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            window: 0,
            count: 0,
            added: 0,
        }
    }

    /// Makes sure of 32 bits at least.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            self.fill_window();
        }
    }

    #[inline(always)]
    fn fill_window(&mut self) {
        const ONES: u64 = u64::MAX / 0xFF;
        if let Some(next) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let next = u64::from_be_bytes(*next);
            // No byte is FF.
            if (!next).wrapping_sub(ONES) & next & (ONES << 7) == 0 {
                self.window |= next >> self.count;
                let bytes = (63 - self.count) / 8;
                self.at += bytes as usize;
                self.count += 8 * bytes;
                return;
            }
        }
        *self = self.filled_by_bytes();
    }

    /// By value, so that the fast way keeps its fields in registers.
    #[cold]
    #[inline(never)]
    fn filled_by_bytes(mut self) -> Self {
        // What a fast fill left behind the bits that count.
        self.window &= !(u64::MAX >> self.count);
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at..).unwrap_or_default() {
                [0xFF, 0x00, ..] => {
                    self.at += 2;
                    0xFF
                }
                [0xFF, 0xFF, ..] => {
                    self.at += 1;
                    continue;
                }
                [0xFF, ..] | [] => {
                    self.added += 8;
                    0
                }
                [byte, ..] => {
                    self.at += 1;
                    *byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        // In two steps, so that none at all are 0.
        (self.window >> 1 >> (63 - bits)) as u32
    }

    #[inline(always)]
    pub(super) fn drop(&mut self, bits: u32) {
        self.window <<= bits;
        self.count -= bits;
    }

    /// The next bits, of which there must be as many.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        let value = self.peek(bits);
        self.drop(bits);
        value
    }

    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        self.fill();
        self.take(1) != 0
    }

    /// A code's entry. The code is dropped, and the value with it where it is there. Leaves 16 bits
    /// at least.
    #[inline(always)]
    pub(super) fn code(&mut self, table: &Huffman) -> Result<u32, Corrupt> {
        self.fill();
        let entry = table.look[self.peek(LOOK) as usize];
        if entry & LENGTH != 0 {
            self.drop(entry & LENGTH);
            return Ok(entry);
        }
        let entry = long_code(self.peek(LONGEST as u32), table)?;
        self.drop(entry & LENGTH);
        Ok(entry)
    }

    /// The value that belongs to an entry.
    #[inline(always)]
    pub(super) fn value(&mut self, entry: u32) -> i32 {
        if entry & HAS_VALUE != 0 {
            return entry as i32 >> 16;
        }
        let size = size_of(entry);
        let bits = self.take(size);
        if size == 0 { 0 } else { extend(bits, size) }
    }

    /// The next difference of a lossless scan.
    #[inline(always)]
    pub(super) fn difference(&mut self, table: &Huffman) -> Result<u16, Corrupt> {
        let entry = self.code(table)?;
        Ok(if run_of(entry) == 0 {
            self.value(entry) as u16
        } else {
            1 << 15
        })
    }

    /// The place of the next byte, never behind the next marker.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether more was read than there is.
    pub(super) fn overrun(&self) -> bool {
        self.added > u64::from(self.count)
    }
}

/// The entry of a code that is longer than a look-up, from 16 bits.
#[cold]
#[inline(never)]
pub(super) fn long_code(code: u32, table: &Huffman) -> Result<u32, Corrupt> {
    let length = (LOOK as usize + 1..=LONGEST)
        .find(|&length| code < table.end[length])
        .ok_or(Corrupt)?;
    let place = (code >> (LONGEST - length)) as i32 + table.offset[length];
    let symbol = usize::try_from(place)
        .ok()
        .and_then(|place| table.symbols.get(place))
        .ok_or(Corrupt)?;
    Ok(entry_of(*symbol, length as u32, 0, 0))
}

#[inline(always)]
pub(super) fn run_of(entry: u32) -> usize {
    (entry >> 8 & 15) as usize
}

#[inline(always)]
pub(super) fn size_of(entry: u32) -> u32 {
    entry >> 12 & 15
}
