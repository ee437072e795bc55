//! What is written to disk, read back by readers that share no code with the writers.

use std::fs;

use image::RgbImage;
use mast3r::export::{self, CameraModels, CamerasFile, ExportOptions, Format, OutputFolder};
use mast3r::geometry::{Camera, Intrinsics, PointMap};
use mast3r::matching::{Match, Pixel};
use mast3r::views::Crop;
use mast3r::{Error, PointFilter, Scene, SceneView};
use nalgebra::{Isometry3, Point3, Quaternion, Translation3, UnitQuaternion, Vector3};
use serde_json::Value;

use super::readers::{accessor, f32_at, read_glb, read_npy, read_ply};

/// A view of `width` x `height` cut out of the middle of a file of twice the resized size.
pub fn view(name: &str, width: u32, height: u32, camera: Option<Isometry3<f64>>) -> SceneView {
    let pixels = (width * height) as usize;
    let (resized_width, resized_height) = (width + 2, height + 4);
    let crop = Crop {
        file_width: 2 * resized_width,
        file_height: 2 * resized_height,
        resized_width,
        resized_height,
        left: 1,
        top: 2,
        width,
        height,
    };
    let intrinsics = Intrinsics {
        width,
        height,
        fx: 1.25 * f64::from(width),
        fy: 1.25 * f64::from(width),
        cx: f64::from(width - 1) / 2.0,
        cy: f64::from(height - 1) / 2.0,
    };
    let value = |index: usize| index as f32 / pixels as f32;
    SceneView {
        name: name.into(),
        crop,
        camera: camera.map(|world_from_camera| Camera {
            intrinsics,
            world_from_camera,
        }),
        points: PointMap {
            width: width as usize,
            height: height as usize,
            points: (0..pixels)
                .map(|index| [value(index) - 0.5, 0.25 - value(index), 1.0 + value(index)])
                .collect(),
            confidence: (0..pixels).map(|index| 1.0 + 10.0 * value(index)).collect(),
        },
        depth: (0..pixels).map(|index| 1.0 + value(index)).collect(),
        rgb: mast3r::views::pixels(RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 37) as u8, (y * 91) as u8, (x + y) as u8])
        })),
        contradicted: None,
        masked: 0,
    }
}

fn pose() -> Isometry3<f64> {
    Isometry3::from_parts(
        Translation3::new(0.5, -0.25, 2.0),
        UnitQuaternion::from_axis_angle(&Vector3::y_axis(), 0.7)
            * UnitQuaternion::from_euler_angles(0.2, 0.0, -0.4),
    )
}

pub fn scene() -> Scene {
    Scene {
        views: vec![
            view("a.png", 6, 4, Some(Isometry3::identity())),
            view("b.jpg", 3, 5, Some(pose())),
        ],
        ..Scene::default()
    }
}

pub fn written(scene: &Scene, format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    export::write_to(scene, format, &ExportOptions::default(), &mut bytes).unwrap();
    bytes
}

#[test]
fn ply_holds_every_point_as_solved() {
    let scene = scene();
    let rows = read_ply(&written(&scene, Format::Ply));
    assert_eq!(rows.len(), 24 + 15);
    let view = &scene.views[1];
    let (row, pixel) = (&rows[24 + 7], view.rgb.get_pixel(1, 2).0);
    let position = view.points.points[7];
    for (name, expected) in ["x", "y", "z"].into_iter().zip(position.map(f64::from)) {
        assert_eq!(row[name], expected, "{name}");
    }
    for (name, expected) in ["red", "green", "blue"]
        .into_iter()
        .zip(pixel.map(f64::from))
    {
        assert_eq!(row[name], expected, "{name}");
    }
    assert_eq!(row["confidence"], f64::from(view.points.confidence[7]));
}

