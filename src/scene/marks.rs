//! A choice of points, a bit each.

/// Which of a scene's points are chosen, in the order of [`Scene::points`](super::Scene::points).
#[derive(Clone, Debug)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    /// For so many points, of which those with these indices are chosen.
    pub fn new(count: usize, chosen: impl IntoIterator<Item = usize>) -> Self {
        let mut bits = vec![0; count.div_ceil(64)];
        for at in chosen {
            bits[at / 64] |= 1 << (at % 64);
        }
        Self(bits)
    }

    pub fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// The indices of the chosen points, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..64 * self.0.len()).filter(|at| self.has(*at))
    }

    pub fn count(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }
}
