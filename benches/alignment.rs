//! Alignment of many views of a synthetic room, with time and accuracy: `cargo bench --bench
//! alignment [-- WORDS]`.
//!
//! Depths come from casting rays; from them the predictions that a good but noisy network would
//! make, as in the scenes of `tests/golden/multiview`: focal lengths 2 % off, depths 1 %, poses 0.2
//! degrees, every decode in units of its own, gross outliers, matches with half a pixel of noise
//! and some of them wrong. A pair of views that hardly overlap gets maps of a pose that is made up,
//! as a network makes one up. The time to make all this does not count. Words choose cases by their
//! names, and the word `together` solves for all views together where they would be solved in
//! groups; what is printed are the errors of all cameras, after a similarity.

use std::f64::consts::TAU;
use std::time::{Duration, Instant};

use image::RgbImage;
use mast3r::Scene;
use mast3r::alignment::{
    AlignOptions, KnownCamera, Pair, PairEvidence, PrincipalPoint, Verdict, align,
};
use mast3r::geometry::procrustes::{Correspondence, similarity};
use mast3r::geometry::{Camera, Intrinsics, PointMap};
use mast3r::matching::{Match, Pixel};
use mast3r::pairs::{Ends, PairGraph, Similarity};
use mast3r::pipeline::mark_contradicted;
use mast3r::views::{Crop, View};
use nalgebra::{Isometry3, Matrix3, Point3, Rotation3, Translation3, UnitQuaternion, Vector3};

/// Half the room's sides, and the middle of it all.
const ROOM: [f64; 3] = [4.0, 3.0, 1.4];
/// Middle and half sides of boxes, middle and radius of balls.
const BOXES: [([f64; 3], [f64; 3]); 4] = [
    ([0.0, 0.0, -1.0], [0.7, 0.4, 0.4]),
    ([0.9, -0.8, -0.9], [0.25, 0.25, 0.5]),
    ([-1.0, 0.7, -0.7], [0.2, 0.5, 0.7]),
    ([3.5, 2.2, -0.6], [0.5, 0.5, 0.8]),
];
const BALLS: [([f64; 3], f64); 3] = [
    ([0.1, 0.1, -0.4], 0.3),
    ([-0.6, -0.9, -1.1], 0.35),
    ([-3.2, -2.2, -0.8], 0.6),
];
/// Share of a view's pixels that another must show for a pair to be predicted rightly.
const LEAST_OVERLAP: f64 = 0.1;
/// Cells of the room along each axis by which views are told apart, as an encoder's tokens tell
/// them.
const CELLS: usize = 5;

/// What is aligned.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    views: usize,
    graph: PairGraph,
    size: [u32; 2],
    /// Of the true principal point from the middle, over the width.
    off_middle: f64,
    /// Where it is sought.
    principal_point: PrincipalPoint,
    /// Of all focal lengths that maps speak for, beside their noise.
    focal_bias: f64,
    /// Of the focal lengths that the images' files state, if they do.
    stated: Option<f64>,
    /// The cameras move sideways and do not turn, so that matches say next to nothing of their
    /// focal lengths.
    sideways: bool,
    /// Share of pairs that are predicted badly: poses some degrees off, most matches wrong.
    bad: f64,
}

const PLAIN: Case = Case {
    name: "",
    views: 200,
    graph: PairGraph::Window {
        reach: 3,
        ends: Ends::Open,
    },
    size: [224, 168],
    off_middle: 0.0,
    principal_point: PrincipalPoint::Middle,
    focal_bias: 0.0,
    stated: None,
    sideways: false,
    bad: 0.0,
};

