//! Scenes in a frame of the Earth: upright by how cameras are held, or georeferenced by the
//! positions that EXIF data have of their images.
//!
//! Both move a whole scene by a similarity transform, see [`Scene::transform`], and
//! leave images, tracks and reprojection errors as they are.

use nalgebra::{Matrix3, Point3, Rotation3, Similarity3, Translation3, UnitQuaternion, Vector3};

use crate::error::{Error, Result};
use crate::geometry::procrustes::nearest_rotation;
use crate::geometry::{Geodetic, LocalFrame, UpDirection, median, ransac::SplitMix, up_direction};
use crate::scene::Scene;
use crate::views::GpsPosition;

/// Why one place is not enough.
const ONE_PLACE: &str = "all images have one GPS position; use images from several places";
/// Fewest positions: a similarity has seven parameters, and three positions nine coordinates.
pub const LEAST_POSITIONS: usize = 3;
/// How well cameras show the vertical, radians: people hold them level to some degrees.
const UP_SIGMA: f64 = 3.0 * std::f64::consts::PI / 180.0;
/// Noise of positions to begin with, and the least that is believed, metres.
const GPS_SIGMA: f64 = 3.0;
const LEAST_SIGMA: f64 = 0.02;
/// Triples that the search for wrong positions looks at.
const SAMPLES: usize = 300;
/// Rounds of reweighting, and rounds within each that settle rotation and scale.
const ROUNDS: usize = 30;
const INNER_ROUNDS: usize = 10;
/// Residuals from so many standard deviations of a coordinate on count less and less.
const HUBER: f64 = 3.0;
/// Positions whose second principal spread is below this share of the first lie on a line. GPS
/// noise keeps them from doing so exactly, so the share of that is allowed too.
const LINE: f64 = 0.05;
/// Positions agree with the cameras if their median residual is below this share of their spread.
const MOST_RESIDUAL: f64 = 0.5;

/// A scene's place on the Earth, and how well positions agree with it.
#[derive(Clone, Debug)]
pub struct Georeference {
    /// Where the axes of the scene's world meet: x east, y north, z up.
    pub origin: Geodetic,
    /// Takes the scene's world before to that frame.
    pub similarity: Similarity3<f64>,
    /// For each view: how far its camera is from its position, metres east, north and up; `None`
    /// without a position or a camera.
    pub residuals: Vec<Option<Vector3<f64>>>,
    /// Median length of the residuals, metres.
    pub median_residual: f64,
    /// Whether the positions lie on a line, about which the cameras' up direction turns the scene.
    pub is_on_a_line: bool,
}

impl Georeference {
    /// Finds the frame for `positions`, one of each view: the similarity that takes camera centres
    /// nearest to them in the local frame at their median.
    ///
    /// It minimises `sum rho(|s R c + t - p|² / σ²) + angle(R u, up)² / (3°)²` over scale s,
    /// rotation R and translation t, with Huber's rho from 3 σ on, from the best of 300 triples; u
    /// is the cameras' [`up_direction`], which counts only where they determine it. σ, the noise of
    /// one coordinate, is that of the residuals.
    ///
    /// # Errors
    /// [`Error::NoGeoreference`] with the reason: fewer than three images have a camera and a
    /// position with an altitude, all positions are one, they lie on a line and the cameras do not
    /// show the vertical, or they do not agree with the cameras.
    pub fn fit(scene: &Scene, positions: &[Option<GpsPosition>]) -> Result<Self> {
        let refuse = |reason: String| Err(Error::NoGeoreference { reason });
        let centre = |view: usize| {
            let camera = scene.views.get(view)?.camera.as_ref()?;
            Some(scene.world_from_camera(camera).translation.vector)
        };
        let used: Vec<(usize, Vector3<f64>, Geodetic)> = known_positions(positions)
            .into_iter()
            .filter_map(|(view, position)| Some((view, centre(view)?, position)))
            .collect();
        if used.len() < LEAST_POSITIONS {
            return refuse(format!(
                "{} images have a camera pose and a GPS position with an altitude; {LEAST_POSITIONS} are needed",
                used.len()
            ));
        }
        let origin = origin(&used);
        let frame = LocalFrame::new(origin);
        let pairs: Vec<Pair> = used
            .iter()
            .map(|(_, centre, position)| Pair {
                from: *centre,
                to: frame.local(*position),
            })
            .collect();
        let spread = Spread::of(pairs.iter().map(|pair| pair.to));
        let cameras = Spread::of(pairs.iter().map(|pair| pair.from));
        if spread.first <= LEAST_SIGMA || cameras.first <= 0.0 {
            return refuse(ONE_PLACE.into());
        }
        let up = up_direction(&orientations(scene)).filter(|found| found.is_determined);
        let is_on_a_line = cameras.is_line();
        if is_on_a_line && up.is_none() {
            return refuse(
                "the camera centres lie on a line and all cameras head the same way, so the rotation about the line is \
                 not determined; add images with other headings"
                    .into(),
            );
        }
        let Some(similarity) = fit(&pairs, up.as_ref()) else {
            return refuse("the GPS positions do not determine a similarity transform".into());
        };
        let mut residuals = vec![None; scene.views.len()];
        for ((view, ..), pair) in used.iter().zip(&pairs) {
            residuals[*view] = Some(residual(&similarity, pair));
        }
        let lengths = residuals.iter().flatten().map(Vector3::norm);
        let median_residual = median(lengths).unwrap_or(f64::INFINITY);
        if median_residual > MOST_RESIDUAL * spread.first {
            return refuse(format!(
                "the GPS positions do not agree with the cameras: the median residual is {median_residual:.1} m, and \
                 the positions spread over {:.1} m (one standard deviation)",
                spread.first
            ));
        }
        Ok(Self {
            origin,
            similarity,
            residuals,
            median_residual,
            is_on_a_line,
        })
    }

