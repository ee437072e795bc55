//! Scans with arithmetic coding, as annexes D, F and G of ITU-T T.81 describe it.

use super::codes::Corrupt;
use super::frame::{Block, Conditioning, Frame, Scan, Tables, ZIGZAG};
use super::scan::Entropy;

/// Table D.3 of the standard: the less probable symbol's probability, the next state after it and
/// after the more probable symbol, and whether the two change places. The last state, which stays,
/// is that of equal probabilities.
#[rustfmt::skip]
const STATES: [(u16, u8, u8, bool); 114] = [
    (0x5A1D, 1, 1, true), (0x2586, 14, 2, false), (0x1114, 16, 3, false), (0x080B, 18, 4, false),
    (0x03D8, 20, 5, false), (0x01DA, 23, 6, false), (0x00E5, 25, 7, false), (0x006F, 28, 8, false),
    (0x0036, 30, 9, false), (0x001A, 33, 10, false), (0x000D, 35, 11, false), (0x0006, 9, 12, false),
    (0x0003, 10, 13, false), (0x0001, 12, 13, false), (0x5A7F, 15, 15, true), (0x3F25, 36, 16, false),
    (0x2CF2, 38, 17, false), (0x207C, 39, 18, false), (0x17B9, 40, 19, false), (0x1182, 42, 20, false),
    (0x0CEF, 43, 21, false), (0x09A1, 45, 22, false), (0x072F, 46, 23, false), (0x055C, 48, 24, false),
    (0x0406, 49, 25, false), (0x0303, 51, 26, false), (0x0240, 52, 27, false), (0x01B1, 54, 28, false),
    (0x0144, 56, 29, false), (0x00F5, 57, 30, false), (0x00B7, 59, 31, false), (0x008A, 60, 32, false),
    (0x0068, 62, 33, false), (0x004E, 63, 34, false), (0x003B, 32, 35, false), (0x002C, 33, 9, false),
    (0x5AE1, 37, 37, true), (0x484C, 64, 38, false), (0x3A0D, 65, 39, false), (0x2EF1, 67, 40, false),
    (0x261F, 68, 41, false), (0x1F33, 69, 42, false), (0x19A8, 70, 43, false), (0x1518, 72, 44, false),
    (0x1177, 73, 45, false), (0x0E74, 74, 46, false), (0x0BFB, 75, 47, false), (0x09F8, 77, 48, false),
    (0x0861, 78, 49, false), (0x0706, 79, 50, false), (0x05CD, 48, 51, false), (0x04DE, 50, 52, false),
    (0x040F, 50, 53, false), (0x0363, 51, 54, false), (0x02D4, 52, 55, false), (0x025C, 53, 56, false),
    (0x01F8, 54, 57, false), (0x01A4, 55, 58, false), (0x0160, 56, 59, false), (0x0125, 57, 60, false),
    (0x00F6, 58, 61, false), (0x00CB, 59, 62, false), (0x00AB, 61, 63, false), (0x008F, 61, 32, false),
    (0x5B12, 65, 65, true), (0x4D04, 80, 66, false), (0x412C, 81, 67, false), (0x37D8, 82, 68, false),
    (0x2FE8, 83, 69, false), (0x293C, 84, 70, false), (0x2379, 86, 71, false), (0x1EDF, 87, 72, false),
    (0x1AA9, 87, 73, false), (0x174E, 72, 74, false), (0x1424, 72, 75, false), (0x119C, 74, 76, false),
    (0x0F6B, 74, 77, false), (0x0D51, 75, 78, false), (0x0BB6, 77, 79, false), (0x0A40, 77, 48, false),
    (0x5832, 80, 81, true), (0x4D1C, 88, 82, false), (0x438E, 89, 83, false), (0x3BDD, 90, 84, false),
    (0x34EE, 91, 85, false), (0x2EAE, 92, 86, false), (0x299A, 93, 87, false), (0x2516, 86, 71, false),
    (0x5570, 88, 89, true), (0x4CA9, 95, 90, false), (0x44D9, 96, 91, false), (0x3E22, 97, 92, false),
    (0x3824, 99, 93, false), (0x32B4, 99, 94, false), (0x2E17, 93, 86, false), (0x56A8, 95, 96, true),
    (0x4F46, 101, 97, false), (0x47E5, 102, 98, false), (0x41CF, 103, 99, false), (0x3C3D, 104, 100, false),
    (0x375E, 99, 93, false), (0x5231, 105, 102, false), (0x4C0F, 106, 103, false), (0x4639, 107, 104, false),
    (0x415E, 103, 99, false), (0x5627, 105, 106, true), (0x50E7, 108, 107, false), (0x4B85, 109, 103, false),
    (0x5597, 110, 109, false), (0x504F, 111, 107, false), (0x5A10, 110, 111, true), (0x5522, 112, 109, false),
    (0x59EB, 112, 111, true), (0x5A1D, 113, 113, false),
];

/// The state of equal probabilities.
const EVEN: u8 = 113;

