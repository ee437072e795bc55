//! A drawing of an evaluation: the cumulative curve of pose errors, and both trajectories from above.

use std::fmt::Write as _;
use std::io::{self, Write};

use nalgebra::{Point3, UnitQuaternion, Vector3};

use super::{AUC_DEGREES, Evaluation, PairErrors};
use crate::geometry::up_direction;

/// Size of the drawing and of the two frames in it, SVG's user units.
const SIZE: [f64; 2] = [980.0, 480.0];
const CURVE: Frame = Frame {
    left: 70.0,
    top: 60.0,
    width: 380.0,
    height: 350.0,
};
const MAP: Frame = Frame {
    left: 550.0,
    top: 60.0,
    width: 380.0,
    height: 350.0,
};
/// Largest error of the curve, degrees.
const MOST_DEGREES: f64 = AUC_DEGREES[3];
/// Length of the mark of where a camera looks, of the frame's shorter side.
const GAZE: f64 = 0.04;
const REFERENCE: &str = "#1f2933";
const ESTIMATE: &str = "#d95f02";
const GRID: &str = "#d9dee3";

/// What the drawing calls both.
#[derive(Clone, Copy, Debug)]
pub struct PlotLabels<'a> {
    /// The estimated cameras.
    pub estimate: &'a str,
    /// The reference.
    pub reference: &'a str,
}

struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// Writes an SVG: on the left the share of pairs whose rotation, direction and pose error is at most
/// x degrees, on the right the camera centres and viewing directions of both from above, after the
/// similarity that [`TrajectoryErrors`](super::TrajectoryErrors) has. Above is the up direction of
/// the reference's cameras, see [`up_direction`].
///
/// # Errors
/// Only the writer's own.
pub fn write_plot(
    evaluation: &Evaluation,
    labels: PlotLabels<'_>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut svg = String::new();
    draw(evaluation, labels, &mut svg).map_err(io::Error::other)?;
    out.write_all(svg.as_bytes())
}

fn draw(evaluation: &Evaluation, labels: PlotLabels<'_>, svg: &mut String) -> std::fmt::Result {
    let [width, height] = SIZE;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"{REFERENCE}\">"
    )?;
    writeln!(
        svg,
        "<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"
    )?;
    curves(evaluation, svg)?;
    map(evaluation, labels, svg)?;
    writeln!(svg, "</svg>")
}

fn text(
    svg: &mut String,
    [x, y]: [f64; 2],
    anchor: &str,
    fill: &str,
    words: &str,
) -> std::fmt::Result {
    let words = escaped(words);
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{words}</text>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], color: &str, width: f64) -> std::fmt::Result {
    writeln!(
        svg,
        "<line x1=\"{x1:.2}\" y1=\"{y1:.2}\" x2=\"{x2:.2}\" y2=\"{y2:.2}\" stroke=\"{color}\" stroke-width=\"{width}\"/>"
    )
}

fn curves(evaluation: &Evaluation, svg: &mut String) -> std::fmt::Result {
    let Frame {
        left,
        top,
        width,
        height,
    } = CURVE;
    let at = |degrees: f64, share: f64| {
        [
            left + width * degrees / MOST_DEGREES,
            top + height * (1.0 - share),
        ]
    };
    for degrees in [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0] {
        let [x, bottom] = at(degrees, 0.0);
        line(svg, [x, top, x, bottom], GRID, 1.0)?;
        text(
            svg,
            [x, bottom + 18.0],
            "middle",
            REFERENCE,
            &format!("{degrees:.0}"),
        )?;
    }
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let [x, y] = at(0.0, percent / 100.0);
        line(svg, [x, y, x + width, y], GRID, 1.0)?;
        text(
            svg,
            [x - 8.0, y + 4.0],
            "end",
            REFERENCE,
            &format!("{percent:.0} %"),
        )?;
    }
    let title = format!(
        "Pairs of {} images with at most this error",
        evaluation.images.len()
    );
    text(svg, [left, top - 32.0], "start", REFERENCE, &title)?;
    let auc = evaluation.auc().map(|auc| format!("{:.1}", 100.0 * auc));
    let degrees = AUC_DEGREES.map(|degrees| degrees.to_string()).join("/");
    let auc = format!("AUC@{degrees}: {}", auc.join(" / "));
    text(svg, [left, top - 14.0], "start", REFERENCE, &auc)?;
    text(
        svg,
        [left + width / 2.0, top + height + 40.0],
        "middle",
        REFERENCE,
        "error, degrees",
    )?;
    // The widest below the others, which often lie on it.
    type Kind = (&'static str, &'static str, f64, fn(&PairErrors) -> f64);
    let kinds: [Kind; 3] = [
        ("pose, the larger of both", "#f7b27a", 6.0, PairErrors::pose),
        ("rotation", "#1b9e77", 2.0, |pair| pair.rotation),
        ("translation direction", "#7570b3", 2.0, |pair| {
            pair.direction
        }),
    ];
    for (index, (name, color, stroke, error)) in (0..).zip(kinds) {
        let mut errors: Vec<f64> = evaluation.pairs.iter().map(error).collect();
        errors.sort_by(f64::total_cmp);
        let count = errors.len() as f64;
        let mut points = String::new();
        let mut share = 0.0;
        let mut corner = |degrees: f64, share: f64| {
            let [x, y] = at(degrees, share);
            write!(points, "{x:.2},{y:.2} ")
        };
        corner(0.0, 0.0)?;
        for (index, error) in errors
            .iter()
            .take_while(|error| **error < MOST_DEGREES)
            .enumerate()
        {
            share = (index + 1) as f64 / count;
            corner(*error, share)?;
        }
        corner(MOST_DEGREES, share)?;
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{stroke}\"/>",
            points.trim_end()
        )?;
        let y = top + height - 56.0 + 18.0 * f64::from(index);
        line(
            svg,
            [left + width - 172.0, y - 4.0, left + width - 150.0, y - 4.0],
            color,
            stroke,
        )?;
        text(svg, [left + width - 144.0, y], "start", REFERENCE, name)?;
    }
    Ok(())
}