fn main() {
    let mut words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let said = words.len();
    words.retain(|word| word != "together");
    let most_together = (words.len() < said).then_some(usize::MAX);
    let retrieval = PairGraph::Retrieval {
        anchors: 20,
        neighbours: 10,
    };
    let dozen = Case {
        views: 12,
        graph: PairGraph::Complete,
        ..PLAIN
    };
    let walk = Case { views: 40, ..PLAIN };
    let sideways = Case {
        views: 20,
        sideways: true,
        ..PLAIN
    };
    let cases = [
        Case {
            name: "200 views, window",
            ..PLAIN
        },
        Case {
            name: "200 views, retrieval",
            graph: retrieval,
            ..PLAIN
        },
        Case {
            name: "60 views, retrieval",
            views: 60,
            graph: retrieval,
            ..PLAIN
        },
        Case {
            name: "60 views, retrieval, a fifth bad",
            views: 60,
            graph: retrieval,
            bad: 0.2,
            ..PLAIN
        },
        Case {
            name: "200 views, retrieval, a fifth bad",
            graph: retrieval,
            bad: 0.2,
            ..PLAIN
        },
        Case {
            name: "40 views of 512x384",
            size: [512, 384],
            ..walk
        },
        Case {
            name: "focal, maps 18% off, nothing stated",
            focal_bias: -0.18,
            ..sideways
        },
        Case {
            name: "focal, maps 18% off, stated right",
            focal_bias: -0.18,
            stated: Some(0.0),
            ..sideways
        },
        Case {
            name: "focal, maps 18% off, stated to 3%",
            focal_bias: -0.18,
            stated: Some(0.03),
            ..sideways
        },
        Case {
            name: "focal, maps right, nothing stated",
            ..sideways
        },
        Case {
            name: "focal, maps right, stated to 3%",
            stated: Some(0.03),
            ..sideways
        },
        Case {
            name: "focal, maps right, stated 20% off",
            stated: Some(0.2),
            ..sideways
        },
        Case {
            name: "focal, maps right, stated 50% off",
            stated: Some(0.5),
            ..sideways
        },
        Case {
            name: "focal, walk, stated 20% off",
            stated: Some(0.2),
            ..walk
        },
    ];
    println!("{} threads", rayon::current_num_threads());
    let mut cases = cases.to_vec();
    for (name, views, off_middle, principal_point) in [
        (
            "principal point, 12 views, 0% off, middle",
            dozen,
            0.0,
            PrincipalPoint::Middle,
        ),
        (
            "principal point, 12 views, 0% off, prior",
            dozen,
            0.0,
            PrincipalPoint::Prior,
        ),
        (
            "principal point, 12 views, 1% off, middle",
            dozen,
            0.01,
            PrincipalPoint::Middle,
        ),
        (
            "principal point, 12 views, 1% off, prior",
            dozen,
            0.01,
            PrincipalPoint::Prior,
        ),
        (
            "principal point, 12 views, 3% off, middle",
            dozen,
            0.03,
            PrincipalPoint::Middle,
        ),
        (
            "principal point, 12 views, 3% off, prior",
            dozen,
            0.03,
            PrincipalPoint::Prior,
        ),
        (
            "principal point, walk, 0% off, middle",
            walk,
            0.0,
            PrincipalPoint::Middle,
        ),
        (
            "principal point, walk, 0% off, prior",
            walk,
            0.0,
            PrincipalPoint::Prior,
        ),
        (
            "principal point, walk, 3% off, middle",
            walk,
            0.03,
            PrincipalPoint::Middle,
        ),
        (
            "principal point, walk, 3% off, prior",
            walk,
            0.03,
            PrincipalPoint::Prior,
        ),
        (
            "principal point, sideways, 0% off, prior",
            sideways,
            0.0,
            PrincipalPoint::Prior,
        ),
    ] {
        cases.push(Case {
            name,
            off_middle,
            principal_point,
            ..views
        });
    }
    for case in cases {
        if words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str())) {
            run(&case, most_together);
        }
    }
}

