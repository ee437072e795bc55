//! What a WebP file claims, checked before the decoder takes memory for it.

use std::io::{Read, Seek, SeekFrom};

use super::header::Failure;

/// A chunk's name and length.
const CHUNK_HEADER: u64 = 8;
/// What stands before the chunks inside a frame of an animation.
const FRAME_HEADER: u64 = 16;

/// Chunks of a frame of an animation that the decoder looks at.
const FRAME_CHUNKS: usize = 2;

/// Checks that chunks lie inside the file and that no frame is larger than the image. The decoder
/// makes room for a chunk of up to 4 GiB before it reads it, and for a frame of up to 16383 x 16383
/// pixels before it compares the two.
pub(super) fn check(file: &mut (impl Read + Seek)) -> Result<(), Failure> {
    let end = file.seek(SeekFrom::End(0)).map_err(Failure::reading)?;
    // Behind `RIFF`, a length and `WEBP`.
    let mut at = 12;
    let mut image = None;
    while let Some(chunk) = Chunk::read(file, at, end)? {
        // An image that is not extended has one chunk, and what follows it is not read.
        if image.is_none() && chunk.kind != *b"VP8X" {
            return Ok(());
        }
        chunk.fits(&mut image)?;
        if chunk.kind == *b"ANMF" {
            let mut inside = at + CHUNK_HEADER + FRAME_HEADER;
            for _ in 0..FRAME_CHUNKS {
                let Some(part) = Chunk::read(file, inside, end)? else {
                    break;
                };
                part.fits(&mut image)?;
                inside = part.next;
            }
        }
        at = chunk.next;
    }
    Ok(())
}

struct Chunk {
    kind: [u8; 4],
    /// Where the next one begins.
    next: u64,
    /// What it begins with, or what is in its place if it is shorter: the decoder does not look at
    /// the length either.
    start: Vec<u8>,
}

