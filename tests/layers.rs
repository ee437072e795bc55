//! The order of the library's modules: each uses rows above its own only.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rows, from the ground up; `pipeline` joins what is above it.
const ROWS: &[&[&str]] = &[
    &[
        "checksum",
        "error",
        "Error",
        "ErrorKind",
        "Result",
        "Visible",
    ],
    &["buffer", "files", "input", "programs", "progress"],
    &["runtime", "views", "geometry"],
    &["nn"],
    &["model", "matching"],
    &["scene"],
    &["formats", "georeference"],
    &["alignment", "export", "hub"],
    &["network", "evaluation"],
    &["pairs", "refine"],
    &["pipeline"],
];

/// The modules that may use an outside crate: what is about tensors, the command line, the net or a
/// file format stays where it belongs. Crates that are not listed may be used everywhere.
const CRATES: &[(&str, &[&str])] = &[
    (
        "candle_core",
        &["error", "export", "model", "nn", "pipeline", "runtime"],
    ),
    ("candle_nn", &["model", "nn"]),
    ("custom_ops", &["nn", "pipeline", "runtime"]),
    ("laz", &["export"]),
    ("rusqlite", &["export"]),
    ("ureq", &["hub"]),
];

fn row_of(module: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no row; give it one"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Whether a path of `text` begins with the crate `name`.
fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The module of a source file: its folder in `src`, or its name there.
fn module_of(root: &Path, file: &Path) -> String {
    let first = file
        .strip_prefix(root)
        .unwrap()
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first.trim_end_matches(".rs").to_string()
}

/// The first name of each path in a list of them: of `a::b` or of `{a::{b, c}, d}`.
fn names(path: &str) -> Vec<String> {
    let name = |path: &str| {
        path.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match (depth, c) {
            (..0, _) => break,
            (0, ',') => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    parts.iter().map(|part| name(part.trim())).collect()
}

/// The first names of the paths that follow `crate::`, also of those in braces.
fn first_names(text: &str) -> Vec<String> {
    let found = text.match_indices("crate::");
    let names = found.flat_map(|(at, found)| names(&text[at + found.len()..]));
    names.filter(|name| !name.is_empty()).collect()
}

/// What a file of the module `own` names of its own crate: modules, and things in them.
fn named_paths(own: &[String], text: &str) -> Vec<Vec<String>> {
    // `super` means something else in what is nested.
    let text = text.split("\nmod tests {").next().unwrap();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let text = &code.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("super::") {
        if text[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &text[at..];
        let mut base = own;
        while let Some(further) = rest.strip_prefix("super::") {
            (rest, base) = (further, &base[..base.len().saturating_sub(1)]);
        }
        paths.extend(names(rest).into_iter().map(|name| [base, &[name]].concat()));
    }
    for (at, found) in text.match_indices("crate::") {
        let path =
            text[at + found.len()..].split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
        let path = path.into_iter().next().unwrap_or_default();
        paths.push(path.split("::").map(str::to_string).collect());
    }
    paths
}

/// The module that a source file is.
fn path_of(root: &Path, file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    let parts = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    let mut parts: Vec<String> = parts.collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        parts.pop();
    }
    parts
}

/// What an op is handed to on a device, which knows the op.
const DEVICES: &[&str] = &["cuda", "hopper", "library", "metal"];

/// Uses among the modules of each folder: of the folder, by the module that uses, what it uses.
type Uses = BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>>;

fn uses_inside_folders(root: &Path) -> Uses {
    let mut files = Vec::new();
    sources(root, &mut files);
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| path_of(root, file)).collect();
    let mut uses = Uses::new();
    for file in &files {
        let own = path_of(root, file);
        for named in named_paths(&own, &fs::read_to_string(file).unwrap()) {
            let shared = own.iter().zip(&named).take_while(|(a, b)| a == b).count();
            let (Some(user), Some(used)) = (own.get(shared), named.get(shared)) else {
                continue;
            };
            if modules.contains(&named[..=shared]) && !DEVICES.contains(&&used[..]) {
                let folder = uses.entry(own[..shared].to_vec()).or_default();
                folder.entry(user.clone()).or_default().insert(used.clone());
            }
        }
    }
    uses
}

/// A way from `at` over what is used back to where it began.
fn way_around(
    uses: &BTreeMap<String, BTreeSet<String>>,
    at: &str,
    way: &mut Vec<String>,
    seen: &mut BTreeSet<String>,
) -> bool {
    way.push(at.to_string());
    for used in uses.get(at).into_iter().flatten() {
        if *used == way[0] {
            return true;
        }
        if seen.insert(used.clone()) && way_around(uses, used, way, seen) {
            return true;
        }
    }
    way.pop();
    false
}

#[test]
fn no_two_modules_of_a_folder_use_each_other() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut edges = 0;
    for root in ["src", "custom_ops/src", "measure/src", "cli/src"] {
        for (folder, uses) in uses_inside_folders(&manifest.join(root)) {
            edges += uses.values().map(BTreeSet::len).sum::<usize>();
            for module in uses.keys() {
                let (mut way, mut seen) = (Vec::new(), BTreeSet::new());
                if way_around(&uses, module, &mut way, &mut seen)
                    && *module == *way.iter().min().unwrap()
                {
                    found.push(format!(
                        "{root}/{}: {}",
                        folder.join("/"),
                        way.join(" uses ")
                    ));
                }
            }
        }
    }
    assert!(edges > 100, "only {edges} uses were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_uses_rows_above_its_own_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut uses = 0;
    for file in files.iter().filter(|file| !file.ends_with("src/lib.rs")) {
        let module = module_of(&root, file);
        for used in first_names(&fs::read_to_string(file).unwrap())
            .iter()
            .filter(|used| **used != module)
        {
            assert!(
                row_of(used) < row_of(&module),
                "{}: {module} must not use {used}",
                file.display()
            );
            uses += 1;
        }
    }
    assert!(uses > 50, "only {uses} uses were found");
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for &(name, modules) in CRATES {
        let mut users = BTreeSet::new();
        for file in &files {
            if names_crate(&fs::read_to_string(file).unwrap(), name) {
                let module = module_of(&root, file);
                assert!(
                    modules.contains(&&module[..]),
                    "{}: {module} must not use {name}",
                    file.display()
                );
                users.insert(module);
            }
        }
        assert_eq!(
            users.len(),
            modules.len(),
            "{name} is used by {users:?} alone"
        );
    }
}

#[test]
fn crates_are_found_at_the_beginning_of_paths() {
    assert!(names_crate("use clap::Args;", "clap") && names_crate("f(&clap::Args)", "clap"));
    assert!(!names_crate("use x::clap::Args; not_clap::y", "clap"));
}

#[test]
fn names_are_found_in_paths_and_in_braces() {
    let text = "use crate::nn::x;\nuse crate::{Error, model::{a, b}, views};\nlet y = crate::scene::new(crate::geometry::z);";
    assert_eq!(
        first_names(text),
        ["nn", "Error", "model", "views", "scene", "geometry"]
    );
}
