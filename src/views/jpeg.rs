//! JPEG, with damage reported.
//!
//! The `image` crate runs its JPEG decoder leniently: what is missing or broken comes out grey, and nothing is said.
//! Here the same decoder runs strictly, and the end marker must be there.

use std::io::{BufRead, Seek};

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::{ZByteReaderTrait, ZCursor};
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{Failure, Header};
use super::exif;

/// Reads the header up to the first scan.
pub(super) fn header(reader: impl BufRead + Seek) -> Result<Header, Failure> {
    Ok(open(reader)?.1)
}

/// Decodes to RGB, three bytes a pixel, as stored. `header` is what [`header`] found.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Vec<u8>, Failure> {
    if !reaches_end_marker(bytes) {
        return Err(Failure::Damaged("it ends too early".to_owned()));
    }
    let (mut decoder, found) = open(ZCursor::new(bytes))?;
    if found != *header {
        return Err(Failure::Damaged("it changed while it was read".to_owned()));
    }
    // Only now: a strict header would refuse the padding that some cameras write.
    decoder.set_options(decoder.options().set_strict_mode(true));
    decoder.decode().map_err(failure)
}

fn open<R: ZByteReaderTrait>(reader: R) -> Result<(JpegDecoder<R>, Header), Failure> {
    // The format's own bound: limits are checked by the caller, whose message knows both values.
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(reader, options);
    decoder.decode_headers().map_err(failure)?;
    let info = decoder.info().ok_or_else(|| Failure::Damaged("no header".to_owned()))?;
    let orientation = info.exif_data.as_deref().and_then(Orientation::from_exif_chunk);
    let header = Header {
        width: info.width.into(),
        height: info.height.into(),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
        focal_35mm: info.exif_data.as_deref().and_then(exif::focal_35mm),
        // A progressive file keeps 16-bit coefficients of all components; then RGB, and RGB turned upright.
        bytes_per_pixel: 2 * u64::from(info.components) + 3 + 3,
    };
    Ok((decoder, header))
}

/// Whether the first picture in `bytes` comes to its end-of-image marker.
fn reaches_end_marker(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    // In coded data FF is followed by 00 or a restart marker; everything else is a segment that says its length, so
    // a thumbnail's end marker, inside a segment, is jumped over.
    while let Some(at) = rest.iter().position(|&byte| byte == 0xFF) {
        rest = &rest[at + 1..];
        match rest {
            [0xD9, ..] => return true,
            [0xFF, ..] | [] => {}
            [0x00 | 0x01 | 0xD0..=0xD8, after @ ..] => rest = after,
            [_, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low])) + 1;
                let Some(after) = rest.get(length..) else { return false };
                rest = after;
            }
            _ => return false,
        }
    }
    false
}

fn failure(error: DecodeErrors) -> Failure {
    match error {
        DecodeErrors::Unsupported(scheme) => Failure::Unsupported(format!("{scheme:?}")),
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => Failure::Damaged("it ends too early".to_owned()),
        other => Failure::Damaged(other.to_string()),
    }
}
