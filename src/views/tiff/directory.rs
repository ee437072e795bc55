//! The directories of a file, whose entries say what an image is and where it lies.

use std::io::{Read, Seek, SeekFrom};

use super::super::header::Failure;

/// A file whose directories can be read.
pub(super) struct File<R> {
    reader: R,
    pub(super) length: u64,
    pub(super) big_endian: bool,
    /// Offsets of 64 bits.
    big: bool,
}

/// One entry of a directory, with its values not read yet.
pub(super) struct Entry {
    pub(super) tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are.
    at: u64,
}

pub(super) type Directory = Vec<Entry>;

impl<R: Read + Seek> File<R> {
    /// Reads the file's start; gives the place of the first directory as well.
    pub(super) fn open(mut reader: R) -> Result<(Self, u64), Failure> {
        let length = reader.seek(SeekFrom::End(0)).map_err(Failure::reading)?;
        let mut file = Self {
            reader,
            length,
            big_endian: false,
            big: false,
        };
        file.big_endian = file.bytes(0, 2)? == b"MM";
        file.big = file.number(2, 2)? == 43;
        let first = if file.big {
            file.number(8, 8)?
        } else {
            file.number(4, 4)?
        };
        Ok((file, first))
    }

    pub(super) fn bytes(&mut self, at: u64, count: u64) -> Result<Vec<u8>, Failure> {
        if at.checked_add(count).is_none_or(|end| end > self.length) {
            return Err(Failure::EndsEarly);
        }
        let mut bytes = vec![0; count as usize];
        self.reader
            .seek(SeekFrom::Start(at))
            .map_err(Failure::reading)?;
        self.reader
            .read_exact(&mut bytes)
            .map_err(Failure::reading)?;
        Ok(bytes)
    }

    fn number(&mut self, at: u64, size: u64) -> Result<u64, Failure> {
        let bytes = self.bytes(at, size)?;
        Ok(self.value(&bytes))
    }

    fn value(&self, bytes: &[u8]) -> u64 {
        let add = |value, byte: &u8| value << 8 | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        }
    }

    /// The directory at a place, and the place of the next one, 0 if there is none.
    pub(super) fn directory(&mut self, at: u64) -> Result<(Directory, u64), Failure> {
        let (count_size, entry_size, offset_size) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, count_size)?;
        let start = at + count_size;
        let bytes = self.bytes(start, count.saturating_mul(entry_size))?;
        let entry = |(index, entry): (usize, &[u8])| {
            let (tag, kind) = (
                self.value(&entry[..2]) as u16,
                self.value(&entry[2..4]) as u16,
            );
            let count = self.value(&entry[4..4 + offset_size]);
            let room = &entry[4 + offset_size..];
            let fits = size_of(kind).saturating_mul(count) <= room.len() as u64;
            let inside = start + entry_size * index as u64 + 4 + offset_size as u64;
            Entry {
                tag,
                kind,
                count,
                at: if fits { inside } else { self.value(room) },
            }
        };
        let entries = bytes
            .chunks_exact(entry_size as usize)
            .enumerate()
            .map(entry)
            .collect();
        // Some writers leave the last one out.
        let next = self
            .number(start + bytes.len() as u64, offset_size as u64)
            .unwrap_or(0);
        Ok((entries, next))
    }

    /// The whole numbers of an entry, none if it is missing.
    pub(super) fn numbers(&mut self, directory: &Directory, tag: u16) -> Result<Vec<u64>, Failure> {
        let Some(entry) = directory.iter().find(|entry| entry.tag == tag) else {
            return Ok(Vec::new());
        };
        if !matches!(entry.kind, 1 | 3 | 4 | 6 | 8 | 9 | 13 | 16 | 18) {
            return Ok(Vec::new());
        }
        let size = size_of(entry.kind);
        let bytes = self.bytes(entry.at, entry.count.saturating_mul(size))?;
        Ok(bytes
            .chunks_exact(size as usize)
            .map(|bytes| self.value(bytes))
            .collect())
    }

    pub(super) fn first(
        &mut self,
        directory: &Directory,
        tag: u16,
    ) -> Result<Option<u64>, Failure> {
        Ok(self.numbers(directory, tag)?.first().copied())
    }

    pub(super) fn block(
        &mut self,
        directory: &Directory,
        tag: u16,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let Some(entry) = directory.iter().find(|entry| entry.tag == tag) else {
            return Ok(None);
        };
        self.bytes(entry.at, entry.count.saturating_mul(size_of(entry.kind)))
            .map(Some)
    }
}

/// Bytes of a value of a type.
fn size_of(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}
