//! Poses as the TUM benchmark has them: lines of `timestamp tx ty tz qx qy qz qw`, camera to world,
//! OpenCV axes.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::{Inside, ListedCamera};
use crate::error::{Error, Result, Visible};
use crate::scene::Scene;
use crate::views::names::{Identity, timestamp};

/// How far apart the times of a pose and of an image may be.
const SAME_TIME: Duration = Duration::from_millis(1);

/// The poses in a file with this text, with their times.
pub(crate) fn read(text: &str, file: &Path) -> Result<(Vec<ListedCamera>, Vec<Duration>)> {
    let (mut entries, mut times) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (entry, time) = pose(line).ok_or_else(|| {
            let expected = "expected timestamp tx ty tz qx qy qz qw";
            let found: String = line.chars().take(60).collect();
            let known = "cameras.json, transforms.json, a TUM trajectory or the folder of a COLMAP model are read";
            Error::input(file, format!("line {number}: {expected}, found \"{}\"; {known}", Visible(&found)))
        })?;
        entries.push(entry);
        times.push(time);
    }
    if entries.is_empty() {
        return Err(Error::input(file, "it has no poses"));
    }
    Ok((entries, times))
}

fn pose(line: &str) -> Option<(ListedCamera, Duration)> {
    let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
    let name = words.next()?;
    let time = time(name)?;
    let numbers = words
        .map(|word| word.parse().ok())
        .collect::<Option<Vec<f64>>>()?;
    let [x, y, z, qx, qy, qz, qw] = numbers[..] else {
        return None;
    };
    let rotation = UnitQuaternion::try_new(Quaternion::new(qw, qx, qy, qz), 1e-6)?;
    let matrix = Isometry3::from_parts(Translation3::new(x, y, z), rotation).to_homogeneous();
    let rows = std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)]));
    Some((
        ListedCamera {
            name: name.into(),
            inside: Inside::Unknown,
            world_from_camera: Some(rows),
        },
        time,
    ))
}

/// Seconds, or nanoseconds where these would be more than all of history, exactly as far as the
/// text is.
fn time(text: &str) -> Option<Duration> {
    const NANOSECONDS_FROM: f64 = 1e17;
    let rounded = || {
        let number: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(if number < NANOSECONDS_FROM {
            number
        } else {
            number * 1e-9
        })
        .ok()
    };
    timestamp(text).or_else(rounded)
}

/// The pose of each image: the one of the time that it is named after, or else, where times are
/// whole numbers, the one of its index, counted from 0.
///
/// # Errors
/// A sentence where times are neither.
pub(crate) fn assigned(
    times: &[Duration],
    images: &[Identity],
) -> Result<Vec<Option<usize>>, String> {
    let named: Vec<Option<Duration>> = images.iter().map(|image| timestamp(image.name())).collect();
    if named.iter().any(Option::is_some) {
        let nearest = |wanted: Duration| {
            let near = (0..times.len()).min_by_key(|&at| times[at].abs_diff(wanted))?;
            (times[near].abs_diff(wanted) <= SAME_TIME).then_some(near)
        };
        return Ok(named
            .into_iter()
            .map(|time| time.and_then(nearest))
            .collect());
    }
    if times.iter().any(|time| time.subsec_nanos() != 0) {
        return Err("its timestamps are no indices of images, and images are not named after times; name them \
                    seconds.fraction.png or by nanoseconds, or give a file with their names"
            .into());
    }
    Ok((0..images.len() as u64)
        .map(|index| times.iter().position(|time| time.as_secs() == index))
        .collect())
}