/// What was learnt of one binary decision.
#[derive(Clone, Copy, Default)]
struct Bin {
    state: u8,
    /// The more probable symbol.
    likely: bool,
}

/// The decoder of binary decisions.
struct Decisions<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The code register: 16 bits of code, 8 bits to come, 8 bits of room for carries.
    code: u32,
    interval: u32,
    /// Shifts until the next byte is due.
    shifts: u32,
}

impl<'a> Decisions<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        let mut decisions = Self {
            bytes,
            at,
            code: 0,
            interval: 0x1_0000,
            shifts: 0,
        };
        for _ in 0..2 {
            decisions.next_byte();
            decisions.code <<= 8;
        }
        decisions
    }

    /// Adds the next byte of the data. Behind their end come zeros, which encoders may leave out.
    fn next_byte(&mut self) {
        let byte = loop {
            match self.bytes.get(self.at..).unwrap_or_default() {
                [0xFF, 0x00, ..] => {
                    self.at += 2;
                    break 0xFF;
                }
                [0xFF, 0xFF, ..] => self.at += 1,
                [0xFF, ..] | [] => break 0,
                [byte, ..] => {
                    self.at += 1;
                    break *byte;
                }
            }
        };
        self.code += u32::from(byte) << 8;
    }

    fn decide(&mut self, bin: &mut Bin) -> bool {
        let (probability, after_unlikely, after_likely, exchange) = STATES[usize::from(bin.state)];
        let probability = u32::from(probability);
        self.interval -= probability;
        let in_lower = self.code >> 16 < self.interval;
        // In the middle of the scale the two parts may have changed sizes, and so the symbols their
        // parts.
        let is_likely = in_lower == (self.interval >= probability);
        if in_lower && self.interval >= 0x8000 {
            return bin.likely;
        }
        if !in_lower {
            self.code -= self.interval << 16;
            self.interval = probability;
        }
        let symbol = bin.likely == is_likely;
        if is_likely {
            bin.state = after_likely;
        } else {
            bin.likely ^= exchange;
            bin.state = after_unlikely;
        }
        while self.interval < 0x8000 {
            if self.shifts == 0 {
                self.next_byte();
                self.shifts = 8;
            }
            self.interval <<= 1;
            self.code <<= 1;
            self.shifts -= 1;
        }
        symbol
    }

    /// A decision of equal probabilities.
    fn even(&mut self) -> bool {
        self.decide(&mut Bin {
            state: EVEN,
            likely: false,
        })
    }
}

/// Bins of the two kinds of tables, from tables F.4 and F.5.
const DC_BINS: usize = 49;
const AC_BINS: usize = 245;
const DC_MAGNITUDES: usize = 20;
const AC_MAGNITUDES_LOW: usize = 189;
const AC_MAGNITUDES_HIGH: usize = 217;
/// From the bins of a magnitude's category to those of its bits.
const TO_BITS: usize = 14;

/// Decodes the blocks of one scan.
pub(super) struct ArithmeticScan<'a> {
    decisions: Decisions<'a>,
    progressive: bool,
    first: usize,
    last: usize,
    high: u32,
    low: u32,
    conditioning: [Conditioning; 16],
    /// The numbers of each slot's tables.
    tables: Vec<(usize, usize)>,
    dc_bins: [[Bin; DC_BINS]; 16],
    ac_bins: [[Bin; AC_BINS]; 16],
    dc: [i32; 4],
    /// The category of each slot's last difference, as the place of its bins.
    context: [usize; 4],
}

impl<'a> ArithmeticScan<'a> {
    pub(super) fn new(
        bytes: &'a [u8],
        at: usize,
        frame: &Frame,
        scan: &Scan,
        tables: &Tables,
    ) -> Self {
        Self {
            decisions: Decisions::new(bytes, at),
            progressive: frame.progressive,
            first: scan.first,
            last: scan.last,
            high: scan.high,
            low: scan.low,
            conditioning: tables.conditioning,
            tables: scan.slots.iter().map(|slot| (slot.dc, slot.ac)).collect(),
            dc_bins: [[Bin::default(); DC_BINS]; 16],
            ac_bins: [[Bin::default(); AC_BINS]; 16],
            dc: [0; 4],
            context: [0; 4],
        }
    }

    fn next_dc(&mut self, slot: usize) -> Result<i32, Corrupt> {
        let number = self.tables[slot].0;
        let bins = &mut self.dc_bins[number];
        let start = self.context[slot];
        if !self.decisions.decide(&mut bins[start]) {
            self.context[slot] = 0;
            return Ok(self.dc[slot]);
        }
        let negative = self.decisions.decide(&mut bins[start + 1]);
        let mut bin = start + 2 + usize::from(negative);
        let mut magnitude = u32::from(self.decisions.decide(&mut bins[bin]));
        if magnitude != 0 {
            bin = DC_MAGNITUDES;
            while self.decisions.decide(&mut bins[bin]) {
                magnitude <<= 1;
                bin += 1;
                if magnitude == 0x8000 {
                    return Err(Corrupt);
                }
            }
        }
        let Conditioning { lower, upper, .. } = self.conditioning[number];
        let sign = 4 * usize::from(negative);
        self.context[slot] = match magnitude {
            _ if magnitude < (1 << lower) >> 1 => 0,
            _ if magnitude > (1 << upper) >> 1 => 12 + sign,
            _ => 4 + sign,
        };
        let value = self.decisions.magnitude(bins, bin + TO_BITS, magnitude);
        self.dc[slot] = self.dc[slot].wrapping_add(if negative { -value } else { value });
        Ok(self.dc[slot])
    }

