//! Reciprocal matches: a pixel and its nearest neighbour, where going there and back again ends at
//! the start.

use super::kernel::Kernel;
use super::nearest::Index;
use super::{Checked, DescriptorMap, Match, MatchOptions, Pixel, Raster};
use crate::error::{Error, Result};

/// Matches found from a seed grid on either image, duplicates dropped, sorted by the first
/// pixel's index and then the second's. A match's confidence is the smaller of its two pixels'
/// descriptor confidences.
///
/// # Errors
/// Sizes or options that make no sense ([`Error::Usage`]); descriptors or confidences that are not
/// finite, or descriptors of length zero ([`Error::NotFinite`]).
pub fn reciprocal_matches(
    first: &DescriptorMap<'_>,
    second: &DescriptorMap<'_>,
    options: &MatchOptions,
) -> Result<Vec<Match>> {
    let settled = Search::new(first, second, options)?.settled(options);
    Ok(settled_matches(
        &settled,
        [first.raster(), second.raster()],
        options,
    ))
}

/// Matches found from a seed grid on the first image alone, as (pixel of the first, pixel of the
/// second), duplicates dropped, sorted by the first pixel's index and then the second's.
///
/// # Errors
/// As [`reciprocal_matches`].
pub fn seed_matches(
    first: &DescriptorMap<'_>,
    second: &DescriptorMap<'_>,
    options: &MatchOptions,
) -> Result<Vec<(Pixel, Pixel)>> {
    let mut search = Search::new(first, second, options)?;
    let views = [first.raster(), second.raster()];
    let mut found = matched(
        &search.seeded_on_first(options),
        [0, 1],
        &views,
        options.border,
    );
    sort_out(&mut found);
    Ok(found
        .into_iter()
        .map(|found| (views[0].at(found.pixels[0]), views[1].at(found.pixels[1])))
        .collect())
}

/// The matches of a pair of images from all its decodes, for the alignment of many images.
///
/// Each decode gives the descriptors of the first and of the second image, in this order
/// whichever of them the network saw first. Seeds start from both images of every decode. A match
/// weighs the geometric mean of its two confidences in the decode that found it first; matches are
/// sorted by the first pixel's index, then the second's.
///
/// # Errors
/// As [`reciprocal_matches`], and [`Error::Usage`] if the decodes disagree about an image's size
/// or if a confidence is negative.
pub fn merge_decodes(
    decodes: &[[DescriptorMap<'_>; 2]],
    options: &MatchOptions,
) -> Result<Vec<Match>> {
    let Some([first, second]) = decodes.first() else {
        return Ok(Vec::new());
    };
    let views = [first.raster(), second.raster()];
    for (map, reference) in decodes.iter().flat_map(|decode| decode.iter().zip(views)) {
        if map.raster() != reference {
            return Err(Error::Usage(format!(
                "matching: decodes of one pair disagree about an image's size, {}x{} and {}x{}",
                reference.width, reference.height, map.width, map.height
            )));
        }
    }
    let settle = |[first, second]: &[DescriptorMap<'_>; 2]| {
        Ok(Search::new(first, second, options)?.settled(options))
    };
    let settled: Vec<Settled> = decodes.iter().map(settle).collect::<Result<_>>()?;
    merge_settled(&settled, views, options)
}

/// [`reciprocal_matches`] of seeds that another search, a GPU's say, has brought to rest.
pub fn settled_matches(
    settled: &Settled,
    views: [Raster; 2],
    options: &MatchOptions,
) -> Vec<Match> {
    let mut found = settled.matched(&views, options.border);
    sort_out(&mut found);
    found
        .into_iter()
        .map(|found| found.to_match(&views, found.confidence[0].min(found.confidence[1])))
        .collect()
}

/// [`merge_decodes`] of seeds that another search has brought to rest, decode by decode.
///
/// # Errors
/// [`Error::Usage`] if a confidence is negative.
pub fn merge_settled(
    settled: &[Settled],
    views: [Raster; 2],
    options: &MatchOptions,
) -> Result<Vec<Match>> {
    let mut found: Vec<Found> = settled
        .iter()
        .flat_map(|settled| settled.matched(&views, options.border))
        .collect();
    if let Some(negative) = found
        .iter()
        .flat_map(|found| found.confidence)
        .find(|confidence| *confidence < 0.0)
    {
        return Err(Error::Usage(format!(
            "matching: a confidence must not be negative, got {negative}"
        )));
    }
    sort_out(&mut found);
    let to_match =
        |found: Found| found.to_match(&views, (found.confidence[0] * found.confidence[1]).sqrt());
    Ok(found.into_iter().map(to_match).collect())
}

/// Where the seeds of one decode came to rest, pixels by their row-major numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Of seeds on the first and of seeds on the second image.
    pub seeds: [Vec<SettledSeed>; 2],
}

/// A seed at rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SettledSeed {
    /// Where, on its own image.
    pub pixel: u32,
    /// The nearest neighbour in the other image.
    pub nearest: u32,
    /// Descriptor confidences of the two pixels.
    pub confidence: [f32; 2],
}

