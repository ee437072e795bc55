//! Pixels of strips and tiles, as RGB.

use std::io::{Read, Seek};

use super::super::header::{Decoded, Failure};
use super::super::jpeg;
use super::directory::File;
use super::page::{Alpha, Color, Compression, Page};
use super::{damaged, unsupported};

impl Page {
    /// Decodes; a level of 16 bits loses `shift` of them, 8 unless given.
    pub(super) fn decode<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        shift: Option<u32>,
    ) -> Result<Decoded, Failure> {
        let Self {
            width,
            height,
            samples,
            ..
        } = *self;
        if self.compression == Compression::Jpeg {
            return self.decode_jpeg(file);
        }
        if self.color == Color::YCbCr {
            return self.decode_chroma(file);
        }
        let (across, down) = (
            width.div_ceil(self.chunk_width),
            height.div_ceil(self.chunk_height),
        );
        let planes = if self.planar { samples } else { 1 };
        let in_chunk = samples / planes;
        let scale = if self.color == Color::Palette || self.bits > 8 {
            1
        } else {
            255 / ((1u32 << self.bits) - 1)
        };
        let mut levels = vec![0; width * height * samples];
        let mut peak = 0;
        for index in 0..planes * across * down {
            let (plane, x0, y0) = (
                index / (across * down),
                index % across * self.chunk_width,
                index / across % down * self.chunk_height,
            );
            // The last strip may be shorter, a tile is always whole.
            let is_strip = self.chunk_width == width && across == 1;
            let rows = if is_strip {
                self.chunk_height.min(height - y0)
            } else {
                self.chunk_height
            };
            let row_bytes = (self.chunk_width * in_chunk * self.bits).div_ceil(8);
            let mut chunk = self.chunk(file, index, row_bytes * rows)?;
            for (y, row) in chunk
                .chunks_exact_mut(row_bytes)
                .take(height - y0)
                .enumerate()
            {
                if self.predicted {
                    self.undo_prediction(row, in_chunk, file.big_endian);
                }
                for x in 0..self.chunk_width.min(width - x0) {
                    for sample in 0..in_chunk {
                        let at = x * in_chunk + sample;
                        let level = match self.bits {
                            8 => row[at],
                            16 => {
                                let bytes = [row[2 * at], row[2 * at + 1]];
                                let level = if file.big_endian {
                                    u16::from_be_bytes(bytes)
                                } else {
                                    u16::from_le_bytes(bytes)
                                };
                                peak = peak.max(level);
                                if self.color == Color::Palette {
                                    level as u8
                                } else {
                                    (level >> shift.unwrap_or(8)).min(255) as u8
                                }
                            }
                            bits => {
                                let bit = at * bits;
                                let level =
                                    row[bit / 8] >> (8 - bits - bit % 8) & ((1 << bits) - 1);
                                (u32::from(level) * scale) as u8
                            }
                        };
                        levels[((y0 + y) * width + x0 + x) * samples + plane * in_chunk + sample] =
                            level;
                    }
                }
            }
        }
        let unscaled = self.bits == 16 && self.color != Color::Palette && shift.is_none();
        self.colored(&levels, samples, unscaled.then_some(peak))
    }

    /// Levels of pixels, `samples` each, to RGB.
    fn colored(
        &self,
        levels: &[u8],
        samples: usize,
        peak: Option<u16>,
    ) -> Result<Decoded, Failure> {
        let channels = self.color.channels();
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for pixel in levels.chunks_exact(samples) {
            let color = match self.color {
                Color::Grey { white_is_zero } => {
                    [if white_is_zero {
                        255 - pixel[0]
                    } else {
                        pixel[0]
                    }; 3]
                }
                Color::Palette => {
                    let (at, count) = (usize::from(pixel[0]), self.colors.len() / 3);
                    [at, count + at, 2 * count + at]
                        .map(|at| self.colors.get(at).map_or(0, |level| (level >> 8) as u8))
                }
                Color::Cmyk => jpeg::from_inks(
                    [255 - pixel[0], 255 - pixel[1], 255 - pixel[2]],
                    255 - pixel[3],
                ),
                Color::Rgb | Color::YCbCr => [pixel[0], pixel[1], pixel[2]],
            };
            rgb.extend_from_slice(&match (self.alpha, self.color) {
                (Alpha::Associated, Color::Rgb) => {
                    color.map(|level| divided(level, pixel[channels]))
                }
                _ => color,
            });
        }
        let alpha = (self.alpha != Alpha::None)
            .then(|| levels.chunks_exact(samples).map(|p| p[channels]).collect());
        Ok(Decoded { rgb, alpha, peak })
    }

    /// JPEG streams, one a strip or tile, whose tables may be the file's.
    fn decode_jpeg<R: Read + Seek>(&self, file: &mut File<R>) -> Result<Decoded, Failure> {
        let Self { width, height, .. } = *self;
        let across = width.div_ceil(self.chunk_width);
        let mut rgb = vec![0; width * height * 3];
        for index in 0..across * height.div_ceil(self.chunk_height) {
            let stored = self.stored(file, index, None)?;
            // One stream: the tables without their end, the image without its start.
            let stream = match &self.jpeg_tables {
                Some(tables) => {
                    let tables = tables.strip_suffix(&[0xFF, 0xD9]).unwrap_or(tables);
                    [tables, stored.get(2..).unwrap_or_default()].concat()
                }
                None => stored,
            };
            let space = match self.color {
                Color::Grey { .. } | Color::Palette => jpeg::Space::Grey,
                Color::Rgb => jpeg::Space::Rgb,
                Color::YCbCr => jpeg::Space::YCbCr,
                Color::Cmyk => jpeg::Space::PlainCmyk,
            };
            let (chunk_width, chunk_height, chunk) =
                jpeg::decode_as(&stream, space, [self.chunk_width, self.chunk_height])?;
            let (x0, y0) = (
                index % across * self.chunk_width,
                index / across * self.chunk_height,
            );
            let (columns, rows) = (
                self.chunk_width.min(width - x0),
                self.chunk_height.min(height - y0),
            );
            if chunk_width < columns || chunk_height < rows {
                return Err(damaged("a strip or tile is too small"));
            }
            for y in 0..rows {
                let from = &chunk[y * chunk_width * 3..][..columns * 3];
                rgb[((y0 + y) * width + x0) * 3..][..columns * 3].copy_from_slice(from);
            }
        }
        match self.color {
            Color::Grey {
                white_is_zero: true,
            } => rgb.iter_mut().for_each(|level| *level = 255 - *level),
            Color::Palette => return Err(unsupported("JPEG compression of a palette")),
            _ => {}
        }
        Ok(Decoded {
            rgb,
            alpha: None,
            peak: None,
        })
    }

    /// Luma and chroma that are not compressed as JPEG: units of some samples of luma and one of
    /// each chroma.
    fn decode_chroma<R: Read + Seek>(&self, file: &mut File<R>) -> Result<Decoded, Failure> {
        let Self {
            width,
            height,
            subsampling: [h, v],
            ..
        } = *self;
        let across = width.div_ceil(self.chunk_width);
        let unit = h * v + 2;
        let mut rgb = vec![0; width * height * 3];
        for index in 0..across * height.div_ceil(self.chunk_height) {
            let (x0, y0) = (
                index % across * self.chunk_width,
                index / across * self.chunk_height,
            );
            let rows = if across == 1 {
                self.chunk_height.min(height - y0)
            } else {
                self.chunk_height
            };
            let units = [self.chunk_width.div_ceil(h), rows.div_ceil(v)];
            let chunk = self.chunk(file, index, units[0] * units[1] * unit)?;
            for y in 0..rows.min(height - y0) {
                for x in 0..self.chunk_width.min(width - x0) {
                    let of = &chunk[(y / v * units[0] + x / h) * unit..][..unit];
                    let color = jpeg::from_luma(of[y % v * h + x % h], of[h * v], of[h * v + 1]);
                    rgb[((y0 + y) * width + x0 + x) * 3..][..3].copy_from_slice(&color);
                }
            }
        }
        Ok(Decoded {
            rgb,
            alpha: None,
            peak: None,
        })
    }
}

/// A level without the alpha that it was multiplied by, as Pillow has it.
fn divided(level: u8, alpha: u8) -> u8 {
    match alpha {
        0 | 255 => level,
        _ => (255 * u32::from(level) / u32::from(alpha)).min(255) as u8,
    }
}
