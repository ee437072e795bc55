//! Point clouds as LAS 1.2, or LAZ, the same compressed: what GIS and surveying programs read.
//!
//! Points are in point format 2 with red, green and blue of 16 bits. The intensity is 100 times the
//! confidence, 65535 at most, and the point source the image's number, from 1. Coordinates are whole
//! multiples of a scale beside an offset, both in the header.
//!
//! A georeferenced scene is in UTM, in the zone of its origin, with heights as EXIF states them, and
//! the file names the coordinate system by its EPSG code (GeoTIFF keys). Near the poles, and in any
//! other scene, coordinates are those of the scene's world, and the file names no system. A text
//! record says in words which it is.

use std::io::{self, Cursor};
use std::path::Path;

use laz::{LasZipCompressor, LazVlr, LazVlrBuilder};

use super::ExportOptions;
use super::images::Images;
use super::scene_export::{FormatTraits, OpenExport, SceneExport, SceneReport};
use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::geometry::{LocalFrame, Utm};
use crate::scene::{PointSelection, Scene};

/// Bytes of the header, of a record's header, and of a point.
const HEADER_BYTES: usize = 227;
const RECORD_BYTES: usize = 54;
const POINT_BYTES: usize = 26;
/// The point format: coordinates, intensity and so on, and colours.
const POINT_FORMAT: u8 = 2;
/// Marks a compressed file in the point format.
const COMPRESSED: u8 = 0x80;
/// A single return of one.
const ONE_RETURN: u8 = 0b0000_1001;
/// Intensity of confidence 1.
const INTENSITY: f32 = 100.0;
/// Metres that georeferenced coordinates are multiples of.
const MILLIMETRE: f64 = 0.001;
/// The largest extent, in scales.
const MOST_STEPS: f64 = 1e9;
/// Points that are put together before they are handed on.
const CHUNK: usize = 4096;

/// GeoTIFF keys: the kind of the model and "projected", the projected system, its linear unit and
/// that of heights, and "metre".
mod key {
    pub const MODEL_TYPE: u16 = 1024;
    pub const PROJECTED: u16 = 1;
    pub const PROJECTED_SYSTEM: u16 = 3072;
    pub const LINEAR_UNITS: u16 = 3076;
    pub const VERTICAL_UNITS: u16 = 4099;
    pub const METRE: u16 = 9001;
}

/// The format, compressed or not.
pub(super) struct Las {
    is_compressed: bool,
}

pub(super) static LAS: Las = Las {
    is_compressed: false,
};
pub(super) static LAZ: Las = Las {
    is_compressed: true,
};

#[derive(Debug)]
struct OpenLas {
    file: OutputFile,
    is_compressed: bool,
}

impl SceneExport for Las {
    fn name(&self) -> &'static str {
        if self.is_compressed { "laz" } else { "las" }
    }

    fn kind(&self) -> &'static str {
        "cloud"
    }

    fn extensions(&self) -> &'static [&'static str] {
        if self.is_compressed {
            &["laz"]
        } else {
            &["las"]
        }
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits {
            points: true,
            ..FormatTraits::default()
        }
    }

    fn open(&self, path: &Path, _: &Images) -> Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenLas {
            file: OutputFile::create(path)?,
            is_compressed: self.is_compressed,
        }))
    }
}

impl OpenExport for OpenLas {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn write(self: Box<Self>, scene: &Scene, options: &ExportOptions) -> Result<SceneReport> {
        let points = scene.select(&options.filter)?;
        let system = System::of(scene);
        let layout = Layout::new(&points, &system);
        if u32::try_from(points.counts().kept).is_err() {
            let reason = "more points than the 4 294 967 295 of a LAS 1.2 file; keep fewer";
            return Err(Error::Usage(format!("{}: {reason}", self.path().display())));
        }
        let compressor = if self.is_compressed {
            let builder = LazVlrBuilder::default().with_point_format(POINT_FORMAT, 0);
            Some(
                builder
                    .map_err(|error| Error::Internal(error.to_string()))?
                    .build(),
            )
        } else {
            None
        };
        self.file.write_with(|out| {
            let header = header(&points, &system, &layout, compressor.as_ref())?;
            match compressor {
                Some(compressor) => {
                    // Its chunk table is found by its place in the file, which is written last.
                    let mut file = Cursor::new(header);
                    file.set_position(file.get_ref().len() as u64);
                    let mut packer =
                        LasZipCompressor::new(file, compressor).map_err(io::Error::other)?;
                    layout.each_chunk(&points, &system, |chunk| packer.compress_many(chunk))?;
                    packer.done()?;
                    out.write_all(packer.into_inner().get_ref())
                }
                None => {
                    out.write_all(&header)?;
                    layout.each_chunk(&points, &system, |chunk| out.write_all(chunk))
                }
            }
        })?;
        Ok(SceneReport {
            cloud: Some(points.counts()),
            ..SceneReport::default()
        })
    }
}

