//! A world of rooms, corridors and open places on a grid, whose depths are exact, and a walk
//! through it that comes back to where it was.

use mast3r::geometry::{Camera, Intrinsics};
use nalgebra::{
    Isometry3, Matrix3, Point2, Rotation3, Translation3, UnitQuaternion, Vector2, Vector3,
};

/// Side of a cell, height of its ceiling, height of a door, and of the camera above the floor,
/// metres.
const CELL: f64 = 10.0;
const CEILING: f64 = 3.2;
const DOOR: f64 = 2.4;
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
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
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
        }
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
        if let Some(twins) = self.twins {
            let other = if axis == 0 { (x + 1, y) } else { (x, y + 1) };
            if twins.contains(&(x, y)) || twins.contains(&other) {
                return 1.2;
            }
        }
        let mut noise = Noise::new(hash(x, y, 7 + axis as i64));
        match noise.unit() {
            ..0.4 => 1.2,
            0.4..0.7 => 2.5,
            _ => CELL / 2.0,
        }
    }

    /// Boxes in the corners of a cell: middle and half sides, from its lower corner.
    fn boxes(&self, cell: (i64, i64)) -> [(Vector3<f64>, Vector3<f64>); 4] {
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

    /// How far along a ray something is.
    fn cast(&self, from: &Vector3<f64>, ray: &Vector3<f64>) -> f64 {
        let mut cell = (
            (from.x / CELL).floor() as i64,
            (from.y / CELL).floor() as i64,
        );
        let vertical = match ray.z {
            z if z > 1e-12 => (CEILING - from.z) / z,
            z if z < -1e-12 => -from.z / z,
            _ => f64::INFINITY,
        };
        let mut reached = 0.0;
        for _ in 0..MOST_CELLS {
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
            let mut nearest = vertical;
            for (middle, half) in self.boxes(cell) {
                let [enter, leave] = crossing(&local, ray, &middle, &half);
                if enter < leave && enter > 1e-6 && enter < nearest {
                    nearest = enter;
                }
            }
            if nearest < exit {
                return nearest;
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
            let is_open = inside && across < half && (half > 2.0 || at.z < DOOR);
            if !is_open {
                return exit;
            }
            cell = next;
        }
        reached
    }

    /// Depths along z of all pixels.
    pub fn depths(&self, camera: &Camera) -> Vec<f32> {
        let Intrinsics { width, height, .. } = camera.intrinsics;
        let from = camera.world_from_camera.translation.vector;
        let cast = |index: u32| {
            let pixel = [f64::from(index % width), f64::from(index / width)];
            // Of length one along z, so that what is found is the depth.
            let ray = camera.unproject(pixel, 1.0).coords - from;
            self.cast(&from, &ray) as f32
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

/// Where a ray enters and leaves a box.
fn crossing(
    from: &Vector3<f64>,
    ray: &Vector3<f64>,
    middle: &Vector3<f64>,
    half: &Vector3<f64>,
) -> [f64; 2] {
    (0..3).fold(
        [f64::NEG_INFINITY, f64::INFINITY],
        |[enter, leave], axis| {
            let ends =
                [-1.0, 1.0].map(|side| (middle[axis] + side * half[axis] - from[axis]) / ray[axis]);
            [
                enter.max(ends[0].min(ends[1])),
                leave.min(ends[0].max(ends[1])),
            ]
        },
    )
}

fn hash(x: i64, y: i64, salt: i64) -> u64 {
    (x as u64)
        .wrapping_mul(0x8da6_b343)
        .wrapping_add((y as u64).wrapping_mul(0xd816_3841))
        .wrapping_add((salt as u64).wrapping_mul(0xcb1a_b31f))
}
