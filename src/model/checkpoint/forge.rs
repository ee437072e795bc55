//! Small weight files made by hand, for tests.

/// A zip archive with these entries, stored.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let sizes = [0, data.len() as u32, data.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        let header = file.len() as u32;
        file.extend(b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0");
        file.extend(&sizes);
        file.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
        file.extend(name.as_bytes());
        file.extend(*data);
        directory.extend(b"PK\x01\x02\x0a\0\x0a\0\0\0\0\0\0\0\0\0");
        directory.extend(&sizes);
        directory.extend(
            [name.len() as u16, 0, 0, 0, 0, 0, 0]
                .map(u16::to_le_bytes)
                .concat(),
        );
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size, count) = (
        file.len() as u32,
        directory.len() as u32,
        entries.len() as u16,
    );
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([size, start].map(u32::to_le_bytes).concat());
    file.extend([0, 0]);
    file
}

/// A safetensors file with this header.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// A pickle under construction, protocol 2.
pub(crate) struct Pickle(Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub(crate) fn raw(mut self, opcodes: &[u8]) -> Self {
        self.0.extend(opcodes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.raw(b"X")
            .raw(&(text.len() as u32).to_le_bytes())
            .raw(text.as_bytes())
    }

    pub(crate) fn int(self, value: usize) -> Self {
        self.raw(b"J").raw(&(value as i32).to_le_bytes())
    }

    pub(crate) fn ints(self, values: &[usize]) -> Self {
        values
            .iter()
            .fold(self.raw(b"("), |pickle, &value| pickle.int(value))
            .raw(b"t")
    }

    /// A tensor that views `count` numbers of the storage `key`.
    pub(crate) fn tensor(
        self,
        key: &str,
        class: &str,
        count: usize,
        view: (usize, &[usize], &[usize]),
    ) -> Self {
        let storage = self
            .raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
            .text("storage");
        let storage = storage
            .raw(format!("ctorch\n{class}\n").as_bytes())
            .text(key)
            .text("cuda:0")
            .int(count);
        let (offset, shape, strides) = view;
        storage
            .raw(b"tQ")
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89}tR")
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}
