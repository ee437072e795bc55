//! From the components' samples to RGB: chroma is interpolated and converted as libjpeg-turbo does
//! it by default, and CMYK as Pillow does it.

use super::frame::{Application, Coding, Component, Frame, SIDE};

/// Pixels that are converted together.
const CHUNK: usize = 512;

/// What the components are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Space {
    Grey,
    Rgb,
    YCbCr,
    /// Inks, of which 255 is none.
    Cmyk,
    /// Inks, of which 0 is none.
    PlainCmyk,
    Ycck,
}

impl Space {
    pub(super) fn components(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk | Self::PlainCmyk | Self::Ycck => 4,
        }
    }

    /// The color space of a frame, by libjpeg's rules.
    pub(super) fn of(frame: &Frame, application: &Application) -> Self {
        let ids = frame.components.iter().map(|component| component.id);
        match (frame.components.len(), application.adobe) {
            (1, _) => Self::Grey,
            (3, _) if frame.coding == Coding::Ls => Self::Rgb,
            (3, _) if application.jfif => Self::YCbCr,
            (3, Some(transform)) => match transform {
                0 => Self::Rgb,
                _ => Self::YCbCr,
            },
            (3, None) if ids.eq(*b"RGB") || frame.coding.of_samples() => Self::Rgb,
            (3, None) => Self::YCbCr,
            (_, Some(0) | None) => Self::Cmyk,
            (_, Some(_)) => Self::Ycck,
        }
    }
}

/// The last rows of a component's samples, filled up to whole blocks.
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    /// How many rows there are: row `y` is in the place of `y - rows`.
    rows: usize,
}

impl Plane {
    /// Room for `rows` rows, which is a multiple of a block's.
    pub(super) fn new(stride: usize, rows: usize) -> Self {
        Self {
            samples: vec![0; stride * rows],
            stride,
            rows,
        }
    }

    /// Puts a block's samples in their place.
    #[inline(always)]
    pub(super) fn place(&mut self, column: usize, row: usize, samples: &[[u8; SIDE]; SIDE]) {
        let at = SIDE * row % self.rows * self.stride + SIDE * column;
        let rows = self.samples[at..].chunks_mut(self.stride);
        for (samples, row) in samples.iter().zip(rows) {
            row[..SIDE].copy_from_slice(samples);
        }
    }

    /// The place of row `y`.
    pub(super) fn row_mut(&mut self, y: usize) -> &mut [u8] {
        &mut self.samples[y % self.rows * self.stride..][..self.stride]
    }

    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.samples[y % self.rows * self.stride..][..width]
    }
}

/// How a component becomes as large as the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enlarge {
    No,
    /// Three quarters of the nearer and one of the further sample, along x, y or both.
    Wide,
    High,
    Both,
    /// Each sample is repeated so often along x and y.
    Repeat(usize, usize),
}

impl Enlarge {
    fn of(component: &Component, frame: &Frame) -> Self {
        // Two samples or fewer are not interpolated along x, and those of lossless files not at
        // all.
        if frame.coding.of_samples() && (component.h, component.v) != (frame.h_max, frame.v_max) {
            return Self::Repeat(frame.h_max / component.h, frame.v_max / component.v);
        }
        match (
            frame.h_max / component.h,
            frame.v_max / component.v,
            component.width > 2,
        ) {
            (1, 1, _) => Self::No,
            (2, 1, true) => Self::Wide,
            (1, 2, _) => Self::High,
            (2, 2, true) => Self::Both,
            (h, v, _) => Self::Repeat(h, v),
        }
    }
}

/// Rows of planes to rows of RGB.
pub(super) struct Converter<'a> {
    frame: &'a Frame,
    space: Space,
    enlarge: Vec<Enlarge>,
    /// A row of each component as wide as the image, with room for what fills up its last samples.
    rows: Vec<Vec<u8>>,
    /// A row between the two passes of an interpolation, with one further sample at each end.
    sums: Vec<u16>,
}

