//! Token features as colours: their first three principal components over all images.
//!
//! Two passes, so that memory does not grow with the features: [`PcaBuilder`] gathers mean and
//! covariance image by image, then [`Pca::project`] maps each image's tokens, and
//! [`draw_token_grids`] draws the lot.

use image::{Rgb, RgbImage};
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

use super::colors::Range;
use crate::error::{Error, Result};

/// Components kept: red, green, blue.
const COMPONENTS: usize = 3;
/// Channels in a block of the covariance.
const BLOCK: usize = 128;
/// Colour between the images.
const GAP_COLOR: Rgb<u8> = Rgb([255, 255, 255]);
/// The preview's tokens get smaller before it has more pixels than this.
const LARGEST_PREVIEW_PIXELS: u64 = 1 << 24;

/// Gathers mean and covariance of feature tokens.
#[derive(Clone, Debug)]
pub struct PcaBuilder {
    channels: usize,
    tokens: u64,
    /// Subtracted from every token before anything is summed, so that large means cost no
    /// precision.
    shift: Vec<f64>,
    sum: Vec<f64>,
    blocks: Vec<Block>,
}

/// Sums of products of two runs of channels; the row's run does not precede the column's.
#[derive(Clone, Debug)]
struct Block {
    row: usize,
    column: usize,
    products: DMatrix<f64>,
}

/// The directions in which tokens vary most.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Vec<f64>,
    components: [Vec<f64>; COMPONENTS],
    explained: [f64; COMPONENTS],
}

/// The components of one image's tokens, row major.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGrid {
    /// Rows of tokens.
    pub rows: usize,
    /// Tokens in a row.
    pub columns: usize,
    /// [`Pca::project`]'s result.
    pub components: Vec<[f32; COMPONENTS]>,
}

impl PcaBuilder {
    /// For tokens of this many channels.
    pub fn new(channels: usize) -> Self {
        let starts = (0..channels).step_by(BLOCK);
        let blocks = starts
            .flat_map(|row| (0..=row).step_by(BLOCK).map(move |column| (row, column)))
            .map(|(row, column)| {
                let extent = |start: usize| BLOCK.min(channels - start);
                Block {
                    row,
                    column,
                    products: DMatrix::zeros(extent(row), extent(column)),
                }
            })
            .collect();
        Self {
            channels,
            tokens: 0,
            shift: vec![0.0; channels],
            sum: vec![0.0; channels],
            blocks,
        }
    }

    /// Adds the tokens of one image, `(tokens, channels)` row major.
    ///
    /// # Errors
    /// [`Error::Usage`] if the length is not a multiple of the channels; [`Error::NotFinite`].
    pub fn add(&mut self, tokens: &[f32]) -> Result<()> {
        let count = token_count(tokens, self.channels)?;
        let not_finite = tokens.iter().filter(|value| !value.is_finite()).count();
        if not_finite > 0 {
            return Err(Error::NotFinite {
                what: "features".into(),
                count: not_finite,
                total: tokens.len(),
                hint: "the weights are probably damaged or of another network".into(),
            });
        }
        if self.tokens == 0 && count > 0 {
            for token in tokens.chunks_exact(self.channels) {
                for (shift, &value) in self.shift.iter_mut().zip(token) {
                    *shift += f64::from(value) / count as f64;
                }
            }
        }
        self.tokens += count as u64;

        // A column per token, and the same transposed: the plain product of the two is the fast
        // one.
        let columns = DMatrix::from_iterator(
            self.channels,
            count,
            tokens.chunks_exact(self.channels.max(1)).flat_map(|token| {
                token
                    .iter()
                    .zip(&self.shift)
                    .map(|(&value, &shift)| f64::from(value) - shift)
            }),
        );
        let rows = columns.transpose();
        for column in columns.column_iter() {
            self.sum
                .iter_mut()
                .zip(&column)
                .for_each(|(sum, value)| *sum += value);
        }
        self.blocks.par_iter_mut().for_each(|block| {
            let (height, width) = block.products.shape();
            block.products.gemm(
                1.0,
                &columns.rows(block.row, height),
                &rows.columns(block.column, width),
                1.0,
            );
        });
        Ok(())
    }

