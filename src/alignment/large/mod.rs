//! Alignment of more views than are solved in one system: overlapping submaps are solved one by one,
//! joined, and refined together. Memory is that of the submaps being solved, plus little per view and
//! pair.
//!
//! ```text
//! partition   the view graph cut into overlapping submaps; every pair lies in one
//! part        a submap solved on its own, from the evidence of its own pairs
//! join        similarity averaging over the views that submaps share; rejects false loop closures
//! global      poses, scales and focal lengths of all views, from the submaps' normal matrices
//! ```
//!
//! The global step uses each submap's reduced normal matrix instead of its matches, so its size
//! depends on the number of views and not of pairs. Submaps as units of a bundle adjustment: Ni,
//! Steedly and Dellaert, Out-of-Core Bundle Adjustment for Large-Scale 3D Reconstruction, 2007.
//! docs/large-alignment.md describes the method.

mod global;
mod join;
mod part;
mod partition;
mod record;
mod store;
mod stored;

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{Isometry3, Similarity3, Vector2};
use rayon::prelude::*;

pub use store::EvidenceStore;
pub(super) use store::{Fitted, Spool};
pub use stored::{StoredAlignment, align_stored};

use self::global::{Member, Node};
use self::join::{Joined, Link, join};
use self::part::{Part, PartView, Solved, Solver};
use self::partition::{Submap, submaps, window};
use self::store::{DepthFile, FitSource};

use super::assembly::one_camera_each;
use super::options::ImageSize;
use super::spanning_tree::move_to_known;
use super::{AlignOptions, KnownPoses, MOST_TOGETHER, PrincipalPoint, ViewShape};
use crate::error::Result;
use crate::geometry::{ONE_CAMERA, median};
use crate::progress::{Progress, Stage, Watch, tell};

/// Most bytes of the submaps that are solved at a time, and bytes of a pixel of one.
pub(crate) const MOST_SUBMAP_BYTES: u64 = 2 << 30;
pub(crate) const SUBMAP_PIXEL_BYTES: u64 = 32;
/// Home views per submap over [`AlignOptions::most_together`], and their least number.
const OWN_SHARE: f64 = 0.4;
const LEAST_OWN: usize = 8;

/// A view in a part: the part, and the index among its views.
type Place = (usize, usize);

/// Aligns views by fitted pairs.
pub(super) fn align_fits(
    shapes: &[ViewShape],
    source: &dyn FitSource,
    options: &AlignOptions,
    watch: Watch<'_>,
) -> Result<StoredAlignment> {
    for pair in source.pairs() {
        pair.check(shapes.len())?;
    }
    let most = options.most_together.unwrap_or(MOST_TOGETHER) as f64 * OWN_SHARE;
    let submaps = submaps(shapes.len(), source.pairs(), (most as usize).max(LEAST_OWN));
    tell(watch, Progress::Begin(Stage::Align, submaps.len() + 1))?;
    let depths = DepthFile::new()?;
    let solver = Solver {
        shapes,
        source,
        options,
        depths: &depths,
    };
    let mut solved: Vec<Solved> = Vec::with_capacity(submaps.len());
    for group in submaps.chunks(at_once(shapes, &submaps)) {
        let solve = |submap: &Submap| {
            let solved = solver.solve(submap)?;
            tell(watch, Progress::Step)?;
            Ok(solved)
        };
        solved.extend(group.par_iter().map(solve).collect::<Result<Vec<_>>>()?);
    }
    let world = World::new(shapes, source, options, &submaps, &solved);
    let outcome = world.outcome(&solved);
    tell(watch, Progress::Step)?;
    Ok(outcome.with_depths(depths))
}

/// Submaps that are solved at a time: as many as there are threads, if memory suffices.
fn at_once(shapes: &[ViewShape], submaps: &[Submap]) -> usize {
    let pixels = |view: &usize| (shapes[*view].width * shapes[*view].height) as u64;
    let bytes = |submap: &Submap| SUBMAP_PIXEL_BYTES * submap.views.iter().map(pixels).sum::<u64>();
    let largest = submaps.iter().map(bytes).max().unwrap_or(0).max(1);
    (MOST_SUBMAP_BYTES / largest).clamp(1, rayon::current_num_threads() as u64) as usize
}

/// All parts in one world.
struct World<'a> {
    shapes: &'a [ViewShape],
    options: &'a AlignOptions,
    source: &'a dyn FitSource,
    parts: Vec<&'a Part>,
    /// Index of the first part of each submap.
    first_parts: Vec<usize>,
    nodes: Vec<Node>,
    /// By part; `None` for those that are not placed.
    members: Vec<Option<Member<'a>>>,
    /// The part that a view's node and depth map come from; `None` if it is not placed. Placed views
    /// have the first nodes, in their order.
    homes: Vec<Option<Place>>,
}

