//! The frames that scenes are written in: upright, georeferenced; and the formats that come with
//! them.

use mast3r::geometry::{Geodetic, LocalFrame, Utm};
use mast3r::nalgebra::{Matrix4, Vector3};
use serde_json::Value;

use super::sandbox::{Sandbox, ply};

const HOME: Geodetic = Geodetic {
    latitude: -33.8568,
    longitude: 151.2153,
    altitude: 25.0,
};
/// Metres in a unit of the predictions.
const SCALE: f64 = 40.0;

/// EXIF data with a GPS position, of which the altitude may be missing.
pub(super) fn exif(position: Geodetic, has_altitude: bool) -> Vec<u8> {
    const PARTS: f64 = 1e6;
    let short = |value: u16| value.to_le_bytes().to_vec();
    let long = |value: u32| value.to_le_bytes().to_vec();
    let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        [short(tag), short(kind), long(count), value.to_vec()].concat()
    };
    let fractions = |angle: f64| {
        let (degrees, minutes) = (angle.abs().trunc(), angle.abs().fract() * 60.0);
        let seconds = (minutes.fract() * 60.0 * PARTS).round() as u32;
        [
            degrees as u32,
            1,
            minutes.trunc() as u32,
            1,
            seconds,
            PARTS as u32,
        ]
        .map(u32::to_le_bytes)
        .concat()
    };
    let count: u32 = if has_altitude { 6 } else { 4 };
    let data: u32 = 26 + 2 + 12 * count + 4;
    let mut entries = vec![
        entry(
            1,
            2,
            2,
            [if position.latitude < 0.0 { b'S' } else { b'N' }, 0, 0, 0],
        ),
        entry(2, 5, 3, data.to_le_bytes()),
        entry(
            3,
            2,
            2,
            [if position.longitude < 0.0 { b'W' } else { b'E' }, 0, 0, 0],
        ),
        entry(4, 5, 3, (data + 24).to_le_bytes()),
    ];
    if has_altitude {
        entries.push(entry(5, 1, 1, [u8::from(position.altitude < 0.0), 0, 0, 0]));
        entries.push(entry(6, 5, 1, (data + 48).to_le_bytes()));
    }
    let altitude = [(position.altitude.abs() * 1e4).round() as u32, 10_000].map(u32::to_le_bytes);
    [
        b"II".to_vec(),
        short(42),
        long(8),
        short(1),
        entry(0x8825, 4, 1, 26_u32.to_le_bytes()),
        long(0),
        short(count as u16),
        entries.concat(),
        long(0),
        fractions(position.latitude),
        fractions(position.longitude),
        altitude.concat(),
    ]
    .concat()
}

fn photo(sandbox: &Sandbox, name: &str, [width, height]: [u32; 2], exif: Option<Vec<u8>>) {
    let mut png = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
    if let Some(exif) = exif {
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
    }
    image::RgbImage::new(width, height)
        .write_with_encoder(encoder)
        .unwrap();
    sandbox.write(&format!("photos/{name}"), png);
}

fn centre(image: &Value) -> Vector3<f64> {
    Vector3::from_fn(|axis, _| image["world_from_camera"][axis][3].as_f64().unwrap())
}

fn rotation(image: &Value) -> Matrix4<f64> {
    Matrix4::from_fn(|row, column| image["world_from_camera"][row][column].as_f64().unwrap())
}

/// A sandbox with the predictions `five` of five images and black photos of them, whose EXIF
/// positions follow from the aligned cameras: x east, z north, y down, [`SCALE`] metres a unit.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("outlier5", "five");
    std::fs::create_dir(sandbox.path("photos")).unwrap();
    sandbox.succeed("align five --cameras own.json");
    let frame = LocalFrame::new(HOME);
    for image in sandbox.json("own.json")["images"].as_array().unwrap() {
        let at = SCALE * centre(image);
        let position = frame.geodetic(Vector3::new(at.x, at.z, -at.y));
        let side = |side: &str| image["file"][side].as_u64().unwrap() as u32;
        let name = image["name"].as_str().unwrap();
        photo(
            &sandbox,
            name,
            [side("width"), side("height")],
            Some(exif(position, true)),
        );
    }
    sandbox
}

const GEO: &str = "align five --images photos --no-refine --georeference";

