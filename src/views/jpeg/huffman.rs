//! Huffman-coded scans.

use super::super::header::Failure;
use super::codes::{
    Bits, Corrupt, HAS_VALUE, Huffman, LENGTH, LONGEST, LOOK, extend, long_code, run_of, size_of,
    standard,
};
use super::frame::{Block, Frame, SIDE, Scan, Tables, ZIGZAG};
use super::scan::Entropy;

/// What a scan's blocks are: whole, or a band of coefficients or of their bits.
#[derive(Clone, Copy)]
enum Pass {
    Whole,
    DcFirst,
    DcRefine,
    AcFirst,
    AcRefine,
}

/// Decodes the blocks of one scan.
pub(super) struct HuffmanScan<'a> {
    bits: Bits<'a>,
    pass: Pass,
    first: usize,
    last: usize,
    low: u32,
    /// The tables of each slot.
    tables: Vec<(Option<&'a Huffman>, Option<&'a Huffman>)>,
    /// The last DC value of each slot.
    dc: [i32; 4],
    /// Further blocks whose band has ended.
    ended: u32,
}

impl<'a> HuffmanScan<'a> {
    pub(super) fn new(
        bytes: &'a [u8],
        at: usize,
        frame: &Frame,
        scan: &Scan,
        tables: &'a mut Tables,
    ) -> Result<Self, Failure> {
        let pass = match (frame.progressive, scan.first, scan.high) {
            (false, ..) => Pass::Whole,
            (true, 0, 0) => Pass::DcFirst,
            (true, 0, _) => Pass::DcRefine,
            (true, _, 0) => Pass::AcFirst,
            (true, ..) => Pass::AcRefine,
        };
        for (is_dc, known) in [(true, &mut tables.dc), (false, &mut tables.ac)] {
            for (number, table) in known
                .iter_mut()
                .enumerate()
                .filter(|(_, table)| table.is_none())
            {
                *table = standard(number, is_dc);
            }
        }
        let tables: &'a Tables = tables;
        let table = |needed: bool, known: &'a [Option<Box<Huffman>>; 4], number: usize| match needed
        {
            true => match known.get(number) {
                Some(Some(table)) => Ok(Some(&**table)),
                _ => Err(Failure::Damaged("a Huffman table is missing".to_owned())),
            },
            false => Ok(None),
        };
        if tables
            .dc
            .iter()
            .flatten()
            .any(|table| table.symbols.iter().any(|&symbol| symbol > 15))
        {
            return Err(Failure::Damaged(
                "a Huffman table contradicts itself".to_owned(),
            ));
        }
        let needs_dc = matches!(pass, Pass::Whole | Pass::DcFirst);
        let needs_ac = matches!(pass, Pass::Whole | Pass::AcFirst | Pass::AcRefine);
        let both = scan.slots.iter().map(|slot| {
            Ok((
                table(needs_dc, &tables.dc, slot.dc)?,
                table(needs_ac, &tables.ac, slot.ac)?,
            ))
        });
        Ok(Self {
            bits: Bits::new(bytes, at),
            pass,
            first: scan.first,
            last: scan.last,
            low: scan.low,
            tables: both.collect::<Result<_, Failure>>()?,
            dc: [0; 4],
            ended: 0,
        })
    }

    #[inline(always)]
    fn next_dc(&mut self, slot: usize, table: &Huffman) -> Result<i32, Corrupt> {
        let entry = self.bits.code(table)?;
        self.dc[slot] = self.dc[slot].wrapping_add(self.bits.value(entry));
        Ok(self.dc[slot])
    }