fn run(case: &Case, most_together: Option<usize>) {
    let truth = Truth::new(case);
    let pairs = case
        .graph
        .pairs(case.views, Some(&truth.likeness()))
        .expect("the graph is of these views");
    let views: Vec<View> = (0..case.views).map(|view| truth.view(view)).collect();
    let stated = |share: f64| KnownCamera {
        probable_focal: Some(truth.focal * (1.0 + share)),
        ..KnownCamera::default()
    };
    let options = AlignOptions {
        principal_point: case.principal_point,
        most_together,
        known: case
            .stated
            .map_or_else(Vec::new, |share| vec![stated(share); case.views]),
        ..AlignOptions::default()
    };
    let (mut making, mut making_cpu) = (Duration::ZERO, 0.0);
    let evidence = pairs.iter().map(|&pair| {
        let (start, start_cpu) = (Instant::now(), cpu_seconds());
        let evidence = truth.evidence(pair);
        making += start.elapsed();
        making_cpu += cpu_seconds() - start_cpu;
        Ok(evidence)
    });
    let (start, start_cpu) = (Instant::now(), cpu_seconds());
    let mut aligned = align(&views, evidence, &options).expect("the views overlap");
    let (seconds, cpu) = (
        (start.elapsed() - making).as_secs_f64(),
        cpu_seconds() - start_cpu,
    );
    let placed = aligned.views.iter().filter(|view| view.placed).count();
    let used = aligned
        .pairs
        .iter()
        .filter(|pair| pair.verdict == Verdict::Used)
        .count();
    let matches: usize = aligned.pairs.iter().map(|pair| pair.matches).sum();
    let count = pairs.len();
    let cpu = cpu - making_cpu;
    println!(
        "{:36} {seconds:6.2} s, {cpu:6.2} s of processor time, {placed} views by {used} of {count} pairs, {matches} matches",
        case.name
    );
    println!("{:36} {}", "", truth.errors(&aligned.scene));
    if std::env::var_os("CONSISTENCY").is_some() {
        let start = Instant::now();
        mark_contradicted(&mut aligned.scene, 2.0, &candle_core::Device::Cpu)
            .expect("the views have cameras");
        let marked = aligned
            .scene
            .views
            .iter()
            .filter_map(|view| view.contradicted.as_ref());
        let marked: usize = marked.flatten().filter(|mark| **mark).count();
        println!(
            "{:36} {:6.2} s to find {marked} points contradicted",
            "",
            start.elapsed().as_secs_f64()
        );
    }
}

/// Of this process, in all threads; 0 where that is not told.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    ticks.map_or(0.0, |ticks| {
        ticks
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    })
}

/// The room as it is.
struct Truth {
    case: Case,
    focal: f64,
    cameras: Vec<Camera>,
    /// Along z.
    depths: Vec<Vec<f64>>,
}

impl Truth {
    fn new(case: &Case) -> Self {
        let [width, height] = case.size;
        let focal = 0.9 * f64::from(width);
        let mut intrinsics = Intrinsics::centred(width, height, focal);
        intrinsics.cx += case.off_middle * f64::from(width);
        intrinsics.cy -= 0.5 * case.off_middle * f64::from(width);
        let pose = |view: usize| match case.sideways {
            true => sideways(view, case.views),
            false => on_the_walk(view, case.views),
        };
        let camera = |view: usize| Camera {
            intrinsics,
            world_from_camera: pose(view),
        };
        let cameras: Vec<Camera> = (0..case.views).map(camera).collect();
        let depths = cameras.iter().map(depths).collect();
        Self {
            case: *case,
            focal,
            cameras,
            depths,
        }
    }

    fn view(&self, view: usize) -> View {
        let [width, height] = self.case.size;
        let rgb = RgbImage::new(width, height);
        View::new(format!("{view:03}.png"), rgb, Crop::whole(width, height))
    }

    fn pixel(&self, index: usize) -> [f64; 2] {
        let width = self.case.size[0] as usize;
        [(index % width) as f64, (index / width) as f64]
    }

    fn point(&self, view: usize, index: usize) -> Point3<f64> {
        self.cameras[view].unproject(self.pixel(index), self.depths[view][index])
    }