impl<'a> World<'a> {
    /// Joins the parts and refines all views.
    fn new(
        shapes: &'a [ViewShape],
        source: &'a dyn FitSource,
        options: &'a AlignOptions,
        submaps: &[Submap],
        solved: &'a [Solved],
    ) -> Self {
        let mut first_parts = Vec::with_capacity(solved.len());
        let (mut parts, mut of_group) = (Vec::new(), Vec::new());
        for (group, solved) in solved.iter().enumerate() {
            first_parts.push(parts.len());
            parts.extend(&solved.parts);
            of_group.extend(vec![group; solved.parts.len()]);
        }
        let mut places: Vec<Vec<Place>> = vec![Vec::new(); shapes.len()];
        for (part, found) in parts.iter().enumerate() {
            for (at, &view) in found.views.iter().enumerate() {
                places[view].push((part, at));
            }
        }
        // The home submap comes first.
        places.iter_mut().for_each(|places| {
            places.sort_by_key(|&(part, at)| (!parts[part].placed[at].is_own, part));
        });
        let mut world = Self {
            shapes,
            options,
            source,
            parts,
            first_parts,
            nodes: Vec::new(),
            members: Vec::new(),
            homes: Vec::new(),
        };
        let (links, of_link) = world.links(&places, submaps, &of_group);
        let sizes: Vec<usize> = world.parts.iter().map(|part| part.views.len()).collect();
        let joined = join(&sizes, &links);
        let doubtful: BTreeSet<Place> = (of_link.iter().zip(&joined.is_doubtful))
            .filter_map(|(place, doubtful)| doubtful.then_some(*place))
            .collect();
        world.place(&places, &joined, &doubtful);
        world.share_cameras();
        world.hold_known();
        let members: Vec<Member<'_>> = world.members.iter_mut().filter_map(Option::take).collect();
        global::refine(&mut world.nodes, &members);
        let of: Vec<usize> = (0..world.parts.len())
            .filter(|&part| joined.world_from[part].is_some())
            .collect();
        for (part, member) in of.into_iter().zip(members) {
            world.members[part] = Some(member);
        }
        world
    }

