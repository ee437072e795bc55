//! Strips and tiles: their bytes, decompressed.

use std::convert::Infallible;
use std::io::{Read, Seek};

use fax::decoder::{DecodeStatus, Group4Decoder, pels};
use flate2::read::ZlibDecoder;
use weezl::{BitOrder, decode::Decoder};

use super::super::header::Failure;
use super::directory::File;
use super::page::{Compression, Page};
use super::{damaged, unsupported};

impl Page {
    /// The bytes of a strip or tile, decompressed.
    pub(super) fn chunk<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        index: usize,
        size: usize,
    ) -> Result<Vec<u8>, Failure> {
        let stored = self.stored(file, index, Some(size))?;
        let mut chunk = Vec::with_capacity(size);
        match self.compression {
            Compression::None | Compression::Jpeg => chunk = stored,
            Compression::Lzw => {
                // Files of the first years have their bits the other way round.
                let is_old = matches!(stored[..], [0, second, ..] if second & 1 == 1);
                let mut decoder = match is_old {
                    true => Decoder::new(BitOrder::Lsb, 8),
                    false => Decoder::with_tiff_size_switch(BitOrder::Msb, 8),
                };
                chunk.resize(size, 0);
                let mut done = 0;
                let mut rest = &stored[..];
                while done < size {
                    let result = decoder.decode_bytes(rest, &mut chunk[done..]);
                    rest = &rest[result.consumed_in..];
                    done += result.consumed_out;
                    match result.status {
                        Ok(weezl::LzwStatus::Ok)
                            if result.consumed_in + result.consumed_out > 0 => {}
                        Ok(_) => break,
                        Err(error) => return Err(damaged(&format!("LZW: {error}"))),
                    }
                }
                chunk.truncate(done);
            }
            Compression::Deflate => {
                let inflated = ZlibDecoder::new(&stored[..])
                    .take(size as u64)
                    .read_to_end(&mut chunk);
                inflated.map_err(|error| damaged(&format!("Deflate: {error}")))?;
            }
            Compression::Fax => {
                let width = u16::try_from(self.chunk_width)
                    .map_err(|_| unsupported("fax compression this wide"))?;
                let row_bytes = self.chunk_width.div_ceil(8);
                let mut decoder =
                    Group4Decoder::new(stored.iter().map(|byte| Ok::<_, Infallible>(*byte)), width)
                        .map_err(|_| damaged("fax compression"))?;
                while chunk.len() < size
                    && matches!(decoder.advance(), Ok(DecodeStatus::Incomplete))
                {
                    let start = chunk.len();
                    chunk.resize(start + row_bytes, 0);
                    for (x, color) in pels(decoder.transition(), width)
                        .take(self.chunk_width)
                        .enumerate()
                    {
                        chunk[start + x / 8] |= u8::from(color == fax::Color::Black) << (7 - x % 8);
                    }
                }
            }
            Compression::PackBits => {
                let mut rest = &stored[..];
                while let (true, Some((&count, after))) = (chunk.len() < size, rest.split_first()) {
                    rest = after;
                    match count {
                        0..=127 => {
                            let end = (usize::from(count) + 1).min(rest.len());
                            chunk.extend_from_slice(&rest[..end]);
                            rest = &rest[end..];
                        }
                        128 => {}
                        129.. => {
                            let Some((&byte, after)) = rest.split_first() else {
                                break;
                            };
                            chunk.resize(chunk.len() + 257 - usize::from(count), byte);
                            rest = after;
                        }
                    }
                }
            }
        }
        if chunk.len() < size {
            return Err(Failure::EndsEarly);
        }
        chunk.truncate(size);
        Ok(chunk)
    }

    /// The bytes of a strip or tile as stored; `size` is what they take at least if they are not
    /// compressed.
    pub(super) fn stored<R: Read + Seek>(
        &self,
        file: &mut File<R>,
        index: usize,
        size: Option<usize>,
    ) -> Result<Vec<u8>, Failure> {
        let &at = self
            .offsets
            .get(index)
            .ok_or_else(|| damaged("a strip or tile is missing"))?;
        let left = file.length.saturating_sub(at);
        let size = size
            .filter(|_| self.compression == Compression::None)
            .map(|size| size as u64);
        // Lengths are left out, or wrong, in some files that are not compressed.
        let length = size.or(self.lengths.get(index).copied()).unwrap_or(left);
        let mut bytes = file.bytes(at, length)?;
        if self.reversed_bits {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.reverse_bits());
        }
        Ok(bytes)
    }

    pub(super) fn undo_prediction(&self, row: &mut [u8], samples: usize, big_endian: bool) {
        if self.bits == 8 {
            for at in samples..row.len() {
                row[at] = row[at].wrapping_add(row[at - samples]);
            }
            return;
        }
        let (values, _) = row.as_chunks_mut::<2>();
        let read = |bytes| {
            if big_endian {
                u16::from_be_bytes(bytes)
            } else {
                u16::from_le_bytes(bytes)
            }
        };
        for at in samples..values.len() {
            let value = read(values[at]).wrapping_add(read(values[at - samples]));
            values[at] = if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            };
        }
    }
}
