//! What a JPEG file says before and between its scans: frame, tables and the application's
//! segments.

use super::super::header::Failure;
use super::codes::Huffman;

/// Samples on a side of a block.
pub(super) const SIDE: usize = 8;
/// The coefficients of a block, row by row.
pub(super) type Block = [i16; SIDE * SIDE];

/// The row-major place of each coefficient in the order of the file.
pub(super) const ZIGZAG: [u8; SIDE * SIDE] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What is coded, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Coefficients of the cosine transform.
    Huffman,
    /// The same.
    Arithmetic,
    /// Differences from predictions, without loss.
    Lossless,
    /// JPEG-LS, which predicts by contexts, almost or wholly without loss.
    Ls,
}

impl Coding {
    /// Whether samples themselves are coded, and not coefficients.
    pub(super) fn of_samples(self) -> bool {
        matches!(self, Self::Lossless | Self::Ls)
    }
}

/// One component of the image, such as luma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Samples, without those that fill up the last blocks.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks, filled up to whole minimum coded units.
    pub(super) blocks_wide: usize,
    pub(super) blocks_high: usize,
    quantization: usize,
    /// The quantization table as it was when the component's first scan began, row by row.
    pub(super) steps: Option<Block>,
}

/// The frame header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) coding: Coding,
    pub(super) progressive: bool,
    /// Bits of a sample.
    pub(super) precision: u32,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    /// Minimum coded units of interleaved scans.
    pub(super) units_wide: usize,
    pub(super) units_high: usize,
    pub(super) components: Vec<Component>,
}

/// A component in a scan, with the numbers of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) slots: Vec<Slot>,
    /// The first and the last coefficient, in the order of the file. Of samples: the predictor, or
    /// JPEG-LS's tolerance and how components take turns.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Bits that earlier scans and this one leave out.
    pub(super) high: u32,
    pub(super) low: u32,
}

/// Conditioning of the arithmetic decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditioning {
    pub(super) lower: u32,
    pub(super) upper: u32,
    pub(super) kx: usize,
}

/// The tables that scans refer to by number.
pub(super) struct Tables {
    quantization: [Option<Block>; 4],
    pub(super) dc: [Option<Box<Huffman>>; 4],
    pub(super) ac: [Option<Box<Huffman>>; 4],
    pub(super) conditioning: [Conditioning; 16],
    /// Minimum coded units between restart markers; 0 is without them.
    pub(super) restart_interval: usize,
    /// What a JPEG-LS file sets: the largest sample, three thresholds and how often contexts
    /// forget; 0 is the default.
    pub(super) ls: [u16; 5],
}

/// What application segments say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Application {
    pub(super) jfif: bool,
    /// The color transform that an Adobe segment names.
    pub(super) adobe: Option<u8>,
    /// The first EXIF block, from its TIFF header on.
    pub(super) exif: Option<Vec<u8>>,
    /// The XMP packet.
    pub(super) xmp: Option<Vec<u8>>,
}

/// Where reading the segments stopped.
pub(super) enum Stop {
    /// A scan begins at the reader's place.
    Scan(Scan),
    /// The end marker.
    End,
}

/// Reads segments one after the other.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) tables: Tables,
    pub(super) application: Application,
    pub(super) frame: Option<Frame>,
}

