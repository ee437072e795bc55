//! JPEG: the pixels that libjpeg-turbo gives, bit for bit, for what Pillow reads with it, and
//! damage reported.
//!
//! Sequential and progressive files with Huffman or arithmetic coding, whatever their scans and
//! sampling, and lossless ones. Those of 12 bits and JPEG-LS, which Pillow does not read, are read
//! too; of more than 8 bits the highest count. Unlike libjpeg, which fills what is missing with
//! grey, this refuses files that end early or contradict themselves.

mod arithmetic;
mod codes;
mod color;
mod frame;
mod huffman;
mod lossless;
mod ls;
mod scan;
mod transform;

use image::metadata::Orientation;
use pulp::{Arch, NullaryFnOnce};

use self::arithmetic::ArithmeticScan;
use self::color::{Converter, Plane};
pub(super) use self::color::{Space, from_inks, from_luma};
use self::frame::{Block, Coding, Component, Frame, Reader, SIDE, Scan, Stop};
use self::huffman::HuffmanScan;
use self::scan::{Entropy, Place, Walk};
use super::exif::{self, ExifCamera};
use super::header::{Failure, Header};

/// Most scans of a file. Encoders write about ten; thousands of empty ones would take hours.
const MOST_SCANS: usize = 1000;

/// Reads the header up to the first scan, from bytes that reach that far.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    open(bytes).map(|(_, _, header)| header)
}

/// Reads the header of a file of the usual kind, 8 bits with loss, and the orientation that it
/// states.
pub(super) fn preview_header(bytes: &[u8]) -> Option<(Header, Option<Orientation>)> {
    let (reader, _, header) = open(bytes).ok()?;
    let frame = reader.frame.as_ref()?;
    let application = &reader.application;
    let stated = exif::stated_orientation(application.exif.as_deref(), application.xmp.as_deref());
    let is_usual = frame.coding == Coding::Huffman && frame.precision == 8;
    (is_usual && header.width > 0 && header.height > 0).then_some((header, stated))
}

fn open(bytes: &[u8]) -> Result<(Reader<'_>, Scan, Header), Failure> {
    let mut reader = Reader::new(bytes);
    let Stop::Scan(scan) = reader.advance()? else {
        return Err(Failure::Damaged("no pixels".to_owned()));
    };
    let Some(frame) = &reader.frame else {
        return Err(Failure::Damaged("no frame header".to_owned()));
    };
    let components = frame.components.len() as u64;
    let exif = reader.application.exif.as_deref();
    let header = Header {
        width: frame.width as u32,
        height: frame.height as u32,
        orientation: exif::orientation(exif, reader.application.xmp.as_deref()),
        camera: exif.map(ExifCamera::of).unwrap_or_default(),
        position: exif.and_then(super::gps::GpsPosition::of),
        // 16-bit coefficients where one pass does not do, RGB, and RGB turned upright.
        bytes_per_pixel: if in_one_pass(frame, &scan) {
            0
        } else {
            2 * components
        } + 3
            + 3,
    };
    Ok((reader, scan, header))
}

/// Decodes to RGB, three bytes a pixel, as stored. `header` is what [`header`] found.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Vec<u8>, Failure> {
    let (reader, scan, found) = open(bytes)?;
    if found != *header {
        return Err(Failure::Damaged("it changed while it was read".to_owned()));
    }
    decode_scans(reader, scan, None)
}

/// Decodes a stream of another format, whose header says what its colors are and how large it is.
/// Gives its width, its height and RGB.
pub(super) fn decode_as(
    bytes: &[u8],
    space: Space,
    size: [usize; 2],
) -> Result<(usize, usize, Vec<u8>), Failure> {
    let (reader, scan, Header { width, height, .. }) = open(bytes)?;
    let (width, height) = (width as usize, height as usize);
    // Streams may be filled up to whole units.
    if width > size[0].next_multiple_of(4 * SIDE) || height > size[1].next_multiple_of(4 * SIDE) {
        return Err(Failure::Damaged(
            "a JPEG stream is larger than its place".to_owned(),
        ));
    }
    let components = reader
        .frame
        .as_ref()
        .map_or(0, |frame| frame.components.len());
    if components != space.components() {
        return Err(Failure::Damaged(format!(
            "a JPEG stream of {components} components"
        )));
    }
    Ok((width, height, decode_scans(reader, scan, Some(space))?))
}

