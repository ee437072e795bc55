//! A checkpoint written by `torch.save`: a zip archive whose `data.pkl` describes tensors and whose
//! `data/<key>` entries are the storages they view.

use super::literal::{Literal, Settings};
use super::pickle::{Id, Node, Pickle};
use super::source::{Contents, Format, Recorded, Stored, TORCH, count};
use super::zip::Archive;

/// PyTorch's own bound is 64; weights have at most 4.
const MAX_AXES: usize = 8;

/// Reads the checkpoint `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let archive = Archive::open(bytes)?;
    let names = archive
        .names()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let mut folders = names
        .filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .collect::<Vec<_>>();
    folders.sort_by_key(|folder| (folder.matches('/').count(), *folder));
    let Some(folder) = folders.first() else {
        return Err(
            "is a zip archive without a data.pkl, so it was not written by torch.save".to_string(),
        );
    };
    let entry = |name: &str| archive.bytes(&format!("{folder}{name}"));
    if entry("constants.pkl")?.is_some() {
        return Err(
            "is a TorchScript archive; save the network's state_dict with torch.save instead"
                .to_string(),
        );
    }
    let big_endian = match entry("byteorder")?.map(<[u8]>::trim_ascii) {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => return Err("its entry `byteorder` is neither little nor big".to_string()),
    };
    let pickle = Pickle::read(entry("data.pkl")?.unwrap_or_default())?;
    let checkpoint = Checkpoint {
        archive: &archive,
        folder,
        pickle: &pickle,
        big_endian,
    };
    checkpoint.contents()
}

/// An open checkpoint.
struct Checkpoint<'a> {
    archive: &'a Archive<'a>,
    folder: &'a str,
    pickle: &'a Pickle<'a>,
    big_endian: bool,
}