#[test]
fn points_that_another_view_contradicts_are_left_out() {
    let mut scene = scene();
    scene.views[1].contradicted = Some((0..15).map(|index| index % 3 == 0).collect());
    let counts = scene.select(&PointFilter::default()).unwrap().counts();
    assert_eq!(
        (counts.total, counts.contradicted, counts.kept),
        (39, 5, 34)
    );
    let rows = read_ply(&written(&scene, Format::Ply));
    let (json, binary) = read_glb(&written(&scene, Format::Glb));
    let confidences = accessor(&json, &binary, "_CONFIDENCE", 4);
    let expected = (0..24).chain((24..39).filter(|index| (index - 24) % 3 != 0));
    let all: Vec<f32> = scene
        .views
        .iter()
        .flat_map(|view| view.points.confidence.to_vec())
        .collect();
    let expected: Vec<f32> = expected.map(|index| all[index]).collect();
    assert_eq!(
        rows.iter()
            .map(|row| row["confidence"] as f32)
            .collect::<Vec<_>>(),
        expected
    );
    assert_eq!(
        (0..34)
            .map(|index| f32_at(confidences, 4 * index))
            .collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn the_filter_is_honoured_and_nothing_that_is_not_finite_leaves() {
    let mut scene = scene();
    scene.views[0].points.points[3] = [f32::NAN; 3];
    scene.views[0].points.confidence[4] = f32::NAN;
    let filter = PointFilter {
        min_confidence: Some(6.0),
        keep_percentile: Some(90.0),
        ..PointFilter::default()
    };
    let options = ExportOptions {
        filter,
        ..ExportOptions::default()
    };
    for format in Format::ALL {
        let mut bytes = Vec::new();
        let counts = export::write_to(&scene, format, &options, &mut bytes).unwrap();
        assert_eq!((counts.total, counts.not_finite), (39, 2), "{format}");
        let kept = match format {
            Format::Ply => {
                let rows = read_ply(&bytes);
                assert!(rows.iter().all(|row| row["confidence"] >= 6.0));
                rows.len()
            }
            Format::Glb => {
                let (json, binary) = read_glb(&bytes);
                accessor(&json, &binary, "_CONFIDENCE", 4).len() / 4
            }
        };
        assert_eq!(kept, counts.kept, "{format}");
    }
}

#[test]
fn glb_turns_the_axes_and_linearises_the_colours() {
    let scene = scene();
    let (json, binary) = read_glb(&written(&scene, Format::Glb));
    assert_eq!(json["asset"]["version"], "2.0");
    assert_eq!(json["meshes"][0]["primitives"][0]["mode"], 0);
    let view = &scene.views[0];

    let positions = accessor(&json, &binary, "POSITION", 12);
    let [x, y, z] = view.points.points[7];
    assert_eq!(
        [0, 4, 8].map(|offset| f32_at(positions, 7 * 12 + offset)),
        [x, -y, -z]
    );
    for (axis, low_and_high) in [("min", f32::min as fn(f32, f32) -> f32), ("max", f32::max)] {
        for component in 0..3 {
            let values = (0..39).map(|index| f32_at(positions, index * 12 + component * 4));
            let expected = values.reduce(low_and_high).unwrap();
            assert_eq!(json["accessors"][0][axis][component], f64::from(expected));
        }
    }

    let colors = accessor(&json, &binary, "COLOR_0", 8);
    let color: Vec<u16> = colors[7 * 8..8 * 8]
        .chunks_exact(2)
        .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
        .collect();
    // Pixel (1, 1): 37, 91, 2; linear by IEC 61966-2-1.
    assert_eq!(view.rgb.get_pixel(1, 1).0, [37, 91, 2]);
    assert_eq!(color, [1212, 6856, 40, 65535]);
    assert_eq!(
        f32_at(accessor(&json, &binary, "_CONFIDENCE", 4), 7 * 4),
        view.points.confidence[7]
    );
}

#[test]
fn a_gltf_camera_sees_the_point_where_the_image_has_it() {
    let scene = scene();
    let (json, _) = read_glb(&written(&scene, Format::Glb));
    let node = &json["nodes"][2];
    assert_eq!(node["name"], "b.jpg");
    let number = |value: &Value| value.as_f64().unwrap();
    let [x, y, z, w] = std::array::from_fn(|index| number(&node["rotation"][index]));
    let [tx, ty, tz] = std::array::from_fn(|index| number(&node["translation"][index]));
    let gltf_from_camera = Isometry3::from_parts(
        Translation3::new(tx, ty, tz),
        UnitQuaternion::new_normalize(Quaternion::new(w, x, y, z)),
    );
    let perspective = &json["cameras"][node["camera"].as_u64().unwrap() as usize]["perspective"];

    // The point under pixel (2, 0) of the second view, three units away.
    let camera = scene.views[1].camera.as_ref().unwrap();
    let inside = &camera.intrinsics;
    let in_camera = Point3::new(
        (2.0 - inside.cx) / inside.fx,
        (0.0 - inside.cy) / inside.fy,
        1.0,
    ) * 3.0;
    let in_world = camera.world_from_camera * in_camera;

    // glTF 2.0, 3.10.3: x and y over the half extents at distance 1, y up, looking along -z.
    let seen = gltf_from_camera.inverse() * Point3::new(in_world.x, -in_world.y, -in_world.z);
    let half_height = (number(&perspective["yfov"]) / 2.0).tan();
    let half_width = half_height * number(&perspective["aspectRatio"]);
    let column = (seen.x / -seen.z / half_width + 1.0) / 2.0 * 3.0 - 0.5;
    let row = (1.0 - seen.y / -seen.z / half_height) / 2.0 * 5.0 - 0.5;
    assert!(
        (column - 2.0).abs() < 1e-9 && row.abs() < 1e-9,
        "({column}, {row})"
    );
}

#[test]
fn a_pyramid_in_glb_shows_the_image_where_its_camera_sees_it() {
    let scene = scene();
    let (json, binary) = read_glb(&written(&scene, Format::Glb));
    let index = |value: &Value| value.as_u64().unwrap() as usize;
    let bytes = |view: &Value| {
        let view = &json["bufferViews"][index(view)];
        &binary[index(&view["byteOffset"])..][..index(&view["byteLength"])]
    };
    let node = &json["nodes"][index(&json["nodes"][2]["children"][0])];
    assert!(
        json["scenes"][0]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|root| index(root) < 3),
        "children are no roots"
    );
    let [edges, image] =
        [0, 1].map(|primitive| &json["meshes"][index(&node["mesh"])]["primitives"][primitive]);
    assert_eq!(edges["mode"], 1);

    let accessor = |value: &Value| bytes(&json["accessors"][index(value)]["bufferView"]);
    let positions = accessor(&image["attributes"]["POSITION"]);
    let vertex = |at: usize| {
        Point3::from([0, 4, 8].map(|offset| f64::from(f32_at(positions, 12 * at + offset))))
    };
    assert_eq!(vertex(4), Point3::origin());
    let inside = &scene.views[1].camera.as_ref().unwrap().intrinsics;
    for (corner, [x, y]) in [[-0.5, -0.5], [2.5, -0.5], [2.5, 4.5], [-0.5, 4.5]]
        .into_iter()
        .enumerate()
    {
        // glTF's camera has y up and looks along -z.
        let point = vertex(corner);
        let seen = inside
            .project(&Point3::new(point.x, -point.y, -point.z))
            .unwrap();
        assert!(
            (seen[0] - x).hypot(seen[1] - y) < 1e-5,
            "corner {corner}: {seen:?}"
        );
        let place = accessor(&image["attributes"]["TEXCOORD_0"]);
        let place = [0, 4].map(|offset| f64::from(f32_at(place, 8 * corner + offset)));
        assert_eq!(place, [(x + 0.5) / 3.0, (y + 0.5) / 5.0]);
    }
    // Both triangles face the camera, counter-clockwise.
    let corners: Vec<usize> = accessor(&image["indices"])
        .chunks(2)
        .map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])))
        .collect();
    for triangle in corners.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| vertex(triangle[at]));
        assert!((b - a).cross(&(c - a)).z > 0.0, "{triangle:?}");
    }
    let material = &json["materials"][index(&image["material"])];
    let texture =
        &json["textures"][index(&material["pbrMetallicRoughness"]["baseColorTexture"]["index"])];
    let small = image::load_from_memory(bytes(
        &json["images"][index(&texture["source"])]["bufferView"],
    ))
    .unwrap();
    assert_eq!((small.width(), small.height()), (3, 5));

    let mut plain = Vec::new();
    let options = ExportOptions {
        cameras: CameraModels::None,
        ..ExportOptions::default()
    };
    export::write_to(&scene, Format::Glb, &options, &mut plain).unwrap();
    let (json, _) = read_glb(&plain);
    assert_eq!(
        (
            json["cameras"].as_array().unwrap().len(),
            json["meshes"].as_array().unwrap().len()
        ),
        (2, 1)
    );
    assert!(json.get("images").is_none() && json["nodes"][2].get("children").is_none());
}

