//! Cases of the rotary embedding.

use super::{Expected, F32_ROUNDING, Lie, Random, Source};

/// Two tensors of tokens `(batch, tokens, heads, dim)` and where the tokens are.
pub struct Case {
    pub name: String,
    pub q: Source,
    pub k: Source,
    /// `(y, x)` of each token.
    pub positions: Vec<[f32; 2]>,
    pub base: f32,
}

impl Case {
    /// The rotation of `tokens`, the values of `q` or `k` row major, as the RoPE of a plane defines
    /// it: the first half of a head's channels turns by y, the second by x; in a half of `d`
    /// channels, `j` and `j + d / 2` turn together by `position * base^(-2 j / d)`.
    pub fn expected(&self, tokens: &[f64]) -> Vec<Expected> {
        let dims = self.q.dims();
        let (count, heads, dim) = (dims[1], dims[2], dims[3]);
        let d = dim / 2;
        let mut out = Vec::with_capacity(tokens.len());
        for (index, &value) in tokens.iter().enumerate() {
            let (channel, token) = (index % dim, index / dim / heads % count);
            let (half, within) = (channel / d, channel % d);
            let j = within % (d / 2);
            let angle = f64::from(self.positions[token][half])
                * f64::from(self.base).powf(-2. * j as f64 / d as f64);
            let (sin, cos) = angle.sin_cos();
            // The first of two that turn together gets `a cos - b sin`, the second `b cos + a sin`.
            let partner = if within < d / 2 {
                -tokens[index + d / 2]
            } else {
                tokens[index - d / 2]
            };
            out.push(Expected {
                value: value * cos + partner * sin,
                // Rounded: cosine and sine, two products, one sum.
                slack: 4. * F32_ROUNDING * ((value * cos).abs() + (partner * sin).abs()),
            });
        }
        out
    }
}

/// Every lie in memory with head dims of and off vector widths, and the shape of a network.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(1);
    let mut cases = Vec::new();
    let mut add = |lie: Lie, dims: [usize; 4], base: f32, positions: Vec<[f32; 2]>| {
        let (q, k) = (
            lie.source(dims, 3., &mut random),
            lie.source(dims, 3., &mut random),
        );
        cases.push(Case {
            name: format!("{dims:?} {lie:?}"),
            q,
            k,
            positions,
            base,
        });
    };
    let grid = |rows: usize, columns: usize| -> Vec<[f32; 2]> {
        (0..rows * columns)
            .map(|i| [(i / columns) as f32, (i % columns) as f32])
            .collect()
    };
    for dim in [4, 12, 20, 64] {
        for lie in Lie::ALL {
            add(lie, [2, 6, 3, dim], 100., grid(2, 3));
        }
        // One token, scattered positions, another base, one head.
        add(Lie::Contiguous, [1, 1, 1, dim], 100., vec![[7., 3.]]);
        add(
            Lie::Third,
            [3, 3, 1, dim],
            10_000.,
            vec![[41., 0.5], [-2., 17.25], [0., 0.]],
        );
    }
    add(Lie::Third, [1, 24 * 32, 12, 64], 100., grid(24, 32));
    cases
}
