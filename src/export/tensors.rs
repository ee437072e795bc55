//! Named tensors written one by one: a safetensors file, or a folder of NumPy arrays.
//!
//! Names and shapes are given before the first tensor, so nothing is held back and memory does not grow with their
//! number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::names::distinct_names;
use super::npy::{ElementType, element_count, npy_header, write_npy_as};
use super::output::{OutputFile, OutputFolder};
use crate::error::{Error, Result};
use crate::views::Crop;

/// Readers refuse longer headers.
const LONGEST_HEADER: usize = 100_000_000;
/// The header's entry that is no tensor.
const METADATA: &str = "__metadata__";
/// The file of a folder of arrays that says what is in it.
const INDEX: &str = "index.json";

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
pub type Metadata = BTreeMap<String, String>;

/// Writes a safetensors file, the tensors in the order announced.
#[derive(Debug)]
pub struct SafetensorsWriter<W> {
    out: W,
    path: PathBuf,
    plan: Plan,
    data_start: u64,
}

/// Where feature tensors go.
#[derive(Debug)]
pub enum FeatureSink {
    /// One safetensors file.
    Safetensors(SafetensorsWriter<OutputFile>),
    /// A folder with one `.npy` per tensor and an `index.json` with names, files, shapes and metadata.
    NpyFolder(NpyFolder),
}

/// A folder of NumPy arrays being written; see [`FeatureSink::NpyFolder`].
#[derive(Debug)]
pub struct NpyFolder {
    folder: OutputFolder,
    plan: Plan,
    files: Vec<String>,
    metadata: Metadata,
}

/// Complete tensors on disk, which can be read back one by one.
#[derive(Clone, Debug)]
pub struct WrittenTensors {
    tensors: Vec<(TensorSpec, Location)>,
    in_place: bool,
}

#[derive(Clone, Debug)]
struct Location {
    path: PathBuf,
    offset: u64,
}

/// The tensors announced and how many of them are written.
#[derive(Debug)]
struct Plan {
    tensors: Vec<TensorSpec>,
    written: usize,
}

impl TensorSpec {
    /// A float32 tensor.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), element: ElementType::F32 }
    }

    fn count(&self) -> Result<usize> {
        let bytes =
            element_count(&self.shape).and_then(|count| Some((count, count.checked_mul(self.element.bytes())?)));
        match bytes {
            Some((count, _)) => Ok(count),
            None => Err(Error::Usage(format!("{}: a tensor of shape {:?} is too large", self.name, self.shape))),
        }
    }
}