fn map(evaluation: &Evaluation, labels: PlotLabels<'_>, svg: &mut String) -> std::fmt::Result {
    let Frame {
        left,
        top,
        width,
        height,
    } = MAP;
    writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"{GRID}\"/>"
    )?;
    text(
        svg,
        [left, top - 32.0],
        "start",
        REFERENCE,
        "Cameras from above",
    )?;
    let Some(trajectory) = &evaluation.trajectory else {
        return text(
            svg,
            [left + width / 2.0, top + height / 2.0],
            "middle",
            REFERENCE,
            "fewer than three poses in different places",
        );
    };
    text(
        svg,
        [left, top - 14.0],
        "start",
        REFERENCE,
        &format!(
            "RMSE {:.3}, of an extent of {:.3}",
            trajectory.rmse, trajectory.extent
        ),
    )?;
    let turns: Vec<UnitQuaternion<f64>> = evaluation
        .images
        .iter()
        .map(|image| image.reference.rotation)
        .collect();
    let up = up_direction(&turns).map_or(-Vector3::y(), |found| found.up.into_inner());
    // To the right and up the page.
    let ahead = turns
        .iter()
        .map(|turn| turn * Vector3::z())
        .sum::<Vector3<f64>>();
    let across = |axis: Vector3<f64>| (axis - up * up.dot(&axis)).try_normalize(1e-3);
    let ahead = across(ahead)
        .or_else(|| across(Vector3::x()))
        .unwrap_or_else(Vector3::y);
    let right = ahead.cross(&up);
    let flat = |point: &Vector3<f64>| [right.dot(point), ahead.dot(point)];

    let cameras: Vec<(Camera, Option<Camera>)> = evaluation
        .images
        .iter()
        .map(|image| {
            let of = |centre: Vector3<f64>, turn: UnitQuaternion<f64>| Camera {
                place: flat(&centre),
                gaze: flat(&(turn * Vector3::z())),
            };
            let estimate = image.estimate.map(|pose| {
                let moved = trajectory.similarity * Point3::from(pose.translation.vector);
                let turn = trajectory.similarity.isometry.rotation * pose.rotation;
                of(moved.coords, turn)
            });
            let reference = of(image.reference.translation.vector, image.reference.rotation);
            (reference, estimate)
        })
        .collect();
    let places = || {
        cameras
            .iter()
            .flat_map(|(reference, estimate)| {
                [
                    Some(reference.place),
                    estimate.as_ref().map(|camera| camera.place),
                ]
            })
            .flatten()
    };
    let bounds = |axis: usize| {
        places().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| {
            (low.min(place[axis]), high.max(place[axis]))
        })
    };
    let (x, y) = (bounds(0), bounds(1));
    let free = 0.8;
    let scale = (free * width / (x.1 - x.0)).min(free * height / (y.1 - y.0));
    let scale = if scale.is_finite() { scale } else { 1.0 };
    let to_page = |[px, py]: [f64; 2]| {
        [
            left + width / 2.0 + scale * (px - (x.0 + x.1) / 2.0),
            top + height / 2.0 - scale * (py - (y.0 + y.1) / 2.0),
        ]
    };
    let mut mark = |camera: &Camera, color: &str, is_filled: bool| {
        let [px, py] = to_page(camera.place);
        let reach = GAZE * height;
        let end = [px + reach * camera.gaze[0], py - reach * camera.gaze[1]];
        line(svg, [px, py, end[0], end[1]], color, 1.5)?;
        let fill = if is_filled { color } else { "#fff" };
        writeln!(
            svg,
            "<circle cx=\"{px:.2}\" cy=\"{py:.2}\" r=\"4\" fill=\"{fill}\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
        )
    };
    for (reference, estimate) in &cameras {
        mark(reference, REFERENCE, false)?;
        if let Some(estimate) = estimate {
            mark(estimate, ESTIMATE, true)?;
        }
    }
    for (reference, estimate) in &cameras {
        if let Some(estimate) = estimate {
            let ([x1, y1], [x2, y2]) = (to_page(reference.place), to_page(estimate.place));
            line(svg, [x1, y1, x2, y2], ESTIMATE, 1.0)?;
        }
    }
    let bottom = top + height + 20.0;
    for (index, (color, what, name)) in (0..).zip([
        (REFERENCE, "reference", labels.reference),
        (ESTIMATE, "estimate", labels.estimate),
    ]) {
        let y = bottom + 18.0 * f64::from(index);
        let fill = if index == 0 { "#fff" } else { color };
        writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{color}\" stroke-width=\"1.5\"/>",
            left + 6.0,
            y - 4.0
        )?;
        text(
            svg,
            [left + 18.0, y],
            "start",
            REFERENCE,
            &format!("{what}: {name}"),
        )?;
    }
    Ok(())
}

/// A camera on the plane.
struct Camera {
    place: [f64; 2],
    gaze: [f64; 2],
}