    /// The principal components of everything added.
    ///
    /// A component's sign is arbitrary; here its entry of largest magnitude is positive.
    ///
    /// # Errors
    /// [`Error::Usage`] if nothing was added.
    pub fn finish(self) -> Result<Pca> {
        if self.tokens == 0 {
            return Err(Error::Usage(
                "principal components need at least one image".into(),
            ));
        }
        let tokens = self.tokens as f64;
        let offset: Vec<f64> = self.sum.iter().map(|sum| sum / tokens).collect();
        let mut covariance = DMatrix::zeros(self.channels, self.channels);
        for block in &self.blocks {
            for ((row, column), product) in indexed(&block.products) {
                let (row, column) = (block.row + row, block.column + column);
                let value = product / tokens - offset[row] * offset[column];
                covariance[(row, column)] = value;
                covariance[(column, row)] = value;
            }
        }
        let total: f64 = covariance.trace();
        let eigen = SymmetricEigen::new(covariance);
        let mut order: Vec<usize> = (0..self.channels).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));

        // Fewer channels than components leave components of zeros.
        let mut components = [(); COMPONENTS].map(|()| vec![0.0; self.channels]);
        let mut explained = [0.0; COMPONENTS];
        for (rank, &index) in order.iter().take(COMPONENTS).enumerate() {
            components[rank] =
                with_fixed_sign(eigen.eigenvectors.column(index).iter().copied().collect());
            explained[rank] = if total > 0.0 {
                (eigen.eigenvalues[index] / total).max(0.0)
            } else {
                0.0
            };
        }
        let mean = self
            .shift
            .iter()
            .zip(&offset)
            .map(|(shift, offset)| shift + offset)
            .collect();
        Ok(Pca {
            mean,
            components,
            explained,
        })
    }
}

impl Pca {
    /// The part of the tokens' variance that each component holds, largest first.
    pub fn explained(&self) -> [f64; COMPONENTS] {
        self.explained
    }

    /// The components of each of the `tokens`, `(tokens, channels)` row major.
    ///
    /// # Errors
    /// [`Error::Usage`] if the length is not a multiple of the channels.
    pub fn project(&self, tokens: &[f32]) -> Result<Vec<[f32; COMPONENTS]>> {
        token_count(tokens, self.mean.len())?;
        let project = |token: &[f32], component: &[f64]| {
            let terms = token.iter().zip(&self.mean).zip(component);
            terms
                .map(|((&value, mean), weight)| (f64::from(value) - mean) * weight)
                .sum::<f64>() as f32
        };
        let tokens = tokens.chunks_exact(self.mean.len().max(1));
        Ok(tokens
            .map(|token| {
                self.components
                    .each_ref()
                    .map(|component| project(token, component))
            })
            .collect())
    }
}

/// Draws all images in a grid, each token a square of `token_pixels`, fewer where the whole would
/// pass 16 megapixels.
///
/// Every component spans its colour's range between its robust percentiles over all images, so
/// colours compare between images.
///
/// # Errors
/// [`Error::Usage`] if there is nothing to draw, a grid's sizes disagree or there is too much for
/// one image.
pub fn draw_token_grids(grids: &[TokenGrid], token_pixels: u32) -> Result<RgbImage> {
    let (rows, columns) = largest(grids)?;
    // About as wide as high.
    let across = (1..grids.len()).find(|across| across * across * columns >= grids.len() * rows);
    let across = across.unwrap_or(grids.len());
    let down = grids.len().div_ceil(across);

    // The gaps are a token wide.
    let width_tokens = (across * (columns + 1) - 1) as u64;
    let height_tokens = (down * (rows + 1) - 1) as u64;
    let token_area = width_tokens.saturating_mul(height_tokens);
    let largest_pixels = (LARGEST_PREVIEW_PIXELS / token_area).isqrt();
    let pixels = u64::from(token_pixels.max(1)).min(largest_pixels);
    let (Ok(width), Ok(height), 1..) = (
        u32::try_from(width_tokens * pixels),
        u32::try_from(height_tokens * pixels),
        pixels,
    ) else {
        return Err(Error::Usage(format!(
            "a preview of {} images is too large; draw fewer",
            grids.len()
        )));
    };

    let ranges: [Option<Range>; COMPONENTS] = std::array::from_fn(|component| {
        let values = grids
            .iter()
            .flat_map(|grid| &grid.components)
            .map(|token| token[component]);
        Range::robust(
            &mut values
                .filter(|value| value.is_finite())
                .collect::<Vec<f32>>(),
        )
    });
    let mut image = RgbImage::from_pixel(width, height, GAP_COLOR);
    for (index, grid) in grids.iter().enumerate() {
        let (left, top) = (
            (index % across) * (columns + 1),
            (index / across) * (rows + 1),
        );
        for (token, components) in grid.components.iter().enumerate() {
            let (x, y) = (left + token % grid.columns, top + token / grid.columns);
            let color = Rgb(std::array::from_fn(|component| {
                level(ranges[component], components[component])
            }));
            fill_square(&mut image, x as u32, y as u32, pixels as u32, color);
        }
    }
    Ok(image)
}