impl Checkpoint<'_> {
    fn contents(&self) -> Result<Contents, String> {
        let root = self.pickle.root();
        let Some(entries) = self.items(root) else {
            return Err(format!(
                "holds {}, not a dict of tensors; save the network's state_dict with torch.save instead",
                self.pickle.kind(root)
            ));
        };
        let entry = |name: &str| {
            entries
                .iter()
                .rfind(|(key, _)| *key == name)
                .map(|&(_, value)| value)
        };
        let model = match entry("model").and_then(|model| self.items(model)) {
            Some(model) => model,
            None if entries.iter().any(|&(_, value)| self.is_tensor(value)) => entries.clone(),
            None => {
                let names: Vec<_> = entries.iter().take(8).map(|(name, _)| *name).collect();
                return Err(format!(
                    "holds no tensors under `model`; it has {}",
                    names.join(", ")
                ));
            }
        };
        let tensors = model
            .into_iter()
            .map(|(name, value)| (name.to_string(), self.tensor(value)))
            .collect();

        let args = entry("args")
            .and_then(|args| self.items(args))
            .unwrap_or_default();
        let argument = |name: &str| {
            args.iter()
                .rfind(|(key, _)| *key == name)
                .map(|&(_, value)| value)
        };
        let text = |id: Option<Id>| id.and_then(|id| self.pickle.text(id)).map(str::to_string);
        let encoder = argument("enc_args").and_then(|options| self.items(options));
        let encoder = encoder.map(|options| {
            let values = options
                .into_iter()
                .map(|(name, value)| (name.to_string(), self.literal(value)));
            Settings {
                origin: "the encoder's recorded options",
                values: values.collect(),
            }
        });
        let recorded = Recorded {
            constructor: text(entry("mast3r_model_str").or(argument("model"))),
            config: None,
            encoder,
            encoder_name: text(entry("dune_backbone_name")),
        };
        Ok(Contents {
            container: TORCH,
            permuted: false,
            tensors,
            recorded,
        })
    }

    /// The entries with text keys of a dict, an `OrderedDict` or a `Namespace`.
    fn items(&self, id: Id) -> Option<Vec<(&str, Id)>> {
        let named = |items: &[(Id, Id)]| -> Vec<_> {
            items
                .iter()
                .filter_map(|&(key, value)| Some((self.pickle.text(key)?, value)))
                .collect()
        };
        if let Node::Dict(items) = self.pickle.node(id) {
            return Some(named(items));
        }
        let (object, module, name) = self.pickle.object(id)?;
        match (module, name) {
            ("collections", "OrderedDict") => {
                // Python 2 writes the entries as one argument, a list of pairs.
                let argument = self.pickle.sequence(object.arguments)?.first();
                let pairs = argument
                    .and_then(|&list| self.pickle.sequence(list))
                    .unwrap_or_default();
                let pairs = pairs
                    .iter()
                    .filter_map(|&pair| match *self.pickle.sequence(pair)? {
                        [key, value] => Some((key, value)),
                        _ => None,
                    });
                Some(named(
                    &pairs
                        .chain(object.items.iter().copied())
                        .collect::<Vec<_>>(),
                ))
            }
            ("argparse", "Namespace") => match self.pickle.node(object.state?) {
                Node::Dict(items) => Some(named(items)),
                _ => None,
            },
            _ => None,
        }
    }

    fn literal(&self, id: Id) -> Literal {
        match self.pickle.node(id) {
            Node::None => Literal::None,
            Node::Bool(value) => Literal::Bool(*value),
            Node::Int(value) => Literal::Int(*value),
            Node::Float(value) => Literal::Float(*value),
            Node::Text(text) => Literal::Text((*text).to_string()),
            _ => Literal::Other(self.pickle.kind(id)),
        }
    }

    fn is_tensor(&self, id: Id) -> bool {
        let object = self.pickle.object(id);
        object.is_some_and(|(_, module, name)| {
            module == "torch._utils" && name.starts_with("_rebuild_")
        })
    }

    /// Where the tensor at `id` lies in the file.
    fn tensor(&self, id: Id) -> Result<Stored, String> {
        let pickle = self.pickle;
        let unreadable = || {
            format!(
                "is {}, which is not a tensor that can be read",
                pickle.kind(id)
            )
        };
        let (object, module, name) = pickle.object(id).ok_or_else(unreadable)?;
        let arguments = pickle.sequence(object.arguments).unwrap_or_default();
        match (module, name, arguments) {
            // A parameter wraps a tensor, and never another parameter.
            (
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
                &[data, ..],
            ) if pickle
                .object(data)
                .is_some_and(|(.., name)| name == "_rebuild_tensor_v2") =>
            {
                self.tensor(data)
            }
            ("torch._utils", "_rebuild_tensor_v2", &[storage, offset, shape, strides, ..]) => {
                let storage = self.storage(storage)?;
                let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
                storage.view(self.size(offset)?, shape, strides)
            }
            _ => Err(unreadable()),
        }
    }

    /// The storage that a persistent id `('storage', class, key, device, count)` names. The device
    /// is the one the file was saved from and means nothing here.
    fn storage(&self, id: Id) -> Result<Storage, String> {
        let damaged = || "has a damaged reference to its numbers".to_string();
        let Node::Persistent(reference) = self.pickle.node(id) else {
            return Err(damaged());
        };
        let &[tag, class, key, _device, count] =
            self.pickle.sequence(*reference).ok_or_else(damaged)?
        else {
            return Err(damaged());
        };
        let (Some("storage"), Some(key)) = (self.pickle.text(tag), self.pickle.text(key)) else {
            return Err(damaged());
        };
        let format = match self.pickle.global(class) {
            Some(("torch", "FloatStorage")) => Format::F32,
            Some(("torch", "HalfStorage")) => Format::F16,
            Some(("torch", "BFloat16Storage")) => Format::Bf16,
            Some(("torch", "DoubleStorage")) => Format::F64,
            Some((_, name)) => {
                return Err(format!(
                    "is stored as {name}, and float32, float16, bfloat16 and float64 are read"
                ));
            }
            None => return Err(damaged()),
        };
        let Some(range) = self.archive.range(&format!("{}data/{key}", self.folder))? else {
            return Err(format!(
                "has its numbers in data/{key}, which the archive lacks"
            ));
        };
        let count = self.size(count)?;
        if count
            .checked_mul(format.size())
            .is_none_or(|bytes| bytes > range.len())
        {
            return Err(format!(
                "has {count} numbers in data/{key}, which holds {} bytes",
                range.len()
            ));
        }
        Ok(Storage {
            format,
            big_endian: self.big_endian,
            start: range.start,
            count,
        })
    }

    fn size(&self, id: Id) -> Result<usize, String> {
        match self.pickle.node(id) {
            Node::Int(value) => {
                usize::try_from(*value).map_err(|_| format!("has the size or offset {value}"))
            }
            _ => Err(format!("has {} for a size", self.pickle.kind(id))),
        }
    }

    /// A tuple of sizes, plain or as `torch.Size`.
    fn sizes(&self, id: Id) -> Result<Vec<usize>, String> {
        let plain = match self.pickle.object(id) {
            Some((object, "torch", "Size")) => self
                .pickle
                .sequence(object.arguments)
                .and_then(|arguments| arguments.first().copied()),
            _ => Some(id),
        };
        match plain.and_then(|plain| self.pickle.sequence(plain)) {
            Some(sizes) if sizes.len() <= MAX_AXES => {
                sizes.iter().map(|&size| self.size(size)).collect()
            }
            Some(sizes) => Err(format!("has {} axes", sizes.len())),
            None => Err(format!("has {} for its shape", self.pickle.kind(id))),
        }
    }
}

