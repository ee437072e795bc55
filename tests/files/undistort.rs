//! Undistorted images beside a model, against a world that is known at every ray.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use mast3r::export::{
    ExportOptions, ImageCounts, Images, Placing, SceneFormat, SceneOutput, SceneReport,
};
use mast3r::geometry::{Camera, Intrinsics, Lens, PointMap};
use mast3r::scene::{Observation, Refined, Track};
use mast3r::views::Crop;
use mast3r::{Result, Scene, SceneView};
use nalgebra::{Isometry3, Point3, Translation3, UnitQuaternion};
use serde_json::Value;

use super::models::reader::{Model, ModelCamera, ModelPoint, read_text};

const WIDTH: u32 = 240;
const HEIGHT: u32 = 160;
const FOCAL: f64 = 170.0;
/// The network's size: a crop of half the file's.
const SEEN: [u32; 2] = [112, 70];

const TEXT: SceneFormat = SceneFormat::COLMAP_TEXT;

/// Radial terms of the views: barrels, pincushions, and the last one without a refined camera.
const RADIAL: [[f64; 2]; 4] = [[-0.18, 0.0], [0.14, 0.0], [-0.25, 0.12], [0.0, 0.0]];
const NAMES: [&str; 4] = ["a.png", "b.jpg", "c.bmp", "d.png"];

/// Colour of a ray: stripes along x, stripes along y, and both.
fn color([x, y]: [f64; 2]) -> [f64; 3] {
    [(24.0 * x).sin(), (24.0 * y).cos(), (17.0 * (x + y)).sin()].map(|level| 128.0 + 100.0 * level)
}

/// Where a lens shows a ray, integers being pixel centres.
fn seen(focal: [f64; 2], principal: [f64; 2], [k1, k2]: [f64; 2], [x, y]: [f64; 2]) -> [f64; 2] {
    let square = x * x + y * y;
    let factor = 1.0 + k1 * square + k2 * square * square;
    [
        focal[0] * factor * x + principal[0],
        focal[1] * factor * y + principal[1],
    ]
}

/// The ray of a pixel, by bisection of its radius.
fn ray(lens: &Lens, pixel: [f64; 2]) -> [f64; 2] {
    let bent = [0, 1].map(|axis| (pixel[axis] - lens.principal[axis]) / lens.focal[axis]);
    let goal = bent[0].hypot(bent[1]);
    let (mut low, mut high) = (0.0_f64, 1.2);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let [k1, k2] = lens.radial;
        let found = middle * (1.0 + k1 * middle.powi(2) + k2 * middle.powi(4));
        if found < goal {
            low = middle
        } else {
            high = middle
        }
    }
    bent.map(|at| if goal > 0.0 { at * low / goal } else { at })
}

fn lens(view: usize) -> Lens {
    // One in the middle, and others off it.
    let shift = 3.0 * view as f64;
    let principal = [119.5 + shift, 79.5 - shift];
    Lens {
        width: WIDTH,
        height: HEIGHT,
        focal: [FOCAL; 2],
        principal,
        radial: RADIAL[view],
    }
}

/// What the lens shows of the coloured rays.
fn photograph(view: usize) -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        Rgb(color(ray(&lens(view), [f64::from(x), f64::from(y)])).map(|level| level.round() as u8))
    })
}

/// Files of all views in a new folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::create_dir(folder).unwrap();
    let save = |(view, name): (usize, &str)| {
        let path = folder.join(name);
        photograph(view).save(&path).unwrap();
        path
    };
    NAMES.into_iter().enumerate().map(save).collect()
}

fn pose(view: usize) -> Isometry3<f64> {
    let place = Translation3::new(0.4 * view as f64, 0.1 * view as f64, -0.2);
    Isometry3::from_parts(
        place,
        UnitQuaternion::from_euler_angles(0.02, -0.05 * view as f64, 0.1),
    )
}

