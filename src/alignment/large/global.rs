//! Refines poses, scales and focal lengths of all views at once.
//!
//! The cost of a submap around its solution is known to second order. It does not change under a
//! similarity transform of the submap. In each round every submap is therefore moved by the transform
//! that fits the current views best, and
//!
//! ```text
//! cost = sum over submaps of transpose(d) H d / 2,   d = views - moved views of the submap
//! ```
//!
//! is minimised by Gauss-Newton. H is the submap's reduced normal matrix (depths eliminated by the Schur
//! complement) with all of its views free. Views in several submaps share their unknowns, and so do
//! the focal lengths of one camera (Ni, Steedly and Dellaert 2007). Pairs in two submaps count twice.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{DVector, Matrix3, Similarity3, Translation3, UnitQuaternion, Vector2, Vector3};

use super::part::Part;
use crate::alignment::objective::{FOCAL, PRINCIPAL, SCALE, UNKNOWNS};
use crate::geometry::procrustes::nearest_rotation;
use crate::geometry::sparse::{SymmetricTiles, elimination_order};

const ROUNDS: usize = 8;
/// Relative damping of the diagonal, which holds undetermined unknowns.
const DAMPING: f64 = 1e-7;
/// Converged when no rotation (radians) or centre (depths) moves by more.
const LEAST_STEP: f64 = 1e-6;

/// The unknowns of a view, or of a submap's own copy of a view after a doubtful loop closure.
#[derive(Clone, Debug)]
pub struct Node {
    pub frame: Similarity3<f64>,
    pub log_focal: f64,
    pub principal: Vector2<f64>,
    /// Whether its pose, its scale and its focal length are held fixed.
    pub is_posed: bool,
    pub has_known_scale: bool,
    pub has_known_focal: bool,
    /// The camera whose focal length it shares, and the group that shares its principal point.
    pub camera: Option<usize>,
    pub principal_of: Option<usize>,
}

/// A part in the world: which unknowns its views are.
pub struct Member<'a> {
    pub part: &'a Part,
    /// The node of each view.
    pub nodes: Vec<usize>,
    /// Log of the part's canonical units of each view over those of its node.
    pub log_units: Vec<f64>,
}

type Places = Vec<[Option<usize>; UNKNOWNS]>;