/// Writes a line `timestamp tx ty tz qx qy qz qw` for every view that has a camera: the camera's
/// centre, and the rotation of camera to world axes. The timestamp is the time that the image is
/// named after, in seconds, if all images of the scene are named after different times; otherwise
/// it is the index among all views, from 0. Comments say so.
///
/// # Errors
/// Only the writer's own.
pub(crate) fn write(scene: &Scene, out: &mut dyn Write) -> io::Result<usize> {
    let times = times(scene);
    let what = if times.is_some() {
        "time in seconds that the image is named after"
    } else {
        "image's index, from 0"
    };
    writeln!(
        out,
        "# camera to world, x right, y down, z forward; the timestamp is the {what}"
    )?;
    if let Some(origin) = scene.georeference {
        writeln!(
            out,
            "# world: x east, y north, z up, metres, from latitude {}, longitude {}, altitude {} (WGS84)",
            origin.latitude, origin.longitude, origin.altitude
        )?;
    }
    writeln!(out, "# timestamp tx ty tz qx qy qz qw")?;
    let mut poses = 0;
    for (index, view) in scene.views.iter().enumerate() {
        let Some(camera) = &view.camera else { continue };
        let pose = scene.world_from_camera(camera);
        let (centre, turn) = (pose.translation.vector, pose.rotation.quaternion());
        let (x, y, z) = (centre.x, centre.y, centre.z);
        match &times {
            Some(times) => write!(
                out,
                "{}.{:09}",
                times[index].as_secs(),
                times[index].subsec_nanos()
            )?,
            None => write!(out, "{index}")?,
        }
        writeln!(
            out,
            " {x} {y} {z} {} {} {} {}",
            turn.i, turn.j, turn.k, turn.w
        )?;
        poses += 1;
    }
    Ok(poses)
}

/// The times that all images are named after; the two cameras of a rig have equal ones, which are
/// no use as timestamps.
fn times(scene: &Scene) -> Option<Vec<Duration>> {
    let times: Vec<Duration> = scene
        .views
        .iter()
        .map(|view| timestamp(&view.name))
        .collect::<Option<_>>()?;
    let distinct: HashSet<&Duration> = times.iter().collect();
    (distinct.len() == times.len()).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(names: &[&str]) -> Vec<Identity> {
        names
            .iter()
            .map(|name| Identity::new(name, Path::new(name)))
            .collect()
    }

    fn found(text: &str, names: &[&str]) -> Result<Vec<Option<usize>>, String> {
        let (_, times) = read(text, Path::new("poses.txt")).unwrap();
        assigned(&times, &images(names))
    }

    const REST: &str = "0 0 0 0 0 0 1";

    #[test]
    fn a_pose_is_that_of_the_camera_in_the_world() {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        // A quarter turn about z.
        let (entries, _) = read(
            &format!("# x\n1.5 1 2 3 0 0 {half} {half}\n"),
            Path::new("poses.txt"),
        )
        .unwrap();
        let rows = entries[0].world_from_camera.unwrap();
        let expected = [
            [0.0, -1.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, 2.0],
            [0.0, 0.0, 1.0, 3.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        assert!(
            rows.concat()
                .iter()
                .zip(expected.concat())
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{rows:?}"
        );
        for line in [
            "1 2 3",
            "a 0 0 0 0 0 0 1",
            "1 0 0 0 0 0 0 0",
            "-1 0 0 0 0 0 0 1",
        ] {
            let message = read(line, Path::new("poses.txt")).unwrap_err().to_string();
            assert!(
                message.starts_with("poses.txt: line 1: expected timestamp tx ty tz"),
                "{message}"
            );
        }
    }

    #[test]
    fn poses_are_found_by_the_times_that_images_are_named_after() {
        let text = format!("1403636579.763556 {REST}\n1403636579.813555479 {REST}\n");
        let seconds = [
            "cam0/1403636579.813555479.png",
            "cam0/1403636579.763555584.png",
            "cam0/1403636580.0.png",
        ];
        assert_eq!(found(&text, &seconds).unwrap(), [Some(1), Some(0), None]);
        assert_eq!(
            found(&text, &["1403636579763555584.png"]).unwrap(),
            [Some(0)]
        );
        let nanoseconds = format!("1.403636579763555584e+18 {REST}");
        assert_eq!(
            found(&nanoseconds, &["1403636579763555584.png"]).unwrap(),
            [Some(0)]
        );
    }

    #[test]
    fn poses_are_found_by_index_where_times_are_whole_numbers() {
        let text = format!("0 {REST}\n2 {REST}\n");
        assert_eq!(
            found(&text, &["a.png", "b.png", "c.png"]).unwrap(),
            [Some(0), None, Some(1)]
        );
        assert!(
            found(&format!("0.5 {REST}"), &["a.png"])
                .unwrap_err()
                .contains("no indices")
        );
    }
}
