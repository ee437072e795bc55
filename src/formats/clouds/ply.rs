//! Point clouds as PLY, read: those of this program and of others.

use std::fs;
use std::path::Path;

use super::Cloud;
use crate::error::{Error, Result};
use crate::scene::Scene;

/// The comment of files whose units are metres.
pub(crate) const METRES: &str = "units: metres";
/// Longest header; those of scanners have dozens of comments.
const LONGEST_HEADER: usize = 1 << 20;

/// Reads the vertices of a PLY file: `x`, `y`, `z` of any type, `red`, `green`, `blue` and
/// `confidence` where they are there. Text and binary, of either byte order. Faces are left out.
///
/// # Errors
/// [`Error::Input`] for a file that is missing, truncated, without a point or no PLY; [`Error::Io`].
pub(super) fn read(path: &Path) -> Result<Scene> {
    let bytes = fs::read(path).map_err(|source| Error::unreadable(path, source))?;
    parse(&bytes).map_err(|reason| Error::input(path, reason))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Text,
    Little,
    Big,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
}

#[derive(Debug)]
struct Element {
    name: String,
    count: usize,
    /// `None` is a list.
    properties: Vec<(String, Option<Kind>)>,
}

struct Header {
    layout: Layout,
    elements: Vec<Element>,
    metric: bool,
    bytes: usize,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Scene, String> {
    let header = Header::parse(bytes)?;
    let body = &bytes[header.bytes..];
    let place = header
        .elements
        .iter()
        .position(|element| element.name == "vertex")
        .ok_or("it has no vertices; expected a point cloud")?;
    let (before, vertex) = (&header.elements[..place], &header.elements[place]);
    if let Some(list) = vertex.properties.iter().find(|(_, kind)| kind.is_none()) {
        return Err(format!(
            "its vertices have a list, {}, which no point has",
            list.0
        ));
    }
    let columns = Columns::of(vertex)?;
    let mut cloud = Cloud::new(vertex.count.min(bytes.len()));
    match header.layout {
        Layout::Text => read_text(body, before, vertex, &columns, &mut cloud)?,
        layout => read_binary(body, layout, before, vertex, &columns, &mut cloud)?,
    }
    cloud.into_scene(header.metric)
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(b"ply\n") && !bytes.starts_with(b"ply\r") {
            return Err("it is not a PLY file: it does not begin with \"ply\"".into());
        }
        let mut header = Self {
            layout: Layout::Text,
            elements: Vec::new(),
            metric: false,
            bytes: 0,
        };
        let mut layout = None;
        let start = &bytes[..bytes.len().min(LONGEST_HEADER)];
        for line in start.split_inclusive(|byte| *byte == b'\n') {
            header.bytes += line.len();
            let line = String::from_utf8_lossy(line);
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["ply"] | ["obj_info", ..] | [] => {}
                ["end_header"] => {
                    header.layout = layout.ok_or("its header does not state a format")?;
                    return Ok(header);
                }
                ["comment", ..] => {
                    header.metric |= line.trim().strip_prefix("comment ") == Some(METRES);
                }
                ["format", name, "1.0"] => {
                    layout = Some(match name {
                        "ascii" => Layout::Text,
                        "binary_little_endian" => Layout::Little,
                        "binary_big_endian" => Layout::Big,
                        name => return Err(format!("unknown format {name}")),
                    });
                }
                ["element", name, count] => header.elements.push(Element {
                    name: name.into(),
                    count: count
                        .parse()
                        .map_err(|_| format!("\"{count}\" is not a number of {name}"))?,
                    properties: Vec::new(),
                }),
                ["property", "list", _, _, name] => header.property(name, None)?,
                ["property", kind, name] => {
                    let kind = Kind::of(kind).ok_or_else(|| format!("unknown type {kind}"))?;
                    header.property(name, Some(kind))?;
                }
                _ => return Err(format!("unexpected line in its header: {}", line.trim())),
            }
        }
        Err("its header has no end; the file is truncated".into())
    }

    fn property(&mut self, name: &str, kind: Option<Kind>) -> Result<(), String> {
        let element = self
            .elements
            .last_mut()
            .ok_or("its header has a property of no element")?;
        element.properties.push((name.into(), kind));
        Ok(())
    }
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "char" | "int8" => Self::I8,
            "uchar" | "uint8" => Self::U8,
            "short" | "int16" => Self::I16,
            "ushort" | "uint16" => Self::U16,
            "int" | "int32" => Self::I32,
            "uint" | "uint32" => Self::U32,
            "float" | "float32" => Self::F32,
            "double" | "float64" => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The number at the start of `bytes`, which are enough.
    fn read(self, bytes: &[u8], layout: Layout) -> f64 {
        let mut own = [0; 8];
        let length = self.bytes();
        own[..length].copy_from_slice(&bytes[..length]);
        if layout == Layout::Big {
            own[..length].reverse();
        }
        let [a, b, c, d, ..] = own;
        match self {
            Self::I8 => f64::from(a as i8),
            Self::U8 => f64::from(a),
            Self::I16 => f64::from(i16::from_le_bytes([a, b])),
            Self::U16 => f64::from(u16::from_le_bytes([a, b])),
            Self::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F64 => f64::from_le_bytes(own),
        }
    }

    /// What makes a colour of this type one of 0 to 255.
    fn color_scale(self) -> f64 {
        match self {
            Self::F32 | Self::F64 => 255.0,
            Self::U16 => 1.0 / 257.0,
            _ => 1.0,
        }
    }
}

