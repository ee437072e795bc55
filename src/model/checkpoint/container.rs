//! Which container the bytes of a weight file are in.

use super::source::Contents;
use super::{safetensors, torch};

/// Reads the contents of the weight file `bytes`, whose format is told by its first bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return torch::read(bytes);
    }
    if let Some(reason) = foreign(bytes) {
        return Err(reason);
    }
    if bytes.get(8) == Some(&b'{') {
        return safetensors::read(bytes);
    }
    Err("is neither a safetensors file nor a PyTorch checkpoint (.pth)".to_string())
}

/// What the file is instead of weights, with the way out.
fn foreign(bytes: &[u8]) -> Option<String> {
    /// The number with which PyTorch before 1.6 began its files, as a pickled integer.
    const OLD_TORCH: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    const RESAVE: &str = "load it with PyTorch and save it again with torch.save";
    let head = &bytes[..bytes.len().min(1024)];
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let is = |magic: &[u8]| head.starts_with(magic);
    let reason = if text.starts_with(b"version https://git-lfs") {
        "is a git-lfs pointer, not the weights themselves; run `git lfs pull` or download the file again".to_string()
    } else if text.starts_with(b"<") {
        "is an HTML or XML page, not weights; the download was answered by a web page, so download it again".to_string()
    } else if is(b"\x1f\x8b")
        || is(b"BZh")
        || is(b"\xfd7zXZ\0")
        || is(b"\x28\xb5\x2f\xfd")
        || is(b"7z\xbc\xaf")
    {
        "is compressed; unpack it first".to_string()
    } else if head
        .get(2..)
        .is_some_and(|rest| is(b"\x80\x02") && rest.starts_with(OLD_TORCH))
    {
        format!("is in PyTorch's format from before version 1.6; {RESAVE}")
    } else if head.get(257..262) == Some(b"ustar") {
        format!("is a tar archive, perhaps PyTorch's oldest format; unpack it or {RESAVE}")
    } else if head.len() > 1 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        format!("is a bare pickle, which holds no tensors that can be read in place; {RESAVE}")
    } else if is(b"GGUF") || is(b"\x93NUMPY") || is(b"\x89HDF") {
        "is a GGUF, NumPy or HDF5 file; give the weights as safetensors or as a PyTorch checkpoint (.pth)".to_string()
    } else if text.starts_with(b"{") && bytes.get(8) != Some(&b'{') {
        "is a JSON file, not weights; give the safetensors or .pth file".to_string()
    } else if head.iter().all(|&byte| byte == 0) {
        "begins with zeros only; the download is incomplete".to_string()
    } else {
        return None;
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_weights_are_named() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, reason) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..],
                "git-lfs pointer",
            ),
            (b"\n<!DOCTYPE html><html>{</html>", "HTML"),
            (b"\x1f\x8b\x08\x00\x00\x00\x00\x00{", "compressed"),
            (
                b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
                "before version 1.6",
            ),
            (b"\x80\x04\x95\x00\x00\x00\x00\x00{", "bare pickle"),
            (&tar, "tar archive"),
            (b"GGUF\x03\0\0\0{", "GGUF"),
            (b"{\"enc_depth\": 24}", "JSON"),
            (&[0; 64], "zeros only"),
            (b"hello world", "neither"),
            (b"x", "neither"),
            (b"PK\x03\x04", "incomplete"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(reason), "{reason}: {message}");
        }
    }
}