fn view(index: usize) -> SceneView {
    let [width, height] = SEEN;
    let crop = Crop {
        file_width: WIDTH,
        file_height: HEIGHT,
        resized_width: 120,
        resized_height: 80,
        left: 4,
        top: 5,
        width,
        height,
    };
    let principal = crop.to_framed(lens(index).principal);
    let intrinsics = Intrinsics {
        width,
        height,
        fx: FOCAL / 2.0,
        fy: FOCAL / 2.0,
        cx: principal[0],
        cy: principal[1],
    };
    let pixels = (width * height) as usize;
    SceneView {
        name: NAMES[index].into(),
        crop,
        camera: Some(Camera {
            intrinsics,
            world_from_camera: pose(index),
        }),
        points: PointMap {
            width: width as usize,
            height: height as usize,
            points: vec![[0.5, 0.25, 3.0]; pixels].into(),
            confidence: vec![2.0; pixels].into(),
        },
        depth: vec![3.0; pixels].into(),
        rgb: mast3r::views::pixels(RgbImage::from_fn(width, height, |x, y| {
            let pixel = crop.to_file([f64::from(x), f64::from(y)]);
            Rgb(color(ray(&lens(index), pixel)).map(|level| level.round() as u8))
        })),
        contradicted: None,
        masked: 0,
    }
}

/// Where a view shows a point, if it does, by its lens.
fn observation(view: usize, point: &Point3<f64>) -> Option<[f64; 2]> {
    let lens = lens(view);
    let local = pose(view).inverse_transform_point(point);
    let pixel = seen(
        lens.focal,
        lens.principal,
        lens.radial,
        [local.x / local.z, local.y / local.z],
    );
    Some(pixel).filter(|pixel| is_inside(*pixel))
}

/// Points on a bent wall that fills all images, with an error of a quarter of a pixel in every
/// observation.
fn scene() -> Scene {
    let mut tracks = Vec::new();
    for row in 0..40 {
        for column in 0..60 {
            let [x, y] = [-2.6 + 0.1 * f64::from(column), -1.8 + 0.1 * f64::from(row)];
            let position = Point3::new(x, y, 3.0 + 0.3 * (x * y).sin());
            let angle = 0.7 * f64::from(row * 60 + column);
            let shown = |view: usize| {
                let [x, y] = observation(view, &position)?;
                let angle = angle + view as f64;
                Some(Observation {
                    view,
                    pixel: [x + 0.25 * angle.sin(), y + 0.25 * angle.cos()],
                })
            };
            let observations: Vec<Observation> = (0..4).filter_map(shown).collect();
            if observations.len() >= 2 {
                tracks.push(Track {
                    position,
                    rgb: [9, 99, 199],
                    observations,
                });
            }
        }
    }
    let lenses = (0..4).map(|view| (view < 3).then(|| lens(view))).collect();
    Scene {
        views: (0..4).map(view).collect(),
        refined: Some(Refined { lenses, tracks }),
        ..Scene::default()
    }
}

fn write(scene: &Scene, path: &Path, format: SceneFormat, images: &Images) -> Result<SceneReport> {
    SceneOutput::create(path, format, images)?
        .undistorted()?
        .write(scene, &ExportOptions::default())
}

/// The text model in a folder, integers at pixel centres, unlike COLMAP.
fn read_model(folder: &Path) -> Model {
    let mut model = read_text(&folder.join("sparse/0"));
    for camera in &mut model.cameras {
        let principal = if camera.kind == "PINHOLE" { 2 } else { 1 };
        let point = &mut camera.parameters[principal..principal + 2];
        point.iter_mut().for_each(|at| *at -= 0.5);
    }
    for image in &mut model.images {
        for (place, _) in &mut image.observations {
            *place = place.map(|at| at - 0.5);
        }
    }
    model
}

/// The camera of the image of this name.
fn camera_of<'a>(model: &'a Model, name: &str) -> &'a ModelCamera {
    model.camera(model.image(name))
}

/// What a pinhole camera shows at a pixel.
fn ray_of_pinhole(parameters: &[f64], [x, y]: [u32; 2]) -> [f64; 2] {
    let [fx, fy, cx, cy] = parameters.try_into().unwrap();
    [(f64::from(x) - cx) / fx, (f64::from(y) - cy) / fy]
}

/// Where a pinhole camera shows a ray.
fn on_pinhole(parameters: &[f64], ray: [f64; 2]) -> [f64; 2] {
    let [fx, fy, cx, cy] = parameters.try_into().unwrap();
    seen([fx, fy], [cx, cy], [0.0; 2], ray)
}

/// Whether a pixel is on the image.
fn is_inside([x, y]: [f64; 2]) -> bool {
    x >= -0.5 && y >= -0.5 && x <= f64::from(WIDTH) - 0.5 && y <= f64::from(HEIGHT) - 0.5
}

