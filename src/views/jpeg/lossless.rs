//! Files whose samples are coded as they are: lossless JPEG here, JPEG-LS in [`ls`].

use super::super::header::Failure;
use super::codes::{Bits, Corrupt, Huffman, standard};
use super::color::{Converter, Plane, Space, put};
use super::frame::{Coding, Frame, Reader, Scan, Stop, Tables};
use super::ls;
use super::scan::{restart_marker, short_of_data};

/// Decodes all scans, of which the first has been reached.
pub(super) fn decode(
    mut reader: Reader<'_>,
    mut scan: Scan,
    mut frame: Frame,
    space: Space,
) -> Result<Vec<u8>, Failure> {
    let mut planes: Vec<Option<Plane>> = frame.components.iter().map(|_| None).collect();
    loop {
        let place = |component: usize| {
            Plane::new(
                frame.components[component].width,
                frame.components[component].height,
            )
        };
        for slot in &scan.slots {
            if planes[slot.component]
                .replace(place(slot.component))
                .is_some()
            {
                return Err(Failure::Damaged("two scans of a component".to_owned()));
            }
        }
        reader.at = match frame.coding {
            Coding::Ls => ls::scan(
                reader.bytes,
                reader.at,
                &frame,
                &scan,
                &reader.tables,
                &mut planes,
            )?,
            _ => differences(
                reader.bytes,
                reader.at,
                &frame,
                &scan,
                &mut reader.tables,
                &mut planes,
            )?,
        };
        if planes.iter().all(Option::is_some) {
            break;
        }
        reader.frame = Some(frame);
        let stop = reader.advance()?;
        frame = reader
            .frame
            .take()
            .ok_or_else(|| Failure::Damaged("no frame header".to_owned()))?;
        let Stop::Scan(next) = stop else {
            return Err(Failure::Damaged("a component has no scan".to_owned()));
        };
        scan = next;
    }
    let planes: Vec<Plane> = planes.into_iter().flatten().collect();
    let mut converter = Converter::new(&frame, space);
    let mut rgb = vec![0; frame.width * frame.height * 3];
    for (y, row) in rgb.chunks_exact_mut(frame.width * 3).enumerate() {
        converter.convert(&planes, y, row);
    }
    Ok(rgb)
}

/// One component of a scan.
struct Part<'a> {
    component: usize,
    table: &'a Huffman,
    /// Samples of a row, filled up to whole units, and rows of a unit.
    stride: usize,
    rows: usize,
    /// Samples in a row of a unit.
    columns: usize,
    /// The rows of a row of units: differences at first, then samples.
    samples: Vec<u16>,
    /// The last row before those, unless the next is predicted without.
    above: Option<Vec<u16>>,
}

/// Decodes a scan of lossless JPEG, and says where it ends.
fn differences(
    bytes: &[u8],
    at: usize,
    frame: &Frame,
    scan: &Scan,
    tables: &mut Tables,
    planes: &mut [Option<Plane>],
) -> Result<usize, Failure> {
    let damaged = |what: &str| Failure::Damaged(what.to_owned());
    let &Scan {
        first: predictor,
        low: shift,
        ..
    } = scan;
    if !(1..=7).contains(&predictor) || scan.last != 0 || scan.high != 0 || shift >= frame.precision
    {
        return Err(damaged("a scan's predictor"));
    }
    for (number, table) in tables
        .dc
        .iter_mut()
        .enumerate()
        .filter(|(_, table)| table.is_none())
    {
        *table = standard(number, true);
    }
    let alone = scan.slots.len() == 1;
    let part = |component: usize, number: usize| {
        let of = &frame.components[component];
        // Alone in its scan, a component has units of one sample.
        let (columns, rows) = if alone { (1, 1) } else { (of.h, of.v) };
        let stride = if alone {
            of.width
        } else {
            frame.units_wide * columns
        };
        let table = tables.dc.get(number).and_then(Option::as_deref);
        let table = table.ok_or_else(|| damaged("a Huffman table is missing"))?;
        Ok(Part {
            component,
            table,
            stride,
            rows,
            columns,
            samples: vec![0; stride * rows],
            above: None,
        })
    };
    let parts = scan.slots.iter().map(|slot| part(slot.component, slot.dc));
    let mut parts = parts.collect::<Result<Vec<_>, Failure>>()?;
    let (units_wide, units_high) = match scan.slots[..] {
        [slot] => (
            frame.components[slot.component].width,
            frame.components[slot.component].height,
        ),
        _ => (frame.units_wide, frame.units_high),
    };
    let interval = tables.restart_interval;
    if !interval.is_multiple_of(units_wide) {
        return Err(damaged(
            "a restart interval that is not a multiple of a row",
        ));
    }
    let initial = 1 << (frame.precision - shift - 1);
    let mut bits = Bits::new(bytes, at);
    for unit in 0..units_high {
        if interval > 0 && unit > 0 && unit.is_multiple_of(interval / units_wide) {
            let number = (unit / (interval / units_wide) - 1) % 8;
            bits = Bits::new(bytes, restart_marker(bytes, bits.at(), number as u8)?);
            parts.iter_mut().for_each(|part| part.above = None);
        }
        read_row(&mut bits, &mut parts, units_wide)
            .map_err(|_| damaged("a code that does not exist"))?;
        if bits.overrun() {
            return Err(short_of_data(bytes, bits.at() + 1));
        }
        for part in &mut parts {
            let height = frame.components[part.component].height;
            for (row, samples) in part.samples.chunks_exact_mut(part.stride).enumerate() {
                predict(samples, part.above.as_deref(), predictor, initial);
                part.above.get_or_insert_default().clear();
                part.above
                    .get_or_insert_default()
                    .extend_from_slice(samples);
                let y = unit * part.rows + row;
                if y < height {
                    samples.iter_mut().for_each(|sample| *sample <<= shift);
                    put(&mut planes[part.component], y, samples, frame.precision);
                }
            }
        }
    }
    Ok(bits.at())
}

/// Reads the differences of a row of units.
fn read_row(bits: &mut Bits<'_>, parts: &mut [Part<'_>], units: usize) -> Result<(), Corrupt> {
    for unit in 0..units {
        for part in &mut *parts {
            for row in part.samples.chunks_exact_mut(part.stride) {
                for sample in &mut row[unit * part.columns..][..part.columns] {
                    *sample = bits.difference(part.table)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes samples of a row's differences.
fn predict(row: &mut [u16], above: Option<&[u16]>, predictor: usize, initial: u16) {
    let Some(above) = above else {
        let mut left = initial;
        for sample in row {
            left = left.wrapping_add(*sample);
            *sample = left;
        }
        return;
    };
    // Left, above, and above the left one.
    let rule: fn(i32, i32, i32) -> i32 = match predictor {
        1 => |a, _, _| a,
        2 => |_, b, _| b,
        3 => |_, _, c| c,
        4 => |a, b, c| a + b - c,
        5 => |a, b, c| a + ((b - c) >> 1),
        6 => |a, b, c| b + ((a - c) >> 1),
        _ => |a, b, _| (a + b) >> 1,
    };
    let Some((first, rest)) = row.split_first_mut() else {
        return;
    };
    *first = first.wrapping_add(above[0]);
    let mut left = *first;
    for (sample, above) in rest.iter_mut().zip(above.windows(2)) {
        let prediction = rule(left.into(), above[1].into(), above[0].into());
        left = sample.wrapping_add(prediction as u16);
        *sample = left;
    }
}
