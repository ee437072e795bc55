//! One pair, decoded again and again as a reconstruction decodes many: for measuring.

use std::sync::Mutex;
use std::thread;

use super::decode::{Decoding, groups, pixels_of};
use crate::alignment::Pair;
use crate::matching::MatchOptions;
use crate::model::Mast3r;
use crate::pipeline::features::FeatureStore;
use crate::pipeline::key::Key;
use crate::pipeline::sharing::{Stop, joined, spawned};
use crate::views::View;
use crate::{Error, Result};

/// Memory for the features of two views.
const MEMORY: u64 = 1 << 30;
const PAIR: Pair = Pair {
    first: 0,
    second: 1,
};

/// Pairs of the same two views, which devices share: for measuring.
#[derive(Debug)]
pub struct RepeatedPairs {
    groups: Vec<Vec<[usize; 2]>>,
    features: Mutex<FeatureStore>,
}

impl RepeatedPairs {
    /// Encodes the two views with the same network on each device; `count` pairs of them are decoded
    /// at each run.
    ///
    /// # Errors
    /// Of the devices.
    pub fn new(models: &[Mast3r], views: &[View; 2], count: usize) -> Result<Self> {
        let pixels = views.iter().map(Key::of_view);
        let keys = pixels
            .map(|pixels| Key::of_features(&pixels, None))
            .collect::<Result<_>>()?;
        let mut features = FeatureStore::new(MEMORY, keys, None);
        let extractors: Vec<_> = models.iter().map(Mast3r::extractor).collect();
        let both = [PAIR.first, PAIR.second];
        features.encode(|view| Ok(&views[view]), &both, &extractors, |_| Ok(()))?;
        Ok(Self {
            groups: groups(&vec![both; count], |view| pixels_of(&views[view]), models),
            features: Mutex::new(features),
        })
    }

    /// Decodes all pairs in both orders, matches them and brings their points to the host, which
    /// drops them. How many matches there are.
    ///
    /// # Errors
    /// Of the devices; [`Error::NotFinite`] if what the network predicts is not finite.
    pub fn run(&self, models: &[Mast3r]) -> Result<usize> {
        let matching = MatchOptions::default();
        let decoding = Decoding {
            models,
            groups: &self.groups,
            features: &self.features,
            matching: &matching,
        };
        let sharing = decoding.sharing();
        thread::scope(|scope| {
            let consumer = spawned(scope, || {
                let _stopper = sharing.stopper(Stop::Always);
                let mut matches = 0;
                for _ in &self.groups {
                    let stopped = || Error::Internal("the pairs were not decoded".into());
                    for found in sharing.take().ok_or_else(stopped)? {
                        matches += found?;
                    }
                }
                Ok(matches)
            })?;
            let decoded = decoding.run(&sharing, &|_, decoded| {
                let evidence = decoded.evidence(PAIR, &matching, || {})?;
                Ok(evidence.matches.len())
            });
            let consumed = joined(consumer);
            decoded?;
            consumed
        })
    }
}