/// The coordinates that points are written in.
enum System {
    /// Of the scene's world.
    World,
    /// Of a zone, for points of the local frame.
    Utm(LocalFrame, Utm),
}

impl System {
    fn of(scene: &Scene) -> Self {
        let zone = scene
            .georeference
            .and_then(|origin| Some((origin, Utm::of(origin)?)));
        zone.map_or(Self::World, |(origin, zone)| {
            Self::Utm(LocalFrame::new(origin), zone)
        })
    }

    fn coordinates(&self, world: [f64; 3]) -> [f64; 3] {
        match self {
            Self::World => world,
            Self::Utm(frame, zone) => {
                let position = frame.geodetic(world.into());
                let [east, north] = zone.project(position);
                [east, north, position.altitude]
            }
        }
    }

    fn describe(&self, scene: &Scene) -> String {
        match (self, scene.georeference) {
            (Self::Utm(_, zone), _) => format!(
                "UTM zone {}{}, WGS84, EPSG:{}; heights in metres as EXIF states them; georeferenced by GPS positions of images",
                zone.zone,
                if zone.north { 'N' } else { 'S' },
                zone.epsg()
            ),
            (Self::World, Some(origin)) => format!(
                "metres east, north and up of latitude {}, longitude {}, altitude {} (WGS84)",
                origin.latitude, origin.longitude, origin.altitude
            ),
            (Self::World, None) => {
                "not georeferenced: the reconstruction's own frame and units".into()
            }
        }
    }
}

/// How coordinates are stored: `offset + scale * integer`.
struct Layout {
    scale: f64,
    offset: [f64; 3],
    /// Smallest and largest integers.
    low: [i32; 3],
    high: [i32; 3],
}

impl Layout {
    fn new(points: &PointSelection<'_>, system: &System) -> Self {
        let scene = points.scene();
        let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for (_, _, point) in points.located() {
            let at = system.coordinates(scene.in_world(point.position));
            for ((low, high), at) in low.iter_mut().zip(&mut high).zip(at) {
                *low = low.min(at);
                *high = high.max(at);
            }
        }
        let extent = (0..3)
            .map(|axis| high[axis] - low[axis])
            .fold(0.0, f64::max);
        // A power of ten: a millionth of the extent or less, and metres by the millimetre.
        let fine = 10f64.powf(
            (extent.max(f64::MIN_POSITIVE).log10() - 6.0)
                .floor()
                .max(-12.0),
        );
        let scale = match scene.georeference {
            Some(_) if extent < MILLIMETRE * MOST_STEPS => MILLIMETRE,
            _ => fine,
        };
        let offset: [f64; 3] = std::array::from_fn(|axis| ((low[axis] + high[axis]) / 2.0).floor());
        let mut layout = Self {
            scale,
            offset,
            low: [0; 3],
            high: [0; 3],
        };
        (layout.low, layout.high) = (layout.steps(low), layout.steps(high));
        layout
    }

    fn steps(&self, at: [f64; 3]) -> [i32; 3] {
        std::array::from_fn(|axis| ((at[axis] - self.offset[axis]) / self.scale).round() as i32)
    }

    fn coordinate(&self, steps: i32, axis: usize) -> f64 {
        self.offset[axis] + self.scale * f64::from(steps)
    }

