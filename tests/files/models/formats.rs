//! Other formats, and those of a program's own.

use super::*;

#[test]
fn nerfstudio_has_z_up_and_cameras_that_look_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nerf");
    let mut scene = scene();
    // Looking along z, x to the right, y down.
    scene.views[0].camera.as_mut().unwrap().world_from_camera =
        Isometry3::translation(1.0, 2.0, 3.0);
    scene.views[1].camera = None;
    let report = write(&scene, &path, SceneFormat::NERFSTUDIO, &Images::OfScene).unwrap();
    let json: Value =
        serde_json::from_slice(&fs::read(path.join("transforms.json")).unwrap()).unwrap();
    let frames = json["frames"].as_array().unwrap();
    assert_eq!(
        frames
            .iter()
            .map(|frame| &frame["file_path"])
            .collect::<Vec<_>>(),
        ["images/view 0.png", "images/view 2.png"]
    );
    let matrix = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|cell| cell.as_f64().unwrap())
            .collect()
    };
    // Right stays x; up is z; what the camera looks away from is -y; the centre is (x, z, -y).
    #[rustfmt::skip]
    let expected = [
        1.0, 0.0, 0.0, 1.0,
        0.0, 0.0, -1.0, 3.0,
        0.0, 1.0, 0.0, -2.0,
        0.0, 0.0, 0.0, 1.0,
    ];
    assert_eq!(matrix(&frames[0]["transform_matrix"]), expected);
    assert_eq!(
        matrix(&json["applied_transform"]),
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    );

    // The cloud, seen by the other camera: every point is at the pixel that it comes from.
    assert_eq!(
        report,
        SceneReport {
            images: Some(counts(2, 0)),
            points: Some(3 * 256),
            ..SceneReport::default()
        }
    );
    let bytes = fs::read(path.join(json["ply_file_path"].as_str().unwrap())).unwrap();
    let start = bytes
        .windows(11)
        .position(|window| window == b"end_header\n")
        .unwrap()
        + 11;
    assert!(
        bytes[..start].starts_with(b"ply\nformat binary_little_endian 1.0\nelement vertex 768\n")
    );
    assert_eq!(bytes.len() - start, 768 * 15);
    let frame = &frames[1];
    let number = |name: &str| frame[name].as_f64().unwrap();
    assert_eq!(
        ["w", "h", "fl_x", "fl_y", "cx", "cy"].map(number),
        [16.0, 16.0, FOCAL, FOCAL, 8.0, 8.0]
    );
    let camera_from_world = Matrix4::from_row_slice(&matrix(&frame["transform_matrix"]))
        .try_inverse()
        .unwrap();
    for (pixel, vertex) in bytes[start..].chunks(15).skip(2 * 256).enumerate() {
        let position = [0, 4, 8]
            .map(|at| f64::from(f32::from_le_bytes(vertex[at..at + 4].try_into().unwrap())));
        let local = camera_from_world.transform_point(&Point3::from(position));
        let seen = [
            number("fl_x") * local.x / -local.z + number("cx"),
            number("cy") - number("fl_y") * local.y / -local.z,
        ];
        let expected = [(pixel % 16) as f64 + 0.5, (pixel / 16) as f64 + 0.5];
        assert!(
            (seen[0] - expected[0]).hypot(seen[1] - expected[1]) < 1e-5,
            "{seen:?} and not {expected:?}"
        );
        assert_eq!(
            vertex[12..],
            color(wall_place(2, [pixel as u32 % 16, pixel as u32 / 16]))
        );
    }
}

#[test]
fn a_trajectory_has_a_line_for_every_camera_and_says_what_its_times_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trajectory.txt");
    let mut scene = scene();
    scene.views[1].camera = None;
    let report = write(&scene, &path, SceneFormat::TUM, &Images::OfScene).unwrap();
    assert_eq!(report.poses, Some(2));
    let text = fs::read_to_string(&path).unwrap();
    let (comments, lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    assert!(
        comments
            .iter()
            .any(|line| line.contains("the timestamp is the image's index, from 0"))
    );
    assert_eq!(lines.len(), 2);
    for (line, index) in lines.iter().zip([0, 2]) {
        let values: Vec<f64> = line
            .split(' ')
            .map(|value| value.parse().unwrap())
            .collect();
        let [time, x, y, z, qx, qy, qz, qw] = values[..] else {
            panic!("{line}")
        };
        let rotation = UnitQuaternion::new_normalize(Quaternion::new(qw, qx, qy, qz));
        let pose = Isometry3::from_parts(Translation3::new(x, y, z), rotation);
        let expected = scene.views[index].camera.unwrap().world_from_camera;
        assert_eq!(time, index as f64);
        assert!(
            (pose.to_homogeneous() - expected.to_homogeneous()).norm() < 1e-12,
            "{line}"
        );
    }
}

#[test]
fn a_format_is_told_by_its_extension_or_by_name() {
    for format in SceneFormat::ALL {
        assert_eq!(format.name().parse::<SceneFormat>().unwrap(), *format);
    }
    let of = |path: &str, named| SceneFormat::of_output(path, named).map(SceneFormat::name);
    assert_eq!(of("cloud.PLY", Some(BINARY)).unwrap(), "ply");
    assert_eq!(of("poses.txt", None).unwrap(), "tum");
    assert_eq!(of("scene", Some(TEXT)).unwrap(), "colmap-text");
    assert_eq!(
        of("scene.d", Some(SceneFormat::NERFSTUDIO)).unwrap(),
        "nerfstudio"
    );
    let message = of("scene.obj", None).unwrap_err().to_string();
    let database = if cfg!(feature = "database") {
        "colmap-database, "
    } else {
        ""
    };
    let formats =
        format!("ply, glb, las, laz, colmap, {database}colmap-text, nerfstudio, tum, html");
    let way_out = "name it .ply, .glb, .las, .laz, .html or .txt, or name a format";
    assert_eq!(
        message,
        format!("scene.obj: unknown extension .obj; {way_out}: {formats}")
    );
}

/// One line for each camera.
struct Centres;

#[derive(Debug)]
struct OpenCentres(OutputFile);

impl SceneExport for Centres {
    fn name(&self) -> &'static str {
        "centres"
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits::default()
    }

    fn open(&self, path: &Path, _: &Images) -> mast3r::Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenCentres(OutputFile::create(path)?)))
    }
}

impl OpenExport for OpenCentres {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self: Box<Self>, scene: &Scene, _: &ExportOptions) -> mast3r::Result<SceneReport> {
        let poses = scene.views.iter().filter_map(|view| view.camera);
        let lines: Vec<String> = poses
            .map(|camera| {
                format!(
                    "{:?}\n",
                    camera.world_from_camera.translation.vector.as_slice()
                )
            })
            .collect();
        self.0
            .write_with(|out| out.write_all(lines.concat().as_bytes()))?;
        Ok(SceneReport {
            poses: Some(lines.len()),
            ..SceneReport::default()
        })
    }
}

#[test]
fn a_program_may_have_a_format_of_its_own() {
    static CENTRES: Centres = Centres;
    let format = SceneFormat::new(&CENTRES);
    assert_eq!((format.name(), format.kind()), ("centres", "centres"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("centres.txt");
    let scene = scene();
    let report = write(&scene, &path, format, &Images::OfScene).unwrap();
    let cameras = scene.views.iter().filter(|view| view.camera.is_some());
    assert_eq!(report.poses, Some(cameras.count()));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(Some(text.lines().count()), report.poses);
}