/// A pixel of the first image and one of the second.
#[derive(Clone, Copy, Debug)]
struct Found {
    pixels: [u32; 2],
    confidence: [f32; 2],
}

impl Settled {
    /// Those of seeds on the first image, then those of seeds on the second.
    fn matched(&self, views: &[Raster; 2], border: u32) -> Vec<Found> {
        let [on_first, on_second] = &self.seeds;
        [
            matched(on_first, [0, 1], views, border),
            matched(on_second, [1, 0], views, border),
        ]
        .concat()
    }
}

/// Seeds at rest of which `order` tells the first and the second image's place, those near a
/// border left out.
fn matched(
    settled: &[SettledSeed],
    order: [usize; 2],
    views: &[Raster; 2],
    border: u32,
) -> Vec<Found> {
    let as_asked = |seed: &SettledSeed| Found {
        pixels: order.map(|side| [seed.pixel, seed.nearest][side]),
        confidence: order.map(|side| seed.confidence[side]),
    };
    let is_inside = |found: &Found| {
        views
            .iter()
            .zip(found.pixels)
            .all(|(view, pixel)| view.is_inside(pixel, border))
    };
    settled.iter().map(as_asked).filter(is_inside).collect()
}

/// Sorts by the first pixel's index, then the second's, and keeps the first of those that are the
/// same.
fn sort_out(found: &mut Vec<Found>) {
    found.sort_by_key(|found| found.pixels);
    found.dedup_by_key(|found| found.pixels);
}

impl Found {
    fn to_match(self, views: &[Raster; 2], confidence: f32) -> Match {
        let [first, second] = [0, 1].map(|side| views[side].at(self.pixels[side]));
        Match {
            first,
            second,
            confidence,
        }
    }
}

/// For every pixel of `first`, row major, the index of the nearest pixel of `second`: the largest
/// dot product of descriptors, the earliest where several are equal.
///
/// # Errors
/// As [`reciprocal_matches`].
pub fn nearest_neighbors(
    first: &DescriptorMap<'_>,
    second: &DescriptorMap<'_>,
) -> Result<Vec<u32>> {
    let mut search = Search::new(first, second, &MatchOptions::default())?;
    let pixels: Vec<u32> = (0..first.pixels() as u32).collect();
    Ok(search.to_second.nearest(&pixels))
}

/// Marks a pixel whose nearest neighbour has not been asked for; no map has so many pixels.
const UNKNOWN: u32 = u32::MAX;

/// Both directions of the search between two maps.
struct Search<'a> {
    first: DescriptorMap<'a>,
    second: DescriptorMap<'a>,
    to_second: Known<'a>,
    to_first: Known<'a>,
}

