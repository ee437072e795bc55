//! A number for every pixel of many images, in memory or in a temporary file that is mapped into it.
//!
//! A mapped file is read and changed like memory, and the system writes out and drops what is not in
//! use. What a program [releases](Buffer::release) does not count as its memory until it is used again.

use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::{MmapOptions, MmapRaw};

use crate::error::{Error, Result};

/// From so many bytes on, buffers go to a file.
pub(crate) const MOST_IN_MEMORY: u64 = 1 << 30;
/// Where a buffer starts in a file, a multiple of it: more than any number is aligned to.
const ALIGNMENT: u64 = 64;

/// A list of fixed length, in memory or in a file. It is used as a slice.
pub struct Buffer<T: Pod>(Place<T>);

enum Place<T> {
    Memory(Vec<T>),
    /// `length` values from byte `start` of `map` on. [`Buffers::put`] alone makes these: the range
    /// lies within the mapping, is aligned for `T`, and no other buffer has any of it.
    File {
        map: Arc<MmapRaw>,
        start: usize,
        length: usize,
    },
}

impl<T: Pod> Buffer<T> {
    /// Lets go of the memory behind a buffer in a file, until it is used again.
    pub fn release(&self) {
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        if let Place::File { map, start, length } = &self.0 {
            // SAFETY: the mapping is a shared one of a file, for which DontNeed drops page table
            // entries, and later accesses see the same bytes; the range lies within it.
            #[allow(unsafe_code)]
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    *start,
                    length * size_of::<T>(),
                )
            };
        }
    }

    /// Whether it is in a file.
    pub fn is_in_file(&self) -> bool {
        matches!(self.0, Place::File { .. })
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Memory(values) => values,
            // SAFETY: by the invariant of `Place::File`; any bytes are a `Pod`, and `map` keeps
            // them mapped.
            #[allow(unsafe_code)]
            Place::File { map, start, length } => unsafe {
                std::slice::from_raw_parts(map.as_ptr().add(*start).cast(), *length)
            },
        }
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Place::Memory(values) => values,
            // SAFETY: as in `deref`; no other buffer has these values, and this one is borrowed
            // alone.
            #[allow(unsafe_code)]
            Place::File { map, start, length } => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().add(*start).cast(), *length)
            },
        }
    }
}

impl<T: Pod> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Place::Memory(values))
    }
}

impl<T: Pod> FromIterator<T> for Buffer<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl<T: Pod> Default for Buffer<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

/// In memory.
impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

impl<T: Pod + PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for Buffer<T> {}

impl<T: Pod + Hash> Hash for Buffer<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a, T: Pod> IntoIterator for &'a Buffer<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Pod> IntoIterator for &'a mut Buffer<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Where buffers are put.
pub struct Buffers(Option<Temporary>);

struct Temporary {
    file: File,
    map: Arc<MmapRaw>,
    /// Bytes that are taken.
    end: u64,
}

impl Buffers {
    /// In memory, or in a file if `bytes` of all buffers together are too many. The file is in the
    /// folder for temporary files.
    ///
    /// # Errors
    /// [`Error::Io`] if there can be no such file.
    pub fn for_bytes(bytes: u64) -> Result<Self> {
        // Where files that are mapped and written are not the same at once, there is only memory.
        if bytes <= MOST_IN_MEMORY || cfg!(not(unix)) {
            return Ok(Self(None));
        }
        Self::in_file(bytes + bytes / 64)
    }

    /// In a file that has room for so many bytes, with gaps between buffers.
    pub(crate) fn in_file(bytes: u64) -> Result<Self> {
        let file = || {
            let file = tempfile::tempfile()?;
            file.set_len(bytes)?;
            let map = Arc::new(MmapOptions::new().map_raw(&file)?);
            Ok(Temporary { file, map, end: 0 })
        };
        file()
            .map(|file| Self(Some(file)))
            .map_err(|error| Error::io(std::env::temp_dir(), error))
    }

    /// Puts values where the buffers are; in memory if a file has no room left.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub fn put<T: Pod>(&mut self, values: Buffer<T>) -> Result<Buffer<T>> {
        const { assert!(align_of::<T>() as u64 <= ALIGNMENT) };
        let Some(Temporary { file, map, end }) = &mut self.0 else {
            return Ok(values);
        };
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        let start = end.next_multiple_of(ALIGNMENT);
        if start + bytes.len() as u64 > map.len() as u64 || bytes.is_empty() {
            return Ok(values);
        }
        // By a call that can fail: a full disk behind a mapping ends the process.
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.write_all(bytes))
            .map_err(|error| Error::io(std::env::temp_dir(), error))?;
        *end = start + bytes.len() as u64;
        Ok(Buffer(Place::File {
            map: map.clone(),
            start: start as usize,
            length: values.len(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_in_a_file_keep_what_is_written_released_or_not() {
        let mut buffers = Buffers::in_file(4 * ALIGNMENT).unwrap();
        let mut depths = buffers
            .put(vec![1.0f32, 2.0, f32::NAN, 4.0, 5.0, 6.0, 7.0].into())
            .unwrap();
        let points = buffers
            .put(vec![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]].into())
            .unwrap();
        let colours = buffers.put(vec![1u8, 2, 3, 4, 5].into()).unwrap();
        assert!(depths.is_in_file() && points.is_in_file() && colours.is_in_file());
        depths[2] = 3.0;
        depths.iter_mut().for_each(|depth| *depth *= 2.0);
        depths.release();
        points.release();
        drop(buffers);
        assert_eq!(*depths, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
        assert_eq!(*points, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let copy = colours.clone();
        drop(colours);
        assert!(!copy.is_in_file());
        assert_eq!(*copy, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_full_file_goes_on_in_memory() {
        let mut buffers = Buffers::in_file(ALIGNMENT).unwrap();
        let inside = buffers.put(vec![1.0f32, 2.0].into()).unwrap();
        let beyond = buffers.put(vec![3.0f32; 100].into()).unwrap();
        assert!(inside.is_in_file() && !beyond.is_in_file());
        assert_eq!((*inside).last(), Some(&2.0));
        assert_eq!(*beyond, [3.0; 100]);
    }

    #[test]
    fn few_bytes_stay_in_memory() {
        let mut buffers = Buffers::for_bytes(4000).unwrap();
        assert!(!buffers.put(vec![0.0f32; 1000].into()).unwrap().is_in_file());
        assert!(!Buffer::from(vec![0u8; 3]).is_in_file());
        assert!(Buffer::<f32>::default().is_empty());
    }
}
