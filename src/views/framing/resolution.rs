//! The size that images are brought to.

use std::fmt;
use std::str::FromStr;

use super::LONGEST_SIDE;
use crate::error::{Error, Result};

/// The size that images are brought to before a network sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Length of the longer side in pixels; the shorter one follows from the image, both cut down
    /// to whole patches. 224 is special where
    /// [`Framing::square_at_224`](super::Framing::square_at_224) says so.
    LongSide(u32),
    /// Exactly this size, whatever the image's: scaled until it is covered, then cut centrally.
    Exact {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

impl Resolution {
    /// The longer side in pixels.
    pub fn long_side(self) -> u32 {
        match self {
            Self::LongSide(side) => side,
            Self::Exact { width, height } => width.max(height),
        }
    }
}

impl FromStr for Resolution {
    type Err = Error;

    /// Reads `512` as a long side and `512x384` as an exact width and height.
    fn from_str(text: &str) -> Result<Self> {
        let side = |digits: &str| {
            digits
                .parse::<u32>()
                .ok()
                .filter(|side| (1..=LONGEST_SIDE).contains(side))
        };
        let resolution = match text.split_once(['x', 'X', '×']) {
            None => side(text).map(Self::LongSide),
            Some((width, height)) => side(width)
                .zip(side(height))
                .map(|(width, height)| Self::Exact { width, height }),
        };
        resolution.ok_or_else(|| {
            Error::Usage(format!(
                "size `{text}`: expected a long side such as 512, or WIDTHxHEIGHT such as 512x384, \
                 of 1 to {LONGEST_SIDE} pixels a side"
            ))
        })
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongSide(side) => write!(f, "{side}"),
            Self::Exact { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolutions_are_read_and_shown_alike() {
        for text in ["512", "224", "512x384", "16x16384"] {
            assert_eq!(text.parse::<Resolution>().unwrap().to_string(), text);
        }
        assert_eq!(
            "512X384".parse::<Resolution>().unwrap(),
            Resolution::Exact {
                width: 512,
                height: 384
            }
        );
        for text in [
            "",
            "x",
            "512x",
            "x384",
            "0",
            "512x0",
            "-512",
            "512 ",
            "512x384x3",
            "5e2",
            "16385",
            "99999999999",
        ] {
            let error = text.parse::<Resolution>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("size `{text}`: expected")),
                "{error}"
            );
        }
    }
}