impl<'a> Search<'a> {
    fn new(
        first: &DescriptorMap<'a>,
        second: &DescriptorMap<'a>,
        options: &MatchOptions,
    ) -> Result<Self> {
        options.check()?;
        let (first, second) = (
            Checked::new(first, "first")?,
            Checked::new(second, "second")?,
        );
        let (channels, others) = (first.map.channels, second.map.channels);
        if channels != others {
            return Err(Error::Usage(format!(
                "matching: the views' descriptors must have equally many channels, got {channels} and {others}"
            )));
        }
        let kernel = Kernel::available(channels)[0];
        Ok(Self {
            to_second: Known::new(&second, &first, kernel),
            to_first: Known::new(&first, &second, kernel),
            first: first.map,
            second: second.map,
        })
    }

    fn settled(&mut self, options: &MatchOptions) -> Settled {
        Settled {
            seeds: [
                self.seeded_on_first(options),
                self.seeded_on_second(options),
            ],
        }
    }

    fn seeded_on_first(&mut self, options: &MatchOptions) -> Vec<SettledSeed> {
        settle(
            &mut self.to_second,
            &mut self.to_first,
            [&self.first, &self.second],
            options,
        )
    }

    fn seeded_on_second(&mut self, options: &MatchOptions) -> Vec<SettledSeed> {
        settle(
            &mut self.to_first,
            &mut self.to_second,
            [&self.second, &self.first],
            options,
        )
    }
}

/// A searchable map that remembers every answer: a pixel's nearest neighbour never changes.
struct Known<'a> {
    index: Index<'a>,
    answers: Vec<u32>,
}

impl<'a> Known<'a> {
    fn new(base: &Checked<'a>, queries: &Checked<'a>, kernel: Kernel) -> Self {
        Self {
            index: Index::new(base, queries, kernel),
            answers: vec![UNKNOWN; queries.map.pixels()],
        }
    }

    fn nearest(&mut self, pixels: &[u32]) -> Vec<u32> {
        let mut unknown: Vec<u32> = pixels
            .iter()
            .copied()
            .filter(|&pixel| self.answers[pixel as usize] == UNKNOWN)
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        for (pixel, answer) in unknown.iter().zip(self.index.search(&unknown)) {
            self.answers[*pixel as usize] = answer;
        }
        pixels
            .iter()
            .map(|&pixel| self.answers[pixel as usize])
            .collect()
    }
}

/// Every `subsample`-th pixel of an image, starting in the middle of the first cell, row major, by
/// its number.
pub fn seeds(width: usize, height: usize, subsample: usize) -> Vec<u32> {
    let places = |size: usize| (subsample / 2..size).step_by(subsample);
    places(height)
        .flat_map(|y| places(width).map(move |x| (y * width + x) as u32))
        .collect()
}

/// One seed on its way.
struct Walker {
    here: u32,
    there: Option<u32>,
}

