//! GLB files made by hand.

use serde_json::json;

use super::*;

/// A GLB file of this JSON and these bytes.
fn glb(json: &Value, binary: &[u8]) -> Vec<u8> {
    let mut json = json.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(4), b' ');
    let mut binary = binary.to_vec();
    binary.resize(binary.len().next_multiple_of(4), 0);
    let mut bytes = b"glTF\x02\0\0\0".to_vec();
    bytes.extend((28 + json.len() as u32 + binary.len() as u32).to_le_bytes());
    for (kind, chunk) in [(JSON, &json), (BINARY, &binary)] {
        bytes.extend((chunk.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(chunk);
    }
    bytes
}

/// Two points with colours of one byte, below a node that moves and scales them, and a camera.
fn document() -> (Value, Vec<u8>) {
    let mut binary: Vec<u8> = [1.0_f32, 2.0, 3.0, -1.0, 0.0, 0.5]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    binary.extend([255, 0, 55, 255, 1, 2, 3, 255]);
    let json = json!({
        "asset": { "version": "2.0", "extras": { "metric": true } },
        "scene": 0,
        "scenes": [{ "nodes": [0, 2] }],
        "nodes": [
            { "translation": [10.0, 0.0, 0.0], "scale": [2.0, 2.0, 2.0], "children": [1] },
            { "mesh": 0 },
            { "name": "eye", "camera": 0, "translation": [1.0, 2.0, 3.0] },
        ],
        "meshes": [{ "primitives": [{ "mode": 0, "attributes": { "POSITION": 0, "COLOR_0": 1 } }] }],
        "cameras": [{ "type": "perspective", "perspective": { "yfov": 1.0, "aspectRatio": 1.5, "znear": 0.1 } }],
        "accessors": [
            { "bufferView": 0, "componentType": 5126, "count": 2, "type": "VEC3" },
            { "bufferView": 1, "componentType": 5121, "count": 2, "type": "VEC4", "normalized": true },
        ],
        "bufferViews": [
            { "buffer": 0, "byteLength": 24 }, { "buffer": 0, "byteOffset": 24, "byteLength": 8 },
        ],
        "buffers": [{ "byteLength": binary.len() }],
    });
    (json, binary)
}

#[test]
fn points_and_cameras_of_other_programs_are_read() {
    let (json, binary) = document();
    let scene = parse(&glb(&json, &binary)).unwrap();
    assert!(scene.metric);
    assert_eq!(
        *scene.views[0].points.points,
        [[12.0, -4.0, -6.0], [8.0, 0.0, -1.0]]
    );
    // Linear 55 of 255 is sRGB 128.
    assert_eq!(scene.views[0].rgb.as_raw()[..3], [255, 0, 128]);
    let (eye, camera) = (&scene.views[1], scene.views[1].camera.unwrap());
    assert_eq!(eye.name, "eye");
    assert_eq!(eye.rgb.dimensions(), (144, 96));
    let focal = 48.0 / 0.5_f64.tan();
    assert!((camera.intrinsics.fy - focal).abs() < 1e-9);
    assert!((camera.intrinsics.fx - focal).abs() < 1e-9);
    let centre = camera.world_from_camera.translation.vector;
    assert_eq!(centre, Vector3::new(1.0, -2.0, -3.0));
    scene.check().unwrap();
}

#[test]
fn damaged_files_are_refused() {
    let (json, binary) = document();
    let whole = glb(&json, &binary);
    let refuse = |bytes: &[u8], part: &str| {
        let reason = parse(bytes).unwrap_err();
        assert!(reason.contains(part), "{reason} lacks {part}");
    };
    refuse(b"", "does not begin with");
    refuse(b"glTF\x01\0\0\0", "expected 2");
    refuse(b"glTF\x02\0\0\0", "truncated");
    refuse(&whole[..whole.len() - 1], "truncated");
    let mut long_chunk = whole.clone();
    long_chunk[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    refuse(&long_chunk, "truncated");

    let changed = |pointer: &str, value: Value, part: &str| {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        refuse(&glb(&json, &binary), part);
    };
    changed("/meshes/0/primitives/0/mode", 4.into(), "no points");
    changed("/nodes/0/children", json!([1, 0]), "two parents");
    changed("/nodes/1/mesh", 7.into(), "no mesh 7");
    changed("/accessors/0/count", 3.into(), "outside of the file");
    changed("/accessors/0/bufferView", 9.into(), "no buffer view 9");
    changed("/bufferViews/1/byteOffset", u64::MAX.into(), "outside of");
    changed("/accessors/1/count", 1.into(), "do not agree");
    changed("/cameras/0/perspective/yfov", 4.into(), "not usable");
    // A node flat in one direction has no rotation of its own, and one scaled to nothing has none at
    // all; both are answered at once.
    for scale in [json!([1.0, 0.0, 1.0]), json!([0.0, 0.0, 0.0])] {
        let mut json = json.clone();
        json["nodes"][2]["scale"] = scale;
        parse(&glb(&json, &binary)).unwrap();
    }
    changed("/scenes", 1.into(), "not glTF");
    let chain = (1..400).map(|child| json!({ "children": [child] }));
    changed("/nodes", chain.collect(), "deeper");
    // A tree of nodes that all show the same points.
    let mut nodes = vec![json!({ "children": (1..2000).collect::<Vec<_>>() })];
    nodes.extend((1..2000).map(|_| json!({ "mesh": 0 })));
    let mut json = json.clone();
    json["nodes"] = nodes.into();
    let primitive = json["meshes"][0]["primitives"][0].clone();
    json["meshes"][0]["primitives"] = vec![primitive; 300].into();
    json["scenes"][0]["nodes"] = json!([0]);
    refuse(&glb(&json, &binary), "more often");
}