    /// Views are alike that show the same parts of the room.
    fn likeness(&self) -> Similarity {
        let vector = |view: usize| {
            let mut seen = vec![0f32; CELLS.pow(3)];
            for index in (0..self.depths[view].len()).step_by(37) {
                let point = self.point(view, index);
                let cell = |axis: usize| {
                    let at = (point[axis] / ROOM[axis] + 1.0) / 2.0 * CELLS as f64;
                    at.clamp(0.0, CELLS as f64 - 1.0) as usize
                };
                seen[(cell(0) * CELLS + cell(1)) * CELLS + cell(2)] += 1.0;
            }
            seen
        };
        let vectors: Vec<Vec<f32>> = (0..self.case.views).map(vector).collect();
        Similarity::of(&vectors).expect("all vectors have one length")
    }

    /// The pixel of `other` that shows what the pixel of `view` shows, if it does.
    fn seen(&self, view: usize, index: usize, other: usize) -> Option<[f64; 2]> {
        let point = self.point(view, index);
        let camera = &self.cameras[other];
        let [x, y] = camera.project(&point)?;
        let [width, height] = self.case.size;
        let (column, row) = (x.round(), y.round());
        if !(0.0..f64::from(width)).contains(&column) || !(0.0..f64::from(height)).contains(&row) {
            return None;
        }
        let surface = self.depths[other][row as usize * width as usize + column as usize];
        ((camera.depth(&point) / surface).ln().abs() < 0.03).then_some([x, y])
    }