/// Decodes all scans, of which the first has been reached.
fn decode_scans(
    mut reader: Reader<'_>,
    mut scan: Scan,
    space: Option<Space>,
) -> Result<Vec<u8>, Failure> {
    let bytes = reader.bytes;
    let Some(mut frame) = reader.frame.take() else {
        return Err(Failure::Damaged("no frame header".to_owned()));
    };
    let space = space.unwrap_or_else(|| Space::of(&frame, &reader.application));
    if frame.coding.of_samples() {
        return lossless::decode(reader, scan, frame, space);
    }
    let interval = reader.tables.restart_interval;
    if in_one_pass(&frame, &scan) {
        return match frame.coding {
            Coding::Huffman => {
                let entropy =
                    HuffmanScan::new(bytes, reader.at, &frame, &scan, &mut reader.tables)?;
                stream(
                    Walk::new(bytes, &frame, &scan, entropy, interval),
                    &frame,
                    space,
                )
            }
            Coding::Arithmetic => {
                let entropy = ArithmeticScan::new(bytes, reader.at, &frame, &scan, &reader.tables);
                stream(
                    Walk::new(bytes, &frame, &scan, entropy, interval),
                    &frame,
                    space,
                )
            }
            Coding::Lossless | Coding::Ls => Err(not_coefficients()),
        };
    }

    let blocks = |component: &Component| {
        vec![[0; SIDE * SIDE]; component.blocks_wide * component.blocks_high]
    };
    let mut coefficients: Vec<Vec<Block>> = frame.components.iter().map(blocks).collect();
    for _ in 0..MOST_SCANS {
        reader.at = collect(bytes, &mut reader, &frame, &scan, &mut coefficients)?;
        reader.frame = Some(frame);
        let stop = reader.advance()?;
        frame = reader
            .frame
            .take()
            .ok_or_else(|| Failure::Damaged("no frame header".to_owned()))?;
        match stop {
            Stop::Scan(next) => scan = next,
            Stop::End => return from_coefficients(coefficients, &frame, space),
        }
    }
    Err(Failure::Damaged(format!("more than {MOST_SCANS} scans")))
}

fn not_coefficients() -> Failure {
    Failure::Damaged("samples in the place of coefficients".to_owned())
}

/// Whether a scan has all that the file has.
fn in_one_pass(frame: &Frame, scan: &Scan) -> bool {
    !frame.progressive && scan.slots.len() == frame.components.len()
}

/// Decodes one of several scans, and says where it ends.
fn collect(
    bytes: &[u8],
    reader: &mut Reader<'_>,
    frame: &Frame,
    scan: &Scan,
    coefficients: &mut [Vec<Block>],
) -> Result<usize, Failure> {
    let interval = reader.tables.restart_interval;
    match frame.coding {
        Coding::Huffman => {
            let entropy = HuffmanScan::new(bytes, reader.at, frame, scan, &mut reader.tables)?;
            let mut walk = Walk::new(bytes, frame, scan, entropy, interval);
            walk.collect(coefficients).map(|()| walk.entropy.at())
        }
        Coding::Arithmetic => {
            let entropy = ArithmeticScan::new(bytes, reader.at, frame, scan, &reader.tables);
            let mut walk = Walk::new(bytes, frame, scan, entropy, interval);
            walk.collect(coefficients).map(|()| walk.entropy.at())
        }
        Coding::Lossless | Coding::Ls => Err(not_coefficients()),
    }
}

/// The image while it is put together.
struct Image<'a> {
    planes: Vec<Plane>,
    steps: Vec<Block>,
    /// Whether samples have 12 bits.
    wide: bool,
    converter: Converter<'a>,
    rgb: Vec<u8>,
    /// Rows of `rgb` that are done.
    done: usize,
}

