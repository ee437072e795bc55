//! Where the published weights are: which file of which server serves a network.
//!
//! Addresses, names and the sizes of DUNE's files are those of the authors' own pages and code.
//! None of the files was ever fetched by the authors of this library, so what only a look at them
//! would show is marked as such.

/// A published weight file.
#[derive(Debug, PartialEq, Eq)]
pub struct WeightFile {
    /// Its server.
    pub source: Source,
    /// Its name there.
    pub name: &'static str,
    /// Long side in pixels of the images it was trained with; other sizes work too.
    pub long_side: u32,
    /// About how many bytes it has: as the authors' page says, or else four for each parameter.
    pub about_bytes: u64,
    /// The DUNE file that completes a DuneMASt3R file which lacks its encoder and does not say
    /// whose it was. Whether the published ones lack it is not known here; the file itself tells.
    pub encoder: Option<&'static WeightFile>,
    /// SHA-256 in hexadecimal digits, where it is known beforehand.
    pub sha256: Option<&'static str>,
}

/// A server that publishes weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A repository of the Hugging Face hub, `owner/name`.
    HuggingFace(&'static str),
    /// NAVER LABS Europe's own server, in the folder of DUNE. It announces no checksums.
    Naver,
}

/// The folder of [`Source::Naver`].
pub const NAVER_FOLDER: &str = "https://download.europe.naverlabs.com/dune";

const MB: u64 = 1_000_000;

/// MASt3R, whose encoder serves alone too.
pub(super) const MAST3R: &[&WeightFile] = &[&WeightFile {
    source: Source::HuggingFace("naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"),
    name: "model.safetensors",
    long_side: 512,
    about_bytes: 2755 * MB,
    encoder: None,
    sha256: None,
}];

/// Depth Anything 3 Small.
pub(super) const DA3_SMALL: &[&WeightFile] = &[&WeightFile {
    source: Source::HuggingFace("depth-anything/DA3-SMALL"),
    name: "model.safetensors",
    long_side: 504,
    about_bytes: 137_248_940,
    encoder: None,
    sha256: Some("364492e38a3a06d221ac75da7f6621ada3f2361cd24fde11ba79091e9f40efcf"),
}];
/// Depth Anything 3 Base.
pub(super) const DA3_BASE: &[&WeightFile] = &[&WeightFile {
    source: Source::HuggingFace("depth-anything/DA3-BASE"),
    name: "model.safetensors",
    long_side: 504,
    about_bytes: 541_518_028,
    encoder: None,
    sha256: Some("e01067dc1659613083d9145a9a2547ccdbe6ccbbf83c4fe7b3e8a4e2bdae78b5"),
}];

pub(super) const DUNE_SMALL: &[&WeightFile] = &[SMALL_336, SMALL_448];
pub(super) const DUNE_BASE: &[&WeightFile] = &[BASE_336, BASE_448, BASE_448_PAPER];

pub(super) const DUNEMAST3R_SMALL: &[&WeightFile] = &[&WeightFile {
    encoder: Some(SMALL_448),
    ..naver("dunemast3r_cvpr25_vitsmall.pth", 336, 1382 * MB)
}];
pub(super) const DUNEMAST3R_BASE: &[&WeightFile] = &[&WeightFile {
    encoder: Some(BASE_448_PAPER),
    ..naver("dunemast3r_cvpr25_vitbase.pth", 336, 1735 * MB)
}];

const SMALL_336: &WeightFile = &naver("dune_vitsmall14_336.pth", 336, 110 * MB);
const SMALL_448: &WeightFile = &naver("dune_vitsmall14_448.pth", 448, 110 * MB);
const BASE_336: &WeightFile = &naver("dune_vitbase14_336.pth", 336, 420 * MB);
const BASE_448: &WeightFile = &naver("dune_vitbase14_448.pth", 448, 420 * MB);
const BASE_448_PAPER: &WeightFile = &naver("dune_vitbase14_448_paper.pth", 448, 420 * MB);

const fn naver(name: &'static str, long_side: u32, about_bytes: u64) -> WeightFile {
    WeightFile {
        source: Source::Naver,
        name,
        long_side,
        about_bytes,
        encoder: None,
        sha256: None,
    }
}

/// The DUNE file that a DuneMASt3R file calls `name`, for example
/// `dune_vitbase_14_448_paper_encoder`.
pub fn dune_file(name: &str) -> Option<&'static WeightFile> {
    // The authors' names of models have one underscore more than those of files.
    let plain = |name: &str| name.replace('_', "");
    let wanted = plain(name.strip_suffix("_encoder").unwrap_or(name));
    let mut files = DUNE_SMALL.iter().chain(DUNE_BASE).copied();
    files.find(|file| plain(file.name.trim_end_matches(".pth")) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_are_found_by_the_names_that_decoders_give() {
        let file = |name| dune_file(name).map(|file| file.name);
        assert_eq!(
            file("dune_vitbase_14_448_paper_encoder"),
            Some("dune_vitbase14_448_paper.pth")
        );
        assert_eq!(
            file("dune_vitsmall_14_448_encoder"),
            Some("dune_vitsmall14_448.pth")
        );
        assert_eq!(file("dune_vitbase_14_336"), Some("dune_vitbase14_336.pth"));
        assert_eq!(file("dune_vitlarge_14_336"), None);
        assert_eq!(file("../../etc/passwd"), None);
        assert_eq!(file(""), None);
    }
}