fn level(range: Option<Range>, value: f32) -> u8 {
    let position = range
        .filter(|_| value.is_finite())
        .map_or(0.5, |range| range.position(value));
    (position * 255.0).round() as u8
}

fn fill_square(image: &mut RgbImage, x: u32, y: u32, side: u32, color: Rgb<u8>) {
    for row in y * side..(y + 1) * side {
        for column in x * side..(x + 1) * side {
            image.put_pixel(column, row, color);
        }
    }
}

/// Most rows and most columns of any grid.
fn largest(grids: &[TokenGrid]) -> Result<(usize, usize)> {
    let mut largest = (0, 0);
    for grid in grids {
        let (tokens, rows, columns) = (grid.components.len(), grid.rows, grid.columns);
        if tokens == 0 || rows.checked_mul(columns) != Some(tokens) {
            return Err(Error::Usage(format!(
                "{tokens} tokens for a grid of {rows} rows and {columns} columns"
            )));
        }
        largest = (largest.0.max(rows), largest.1.max(columns));
    }
    if grids.is_empty() {
        return Err(Error::Usage("there are no tokens to draw".into()));
    }
    Ok(largest)
}

fn token_count(tokens: &[f32], channels: usize) -> Result<usize> {
    if channels == 0 || !tokens.len().is_multiple_of(channels) {
        let length = tokens.len();
        return Err(Error::Usage(format!(
            "{length} feature values are no tokens of {channels} channels"
        )));
    }
    Ok(tokens.len() / channels)
}

fn indexed(matrix: &DMatrix<f64>) -> impl Iterator<Item = ((usize, usize), f64)> + '_ {
    let rows = matrix.nrows();
    matrix
        .iter()
        .enumerate()
        .map(move |(index, &value)| ((index % rows, index / rows), value))
}

