//! The walk over a scan's blocks, whatever codes them.

use super::super::header::Failure;
use super::codes::Corrupt;
use super::frame::{Block, Frame, SIDE, Scan};

/// Decodes blocks from coded data.
pub(super) trait Entropy {
    /// Adds to a block of the scan's component in `slot` what the scan has of it.
    fn decode(&mut self, slot: usize, block: &mut Block) -> Result<(), Corrupt>;

    /// Begins anew behind a restart marker.
    fn restart(&mut self, at: usize);

    /// The place of the next byte, never behind the next marker.
    fn at(&self) -> usize;

    /// Whether more was decoded than there are data.
    fn overrun(&self) -> bool;
}

/// Takes blocks that are decoded.
pub(super) trait Place {
    /// Puts a component's block into its column and row.
    fn place(&mut self, component: usize, column: usize, row: usize, block: &Block);
}

/// A scan that is being decoded.
pub(super) struct Walk<'a, E> {
    bytes: &'a [u8],
    frame: &'a Frame,
    scan: &'a Scan,
    pub(super) entropy: E,
    interval: usize,
    /// Units until the next restart marker, and its number.
    left: usize,
    next: u8,
}

impl<'a, E: Entropy> Walk<'a, E> {
    pub(super) fn new(
        bytes: &'a [u8],
        frame: &'a Frame,
        scan: &'a Scan,
        entropy: E,
        interval: usize,
    ) -> Self {
        Self {
            bytes,
            frame,
            scan,
            entropy,
            interval,
            left: interval,
            next: 0,
        }
    }

    /// Decodes into the coefficients of the frame's components.
    pub(super) fn collect(&mut self, coefficients: &mut [Vec<Block>]) -> Result<(), Failure> {
        let Self { frame, scan, .. } = *self;
        if let [slot] = scan.slots[..] {
            // Alone in its scan, a component is not filled up to whole units.
            let component = &frame.components[slot.component];
            for y in 0..component.height.div_ceil(SIDE) {
                for x in 0..component.width.div_ceil(SIDE) {
                    self.begin_unit()?;
                    let block = &mut coefficients[slot.component][y * component.blocks_wide + x];
                    self.entropy.decode(0, block).map_err(|_| self.corrupt())?;
                }
                self.end_row()?;
            }
            return Ok(());
        }
        for y in 0..frame.units_high {
            for x in 0..frame.units_wide {
                self.begin_unit()?;
                for (index, slot) in scan.slots.iter().enumerate() {
                    let component = &frame.components[slot.component];
                    for row in y * component.v..(y + 1) * component.v {
                        for column in x * component.h..(x + 1) * component.h {
                            let block = &mut coefficients[slot.component]
                                [row * component.blocks_wide + column];
                            self.entropy
                                .decode(index, block)
                                .map_err(|_| self.corrupt())?;
                        }
                    }
                }
            }
            self.end_row()?;
        }
        Ok(())
    }

    /// Decodes row `y` of units of a scan that has all components, and places its blocks.
    #[inline(always)]
    pub(super) fn row(&mut self, y: usize, image: &mut impl Place) -> Result<(), Failure> {
        let Self { frame, scan, .. } = *self;
        for x in 0..frame.units_wide {
            self.begin_unit()?;
            for (index, slot) in scan.slots.iter().enumerate() {
                let component = &frame.components[slot.component];
                for row in y * component.v..(y + 1) * component.v {
                    for column in x * component.h..(x + 1) * component.h {
                        let mut block = [0; SIDE * SIDE];
                        self.entropy
                            .decode(index, &mut block)
                            .map_err(|_| self.corrupt())?;
                        image.place(slot.component, column, row, &block);
                    }
                }
            }
        }
        self.end_row()
    }

    #[inline(always)]
    fn begin_unit(&mut self) -> Result<(), Failure> {
        if self.interval == 0 {
            return Ok(());
        }
        if self.left == 0 {
            self.end_row()?;
            let at = restart_marker(self.bytes, self.entropy.at(), self.next)?;
            self.next = (self.next + 1) % 8;
            self.entropy.restart(at);
            self.left = self.interval;
        }
        self.left -= 1;
        Ok(())
    }

    fn end_row(&self) -> Result<(), Failure> {
        if self.entropy.overrun() {
            Err(self.corrupt())
        } else {
            Ok(())
        }
    }

    #[cold]
    fn corrupt(&self) -> Failure {
        let at = self.entropy.at() + 1;
        if self.entropy.overrun() || at >= self.bytes.len() {
            short_of_data(self.bytes, at)
        } else {
            Failure::Damaged("a code that does not exist".to_owned())
        }
    }
}

/// A scan's data end before its pixels do; `at` is behind them, where a file that is not cut off
/// goes on.
#[cold]
pub(super) fn short_of_data(bytes: &[u8], at: usize) -> Failure {
    match at >= bytes.len() {
        true => Failure::EndsEarly,
        false => Failure::Damaged("the data of a scan end before its pixels do".to_owned()),
    }
}

/// The place behind the next restart marker, which must have this number.
pub(super) fn restart_marker(bytes: &[u8], at: usize, number: u8) -> Result<usize, Failure> {
    let rest = bytes.get(at..).unwrap_or_default();
    let found = rest
        .windows(2)
        .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF));
    let at = at + found.ok_or(Failure::EndsEarly)? + 2;
    if bytes[at - 1] != 0xD0 + number {
        return Err(Failure::Damaged("a restart marker is missing".to_owned()));
    }
    Ok(at)
}
