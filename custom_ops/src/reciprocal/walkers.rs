//! Walkers as the kernels of every GPU leave them.

use super::SettledSeed;

/// A walker as numbers: here, there, state, both confidences.
pub(super) const WALKER: usize = 5;
const SETTLED: u32 = 1;

/// The seeds of either image that came to rest. `walkers` are those of one decode, of both images
/// with room for as many; `seeds` is how many each has.
pub(super) fn settled_seeds(walkers: &[u32], seeds: [usize; 2]) -> [Vec<SettledSeed>; 2] {
    let stride = walkers.len() / 2;
    [0, 1].map(|side| {
        let (walkers, _) = walkers[side * stride..][..stride].as_chunks::<WALKER>();
        let walkers = walkers.iter().take(seeds[side]);
        let settled = walkers.filter(|[_, _, state, ..]| *state == SETTLED);
        settled
            .map(|&[pixel, nearest, _, own, other]| SettledSeed {
                pixel,
                nearest,
                confidence: [own, other].map(f32::from_bits),
            })
            .collect()
    })
}