fn with_fixed_sign(mut component: Vec<f64>) -> Vec<f64> {
    let largest = component.iter().copied().fold(0.0, |largest: f64, value| {
        if value.abs() > largest.abs() {
            value
        } else {
            largest
        }
    });
    if largest < 0.0 {
        component.iter_mut().for_each(|value| *value = -*value);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1, the same in every run.
    fn noise(mut state: u32) -> impl FnMut() -> f64 {
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0
        }
    }

    /// Tokens that vary by 8, 4 and 2 along the first three columns of a Householder reflection,
    /// around a mean of 100, together with those directions.
    fn known_tokens(channels: usize, count: usize) -> (Vec<f32>, Vec<Vec<f64>>) {
        let mut noise = noise(1);
        let normal: Vec<f64> = (0..channels).map(|_| noise()).collect();
        let norm: f64 = normal.iter().map(|value| value * value).sum();
        let direction = |index: usize| -> Vec<f64> {
            let identity = |channel| if channel == index { 1.0 } else { 0.0 };
            (0..channels)
                .map(|channel| identity(channel) - 2.0 * normal[index] * normal[channel] / norm)
                .collect()
        };
        let directions: Vec<Vec<f64>> = (0..3).map(direction).collect();
        let tokens = (0..count)
            .flat_map(|_| {
                let weights = [8.0 * noise(), 4.0 * noise(), 2.0 * noise()];
                let value = |channel: usize| {
                    let parts = weights
                        .iter()
                        .zip(&directions)
                        .map(|(weight, direction)| weight * direction[channel]);
                    (100.0 + parts.sum::<f64>()) as f32
                };
                (0..channels).map(value).collect::<Vec<f32>>()
            })
            .collect();
        (tokens, directions)
    }

    fn analyse(channels: usize, images: &[&[f32]]) -> Pca {
        let mut builder = PcaBuilder::new(channels);
        for tokens in images {
            builder.add(tokens).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn known_directions_are_found_in_their_order_with_a_fixed_sign() {
        // More channels than one block of the covariance has.
        let channels = BLOCK + 5;
        let (tokens, directions) = known_tokens(channels, 3000);
        let pca = analyse(channels, &[&tokens]);
        for (found, direction) in pca.components.iter().zip(directions) {
            let overlap: f64 = found
                .iter()
                .zip(with_fixed_sign(direction))
                .map(|(a, b)| a * b)
                .sum();
            assert!(overlap > 0.999, "{overlap}");
        }
        // Variances 64 : 16 : 4.
        for (part, expected) in
            pca.explained()
                .into_iter()
                .zip([64.0 / 84.0, 16.0 / 84.0, 4.0 / 84.0])
        {
            assert!((part - expected).abs() < 0.02, "{part} against {expected}");
        }
    }

    #[test]
    fn images_in_parts_give_what_the_whole_gives() {
        let (tokens, _) = known_tokens(16, 64);
        let whole = analyse(16, &[&tokens]);
        let parts = analyse(16, &[&tokens[..16 * 10], &[], &tokens[16 * 10..]]);
        for (a, b) in whole
            .project(&tokens)
            .unwrap()
            .iter()
            .zip(parts.project(&tokens).unwrap())
        {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-5, "{a} against {b}");
            }
        }
    }

    #[test]
    fn projections_have_mean_zero_and_the_explained_variances() {
        let (tokens, _) = known_tokens(16, 500);
        let pca = analyse(16, &[&tokens]);
        let projected = pca.project(&tokens).unwrap();
        let mean_of = |power: i32| {
            projected
                .iter()
                .map(|token| f64::from(token[0]).powi(power))
                .sum::<f64>()
                / 500.0
        };
        assert!(mean_of(1).abs() < 1e-5);
        assert!((mean_of(2) - 64.0 / 3.0).abs() < 2.0, "{}", mean_of(2));
    }

    #[test]
    fn tokens_that_do_not_vary_or_have_few_channels_are_no_trouble() {
        let constant = analyse(4, &[&[2.0; 40]]);
        assert_eq!(constant.explained(), [0.0; 3]);
        assert_eq!(constant.project(&[2.0; 8]).unwrap(), [[0.0; 3]; 2]);
        let two = analyse(2, &[&[0.0, 0.0, 1.0, 0.0, 0.0, 3.0]]);
        assert!(two.project(&[5.0, 7.0]).unwrap()[0][2] == 0.0);
        let huge = analyse(3, &[&[f32::MAX, 0.0, f32::MIN, f32::MIN, 1.0, f32::MAX]]);
        assert!(huge.explained()[0] > 0.99);
    }

    #[test]
    fn tokens_that_are_none_are_refused() {
        let mut builder = PcaBuilder::new(3);
        assert!(matches!(builder.add(&[1.0; 4]), Err(Error::Usage(_))));
        assert!(matches!(
            builder.add(&[1.0, f32::NAN, 1.0]),
            Err(Error::NotFinite {
                count: 1,
                total: 3,
                ..
            })
        ));
        assert!(matches!(builder.finish(), Err(Error::Usage(_))));
        assert!(matches!(PcaBuilder::new(0).add(&[]), Err(Error::Usage(_))));
    }

    #[test]
    fn a_preview_shows_every_token_as_a_square() {
        let grid = |rows, columns, value: f32| TokenGrid {
            rows,
            columns,
            components: vec![[value; 3]; rows * columns],
        };
        let grids = [grid(2, 3, 0.0), grid(3, 2, 1.0), grid(1, 1, 0.5)];
        let image = draw_token_grids(&grids, 4).unwrap();
        // Two across and two down, cells of 3 x 3 tokens, a token between them.
        assert_eq!(image.dimensions(), (28, 28));
        assert_eq!(image.get_pixel(11, 7), &Rgb([0; 3]));
        assert_eq!(image.get_pixel(11, 8), &GAP_COLOR);
        assert_eq!(image.get_pixel(16, 11), &Rgb([255; 3]));
        assert_eq!(image.get_pixel(0, 16), &Rgb([128; 3]));
        assert_eq!(image.get_pixel(4, 16), &GAP_COLOR);
    }

    #[test]
    fn a_preview_of_many_images_uses_smaller_squares() {
        let grid = TokenGrid {
            rows: 30,
            columns: 40,
            components: vec![[0.0; 3]; 1200],
        };
        let image = draw_token_grids(&vec![grid; 400], 64).unwrap();
        let pixels = u64::from(image.width()) * u64::from(image.height());
        assert!(
            (LARGEST_PREVIEW_PIXELS / 2..=LARGEST_PREVIEW_PIXELS).contains(&pixels),
            "{pixels}"
        );
    }

    #[test]
    fn grids_whose_sizes_disagree_are_refused() {
        for grid in [
            TokenGrid {
                rows: 2,
                columns: 2,
                components: vec![[0.0; 3]; 3],
            },
            TokenGrid {
                rows: usize::MAX,
                columns: 0,
                components: Vec::new(),
            },
        ] {
            assert!(matches!(draw_token_grids(&[grid], 4), Err(Error::Usage(_))));
        }
        assert!(matches!(draw_token_grids(&[], 4), Err(Error::Usage(_))));
    }
}