/// Which properties of a vertex are read: their indices.
struct Columns {
    position: [usize; 3],
    color: Option<[(usize, f64); 3]>,
    confidence: Option<usize>,
}

impl Columns {
    fn of(vertex: &Element) -> Result<Self, String> {
        let find = |name: &str| vertex.properties.iter().position(|(own, _)| own == name);
        let [x, y, z] = ["x", "y", "z"].map(find);
        let (Some(x), Some(y), Some(z)) = (x, y, z) else {
            return Err("its vertices have no x, y, z".into());
        };
        let color = |names: [&str; 3]| {
            let [red, green, blue] = names.map(|name| {
                let index = find(name)?;
                Some((index, vertex.properties[index].1?.color_scale()))
            });
            Some([red?, green?, blue?])
        };
        Ok(Self {
            position: [x, y, z],
            color: color(["red", "green", "blue"])
                .or_else(|| color(["diffuse_red", "diffuse_green", "diffuse_blue"])),
            confidence: find("confidence"),
        })
    }

    /// Adds the point of a vertex whose numbers `value` gives.
    fn add(&self, value: impl Fn(usize) -> f64, cloud: &mut Cloud) {
        let rgb = self
            .color
            .map(|color| color.map(|(index, scale)| (value(index) * scale).round() as u8));
        let confidence = self.confidence.map_or(1.0, &value);
        cloud.add(self.position.map(&value), rgb, confidence as f32);
    }
}

fn read_binary(
    body: &[u8],
    layout: Layout,
    before: &[Element],
    vertex: &Element,
    columns: &Columns,
    cloud: &mut Cloud,
) -> Result<(), String> {
    let mut start = 0_usize;
    for element in before {
        let sizes = element
            .properties
            .iter()
            .map(|(_, kind)| kind.map(Kind::bytes));
        let size: usize = sizes.sum::<Option<usize>>().ok_or_else(|| {
            format!(
                "its {} come before the vertices and have a list; reorder the file",
                element.name
            )
        })?;
        start = element
            .count
            .checked_mul(size)
            .and_then(|bytes| bytes.checked_add(start))
            .ok_or("its header counts more than a file can hold")?;
    }
    let mut offsets = Vec::with_capacity(vertex.properties.len());
    let mut size = 0;
    for kind in vertex.properties.iter().filter_map(|(_, kind)| *kind) {
        offsets.push((size, kind));
        size += kind.bytes();
    }
    let vertices = body.get(start..).unwrap_or_default();
    let found = vertices.len() / size;
    if found < vertex.count {
        return Err(truncated(found, vertex.count));
    }
    for bytes in vertices.chunks_exact(size).take(vertex.count) {
        let value = |index: usize| {
            let (offset, kind) = offsets[index];
            kind.read(&bytes[offset..], layout)
        };
        columns.add(value, cloud);
    }
    Ok(())
}

fn read_text(
    body: &[u8],
    before: &[Element],
    vertex: &Element,
    columns: &Columns,
    cloud: &mut Cloud,
) -> Result<(), String> {
    let lines = body.split(|byte| matches!(byte, b'\n' | b'\r'));
    let mut lines = lines.filter(|line| !line.trim_ascii().is_empty());
    for element in before {
        lines.by_ref().take(element.count).for_each(drop);
    }
    let mut values = Vec::with_capacity(vertex.properties.len());
    for index in 0..vertex.count {
        let line = lines.next().ok_or_else(|| truncated(index, vertex.count))?;
        let line = String::from_utf8_lossy(line);
        values.clear();
        values.extend(
            line.split_whitespace()
                .map_while(|word| word.parse::<f64>().ok()),
        );
        if values.len() < vertex.properties.len() {
            let count = vertex.properties.len();
            return Err(format!(
                "point {}: \"{}\" is not {count} numbers",
                index + 1,
                line.trim()
            ));
        }
        columns.add(|index| values[index], cloud);
    }
    Ok(())
}

