//! Lists of pairs.

use mast3r::input::read_text;
use mast3r::pairs::parse_list;

use super::images::named_paths;
use crate::scratch;

/// A list of pairs of four images.
pub fn list(data: &[u8]) {
    let file = scratch::write("pairs.txt", data);
    let Ok(text) = read_text(&file) else { return };
    assert!(!text.contains('\r'), "lines end in \\n alone");
    let paths = named_paths();
    let Ok(pairs) = parse_list(&text, &file, &paths) else {
        return;
    };
    assert!(!pairs.is_empty(), "a list without pairs is refused");
    assert!(
        pairs
            .iter()
            .all(|pair| pair.first < pair.second && pair.second < paths.len()),
        "{pairs:?}"
    );
    assert!(pairs.is_sorted_by(|a, b| a < b), "{pairs:?}");
}
