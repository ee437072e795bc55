//! What a small network would predict of pairs of a walk's frames.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use mast3r::alignment::{Pair, PairEvidence, ViewShape};
use mast3r::geometry::{Camera, Intrinsics, PointMap};
use mast3r::matching::{Match, Pixel};
use mast3r::views::Crop;
use nalgebra::{Isometry3, Point3};

use crate::world::{Noise, World};

/// Each frame is paired with so many that follow it, by default, and with so many of those much earlier ones
/// that look the same way from near by, metres and radians.
pub const WINDOW: usize = 4;
const LOOPS: usize = 3;
const NEAR: f64 = 1.5;
const ALIKE: f64 = 0.4;
const EARLIER: usize = 40;
/// Share of loops that join frames which have nothing in common.
const WRONG: f64 = 0.02;
/// Share of a view's pixels that another must show for a pair to be predicted rightly.
const LEAST_OVERLAP: f64 = 0.1;
/// Depth maps that are kept.
const KEPT: usize = 400;

pub struct Walk {
    pub cameras: Vec<Camera>,
    pub pairs: Vec<Pair>,
    /// Loops that join places which look alike and are not the same.
    pub false_pairs: BTreeSet<(usize, usize)>,
    size: [u32; 2],
    world: World,
    depths: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    maps: HashMap<usize, Arc<Vec<f32>>>,
    order: VecDeque<usize>,
}

impl Walk {
    /// Each frame is paired with the next `window`.
    pub fn new(frames: usize, size: [u32; 2], window: usize, has_twins: bool) -> Self {
        let world = World::new(frames, has_twins);
        let [width, height] = size;
        let intrinsics = Intrinsics::centred(width, height, 0.9 * f64::from(width));
        let cameras = world.walk(frames, intrinsics);
        let mut walk = Self {
            cameras,
            pairs: Vec::new(),
            false_pairs: BTreeSet::new(),
            size,
            world,
            depths: Mutex::default(),
        };
        walk.choose_pairs(window);
        walk
    }

    fn choose_pairs(&mut self, window: usize) {
        let frames = self.cameras.len();
        let mut noise = Noise::new(17);
        let mut pairs = BTreeSet::new();
        let place = |camera: &Camera| camera.world_from_camera.translation.vector;
        for first in 0..frames {
            pairs.extend((first + 1..frames.min(first + 1 + window)).map(|second| (first, second)));
            let alike = |second: usize, shift: &nalgebra::Vector3<f64>| {
                let (one, two) = (&self.cameras[first], &self.cameras[second]);
                let distance = (place(one) + shift - place(two)).norm();
                let turn = one
                    .world_from_camera
                    .rotation
                    .angle_to(&two.world_from_camera.rotation);
                (distance < NEAR && turn < ALIKE).then_some(distance + turn)
            };
            let earlier = 0..first.saturating_sub(EARLIER);
            let nothing = nalgebra::Vector3::zeros();
            let mut near: Vec<(f64, usize)> = earlier
                .clone()
                .filter_map(|second| Some((alike(second, &nothing)?, second)))
                .collect();
            near.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (_, second) in near.into_iter().take(LOOPS) {
                let second = if noise.unit() < WRONG {
                    (noise.unit() * second as f64) as usize
                } else {
                    second
                };
                pairs.insert((second, first));
            }
            if let Some(shift) = self.world.between_twins() {
                let here = self.world.twin_of(&place(&self.cameras[first]));
                let shift = match here {
                    Some(0) => -shift,
                    Some(_) => shift,
                    None => continue,
                };
                let mut near: Vec<(f64, usize)> = earlier
                    .filter(|&second| self.world.twin_of(&place(&self.cameras[second])).is_some())
                    .filter_map(|second| Some((alike(second, &shift)?, second)))
                    .collect();
                near.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (_, second) in near.into_iter().take(LOOPS) {
                    pairs.insert((second, first));
                    self.false_pairs.insert((second, first));
                }
            }
        }
        self.pairs = pairs
            .into_iter()
            .map(|(first, second)| Pair { first, second })
            .collect();
    }

