//! What a PNG file says besides its pixels, before them or after them.

use std::io::{Read, Seek, SeekFrom};

use flate2::read::ZlibDecoder;

/// Most bytes of a chunk of metadata, compressed or not. Longer ones are passed over.
const MOST: u64 = 4 << 20;

/// The metadata that orientation and focal length are taken from.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) exif: Option<Vec<u8>>,
    pub(super) xmp: Option<Vec<u8>>,
}

/// Reads the metadata, as far as the file is whole.
pub(super) fn metadata(file: &mut (impl Read + Seek)) -> Metadata {
    let mut found = Metadata::default();
    let mut profile = None;
    // An error is the end of what can be read.
    let _ = chunks(file, |kind, body| match kind {
        b"eXIf" => found.exif = Some(body),
        b"tEXt" | b"zTXt" | b"iTXt" => match text(kind, &body) {
            Some((b"XML:com.adobe.xmp", text)) => found.xmp = Some(text),
            Some((b"Raw profile type exif", text)) => profile = unhex(&text),
            _ => {}
        },
        _ => {}
    });
    found.exif = found.exif.or(profile);
    found
}

/// How many bits of each sample are used, where the file says so.
pub(super) fn used_bits(bytes: &[u8]) -> Option<u8> {
    let mut used = None;
    let _ = chunks(&mut std::io::Cursor::new(bytes), |kind, body| {
        if kind == b"sBIT" {
            used = body.iter().copied().max();
        }
    });
    used
}

/// Walks over the chunks of metadata.
fn chunks(
    file: &mut (impl Read + Seek),
    mut take: impl FnMut(&[u8; 4], Vec<u8>),
) -> std::io::Result<()> {
    const CHECKSUM: i64 = 4;
    file.seek(SeekFrom::Start(8))?;
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        match &kind {
            b"IEND" => return Ok(()),
            b"eXIf" | b"tEXt" | b"zTXt" | b"iTXt" | b"sBIT" if u64::from(length) <= MOST => {
                let mut body = vec![0; length as usize];
                file.read_exact(&mut body)?;
                take(&kind, body);
                file.seek_relative(CHECKSUM)?;
            }
            _ => file.seek_relative(i64::from(length) + CHECKSUM)?,
        }
    }
}

/// The keyword and the text of a chunk.
fn text<'a>(kind: &[u8; 4], body: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, rest) = at_zero(body)?;
    let (compressed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.get(1..)?),
        _ => {
            let (&[compressed, _], rest) = rest.split_first_chunk()?;
            let (_language, rest) = at_zero(rest)?;
            let (_translated, rest) = at_zero(rest)?;
            (compressed != 0, rest)
        }
    };
    let mut inflated = Vec::new();
    match compressed {
        true => drop(
            ZlibDecoder::new(text)
                .take(MOST)
                .read_to_end(&mut inflated)
                .ok()?,
        ),
        false => inflated.extend_from_slice(text),
    }
    Some((keyword, inflated))
}

fn at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The bytes of a raw profile: an empty line, its name, its length, and then digits.
fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|byte| *byte == b'\n').skip(3).flatten();
    let digits = lines.filter(|byte| !byte.is_ascii_whitespace());
    let digits = digits
        .map(|byte| char::from(*byte).to_digit(16))
        .collect::<Option<Vec<u32>>>()?;
    Some(
        digits
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[high, low]| (high << 4 | low) as u8)
            .collect(),
    )
}