/// Largest difference of an image from the coloured rays of a pinhole camera, grey levels.
fn largest_gap(image: &RgbImage, parameters: &[f64]) -> f64 {
    let gap = |(x, y, pixel): (u32, u32, &Rgb<u8>)| {
        let exact = color(ray_of_pinhole(parameters, [x, y]));
        pixel
            .0
            .iter()
            .zip(exact)
            .map(|(found, exact)| (f64::from(*found) - exact).abs())
            .fold(0.0, f64::max)
    };
    image.enumerate_pixels().map(gap).fold(0.0, f64::max)
}

#[test]
fn undistorted_images_are_those_of_their_pinhole_cameras_up_to_the_border() {
    let folder = tempfile::tempdir().unwrap();
    let paths = files(&folder.path().join("photos"));
    let path = folder.path().join("model");
    let report = write(
        &scene(),
        &path,
        TEXT,
        &Images::files(paths.clone(), Placing::Link),
    )
    .unwrap();
    assert_eq!(
        report.images.unwrap(),
        ImageCounts {
            total: 4,
            turned: 0,
            undistorted: 3
        }
    );
    let model = read_model(&path);
    for (view, name) in ["a.png", "b.jpg", "c.png"].into_iter().enumerate() {
        let camera = camera_of(&model, name);
        let (size, parameters) = (camera.size, &camera.parameters);
        assert_eq!(camera.kind, "PINHOLE", "{name}");
        assert_eq!(size, [WIDTH, HEIGHT].map(u64::from), "{name}");
        assert_eq!(parameters[0], parameters[1], "{name}: one focal length");
        let file = path.join("images").join(name);
        assert!(!fs::symlink_metadata(&file).unwrap().is_symlink(), "{name}");
        let is_jpeg =
            image::guess_format(&fs::read(&file).unwrap()).unwrap() == image::ImageFormat::Jpeg;
        assert_eq!(is_jpeg, name.ends_with("jpg"), "{name}");
        let image = image::open(&file).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), (WIDTH, HEIGHT), "{name}");
        // Chroma of a JPEG is stored at half the size.
        let allowed = if is_jpeg { 60.0 } else { 2.0 };
        let gap = largest_gap(&image, parameters);
        assert!(gap < allowed, "{name}: {gap} grey levels");
        // The same file without its distortion taken off is not what a pinhole sees.
        let [cx, cy] = lens(view).principal;
        let plain = largest_gap(&photograph(view), &[FOCAL, FOCAL, cx, cy]);
        assert!(plain > 80.0, "{name}: {plain} grey levels before");
    }
    // The principal point of the first is in the middle and stays there.
    let parameters = &camera_of(&model, "a.png").parameters;
    assert!(
        (parameters[2] - 119.5).abs() < 1e-9 && (parameters[3] - 79.5).abs() < 1e-9,
        "{parameters:?}"
    );
    // What has no refined camera is the file itself.
    let last = path.join("images/d.png");
    assert_eq!(fs::read(&last).unwrap(), fs::read(&paths[3]).unwrap());
    assert!(cfg!(not(unix)) || fs::symlink_metadata(&last).unwrap().is_symlink());
    assert_eq!(camera_of(&model, "d.png").parameters[0], FOCAL);
}

#[test]
fn luma_of_an_undistorted_jpeg_is_that_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let paths = files(&folder.path().join("photos"));
    let path = folder.path().join("model");
    write(&scene(), &path, TEXT, &Images::files(paths, Placing::Copy)).unwrap();
    let model = read_model(&path);
    let parameters = &camera_of(&model, "b.jpg").parameters;
    let luma = |[r, g, b]: [f64; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    let image = image::open(path.join("images/b.jpg")).unwrap().into_rgb8();
    let gaps = image.enumerate_pixels().map(|(x, y, pixel)| {
        let exact = color(ray_of_pinhole(parameters, [x, y]));
        (luma(pixel.0.map(f64::from)) - luma(exact)).abs()
    });
    let gaps: Vec<f64> = gaps.collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!(mean < 2.0, "{mean} grey levels on average");
}

