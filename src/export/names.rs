//! Distinct file names for pictures whose own names may be equal.

use std::collections::HashSet;
use std::path::Path;

/// The names without folders, each made distinct by a number before its extension: `a.png`, `a-2.png`.
///
/// Names that differ only in case count as equal, as they are on some file systems. The first of equal names stays as
/// it is, and no number is given that would collide with another picture's own name.
pub fn distinct_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    distinct(names.into_iter().map(|name| split(&plain(name))).collect())
}

/// The names without folders and extensions, made distinct as [`distinct_names`] does.
pub fn distinct_stems<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    distinct(names.into_iter().map(|name| (split(&plain(name)).0, String::new())).collect())
}

/// The last component of a path, without characters that no file name may hold.
fn plain(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let name: String = name.chars().map(|char| if char.is_control() { '_' } else { char }).collect();
    if ["", ".", ".."].contains(&name.as_str()) { "picture".into() } else { name }
}

/// Stem and extension, the latter with its dot.
fn split(name: &str) -> (String, String) {
    let path = Path::new(name);
    match (path.file_stem().and_then(|stem| stem.to_str()), path.extension().and_then(|extension| extension.to_str())) {
        (Some(stem), Some(extension)) => (stem.into(), format!(".{extension}")),
        _ => (name.into(), String::new()),
    }
}

fn distinct(names: Vec<(String, String)>) -> Vec<String> {
    let own: HashSet<String> =
        names.iter().map(|(stem, extension)| format!("{stem}{extension}").to_lowercase()).collect();
    let mut given = HashSet::new();
    let mut number_from = std::collections::HashMap::new();
    names
        .into_iter()
        .map(|(stem, extension)| {
            let name = format!("{stem}{extension}");
            if given.insert(name.to_lowercase()) {
                return name;
            }
            let number = number_from.entry(name.to_lowercase()).or_insert(2_usize);
            loop {
                let candidate = format!("{stem}-{number}{extension}");
                *number += 1;
                let key = candidate.to_lowercase();
                if !own.contains(&key) && given.insert(key) {
                    return candidate;
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_stay_as_they_are() {
        assert_eq!(distinct_names(["a.png", "dir/b.tar.gz", "c"]), ["a.png", "b.tar.gz", "c"]);
        assert_eq!(distinct_stems(["a.png", "dir/b.tar.gz", ".hidden"]), ["a", "b.tar", ".hidden"]);
    }

    #[test]
    fn equal_names_get_numbers_that_collide_with_nobody() {
        assert_eq!(
            distinct_names(["x/a.png", "y/A.png", "a-2.png", "a.png"]),
            ["a.png", "A-3.png", "a-2.png", "a-4.png"]
        );
        assert_eq!(distinct_stems(["a.png", "a.jpg", "a.webp"]), ["a", "a-2", "a-3"]);
    }

    #[test]
    fn a_name_cannot_leave_its_folder() {
        assert_eq!(distinct_stems(["..", "/", "..\\evil", "a\nb"]), ["picture", "picture-2", "evil", "a_b"]);
    }
}
