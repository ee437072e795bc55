//! Checks of the evidence of a pair.

use super::{Pair, PairEvidence, ViewShape};
use crate::error::{Error, Result};
use crate::matching::{MatchOptions, ViewMaps};

/// A pair that is left out because its predictions are not finite.
pub(super) struct NotFinite {
    pub pair: Pair,
    pub error: Error,
}

/// Checks a pair's evidence, and tells what spoils the pair alone from what ends the alignment.
pub(super) fn sort_out(
    evidence: Result<PairEvidence>,
    views: &[ViewShape],
) -> Result<Result<PairEvidence, NotFinite>> {
    let (pair, error) = match evidence {
        Ok(evidence) => {
            evidence.check(views)?;
            match evidence.check_finite() {
                Ok(()) => return Ok(Ok(evidence)),
                Err(error) => (evidence.pair, error),
            }
        }
        Err(Error::PairNotFinite {
            pair: [first, second],
            source,
        }) => (Pair { first, second }, *source),
        Err(error) => return Err(error),
    };
    pair.check(views.len())?;
    let names = [pair.first, pair.second].map(|view| &*views[view].name);
    let error = error.of_images(names);
    tracing::info!("{error}");
    Ok(Err(NotFinite { pair, error }))
}

impl PairEvidence {
    /// From what was said of `pair` in both orders, whose matches are sought by `options`:
    /// `forward` is of its first and second view, `reverse` of its second and first.
    ///
    /// # Errors
    /// Those of [`ViewMaps::matches`].
    pub fn of_decodes(
        pair: Pair,
        forward: [ViewMaps; 2],
        reverse: [ViewMaps; 2],
        options: &MatchOptions,
    ) -> Result<Self> {
        let matches = ViewMaps::matches(&forward, &reverse, options)?;
        let points = |maps: [ViewMaps; 2]| maps.map(|maps| maps.points);
        Ok(Self {
            pair,
            forward: points(forward),
            reverse: points(reverse),
            matches,
        })
    }

    /// Checks that all points and confidences are finite.
    fn check_finite(&self) -> Result<()> {
        let [first, second] = ["first", "second"];
        let maps = self
            .forward
            .iter()
            .zip([first, second])
            .chain(self.reverse.iter().zip([second, first]));
        for (map, whose) in maps {
            for (values, what) in [
                (map.points.as_flattened(), "points"),
                (&map.confidence, "confidences"),
            ] {
                let count = values.iter().filter(|value| !value.is_finite()).count();
                if count > 0 {
                    return Err(Error::not_finite_map(what, whose, count, values.len()));
                }
            }
        }
        Ok(())
    }

    fn check(&self, views: &[ViewShape]) -> Result<()> {
        self.pair.check(views.len())?;
        let Pair { first, second } = self.pair;
        let [own_first, second_in_first] = &self.forward;
        let [own_second, first_in_second] = &self.reverse;
        for (view, map) in [
            (first, own_first),
            (second, second_in_first),
            (second, own_second),
            (first, first_in_second),
        ] {
            let ViewShape { width, height, .. } = views[view];
            if !map.is_consistent() || (map.width, map.height) != (width, height) {
                return Err(Error::Usage(format!(
                    "{}: a map of {}x{} pixels with {} points and {} confidences for an image of {width}x{height}",
                    views[view].name,
                    map.width,
                    map.height,
                    map.points.len(),
                    map.confidence.len()
                )));
            }
        }
        Ok(())
    }
}
