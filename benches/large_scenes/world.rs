//! A world of rooms, corridors and open places on a grid, with streets if asked for, whose depths
//! are exact, and a walk through it that comes back to where it was.

use mast3r::geometry::{Camera, Intrinsics};
use nalgebra::{
    Isometry3, Matrix3, Point2, Rotation3, Translation3, UnitQuaternion, Vector2, Vector3,
};

/// Side of a cell, height of its ceiling, height of a door, and of the camera above the floor,
/// metres.
pub const CELL: f64 = 10.0;
const CEILING: f64 = 3.2;
const DOOR: f64 = 2.4;
/// Height of the houses along a street; above is the sky.
const ROOFS: f64 = 8.0;
const EYES: f64 = 1.5;
/// Cells that a ray goes through at most; beyond is fog.
const MOST_CELLS: usize = 8;
/// The walk's steps, on a straight line and near a corner, metres.
const STEP: f64 = 0.5;
const SHORT_STEP: f64 = 0.25;
/// How far ahead the camera looks along the path.
const AHEAD: f64 = 3.0;

/// Cells, and which of them look like another one.
pub struct World {
    side: i64,
    /// Cells of the second place look like those of the first.
    twins: Option<[(i64, i64); 2]>,
    has_streets: bool,
}

/// What a ray meets, and in which cell.
pub struct Hit {
    /// In lengths of the ray.
    pub distance: f64,
    pub cell: (i64, i64),
    pub surface: Surface,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Surface {
    Floor,
    Ceiling,
    /// A wall of the cell: the axis across it, and whether it is the one at the upper end.
    Wall {
        axis: usize,
        is_upper: bool,
    },
    /// A side of the box in a corner: the axis across it, and whether it is the upper one.
    Box {
        corner: usize,
        axis: usize,
        is_upper: bool,
    },
    /// Nothing within as many cells as a ray goes through.
    Fog,
}

/// Numbers that look random, the same in every run.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        let mut noise = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        noise.unit();
        noise
    }

    /// In 0 .. 1.
    pub fn unit(&mut self) -> f64 {
        // SplitMix64, Steele, Lea and Flood 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        unit(mixed ^ (mixed >> 31))
    }

    /// About normal, of deviation one.
    pub fn normal(&mut self) -> f64 {
        (0..4).map(|_| self.unit() - 0.5).sum::<f64>() * 3f64.sqrt()
    }

    pub fn vector(&mut self) -> Vector3<f64> {
        Vector3::from_fn(|_, _| self.normal())
    }
}

impl World {
    /// For a walk of so many frames, which passes most places about three times.
    pub fn new(frames: usize, has_twins: bool) -> Self {
        let moves = frames as f64 / 30.0;
        let side = ((moves / 9.0).sqrt().ceil() as i64).max(3);
        Self {
            side,
            twins: has_twins.then_some([(0, 1), (side - 1, 1)]),
            has_streets: false,
        }
    }

    /// The same with streets, and larger: a walk passes most places about twice.
    pub fn with_streets(frames: usize) -> Self {
        let plain = Self::new(frames, false);
        Self {
            side: plain.side + 1,
            has_streets: true,
            ..plain
        }
    }

    /// Whether a cell belongs to a street, which has no ceiling.
    pub fn is_street(&self, (x, y): (i64, i64)) -> bool {
        self.has_streets && (x.rem_euclid(3) == 1 || y.rem_euclid(4) == 2)
    }

    fn height(&self, cell: (i64, i64)) -> f64 {
        if self.is_street(cell) { ROOFS } else { CEILING }
    }

    /// From the second of the places that look alike to the first.
    pub fn between_twins(&self) -> Option<Vector3<f64>> {
        let [(x, y), (other_x, other_y)] = self.twins?;
        Some(Vector3::new(
            (x - other_x) as f64 * CELL,
            (y - other_y) as f64 * CELL,
            0.0,
        ))
    }

    /// Which of the places that look alike a point is in.
    pub fn twin_of(&self, point: &Vector3<f64>) -> Option<usize> {
        let cell = (
            (point.x / CELL).floor() as i64,
            (point.y / CELL).floor() as i64,
        );
        self.twins?.iter().position(|twin| *twin == cell)
    }

    /// The cell that this one looks like.
    fn model(&self, (x, y): (i64, i64)) -> (i64, i64) {
        match self.twins {
            Some([first, second]) if (x, y) == second => first,
            _ => (x, y),
        }
    }