fn truncated(found: usize, expected: usize) -> String {
    format!("it is truncated: {found} of {expected} points are there; write it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(scene: &Scene) -> Vec<([f64; 3], [u8; 3], f32)> {
        let selection = scene.select(&Default::default()).unwrap();
        let point = |point: crate::scene::ScenePoint| {
            (scene.in_world(point.position), point.rgb, point.confidence)
        };
        selection.iter().map(point).collect()
    }

    const HEADER: &str = "element vertex 2\nproperty float x\nproperty float y\nproperty double z\n\
                          property uchar red\nproperty uchar green\nproperty uchar blue\n\
                          property float confidence\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n";

    fn expected() -> Vec<([f64; 3], [u8; 3], f32)> {
        vec![
            ([1.0, -2.5, 3.0], [255, 0, 7], 2.0),
            ([0.5, 0.0, 0.25], [1, 2, 3], 9.5),
        ]
    }

    #[test]
    fn text_and_both_byte_orders_are_read() {
        let text = format!(
            "ply\nformat ascii 1.0\ncomment units: metres\n{HEADER}1 -2.5 3 255 0 7 2\n0.5 0 0.25 1 2 3 9.5\n3 0 1 1\n"
        );
        let scene = parse(text.as_bytes()).unwrap();
        assert_eq!(points(&scene), expected());
        assert!(scene.metric);
        for (name, is_big) in [("little", false), ("big", true)] {
            let mut bytes = format!("ply\nformat binary_{name}_endian 1.0\n{HEADER}").into_bytes();
            for ([x, y, z], rgb, confidence) in expected() {
                let mut numbers = [x as f32, y as f32].map(f32::to_le_bytes).concat();
                numbers.extend(z.to_le_bytes());
                let mut last = confidence.to_le_bytes();
                if is_big {
                    numbers[..4].reverse();
                    numbers[4..8].reverse();
                    numbers[8..].reverse();
                    last.reverse();
                }
                bytes.extend(numbers);
                bytes.extend(rgb);
                bytes.extend(last);
            }
            let scene = parse(&bytes).unwrap();
            assert_eq!(points(&scene), expected());
            assert!(!scene.metric);
        }
    }

    #[test]
    fn clouds_without_colours_are_grey() {
        let text = "ply\r\nformat ascii 1.0\r\nelement vertex 1\r\nproperty int x\r\nproperty int y\r\n\
                    property int z\r\nend_header\r\n1 2 3\r\n";
        assert_eq!(
            points(&parse(text.as_bytes()).unwrap()),
            [([1.0, 2.0, 3.0], [190; 3], 1.0)]
        );
    }

    #[test]
    fn coordinates_far_from_the_origin_stay_exact() {
        let text = "ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\nproperty double y\n\
                    property double z\nend_header\n4000000.001 5000000.002 1\n4000000.003 5000000.004 2\n";
        let scene = parse(text.as_bytes()).unwrap();
        assert!(scene.is_far());
        for (point, x) in points(&scene).iter().zip([4_000_000.001, 4_000_000.003]) {
            assert!((point.0[0] - x).abs() < 1e-6, "{point:?}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole =
            format!("ply\nformat ascii 1.0\n{HEADER}1 -2.5 3 255 0 7 2\n0.5 0 0.25 1 2 3 9.5\n");
        let cases = [
            ("", "does not begin with \"ply\""),
            ("ply\nformat ascii 1.0\nelement vertex", "unexpected line"),
            ("ply\nformat ascii 1.0\nelement vertex 3\n", "no end"),
            (&whole[..whole.len() - 22], "1 of 2 points"),
            (&whole[..whole.len() - 5], "is not 7 numbers"),
            ("ply\nformat ascii 1.0\nend_header\n", "no vertices"),
            (
                "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
                "no x, y, z",
            ),
            (
                "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n",
                "no points",
            ),
            (
                "ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999\nproperty float x\n\
                 property float y\nproperty float z\nend_header\nabc",
                "0 of 99999999999999 points",
            ),
        ];
        for (text, part) in cases {
            let reason = parse(text.as_bytes()).unwrap_err();
            assert!(reason.contains(part), "{reason} lacks {part}");
        }
    }
}
