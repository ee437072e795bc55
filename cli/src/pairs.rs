//! Which pairs of images are predicted.

use std::path::PathBuf;

use clap::Args;
use mast3r::Error;
use mast3r::alignment::Pair;
use mast3r::input::read_text;
use mast3r::pairs::{Ends, PairGraph, parse_list, spatial_pairs};
use mast3r::pipeline::PairChoice;
use mast3r::views::{self, Limits};
use rayon::prelude::*;

use crate::videos::is_frame;

/// A rule for pairs, or a list of them.
#[derive(Debug, Args)]
pub struct PairArgs {
    /// View graph, that is which pairs to predict: auto, complete, swin-K, logwin-K, oneref-I,
    /// retrieval-NA-K or loop-K-L [default: auto, with videos loop]
    ///
    /// complete: every pair, 45 of 10 images, 4950 of 100. swin-K: each image with the K that
    /// follow, as in a video; cyclic, unless -noncyclic is appended. logwin-K: each image with
    /// those 1, 2, 4, ... further, K of them. oneref-I: image I, counted from 0, with every other.
    /// retrieval-NA-K: image retrieval by the encoder's features; the NA most different images are
    /// all joined, every other image with the nearest of them, and each image with the K - 1 most
    /// similar. loop-K-L: each image with the K that follow, and with the L most similar of those
    /// more than 2 K away, which closes loops. auto: complete up to 12 images, retrieval-20-10
    /// beyond; with videos loop-5-4 beyond.
    #[arg(long, value_name = "GRAPH", conflicts_with_all = ["pairs", "window", "nearest"])]
    graph: Option<PairGraph>,

    /// Predict the pairs that a file lists, two image names a line
    ///
    /// A name is the image's path or the end of it, such as its file name. Lines that begin with #
    /// are comments.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["window", "nearest"])]
    pairs: Option<PathBuf>,

    /// Predict each image with the K that follow it, for frames in order; the same as --graph
    /// swin-K-noncyclic
    #[arg(long, value_name = "K", value_parser = crate::at_least_one)]
    window: Option<usize>,

    /// Predict each image with the K taken nearest to it, by the GPS positions in EXIF data
    ///
    /// Parts that are not joined so are joined by their nearest images. An image without a position
    /// is predicted with the K around it in order.
    #[arg(long, value_name = "K", value_parser = crate::at_least_one, conflicts_with = "window")]
    nearest: Option<usize>,
}

impl PairArgs {
    /// The file that is read.
    pub fn file(&self) -> Option<&PathBuf> {
        self.pairs.as_ref()
    }

    /// The options, and whether they are given.
    pub fn given(&self) -> [(&'static str, bool); 4] {
        [
            ("--graph", self.graph.is_some()),
            ("--pairs", self.pairs.is_some()),
            ("--window", self.window.is_some()),
            ("--nearest", self.nearest.is_some()),
        ]
    }

    /// The pairs asked for, checked as far as names and numbers go.
    pub fn choice(&self, images: &[PathBuf]) -> mast3r::Result<PairChoice> {
        if let Some(file) = &self.pairs {
            return parse_list(&read_text(file)?, file, images).map(PairChoice::List);
        }
        if let Some(neighbours) = self.nearest {
            return nearest(images, neighbours).map(PairChoice::List);
        }
        let window = self.window.map(|reach| PairGraph::Window {
            reach,
            ends: Ends::Open,
        });
        let usual = if images.iter().any(|path| is_frame(path)) {
            PairGraph::of_video(images.len())
        } else {
            PairGraph::Auto
        };
        let graph = window.or(self.graph).unwrap_or(usual);
        // One image has no pairs, and its network needs none.
        if images.len() > 1 && !graph.needs_similarity(images.len()) {
            graph
                .pairs(images.len(), None)
                .map_err(|error| Error::Usage(format!("--graph: {error}")))?;
        }
        Ok(PairChoice::Graph(graph))
    }
}

/// Each image with those taken nearest to it.
fn nearest(images: &[PathBuf], neighbours: usize) -> mast3r::Result<Vec<Pair>> {
    let limits = Limits::default();
    // An image that cannot be read is for those to name who decode it.
    let position = |path: &PathBuf| views::gps_position(path, &limits).ok().flatten();
    let positions: Vec<_> = images.par_iter().map(position).collect();
    if positions.iter().all(Option::is_none) {
        let reason = "no image has a GPS position in its EXIF data; try --graph retrieval-20-10";
        return Err(Error::Usage(format!("--nearest: {reason}")));
    }
    Ok(spatial_pairs(&positions, neighbours))
}