fn damaged(what: &str) -> Failure {
    Failure::Damaged(what.to_owned())
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        const CONDITIONING: Conditioning = Conditioning {
            lower: 0,
            upper: 1,
            kx: 5,
        };
        let tables = Tables {
            quantization: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            conditioning: [CONDITIONING; 16],
            restart_interval: 0,
            ls: [0; 5],
        };
        // After the start marker, by which the file was recognised.
        Self {
            bytes,
            at: 2,
            tables,
            application: Application::default(),
            frame: None,
        }
    }

    /// Reads on to the next scan or the end.
    pub(super) fn advance(&mut self) -> Result<Stop, Failure> {
        loop {
            let marker = self.marker()?;
            match marker {
                0x01 | 0xD0..=0xD8 => continue,
                0xD9 => return Ok(Stop::End),
                _ => {}
            }
            let body = self.body()?;
            match marker {
                0xC4 => self.huffman_tables(body)?,
                0xCC => self.conditioning(body)?,
                0xC0..=0xCF | 0xF7 => self.frame(marker, body)?,
                0xDA => return self.scan(body).map(Stop::Scan),
                0xDB => self.quantization_tables(body)?,
                0xDC => {
                    return Err(Failure::Unsupported(
                        "its height follows its pixels".to_owned(),
                    ));
                }
                0xDD => {
                    let interval = body
                        .first_chunk()
                        .ok_or_else(|| damaged("a restart interval is too short"))?;
                    self.tables.restart_interval = u16::from_be_bytes(*interval).into();
                }
                0xE0 => self.application.jfif |= body.starts_with(b"JFIF\0"),
                0xE1 => self.app1(body),
                0xEE => {
                    if let (true, Some(&transform)) = (body.starts_with(b"Adobe"), body.get(11)) {
                        self.application.adobe = Some(transform);
                    }
                }
                0xE8 if body.starts_with(b"mrfx") && body.get(4) != Some(&0) => {
                    return Err(Failure::Unsupported(
                        "JPEG-LS with a color transform".to_owned(),
                    ));
                }
                0xF8 => self.ls_parameters(body)?,
                _ => {}
            }
        }
    }

    /// The next marker; what lies before it is skipped, as libjpeg does.
    fn marker(&mut self) -> Result<u8, Failure> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest
            .windows(2)
            .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF));
        let at = self.at + found.ok_or(Failure::EndsEarly)?;
        self.at = at + 2;
        Ok(self.bytes[at + 1])
    }

    /// What a segment holds after its length.
    fn body(&mut self) -> Result<&'a [u8], Failure> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = usize::from(u16::from_be_bytes(
            *rest.first_chunk().ok_or(Failure::EndsEarly)?,
        ));
        if length < 2 {
            return Err(damaged("a segment is shorter than its length field"));
        }
        let body = rest.get(2..length).ok_or(Failure::EndsEarly)?;
        self.at += length;
        Ok(body)
    }

    fn app1(&mut self, body: &[u8]) {
        const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
        if let Some(exif) = body.strip_prefix(b"Exif\0\0") {
            // A long block goes on in further segments, each with the same prefix.
            self.application
                .exif
                .get_or_insert_default()
                .extend_from_slice(exif);
        } else if let Some(xmp) = body.strip_prefix(XMP) {
            self.application.xmp = Some(xmp.to_vec());
        }
    }

    fn quantization_tables(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        while let Some((&head, rest)) = body.split_first() {
            let (wide, number) = (head >> 4 != 0, usize::from(head & 15));
            let bytes = SIDE * SIDE * if wide { 2 } else { 1 };
            let (values, rest) = rest
                .split_at_checked(bytes)
                .ok_or_else(|| damaged("a quantization table is cut"))?;
            let table = self.tables.quantization.get_mut(number);
            let table = table
                .ok_or_else(|| damaged("a quantization table has a number above 3"))?
                .insert([0; 64]);
            for (k, &place) in ZIGZAG.iter().enumerate() {
                let step = match wide {
                    true => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                    false => values[k].into(),
                };
                // As libjpeg-turbo's vector code has it, which multiplies 16 bits by 16 bits.
                table[usize::from(place)] = step as i16;
            }
            body = rest;
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        while let Some((&head, rest)) = body.split_first() {
            let (counts, rest) = rest
                .split_first_chunk::<16>()
                .ok_or_else(|| damaged("a Huffman table is cut"))?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest
                .split_at_checked(total)
                .ok_or_else(|| damaged("a Huffman table is cut"))?;
            let is_dc = head & 0x10 == 0;
            let tables = if is_dc {
                &mut self.tables.dc
            } else {
                &mut self.tables.ac
            };
            let table = tables
                .get_mut(usize::from(head & 0xEF))
                .ok_or_else(|| damaged("a Huffman table's number"))?;
            *table = Some(Box::new(Huffman::new(counts, symbols, is_dc)?));
            body = rest;
        }
        Ok(())
    }

    fn conditioning(&mut self, body: &[u8]) -> Result<(), Failure> {
        for &[head, value] in body.as_chunks::<2>().0 {
            let table = self.tables.conditioning.get_mut(usize::from(head & 0xEF));
            let table = table.ok_or_else(|| damaged("a conditioning table's number"))?;
            match head & 0x10 == 0 {
                true => (table.lower, table.upper) = (u32::from(value & 15), u32::from(value >> 4)),
                false => table.kx = value.into(),
            }
            if table.lower > table.upper {
                return Err(damaged("bounds of a conditioning table"));
            }
        }
        Ok(())
    }

    fn ls_parameters(&mut self, body: &[u8]) -> Result<(), Failure> {
        let Some((1, values)) = body.split_first() else {
            return Err(Failure::Unsupported("JPEG-LS with a palette".to_owned()));
        };
        let (values, _) = values.as_chunks::<2>();
        let values = values
            .first_chunk::<5>()
            .ok_or_else(|| damaged("parameters of JPEG-LS are cut"))?;
        self.tables.ls = values.map(u16::from_be_bytes);
        Ok(())
    }

    fn frame(&mut self, marker: u8, body: &[u8]) -> Result<(), Failure> {
        let unsupported = |what: &str| Err(Failure::Unsupported(what.to_owned()));
        let (coding, progressive) = match marker {
            0xC0 | 0xC1 => (Coding::Huffman, false),
            0xC2 => (Coding::Huffman, true),
            0xC9 => (Coding::Arithmetic, false),
            0xCA => (Coding::Arithmetic, true),
            0xC3 => (Coding::Lossless, false),
            0xF7 => (Coding::Ls, false),
            0xCB => return unsupported("lossless JPEG with arithmetic coding"),
            0xC8 => return unsupported("JPEG extensions"),
            _ => return unsupported("hierarchical JPEG"),
        };
        if self.frame.is_some() {
            return Err(damaged("two frame headers"));
        }
        let Some((&[precision, h1, h0, w1, w0, count], parts)) = body.split_first_chunk() else {
            return Err(damaged("the frame header is cut"));
        };
        let known = if coding.of_samples() {
            (2..=16).contains(&precision)
        } else {
            matches!(precision, 8 | 12)
        };
        if !known {
            return Err(Failure::Unsupported(format!("{precision}-bit JPEG")));
        }
        let [height, width] =
            [[h1, h0], [w1, w0]].map(|bytes| usize::from(u16::from_be_bytes(bytes)));
        if height == 0 && width > 0 {
            return unsupported("its height follows its pixels");
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(Failure::Unsupported(format!("{count} color components")));
        }
        let parts = parts
            .as_chunks::<3>()
            .0
            .get(..count.into())
            .ok_or_else(|| damaged("the frame header is cut"))?;
        let factors = parts
            .iter()
            .map(|&[_, sampling, _]| [sampling >> 4, sampling & 15].map(usize::from));
        if factors
            .clone()
            .flatten()
            .any(|factor| !(1..=4).contains(&factor))
        {
            return Err(damaged("sampling factors outside of 1 to 4"));
        }
        // A component on its own is as large as the image, whatever its factors.
        let factors = factors.map(|factors| if count == 1 { [1, 1] } else { factors });
        let h_max = factors.clone().map(|[h, _]| h).max().unwrap_or(1);
        let v_max = factors.clone().map(|[_, v]| v).max().unwrap_or(1);
        if factors
            .clone()
            .any(|[h, v]| h_max % h != 0 || v_max % v != 0)
        {
            return unsupported("fractional chroma subsampling");
        }
        let side = if coding.of_samples() { 1 } else { SIDE };
        let (units_wide, units_high) =
            (width.div_ceil(side * h_max), height.div_ceil(side * v_max));
        let component = |(&[id, _, quantization], [h, v]): (&[u8; 3], [usize; 2])| Component {
            id,
            h,
            v,
            width: (width * h).div_ceil(h_max),
            height: (height * v).div_ceil(v_max),
            blocks_wide: units_wide * h,
            blocks_high: units_high * v,
            quantization: quantization.into(),
            steps: None,
        };
        let components = parts.iter().zip(factors).map(component).collect();
        self.frame = Some(Frame {
            coding,
            progressive,
            precision: precision.into(),
            width,
            height,
            h_max,
            v_max,
            units_wide,
            units_high,
            components,
        });
        Ok(())
    }

    /// Reads a scan header, and fixes the quantization tables of components that have none so far.
    fn scan(&mut self, body: &[u8]) -> Result<Scan, Failure> {
        let frame = self
            .frame
            .as_mut()
            .ok_or_else(|| damaged("a scan before the frame header"))?;
        let cut = || damaged("a scan header is cut");
        let (&count, rest) = body.split_first().ok_or_else(cut)?;
        let (parts, rest) = rest
            .split_at_checked(2 * usize::from(count))
            .ok_or_else(cut)?;
        let &[first, last, bits] = rest.first_chunk().ok_or_else(cut)?;
        let mut slots: Vec<Slot> = Vec::new();
        for &[id, tables] in parts.as_chunks::<2>().0 {
            let found = frame
                .components
                .iter()
                .enumerate()
                .position(|(index, component)| {
                    component.id == id && slots.iter().all(|slot| slot.component != index)
                });
            let component = found.ok_or_else(|| damaged("a scan of an unknown component"))?;
            slots.push(Slot {
                component,
                dc: (tables >> 4).into(),
                ac: (tables & 15).into(),
            });
        }
        let mut scan = Scan {
            slots,
            first: first.into(),
            last: last.into(),
            high: (bits >> 4).into(),
            low: (bits & 15).into(),
        };
        if frame.progressive {
            let Scan {
                first,
                last,
                high,
                low,
                ref slots,
            } = scan;
            let band = if first == 0 {
                last == 0
            } else {
                slots.len() == 1 && first <= last && last < SIDE * SIDE
            };
            if !band || (high != 0 && low + 1 != high) || low > 13 {
                return Err(damaged("a scan's coefficients"));
            }
        } else if !frame.coding.of_samples() {
            // libjpeg warns of others and decodes all.
            (scan.first, scan.last, scan.high, scan.low) = (0, SIDE * SIDE - 1, 0, 0);
        }
        let blocks = scan
            .slots
            .iter()
            .map(|slot| &frame.components[slot.component])
            .map(|part| part.h * part.v);
        if scan.slots.is_empty() || (scan.slots.len() > 1 && blocks.sum::<usize>() > 10) {
            return Err(damaged("a scan's components"));
        }
        if frame.coding.of_samples() {
            return Ok(scan);
        }
        for slot in &scan.slots {
            let component = &mut frame.components[slot.component];
            if component.steps.is_none() {
                let table = self
                    .tables
                    .quantization
                    .get(component.quantization)
                    .copied()
                    .flatten();
                component.steps =
                    Some(table.ok_or_else(|| damaged("a quantization table is missing"))?);
            }
        }
        Ok(scan)
    }
}
