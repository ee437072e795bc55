//! The directory of a zip archive, read where it lies. PyTorch stores its entries uncompressed, so
//! an entry is a range of the file. Every number in the archive is checked against the file before
//! it is used.

use std::collections::HashMap;
use std::ops::Range;

const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const LOCATOR_64_LENGTH: usize = 20;
const END_64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
const MAX_COMMENT: usize = 0xFFFF;
const STORED: u16 = 0;

/// A zip archive's entries.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
}

struct Entry {
    encrypted: bool,
    method: u16,
    size: u64,
    local_header: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive `bytes`.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let directory = directory(bytes)?;
        let mut entries = HashMap::new();
        let mut at = directory.start;
        while at < directory.end {
            let record = Record {
                bytes: &bytes[..directory.end],
                at,
            };
            if !record.starts_with(CENTRAL) {
                return Err(format!("the zip directory is damaged at byte {at}"));
            }
            let (name_length, extra_length) = (record.u16(28)? as usize, record.u16(30)? as usize);
            let name = record.slice(46, name_length)?;
            let mut entry = Entry {
                encrypted: record.u16(8)? & 1 != 0,
                method: record.u16(10)?,
                size: record.u32(24)?.into(),
                local_header: record.u32(42)?.into(),
            };
            let stored_size = record.u32(20)?;
            entry.widen(record.slice(46 + name_length, extra_length)?, stored_size)?;
            let name = std::str::from_utf8(name)
                .map_err(|_| "the zip directory holds a name that is not text")?;
            if entries.insert(name, entry).is_some() {
                return Err(format!("the zip archive holds two entries called {name}"));
            }
            at += 46 + name_length + extra_length + record.u16(32)? as usize;
        }
        Ok(Self { bytes, entries })
    }

    /// The entries' names, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where the entry called `name` lies in the file, or `None` if there is none.
    pub(super) fn range(&self, name: &str) -> Result<Option<Range<usize>>, String> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        if entry.encrypted {
            return Err(format!("the zip entry {name} is encrypted"));
        }
        if entry.method != STORED {
            return Err(format!(
                "the zip entry {name} is compressed (method {}), and weights are read in place; save the checkpoint \
                 again with torch.save, or repack the archive without compression",
                entry.method
            ));
        }
        let damaged =
            || format!("the zip entry {name} does not lie inside the file; download it again");
        let at = usize::try_from(entry.local_header).map_err(|_| damaged())?;
        let header = Record {
            bytes: self.bytes,
            at,
        };
        if !header.starts_with(LOCAL) {
            return Err(damaged());
        }
        let lengths = header.u16(26)? as usize + header.u16(28)? as usize;
        // A header found at `at` is inside the file, so these sums are far from overflow; the size
        // is not trusted.
        let start = at + 30 + lengths;
        let end = usize::try_from(entry.size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .ok_or_else(damaged)?;
        if end > self.bytes.len() {
            Err(damaged())
        } else {
            Ok(Some(start..end))
        }
    }

    /// The bytes of the entry called `name`.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        Ok(self.range(name)?.map(|range| &self.bytes[range]))
    }
}

impl Entry {
    /// Takes from the zip64 field of `extra` the numbers that did not fit 32 bits.
    fn widen(&mut self, extra: &[u8], stored_size: u32) -> Result<(), String> {
        let wide = |value: u64| value == u64::from(u32::MAX);
        let extra = Record {
            bytes: extra,
            at: 0,
        };
        let mut at = 0;
        while at + 4 <= extra.bytes.len() {
            let (tag, length) = (extra.u16(at)?, extra.u16(at + 2)? as usize);
            if tag == 1 {
                let field = Record {
                    bytes: extra.slice(at + 4, length)?,
                    at: 0,
                };
                let mut next = 0;
                let mut take = |needed: bool, value: &mut u64| -> Result<(), String> {
                    if needed {
                        *value = field.u64(next)?;
                        next += 8;
                    }
                    Ok(())
                };
                take(wide(self.size), &mut self.size)?;
                take(stored_size == u32::MAX, &mut 0)?;
                return take(wide(self.local_header), &mut self.local_header);
            }
            at += 4 + length;
        }
        Ok(())
    }
}

