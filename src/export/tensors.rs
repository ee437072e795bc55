//! Named tensors written one by one to a safetensors file.
//!
//! Names and shapes are given before the first tensor, so nothing is held back and memory does not
//! grow with their number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::npy::{ElementType, element_count};
use crate::error::{Error, Result};
use crate::files::OutputFile;

/// Readers refuse longer headers.
const LONGEST_HEADER: usize = 100_000_000;
/// The header's entry that is not a tensor.
const METADATA: &str = "__metadata__";

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, unique.
    pub name: String,
    /// Its extents, slowest first.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub element: ElementType,
}

/// Text that goes with the tensors.
pub type TensorMetadata = BTreeMap<String, String>;

/// Writes a safetensors file, the tensors in the order announced.
#[derive(Debug)]
pub struct SafetensorsWriter<W> {
    out: W,
    path: PathBuf,
    plan: Plan,
    data_start: u64,
}

/// Complete tensors on disk, which can be read back one by one.
#[derive(Clone, Debug)]
pub struct WrittenTensors {
    pub(super) tensors: Vec<(TensorSpec, Location)>,
    pub(super) in_place: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
}

/// The tensors announced and how many of them are written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tensors: Vec<TensorSpec>,
    pub(super) written: usize,
}

impl TensorSpec {
    /// A float32 tensor.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            element: ElementType::F32,
        }
    }

    fn count(&self) -> Result<usize> {
        let fits_memory = |count: &usize| count.checked_mul(self.element.bytes()).is_some();
        let count = element_count(&self.shape).filter(fits_memory);
        count.ok_or_else(|| {
            Error::Usage(format!(
                "{}: a tensor of shape {:?} is too large",
                self.name, self.shape
            ))
        })
    }
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header to `out`, which messages call `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that are not unique, a tensor that would start off its alignment
    /// (an f32 one after an odd number of f16) or a header that readers would refuse;
    /// [`Error::Io`].
    pub fn new(
        mut out: W,
        path: impl AsRef<Path>,
        tensors: Vec<TensorSpec>,
        metadata: &TensorMetadata,
    ) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let plan = Plan::new(tensors)?;
        let opening = opening(plan.entries()?.into_iter(), metadata)?;
        out.write_all(&opening).map_err(|e| Error::io(&path, e))?;
        Ok(Self {
            out,
            path,
            plan,
            data_start: opening.len() as u64,
        })
    }

    /// Writes the next tensor; `name` must be the one announced.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is another tensor's turn or the size is wrong; [`Error::Io`].
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let element = self.plan.next(name, values.len())?.element;
        element
            .write(values, &mut self.out)
            .map_err(|source| Error::io(&self.path, source))
    }

    /// Hands the writer back after the last tensor.
    ///
    /// # Errors
    /// [`Error::Usage`] if tensors are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<W> {
        self.plan.check_complete()?;
        self.out
            .flush()
            .map_err(|source| Error::io(&self.path, source))?;
        Ok(self.out)
    }
}

impl SafetensorsWriter<OutputFile> {
    /// Completes the file.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); the destination is then as it was.
    pub fn commit(self) -> Result<WrittenTensors> {
        let (path, mut offset) = (self.path.clone(), self.data_start);
        let announced = self.plan.tensors.clone();
        let tensors = announced
            .into_iter()
            .map(|tensor| {
                let location = Location {
                    path: path.clone(),
                    offset,
                };
                offset += (tensor.count()? * tensor.element.bytes()) as u64;
                Ok((tensor, location))
            })
            .collect::<Result<Vec<_>>>()?;
        let file = self.finish()?;
        let in_place = file.is_in_place();
        file.commit()?;
        Ok(WrittenTensors { tensors, in_place })
    }
}

impl WrittenTensors {
    /// The tensors, in the order written.
    pub fn specs(&self) -> impl ExactSizeIterator<Item = &TensorSpec> {
        self.tensors.iter().map(|(tensor, _)| tensor)
    }

    /// Reads the tensor at `index` of [`specs`](Self::specs) back, row major.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such tensor or it went into a pipe or device; [`Error::Io`].
    pub fn read(&self, index: usize) -> Result<Vec<f32>> {
        let Some((tensor, location)) = self.tensors.get(index) else {
            return Err(Error::Usage(format!(
                "there is no tensor {index}, {} were written",
                self.tensors.len()
            )));
        };
        let path = &location.path;
        if self.in_place {
            let path = path.display();
            return Err(Error::Usage(format!(
                "{path}: a pipe or device cannot be read back; write to a file"
            )));
        }
        let mut bytes = vec![0; tensor.count()? * tensor.element.bytes()];
        File::open(path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(location.offset))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|source| Error::io(path, source))?;
        Ok(tensor.element.parse(&bytes))
    }
}

impl Plan {
    pub(super) fn new(tensors: Vec<TensorSpec>) -> Result<Self> {
        let mut names = BTreeSet::from([METADATA]);
        for tensor in &tensors {
            if !names.insert(&tensor.name) {
                return Err(Error::Usage(format!(
                    "{}: the name is given to two tensors or reserved",
                    tensor.name
                )));
            }
            tensor.count()?;
        }
        Ok(Self {
            tensors,
            written: 0,
        })
    }

    /// The tensors as a header lists them.
    fn entries(&self) -> Result<Vec<Entry<'_>>> {
        let mut entries = Vec::with_capacity(self.tensors.len());
        let mut start = 0_u64;
        for tensor in &self.tensors {
            let size = tensor.element.bytes() as u64;
            if !start.is_multiple_of(size) {
                let message = "it would not start at a multiple of its element size; put f32 tensors before f16 ones";
                return Err(Error::Usage(format!("{}: {message}", tensor.name)));
            }
            let bytes = tensor.count()? as u64 * size;
            entries.push(Entry {
                name: &tensor.name,
                dtype: match tensor.element {
                    ElementType::F32 => "F32",
                    ElementType::F16 => "F16",
                },
                shape: &tensor.shape,
                bytes,
            });
            // What is too large together is refused by `opening`.
            start = start.saturating_add(bytes);
        }
        Ok(entries)
    }

    /// The tensor whose turn it is, counted as written.
    pub(super) fn next(&mut self, name: &str, values: usize) -> Result<&TensorSpec> {
        let Some(tensor) = self.tensors.get(self.written) else {
            return Err(Error::Usage(format!(
                "{name}: all {} tensors are written already",
                self.tensors.len()
            )));
        };
        if tensor.name != name {
            return Err(Error::Usage(format!(
                "{name}: it is the turn of {}",
                tensor.name
            )));
        }
        let wanted = tensor.count()?;
        if wanted != values {
            let shape = &tensor.shape;
            return Err(Error::Usage(format!(
                "{name}: {values} values for the shape {shape:?}, which has {wanted}"
            )));
        }
        self.written += 1;
        Ok(tensor)
    }

    pub(super) fn check_complete(&self) -> Result<()> {
        match self.tensors.get(self.written) {
            None => Ok(()),
            Some(missing) => {
                let (written, total) = (self.written, self.tensors.len());
                Err(Error::Usage(format!(
                    "{}: not written; {written} of {total} tensors are",
                    missing.name
                )))
            }
        }
    }
}

/// A tensor as a header lists it.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// In the format's words.
    pub(super) dtype: &'static str,
    pub(super) shape: &'a [usize],
    pub(super) bytes: u64,
}

/// A file up to its first tensor: the length of the header and the header, JSON padded with spaces
/// so that the tensors start at a multiple of eight.
pub(super) fn opening<'a>(
    tensors: impl ExactSizeIterator<Item = Entry<'a>>,
    metadata: &TensorMetadata,
) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert(METADATA.into(), json!(metadata));
    }
    let count = tensors.len();
    let mut start = 0_u64;
    for Entry {
        name,
        dtype,
        shape,
        bytes,
    } in tensors
    {
        let Some(end) = start.checked_add(bytes) else {
            return Err(Error::Usage(format!(
                "{name}: the tensors are too large together"
            )));
        };
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        entries.insert(name.into(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > LONGEST_HEADER {
        return Err(Error::Usage(format!(
            "{count} tensors need a header of {} bytes, readers accept {LONGEST_HEADER}; write fewer images to one file \
             or a folder of .npy files",
            header.len()
        )));
    }
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<TensorSpec> {
        vec![
            TensorSpec::new("b", &[2, 3]),
            TensorSpec {
                element: ElementType::F16,
                ..TensorSpec::new("a", &[3])
            },
        ]
    }

    fn writer() -> SafetensorsWriter<Vec<u8>> {
        let metadata = TensorMetadata::from([("image".into(), "a \"quoted\" name".into())]);
        SafetensorsWriter::new(Vec::new(), "out.safetensors", specs(), &metadata).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn another_implementation_reads_the_file() {
        let mut writer = writer();
        writer.write("b", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        writer.write("a", &[0.5, -1.0, 2.0]).unwrap();
        let bytes = writer.finish().unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let b = read.tensor("b").unwrap();
        assert_eq!(
            (b.dtype(), b.shape()),
            (safetensors::Dtype::F32, &[2, 3][..])
        );
        assert_eq!(
            b.data(),
            [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]
                .map(f32::to_le_bytes)
                .as_flattened()
        );
        let a = read.tensor("a").unwrap();
        assert_eq!((a.dtype(), a.shape()), (safetensors::Dtype::F16, &[3][..]));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(
            header.metadata().as_ref().unwrap()["image"],
            "a \"quoted\" name"
        );
    }

    #[test]
    fn tensors_out_of_turn_or_of_another_size_are_refused() {
        let mut writer = writer();
        assert_eq!(
            message(writer.write("a", &[0.0; 3])),
            "a: it is the turn of b"
        );
        assert_eq!(
            message(writer.write("b", &[0.0; 5])),
            "b: 5 values for the shape [2, 3], which has 6"
        );
        writer.write("b", &[0.0; 6]).unwrap();
        writer.write("a", &[0.0; 3]).unwrap();
        assert_eq!(
            message(writer.write("c", &[])),
            "c: all 2 tensors are written already"
        );
        let mut early = self::writer();
        early.write("b", &[0.0; 6]).unwrap();
        assert_eq!(
            message(early.finish()),
            "a: not written; 1 of 2 tensors are"
        );
    }

    #[test]
    fn names_and_sizes_are_checked_before_anything_is_written() {
        let create = |tensors| {
            message(SafetensorsWriter::new(
                Vec::new(),
                "x",
                tensors,
                &TensorMetadata::new(),
            ))
        };
        let spec = |name| TensorSpec::new(name, &[1]);
        assert_eq!(
            create(vec![spec("a"), spec("a")]),
            "a: the name is given to two tensors or reserved"
        );
        assert_eq!(
            create(vec![spec(METADATA)]),
            "__metadata__: the name is given to two tensors or reserved"
        );
        assert!(create(vec![TensorSpec::new("a", &[usize::MAX, 2])]).contains("too large"));
        let odd = TensorSpec {
            element: ElementType::F16,
            ..spec("odd")
        };
        assert!(
            create(vec![odd, spec("next")]).starts_with("next: it would not start at a multiple")
        );
    }

    #[test]
    fn a_failing_writer_is_an_error_with_the_path() {
        let (b, a) = ([0.0; 6], [0.0; 3]);
        let mut whole = writer();
        whole.write("b", &b).unwrap();
        whole.write("a", &a).unwrap();
        let mut space = vec![0; whole.finish().unwrap().len() - 1];
        let metadata = TensorMetadata::from([("image".into(), "a \"quoted\" name".into())]);
        let mut short =
            SafetensorsWriter::new(&mut space[..], "out.safetensors", specs(), &metadata).unwrap();
        short.write("b", &b).unwrap();
        let error = short.write("a", &a).unwrap_err();
        assert!(
            error.to_string().starts_with("out.safetensors: "),
            "{error}"
        );
        assert!(matches!(error, Error::Io { .. }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_went_into_a_device_cannot_be_read_back() {
        let file = OutputFile::create("/dev/null").unwrap();
        let writer =
            SafetensorsWriter::new(file, "/dev/null", Vec::new(), &TensorMetadata::new()).unwrap();
        let written = writer.commit().unwrap();
        assert_eq!(written.specs().len(), 0);
        let written = WrittenTensors {
            tensors: vec![(
                TensorSpec::new("a", &[1]),
                Location {
                    path: "/dev/null".into(),
                    offset: 0,
                },
            )],
            ..written
        };
        assert_eq!(
            message(written.read(0)),
            "/dev/null: a pipe or device cannot be read back; write to a file"
        );
    }
}