    /// Moves the scene into the frame; its units become metres.
    pub fn apply(&self, scene: &mut Scene) {
        scene.transform(&self.similarity);
        scene.georeference = Some(self.origin);
        scene.metric = true;
    }
}

/// The orientations of all cameras.
fn orientations(scene: &Scene) -> Vec<UnitQuaternion<f64>> {
    let cameras = scene.views.iter().filter_map(|view| view.camera.as_ref());
    cameras
        .map(|camera| camera.world_from_camera.rotation)
        .collect()
}

/// Positions that may be used, with their views.
fn known_positions(positions: &[Option<GpsPosition>]) -> Vec<(usize, Geodetic)> {
    let known = |(view, position): (usize, &Option<GpsPosition>)| {
        let GpsPosition {
            latitude,
            longitude,
            altitude,
        } = (*position)?;
        let altitude = altitude?;
        Some((
            view,
            Geodetic {
                latitude,
                longitude,
                altitude,
            },
        ))
    };
    positions.iter().enumerate().filter_map(known).collect()
}

/// Checks what positions alone show, before hours of work: that three or more are known, in more
/// than one place.
///
/// # Errors
/// [`Error::NoGeoreference`] with the reason.
pub fn check_positions(positions: &[Option<GpsPosition>]) -> Result<()> {
    let known = known_positions(positions);
    let refuse = |reason: String| Err(Error::NoGeoreference { reason });
    if known.len() < LEAST_POSITIONS {
        let without = positions.iter().flatten().count() - known.len();
        let without = match without {
            0 => String::new(),
            count => format!(" ({count} more have one without an altitude)"),
        };
        return refuse(format!(
            "{} of {} images have a GPS position in their EXIF data{without}; {LEAST_POSITIONS} are needed",
            known.len(),
            positions.len()
        ));
    }
    let same = known.iter().all(|(_, position)| *position == known[0].1);
    match same {
        true => refuse(ONE_PLACE.into()),
        false => Ok(()),
    }
}

/// The rotation that makes a scene stand upright, and what it is found by.
///
/// Afterwards y of the world points down along gravity, and z is the horizontal direction that the
/// first camera looks in: the axes of a level camera.
///
/// # Errors
/// [`Error::NoCameras`] if no image has one; [`Error::Usage`] if cameras are held in opposite ways.
pub fn upright(scene: &Scene) -> Result<(UnitQuaternion<f64>, UpDirection)> {
    let turns = orientations(scene);
    let Some(first) = turns.first() else {
        return Err(Error::NoCameras {
            what: "an upright scene".into(),
            reason: "no image has one".into(),
        });
    };
    let found = up_direction(&turns).ok_or_else(|| {
        Error::Usage(
            "the up directions of the images cancel out; rotate the images that are upside down"
                .into(),
        )
    })?;
    let down = -found.up.into_inner();
    let level = |axis: Vector3<f64>| (axis - down * down.dot(&axis)).try_normalize(0.1);
    // A camera that looks straight down heads where the top of its image is.
    let ahead = level(first * Vector3::z())
        .or_else(|| level(first * -Vector3::y()))
        .unwrap_or_else(Vector3::z);
    let right = down.cross(&ahead);
    let rows = [right, down, ahead].map(|axis| axis.transpose());
    let turn = Rotation3::from_matrix_unchecked(Matrix3::from_rows(&rows));
    Ok((UnitQuaternion::from_rotation_matrix(&turn), found))
}

/// The median of positions: of east, north and up in the frame of one of them.
fn origin(used: &[(usize, Vector3<f64>, Geodetic)]) -> Geodetic {
    let frame = LocalFrame::new(used[0].2);
    let middle = |axis: usize| {
        median(
            used.iter()
                .map(|(.., position)| frame.local(*position)[axis]),
        )
        .unwrap_or(0.0)
    };
    frame.geodetic(Vector3::new(middle(0), middle(1), middle(2)))
}

