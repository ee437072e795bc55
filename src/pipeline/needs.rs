//! What a reconstruction will take, as far as it follows from sizes.

use super::PairChoice;
use super::reconstruct::STORED_BYTES;
use crate::alignment::{AlignOptions, MOST_SUBMAP_BYTES, SCENE_PIXEL_BYTES, SUBMAP_PIXEL_BYTES};
use crate::buffer::MOST_IN_MEMORY;
use crate::error::Result;
use crate::model::config::Config;

/// Host memory of the alignment for a pixel of every image: the sums of a view's maps, its depths
/// and points. Measured: 0.77 GB for 200 images of 224x168.
const ALIGN_BYTES: u64 = 100;
/// Of many images those of the submaps that are solved at a time count; images of one at most.
const SUBMAP_IMAGES: u64 = 120;
/// The joint system of all images, by pairs. Measured for 10 000 images: 3.0 GB with 57 000 pairs,
/// 5.3 GB with 97 000; fewer images take less.
const PAIR_BYTES: u64 = 55_000;
/// Bytes of a pixel's colour.
const RGB: u64 = 3;
/// Bytes of a float32 number.
const FLOAT: u64 = 4;

/// Images, pairs, disk and memory. Where a range is given, pairs depend on how similar images are.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs {
    /// Images.
    pub images: usize,
    /// The least pairs and the most.
    pub pairs: [usize; 2],
    /// Pixels and features of all images in a work folder.
    pub image_bytes: u64,
    /// A pair in a work folder, on average.
    pub pair_bytes: u64,
    /// A work folder with everything: at least, at most.
    pub disk_bytes: [u64; 2],
    /// Host memory beside that of the program and the network.
    pub memory_bytes: u64,
}

impl Needs {
    /// Of images of these sizes, which pairs of a choice compare; `memory` is the most for
    /// features.
    ///
    /// # Errors
    /// As [`PairGraph::pairs`](crate::pairs::PairGraph::pairs).
    pub fn of(
        sizes: &[[u32; 2]],
        choice: &PairChoice,
        network: &Config,
        memory: u64,
    ) -> Result<Self> {
        let images = sizes.len();
        let pairs = match choice {
            PairChoice::List(pairs) => [pairs.len(); 2],
            PairChoice::Graph(graph) => graph.count(images)?,
        };
        let pixels = |[width, height]: &[u32; 2]| u64::from(*width) * u64::from(*height);
        let all: u64 = sizes.iter().map(pixels).sum();
        let patch = network.encoder.patch as u64;
        let channels = network.encoder.channels() as u64;
        let features = all / (patch * patch) * channels * FLOAT;
        let image_bytes = all * RGB + features;
        let align = if AlignOptions::default().solves_in_submaps(images) {
            let submap = SUBMAP_IMAGES * (all / images as u64) * SUBMAP_PIXEL_BYTES;
            let submaps = rayon::current_num_threads() as u64 * submap;
            let submaps = submaps.min(MOST_SUBMAP_BYTES).max(submap);
            // The rest of it is on disk.
            let scene = (SCENE_PIXEL_BYTES * all).min(MOST_IN_MEMORY);
            submaps + pairs[1] as u64 * PAIR_BYTES + scene
        } else {
            all * ALIGN_BYTES
        };
        let pair_bytes = 2 * STORED_BYTES * all / (images.max(1) as u64);
        Ok(Self {
            images,
            pairs,
            image_bytes,
            pair_bytes,
            disk_bytes: pairs.map(|pairs| image_bytes + pairs as u64 * pair_bytes),
            memory_bytes: all * RGB + align + features.min(memory),
        })
    }
}