#[test]
fn gps_positions_move_a_scene_to_where_it_was_taken() {
    let sandbox = sandbox();
    let outcome = sandbox.succeed(&format!(
        "{GEO} --cameras c.json -o c.ply -o c.glb -o c.las -o t.txt -o m --format colmap --json"
    ));
    outcome.assert_says("georeferenced by 5 GPS positions");
    outcome.assert_says("off its GPS position (east ");
    let frame = &outcome.json()["frame"];
    assert_eq!(frame["kind"], "georeferenced");
    assert!(
        frame["median_residual_m"].as_f64().unwrap() < 0.05,
        "{frame}"
    );
    assert_eq!(frame["residuals_m"].as_array().unwrap().len(), 5);

    // Cameras lie where the photos were taken, at 40 times the distances.
    let (own, found) = (sandbox.json("own.json"), sandbox.json("c.json"));
    let number = |name: &str| found["georeference"][name].as_f64().unwrap();
    let local = LocalFrame::new(Geodetic {
        latitude: number("latitude"),
        longitude: number("longitude"),
        altitude: number("altitude"),
    });
    let home = LocalFrame::new(HOME);
    for (before, after) in own["images"]
        .as_array()
        .unwrap()
        .iter()
        .zip(found["images"].as_array().unwrap())
    {
        let at = SCALE * centre(before);
        let expected = local.local(home.geodetic(Vector3::new(at.x, at.z, -at.y)));
        assert!(
            (centre(after) - expected).norm() < 0.1,
            "{} {expected}",
            centre(after)
        );
        let down = rotation(after) * rotation(before).try_inverse().unwrap() * nalgebra_down();
        assert!(
            (down.xyz() - Vector3::new(0.0, 0.0, -1.0)).norm() < 0.02,
            "{down}"
        );
    }

    // The formats state it.
    let cloud = sandbox.read("c.ply");
    let header = String::from_utf8_lossy(&cloud[..600]).into_owned();
    assert!(
        header.contains("comment frame: x east, y north, z up, metres, from latitude -33.85"),
        "{header}"
    );
    let origin = sandbox.json("m/georeference.json");
    assert_eq!(origin["latitude"].as_f64(), Some(number("latitude")));
    let trajectory = String::from_utf8(sandbox.read("t.txt")).unwrap();
    assert!(
        trajectory.contains("# world: x east, y north, z up"),
        "{trajectory}"
    );

    // glTF has y up and z south.
    let (glb, points) = (sandbox.read("c.glb"), ply(&cloud));
    let length = u32::from_le_bytes(glb[12..16].try_into().unwrap()) as usize;
    let document: Value = serde_json::from_slice(&glb[20..20 + length]).unwrap();
    assert_eq!(
        document["asset"]["extras"]["georeference"]["axes"],
        "x east, y up, z south"
    );
    let first: Vec<f32> = glb[28 + length..][..12]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let [x, y, z] = points.positions[0];
    for (found, expected) in first.iter().zip([x, z, -y]) {
        assert!(
            (found - expected).abs() < 1e-3,
            "{first:?} {:?}",
            points.positions[0]
        );
    }

    // LAS has UTM, zone 56 in the south.
    let las = sandbox.read("c.las");
    assert_eq!((&las[..4], &las[24..26]), (&b"LASF"[..], &[1, 2][..]));
    let float = |at: usize| f64::from_le_bytes(las[at..at + 8].try_into().unwrap());
    let whole = |at: usize| i32::from_le_bytes(las[at..at + 4].try_into().unwrap());
    let start = whole(96) as usize;
    assert_eq!(whole(107) as usize, points.exact.len());
    assert_eq!(las.len(), start + 26 * points.exact.len());
    let stored: Vec<f64> = (0..3)
        .map(|axis| {
            float(155 + 8 * axis) + float(131 + 8 * axis) * f64::from(whole(start + 4 * axis))
        })
        .collect();
    let position = local.geodetic(points.exact[0].into());
    let zone = Utm::of(position).unwrap();
    assert_eq!(zone.epsg(), 32756);
    let [east, north] = zone.project(position);
    for (found, expected) in stored.iter().zip([east, north, position.altitude]) {
        assert!((found - expected).abs() < 0.002, "{stored:?}");
    }
    let keys = [3072_u16, 0, 1, 32756].map(u16::to_le_bytes).concat();
    assert!(las[..start].windows(8).any(|window| window == keys));
}

/// The direction of gravity in the predictions' world.
fn nalgebra_down() -> mast3r::nalgebra::Vector4<f64> {
    mast3r::nalgebra::Vector4::new(0.0, 1.0, 0.0, 0.0)
}

#[test]
fn upright_scenes_keep_shape_and_heading() {
    let sandbox = sandbox();
    let outcome = sandbox.succeed("align five --upright --cameras c.json -o c.glb --json");
    outcome.assert_says("upright: images are level to");
    assert_eq!(outcome.json()["frame"]["kind"], "upright");
    let found = sandbox.json("c.json");
    let ahead = rotation(&found["images"][0]).column(2).xyz();
    assert!(ahead.x.abs() < 1e-9 && ahead.z > 0.0, "{ahead}");
    let report = sandbox.succeed("evaluate c.json own.json --json").json();
    assert!(
        report["trajectory"]["rmse"].as_f64().unwrap() < 1e-9,
        "{report}"
    );
    assert!((report["trajectory"]["scale"].as_f64().unwrap() - 1.0).abs() < 1e-9);
}

