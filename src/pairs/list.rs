//! Lists of pairs as text: two image names a line.

use std::path::{Path, PathBuf};

use super::pair;
use crate::alignment::Pair;
use crate::error::{Error, Result, Visible};
use crate::views::names::{Identity, find, unique_names};

/// Names that a message lists before it counts the rest.
const MOST_NAMES: usize = 3;

/// The pairs that `text` lists, sorted, each once: two names of `paths` a line, between them
/// spaces or a tab. Empty lines and those that begin with # are passed over.
///
/// An image is named by its name, by its path, or by the end of that from some folder on. `file` is
/// what messages call the text.
///
/// # Errors
/// [`Error::Input`] for a line that is not two names, names of no image or of several, an image
/// paired with itself, and a list without pairs.
pub fn parse_list(text: &str, file: &Path, paths: &[PathBuf]) -> Result<Vec<Pair>> {
    let names_of = unique_names(paths);
    let images: Vec<Identity> = names_of
        .iter()
        .zip(paths)
        .map(|(name, path)| Identity::new(name, path))
        .collect();
    let mut pairs = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |reason: String| Err(Error::input(file, format!("line {number}: {reason}")));
        let Some([first, second]) = names(line, &images) else {
            return refuse(format!("\"{}\" is not two names", Visible(line)));
        };
        let mut found = [None; 2];
        for (found, name) in found.iter_mut().zip([first, second]) {
            match find(name, &images)[..] {
                [] => unknown.push(name),
                [view] => *found = Some(view),
                [one, two, ..] => {
                    let (one, two) = (paths[one].display(), paths[two].display());
                    return refuse(format!(
                        "{} may be {one} or {two}; name its folder too",
                        Visible(name)
                    ));
                }
            }
        }
        if let [Some(first), Some(second)] = found {
            let Some(pair) = pair(first, second) else {
                return refuse(format!("\"{}\" is one image twice", Visible(line)));
            };
            pairs.push(pair);
        }
    }
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let rest = unknown.len().saturating_sub(MOST_NAMES);
        let names = Visible(&unknown[..unknown.len() - rest].join(", ")).to_string();
        let rest = if rest > 0 {
            format!(" and {rest} more")
        } else {
            String::new()
        };
        let reason = format!(
            "no image is named {names}{rest}; {} images are given",
            paths.len()
        );
        return Err(Error::input(file, reason));
    }
    if pairs.is_empty() {
        return Err(Error::input(file, "it lists no pairs"));
    }
    pairs.sort_unstable();
    pairs.dedup();
    Ok(pairs)
}

/// Cuts a line into two names. Where names have spaces of their own, it is cut so that both are
/// known.
fn names<'a>(line: &'a str, images: &[Identity]) -> Option<[&'a str; 2]> {
    let cut = |(first, second): (&'a str, &'a str)| [first.trim(), second.trim()];
    if let Some(halves) = line.split_once('\t') {
        return Some(cut(halves));
    }
    let halves = |at: usize| cut(line.split_at(at));
    let cuts: Vec<usize> = line.match_indices(' ').map(|(at, _)| at).collect();
    let known = |names: &[&str; 2]| names.iter().all(|name| !find(name, images).is_empty());
    match cuts[..] {
        [] => None,
        _ if line.split_whitespace().count() == 2 => Some(halves(cuts[0])),
        _ => cuts.into_iter().map(halves).find(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<[usize; 2]>> {
        let paths = [
            "photos/a.jpg",
            "photos/b.jpg",
            "photos/left/c 1.jpg",
            "photos/right/c 1.jpg",
        ]
        .map(PathBuf::from);
        let pairs = parse_list(text, Path::new("pairs.txt"), &paths)?;
        Ok(pairs
            .into_iter()
            .map(|pair| [pair.first, pair.second])
            .collect())
    }

    #[test]
    fn names_are_paths_or_their_ends() {
        assert_eq!(parse("a.jpg b.jpg\n").unwrap(), [[0, 1]]);
        let text = "# ours\n\nb.jpg   a.jpg\nphotos/a.jpg b.jpg\r\nleft/c 1.jpg right/c 1.jpg\na.jpg\tleft/c 1.jpg";
        assert_eq!(parse(text).unwrap(), [[0, 1], [0, 2], [2, 3]]);
    }

    #[test]
    fn a_line_that_says_nothing_is_refused_with_its_number() {
        let refusal = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            refusal("a.jpg b.jpg\na.jpg"),
            "pairs.txt: line 2: \"a.jpg\" is not two names"
        );
        assert_eq!(
            refusal("a.jpg photos/a.jpg"),
            "pairs.txt: line 1: \"a.jpg photos/a.jpg\" is one image twice"
        );
        assert_eq!(refusal("# nothing\n"), "pairs.txt: it lists no pairs");
        assert_eq!(
            refusal("a.jpg\tc 1.jpg"),
            "pairs.txt: line 1: c 1.jpg may be photos/left/c 1.jpg or photos/right/c 1.jpg; name its folder too"
        );
        // The end of a name is no name.
        assert_eq!(
            refusal("pg b.jpg"),
            "pairs.txt: no image is named pg; 4 images are given"
        );
    }

    #[test]
    fn all_unknown_names_make_one_message() {
        let text = "a.jpg x5\nx1 x2\nx3 x4\nx1 b.jpg";
        let message = "pairs.txt: no image is named x1, x2, x3 and 2 more; 4 images are given";
        assert_eq!(parse(text).unwrap_err().to_string(), message);
    }
}