impl Chunk {
    /// The chunk at a place, unless the file ends before.
    fn read(file: &mut (impl Read + Seek), at: u64, end: u64) -> Result<Option<Self>, Failure> {
        if at + CHUNK_HEADER > end {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at)).map_err(Failure::reading)?;
        let mut header = [0; CHUNK_HEADER as usize];
        file.read_exact(&mut header).map_err(Failure::reading)?;
        let [a, b, c, d, length @ ..] = header;
        let (kind, length) = ([a, b, c, d], u64::from(u32::from_le_bytes(length)));
        let known = matches!(
            &kind,
            b"VP8 " | b"VP8L" | b"VP8X" | b"ALPH" | b"ANIM" | b"ANMF" | b"ICCP" | b"EXIF" | b"XMP "
        );
        let at = at + CHUNK_HEADER;
        if known && at + length > end {
            return Err(Failure::EndsEarly);
        }
        let mut start = Vec::new();
        file.take(10)
            .read_to_end(&mut start)
            .map_err(Failure::reading)?;
        Ok(Some(Self {
            kind,
            next: at + length.next_multiple_of(2),
            start,
        }))
    }

    /// Sets the size of the image, or compares the chunk's with it.
    fn fits(&self, image: &mut Option<(u32, u32)>) -> Result<(), Failure> {
        match (*image, size(&self.kind, &self.start)) {
            (None, size) => *image = Some(size.ok_or(Failure::EndsEarly)?),
            (Some((width, height)), Some((x, y))) if x > width || y > height => {
                let reason = format!("a frame of {x}x{y} pixels in an image of {width}x{height}");
                return Err(Failure::Damaged(reason));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Width and height that a chunk of this kind states, if it does.
fn size(kind: &[u8; 4], start: &[u8]) -> Option<(u32, u32)> {
    match (kind, start) {
        // Behind flags, each less one.
        (b"VP8X", [_, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
            let side = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) + 1;
            Some((side([*w0, *w1, *w2]), side([*h0, *h1, *h2])))
        }
        // Behind a frame tag and a start code; two bits of each side are a scale.
        (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1]) => {
            let side = |bytes: [u8; 2]| u32::from(u16::from_le_bytes(bytes) & 0x3FFF);
            Some((side([*w0, *w1]), side([*h0, *h1])))
        }
        // Behind a signature, 14 bits a side, each less one.
        (b"VP8L", [_, bits @ ..]) => {
            let bits = u32::from_le_bytes(*bits.first_chunk()?);
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn chunk(kind: &[u8; 4], claimed: usize, content: &[u8]) -> Vec<u8> {
        [
            &kind[..],
            &(claimed as u32).to_le_bytes(),
            content,
            &[0][..content.len() % 2],
        ]
        .concat()
    }

    /// A lossless frame of 16 x 8 pixels, as far as it is looked at.
    fn frame() -> Vec<u8> {
        [&[0x2F][..], &(15u32 | 7 << 14).to_le_bytes()].concat()
    }

    fn refusal(chunks: &[Vec<u8>]) -> Option<String> {
        let content = [&b"WEBP"[..], &chunks.concat()].concat();
        let file = [
            &b"RIFF"[..],
            &(content.len() as u32).to_le_bytes(),
            &content,
        ]
        .concat();
        match check(&mut Cursor::new(file)) {
            Err(Failure::Damaged(reason)) => Some(reason),
            Err(Failure::EndsEarly) => Some("it ends too early".to_owned()),
            Err(_) => panic!("another failure"),
            Ok(()) => None,
        }
    }

    #[test]
    fn whole_files_pass_whatever_follows_them() {
        let (plain, unknown) = (chunk(b"VP8L", 5, &frame()), chunk(b"abcd", 1 << 30, b""));
        let canvas = chunk(b"VP8X", 10, &[8, 0, 0, 0, 15, 0, 0, 7, 0, 0]);
        let animated = chunk(
            b"ANMF",
            16 + 14,
            &[&[0; 16][..], &chunk(b"VP8L", 5, &frame())].concat(),
        );
        assert_eq!(
            refusal(&[plain.clone(), chunk(b"EXIF", 1 << 30, b"")]),
            None
        );
        assert_eq!(
            refusal(&[canvas.clone(), plain, chunk(b"EXIF", 4, b"II*\0"), unknown]),
            None
        );
        assert_eq!(refusal(&[canvas, animated]), None);
    }

    #[test]
    fn refuses_chunks_beyond_the_file_before_memory_is_taken() {
        let canvas = chunk(b"VP8X", 10, &[8, 0, 0, 0, 15, 0, 0, 7, 0, 0]);
        for kind in [b"EXIF", b"XMP ", b"ICCP", b"ALPH", b"VP8L"] {
            let lying = [canvas.clone(), chunk(kind, 0x3E22_0018, &frame())];
            assert_eq!(
                refusal(&lying).as_deref(),
                Some("it ends too early"),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn looks_where_the_decoder_looks() {
        let large = [0x2F, 0xFF, 0xFF, 0xFF, 0x0F];
        let frame = |height| format!("a frame of 16384x16384 pixels in an image of 16x{height}");
        // A header that claims to be empty; its size stands behind it all the same, and is the next
        // chunk's header too.
        let size = [0, 0, 0, 0, 15, 0, 0, 0, 0, 0];
        let hidden = [
            chunk(b"VP8X", 0, &[]),
            [&size[..], &[0; 14]].concat(),
            chunk(b"VP8L", 5, &large),
        ];
        assert_eq!(refusal(&hidden), Some(frame(1)));
        // Behind a frame whose own chunks lead elsewhere.
        let canvas = chunk(b"VP8X", 10, &[2, 0, 0, 0, 15, 0, 0, 7, 0, 0]);
        let astray = chunk(
            b"ANMF",
            16 + 8,
            &[&[0; 16][..], b"abcd", &[0xFF, 0xFF, 0xFF, 0x0F]].concat(),
        );
        let lying = chunk(b"EXIF", 0x3E22_0018, &[]);
        assert_eq!(
            refusal(&[canvas.clone(), astray.clone(), lying]).as_deref(),
            Some("it ends too early")
        );
        assert_eq!(
            refusal(&[canvas, astray, chunk(b"VP8L", 5, &large)]),
            Some(frame(8))
        );
    }

    #[test]
    fn refuses_frames_larger_than_the_image_before_memory_is_taken() {
        let canvas = chunk(b"VP8X", 10, &[8, 0, 0, 0, 15, 0, 0, 7, 0, 0]);
        let lossy = chunk(
            b"VP8 ",
            10,
            &[0, 0, 0, 0x9D, 1, 0x2A, 0xFF, 0x3F, 0xFF, 0xBF],
        );
        let lossless = chunk(b"VP8L", 5, &[0x2F, 0xFF, 0xFF, 0xFF, 0x0F]);
        let inside = chunk(b"ANMF", 16 + 18, &[&[0; 16][..], &lossy].concat());
        let expected = |side: u32| format!("a frame of {side}x{side} pixels in an image of 16x8");
        assert_eq!(refusal(&[canvas.clone(), lossy]), Some(expected(16383)));
        assert_eq!(refusal(&[canvas.clone(), lossless]), Some(expected(16384)));
        assert_eq!(refusal(&[canvas, inside]), Some(expected(16383)));
    }
}
