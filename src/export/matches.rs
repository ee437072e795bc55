//! Matches as CSV, and as tensors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};

use safetensors::{Dtype, View};

use super::features::image_metadata;
use crate::error::{Error, Result};
use crate::matching::{Match, PairMatches, Pixel};
use crate::views::Crop;
use crate::views::names::distinct_names;

/// The columns: pixels of the images that the network saw, the confidence, and pixels of the
/// upright files.
///
/// The centre of the top left pixel is (0, 0) in both.
pub const MATCHES_HEADER: &str = "x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2";

/// The further columns of matches of many images: the two images' names, as in
/// [`CamerasFile`](super::CamerasFile).
pub const PAIR_MATCHES_HEADER: &str = "image1,image2";

/// An image that matches are of.
#[derive(Clone, Copy, Debug)]
pub struct MatchedImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where in its file the network saw it.
    pub crop: &'a Crop,
}

/// Writes one line per match below [`MATCHES_HEADER`]; `first` and `second` are the crops of the
/// two images.
///
/// # Errors
/// Only the writer's own.
pub fn write_matches(
    matches: &[Match],
    first: &Crop,
    second: &Crop,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{MATCHES_HEADER}")?;
    matches.iter().try_for_each(|pair| {
        write_match(pair, first, second, out)?;
        writeln!(out)
    })
}

/// Writes one line per match of each pair below [`MATCHES_HEADER`] and [`PAIR_MATCHES_HEADER`].
///
/// # Errors
/// The writer's own, and one of a pair of images that there are not.
pub fn write_pair_matches(
    pairs: &[PairMatches],
    images: &[MatchedImage<'_>],
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{MATCHES_HEADER},{PAIR_MATCHES_HEADER}")?;
    let names: Vec<String> = distinct_names(images.iter().map(|image| image.name))
        .iter()
        .map(|name| quoted(name).into_owned())
        .collect();
    for PairMatches { views, matches } in pairs {
        let [Some(first), Some(second)] = views.map(|view| images.get(view)) else {
            return Err(no_such(*views));
        };
        for pair in matches {
            write_match(pair, first.crop, second.crop, out)?;
            writeln!(out, ",{},{}", names[views[0]], names[views[1]])?;
        }
    }
    Ok(())
}

/// Writes the matches of all pairs as a safetensors file.
///
/// Of the pair of the images i and j, counted from 0, it has `{i}-{j}.first` and `{i}-{j}.second`
/// i32 (matches, 2) as x and y of the pixels that the network saw, `{i}-{j}.confidence` f32
/// (matches), and `{i}-{j}.first_file` and `{i}-{j}.second_file` f32 (matches, 2), the same pixels
/// in the upright files. The centre of the top left pixel is (0, 0) in both. The metadata `views`
/// has each image's name and how its file was framed, as JSON.
///
/// # Errors
/// [`Error::Usage`] for a pair of images that there are not, or one that is listed twice.
pub fn match_tensors(pairs: &[PairMatches], images: &[MatchedImage<'_>]) -> Result<Vec<u8>> {
    let mut tensors: Vec<(String, MatchTensor<'_>)> = Vec::new();
    for PairMatches {
        views: [first, second],
        matches,
    } in pairs
    {
        let [Some(one), Some(other)] = [first, second].map(|view| images.get(*view)) else {
            return Err(Error::Usage(no_such([*first, *second]).to_string()));
        };
        for (name, what) in [
            ("first", MatchColumn::Pixels(|found| found.first)),
            ("second", MatchColumn::Pixels(|found| found.second)),
            ("confidence", MatchColumn::Confidence),
            (
                "first_file",
                MatchColumn::FilePixels(|found| found.first, one.crop),
            ),
            (
                "second_file",
                MatchColumn::FilePixels(|found| found.second, other.crop),
            ),
        ] {
            tensors.push((
                format!("{first}-{second}.{name}"),
                MatchTensor::new(matches, what),
            ));
        }
    }
    let mut names: Vec<&String> = tensors.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
        return Err(Error::Usage(format!(
            "the tensor {} of matches is there twice",
            twice[0]
        )));
    }
    let views = distinct_names(images.iter().map(|image| image.name));
    let views: Vec<String> = views
        .iter()
        .zip(images)
        .map(|(name, image)| image_metadata(name, image.crop))
        .collect();
    // One entry, because several would come in no certain order.
    let metadata = HashMap::from([("views".to_string(), format!("[{}]", views.join(",")))]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| Error::Internal(format!("the matches cannot be stored: {error}")))
}

/// One tensor of a pair's matches, whose bytes are made when they are written.
struct MatchTensor<'a> {
    matches: &'a [Match],
    column: MatchColumn<'a>,
    shape: Vec<usize>,
}

enum MatchColumn<'a> {
    Pixels(fn(&Match) -> Pixel),
    FilePixels(fn(&Match) -> Pixel, &'a Crop),
    Confidence,
}

impl<'a> MatchTensor<'a> {
    fn new(matches: &'a [Match], column: MatchColumn<'a>) -> Self {
        let shape = match column {
            MatchColumn::Confidence => vec![matches.len()],
            _ => vec![matches.len(), 2],
        };
        Self {
            matches,
            column,
            shape,
        }
    }
}

impl View for MatchTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.column {
            MatchColumn::Pixels(_) => Dtype::I32,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for found in self.matches {
            match self.column {
                MatchColumn::Pixels(of) => {
                    let Pixel { x, y } = of(found);
                    bytes.extend([x, y].into_iter().flat_map(u32::to_le_bytes));
                }
                MatchColumn::FilePixels(of, crop) => {
                    let at = in_file(of(found), crop);
                    bytes.extend(
                        at.into_iter()
                            .flat_map(|value| (value as f32).to_le_bytes()),
                    );
                }
                MatchColumn::Confidence => bytes.extend(found.confidence.to_le_bytes()),
            }
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        // Every kind of number has four bytes.
        self.shape.iter().product::<usize>() * 4
    }
}

fn write_match(found: &Match, first: &Crop, second: &Crop, out: &mut dyn Write) -> io::Result<()> {
    let (a, b) = (found.first, found.second);
    let ([file_x1, file_y1], [file_x2, file_y2]) = (in_file(a, first), in_file(b, second));
    write!(
        out,
        "{},{},{},{},{},{file_x1:.3},{file_y1:.3},{file_x2:.3},{file_y2:.3}",
        a.x, a.y, b.x, b.y, found.confidence
    )
}

fn in_file(pixel: Pixel, crop: &Crop) -> [f64; 2] {
    crop.to_file([f64::from(pixel.x), f64::from(pixel.y)])
}

/// A field of CSV: in quotes if it would not be one otherwise.
fn quoted(field: &str) -> Cow<'_, str> {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")).into(),
        false => field.into(),
    }
}