/// A camera centre and its position.
#[derive(Clone, Copy)]
struct Pair {
    from: Vector3<f64>,
    to: Vector3<f64>,
}

/// Standard deviations along the first two principal axes.
struct Spread {
    first: f64,
    second: f64,
}

impl Spread {
    fn of(points: impl Iterator<Item = Vector3<f64>> + Clone) -> Self {
        let count = points.clone().count() as f64;
        let mean: Vector3<f64> = points.clone().sum::<Vector3<f64>>() / count;
        let covariance = points.fold(Matrix3::zeros(), |sum, point| {
            let off = point - mean;
            sum + off * off.transpose() / count
        });
        let mut values: [f64; 3] = covariance.symmetric_eigenvalues().into();
        values.sort_by(f64::total_cmp);
        let [_, second, first] = values.map(|value| value.max(0.0).sqrt());
        Self { first, second }
    }

    fn is_line(&self) -> bool {
        self.second < LINE * self.first
    }
}

/// The similarity of [`Georeference::fit`].
fn fit(pairs: &[Pair], up: Option<&UpDirection>) -> Option<Similarity3<f64>> {
    let all: Vec<f64> = vec![1.0; pairs.len()];
    let mut best = weighted(pairs, &all, GPS_SIGMA, up);
    let cost = |found: &Similarity3<f64>| {
        median(pairs.iter().map(|pair| residual(found, pair).norm())).unwrap_or(f64::INFINITY)
    };
    let mut least = best.as_ref().map_or(f64::INFINITY, cost);
    // Of five or more, some may be wrong.
    if pairs.len() > 4 {
        let mut random = SplitMix::new();
        for _ in 0..SAMPLES {
            let chosen = random.distinct::<3>(pairs.len()).map(|index| pairs[index]);
            if let Some(found) = weighted(&chosen, &[1.0; 3], GPS_SIGMA, up)
                && let found_cost = cost(&found)
                && found_cost < least
            {
                (least, best) = (found_cost, Some(found));
            }
        }
    }
    let mut found = best?;
    for _ in 0..ROUNDS {
        // Lengths of three normal coordinates have a median of 1.54 standard deviations; the fit
        // itself takes seven of the coordinates.
        let free = 1.0 - 7.0 / (3.0 * pairs.len() as f64);
        let sigma = (cost(&found) / 1.54 / free.max(0.2).sqrt()).max(LEAST_SIGMA);
        let weights: Vec<f64> = pairs
            .iter()
            .map(|pair| (HUBER * sigma / residual(&found, pair).norm()).min(1.0))
            .collect();
        found = weighted(pairs, &weights, sigma, up)?;
    }
    Some(found)
}

fn residual(similarity: &Similarity3<f64>, pair: &Pair) -> Vector3<f64> {
    (similarity * Point3::from(pair.from) - pair.to).coords
}

/// The similarity of least weighted squared distance, in units of `sigma`, and angle of `up` to the
/// vertical, in those of [`UP_SIGMA`]. Of a given scale the rotation is the one that maximises the
/// trace of its product with the covariance of both (Wahba's problem), and of a given rotation the
/// scale is linear.
fn weighted(
    pairs: &[Pair],
    weights: &[f64],
    sigma: f64,
    up: Option<&UpDirection>,
) -> Option<Similarity3<f64>> {
    let total: f64 = weights.iter().sum();
    let mean = |point: fn(&Pair) -> Vector3<f64>| {
        pairs
            .iter()
            .zip(weights)
            .fold(Vector3::zeros(), |sum, (pair, weight)| {
                sum + point(pair) * (weight / total)
            })
    };
    let (from, to) = (mean(|pair| pair.from), mean(|pair| pair.to));
    let (mut covariance, mut before, mut after) = (Matrix3::zeros(), 0.0, 0.0);
    for (pair, weight) in pairs.iter().zip(weights) {
        let (start, end) = (pair.from - from, pair.to - to);
        covariance += end * start.transpose() * *weight;
        before += weight * start.norm_squared();
        after += weight * end.norm_squared();
    }
    let mut scale = (after / before).sqrt();
    if !(scale.is_finite() && scale > 0.0) {
        return None;
    }
    let vertical = up.map_or_else(Matrix3::zeros, |found| {
        Vector3::z() * found.up.transpose() / (UP_SIGMA * UP_SIGMA)
    });
    let mut turn = UnitQuaternion::identity();
    for _ in 0..INNER_ROUNDS {
        turn = nearest_rotation(covariance * (scale / (sigma * sigma)) + vertical)?;
        let along = (covariance.transpose() * turn.to_rotation_matrix().matrix()).trace();
        if along > 0.0 {
            scale = along / before;
        }
    }
    let shift = Translation3::from(to - turn * from * scale);
    Some(Similarity3::from_parts(shift, turn, scale))
}

#[cfg(test)]
mod tests;