#[test]
fn frames_that_cannot_be_are_refused_with_one_message() {
    let sandbox = sandbox();
    let sizes: Vec<(String, [u32; 2])> = sandbox.json("own.json")["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| {
            let side = |side: &str| image["file"][side].as_u64().unwrap() as u32;
            (
                image["name"].as_str().unwrap().to_string(),
                [side("width"), side("height")],
            )
        })
        .collect();
    for (line, parts) in [
        (
            "align five --georeference -o c.ply",
            &["--georeference: it reads the images' files", "--images"][..],
        ),
        (
            "align five --upright --poses own.json -o c.ply",
            &["--upright", "--poses"],
        ),
        (
            "align five --images photos --georeference --poses own.json -o c.ply",
            &["--georeference", "--poses"],
        ),
        (
            "align five --images photos --georeference --upright -o c.ply",
            &["--upright"],
        ),
        (
            "align five --normals -o c.glb",
            &["--normals: no output is a .ply file"],
        ),
        ("align five --normals --cameras c.json", &["--output"]),
        (
            "align five -o c.lax",
            &["c.lax: unknown extension .lax", ".las, .laz"],
        ),
    ] {
        sandbox.refuse(line, 2, parts);
    }
    let at = |index: usize| Geodetic {
        latitude: HOME.latitude + 1e-4 * index as f64,
        ..HOME
    };
    type Case<'a> = (&'a str, &'a dyn Fn(usize) -> Option<Vec<u8>>, &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (
            "none",
            &|_| None,
            &["not georeferenced: 0 of 5 images have a GPS position"],
        ),
        (
            "two",
            &|index| (index < 2).then(|| exif(at(index), true)),
            &["2 of 5 images", "3 are needed"],
        ),
        (
            "flat",
            &|index| Some(exif(at(index), false)),
            &["0 of 5 images", "5 more have one without an altitude"],
        ),
        (
            "same",
            &|_| Some(exif(HOME, true)),
            &["all images have one GPS position"],
        ),
    ];
    for (_, position, parts) in cases {
        for (index, (name, size)) in sizes.iter().enumerate() {
            photo(&sandbox, name, *size, position(index));
        }
        sandbox.refuse(&format!("{GEO} -o c.ply"), 3, parts);
    }
    // What only the cameras show is told at the end, and the outputs are in the first camera's frame.
    for (index, (name, size)) in sizes.iter().enumerate() {
        let wrong = Geodetic {
            longitude: HOME.longitude + 0.01 * ((7 * index) % 5) as f64,
            ..at(100 * ((3 * index) % 5))
        };
        photo(&sandbox, name, *size, Some(exif(wrong, true)));
    }
    let outcome = sandbox.run(&format!("{GEO} --cameras c.json"));
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    outcome.assert_says("error: not georeferenced: ");
    assert_eq!(sandbox.json("c.json"), sandbox.json("own.json"));
}

#[test]
fn normals_follow_the_coordinates_of_a_ply_file() {
    let sandbox = sandbox();
    sandbox.succeed("align five -o plain.ply");
    sandbox.succeed("align five -o c.ply -o other --format ply --normals");
    assert!(sandbox.read("c.ply") == sandbox.read("other"));
    let (plain, with) = (sandbox.read("plain.ply"), sandbox.read("c.ply"));
    let count = ply(&plain).positions.len();
    let end = |bytes: &[u8]| {
        let mark = b"end_header\n";
        bytes
            .windows(mark.len())
            .position(|window| window == mark)
            .unwrap()
            + mark.len()
    };
    let header = String::from_utf8_lossy(&with[..end(&with)]).into_owned();
    assert!(header.contains("property float z\nproperty float nx\nproperty float ny\nproperty float nz\nproperty uchar red"), "{header}");
    let body = &with[end(&with)..];
    assert_eq!(body.len(), count * 31);
    for vertex in body.chunks(31) {
        let normal =
            [12, 16, 20].map(|at| f32::from_le_bytes(vertex[at..at + 4].try_into().unwrap()));
        let length: f32 = normal.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-3, "{normal:?}");
    }
    // The rest is as it was.
    assert_eq!(&body[..12], &plain[end(&plain)..][..12]);
}

#[cfg(feature = "database")]
#[test]
fn a_database_holds_the_tracks_of_the_model_beside_it() {
    let sandbox = sandbox();
    sandbox.succeed("align five -o scene --format colmap-database -o c.laz -o c.las");
    let database = sandbox.read("scene/database.db");
    assert!(database.starts_with(b"SQLite format 3\0"));
    assert!(sandbox.path("scene/sparse/0/images.bin").is_file());
    let (laz, las) = (sandbox.read("c.laz"), sandbox.read("c.las"));
    assert!(laz.starts_with(b"LASF") && laz[104] == 0x82 && las[104] == 2);
    assert!(laz.len() < las.len());
}