    fn evidence(&self, pair: Pair) -> PairEvidence {
        let Pair { first, second } = pair;
        let mut noise = Noise::new(first * self.case.views + second);
        let pixels = self.depths[first].len();
        let samples = || (0..pixels).step_by(53);
        let overlap = samples()
            .filter(|&index| self.seen(first, index, second).is_some())
            .count() as f64;
        let is_seen = overlap >= LEAST_OVERLAP * samples().count() as f64;
        let first_from_second = self.cameras[first].world_from_camera.inverse()
            * self.cameras[second].world_from_camera;
        let made_up = Isometry3::new(noise.vector() * 1.5, noise.vector() * 0.5);
        let first_from_second = if is_seen { first_from_second } else { made_up };
        let is_bad = noise.unit() < self.case.bad;
        let (shaken, wrong) = if is_bad { (20.0, 0.8) } else { (1.0, 0.06) };
        let mut decode = |base: usize, seen: usize, pose: Isometry3<f64>| {
            let shake = noise.vector() * (0.004 * shaken);
            let shift = noise.vector() * (0.008 * 3.0 * shaken);
            let unit = (0.25 * noise.normal()).exp();
            [
                (base, Isometry3::identity()),
                (seen, Isometry3::new(shift, shake) * pose),
            ]
            .map(|(view, pose)| self.map(view, pose, unit, &mut noise))
        };
        let forward = decode(first, second, first_from_second);
        let reverse = decode(second, first, first_from_second.inverse());
        let mut matches = Vec::new();
        // As many as the search finds: two seeds of each view for every block of 8 x 8 pixels.
        let tries = pixels / 16;
        for turn in 0..tries {
            let index = (noise.unit() * pixels as f64) as usize % pixels;
            let (view, other) = if turn % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            };
            let from = self.pixel(index);
            let to = match self.seen(view, index, other) {
                Some(to) if is_seen && noise.unit() > wrong => {
                    to.map(|at| at + 0.5 * noise.normal())
                }
                // Of what the other view does not show a search finds little.
                _ if noise.unit() > 0.05 && !is_bad => continue,
                _ => [
                    noise.unit() * f64::from(self.case.size[0]),
                    noise.unit() * f64::from(self.case.size[1]),
                ],
            };
            let whole = |pixel: [f64; 2]| {
                let at = |axis: usize| {
                    pixel[axis]
                        .round()
                        .clamp(0.0, f64::from(self.case.size[axis] - 1)) as u32
                };
                Pixel { x: at(0), y: at(1) }
            };
            let [one, two] = if turn % 2 == 0 {
                [from, to]
            } else {
                [to, from]
            };
            let confidence = (1.0 + 9.0 * noise.unit()) as f32;
            matches.push(Match {
                first: whole(one),
                second: whole(two),
                confidence,
            });
        }
        PairEvidence {
            pair,
            forward,
            reverse,
            matches,
        }
    }

    /// What a decode says of a view.
    fn map(
        &self,
        view: usize,
        base_from_view: Isometry3<f64>,
        unit: f64,
        noise: &mut Noise,
    ) -> PointMap {
        let [width, height] = self.case.size.map(|side| side as usize);
        let stretch = 1.0 / ((1.0 + self.case.focal_bias) * (1.0 + 0.02 * noise.normal()));
        let waves: [[f64; 4]; 3] = std::array::from_fn(|_| {
            [
                0.007 * noise.normal(),
                4.0 * noise.unit(),
                4.0 * noise.unit(),
                TAU * noise.unit(),
            ]
        });
        let camera = &self.cameras[view];
        let world_from_camera = camera.world_from_camera.inverse();
        let (mut points, mut confidence) = (Vec::new(), Vec::new());
        for index in 0..width * height {
            let [u, v] = self.pixel(index);
            let trouble = 0.5 + noise.unit();
            let is_outlier = noise.unit() < 0.02;
            let smooth: f64 = waves
                .iter()
                .map(|[size, across, down, phase]| {
                    size * (TAU * (across * u / width as f64 + down * v / height as f64) + phase)
                        .sin()
                })
                .sum();
            let jump = if is_outlier {
                0.7 * noise.normal()
            } else {
                0.0
            };
            let longer = (smooth + jump + 0.006 * trouble * noise.normal()).exp();
            let point = world_from_camera * self.point(view, index);
            let point = Point3::new(point.x * stretch, point.y * stretch, point.z) * longer;
            let point = (base_from_view * point) * unit;
            points.push(point.coords.map(|value| value as f32).into());
            confidence.push(if is_outlier {
                1.1
            } else {
                1.0 + 8.0 * trouble.powf(-1.5) as f32
            });
        }
        PointMap {
            width,
            height,
            points: points.into(),
            confidence: confidence.into(),
        }
    }

    /// Mean errors of what was placed.
    fn errors(&self, scene: &Scene) -> String {
        let placed: Vec<(&Camera, &Camera)> = scene
            .views
            .iter()
            .zip(&self.cameras)
            .filter_map(|(view, truth)| Some((view.camera.as_ref()?, truth)))
            .collect();
        let centres = placed.iter().map(|(found, truth)| {
            let centre =
                |camera: &Camera| Point3::from(camera.world_from_camera.translation.vector);
            Correspondence {
                from: centre(found),
                to: centre(truth),
                weight: 1.0,
            }
        });
        let centres: Vec<Correspondence> = centres.collect();
        let fit = similarity(&centres).expect("the cameras do not stand in a line");
        let span = self
            .cameras
            .iter()
            .map(|camera| camera.world_from_camera.translation.vector.norm())
            .fold(0.0, f64::max);
        let mean =
            |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / placed.len() as f64;
        let shift = mean(
            &mut centres
                .iter()
                .map(|pair| (fit * pair.from - pair.to).norm() / (2.0 * span)),
        );
        // As usual: of the rotations' own mean difference, which the middles of an almost straight
        // walk do not tell.
        let sum = placed.iter().fold(Matrix3::zeros(), |sum, (found, truth)| {
            let [found, truth] =
                [found, truth].map(|camera| camera.world_from_camera.rotation.to_rotation_matrix());
            sum + truth.matrix() * found.matrix().transpose()
        });
        let world = UnitQuaternion::from_matrix(&sum);
        let turn = mean(&mut placed.iter().map(|(found, truth)| {
            (world * found.world_from_camera.rotation)
                .angle_to(&truth.world_from_camera.rotation)
                .to_degrees()
        }));
        let focal = mean(
            &mut placed
                .iter()
                .map(|(found, truth)| (found.intrinsics.fx / truth.intrinsics.fx - 1.0).abs()),
        );
        let width = f64::from(self.case.size[0]);
        let off = |axis: fn(&Intrinsics) -> f64| {
            mean(
                &mut placed
                    .iter()
                    .map(|(found, truth)| axis(&found.intrinsics) - axis(&truth.intrinsics)),
            )
        };
        let off = off(|inside| inside.cx).hypot(off(|inside| inside.cy)) / width;
        format!(
            "rotation {turn:.3} degrees, place {shift:.5}, focal {:.2} %, principal point {:.2} %",
            100.0 * focal,
            100.0 * off
        )
    }
}