/// A run of numbers in the file, checked to lie inside it.
struct Storage {
    format: Format,
    big_endian: bool,
    start: usize,
    count: usize,
}

impl Storage {
    /// The tensor that begins `offset` numbers into the storage.
    fn view(self, offset: usize, shape: Vec<usize>, strides: Vec<usize>) -> Result<Stored, String> {
        let outside = || {
            format!(
                "views {shape:?} with strides {strides:?} from {offset}, beyond the {} numbers of its storage",
                self.count
            )
        };
        if shape.len() != strides.len() {
            return Err(outside());
        }
        // An expanded tensor repeats its numbers, so a small file could ask for any amount of
        // memory.
        let elements = count(&shape)
            .filter(|&elements| elements <= self.count)
            .ok_or_else(outside)?;
        if elements > 0 {
            let axes = shape.iter().zip(&strides);
            let last = axes.into_iter().try_fold(offset, |last, (&size, &stride)| {
                last.checked_add((size - 1).checked_mul(stride)?)
            });
            last.filter(|&last| last < self.count).ok_or_else(outside)?;
        }
        let start = if elements > 0 {
            self.start + offset * self.format.size()
        } else {
            self.start
        };
        Ok(Stored {
            format: self.format,
            big_endian: self.big_endian,
            shape,
            strides,
            start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::{self, zip};
    use super::*;

    /// A checkpoint `{'model': {'w': <tensor>}}` over one storage of 24 bytes.
    fn checkpoint(tensor: impl Fn(forge::Pickle) -> forge::Pickle) -> Vec<u8> {
        let pickle = forge::Pickle::new()
            .raw(b"}")
            .text("model")
            .raw(b"}")
            .text("w");
        zip(&[
            ("x/data.pkl", &tensor(pickle).raw(b"ss").end()),
            ("x/data/0", &[1; 24]),
            ("x/byteorder", b"little"),
        ])
    }

    fn tensor(bytes: &[u8]) -> Result<Stored, String> {
        read(bytes).unwrap().tensors.remove(0).1
    }

    fn view(offset: usize, shape: &[usize], strides: &[usize]) -> Result<Stored, String> {
        tensor(&checkpoint(|pickle| {
            pickle.tensor("0", "FloatStorage", 6, (offset, shape, strides))
        }))
    }

    #[test]
    fn tensors_are_views_of_storages() {
        let stored = view(1, &[2, 2], &[1, 2]).unwrap();
        assert_eq!(
            (stored.format, stored.shape, stored.strides),
            (Format::F32, vec![2, 2], vec![1, 2])
        );
        assert_eq!(view(0, &[0, 3], &[3, 1]).unwrap().count(), 0);
        assert_eq!(view(5, &[], &[]).unwrap().span().len(), 4);
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        for (offset, shape, strides) in [
            (0, &[7][..], &[1][..]),
            (1, &[6], &[1]),
            (0, &[2, 2], &[5, 1]),
            (0, &[3], &[0x7FFF_FFFF]),
            (0, &[1000, 1000], &[0, 0]),
            (0, &[0x7FFF_FFFF, 0x7FFF_FFFF, 0x7FFF_FFFF], &[1, 1, 1]),
            (7, &[1], &[1]),
            (0, &[2, 3], &[1]),
        ] {
            let message = view(offset, shape, strides).unwrap_err();
            assert!(message.contains("beyond the 6 numbers"), "{message}");
        }
        let big = checkpoint(|pickle| pickle.tensor("0", "FloatStorage", 7, (0, &[6], &[1])));
        assert!(
            tensor(&big)
                .unwrap_err()
                .contains("7 numbers in data/0, which holds 24 bytes")
        );
        let negative =
            checkpoint(|pickle| pickle.tensor("0", "FloatStorage", 6, (usize::MAX, &[1], &[1])));
        assert!(tensor(&negative).unwrap_err().contains("offset -1"));
        assert!(view(0, &[1; 9], &[1; 9]).unwrap_err().contains("9 axes"));
    }

    #[test]
    fn what_is_no_readable_tensor_says_so() {
        let absent = checkpoint(|pickle| pickle.tensor("9", "FloatStorage", 6, (0, &[1], &[1])));
        assert!(
            tensor(&absent)
                .unwrap_err()
                .contains("data/9, which the archive lacks")
        );
        let class = checkpoint(|pickle| pickle.tensor("0", "LongStorage", 3, (0, &[1], &[1])));
        assert!(
            tensor(&class)
                .unwrap_err()
                .contains("stored as LongStorage")
        );
        let sparse = checkpoint(|pickle| pickle.raw(b"ctorch._utils\n_rebuild_sparse_tensor\n)R"));
        assert!(
            tensor(&sparse)
                .unwrap_err()
                .contains("an object of torch._utils._rebuild_sparse_tensor")
        );
        let short = checkpoint(|pickle| pickle.raw(b"ctorch._utils\n_rebuild_tensor_v2\n)R"));
        assert!(
            tensor(&short)
                .unwrap_err()
                .contains("not a tensor that can be read")
        );
        let nested = b"ctorch._utils\n_rebuild_parameter\n".repeat(3);
        let nested = checkpoint(|pickle| pickle.raw(&nested).raw(b")R\x85R\x85R"));
        assert!(tensor(&nested).is_err());
    }

    #[test]
    fn parameters_bare_dicts_sizes_and_big_endian_files_are_read() {
        let parameter = checkpoint(|pickle| {
            let pickle = pickle.raw(b"ctorch._utils\n_rebuild_parameter\n(");
            pickle
                .tensor("0", "HalfStorage", 12, (0, &[12], &[1]))
                .raw(b"\x88}tR")
        });
        assert_eq!(tensor(&parameter).unwrap().format, Format::F16);

        let pickle = forge::Pickle::new()
            .raw(b"ccollections\nOrderedDict\n)R")
            .text("w");
        let bare = pickle
            .tensor("0", "BFloat16Storage", 2, (0, &[2], &[1]))
            .raw(b"s")
            .end();
        let contents = read(&zip(&[
            ("data.pkl", &bare),
            ("data/0", &[0; 4]),
            ("byteorder", b"big"),
        ]))
        .unwrap();
        let stored = contents.tensors[0].1.as_ref().unwrap();
        assert_eq!((stored.format, stored.big_endian), (Format::Bf16, true));
    }

    #[test]
    fn settings_are_read_past_unknown_ballast() {
        let pickle = forge::Pickle::new().raw(b"}(").text("model").raw(b"}");
        let pickle = pickle
            .text("args")
            .raw(b"cargparse\nNamespace\n)\x81}(")
            .text("model")
            .text("X(a=1)");
        let pickle = pickle
            .text("device")
            .raw(b"ctorch\ndevice\n")
            .text("cuda")
            .raw(b"\x85R");
        let pickle = pickle
            .text("enc_args")
            .raw(b"}")
            .text("num_heads")
            .int(6)
            .raw(b"s");
        let pickle = pickle
            .raw(b"ub")
            .text("dune_backbone_name")
            .text("dune")
            .raw(b"u")
            .end();
        let recorded = read(&zip(&[("a/data.pkl", &pickle)])).unwrap().recorded;
        assert_eq!(recorded.constructor.as_deref(), Some("X(a=1)"));
        assert_eq!(recorded.encoder_name.as_deref(), Some("dune"));
        assert_eq!(recorded.encoder.unwrap().size("num_heads"), Ok(Some(6)));
    }

    #[test]
    fn other_archives_are_named() {
        let refusal = |entries: &[(&str, &[u8])]| read(&zip(entries)).unwrap_err();
        assert!(refusal(&[("word/document.xml", b"")]).contains("not written by torch.save"));
        assert!(refusal(&[("m/data.pkl", b""), ("m/constants.pkl", b"")]).contains("TorchScript"));
        assert!(refusal(&[("m/data.pkl", b"\x80\x02N.")]).contains("holds None, not a dict"));
        let class = b"\x80\x02cmast3r.model\nAsymmetricMASt3R\n)\x81.";
        assert!(
            refusal(&[("m/data.pkl", class)])
                .contains("an object of mast3r.model.AsymmetricMASt3R")
        );
        let names = forge::Pickle::new()
            .raw(b"}")
            .text("optimizer")
            .raw(b"}s")
            .end();
        assert!(refusal(&[("m/data.pkl", &names)]).contains("it has optimizer"));
        assert!(
            refusal(&[("m/data.pkl", b"\x80\x02N."), ("m/byteorder", b"middle")])
                .contains("byteorder")
        );
    }
}