/// Finds the central directory by the record at the end of the file.
fn directory(bytes: &[u8]) -> Result<Range<usize>, String> {
    let earliest = bytes.len().saturating_sub(END_LENGTH + MAX_COMMENT);
    let Some(end) = bytes[earliest..]
        .windows(END.len())
        .rposition(|window| window == END)
        .map(|at| at + earliest)
    else {
        return Err(
            "it begins like a zip archive and its end is missing; the download is incomplete"
                .to_string(),
        );
    };
    let record = Record { bytes, at: end };
    let comment = record.u16(20)? as usize;
    if bytes.len() - end < END_LENGTH + comment {
        return Err("the zip archive's end is cut off; the download is incomplete".to_string());
    }
    let mut size = u64::from(record.u32(12)?);
    let mut start = u64::from(record.u32(16)?);
    if let Some(locator) = end
        .checked_sub(LOCATOR_64_LENGTH)
        .map(|at| Record { bytes, at })
        && locator.starts_with(LOCATOR_64)
    {
        let at = usize::try_from(locator.u64(8)?).unwrap_or(usize::MAX);
        let wide = Record { bytes, at };
        if !wide.starts_with(END_64) {
            return Err(
                "the zip archive's 64-bit directory is damaged; download it again".to_string(),
            );
        }
        size = wide.u64(40)?;
        start = wide.u64(48)?;
    }
    match (usize::try_from(start), usize::try_from(size)) {
        (Ok(start), Ok(size)) if start.checked_add(size).is_some_and(|stop| stop <= end) => {
            Ok(start..start + size)
        }
        _ => Err(
            "the zip directory does not lie inside the file; the download is incomplete or damaged"
                .to_string(),
        ),
    }
}

/// Little-endian numbers at fixed places of a record.
struct Record<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Record<'a> {
    fn starts_with(&self, signature: &[u8]) -> bool {
        self.slice(0, signature.len())
            .is_ok_and(|start| start == signature)
    }

    fn slice(&self, offset: usize, length: usize) -> Result<&'a [u8], String> {
        let start = self.at.checked_add(offset);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        range
            .and_then(|range| self.bytes.get(range))
            .ok_or_else(|| "the zip directory ends early".to_string())
    }

    fn number<const N: usize>(&self, offset: usize) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(offset, N)?);
        Ok(bytes)
    }

    fn u16(&self, offset: usize) -> Result<u16, String> {
        self.number(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Result<u32, String> {
        self.number(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, String> {
        self.number(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::zip;
    use super::*;

    fn refusal(bytes: &[u8], name: &str) -> String {
        let result = Archive::open(bytes).and_then(|archive| archive.range(name));
        result.map(|range| format!("{range:?}")).unwrap_err()
    }

    #[test]
    fn stored_entries_are_ranges_of_the_file() {
        let bytes = zip(&[("a/x", b"hello"), ("a/y", b"")]);
        let archive = Archive::open(&bytes).unwrap();
        assert_eq!(archive.bytes("a/x").unwrap(), Some(&b"hello"[..]));
        assert_eq!(archive.bytes("a/y").unwrap(), Some(&b""[..]));
        assert_eq!(archive.bytes("a/z").unwrap(), None);
        assert_eq!(archive.names().count(), 2);
    }

    #[test]
    fn numbers_that_do_not_fit_32_bits_come_from_the_zip64_field() {
        let mut entry = Entry {
            encrypted: false,
            method: 0,
            size: u32::MAX.into(),
            local_header: u32::MAX.into(),
        };
        let mut extra = vec![0x55, 0x54, 1, 0, 9, 1, 0, 24, 0];
        for value in [5_u64 << 32, 6 << 32, 7 << 32] {
            extra.extend(value.to_le_bytes());
        }
        entry.widen(&extra, u32::MAX).unwrap();
        assert_eq!((entry.size, entry.local_header), (5 << 32, 7 << 32));
        entry.widen(&extra, 9).unwrap();
        assert_eq!(
            (entry.size, entry.local_header),
            (5 << 32, 7 << 32),
            "numbers that fit are left alone"
        );
        entry.size = u32::MAX.into();
        assert!(entry.widen(&extra[..20], u32::MAX).is_err());
    }

    #[test]
    fn damaged_archives_are_refused() {
        let good = zip(&[("a", b"hello"), ("b", b"world")]);
        assert!(refusal(&good[..good.len() - 1], "a").contains("ends early"));
        assert!(refusal(&good[..good.len() - 30], "a").contains("incomplete"));
        let directory = good
            .windows(4)
            .position(|window| window == CENTRAL)
            .unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert!(refusal(&with(good.len() - 2, 1), "a").contains("cut off"));
        assert!(refusal(&with(directory + 10, 8), "a").contains("compressed"));
        assert!(refusal(&with(directory + 8, 1), "a").contains("encrypted"));
        assert!(refusal(&with(directory + 27, 0xFF), "a").contains("inside the file"));
        assert!(refusal(&with(directory + 44, 0x7F), "a").contains("inside the file"));
        assert!(refusal(&with(directory, 0), "a").contains("damaged"));
        assert!(refusal(&with(good.len() - 5, 0xFF), "a").contains("inside the file"));
        assert!(refusal(&zip(&[("a", b""), ("a", b"")]), "a").contains("two entries"));
    }
}