#[test]
fn observations_move_with_the_image_and_those_outside_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let paths = files(&folder.path().join("photos"));
    let [plain, flat] = ["plain", "flat"].map(|name| folder.path().join(name));
    let (scene, images) = (scene(), Images::files(paths, Placing::Link));
    let output = SceneOutput::create(&plain, TEXT, &images).unwrap();
    let before = output.write(&scene, &ExportOptions::default()).unwrap();
    let report = write(&scene, &flat, TEXT, &images).unwrap();
    let [plain, flat] = [plain, flat].map(|path| read_model(&path));
    assert_eq!(camera_of(&plain, "a.png").kind, "SIMPLE_RADIAL");
    assert_eq!(camera_of(&plain, "c.bmp").kind, "RADIAL");
    let is_pinhole = |camera: &ModelCamera| camera.kind == "PINHOLE";
    assert!(flat.cameras.iter().all(is_pinhole));

    let tracks = &scene.refined.as_ref().unwrap().tracks;
    let (mut kept, mut errors) = (0, 0.0);
    for ModelPoint {
        id,
        position,
        track,
        ..
    } in &flat.points
    {
        assert!(track.len() >= 2, "point {id}");
        let given = tracks
            .iter()
            .find(|track| (track.position - Point3::from(*position)).norm() < 1e-9)
            .unwrap();
        let mut error_of_point = 0.0;
        for [image, index] in track {
            let image = flat.images.iter().find(|other| other.id == *image).unwrap();
            let name = &image.name;
            let (place, point) = image.observations[*index as usize];
            assert_eq!(point, *id);
            assert!(is_inside(place), "{name}: {place:?}");
            let [x, y] = image.project(*position, &flat);
            let error = (x - place[0]).hypot(y - place[1]);
            let view = NAMES
                .iter()
                .position(|other| other[..1] == name[..1])
                .unwrap();
            let seen = given
                .observations
                .iter()
                .find(|seen| seen.view == view)
                .unwrap();
            let parameters = &flat.camera(image).parameters;
            let exact = on_pinhole(parameters, ray(&lens(view), seen.pixel));
            assert!(
                (place[0] - exact[0]).hypot(place[1] - exact[1]) < 1e-6,
                "{name}: {place:?}, {exact:?}"
            );
            error_of_point += error / track.len() as f64;
            kept += 1;
        }
        errors += error_of_point;
    }
    assert_eq!(
        (report.points, report.observations),
        (Some(flat.points.len()), Some(kept))
    );
    assert!((report.mean_error_px.unwrap() - errors / flat.points.len() as f64).abs() < 1e-6);
    let [before, after] = [before, report].map(|report| report.mean_error_px.unwrap());
    assert!((after - before).abs() < 0.05, "{before} and {after} px");

    // What is dropped is what the pinhole does not show; of every other observation there is one.
    let expected = |track: &Track| {
        let shown = |seen: &&Observation| {
            let image = flat
                .images
                .iter()
                .find(|image| image.name[..1] == NAMES[seen.view][..1])
                .unwrap();
            let parameters = &flat.camera(image).parameters;
            let pixel = on_pinhole(parameters, ray(&lens(seen.view), seen.pixel));
            seen.view == 3 || is_inside(pixel)
        };
        let count = track.observations.iter().filter(shown).count();
        if count >= 2 { count } else { 0 }
    };
    assert_eq!(tracks.iter().map(expected).sum::<usize>(), kept);
    let given: usize = tracks.iter().map(|track| track.observations.len()).sum();
    assert!(
        kept < given && kept > given * 3 / 4,
        "{kept} of {given} observations"
    );
    assert!(flat.points.len() < tracks.len());
}

#[test]
fn nerfstudio_and_images_of_the_scene_are_undistorted_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nerf");
    let scene = scene();
    let report = write(&scene, &path, SceneFormat::NERFSTUDIO, &Images::OfScene).unwrap();
    assert_eq!(
        report.images.unwrap(),
        ImageCounts {
            total: 4,
            turned: 0,
            undistorted: 3
        }
    );
    let transforms: Value =
        serde_json::from_slice(&fs::read(path.join("transforms.json")).unwrap()).unwrap();
    for (frame, lens) in transforms["frames"].as_array().unwrap().iter().zip(0..3) {
        let value = |key: &str| frame[key].as_f64().unwrap();
        assert_eq!((value("k1"), value("k2")), (0.0, 0.0));
        assert_eq!([value("w"), value("h")], SEEN.map(f64::from));
        let image = image::open(path.join(frame["file_path"].as_str().unwrap()))
            .unwrap()
            .into_rgb8();
        let parameters = [
            value("fl_x"),
            value("fl_y"),
            value("cx") - 0.5,
            value("cy") - 0.5,
        ];
        let gap = largest_gap(&image, &parameters);
        // Stripes of 22 pixels.
        assert!(gap < 4.0, "view {lens}: {gap} grey levels");
    }
}