    /// Hands on the bytes of all points, some thousand at a time.
    fn each_chunk(
        &self,
        points: &PointSelection<'_>,
        system: &System,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let scene = points.scene();
        let mut chunk = Vec::with_capacity(CHUNK * POINT_BYTES);
        for (view, _, point) in points.located() {
            for steps in self.steps(system.coordinates(scene.in_world(point.position))) {
                chunk.extend_from_slice(&steps.to_le_bytes());
            }
            // Saturates.
            let intensity = (INTENSITY * point.confidence).round() as u16;
            chunk.extend_from_slice(&intensity.to_le_bytes());
            // One return, no class, no scan angle, no user data.
            chunk.extend_from_slice(&[ONE_RETURN, 0, 0, 0]);
            let source = u16::try_from(view + 1).unwrap_or(u16::MAX);
            chunk.extend_from_slice(&source.to_le_bytes());
            for level in point.rgb {
                chunk.extend_from_slice(&(u16::from(level) * 257).to_le_bytes());
            }
            if chunk.len() == CHUNK * POINT_BYTES {
                write(&chunk)?;
                chunk.clear();
            }
        }
        write(&chunk)
    }
}

/// Everything before the points.
fn header(
    points: &PointSelection<'_>,
    system: &System,
    layout: &Layout,
    compressor: Option<&LazVlr>,
) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut count = 1_u32;
    let text = system.describe(points.scene());
    record(
        &mut records,
        "LASF_Spec",
        3,
        "coordinates, in words",
        text.as_bytes(),
    );
    if let System::Utm(_, zone) = system {
        let entries = [
            [key::MODEL_TYPE, 0, 1, key::PROJECTED],
            [key::PROJECTED_SYSTEM, 0, 1, zone.epsg()],
            [key::LINEAR_UNITS, 0, 1, key::METRE],
            [key::VERTICAL_UNITS, 0, 1, key::METRE],
        ];
        // Version 1.1.0 of the directory, and how many keys there are.
        let directory = [[1, 1, 0, entries.len() as u16]];
        let values = directory.iter().chain(&entries).flatten();
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        record(
            &mut records,
            "LASF_Projection",
            34735,
            "GeoTIFF keys",
            &bytes,
        );
        count += 1;
    }
    if let Some(compressor) = compressor {
        let mut bytes = Vec::new();
        compressor.write_to(&mut bytes)?;
        record(
            &mut records,
            LazVlr::USER_ID,
            LazVlr::RECORD_ID,
            LazVlr::DESCRIPTION,
            &bytes,
        );
        count += 1;
    }
    let points_at = (HEADER_BYTES + records.len()) as u32;
    let kept = points.counts().kept as u32;
    let format = POINT_FORMAT | if compressor.is_some() { COMPRESSED } else { 0 };

    let mut out = Vec::with_capacity(points_at as usize);
    out.extend_from_slice(b"LASF");
    // Source, encoding and identifier of the project.
    out.extend_from_slice(&[0; 2 + 2 + 16]);
    out.extend_from_slice(&[1, 2]);
    out.extend_from_slice(&padded::<32>("photogrammetry"));
    out.extend_from_slice(&padded::<32>(concat!("mast3r ", env!("CARGO_PKG_VERSION"))));
    // The day is not stated, so that equal scenes give equal files.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
    out.extend_from_slice(&points_at.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.push(format);
    out.extend_from_slice(&(POINT_BYTES as u16).to_le_bytes());
    for by_return in [kept, kept, 0, 0, 0, 0] {
        out.extend_from_slice(&by_return.to_le_bytes());
    }
    let scales = [layout.scale; 3];
    let bounds = (0..3).flat_map(|axis| {
        [layout.high, layout.low].map(|steps| layout.coordinate(steps[axis], axis))
    });
    for value in scales.into_iter().chain(layout.offset).chain(bounds) {
        out.extend_from_slice(&value.to_le_bytes());
    }
    debug_assert_eq!(out.len(), HEADER_BYTES);
    out.extend_from_slice(&records);
    Ok(out)
}

/// Adds a variable length record.
fn record(out: &mut Vec<u8>, user: &str, number: u16, description: &str, content: &[u8]) {
    out.reserve(RECORD_BYTES + content.len());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&padded::<16>(user));
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(content.len() as u16).to_le_bytes());
    out.extend_from_slice(&padded::<32>(description));
    out.extend_from_slice(content);
}

/// A text with zeros after it.
fn padded<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let count = text.len().min(BYTES - 1);
    bytes[..count].copy_from_slice(&text.as_bytes()[..count]);
    bytes
}