    /// Coefficients `from..=last` of a block.
    fn bands(&mut self, slot: usize, from: usize, block: &mut Block) -> Result<(), Corrupt> {
        let number = self.tables[slot].1;
        let bins = &mut self.ac_bins[number];
        let kx = self.conditioning[number].kx;
        let mut k = from;
        while k <= self.last {
            if self.decisions.decide(&mut bins[3 * (k - 1)]) {
                break;
            }
            while !self.decisions.decide(&mut bins[3 * (k - 1) + 1]) {
                k += 1;
                if k > self.last {
                    return Err(Corrupt);
                }
            }
            let negative = self.decisions.even();
            let mut bin = 3 * (k - 1) + 2;
            let mut magnitude = u32::from(self.decisions.decide(&mut bins[bin]));
            if magnitude != 0 && self.decisions.decide(&mut bins[bin]) {
                magnitude <<= 1;
                bin = if k <= kx {
                    AC_MAGNITUDES_LOW
                } else {
                    AC_MAGNITUDES_HIGH
                };
                while self.decisions.decide(&mut bins[bin]) {
                    magnitude <<= 1;
                    bin += 1;
                    if magnitude == 0x8000 {
                        return Err(Corrupt);
                    }
                }
            }
            let value = self.decisions.magnitude(bins, bin + TO_BITS, magnitude);
            let value = if negative { -value } else { value };
            block[usize::from(ZIGZAG[k])] = (value << self.low) as i16;
            k += 1;
        }
        Ok(())
    }

    fn refine(&mut self, slot: usize, block: &mut Block) -> Result<(), Corrupt> {
        let step = 1i16 << self.low;
        let bins = &mut self.ac_bins[self.tables[slot].1];
        // Up to the last coefficient that is known the block cannot have ended.
        let known = (1..=self.last)
            .rev()
            .find(|&k| block[usize::from(ZIGZAG[k])] != 0)
            .unwrap_or(0);
        let mut k = self.first;
        while k <= self.last {
            if k > known && self.decisions.decide(&mut bins[3 * (k - 1)]) {
                break;
            }
            loop {
                let coefficient = &mut block[usize::from(ZIGZAG[k])];
                if *coefficient != 0 {
                    if self.decisions.decide(&mut bins[3 * (k - 1) + 2]) {
                        *coefficient =
                            coefficient.wrapping_add(if *coefficient < 0 { -step } else { step });
                    }
                    break;
                }
                if self.decisions.decide(&mut bins[3 * (k - 1) + 1]) {
                    *coefficient = if self.decisions.even() { -step } else { step };
                    break;
                }
                k += 1;
                if k > self.last {
                    return Err(Corrupt);
                }
            }
            k += 1;
        }
        Ok(())
    }
}

impl Decisions<'_> {
    /// The bits of a value below its highest, which `magnitude` is; one more is the value.
    fn magnitude(&mut self, bins: &mut [Bin], bin: usize, magnitude: u32) -> i32 {
        let mut value = magnitude;
        let mut bit = magnitude >> 1;
        while bit != 0 {
            if self.decide(&mut bins[bin]) {
                value |= bit;
            }
            bit >>= 1;
        }
        value as i32 + 1
    }
}

impl Entropy for ArithmeticScan<'_> {
    fn decode(&mut self, slot: usize, block: &mut Block) -> Result<(), Corrupt> {
        if !self.progressive {
            block[0] = self.next_dc(slot)? as i16;
            return self.bands(slot, 1, block);
        }
        match (self.first, self.high) {
            (0, 0) => block[0] = (self.next_dc(slot)? << self.low) as i16,
            (0, _) => block[0] |= i16::from(self.decisions.even()) << self.low,
            (first, 0) => self.bands(slot, first, block)?,
            _ => self.refine(slot, block)?,
        }
        Ok(())
    }

    fn restart(&mut self, at: usize) {
        self.decisions = Decisions::new(self.decisions.bytes, at);
        self.dc_bins = [[Bin::default(); DC_BINS]; 16];
        self.ac_bins = [[Bin::default(); AC_BINS]; 16];
        self.dc = [0; 4];
        self.context = [0; 4];
    }

    fn at(&self) -> usize {
        self.decisions.at
    }

    /// Missing zeros are legal, so only a file that ends shows that something is missing.
    fn overrun(&self) -> bool {
        self.decisions.at >= self.decisions.bytes.len()
    }
}