    fn view(&self, (part, at): Place) -> &'a PartView {
        &self.parts[part].placed[at]
    }

    /// Log of a view's canonical units in another part over those at home; 0 if nothing is known.
    fn log_units(&self, home: Place, other: Place) -> f64 {
        let (home, other) = (self.view(home), self.view(other));
        let gaps = other
            .samples
            .iter()
            .zip(&home.samples)
            .map(|(other, home)| f64::from(other - home));
        median(gaps.filter(|gap| gap.is_finite())).unwrap_or(0.0)
    }

    /// Links from views in several parts, and the place that each is about.
    fn links(
        &self,
        places: &[Vec<Place>],
        submaps: &[Submap],
        of_group: &[usize],
    ) -> (Vec<Link>, Vec<Place>) {
        let pairs = self.source.pairs();
        let window = window(self.shapes.len(), pairs).unwrap_or(0);
        let near = |submap: &Submap| -> BTreeSet<usize> {
            let near = submap.pairs.iter().map(|&pair| pairs[pair]);
            let near = near.filter(|pair| pair.second - pair.first <= window);
            near.flat_map(|pair| [pair.first, pair.second]).collect()
        };
        let near: Vec<BTreeSet<usize>> = submaps.iter().map(near).collect();
        let (mut links, mut of_link) = (Vec::new(), Vec::new());
        for (view, places) in places.iter().enumerate() {
            let Some((&home, others)) = places.split_first() else {
                continue;
            };
            for &other in others {
                let (here, there) = (self.view(home), self.view(other));
                let mut frame = there.frame;
                frame.set_scaling(frame.scaling() * self.log_units(home, other).exp());
                links.push(Link {
                    parts: [home.0, other.0],
                    frames: [here.frame, frame],
                    unit: here.log_median.exp() * here.frame.scaling(),
                    is_consecutive: near[of_group[other.0]].contains(&view),
                });
                of_link.push(other);
            }
        }
        (links, of_link)
    }

    /// Makes a node for each view of a joined part, and for each copy behind a doubtful link.
    fn place(&mut self, places: &[Vec<Place>], joined: &Joined, doubtful: &BTreeSet<Place>) {
        let mut node_of = BTreeMap::<Place, (usize, f64)>::new();
        let node = |view: &PartView, world_from: &Similarity3<f64>| Node {
            frame: world_from * view.frame,
            log_focal: view.log_focal,
            principal: view.principal,
            is_posed: false,
            has_known_scale: false,
            has_known_focal: false,
            camera: None,
            principal_of: None,
        };
        let (mut nodes, mut own) = (Vec::new(), Vec::new());
        for places in places {
            let placed = |place: &&Place| joined.world_from[place.0].is_some();
            let home = places.iter().find(placed).copied();
            self.homes.push(home);
            let Some(home) = home else { continue };
            let is_first = places.first() == Some(&home);
            node_of.insert(home, (nodes.len(), 0.0));
            for &other in places.iter().filter(placed).filter(|place| **place != home) {
                if is_first && !doubtful.contains(&other) {
                    node_of.insert(other, (nodes.len(), self.log_units(home, other)));
                } else {
                    own.push(other);
                }
            }
            if let Some(world_from) = &joined.world_from[home.0] {
                nodes.push(node(self.view(home), world_from));
            }
        }
        for place in own {
            if let Some(world_from) = &joined.world_from[place.0] {
                node_of.insert(place, (nodes.len(), 0.0));
                nodes.push(node(self.view(place), world_from));
            }
        }
        let member = |(part, found): (usize, &&'a Part)| {
            joined.world_from[part]?;
            let of = (0..found.views.len()).map(|at| node_of[&(part, at)]);
            let (nodes, log_units) = of.unzip();
            Some(Member {
                part: found,
                nodes,
                log_units,
            })
        };
        self.members = self.parts.iter().enumerate().map(member).collect();
        self.nodes = nodes;
    }

    /// The view of each node.
    fn views_of_nodes(&self) -> Vec<usize> {
        let mut views = vec![0; self.nodes.len()];
        for member in self.members.iter().flatten() {
            for (&node, &view) in member.nodes.iter().zip(&member.part.views) {
                views[node] = view;
            }
        }
        views
    }

    /// Lets images of one camera share their focal length and a free principal point.
    fn share_cameras(&mut self) {
        let views = self.views_of_nodes();
        let mut sizes = BTreeMap::<ImageSize, Vec<(f64, usize)>>::new();
        let mut shapes = BTreeMap::<[usize; 2], Vec<usize>>::new();
        for (node, &view) in views.iter().enumerate() {
            let shape = &self.shapes[view];
            if let Some(known) = self.options.known(view).intrinsics {
                self.nodes[node].has_known_focal = true;
                self.nodes[node].log_focal = known.fx.ln();
                continue;
            }
            shapes
                .entry([shape.width, shape.height])
                .or_default()
                .push(node);
            if !self.options.separate_cameras {
                let focal = self.nodes[node].log_focal;
                sizes
                    .entry(ImageSize::new(shape))
                    .or_default()
                    .push((focal, node));
            }
        }
        let width = if self.options.shared_focal {
            f64::INFINITY
        } else {
            ONE_CAMERA
        };
        let cameras = sizes
            .into_values()
            .flat_map(|views| one_camera_each(views, width));
        for (camera, group) in cameras.enumerate() {
            let shared =
                median(group.iter().map(|&node| self.nodes[node].log_focal)).unwrap_or(0.0);
            for node in group {
                (self.nodes[node].camera, self.nodes[node].log_focal) = (Some(camera), shared);
            }
        }
        if self.options.principal_point == PrincipalPoint::Prior {
            for (of, group) in shapes.into_values().enumerate() {
                let middle = |axis: usize| {
                    median(group.iter().map(|&node| self.nodes[node].principal[axis]))
                        .unwrap_or(0.0)
                };
                let middle = Vector2::new(middle(0), middle(1));
                for node in group {
                    let node = &mut self.nodes[node];
                    (node.principal_of, node.principal) = (Some(of), middle);
                }
            }
        }
    }

    /// Fixes known poses, or else the pose and scale of the first view.
    fn hold_known(&mut self) {
        let known = self.known_poses();
        if !known.is_empty() {
            let mut frames: Vec<Similarity3<f64>> =
                self.nodes.iter().map(|node| node.frame).collect();
            move_to_known(&mut frames, &known);
            self.nodes
                .iter_mut()
                .zip(frames)
                .for_each(|(node, frame)| node.frame = frame);
        }
        let fixed = if self.options.known_poses == KnownPoses::Fixed {
            known
        } else {
            Vec::new()
        };
        for (node, pose) in &fixed {
            self.nodes[*node].frame.isometry = *pose;
            self.nodes[*node].is_posed = true;
        }
        let root = fixed.first().map_or(0, |(node, _)| *node);
        if fixed.len() < 2
            && let Some(node) = self.nodes.get_mut(root)
        {
            (node.is_posed, node.has_known_scale) = (true, true);
        }
    }

    /// Nodes of views with known poses.
    fn known_poses(&self) -> Vec<(usize, Isometry3<f64>)> {
        let placed = (0..self.shapes.len()).filter(|&view| self.homes[view].is_some());
        placed
            .enumerate()
            .filter_map(|(node, view)| Some((node, self.options.known(view).world_from_camera?)))
            .collect()
    }
}
