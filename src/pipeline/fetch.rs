//! What the network says, brought to the host: the place where tensors become numbers.

use std::borrow::Cow;

use candle_core::{DType, Tensor};
use custom_ops::{Download, Downloader};
use rayon::prelude::*;

use crate::geometry::PointMap;
use crate::matching::ViewMaps;
use crate::model::{PairPrediction, Prediction};
use crate::{Error, Result};

/// What is brought of a view; the rest of its [`ViewMaps`] stays empty.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Points and their confidences.
    Points,
    /// And the descriptors with their confidences, which are most of it.
    Descriptors,
}

/// What the network says of pairs, on its way to the host.
#[derive(Debug)]
pub(super) struct Arriving {
    download: Download,
    /// For each pair the first view and the second.
    views: Vec<Size>,
    wanted: Wanted,
}

/// Of a view's maps.
#[derive(Clone, Copy, Debug)]
struct Size {
    width: usize,
    height: usize,
    channels: usize,
    /// Whether it is the first of its pair, for messages.
    is_first: bool,
}

impl Arriving {
    /// Begins to bring pairs of views to the host; nobody waits, unless the device cannot work
    /// meanwhile.
    pub(super) fn begin(
        pairs: &[&PairPrediction],
        wanted: Wanted,
        downloader: &Downloader,
    ) -> Result<Self> {
        let (mut tensors, mut views) = (Vec::new(), Vec::new());
        for pair in pairs {
            for (view, is_first) in [(&pair.first, true), (&pair.second_in_first, false)] {
                let (_, height, width, channels) = view.descriptors.dims4()?;
                views.push(Size {
                    width,
                    height,
                    channels,
                    is_first,
                });
                for tensor in wanted.of(view) {
                    tensors.push(tensor.to_dtype(DType::F32)?);
                }
            }
        }
        let download = downloader.begin(&tensors.iter().collect::<Vec<_>>())?;
        Ok(Self {
            download,
            views,
            wanted,
        })
    }

    /// The two views of each pair.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if what was brought is not finite; errors of the device.
    pub(super) fn wait(mut self) -> Result<Vec<[ViewMaps; 2]>> {
        let mut parts = self.download.wait()?.into_iter();
        let of_views: Vec<(Size, Vec<Cow<'_, [f32]>>)> = self
            .views
            .iter()
            .map(|size| (*size, parts.by_ref().take(self.wanted.count()).collect()))
            .collect();
        let maps: Vec<ViewMaps> = of_views
            .into_par_iter()
            .map(|(size, parts)| size.maps(parts))
            .collect::<Result<_>>()?;
        let mut maps = maps.into_iter();
        Ok(std::iter::from_fn(|| Some([maps.next()?, maps.next()?])).collect())
    }
}

/// As many pairs as were to be brought.
pub(super) fn exactly<const N: usize>(arrived: Vec<[ViewMaps; 2]>) -> Result<[[ViewMaps; 2]; N]> {
    let miscounted = |arrived: Vec<_>| {
        Error::Internal(format!("{N} decodes were fetched, {} came", arrived.len()))
    };
    arrived.try_into().map_err(miscounted)
}

impl Wanted {
    /// Tensors of a view.
    fn count(self) -> usize {
        match self {
            Self::Points => 2,
            Self::Descriptors => 4,
        }
    }

    fn of(self, view: &Prediction) -> impl Iterator<Item = &Tensor> {
        [
            &view.points,
            &view.confidence,
            &view.descriptor_confidence,
            &view.descriptors,
        ]
        .into_iter()
        .take(self.count())
    }
}

impl Size {
    /// From the numbers of the tensors that were wanted.
    fn maps(&self, parts: Vec<Cow<'_, [f32]>>) -> Result<ViewMaps> {
        let whose = if self.is_first { "first" } else { "second" };
        let names = [
            "points",
            "confidences",
            "descriptor confidences",
            "descriptors",
        ];
        for (values, what) in parts.iter().zip(names) {
            let count = values.iter().filter(|value| !value.is_finite()).count();
            if count > 0 {
                return Err(Error::not_finite_map(what, whose, count, values.len()));
            }
        }
        let mut parts = parts.into_iter();
        let points = parts
            .next()
            .map_or_else(Vec::new, |values| values.as_chunks::<3>().0.to_vec());
        let mut next = || parts.next().map_or_else(Vec::new, Cow::into_owned);
        Ok(ViewMaps {
            points: PointMap {
                width: self.width,
                height: self.height,
                points: points.into(),
                confidence: next().into(),
            },
            channels: self.channels,
            descriptor_confidence: next(),
            descriptors: next(),
        })
    }
}
