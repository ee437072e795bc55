//! Text files as other programs leave them: in UTF-8 or UTF-16, with or without a byte order mark,
//! lines ended in any way.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads a text file: UTF-8, or UTF-16 of either byte order. A byte order mark is left out, and
/// every line ends in `\n` alone.
///
/// # Errors
/// [`Error::Input`] for a file that is missing, may not be read or is not such text; [`Error::Io`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| Error::unreadable(path, source))?;
    let text = decode(&bytes).map_err(|reason| Error::input(path, reason))?;
    Ok(if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text
    })
}

fn decode(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = units.iter().map(|bytes| unit(*bytes)).collect();
        let text = if rest.is_empty() {
            String::from_utf16(&units).ok()
        } else {
            None
        };
        text.ok_or_else(|| {
            "the text is damaged: it begins as UTF-16 and is not; save it as UTF-8".to_string()
        })
    };
    match bytes {
        [0xef, 0xbb, 0xbf, text @ ..] => utf8(text),
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        // Without a mark: no text begins with a zero or has one as its second character.
        [1..=255, 0, ..] => utf16(bytes, u16::from_le_bytes),
        [0, 1..=255, ..] => utf16(bytes, u16::from_be_bytes),
        text => utf8(text),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("line {line} is neither UTF-8 nor UTF-16 text; save the file as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_text_of_every_editor() {
        let text = "a.jpg\nü東𝄞.jpg\n";
        let windows = text.replace('\n', "\r\n");
        let units = |text: &str, bytes: fn(u16) -> [u8; 2]| {
            text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        let marked = |text: &str| format!("\u{feff}{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        for text in [text, &windows, &text.replace('\n', "\r")] {
            for bytes in [
                text.as_bytes().to_vec(),
                marked(text).into_bytes(),
                units(&marked(text), u16::to_le_bytes),
                units(&marked(text), u16::to_be_bytes),
                units(text, u16::to_le_bytes),
                units(text, u16::to_be_bytes),
            ] {
                fs::write(&path, bytes).unwrap();
                assert_eq!(read_text(&path).unwrap(), "a.jpg\nü東𝄞.jpg\n");
            }
        }
        fs::write(&path, "").unwrap();
        assert_eq!(read_text(&path).unwrap(), "");
    }

    #[test]
    fn refuses_what_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        let refusal = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_text(&path).unwrap_err().to_string()
        };
        assert!(
            refusal(b"a.jpg\nB\xfccher.jpg\n")
                .ends_with("line 2 is neither UTF-8 nor UTF-16 text; save the file as UTF-8")
        );
        assert!(refusal(b"\xff\xfea\0b").contains("it begins as UTF-16 and is not"));
        assert!(refusal(b"\xff\xfe\x00\xd8").contains("it begins as UTF-16 and is not"));
    }
}
