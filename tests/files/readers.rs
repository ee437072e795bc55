//! Readers of what is exported that share no code with the writers.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

pub fn f32_at(bytes: &[u8], offset: usize) -> f32 {
    f32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

/// A PLY file by its own header: the rows, each a value per property name.
pub fn read_ply(bytes: &[u8]) -> Vec<HashMap<String, f64>> {
    let end = b"end_header\n";
    let data = bytes
        .windows(end.len())
        .position(|window| window == end)
        .unwrap()
        + end.len();
    let header = std::str::from_utf8(&bytes[..data]).unwrap();
    assert!(header.starts_with("ply\nformat binary_little_endian 1.0\n"));
    let mut count = 0;
    let mut properties = Vec::new();
    for line in header.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["element", "vertex", vertices] => count = vertices.parse().unwrap(),
            ["property", "float", name] => properties.push((name, 4)),
            ["property", "uchar", name] => properties.push((name, 1)),
            ["ply" | "end_header"] | ["format" | "comment", ..] => {}
            ref other => panic!("{other:?}"),
        }
    }
    let mut offset = data;
    let mut value = |size: usize| {
        let value = if size == 4 {
            f64::from(f32_at(bytes, offset))
        } else {
            f64::from(bytes[offset])
        };
        offset += size;
        value
    };
    let rows = (0..count)
        .map(|_| {
            properties
                .iter()
                .map(|&(name, size)| (name.to_string(), value(size)))
                .collect()
        })
        .collect();
    assert_eq!(offset, bytes.len());
    rows
}

/// The two chunks of a GLB file.
pub fn read_glb(bytes: &[u8]) -> (Value, Vec<u8>) {
    let u32_at =
        |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
    assert_eq!(
        (&bytes[..4], u32_at(4), u32_at(8)),
        (&b"glTF"[..], 2, bytes.len())
    );
    let json_bytes = u32_at(12);
    assert_eq!((&bytes[16..20], json_bytes % 4), (&b"JSON"[..], 0));
    let json = serde_json::from_slice(&bytes[20..20 + json_bytes]).unwrap();
    let binary = 20 + json_bytes;
    assert_eq!(
        (&bytes[binary + 4..binary + 8], u32_at(binary) % 4),
        (&b"BIN\0"[..], 0)
    );
    assert_eq!(binary + 8 + u32_at(binary), bytes.len());
    (json, bytes[binary + 8..].to_vec())
}

/// The bytes of an accessor of a GLB file.
pub fn accessor<'a>(json: &Value, binary: &'a [u8], name: &str, element_bytes: usize) -> &'a [u8] {
    let attributes = &json["meshes"][0]["primitives"][0]["attributes"];
    let accessor = &json["accessors"][attributes[name].as_u64().unwrap() as usize];
    let view = &json["bufferViews"][accessor["bufferView"].as_u64().unwrap() as usize];
    let (start, length) = (
        view["byteOffset"].as_u64().unwrap() as usize,
        view["byteLength"].as_u64().unwrap() as usize,
    );
    assert_eq!(
        length,
        accessor["count"].as_u64().unwrap() as usize * element_bytes
    );
    &binary[start..start + length]
}

/// Shape and values of a NumPy file.
pub fn read_npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((data % 64, bytes[data - 1]), (0, b'\n'));
    let header = std::str::from_utf8(&bytes[10..data]).unwrap();
    assert!(
        header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"),
        "{header}"
    );
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let shape = shape.split(',').filter(|extent| !extent.trim().is_empty());
    let values = (data..bytes.len())
        .step_by(4)
        .map(|offset| f32_at(&bytes, offset))
        .collect();
    (
        shape.map(|extent| extent.trim().parse().unwrap()).collect(),
        values,
    )
}