fn no_such([first, second]: [usize; 2]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("matches of the images {first} and {second}, not both known"),
    )
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn crop() -> Crop {
        Crop {
            file_width: 8,
            file_height: 6,
            ..Crop::whole(4, 3)
        }
    }

    fn pairs() -> Vec<PairMatches> {
        let at = |x, y| Pixel { x, y };
        let found = Match {
            first: at(0, 1),
            second: at(3, 2),
            confidence: 1.5,
        };
        vec![
            PairMatches {
                views: [0, 2],
                matches: vec![found],
            },
            PairMatches {
                views: [1, 2],
                matches: Vec::new(),
            },
        ]
    }

    fn with_images<T>(check: impl FnOnce(&[MatchedImage<'_>]) -> T) -> T {
        let crop = crop();
        let names = ["x/a.png", "b, \"c\".png", "y/a.png"];
        check(&names.map(|name| MatchedImage { name, crop: &crop }))
    }

    #[test]
    fn lines_name_their_images() {
        let mut csv = Vec::new();
        with_images(|images| write_pair_matches(&pairs(), images, &mut csv)).unwrap();
        let lines = "x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2,image1,image2\n\
                     0,1,3,2,1.5,0.500,2.500,6.500,4.500,x/a.png,y/a.png\n";
        assert_eq!(String::from_utf8(csv).unwrap(), lines);
        assert_eq!(quoted("b, \"c\".png"), "\"b, \"\"c\"\".png\"");
    }

    #[test]
    fn another_implementation_reads_the_tensors() {
        let bytes = with_images(|images| match_tensors(&pairs(), images)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 10);
        let tensor = |name: &str| {
            let tensor = tensors.tensor(name).unwrap();
            (
                tensor.dtype(),
                tensor.shape().to_vec(),
                tensor.data().as_chunks::<4>().0.to_vec(),
            )
        };
        assert_eq!(
            tensor("0-2.first"),
            (
                Dtype::I32,
                vec![1, 2],
                [0, 1].map(i32::to_le_bytes).to_vec()
            )
        );
        assert_eq!(
            tensor("0-2.second"),
            (
                Dtype::I32,
                vec![1, 2],
                [3, 2].map(i32::to_le_bytes).to_vec()
            )
        );
        assert_eq!(
            tensor("0-2.confidence"),
            (Dtype::F32, vec![1], vec![1.5_f32.to_le_bytes()])
        );
        assert_eq!(
            tensor("0-2.second_file"),
            (
                Dtype::F32,
                vec![1, 2],
                [6.5_f32, 4.5].map(f32::to_le_bytes).to_vec()
            )
        );
        assert_eq!(tensor("1-2.first").1, [0, 2]);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let views: serde_json::Value =
            serde_json::from_str(&header.metadata().as_ref().unwrap()["views"]).unwrap();
        assert_eq!(
            (&views[2]["name"], &views[2]["resized_width"]),
            (&"y/a.png".into(), &4.into())
        );
    }

    #[test]
    fn pairs_that_cannot_be_are_refused() {
        let twice = [pairs(), pairs()].concat();
        let error = with_images(|images| match_tensors(&twice, images)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the tensor 0-2.confidence of matches is there twice"
        );
        let error = with_images(|images| match_tensors(&pairs(), &images[..2])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "matches of the images 0 and 2, not both known"
        );
        let error =
            with_images(|images| write_pair_matches(&pairs(), &images[..2], &mut Vec::new()));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