/// Minimises the cost of all parts over the nodes.
pub fn refine(nodes: &mut [Node], members: &[Member<'_>]) {
    let (places, size) = places(nodes, members);
    let mut best: Option<(f64, Vec<Node>)> = None;
    for round in 0..=ROUNDS {
        let system = System::new(nodes, members, &places, size);
        tracing::debug!(round, cost = system.cost, "global refinement");
        if let Some((cost, before)) = &best
            && system.cost.partial_cmp(cost) != Some(Ordering::Less)
        {
            nodes.clone_from_slice(before);
            break;
        }
        if round == ROUNDS {
            break;
        }
        best = Some((system.cost, nodes.to_vec()));
        let Some(step) = system.step() else { break };
        let mut most: f64 = 0.0;
        for (node, places) in nodes.iter_mut().zip(&places) {
            let at = |unknown: usize| places[unknown].map_or(0.0, |place| step[place]);
            let vector = |first: usize| Vector3::new(at(first), at(first + 1), at(first + 2));
            let turn = UnitQuaternion::from_scaled_axis(vector(0));
            let isometry = &mut node.frame.isometry;
            isometry.rotation =
                UnitQuaternion::new_normalize((turn * isometry.rotation).into_inner());
            isometry.translation.vector += vector(3);
            node.log_focal += at(FOCAL);
            node.principal += Vector2::new(at(PRINCIPAL), at(PRINCIPAL + 1));
            let scaling = node.frame.scaling();
            most = most.max(vector(0).amax()).max(vector(3).amax() / scaling);
            node.frame.set_scaling(scaling * at(SCALE).exp());
        }
        if most < LEAST_STEP {
            break;
        }
    }
}

/// Index of each unknown in the linear system, and the system's size: nodes in elimination order,
/// then focal lengths and principal points that views share.
fn places(nodes: &[Node], members: &[Member<'_>]) -> (Places, usize) {
    let mut neighbours = vec![BTreeSet::new(); nodes.len()];
    for member in members {
        for ([row, column], _) in &member.part.curvature {
            let [row, column] = [*row, *column].map(|at| member.nodes[at as usize]);
            if row != column {
                neighbours[row].insert(column);
                neighbours[column].insert(row);
            }
        }
    }
    let mut fresh = 0..;
    let mut places: Places = vec![[None; UNKNOWNS]; nodes.len()];
    for node in elimination_order(neighbours) {
        let of = &nodes[node];
        for (unknown, place) in places[node][..PRINCIPAL].iter_mut().enumerate() {
            let is_free = match unknown {
                FOCAL => !of.has_known_focal && of.camera.is_none(),
                SCALE => !of.has_known_scale,
                _ => !of.is_posed,
            };
            *place = if is_free { fresh.next() } else { None };
        }
    }
    let (mut cameras, mut middles) = (BTreeMap::new(), BTreeMap::new());
    for (node, places) in nodes.iter().zip(&mut places) {
        if let Some(camera) = node.camera.filter(|_| !node.has_known_focal) {
            places[FOCAL] = *cameras.entry(camera).or_insert_with(|| fresh.next());
        }
        if let Some(of) = node.principal_of {
            let shared = middles
                .entry(of)
                .or_insert_with(|| [fresh.next(), fresh.next()]);
            places[PRINCIPAL..].copy_from_slice(shared);
        }
    }
    let size = places
        .iter()
        .flatten()
        .flatten()
        .max()
        .map_or(0, |last| last + 1);
    (places, size)
}

struct System {
    cost: f64,
    matrix: SymmetricTiles,
    gradient: DVector<f64>,
}

impl System {
    fn new(nodes: &[Node], members: &[Member<'_>], places: &Places, size: usize) -> Self {
        let mut system = Self {
            cost: 0.0,
            matrix: SymmetricTiles::zeros(size),
            gradient: DVector::zeros(size),
        };
        for member in members {
            system.add(nodes, member, places);
        }
        system
    }

    fn add(&mut self, nodes: &[Node], member: &Member<'_>, places: &Places) {
        let part = member.part;
        let width = part.width;
        let moved = world_from_part(nodes, member);
        let rotation = moved.isometry.rotation.to_rotation_matrix().into_inner();
        let differences: Vec<[f64; UNKNOWNS]> = (member.nodes.iter().enumerate())
            .map(|(at, &node)| difference(&nodes[node], member, at, &moved))
            .collect();
        let mut pulls = vec![[0.0; UNKNOWNS]; member.nodes.len()];
        for ([row, column], values) in &part.curvature {
            let [row, column] = [*row as usize, *column as usize];
            let block = turned(values, width, &rotation, moved.scaling());
            // The product of the block, or of its transpose, with a vector.
            let times = |vector: &[f64; UNKNOWNS], pull: &mut [f64; UNKNOWNS], is_transposed| {
                for (one, pull) in pull[..width].iter_mut().enumerate() {
                    for (two, value) in vector[..width].iter().enumerate() {
                        let [row, column] = if is_transposed {
                            [two, one]
                        } else {
                            [one, two]
                        };
                        *pull += block[row * width + column] * value;
                    }
                }
            };
            times(&differences[column], &mut pulls[row], false);
            if row != column {
                times(&differences[row], &mut pulls[column], true);
            }
            let [row_places, column_places] =
                [row, column].map(|at| &places[member.nodes[at]][..width]);
            for (one, row_place) in row_places.iter().enumerate() {
                for (two, column_place) in column_places.iter().enumerate() {
                    let (Some(row_place), Some(column_place)) = (*row_place, *column_place) else {
                        continue;
                    };
                    let value = block[one * width + two];
                    if row == column {
                        // Each value beside the diagonal is there twice.
                        if two <= one {
                            self.matrix.add(row_place, column_place, value);
                        }
                    } else if row_place == column_place {
                        self.matrix.add(row_place, column_place, 2.0 * value);
                    } else {
                        self.matrix.add(row_place, column_place, value);
                    }
                }
            }
        }
        for ((&node, pull), difference) in member.nodes.iter().zip(&pulls).zip(&differences) {
            for unknown in 0..width {
                self.cost += 0.5 * pull[unknown] * difference[unknown];
                if let Some(place) = places[node][unknown] {
                    self.gradient[place] += pull[unknown];
                }
            }
        }
    }

    fn step(mut self) -> Option<DVector<f64>> {
        for (at, value) in self.matrix.diagonal().iter().enumerate() {
            self.matrix.add(at, at, DAMPING * value + f64::MIN_POSITIVE);
        }
        let step = -self.matrix.cholesky()?.solve(&self.gradient)?;
        step.iter().all(|value| value.is_finite()).then_some(step)
    }
}

/// The similarity transform that fits a part to the current nodes.
pub fn world_from_part(nodes: &[Node], member: &Member<'_>) -> Similarity3<f64> {
    let pairs = || {
        let views = member.part.placed.iter().zip(&member.log_units);
        member
            .nodes
            .iter()
            .zip(views)
            .map(|(&node, (own, units))| (&nodes[node].frame, &own.frame, units))
    };
    let count = member.nodes.len() as f64;
    let turns = pairs().fold(Matrix3::zeros(), |sum, (now, own, _)| {
        let [now, own] = [now, own].map(|frame| frame.isometry.rotation.to_rotation_matrix());
        sum + now.matrix() * own.matrix().transpose()
    });
    let rotation = nearest_rotation(turns).unwrap_or_default();
    let scale = pairs()
        .map(|(now, own, units)| (now.scaling() / own.scaling()).ln() - units)
        .sum::<f64>();
    let scale = (scale / count).exp();
    let shift = pairs()
        .map(|(now, own, _)| {
            now.isometry.translation.vector - rotation * own.isometry.translation.vector * scale
        })
        .sum::<Vector3<f64>>();
    Similarity3::from_parts(Translation3::from(shift / count), rotation, scale)
}

/// Difference of a node from the part's own view, moved to the world.
fn difference(
    node: &Node,
    member: &Member<'_>,
    at: usize,
    moved: &Similarity3<f64>,
) -> [f64; UNKNOWNS] {
    let own = &member.part.placed[at];
    let wanted = moved * own.frame;
    let turn = (node.frame.isometry.rotation * wanted.isometry.rotation.inverse()).scaled_axis();
    let shift = node.frame.isometry.translation.vector - wanted.isometry.translation.vector;
    let mut found = [0.0; UNKNOWNS];
    found[..3].copy_from_slice(turn.as_slice());
    found[3..FOCAL].copy_from_slice(shift.as_slice());
    found[FOCAL] = node.log_focal - own.log_focal;
    found[SCALE] = (node.frame.scaling() / wanted.scaling()).ln() - member.log_units[at];
    found[PRINCIPAL..].copy_from_slice((node.principal - own.principal).as_slice());
    found
}

/// A block of a part's normal matrix in world unknowns, for a part that is rotated and scaled.
fn turned(values: &[f64], width: usize, rotation: &Matrix3<f64>, scale: f64) -> Vec<f64> {
    let mut found = values.to_vec();
    for first in [0, 3] {
        let by = if first == 0 {
            *rotation
        } else {
            rotation / scale
        };
        for other in 0..width {
            // Rows, from the left.
            let column = Vector3::from_fn(|at, _| found[(first + at) * width + other]);
            let column = by * column;
            (0..3).for_each(|at| found[(first + at) * width + other] = column[at]);
        }
        for other in 0..width {
            // Columns, from the right.
            let row = Vector3::from_fn(|at, _| found[other * width + first + at]);
            let row = by * row;
            (0..3).for_each(|at| found[other * width + first + at] = row[at]);
        }
    }
    found
}
