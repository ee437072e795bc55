//! The search for matches where the descriptors are: on a GPU, so that they need not travel.

use candle_core::Tensor;
use custom_ops::{Downloader, MatchedMap, Walks, has_reciprocal_walks, reciprocal_walks};

use crate::Result;
use crate::matching::{
    Match, MatchOptions, Raster, Settled, SettledSeed, merge_settled, seeds, settled_matches,
    undefined_confidences, unusable_descriptors,
};
use crate::model::{Mast3r, PairPrediction, Prediction};
use crate::runtime::Optimisation;

/// The search for one pair's matches, given to the device.
#[derive(Debug)]
pub struct DeviceSearch {
    walks: Walks,
    views: [Raster; 2],
    options: MatchOptions,
}

impl DeviceSearch {
    /// Gives the device the search for the matches of one decode, or of both orders where `reverse`
    /// is given; nobody waits. `None` where the search is the host's: on the CPU,
    /// with a tolerance, without [`Optimisation::DeviceMatching`].
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for options that make no sense; errors of the device.
    pub fn begin(
        model: &Mast3r,
        forward: &PairPrediction,
        reverse: Option<&PairPrediction>,
        options: &MatchOptions,
        downloader: &Downloader,
    ) -> Result<Option<Self>> {
        options.check()?;
        let mut decodes = vec![[&forward.first, &forward.second_in_first]];
        // The first view is the second one of this order.
        decodes.extend(reverse.map(|reverse| [&reverse.second_in_first, &reverse.first]));
        let is_wanted = model
            .runtime()
            .optimisations()
            .has(Optimisation::DeviceMatching)
            && options.tolerance.is_none();
        if !is_wanted
            || !decodes
                .iter()
                .flatten()
                .all(|view| has_reciprocal_walks(&view.descriptors))
        {
            return Ok(None);
        }
        let _span = tracing::debug_span!("match").entered();
        let views = [raster(decodes[0][0])?, raster(decodes[0][1])?];
        let maps: Vec<[Map; 2]> = decodes
            .iter()
            .map(|[first, second]| Ok([Map::new(first)?, Map::new(second)?]))
            .collect::<Result<_>>()?;
        let maps: Vec<[MatchedMap<'_>; 2]> = maps
            .iter()
            .map(|maps| maps.each_ref().map(Map::borrowed))
            .collect();
        let seeds = views.map(|view| seeds(view.width, view.height, options.subsample));
        let walks = reciprocal_walks(
            &maps,
            seeds.each_ref().map(Vec::as_slice),
            options.rounds,
            downloader,
        )?;
        Ok(Some(Self {
            walks,
            views,
            options: *options,
        }))
    }

    /// The matches, the same as the host finds.
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) for descriptors without a direction or
    /// confidences that are not finite; errors of the device.
    pub fn wait(self) -> Result<Vec<Match>> {
        let _span = tracing::debug_span!("match").entered();
        let settled = self
            .walks
            .wait()?
            .into_iter()
            .map(|decode| self.checked(decode))
            .collect::<Result<Vec<_>>>()?;
        match settled.as_slice() {
            [one] => Ok(settled_matches(one, self.views, &self.options)),
            both => merge_settled(both, self.views, &self.options),
        }
    }

    fn checked(&self, decode: custom_ops::Settled) -> Result<Settled> {
        for (view, whose) in ["first", "second"].into_iter().enumerate() {
            let pixels = self.views[view].width * self.views[view].height;
            if decode.undefined[view] > 0 {
                return Err(undefined_confidences(whose, decode.undefined[view], pixels));
            }
            if decode.unusable[view] > 0 {
                return Err(unusable_descriptors(whose, decode.unusable[view], pixels));
            }
        }
        let seed = |seed: custom_ops::SettledSeed| {
            let custom_ops::SettledSeed {
                pixel,
                nearest,
                confidence,
            } = seed;
            SettledSeed {
                pixel,
                nearest,
                confidence,
            }
        };
        Ok(Settled {
            seeds: decode
                .seeds
                .map(|seeds| seeds.into_iter().map(seed).collect()),
        })
    }
}

/// What is searched of a view of one pair.
struct Map {
    descriptors: Tensor,
    confidence: Tensor,
}

impl Map {
    fn new(view: &Prediction) -> Result<Self> {
        Ok(Self {
            descriptors: view.descriptors.squeeze(0)?,
            confidence: view.descriptor_confidence.squeeze(0)?,
        })
    }

    fn borrowed(&self) -> MatchedMap<'_> {
        MatchedMap {
            descriptors: &self.descriptors,
            confidence: &self.confidence,
        }
    }
}

fn raster(view: &Prediction) -> Result<Raster> {
    let (_, height, width, _) = view.descriptors.dims4()?;
    Ok(Raster { width, height })
}