/// A row of cameras along a wall, a little up and down, that all look straight across.
fn sideways(view: usize, views: usize) -> Isometry3<f64> {
    let t = view as f64 / views as f64;
    let centre = Vector3::new(3.0 * t - 1.5, -2.6, 0.2 * (7.0 * t).sin());
    let axes = Matrix3::from_columns(&[Vector3::x(), -Vector3::z(), Vector3::y()]);
    Isometry3::from_parts(
        Translation3::from(centre),
        UnitQuaternion::from_matrix(&axes),
    )
}

/// A walk around the room, looking across the middle, up and down.
fn on_the_walk(view: usize, views: usize) -> Isometry3<f64> {
    let t = TAU * view as f64 / views.max(60) as f64;
    let centre = Vector3::new(2.6 * t.cos(), 1.9 * t.sin(), 0.25 * (3.0 * t).sin());
    let towards = Vector3::new(
        -0.5 * t.sin(),
        0.4 * (2.0 * t).cos(),
        -0.5 + 0.1 * (5.0 * t).cos(),
    ) - centre;
    let z = towards.normalize();
    let x = z.cross(&Vector3::z()).normalize();
    let rotation = Rotation3::from_matrix_unchecked(Matrix3::from_columns(&[x, z.cross(&x), z]));
    Isometry3::from_parts(
        Translation3::from(centre),
        UnitQuaternion::from_rotation_matrix(&rotation),
    )
}

fn depths(camera: &Camera) -> Vec<f64> {
    let Intrinsics { width, height, .. } = camera.intrinsics;
    let from = camera.world_from_camera.translation.vector;
    let cast = |index: u32| {
        let pixel = [f64::from(index % width), f64::from(index / width)];
        // Of length one along z, so that what is found is the depth.
        let ray = camera.unproject(pixel, 1.0).coords - from;
        let walls = crossing(&from, &ray, [0.0; 3], ROOM)[1];
        let boxes = BOXES
            .iter()
            .map(|(middle, half)| crossing(&from, &ray, *middle, *half));
        let boxes = boxes
            .filter(|[enter, leave]| 0.0 < *enter && enter < leave)
            .map(|[enter, _]| enter);
        let balls = BALLS.iter().filter_map(|(middle, radius)| {
            let offset = from - Vector3::from(*middle);
            let (a, b, c) = (
                ray.norm_squared(),
                offset.dot(&ray),
                offset.norm_squared() - radius * radius,
            );
            let root = (b * b - a * c).sqrt();
            Some((-b - root) / a).filter(|depth| *depth > 0.0)
        });
        boxes.chain(balls).fold(walls, f64::min)
    };
    (0..width * height).map(cast).collect()
}

/// Where a ray enters and leaves a box.
fn crossing(from: &Vector3<f64>, ray: &Vector3<f64>, middle: [f64; 3], half: [f64; 3]) -> [f64; 2] {
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

/// Numbers that look random, the same in every run.
struct Noise(u64);

impl Noise {
    fn new(seed: usize) -> Self {
        Self((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// In 0 .. 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, of deviation one.
    fn normal(&mut self) -> f64 {
        (0..4).map(|_| self.unit() - 0.5).sum::<f64>() * 3f64.sqrt()
    }

    fn vector(&mut self) -> Vector3<f64> {
        Vector3::from_fn(|_, _| self.normal())
    }
}