/// A picture's name and framing as JSON, for a tensor file's metadata: what is needed to lead a pixel or a token back
/// to the file.
pub fn picture_metadata(name: &str, crop: &Crop) -> String {
    json!({
        "name": name,
        "width": crop.width, "height": crop.height,
        "left": crop.left, "top": crop.top,
        "resized_width": crop.resized_width, "resized_height": crop.resized_height,
        "file_width": crop.file_width, "file_height": crop.file_height,
    })
    .to_string()
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header to `out`, which messages call `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that are not unique, a tensor that would start off its alignment (an f32 one after an
    /// odd number of f16) or a header that readers would refuse; [`Error::Io`].
    pub fn new(mut out: W, path: impl AsRef<Path>, tensors: Vec<TensorSpec>, metadata: &Metadata) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let plan = Plan::new(tensors)?;
        let header = header(&plan.tensors, metadata)?;
        let length = header.len() as u64;
        out.write_all(&length.to_le_bytes()).and_then(|()| out.write_all(&header)).map_err(|e| Error::io(&path, e))?;
        Ok(Self { out, path, plan, data_start: 8 + length })
    }

    /// Writes the next tensor; `name` must be the one announced.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is another tensor's turn or the size is wrong; [`Error::Io`].
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let element = self.plan.next(name, values.len())?.element;
        element.write(values, &mut self.out).map_err(|source| Error::io(&self.path, source))
    }

    /// Hands the writer back after the last tensor.
    ///
    /// # Errors
    /// [`Error::Usage`] if tensors are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<W> {
        self.plan.check_complete()?;
        self.out.flush().map_err(|source| Error::io(&self.path, source))?;
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
                let location = Location { path: path.clone(), offset };
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

impl NpyFolder {
    /// Announces the tensors to be written to `folder`, each into a file of its name.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that are not unique.
    pub fn new(folder: OutputFolder, tensors: Vec<TensorSpec>, metadata: Metadata) -> Result<Self> {
        let plan = Plan::new(tensors)?;
        let files: Vec<String> = plan.tensors.iter().map(|tensor| format!("{}.npy", tensor.name)).collect();
        let files = distinct_names(files.iter().map(|file| file.as_str()));
        Ok(Self { folder, plan, files, metadata })
    }

    /// Writes the next tensor; `name` must be the one announced.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is another tensor's turn or the size is wrong; [`Error::Io`].
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let index = self.plan.written;
        let tensor = self.plan.next(name, values.len())?;
        let file = self.folder.file(&self.files[index])?;
        file.write_with(|out| write_npy_as(tensor.element, &tensor.shape, values, out))
    }

    /// Writes the index and completes the folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if tensors are missing; [`Error::Io`].
    pub fn commit(self) -> Result<WrittenTensors> {
        #[derive(Serialize)]
        struct Entry<'a> {
            name: &'a str,
            file: &'a str,
            shape: &'a [usize],
        }

        self.plan.check_complete()?;
        let Self { folder, plan, files, metadata } = self;
        let entries: Vec<Entry<'_>> = plan
            .tensors
            .iter()
            .zip(&files)
            .map(|(tensor, file)| Entry { name: &tensor.name, file, shape: &tensor.shape })
            .collect();
        let index = json!({ "metadata": metadata, "tensors": entries });
        folder.file(INDEX)?.write_with(|out| {
            serde_json::to_writer_pretty(&mut *out, &index)?;
            out.write_all(b"\n")
        })?;
        let path = folder.path().to_path_buf();
        folder.commit()?;

        let tensors = plan
            .tensors
            .into_iter()
            .zip(files)
            .map(|(tensor, file)| {
                let path = path.join(file);
                let header = npy_header(tensor.element, &tensor.shape).map_err(|source| Error::io(&path, source))?;
                Ok((tensor, Location { path, offset: header.len() as u64 }))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(WrittenTensors { tensors, in_place: false })
    }
}

impl FeatureSink {
    /// A safetensors file where `path` has that extension, a folder of `.npy` files where it has none or is a folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for another extension or an unusable path, as [`OutputFile::create`] and
    /// [`SafetensorsWriter::new`].
    pub fn create(path: impl AsRef<Path>, tensors: Vec<TensorSpec>, metadata: Metadata) -> Result<Self> {
        let path = path.as_ref();
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("safetensors") => {
                let file = OutputFile::create(path)?;
                return Ok(Self::Safetensors(SafetensorsWriter::new(file, path, tensors, &metadata)?));
            }
            Some(extension) if !path.is_dir() => {
                return Err(Error::Usage(format!(
                    "{}: unknown extension .{}; features are written as .safetensors, or as .npy files into a folder, \
                     whose name has no extension",
                    path.display(),
                    extension.display()
                )));
            }
            _ => {}
        }
        Ok(Self::NpyFolder(NpyFolder::new(OutputFolder::create(path)?, tensors, metadata)?))
    }

    /// Writes the next tensor; `name` must be the one announced.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is another tensor's turn or the size is wrong; [`Error::Io`].
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        match self {
            Self::Safetensors(file) => file.write(name, values),
            Self::NpyFolder(folder) => folder.write(name, values),
        }
    }

    /// Completes the file or folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if tensors are missing; [`Error::Io`].
    pub fn commit(self) -> Result<WrittenTensors> {
        match self {
            Self::Safetensors(file) => file.commit(),
            Self::NpyFolder(folder) => folder.commit(),
        }
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
            return Err(Error::Usage(format!("there is no tensor {index}, {} were written", self.tensors.len())));
        };
        let path = &location.path;
        if self.in_place {
            let path = path.display();
            return Err(Error::Usage(format!("{path}: a pipe or device cannot be read back; write to a file")));
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
    fn new(tensors: Vec<TensorSpec>) -> Result<Self> {
        let mut names = BTreeSet::from([METADATA]);
        for tensor in &tensors {
            if !names.insert(&tensor.name) {
                return Err(Error::Usage(format!("{}: the name is given to two tensors or reserved", tensor.name)));
            }
            tensor.count()?;
        }
        Ok(Self { tensors, written: 0 })
    }

    /// The tensor whose turn it is, counted as written.
    fn next(&mut self, name: &str, values: usize) -> Result<&TensorSpec> {
        let Some(tensor) = self.tensors.get(self.written) else {
            return Err(Error::Usage(format!("{name}: all {} tensors are written already", self.tensors.len())));
        };
        if tensor.name != name {
            return Err(Error::Usage(format!("{name}: it is the turn of {}", tensor.name)));
        }
        let wanted = tensor.count()?;
        if wanted != values {
            let shape = &tensor.shape;
            return Err(Error::Usage(format!("{name}: {values} values for the shape {shape:?}, which has {wanted}")));
        }
        self.written += 1;
        Ok(tensor)
    }

    fn check_complete(&self) -> Result<()> {
        match self.tensors.get(self.written) {
            None => Ok(()),
            Some(missing) => {
                let (written, total) = (self.written, self.tensors.len());
                Err(Error::Usage(format!("{}: not written; {written} of {total} tensors are", missing.name)))
            }
        }
    }
}

/// The JSON header, padded with spaces so that the tensors start at a multiple of eight.
fn header(tensors: &[TensorSpec], metadata: &Metadata) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert(METADATA.into(), json!(metadata));
    }
    let mut start = 0_u64;
    for tensor in tensors {
        let bytes = tensor.element.bytes() as u64;
        if !start.is_multiple_of(bytes) {
            let message = "it would not start at a multiple of its element size; put f32 tensors before f16 ones";
            return Err(Error::Usage(format!("{}: {message}", tensor.name)));
        }
        let Some(end) = (tensor.count()? as u64).checked_mul(bytes).and_then(|bytes| start.checked_add(bytes)) else {
            return Err(Error::Usage(format!("{}: the tensors are too large together", tensor.name)));
        };
        let dtype = match tensor.element {
            ElementType::F32 => "F32",
            ElementType::F16 => "F16",
        };
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > LONGEST_HEADER {
        return Err(Error::Usage(format!(
            "{} tensors need a header of {} bytes, readers accept {LONGEST_HEADER}; write fewer pictures to one file \
             or a folder of .npy files",
            tensors.len(),
            header.len()
        )));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<TensorSpec> {
        vec![TensorSpec::new("b", &[2, 3]), TensorSpec { element: ElementType::F16, ..TensorSpec::new("a", &[3]) }]
    }

    fn writer() -> SafetensorsWriter<Vec<u8>> {
        let metadata = Metadata::from([("picture".into(), "a \"quoted\" name".into())]);
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
        assert_eq!((b.dtype(), b.shape()), (safetensors::Dtype::F32, &[2, 3][..]));
        assert_eq!(b.data(), [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_le_bytes).as_flattened());
        let a = read.tensor("a").unwrap();
        assert_eq!((a.dtype(), a.shape()), (safetensors::Dtype::F16, &[3][..]));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["picture"], "a \"quoted\" name");
    }

    #[test]
    fn tensors_out_of_turn_or_of_another_size_are_refused() {
        let mut writer = writer();
        assert_eq!(message(writer.write("a", &[0.0; 3])), "a: it is the turn of b");
        assert_eq!(message(writer.write("b", &[0.0; 5])), "b: 5 values for the shape [2, 3], which has 6");
        writer.write("b", &[0.0; 6]).unwrap();
        writer.write("a", &[0.0; 3]).unwrap();
        assert_eq!(message(writer.write("c", &[])), "c: all 2 tensors are written already");
        let mut early = self::writer();
        early.write("b", &[0.0; 6]).unwrap();
        assert_eq!(message(early.finish()), "a: not written; 1 of 2 tensors are");
    }

    #[test]
    fn names_and_sizes_are_checked_before_anything_is_written() {
        let create = |tensors| message(SafetensorsWriter::new(Vec::new(), "x", tensors, &Metadata::new()));
        let spec = |name| TensorSpec::new(name, &[1]);
        assert_eq!(create(vec![spec("a"), spec("a")]), "a: the name is given to two tensors or reserved");
        assert_eq!(create(vec![spec(METADATA)]), "__metadata__: the name is given to two tensors or reserved");
        assert!(create(vec![TensorSpec::new("a", &[usize::MAX, 2])]).contains("too large"));
        let odd = TensorSpec { element: ElementType::F16, ..spec("odd") };
        assert!(create(vec![odd, spec("next")]).starts_with("next: it would not start at a multiple"));
    }

    #[test]
    fn a_failing_writer_is_an_error_with_the_path() {
        let (b, a) = ([0.0; 6], [0.0; 3]);
        let mut whole = writer();
        whole.write("b", &b).unwrap();
        whole.write("a", &a).unwrap();
        let mut space = vec![0; whole.finish().unwrap().len() - 1];
        let metadata = Metadata::from([("picture".into(), "a \"quoted\" name".into())]);
        let mut short = SafetensorsWriter::new(&mut space[..], "out.safetensors", specs(), &metadata).unwrap();
        short.write("b", &b).unwrap();
        let error = short.write("a", &a).unwrap_err();
        assert!(error.to_string().starts_with("out.safetensors: "), "{error}");
        assert!(matches!(error, Error::Io { .. }));
    }

    #[test]
    fn file_and_folder_read_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["features.safetensors", "features"] {
            let path = folder.path().join(name);
            let mut sink = FeatureSink::create(&path, specs(), Metadata::new()).unwrap();
            sink.write("b", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
            sink.write("a", &[0.5, -1.0, 2.0]).unwrap();
            assert!(!path.exists());
            let written = sink.commit().unwrap();
            assert_eq!(written.specs().cloned().collect::<Vec<_>>(), specs());
            assert_eq!(written.read(0).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{name}");
            assert_eq!(written.read(1).unwrap(), [0.5, -1.0, 2.0], "{name}");
            assert_eq!(message(written.read(2)), "there is no tensor 2, 2 were written");
        }
        assert!(message(FeatureSink::create("x.npz", specs(), Metadata::new())).contains("unknown extension .npz"));
    }

    #[test]
    fn a_folder_has_an_index_and_no_file_outside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features");
        let tensors = vec![TensorSpec::new("../a", &[1]), TensorSpec::new("A", &[1])];
        let metadata = Metadata::from([("network".into(), "dune".into())]);
        let mut sink = FeatureSink::create(&path, tensors, metadata).unwrap();
        sink.write("../a", &[1.0]).unwrap();
        sink.write("A", &[2.0]).unwrap();
        sink.commit().unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(path.join(INDEX)).unwrap()).unwrap();
        let expected = json!({
            "metadata": { "network": "dune" },
            "tensors": [
                { "name": "../a", "file": "a.npy", "shape": [1] },
                { "name": "A", "file": "A-2.npy", "shape": [1] },
            ],
        });
        assert_eq!(index, expected);
        assert!(path.join("a.npy").is_file() && path.join("A-2.npy").is_file());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_went_into_a_device_cannot_be_read_back() {
        let file = OutputFile::create("/dev/null").unwrap();
        let writer = SafetensorsWriter::new(file, "/dev/null", Vec::new(), &Metadata::new()).unwrap();
        let written = writer.commit().unwrap();
        assert_eq!(written.specs().len(), 0);
        let written = WrittenTensors {
            tensors: vec![(TensorSpec::new("a", &[1]), Location { path: "/dev/null".into(), offset: 0 })],
            ..written
        };
        assert_eq!(message(written.read(0)), "/dev/null: a pipe or device cannot be read back; write to a file");
    }
}