    fn first_ac(&mut self, table: &Huffman, block: &mut Block) -> Result<(), Corrupt> {
        if self.ended > 0 {
            self.ended -= 1;
            return Ok(());
        }
        let mut k = self.first;
        while k <= self.last {
            let entry = self.bits.code(table)?;
            let run = run_of(entry);
            if size_of(entry) == 0 {
                if run < 15 {
                    self.ended = (1 << run) - 1 + self.bits.take(run as u32);
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            let value = self.bits.value(entry);
            let place = *ZIGZAG.get(k).ok_or(Corrupt)?;
            block[usize::from(place)] = (value << self.low) as i16;
            k += 1;
        }
        Ok(())
    }

    fn refine_ac(&mut self, table: &Huffman, block: &mut Block) -> Result<(), Corrupt> {
        let step = 1i16 << self.low;
        let mut k = self.first;
        if self.ended == 0 {
            while k <= self.last {
                let entry = self.bits.code(table)?;
                let mut run = run_of(entry);
                let mut value = 0;
                match size_of(entry) {
                    0 if run < 15 => {
                        self.ended = (1 << run) + self.bits.take(run as u32);
                        break;
                    }
                    0 => {}
                    1 => {
                        value = if self.bits.value(entry) > 0 {
                            step
                        } else {
                            -step
                        }
                    }
                    _ => return Err(Corrupt),
                }
                // Over `run` zeros to the one that becomes `value`; each nonzero on the way has a
                // bit of its own.
                while k <= self.last {
                    let coefficient = &mut block[usize::from(ZIGZAG[k])];
                    if *coefficient != 0 {
                        refine(&mut self.bits, coefficient, step);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if value != 0 {
                    let place = *ZIGZAG.get(k).filter(|_| k <= self.last).ok_or(Corrupt)?;
                    block[usize::from(place)] = value;
                }
                k += 1;
            }
        }
        if self.ended > 0 {
            for &place in ZIGZAG.get(k..=self.last).unwrap_or_default() {
                let coefficient = &mut block[usize::from(place)];
                if *coefficient != 0 {
                    refine(&mut self.bits, coefficient, step);
                }
            }
            self.ended -= 1;
        }
        Ok(())
    }
}

/// Adds a bit to a coefficient that is not zero.
#[inline(always)]
fn refine(bits: &mut Bits<'_>, coefficient: &mut i16, step: i16) {
    if bits.bit() && *coefficient & step == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient < 0 { -step } else { step });
    }
}

/// The places of coefficients, and a spare place for those that a wrong run leads behind the last
/// one.
const PLACES: [u8; 128] = {
    let mut places = [0; 128];
    let mut k = 0;
    while k < SIDE * SIDE {
        places[k] = ZIGZAG[k];
        k += 1;
    }
    places
};

/// Decodes the AC coefficients of a block of a sequential scan.
#[inline(always)]
fn whole(scan_bits: &mut Bits<'_>, ac: &Huffman, block: &mut Block) -> Result<(), Corrupt> {
    // A copy, which stays in registers.
    let mut bits = *scan_bits;
    let mut k = 1;
    while k < SIDE * SIDE {
        bits.fill();
        let entry = ac.look[bits.peek(LOOK) as usize];
        if entry & HAS_VALUE != 0 {
            bits.drop(entry & LENGTH);
            k += run_of(entry);
            block[usize::from(PLACES[k & 127] & 63)] = (entry as i32 >> 16) as i16;
            k += 1;
            continue;
        }
        let entry = if entry & LENGTH != 0 {
            entry
        } else {
            long_code(bits.peek(LONGEST as u32), ac)?
        };
        bits.drop(entry & LENGTH);
        if size_of(entry) == 0 {
            if run_of(entry) < 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run_of(entry);
        let size = size_of(entry);
        block[usize::from(PLACES[k & 127] & 63)] = extend(bits.take(size), size) as i16;
        k += 1;
    }
    *scan_bits = bits;
    if k > SIDE * SIDE {
        Err(Corrupt)
    } else {
        Ok(())
    }
}

impl Entropy for HuffmanScan<'_> {
    #[inline(always)]
    fn decode(&mut self, slot: usize, block: &mut Block) -> Result<(), Corrupt> {
        let (dc, ac) = self.tables[slot];
        match self.pass {
            Pass::Whole => {
                let (Some(dc), Some(ac)) = (dc, ac) else {
                    return Err(Corrupt);
                };
                block[0] = self.next_dc(slot, dc)? as i16;
                whole(&mut self.bits, ac, block)
            }
            Pass::DcFirst => {
                block[0] = (self.next_dc(slot, dc.ok_or(Corrupt)?)? << self.low) as i16;
                Ok(())
            }
            Pass::DcRefine => {
                block[0] |= i16::from(self.bits.bit()) << self.low;
                Ok(())
            }
            Pass::AcFirst => self.first_ac(ac.ok_or(Corrupt)?, block),
            Pass::AcRefine => self.refine_ac(ac.ok_or(Corrupt)?, block),
        }
    }

    fn restart(&mut self, at: usize) {
        self.bits = Bits::new(self.bits.bytes, at);
        self.dc = [0; 4];
        self.ended = 0;
    }

    fn at(&self) -> usize {
        self.bits.at
    }

    fn overrun(&self) -> bool {
        self.bits.overrun()
    }
}