impl<'a> Converter<'a> {
    pub(super) fn new(frame: &'a Frame, space: Space) -> Self {
        let width = frame.width + 4;
        Self {
            frame,
            space,
            enlarge: frame
                .components
                .iter()
                .map(|component| Enlarge::of(component, frame))
                .collect(),
            rows: vec![vec![0; width]; frame.components.len()],
            sums: vec![0; width + 2],
        }
    }

    pub(super) fn height(&self) -> usize {
        self.frame.height
    }

    /// Converts row `y`, whose samples and the next row's are there.
    #[inline(always)]
    pub(super) fn convert(&mut self, planes: &[Plane], y: usize, rgb: &mut [u8]) {
        let Self {
            frame,
            space,
            enlarge,
            rows,
            sums,
        } = self;
        for (((component, plane), enlarge), row) in frame
            .components
            .iter()
            .zip(planes)
            .zip(enlarge)
            .zip(&mut *rows)
        {
            enlarge_row(*enlarge, component, plane, y, sums, row);
        }
        let width = frame.width;
        let mut all: [&[u8]; 4] = [&[]; 4];
        for (((component, plane), row), of_component) in frame
            .components
            .iter()
            .zip(planes)
            .zip(&*rows)
            .zip(&mut all)
        {
            let whole = component.h == frame.h_max && component.v == frame.v_max;
            *of_component = if whole {
                plane.row(y, width)
            } else {
                &row[..width]
            };
        }
        let [first, second, third, black] = all;
        let rgb = &mut rgb.as_chunks_mut::<3>().0[..width];
        let parts = first.iter().zip(second).zip(third);
        match space {
            Space::Grey => {
                for (pixel, &level) in rgb.iter_mut().zip(first) {
                    *pixel = [level; 3];
                }
            }
            Space::Rgb => {
                for (pixel, ((&red, &green), &blue)) in rgb.iter_mut().zip(parts) {
                    *pixel = [red, green, blue];
                }
            }
            Space::YCbCr => {
                // In two steps, which suit vectors better: levels, and then their order.
                for (rgb, (luma, (cb, cr))) in rgb.chunks_mut(CHUNK).zip(
                    first
                        .chunks(CHUNK)
                        .zip(second.chunks(CHUNK).zip(third.chunks(CHUNK))),
                ) {
                    let (mut red, mut green, mut blue) = ([0; CHUNK], [0; CHUNK], [0; CHUNK]);
                    let levels = red.iter_mut().zip(&mut green).zip(&mut blue);
                    for (((red, green), blue), ((&luma, &cb), &cr)) in
                        levels.zip(luma.iter().zip(cb).zip(cr))
                    {
                        [*red, *green, *blue] = from_luma(luma, cb, cr);
                    }
                    for (pixel, ((&red, &green), &blue)) in
                        rgb.iter_mut().zip(red.iter().zip(&green).zip(&blue))
                    {
                        *pixel = [red, green, blue];
                    }
                }
            }
            Space::Cmyk => {
                for ((pixel, ((&cyan, &magenta), &yellow)), &black) in
                    rgb.iter_mut().zip(parts).zip(black)
                {
                    *pixel = from_inks([cyan, magenta, yellow], black);
                }
            }
            Space::PlainCmyk => {
                for ((pixel, ((&cyan, &magenta), &yellow)), &black) in
                    rgb.iter_mut().zip(parts).zip(black)
                {
                    *pixel = from_inks([255 - cyan, 255 - magenta, 255 - yellow], 255 - black);
                }
            }
            Space::Ycck => {
                for ((pixel, ((&luma, &cb), &cr)), &black) in rgb.iter_mut().zip(parts).zip(black) {
                    *pixel = from_inks(from_luma(luma, cb, cr).map(|level| 255 - level), black);
                }
            }
        }
    }
}

