//! Natural order of names: 9 before 10.

use std::cmp::Ordering;
use std::path::PathBuf;

pub(super) fn sort(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
}

/// Numbers by their value, everything else by its letters, capital or not.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    let [mut left, mut right] = [a, b];
    loop {
        let numbers = [number(left), number(right)];
        let order = match numbers {
            [Some(x), Some(y)] => {
                (left, right) = (&left[x.len()..], &right[y.len()..]);
                let [x, y] = [x, y].map(|digits| digits.trim_start_matches('0'));
                x.len().cmp(&y.len()).then(x.cmp(y))
            }
            _ => {
                let [x, y] = [left, right].map(|text| text.chars().next());
                let (Some(x), Some(y)) = (x, y) else {
                    return x.cmp(&y).then(a.cmp(b));
                };
                (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
                x.to_lowercase().cmp(y.to_lowercase())
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits that a text begins with.
fn number(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_natural_order() {
        let mut names = ["b10", "b9", "B2", "a", "b010", "b9x", "b", "ä"].map(PathBuf::from);
        sort(&mut names);
        let sorted: Vec<&str> = names.iter().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(sorted, ["a", "b", "B2", "b9", "b9x", "b010", "b10", "ä"]);
    }
}
