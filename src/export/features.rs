//! Where encoder features go: one safetensors file, or a folder of NumPy arrays.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::npy::{npy_header, write_npy_as};
use super::tensors::{
    Location, Plan, SafetensorsWriter, TensorMetadata, TensorSpec, WrittenTensors,
};
use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::files::OutputFolder;
use crate::views::Crop;
use crate::views::names::distinct_names;

/// The file of a folder of arrays that says what is in it.
const INDEX: &str = "index.json";

/// Where feature tensors go.
#[derive(Debug)]
pub enum FeatureSink {
    /// One safetensors file.
    Safetensors(SafetensorsWriter<OutputFile>),
    /// A folder with one `.npy` per tensor and an `index.json` with names, files, shapes and
    /// metadata.
    NpyFolder(NpyFolder),
}

/// A folder of NumPy arrays being written; see [`FeatureSink::NpyFolder`].
#[derive(Debug)]
pub struct NpyFolder {
    folder: OutputFolder,
    plan: Plan,
    files: Vec<String>,
    metadata: TensorMetadata,
}

impl NpyFolder {
    /// Announces the tensors to be written to `folder`, each into a file of its name.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that are not unique.
    pub fn new(
        folder: OutputFolder,
        tensors: Vec<TensorSpec>,
        metadata: TensorMetadata,
    ) -> Result<Self> {
        let plan = Plan::new(tensors)?;
        let files: Vec<String> = plan
            .tensors
            .iter()
            .map(|tensor| format!("{}.npy", tensor.name))
            .collect();
        let files = distinct_names(files.iter().map(|file| file.as_str()));
        Ok(Self {
            folder,
            plan,
            files,
            metadata,
        })
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
        let Self {
            folder,
            plan,
            files,
            metadata,
        } = self;
        let entries: Vec<Entry<'_>> = plan
            .tensors
            .iter()
            .zip(&files)
            .map(|(tensor, file)| Entry {
                name: &tensor.name,
                file,
                shape: &tensor.shape,
            })
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
                let header = npy_header(tensor.element, &tensor.shape)
                    .map_err(|source| Error::io(&path, source))?;
                Ok((
                    tensor,
                    Location {
                        path,
                        offset: header.len() as u64,
                    },
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(WrittenTensors {
            tensors,
            in_place: false,
        })
    }
}

impl FeatureSink {
    /// A safetensors file where `path` has that extension, a folder of `.npy` files where it has
    /// none or is a folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for another extension or an unusable path, as [`OutputFile::create`] and
    /// [`SafetensorsWriter::new`].
    pub fn create(
        path: impl AsRef<Path>,
        tensors: Vec<TensorSpec>,
        metadata: TensorMetadata,
    ) -> Result<Self> {
        let path = path.as_ref();
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("safetensors") => {
                let file = OutputFile::create(path)?;
                return Ok(Self::Safetensors(SafetensorsWriter::new(
                    file, path, tensors, &metadata,
                )?));
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
        Ok(Self::NpyFolder(NpyFolder::new(
            OutputFolder::create(path)?,
            tensors,
            metadata,
        )?))
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

/// An image's name and framing as JSON, for a tensor file's metadata: what is needed to lead a
/// pixel or a token back to the file.
pub fn image_metadata(name: &str, crop: &Crop) -> String {
    json!({
        "name": name,
        "width": crop.width, "height": crop.height,
        "left": crop.left, "top": crop.top,
        "resized_width": crop.resized_width, "resized_height": crop.resized_height,
        "file_width": crop.file_width, "file_height": crop.file_height,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::npy::ElementType;
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

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn file_and_folder_read_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["features.safetensors", "features"] {
            let path = folder.path().join(name);
            let mut sink = FeatureSink::create(&path, specs(), TensorMetadata::new()).unwrap();
            sink.write("b", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
            sink.write("a", &[0.5, -1.0, 2.0]).unwrap();
            assert!(!path.exists());
            let written = sink.commit().unwrap();
            assert_eq!(written.specs().cloned().collect::<Vec<_>>(), specs());
            assert_eq!(
                written.read(0).unwrap(),
                [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                "{name}"
            );
            assert_eq!(written.read(1).unwrap(), [0.5, -1.0, 2.0], "{name}");
            assert_eq!(
                message(written.read(2)),
                "there is no tensor 2, 2 were written"
            );
        }
        assert!(
            message(FeatureSink::create("x.npz", specs(), TensorMetadata::new()))
                .contains("unknown extension .npz")
        );
    }

    #[test]
    fn a_folder_has_an_index_and_no_file_outside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features");
        let tensors = vec![TensorSpec::new("../a", &[1]), TensorSpec::new("A", &[1])];
        let metadata = TensorMetadata::from([("network".into(), "dune".into())]);
        let mut sink = FeatureSink::create(&path, tensors, metadata).unwrap();
        sink.write("../a", &[1.0]).unwrap();
        sink.write("A", &[2.0]).unwrap();
        sink.commit().unwrap();
        let index: Value =
            serde_json::from_slice(&std::fs::read(path.join(INDEX)).unwrap()).unwrap();
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
}