#[test]
fn glb_without_cameras_has_no_empty_list() {
    let mut scene = scene();
    scene.views.iter_mut().for_each(|view| view.camera = None);
    let (json, _) = read_glb(&written(&scene, Format::Glb));
    assert!(json.get("cameras").is_none());
    assert_eq!(json["nodes"].as_array().unwrap().len(), 1);
}

#[test]
fn cameras_json_leads_back_to_the_file() {
    let mut scene = scene();
    scene.views.push(view("dir/A.png", 6, 4, None));
    let mut bytes = Vec::new();
    CamerasFile::new(&scene).unwrap().write(&mut bytes).unwrap();
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&json["format"], &json["version"]),
        (&"mast3r-cameras".into(), &1.into())
    );

    let second = &json["images"][1];
    assert_eq!(
        (&second["name"], &second["width"], &second["height"]),
        (&"b.jpg".into(), &3.into(), &5.into())
    );
    assert_eq!(
        (&second["fx"], &second["cx"], &second["cy"]),
        (&3.75.into(), &1.0.into(), &2.0.into())
    );
    let matrix = pose().to_homogeneous();
    for row in 0..4 {
        for column in 0..4 {
            let difference =
                second["world_from_camera"][row][column].as_f64().unwrap() - matrix[(row, column)];
            assert!(difference.abs() < 1e-15, "{difference}");
        }
    }
    // Twice the size; u_file + 0.5 = (u + 0.5 + l) k.
    let file = &second["file"];
    assert_eq!((&file["width"], &file["height"]), (&10.into(), &18.into()));
    assert_eq!((&file["fx"], &file["fy"]), (&7.5.into(), &7.5.into()));
    assert_eq!((&file["cx"], &file["cy"]), (&4.5.into(), &8.5.into()));

    let unplaced = &json["images"][2];
    assert_eq!(
        (&unplaced["name"], &unplaced["width"]),
        (&"dir/A.png".into(), &6.into())
    );
    assert_eq!(
        (&unplaced["world_from_camera"], &unplaced["fx"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_camera_that_is_not_finite_is_refused() {
    let mut scene = scene();
    scene.views[1]
        .camera
        .as_mut()
        .unwrap()
        .world_from_camera
        .translation
        .x = f64::NAN;
    let message = CamerasFile::new(&scene).unwrap_err().to_string();
    assert!(
        message.starts_with("b.jpg: the camera's pose is not finite"),
        "{message}"
    );
}

#[test]
fn matches_are_pixels_of_network_and_file() {
    let scene = scene();
    let matches = [Match {
        first: Pixel { x: 5, y: 0 },
        second: Pixel { x: 0, y: 4 },
        confidence: 1.5,
    }];
    let mut bytes = Vec::new();
    export::write_matches(
        &matches,
        &scene.views[0].crop,
        &scene.views[1].crop,
        &mut bytes,
    )
    .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        lines[0],
        "x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2"
            .split(',')
            .collect::<Vec<_>>()
    );
    let values: Vec<f64> = lines[1]
        .iter()
        .map(|value| value.parse().unwrap())
        .collect();
    assert_eq!(values, [5.0, 0.0, 0.0, 4.0, 1.5, 12.5, 4.5, 2.5, 12.5]);
    assert_eq!(lines.len(), 2);
}

#[test]
fn depth_maps_mark_what_is_unknown_and_report_what_is_too_far() {
    let mut scene = scene();
    scene.views[0].depth[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-5, 70.0]);
    scene.views[1].name = "a.jpg".into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("depth");
    let reports = export::write_depth(&scene, OutputFolder::create(&path).unwrap()).unwrap();
    assert_eq!(
        reports
            .iter()
            .map(|report| report.stem.as_str())
            .collect::<Vec<_>>(),
        ["a", "a-2"]
    );
    assert_eq!(
        (reports[0].pixels, reports[0].unknown, reports[0].saturated),
        (24, 4, 1)
    );
    assert_eq!(
        (reports[1].pixels, reports[1].unknown, reports[1].saturated),
        (15, 0, 0)
    );
    assert_eq!(fs::read_dir(&path).unwrap().count(), 10);

    let image::DynamicImage::ImageLuma16(png) = image::open(path.join("a.depth.png")).unwrap()
    else {
        panic!("not 16-bit grey");
    };
    assert_eq!(png.dimensions(), (6, 4));
    assert_eq!(png.as_raw()[..7], [0, 0, 0, 0, 1, 65535, 1250]);
    let (shape, values) = read_npy(&path.join("a.depth.npy"));
    assert_eq!(shape, [4, 6]);
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&values), bits(&scene.views[0].depth));
    assert_eq!(
        read_npy(&path.join("a-2.confidence.npy")),
        (vec![5, 3], scene.views[1].points.confidence.to_vec())
    );
    // The last line of an uncompressed image: its six depths and then its six confidences.
    let exr = fs::read(path.join("a.depth.exr")).unwrap();
    let last_line: Vec<f32> = (0..12)
        .map(|at| f32_at(&exr, exr.len() - 48 + 4 * at))
        .collect();
    let view = &scene.views[0];
    assert_eq!(
        bits(&last_line),
        bits(&[&view.depth[18..], &view.points.confidence[18..]].concat())
    );

    let preview = image::open(path.join("a.depth.preview.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!(preview.dimensions(), (6, 4));
    assert_eq!(preview.get_pixel(0, 0).0, [0; 3]);
    let preview = image::open(path.join("a-2.depth.preview.png"))
        .unwrap()
        .into_rgb8();
    let light = |x, y| preview.get_pixel(x, y).0.map(u32::from).iter().sum::<u32>();
    assert!(
        light(0, 0) > light(0, 2) && light(0, 2) > light(2, 4),
        "the nearer pixel is brighter"
    );
}

#[test]
fn a_depth_map_without_any_depth_is_all_unknown() {
    let mut scene = scene();
    scene.views[0].depth.fill(f32::NAN);
    let folder = tempfile::tempdir().unwrap();
    let reports =
        export::write_depth(&scene, OutputFolder::create(folder.path()).unwrap()).unwrap();
    assert_eq!(reports[0].unknown, 24);
    let preview = image::open(folder.path().join("a.depth.preview.png"))
        .unwrap()
        .into_rgb8();
    assert!(preview.as_raw().iter().all(|level| *level == 0));
}

#[test]
fn the_extension_chooses_the_format() {
    let folder = tempfile::tempdir().unwrap();
    for (name, magic) in [("a.ply", b"ply\n"), ("b.GLB", b"glTF")] {
        let path = folder.path().join(name);
        export::write(&scene(), &path, &ExportOptions::default()).unwrap();
        assert!(fs::read(&path).unwrap().starts_with(magic));
    }
    let message = |path| {
        export::write(&scene(), path, &ExportOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("cloud.obj"),
        "cloud.obj: unknown extension .obj; point clouds are written as .ply or .glb"
    );
    assert_eq!(
        message("cloud"),
        "cloud: no extension; point clouds are written as .ply or .glb"
    );
    assert_eq!(
        "obj".parse::<Format>().unwrap_err().to_string(),
        "unknown format obj; known are .ply and .glb"
    );
}

#[test]
fn a_scene_that_cannot_be_written_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.ply");
    fs::write(&path, "old").unwrap();
    let mut scene = scene();
    scene
        .views
        .iter_mut()
        .for_each(|view| view.points.points.fill([f32::NAN; 3]));
    let error = export::write(&scene, &path, &ExportOptions::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFinite {
                count: 39,
                total: 39,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