    fn depths(&self, view: usize) -> Arc<Vec<f32>> {
        let held = || self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = held().maps.get(&view) {
            return map.clone();
        }
        let map = Arc::new(self.world.depths(&self.cameras[view]));
        let mut kept = held();
        if kept.maps.insert(view, map.clone()).is_none() {
            kept.order.push_back(view);
        }
        if kept.order.len() > KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.maps.remove(&oldest);
        }
        map
    }

    fn pixel(&self, index: usize) -> [f64; 2] {
        let width = self.size[0] as usize;
        [(index % width) as f64, (index / width) as f64]
    }

    /// A frame without its pixels.
    pub fn shape(&self, name: String) -> ViewShape {
        let [width, height] = self.size;
        ViewShape {
            name,
            crop: Crop::whole(width, height),
            width: width as usize,
            height: height as usize,
        }
    }

    /// Whether frames of a pair have too little in common, so that what is predicted is made up.
    pub fn is_made_up(&self, pair: Pair) -> bool {
        let cameras = self.cameras_of(pair);
        let depths = [self.depths(pair.first), self.depths(pair.second)];
        !self.overlap(&cameras, &depths)
    }

    /// Whether the second of two cameras shows enough of what the first does.
    fn overlap(&self, cameras: &[Camera; 2], depths: &[Arc<Vec<f32>>; 2]) -> bool {
        let samples = || (0..depths[0].len()).step_by(53);
        let seen = samples().filter(|&index| self.seen(cameras, depths, 0, index).is_some());
        seen.count() as f64 >= LEAST_OVERLAP * samples().count() as f64
    }

    /// Where the other camera shows what a pixel of one does, if it does.
    fn seen(
        &self,
        cameras: &[Camera; 2],
        depths: &[Arc<Vec<f32>>; 2],
        from: usize,
        index: usize,
    ) -> Option<[f64; 2]> {
        let point = cameras[from].unproject(self.pixel(index), f64::from(depths[from][index]));
        let other = &cameras[1 - from];
        let [x, y] = other.project(&point)?;
        let [width, height] = self.size;
        let (column, row) = (x.round(), y.round());
        if !(0.0..f64::from(width)).contains(&column) || !(0.0..f64::from(height)).contains(&row) {
            return None;
        }
        let surface = depths[1 - from][row as usize * width as usize + column as usize];
        ((other.depth(&point) / f64::from(surface)).ln().abs() < 0.04).then_some([x, y])
    }

    /// The cameras of a pair; of a false one the second stands in the first one's room.
    fn cameras_of(&self, Pair { first, second }: Pair) -> [Camera; 2] {
        let mut cameras = [self.cameras[first], self.cameras[second]];
        if self.false_pairs.contains(&(first, second))
            && let Some(shift) = self.world.between_twins()
        {
            let here = self
                .world
                .twin_of(&cameras[1].world_from_camera.translation.vector);
            let shift = if here == Some(1) { shift } else { -shift };
            cameras[1].world_from_camera.translation.vector += shift;
        }
        cameras
    }

    pub fn evidence(&self, pair: Pair) -> PairEvidence {
        let Pair { first, second } = pair;
        let mut noise = Noise::new((first * 1_000_003 + second) as u64);
        let cameras = self.cameras_of(pair);
        let depths = [self.depths(first), self.depths(second)];
        let pixels = depths[0].len();
        let is_seen = self.overlap(&cameras, &depths);
        let made_up = Isometry3::new(noise.vector() * 2.0, noise.vector() * 0.5);
        let first_from_second = if is_seen {
            cameras[0].world_from_camera.inverse() * cameras[1].world_from_camera
        } else {
            made_up
        };
        let typical = f64::from(depths[0][pixels / 2 + self.size[0] as usize / 2]).min(6.0);
        let mut decode = |base: usize, pose: Isometry3<f64>| {
            let shake = noise.vector() * 0.012;
            let shift = noise.vector() * (0.02 * typical);
            let unit = (0.25 * noise.normal()).exp();
            let own = self.map(
                [first, second][base],
                &cameras[base],
                &depths[base],
                Isometry3::identity(),
                unit,
                &mut noise,
            );
            let other = 1 - base;
            let across = self.map(
                [first, second][other],
                &cameras[other],
                &depths[other],
                Isometry3::new(shift, shake) * pose,
                unit,
                &mut noise,
            );
            [own, across]
        };
        let forward = decode(0, first_from_second);
        let reverse = decode(1, first_from_second.inverse());
        let mut matches = Vec::new();
        for turn in 0..pixels / 12 {
            let index = (noise.unit() * pixels as f64) as usize % pixels;
            let from = turn % 2;
            let here = self.pixel(index);
            let there = match self.seen(&cameras, &depths, from, index) {
                Some(there) if is_seen && noise.unit() > 0.1 => {
                    there.map(|at| at + 0.6 * noise.normal())
                }
                _ if noise.unit() > 0.1 => continue,
                _ => self.size.map(|side| noise.unit() * f64::from(side)),
            };
            let whole = |pixel: [f64; 2]| {
                let at = |axis: usize| {
                    pixel[axis]
                        .round()
                        .clamp(0.0, f64::from(self.size[axis] - 1)) as u32
                };
                Pixel { x: at(0), y: at(1) }
            };
            let [one, two] = if from == 0 {
                [here, there]
            } else {
                [there, here]
            };
            matches.push(Match {
                first: whole(one),
                second: whole(two),
                confidence: (1.0 + 9.0 * noise.unit()) as f32,
            });
        }
        matches.sort_by_key(|m| (m.first.y, m.first.x, m.second.y, m.second.x));
        PairEvidence {
            pair,
            forward,
            reverse,
            matches,
        }
    }

    /// What a decode says of a view: depths with errors that all decodes of the view share, errors
    /// of its own, and gross ones.
    fn map(
        &self,
        view: usize,
        camera: &Camera,
        depths: &[f32],
        base_from_view: Isometry3<f64>,
        unit: f64,
        noise: &mut Noise,
    ) -> PointMap {
        let [width, height] = self.size.map(|side| side as usize);
        let mut shared = Noise::new(0x5eed_0000 + view as u64);
        let mut waves: Vec<[f64; 4]> = Vec::new();
        for (source, size) in [(&mut shared, 0.02), (&mut *noise, 0.02)] {
            for _ in 0..3 {
                waves.push([
                    size * source.normal(),
                    3.0 * source.unit() / width as f64,
                    3.0 * source.unit() / height as f64,
                    TAU * source.unit(),
                ]);
            }
        }
        let stretch = 1.0 / (1.0 + 0.03 * shared.normal() + 0.02 * noise.normal());
        // The waves change slowly: one value for each 4 x 4 pixels.
        let across = width.div_ceil(4);
        let coarse = (0..across * height.div_ceil(4)).map(|cell| {
            let [u, v] = [cell % across, cell / across].map(|at| 4.0 * at as f64 + 1.5);
            waves
                .iter()
                .map(|[size, x, y, phase]| size * (TAU * (x * u + y * v) + phase).sin())
                .sum::<f64>()
        });
        let coarse: Vec<f64> = coarse.collect();
        let (mut points, mut confidence) = (Vec::new(), Vec::new());
        let inside = &camera.intrinsics;
        for index in 0..width * height {
            let [u, v] = self.pixel(index);
            let trouble = 0.5 + noise.unit();
            let is_outlier = noise.unit() < 0.02;
            let smooth = coarse[index / width / 4 * across + index % width / 4];
            let jump = if is_outlier {
                0.7 * noise.normal()
            } else {
                0.0
            };
            let depth = f64::from(depths[index])
                * (1.0 + smooth + 0.01 * trouble * noise.normal())
                * (1.0 + jump).max(0.2);
            let ray = [(u - inside.cx) / inside.fx, (v - inside.cy) / inside.fy];
            let point = Point3::new(ray[0] * stretch * depth, ray[1] * stretch * depth, depth);
            let point = (base_from_view * point) * unit;
            points.push(point.coords.map(|value| value as f32).into());
            confidence.push(if is_outlier {
                1.1
            } else {
                1.0 + 8.0 / (trouble as f32 * trouble as f32)
            });
        }
        PointMap {
            width,
            height,
            points: points.into(),
            confidence: confidence.into(),
        }
    }
}