impl Place for Image<'_> {
    #[inline(always)]
    fn place(&mut self, component: usize, column: usize, row: usize, block: &Block) {
        let plane = &mut self.planes[component];
        let steps = &self.steps[component];
        let samples = if self.wide {
            transform::wide(block, steps)
        } else {
            transform::inverse(block, steps)
        };
        plane.place(column, row, &samples);
    }
}

impl<'a> Image<'a> {
    fn new(frame: &'a Frame, space: Space) -> Result<Self, Failure> {
        let plane = |component: &Component| {
            let stride = component.blocks_wide * SIDE;
            Plane::new(stride, 2 * SIDE * component.v)
        };
        let steps = frame.components.iter().map(|component| component.steps);
        Ok(Self {
            planes: frame.components.iter().map(plane).collect(),
            steps: steps
                .collect::<Option<_>>()
                .ok_or_else(|| Failure::Damaged("a component has no scan".to_owned()))?,
            wide: frame.precision > 8,
            converter: Converter::new(frame, space),
            rgb: vec![0; frame.width * frame.height * 3],
            done: 0,
        })
    }

    /// Converts the rows up to `end`.
    #[inline(always)]
    fn convert(&mut self, end: usize) {
        let stride = self.rgb.len() / self.converter.height().max(1);
        for y in self.done..end {
            self.converter
                .convert(&self.planes, y, &mut self.rgb[y * stride..][..stride]);
        }
        self.done = self.done.max(end);
    }

    /// Converts all further rows that are complete once `units` rows of units are there.
    #[inline(always)]
    fn convert_after(&mut self, units: usize, frame: &Frame) {
        // Interpolation needs the samples below as well, of which there is one for two rows or
        // more.
        let ready = (units * SIDE * frame.v_max).saturating_sub(2 * frame.v_max);
        self.convert(if units == frame.units_high {
            frame.height
        } else {
            ready.min(frame.height)
        });
    }
}

/// Decodes the only scan.
fn stream<'a, E: Entropy>(
    mut walk: Walk<'a, E>,
    frame: &'a Frame,
    space: Space,
) -> Result<Vec<u8>, Failure> {
    let arch = Arch::new();
    let mut image = Image::new(frame, space)?;
    for y in 0..frame.units_high {
        arch.dispatch(StreamRow {
            walk: &mut walk,
            image: &mut image,
            frame,
            y,
        })?;
    }
    Ok(image.rgb)
}

/// Transforms what several scans have given.
fn from_coefficients(
    coefficients: Vec<Vec<Block>>,
    frame: &Frame,
    space: Space,
) -> Result<Vec<u8>, Failure> {
    let arch = Arch::new();
    let mut image = Image::new(frame, space)?;
    for y in 0..frame.units_high {
        arch.dispatch(TransformRow {
            coefficients: &coefficients,
            image: &mut image,
            frame,
            y,
        });
    }
    Ok(image.rgb)
}

/// A row of units from the only scan, for the processor's widest vectors.
struct StreamRow<'a, 'b, E> {
    walk: &'a mut Walk<'b, E>,
    image: &'a mut Image<'b>,
    frame: &'b Frame,
    y: usize,
}

impl<E: Entropy> NullaryFnOnce for StreamRow<'_, '_, E> {
    type Output = Result<(), Failure>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self {
            walk,
            image,
            frame,
            y,
        } = self;
        walk.row(y, image)?;
        image.convert_after(y + 1, frame);
        Ok(())
    }
}

/// A row of units from coefficients.
struct TransformRow<'a, 'b> {
    coefficients: &'a [Vec<Block>],
    image: &'a mut Image<'b>,
    frame: &'b Frame,
    y: usize,
}

impl NullaryFnOnce for TransformRow<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self {
            coefficients,
            image,
            frame,
            y,
        } = self;
        for (index, (component, blocks)) in frame.components.iter().zip(coefficients).enumerate() {
            for row in y * component.v..(y + 1) * component.v {
                let blocks = &blocks[row * component.blocks_wide..][..component.blocks_wide];
                for (column, block) in blocks.iter().enumerate() {
                    image.place(index, column, row, block);
                }
            }
        }
        image.convert_after(y + 1, frame);
    }
}