    /// Half the width of the opening between a cell and its neighbour along an axis: a door, a
    /// corridor's width, or all.
    fn opening(&self, (x, y): (i64, i64), axis: usize) -> f64 {
        let next = if axis == 0 { (x + 1, y) } else { (x, y + 1) };
        if let Some(twins) = self.twins
            && (twins.contains(&(x, y)) || twins.contains(&next))
        {
            return 1.2;
        }
        match (self.is_street((x, y)), self.is_street(next)) {
            (true, true) => return CELL / 2.0,
            (false, false) => {}
            _ => return 1.2,
        }
        let mut noise = Noise::new(hash(x, y, 7 + axis as i64));
        match noise.unit() {
            ..0.4 => 1.2,
            0.4..0.7 => 2.5,
            _ => CELL / 2.0,
        }
    }

    /// Boxes in the corners of a cell: middle and half sides, from its lower corner.
    pub fn boxes(&self, cell: (i64, i64)) -> [(Vector3<f64>, Vector3<f64>); 4] {
        let (x, y) = self.model(cell);
        let mut noise = Noise::new(hash(x, y, 3));
        std::array::from_fn(|corner| {
            let sides = [corner % 2, corner / 2].map(|side| if side == 0 { -1.0 } else { 1.0 });
            let half = Vector3::new(
                0.2 + 0.7 * noise.unit(),
                0.2 + 0.7 * noise.unit(),
                0.3 + 1.0 * noise.unit(),
            );
            let mut middle = Vector3::new(CELL / 2.0, CELL / 2.0, half.z);
            for axis in 0..2 {
                middle[axis] += sides[axis] * (2.3 + 1.6 * noise.unit());
            }
            (middle, half)
        })
    }

    /// The first thing along a ray.
    pub fn cast(&self, from: &Vector3<f64>, ray: &Vector3<f64>) -> Hit {
        let mut cell = (
            (from.x / CELL).floor() as i64,
            (from.y / CELL).floor() as i64,
        );
        let mut reached = 0.0;
        for _ in 0..MOST_CELLS {
            let mut nearest = match ray.z {
                z if z > 1e-12 => ((self.height(cell) - from.z) / z, Surface::Ceiling),
                z if z < -1e-12 => (-from.z / z, Surface::Floor),
                _ => (f64::INFINITY, Surface::Fog),
            };
            let corner = Vector3::new(cell.0 as f64 * CELL, cell.1 as f64 * CELL, 0.0);
            let local = from - corner;
            let out = |axis: usize| match ray[axis] {
                along if along > 1e-12 => (CELL - local[axis]) / along,
                along if along < -1e-12 => -local[axis] / along,
                _ => f64::INFINITY,
            };
            let (axis, exit) = match [out(0), out(1)] {
                [x, y] if x < y => (0, x),
                [_, y] => (1, y),
            };
            for (corner, (middle, half)) in self.boxes(cell).into_iter().enumerate() {
                let ([enter, leave], axis) = crossing(&local, ray, &middle, &half);
                if enter < leave && enter > 1e-6 && enter < nearest.0 {
                    let is_upper = ray[axis] < 0.0;
                    let side = Surface::Box {
                        corner,
                        axis,
                        is_upper,
                    };
                    nearest = (enter, side);
                }
            }
            if nearest.0 < exit {
                let (distance, surface) = nearest;
                return Hit {
                    distance,
                    cell,
                    surface,
                };
            }
            reached = exit;
            let at = local + ray * exit;
            let forward = ray[axis] > 0.0;
            let next = match (axis, forward) {
                (0, true) => (cell.0 + 1, cell.1),
                (0, false) => (cell.0 - 1, cell.1),
                (_, true) => (cell.0, cell.1 + 1),
                (_, false) => (cell.0, cell.1 - 1),
            };
            let wall = if forward { cell } else { next };
            let inside = (0..self.side).contains(&next.0) && (0..self.side).contains(&next.1);
            let half = self.opening(wall, axis);
            let across = (at[1 - axis] - CELL / 2.0).abs();
            let lintel = if half > 2.0 { self.height(next) } else { DOOR };
            let is_open = inside && across < half && at.z < lintel;
            if !is_open {
                let surface = Surface::Wall {
                    axis,
                    is_upper: forward,
                };
                return Hit {
                    distance: exit,
                    cell,
                    surface,
                };
            }
            cell = next;
        }
        Hit {
            distance: reached,
            cell,
            surface: Surface::Fog,
        }
    }