/// Walks seeds on the first of two images to their nearest neighbours and back until they stay
/// where they are.
fn settle(
    forward: &mut Known<'_>,
    backward: &mut Known<'_>,
    [own, other]: [&DescriptorMap<'_>; 2],
    options: &MatchOptions,
) -> Vec<SettledSeed> {
    let at_rest = |(pixel, nearest): (u32, u32)| SettledSeed {
        pixel,
        nearest,
        confidence: [
            own.confidence[pixel as usize],
            other.confidence[nearest as usize],
        ],
    };
    let seeds = seeds(own.width, own.height, options.subsample);
    let settled = match options.tolerance {
        Some(tolerance) => trips(forward, backward, seeds, own.raster(), tolerance),
        None => walks(forward, backward, seeds, options.rounds),
    };
    settled.into_iter().map(at_rest).collect()
}

/// Seeds that come back from one trip to less than `tolerance` pixels from where they began, which
/// is where they count.
fn trips(
    forward: &mut Known<'_>,
    backward: &mut Known<'_>,
    seeds: Vec<u32>,
    own: Raster,
    tolerance: f64,
) -> Vec<(u32, u32)> {
    let there = forward.nearest(&seeds);
    let back = backward.nearest(&there);
    let near = |(seed, back): (u32, u32)| {
        let (from, to) = (own.at(seed), own.at(back));
        f64::from(from.x.abs_diff(to.x)).hypot(f64::from(from.y.abs_diff(to.y))) < tolerance
    };
    let trips = seeds.into_iter().zip(there).zip(back);
    trips
        .filter(|&((seed, _), back)| near((seed, back)))
        .map(|(pair, _)| pair)
        .collect()
}

/// Seeds that stay where they are after at most so many trips: where, and their nearest neighbour.
fn walks(
    forward: &mut Known<'_>,
    backward: &mut Known<'_>,
    seeds: Vec<u32>,
    rounds: usize,
) -> Vec<(u32, u32)> {
    let mut settled = Vec::new();
    let mut moving: Vec<Walker> = seeds
        .into_iter()
        .map(|here| Walker { here, there: None })
        .collect();
    for _ in 0..rounds {
        // A walker that finds the same partner again stays where it is: its own side is not looked
        // up once more.
        let partners =
            forward.nearest(&moving.iter().map(|walker| walker.here).collect::<Vec<_>>());
        let mut left = Vec::with_capacity(moving.len());
        for (walker, there) in moving.into_iter().zip(partners) {
            if walker.there == Some(there) {
                settled.push((walker.here, there))
            } else {
                left.push((walker.here, there))
            }
        }
        let returns = backward.nearest(&left.iter().map(|&(_, there)| there).collect::<Vec<_>>());
        moving = Vec::with_capacity(left.len());
        for ((here, there), back) in left.into_iter().zip(returns) {
            if back == here {
                settled.push((here, there))
            } else {
                moving.push(Walker {
                    here: back,
                    there: Some(there),
                })
            }
        }
        if moving.is_empty() {
            break;
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::matching::random::Random;

    const WIDTH: usize = 40;
    const HEIGHT: usize = 24;

    /// Descriptors of a window, `left` columns to the right, of one endless random image.
    fn window(left: usize) -> Vec<f32> {
        let descriptor = |x: usize, y: usize| {
            let mut random = Random::new((y * 1000 + x) as u64);
            let values: Vec<f64> = (0..8).map(|_| random.normal()).collect();
            let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
            values.into_iter().map(move |value| (value / length) as f32)
        };
        (0..HEIGHT)
            .flat_map(|y| (left..left + WIDTH).flat_map(move |x| descriptor(x, y)))
            .collect()
    }

    fn map<'a>(descriptors: &'a [f32], confidence: &'a [f32]) -> DescriptorMap<'a> {
        DescriptorMap {
            width: WIDTH,
            height: HEIGHT,
            channels: 8,
            descriptors,
            confidence,
        }
    }

    fn confidence(value: f32) -> Vec<f32> {
        vec![value; WIDTH * HEIGHT]
    }

    #[test]
    fn a_shifted_image_matches_at_its_shift() {
        let (first, second, confidences) = (window(0), window(8), confidence(1.0));
        let (first, second) = (map(&first, &confidences), map(&second, &confidences));
        let found =
            reciprocal_matches(&first, &second, &MatchOptions::default()).expect("valid maps");
        // A seed that both images show stays where it is; the others walk until they meet such a
        // pixel.
        let settled = |x: u32, y: u32| (Pixel { x, y }, Pixel { x: x - 8, y });
        let pairs: Vec<_> = found
            .iter()
            .map(|found| (found.first, found.second))
            .collect();
        assert!(
            [12, 20, 28, 36]
                .iter()
                .all(|&x| [4, 12, 20].iter().all(|&y| pairs.contains(&settled(x, y))))
        );
        assert!(
            found.windows(2).all(
                |pair| (pair[0].first.y, pair[0].first.x) <= (pair[1].first.y, pair[1].first.x)
            )
        );
        let from_first =
            seed_matches(&first, &second, &MatchOptions::default()).expect("valid maps");
        assert!(from_first.iter().all(|pair| pairs.contains(pair)));
    }

    #[test]
    fn a_match_is_as_sure_as_its_less_sure_pixel() {
        let (descriptors, sure, unsure) = (window(0), confidence(9.0), confidence(4.0));
        let (first, second) = (map(&descriptors, &sure), map(&descriptors, &unsure));
        let found =
            reciprocal_matches(&first, &second, &MatchOptions::default()).expect("valid maps");
        assert_eq!(found.len(), 15);
        assert!(
            found
                .iter()
                .all(|found| found.confidence == 4.0 && found.first == found.second)
        );
        let merged = merge_decodes(
            &[[first, second], [second, first]],
            &MatchOptions::default(),
        )
        .expect("valid maps");
        assert_eq!(merged.len(), 15);
        assert!(merged.iter().all(|found| found.confidence == 6.0));
    }

    #[test]
    fn matches_near_the_border_can_be_dropped() {
        let (descriptors, sure) = (window(0), confidence(1.0));
        let first = map(&descriptors, &sure);
        let options = MatchOptions {
            border: 5,
            ..MatchOptions::default()
        };
        let found = reciprocal_matches(&first, &first, &options).expect("valid maps");
        // The seeds' columns are 4, 12, 20, 28, 36 and their rows 4, 12, 20.
        assert_eq!(
            found
                .iter()
                .map(|found| (found.first.x, found.first.y))
                .collect::<Vec<_>>(),
            [(12, 12), (20, 12), (28, 12)]
        );
    }

    #[test]
    fn numbers_that_have_no_direction_are_an_error() {
        let (good, sure) = (window(0), confidence(1.0));
        for bad in [0.0, f32::NAN, f32::INFINITY, 1e30] {
            let mut broken = good.clone();
            broken[80..88].fill(bad);
            for (first, second) in [(&good, &broken), (&broken, &good)] {
                let result = reciprocal_matches(
                    &map(first, &sure),
                    &map(second, &sure),
                    &MatchOptions::default(),
                );
                let Err(error @ Error::NotFinite { count: 1, .. }) = result else {
                    panic!("{bad}: {result:?}")
                };
                assert_eq!(error.kind(), ErrorKind::Weights);
            }
        }
        let unsure = confidence(f32::NAN);
        let result = reciprocal_matches(
            &map(&good, &unsure),
            &map(&good, &sure),
            &MatchOptions::default(),
        );
        assert!(matches!(result, Err(Error::NotFinite { .. })), "{result:?}");
    }

    #[test]
    fn sizes_and_options_that_make_no_sense_are_errors() {
        let (good, sure) = (window(0), confidence(1.0));
        let first = map(&good, &sure);
        let options = MatchOptions::default();
        let usage = |result: Result<Vec<Match>>| matches!(result, Err(Error::Usage(_)));
        assert!(usage(reciprocal_matches(
            &first,
            &map(&good[8..], &sure),
            &options
        )));
        assert!(usage(reciprocal_matches(
            &map(&good, &sure[1..]),
            &first,
            &options
        )));
        assert!(usage(reciprocal_matches(
            &first,
            &DescriptorMap {
                channels: 4,
                width: 2 * WIDTH,
                ..first
            },
            &options
        )));
        assert!(usage(reciprocal_matches(
            &DescriptorMap { width: 0, ..first },
            &first,
            &options
        )));
        assert!(usage(reciprocal_matches(
            &DescriptorMap {
                channels: 0,
                ..first
            },
            &first,
            &options
        )));
        assert!(usage(reciprocal_matches(
            &first,
            &first,
            &MatchOptions {
                subsample: 0,
                ..options
            }
        )));
        assert!(usage(reciprocal_matches(
            &first,
            &first,
            &MatchOptions {
                rounds: 0,
                ..options
            }
        )));
        assert!(usage(reciprocal_matches(
            &first,
            &first,
            &MatchOptions {
                tolerance: Some(0.0),
                ..options
            }
        )));
    }

    #[test]
    fn an_image_smaller_than_half_a_cell_has_no_seed_and_no_match() {
        let (good, sure) = (window(0), confidence(1.0));
        let corner = DescriptorMap {
            width: 2,
            height: 2,
            channels: 8,
            descriptors: &good[..32],
            confidence: &sure[..4],
        };
        assert_eq!(
            reciprocal_matches(&corner, &corner, &MatchOptions::default()).expect("valid maps"),
            []
        );
    }
}
