use std::path::PathBuf;

use super::*;

/// `count` poses on a winding path, looking about.
fn poses(count: usize) -> Vec<Isometry3<f64>> {
    (0..count)
        .map(|index| {
            let t = index as f64;
            let place = Vector3::new(3.0 * (0.4 * t).sin(), 0.3 * (1.1 * t).cos(), 0.8 * t);
            Isometry3::new(place, Vector3::new(0.1 * t.sin(), 0.2 * t, 0.05 * t.cos()))
        })
        .collect()
}

fn rows(pose: &Isometry3<f64>) -> String {
    let matrix = pose.to_homogeneous();
    let row = |row: usize| {
        let row: Vec<String> = (0..4)
            .map(|column| matrix[(row, column)].to_string())
            .collect();
        format!("[{}]", row.join(","))
    };
    let rows: Vec<String> = (0..4).map(row).collect();
    format!("[{}]", rows.join(","))
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A `cameras.json` of these images; `None` is not registered.
    fn cameras(&self, file: &str, images: &[(String, Option<Isometry3<f64>>, f64)]) -> Cameras {
        let image = |(name, pose, focal): &(String, Option<Isometry3<f64>>, f64)| {
            let pose = pose.as_ref().map_or("null".into(), rows);
            format!(
                r#"{{"name":"{name}","width":400,"height":300,"fx":{focal},"fy":{focal},"cx":199.5,"cy":149.5,"world_from_camera":{pose}}}"#
            )
        };
        let images: Vec<String> = images.iter().map(image).collect();
        let text = format!(r#"{{"images":[{}]}}"#, images.join(","));
        Cameras::open(self.write(file, &text)).unwrap()
    }
}

fn named(
    poses: &[Isometry3<f64>],
    name: impl Fn(usize) -> String,
) -> Vec<(String, Option<Isometry3<f64>>, f64)> {
    poses
        .iter()
        .enumerate()
        .map(|(index, pose)| (name(index), Some(*pose), 350.0))
        .collect()
}

#[test]
fn auc_is_the_trapezoidal_area_of_the_cumulative_curve() {
    // (0, 0), (1, 1/3), (3, 2/3), level up to 5: 1/6 + 1 + 4/3 = 2.5.
    assert!((auc(&[1.0, 3.0, 7.0], 5.0) - 0.5).abs() < 1e-12);
    assert_eq!(auc(&[180.0, 180.0], 5.0), 0.0);
    assert_eq!(auc(&[], 5.0), 0.0);
    assert!((auc(&[0.0, 0.0], 5.0) - 1.0).abs() < 1e-12);
    // An error of the limit itself is not below it.
    assert_eq!(auc(&[5.0], 5.0), 0.0);
}

#[test]
fn a_similarity_of_the_reference_has_no_error_but_in_scale() {
    let files = Files::new();
    let truth = poses(8);
    let moved = Similarity3::new(
        Vector3::new(5.0, -2.0, 1.0),
        Vector3::new(0.3, 1.2, -0.4),
        0.2,
    );
    let estimate: Vec<_> = truth
        .iter()
        .map(|pose| {
            let at = moved * Point3::from(pose.translation.vector);
            Isometry3::from_parts(at.coords.into(), moved.isometry.rotation * pose.rotation)
        })
        .collect();
    let reference = files.cameras(
        "r.json",
        &named(&truth, |index| format!("images/{index}.jpg")),
    );
    let estimate = files.cameras("e.json", &named(&estimate, |index| format!("{index}.png")));
    for fit in [TrajectoryFit::LeastSquares, TrajectoryFit::Robust] {
        let found = Evaluation::new(&estimate, &reference, fit).unwrap();
        assert_eq!((found.registered(), found.pairs.len()), (8, 28));
        assert!(
            found.auc().iter().all(|auc| *auc > 0.999_999),
            "{:?}",
            found.auc()
        );
        let trajectory = found.trajectory.unwrap();
        assert!(trajectory.rmse < 1e-9 && trajectory.extent > 5.0);
        assert!((trajectory.similarity.scaling() - 5.0).abs() < 1e-9);
        for image in &found.images {
            assert!(image.rotation.unwrap() < 1e-5 && image.focal().unwrap() < 1e-12);
        }
    }
}

#[test]
fn errors_are_those_that_were_made() {
    let files = Files::new();
    let truth = poses(6);
    let mut estimate = named(&truth, |index| format!("{index}.jpg"));
    // One image is turned by 7 degrees about its own axis, one is not registered, one is unknown.
    let turn = UnitQuaternion::from_axis_angle(&Vector3::z_axis(), 7f64.to_radians());
    estimate[2].1 = Some(truth[2] * turn);
    estimate[2].2 = 385.0;
    estimate[4].1 = None;
    estimate.push(("other.jpg".into(), Some(truth[0]), 1.0));
    let reference = files.cameras("r.json", &named(&truth, |index| format!("{index}.jpg")));
    let estimate = files.cameras("e.json", &estimate);
    let found = Evaluation::new(&estimate, &reference, TrajectoryFit::LeastSquares).unwrap();
    assert_eq!(found.unknown, ["other.jpg"]);
    assert_eq!(found.registered(), 5);
    for pair in &found.pairs {
        let expected = match pair.images {
            images if images.contains(&4) => UNREGISTERED_DEGREES,
            images if images.contains(&2) => 7.0,
            _ => 0.0,
        };
        assert!((pair.rotation - expected).abs() < 1e-5, "{pair:?}");
    }
    // Five of 15 pairs have 180 degrees, four 7 and six none.
    let five = found.auc()[0];
    assert!((five - 6.0 / 15.0).abs() < 1e-6, "{five}");
    assert!((found.auc_registered()[0] - 0.6).abs() < 1e-6);
    assert!((found.images[2].focal().unwrap() - 0.1).abs() < 1e-9);
    assert!(found.trajectory.unwrap().rmse < 1e-9);
    assert!(found.images[2].rotation.unwrap() > 5.0);
}

#[test]
fn robust_fits_pass_over_a_wrong_camera() {
    let files = Files::new();
    let truth = poses(12);
    let mut estimate = truth.clone();
    estimate[5].translation.vector += Vector3::new(4.0, -6.0, 3.0);
    let reference = files.cameras("r.json", &named(&truth, |index| format!("{index}")));
    let estimate = files.cameras("e.json", &named(&estimate, |index| format!("{index}")));
    let median = |fit| {
        let found = Evaluation::new(&estimate, &reference, fit).unwrap();
        found.trajectory.unwrap().median
    };
    assert!(median(TrajectoryFit::LeastSquares) > 0.1);
    assert!(median(TrajectoryFit::Robust) < 0.02);
}

#[test]
fn centres_on_a_line_are_fitted_by_the_orientations() {
    let files = Files::new();
    let truth: Vec<_> = (0..5)
        .map(|index| Isometry3::translation(f64::from(index), 0.0, 0.0))
        .collect();
    let turn = Isometry3::rotation(Vector3::new(0.0, 0.7, 0.2));
    let estimate: Vec<_> = truth.iter().map(|pose| turn * pose).collect();
    let reference = files.cameras("r.json", &named(&truth, |index| format!("{index}")));
    let estimate = files.cameras("e.json", &named(&estimate, |index| format!("{index}")));
    let found = Evaluation::new(&estimate, &reference, TrajectoryFit::LeastSquares).unwrap();
    let trajectory = found.trajectory.unwrap();
    assert!(trajectory.is_on_a_line && trajectory.rmse < 1e-9);
}

#[test]
fn a_trajectory_is_matched_by_times_and_its_other_poses_do_not_count() {
    let files = Files::new();
    let truth = poses(40);
    let lines: Vec<String> = truth
        .iter()
        .enumerate()
        .map(|(index, pose)| {
            let (at, turn) = (pose.translation.vector, pose.rotation.quaternion());
            let time = 1000.0 + 0.1 * index as f64;
            format!(
                "{time:.3} {} {} {} {} {} {} {}",
                at.x, at.y, at.z, turn.i, turn.j, turn.k, turn.w
            )
        })
        .collect();
    let reference = Cameras::open(files.write("tum.txt", &lines.join("\n"))).unwrap();
    let some: Vec<_> = truth.iter().step_by(10).copied().collect();
    let estimate = files.cameras(
        "e.json",
        &named(&some, |index| format!("{}.000000.png", 1000 + index)),
    );
    let found = Evaluation::new(&estimate, &reference, TrajectoryFit::LeastSquares).unwrap();
    assert_eq!((found.images.len(), found.registered()), (4, 4));
    assert!(found.auc()[0] > 0.999_99);
}

#[test]
fn the_drawing_is_well_formed() {
    let files = Files::new();
    let truth = poses(5);
    let cameras = files.cameras("r.json", &named(&truth, |index| format!("{index}")));
    let found = Evaluation::new(&cameras, &cameras, TrajectoryFit::LeastSquares).unwrap();
    let labels = PlotLabels {
        estimate: "a<b.json",
        reference: "r&d",
    };
    let mut svg = Vec::new();
    write_plot(&found, labels, &mut svg).unwrap();
    let svg = String::from_utf8(svg).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("a&lt;b.json") && svg.contains("r&amp;d"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    // A legend of two, and two cameras for each image.
    assert_eq!(svg.matches("<circle").count(), 2 + 2 * 5);
}