    /// Depths along z of all pixels.
    pub fn depths(&self, camera: &Camera) -> Vec<f32> {
        let Intrinsics { width, height, .. } = camera.intrinsics;
        let from = camera.world_from_camera.translation.vector;
        let cast = |index: u32| {
            let pixel = [f64::from(index % width), f64::from(index / width)];
            // Of length one along z, so that what is found is the depth.
            let ray = camera.unproject(pixel, 1.0).coords - from;
            self.cast(&from, &ray).distance as f32
        };
        (0..width * height).map(cast).collect()
    }

    /// The middles of the cells that a walk goes through, at random and never straight back.
    fn cells(&self, moves: usize) -> Vec<(i64, i64)> {
        let mut noise = Noise::new(5);
        let mut cells = vec![(0, 0), (0, 1)];
        while cells.len() <= moves {
            let [(before_x, before_y), (x, y)] = [cells[cells.len() - 2], cells[cells.len() - 1]];
            let next: Vec<(i64, i64)> = [(1, 0), (0, 1), (-1, 0), (0, -1)]
                .iter()
                .map(|(dx, dy)| (x + dx, y + dy))
                .filter(|&(x, y)| (0..self.side).contains(&x) && (0..self.side).contains(&y))
                .filter(|&cell| cell != (before_x, before_y))
                .collect();
            cells.push(next[(noise.unit() * next.len() as f64) as usize % next.len()]);
        }
        cells
    }

    /// The cameras of a walk.
    pub fn walk(&self, frames: usize, intrinsics: Intrinsics) -> Vec<Camera> {
        let cells = self.cells(frames / 20 + 4);
        let middle =
            |&(x, y): &(i64, i64)| Point2::new((x as f64 + 0.5) * CELL, (y as f64 + 0.5) * CELL);
        let corners: Vec<Point2<f64>> = cells.iter().map(middle).collect();
        let at = |along: f64| {
            let leg = ((along / CELL) as usize).min(corners.len() - 2);
            let share = along / CELL - leg as f64;
            let point = corners[leg] + (corners[leg + 1] - corners[leg]) * share;
            // The same place is passed a little to the side each time.
            let aside = 0.4 * (0.37 * along).sin();
            let direction: Vector2<f64> = (corners[leg + 1] - corners[leg]) / CELL;
            point
                + Vector2::new(-direction.y, direction.x)
                    * aside
                    * (std::f64::consts::PI * share).sin()
        };
        let mut along = 0.5;
        let mut noise = Noise::new(11);
        let mut cameras = Vec::with_capacity(frames);
        while cameras.len() < frames {
            let (here, ahead) = (at(along), at(along + AHEAD));
            let direction = (ahead - here).normalize();
            let yaw =
                direction.y.atan2(direction.x) + 0.2 * (0.9 * along).sin() + 0.02 * noise.normal();
            let pitch = -0.06 + 0.05 * (0.31 * along).sin() + 0.01 * noise.normal();
            let z = Vector3::new(
                yaw.cos() * pitch.cos(),
                yaw.sin() * pitch.cos(),
                pitch.sin(),
            );
            let x = z.cross(&Vector3::z()).normalize();
            let axes = Matrix3::from_columns(&[x, z.cross(&x), z]);
            let rotation =
                UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(axes));
            let up = EYES + 0.08 * (0.7 * along).sin();
            let translation = Translation3::new(here.x, here.y, up);
            cameras.push(Camera {
                intrinsics,
                world_from_camera: Isometry3::from_parts(translation, rotation),
            });
            let from_corner = (along % CELL).min(CELL - along % CELL);
            along += if from_corner < AHEAD {
                SHORT_STEP
            } else {
                STEP
            };
        }
        cameras
    }
}

/// Where a ray enters and leaves a box, and the axis across the side where it enters.
fn crossing(
    from: &Vector3<f64>,
    ray: &Vector3<f64>,
    middle: &Vector3<f64>,
    half: &Vector3<f64>,
) -> ([f64; 2], usize) {
    let mut span = [f64::NEG_INFINITY, f64::INFINITY];
    let mut entered = 0;
    for axis in 0..3 {
        let ends =
            [-1.0, 1.0].map(|side| (middle[axis] + side * half[axis] - from[axis]) / ray[axis]);
        let enter = ends[0].min(ends[1]);
        if enter > span[0] {
            (span[0], entered) = (enter, axis);
        }
        span[1] = span[1].min(ends[0].max(ends[1]));
    }
    (span, entered)
}

/// A random number as one of 0 .. 1.
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

pub fn hash(x: i64, y: i64, salt: i64) -> u64 {
    (x as u64)
        .wrapping_mul(0x8da6_b343)
        .wrapping_add((y as u64).wrapping_mul(0xd816_3841))
        .wrapping_add((salt as u64).wrapping_mul(0xcb1a_b31f))
}