#[test]
fn an_image_on_its_side_is_turned_and_undistorted_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/exif_6.jpg");
    let upright = mast3r::views::load_whole(&source, &Default::default()).unwrap();
    let (width, height) = upright.dimensions();
    let mut scene = Scene {
        views: vec![view(0)],
        ..Scene::default()
    };
    (
        scene.views[0].crop.file_width,
        scene.views[0].crop.file_height,
    ) = (width, height);
    let principal = [width, height].map(|side| (f64::from(side) - 1.0) / 2.0);
    let lens = Lens {
        width,
        height,
        focal: [f64::from(width); 2],
        principal,
        radial: [-0.1, 0.0],
    };
    scene.refined = Some(Refined {
        lenses: vec![Some(lens)],
        tracks: Vec::new(),
    });
    let path = folder.path().join("nerf");
    let report = write(
        &scene,
        &path,
        SceneFormat::NERFSTUDIO,
        &Images::files(vec![source], Placing::Link),
    )
    .unwrap();
    let counts = ImageCounts {
        total: 1,
        turned: 1,
        undistorted: 1,
    };
    assert_eq!(report.images, Some(counts));
    let written = image::open(path.join("images/exif_6.jpg"))
        .unwrap()
        .into_rgb8();
    assert_eq!(written.dimensions(), (width, height));
    // The middle stays where it is, and nearly as it is.
    let (x, y) = (width / 2, height / 2);
    let gap = (0..3).map(|channel| {
        written.get_pixel(x, y).0[channel].abs_diff(upright.get_pixel(x, y).0[channel])
    });
    assert!(gap.max().unwrap() < 24);
}

#[test]
fn without_distortion_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = files(&folder.path().join("photos"));
    let images = Images::files(paths, Placing::Link);
    let mut scene = scene();
    let refined = scene.refined.as_mut().unwrap();
    refined
        .lenses
        .iter_mut()
        .flatten()
        .for_each(|lens| lens.radial = [0.0; 2]);
    let [plain, flat] = ["plain", "flat"].map(|name| folder.path().join(name));
    let output = SceneOutput::create(&plain, TEXT, &images).unwrap();
    let one = output.write(&scene, &ExportOptions::default()).unwrap();
    assert_eq!(one, write(&scene, &flat, TEXT, &images).unwrap());
    for name in ["cameras.txt", "images.txt", "points3D.txt"] {
        let [one, two] =
            [&plain, &flat].map(|path| fs::read(path.join("sparse/0").join(name)).unwrap());
        assert!(one == two, "{name} differs");
    }
    for name in NAMES {
        let [one, two] = [&plain, &flat].map(|path| path.join("images").join(name));
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let is_link = |path: &PathBuf| fs::symlink_metadata(path).unwrap().is_symlink();
        assert_eq!(is_link(&one), is_link(&two), "{name}");
    }
}

#[test]
fn images_that_are_there_are_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    fs::create_dir(&project).unwrap();
    let paths = files(&project.join("images"));
    let before: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let images = Images::files(paths.clone(), Placing::Link);
    // The images themselves: refused before anything is computed.
    let refusal = |images| {
        SceneOutput::create(&project, TEXT, images)
            .unwrap()
            .undistorted()
            .unwrap_err()
            .to_string()
    };
    let message = refusal(&images);
    assert!(
        message.contains("a.png: the image itself is there"),
        "{message}"
    );
    // One that is there by the name that an undistorted one would get.
    let elsewhere = files(&folder.path().join("elsewhere"));
    fs::remove_file(project.join("images/a.png")).unwrap();
    fs::remove_file(project.join("images/b.jpg")).unwrap();
    fs::remove_file(project.join("images/d.png")).unwrap();
    fs::rename(project.join("images/c.bmp"), project.join("images/c.png")).unwrap();
    let message = refusal(&Images::files(elsewhere.clone(), Placing::Link));
    assert!(
        message.contains("c.png: another file of that name is there"),
        "{message}"
    );
    assert_eq!(fs::read(project.join("images/c.png")).unwrap(), before[2]);

    // A folder appears complete or not at all: here an image has gone since it was looked at.
    let path = folder.path().join("model");
    let output = SceneOutput::create(
        &path,
        TEXT,
        &Images::files(elsewhere.clone(), Placing::Link),
    )
    .unwrap();
    let output = output.undistorted().unwrap();
    fs::remove_file(&elsewhere[2]).unwrap();
    let message = output
        .write(&scene(), &ExportOptions::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("c.bmp"), "{message}");
    assert!(!path.exists());
}
