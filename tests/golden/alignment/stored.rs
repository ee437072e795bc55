//! Predictions read from a folder, changed and written to another.

use super::*;

/// A folder of predictions, to be changed.
pub(super) struct Stored {
    pub(super) images: Vec<Value>,
    pub(super) pairs: Vec<[usize; 2]>,
    pub(super) views: Tensors,
    pub(super) predictions: Tensors,
}

pub(super) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

impl Stored {
    pub(super) fn open(folder: &Path) -> Self {
        let json = json(folder);
        let tensors = |name: &str| -> Tensors {
            let bytes = read(&folder.join(name));
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let owned = |tensor: TensorView<'_>| {
                (
                    tensor.dtype(),
                    tensor.shape().to_vec(),
                    tensor.data().to_vec(),
                )
            };
            tensors
                .iter()
                .map(|(name, tensor)| (name.to_string(), owned(tensor)))
                .collect()
        };
        Self {
            images: json["images"].as_array().unwrap().clone(),
            pairs: serde_json::from_value(json["pairs"].clone()).unwrap(),
            views: tensors("views.safetensors"),
            predictions: tensors("pairs.safetensors"),
        }
    }

    pub(super) fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &Tensors| {
            let views = tensors.iter().map(|(name, (dtype, shape, data))| {
                (
                    name.clone(),
                    TensorView::new(*dtype, shape.clone(), data).unwrap(),
                )
            });
            fs::write(
                folder.path().join(name),
                safetensors::serialize(views, None).unwrap(),
            )
            .unwrap();
        };
        write("views.safetensors", &self.views);
        write("pairs.safetensors", &self.predictions);
        let scene = json!({ "images": self.images, "pairs": self.pairs });
        fs::write(folder.path().join("scene.json"), scene.to_string()).unwrap();
        folder
    }

    pub(super) fn aligned(&self) -> Alignment {
        aligned(self.write().path())
    }

    /// The same images and pairs under other numbers: view i becomes `number(i)`.
    pub(super) fn renumbered(&self, number: impl Fn(usize) -> usize) -> Self {
        let mut images = self.images.clone();
        self.images
            .iter()
            .enumerate()
            .for_each(|(view, image)| images[number(view)] = image.clone());
        let pairs = self.pairs.iter().map(|pair| {
            let mut pair = pair.map(&number);
            pair.sort_unstable();
            pair
        });
        let view = |text: &str| number(text.parse().unwrap()).to_string();
        let views = self.views.iter().map(|(name, tensor)| {
            let (index, rest) = name.split_once('.').unwrap();
            (format!("{}.{rest}", view(index)), tensor.clone())
        });
        let predictions = self.predictions.iter().map(|(name, tensor)| {
            let (pair, rest) = name.split_once('.').unwrap();
            let (a, b) = pair.split_once('-').unwrap();
            (format!("{}-{}.{rest}", view(a), view(b)), tensor.clone())
        });
        Self {
            images,
            pairs: pairs.collect(),
            views: views.collect(),
            predictions: predictions.collect(),
        }
    }

    /// Keeps the pairs that `keep` says.
    pub(super) fn with_pairs(mut self, keep: impl Fn([usize; 2]) -> bool) -> Self {
        self.pairs.retain(|pair| keep(*pair));
        self
    }

    /// Copies every tensor of `from` whose name starts with `prefix`, which becomes `new_prefix`.
    pub(super) fn copy(&mut self, from: &Tensors, prefix: &str, new_prefix: &str) {
        let renamed = from.iter().filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?;
            Some((format!("{new_prefix}{rest}"), tensor.clone()))
        });
        let renamed: Vec<_> = renamed.collect();
        assert!(!renamed.is_empty(), "{prefix}");
        for (name, tensor) in renamed {
            if new_prefix.contains('-') {
                &mut self.predictions
            } else {
                &mut self.views
            }
            .insert(name, tensor);
        }
    }
}