/// Luma and chroma to RGB, with factors of 16 fractional bits: 1.402, 0.34414 and 0.71414, and
/// 1.772. Their whole parts are taken out, since vectors of 16 bits are quicker than those of 32.
#[inline(always)]
pub(in super::super) fn from_luma(luma: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (luma, cb, cr) = (i16::from(luma), i16::from(cb) - 128, i16::from(cr) - 128);
    let rounded =
        |twice: i16, factor: i16| (((i32::from(twice) * i32::from(factor)) >> 16) as i16 + 1) >> 1;
    let green = (32_768 - 22_554 * i32::from(cb) + 18_734 * i32::from(cr)) >> 16;
    let red = luma + cr + rounded(2 * cr, 26_345);
    let green = luma - cr + green as i16;
    let blue = luma + 2 * cb + rounded(2 * cb, -14_942);
    // No loop: it would keep the caller's from being one of vectors.
    [
        red.clamp(0, 255) as u8,
        green.clamp(0, 255) as u8,
        blue.clamp(0, 255) as u8,
    ]
}

/// Inks to RGB. 255 is none of the ink, as in Adobe's files; Pillow takes those of every JPEG file
/// so.
#[inline(always)]
pub(in super::super) fn from_inks(inks: [u8; 3], black: u8) -> [u8; 3] {
    let light = u32::from(black);
    inks.map(|ink| {
        let product = u32::from(255 - ink) * light + 128;
        (light - ((product + (product >> 8)) >> 8)) as u8
    })
}

/// Makes row `y` of the image from a component that is smaller.
#[inline(always)]
fn enlarge_row(
    enlarge: Enlarge,
    component: &Component,
    plane: &Plane,
    y: usize,
    sums: &mut [u16],
    out: &mut [u8],
) {
    let row = |y: usize| plane.row(y, component.width);
    // The nearer of two rows, and the further one; beyond an edge the last row counts again.
    let pair = || {
        let near = y / 2;
        let far = if y.is_multiple_of(2) {
            near.saturating_sub(1)
        } else {
            (near + 1).min(component.height - 1)
        };
        row(near)
            .iter()
            .zip(row(far))
            .map(|(&near, &far)| 3 * u16::from(near) + u16::from(far))
    };
    match enlarge {
        Enlarge::No => {}
        Enlarge::High => {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for (out, sum) in out.iter_mut().zip(pair()) {
                *out = ((sum + bias) >> 2) as u8;
            }
        }
        Enlarge::Wide => {
            for (sum, &sample) in sums[1..].iter_mut().zip(row(y)) {
                *sum = sample.into();
            }
            widen::<2>(component.width, 1, sums, out);
        }
        Enlarge::Both => {
            for (sum, value) in sums[1..].iter_mut().zip(pair()) {
                *sum = value;
            }
            widen::<4>(component.width, 8, sums, out);
        }
        Enlarge::Repeat(h, v) => {
            for (out, sample) in out.chunks_mut(h).zip(row(y / v)) {
                out.fill(*sample);
            }
        }
    }
}

/// Interpolates `count` sums from `sums[1]` on along x. Left samples are rounded by `bias`, right
/// ones so that the two even out.
#[inline(always)]
fn widen<const SHIFT: u32>(count: usize, bias: u16, sums: &mut [u16], out: &mut [u8]) {
    sums[0] = sums[1];
    sums[count + 1] = sums[count];
    let other = (1 << SHIFT) / 2 - if SHIFT == 2 { 0 } else { 1 };
    let (left, center, right) = (&sums[..count], &sums[1..=count], &sums[2..count + 2]);
    let pairs = out.as_chunks_mut::<2>().0;
    for (((pair, &left), &center), &right) in pairs.iter_mut().zip(left).zip(center).zip(right) {
        let center = 3 * center;
        *pair = [
            ((center + left + bias) >> SHIFT) as u8,
            ((center + right + other) >> SHIFT) as u8,
        ];
    }
}

/// Puts a row of samples of `precision` bits into a plane, as 8 bits: the highest, or stretched to
/// them.
pub(super) fn put(plane: &mut Option<Plane>, y: usize, row: &[u16], precision: u32) {
    let Some(plane) = plane else { return };
    let out = plane.row_mut(y).iter_mut().zip(row);
    match precision.checked_sub(8) {
        Some(shift) => out.for_each(|(out, sample)| *out = (sample >> shift) as u8),
        None => {
            let highest = (1 << precision) - 1;
            out.for_each(|(out, &sample)| {
                *out = (u32::from(sample).min(highest) * 255 / highest) as u8
            });
        }
    }
}
