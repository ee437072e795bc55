//! The mask of each image: one for all, or those of a folder by their names.

use std::path::{Path, PathBuf};

use mast3r::views::names::{Identity, assign};
use mast3r::{Error, Result};

use crate::GlobalArgs;
use crate::images::{below_folder, named};

/// The mask files of `images`, where there are any: of a file it is that file, of a folder the one
/// that is named as the image is. Masks of a folder that are for no image are mentioned.
pub fn find(
    masks: &Path,
    images: &[(PathBuf, String)],
    global: &GlobalArgs,
) -> Result<Vec<Option<PathBuf>>> {
    let metadata = masks
        .metadata()
        .map_err(|source| Error::unreadable(masks, source))?;
    if !metadata.is_dir() {
        return Ok(vec![Some(masks.to_path_buf()); images.len()]);
    }
    let (files, found) = in_folder(masks, images)?;
    let unused: Vec<String> = files
        .iter()
        .filter(|(path, _)| !found.iter().flatten().any(|used| used == path))
        .map(|(_, name)| name.clone())
        .collect();
    if unused.len() == files.len() {
        let what = match files.len() {
            0 => "no masks are in this folder or below it".into(),
            1 => format!(
                "its only mask ({}) is not named after an image",
                named(unused)
            ),
            count => format!(
                "its {count} masks ({}) are not named after images",
                named(unused)
            ),
        };
        let way_out = "the mask of left/a.jpg is left/a.png or left/a.jpg.png";
        return Err(Error::input(masks, format!("{what}; {way_out}")));
    }
    if !unused.is_empty() {
        global.say(format_args!(
            "--masks: no image has the name of {}",
            named(unused)
        ));
    }
    Ok(found)
}

/// The masks in a folder with their names, and which of them is each image's.
#[allow(clippy::type_complexity)]
fn in_folder(
    folder: &Path,
    images: &[(PathBuf, String)],
) -> Result<(Vec<(PathBuf, String)>, Vec<Option<PathBuf>>)> {
    let files = below_folder(folder)?;
    let whole: Vec<Identity> = images
        .iter()
        .map(|(path, name)| Identity::new(name, path))
        .collect();
    let stems: Vec<Identity> = whole.iter().map(Identity::without_extension).collect();
    let mut found: Vec<Option<usize>> = vec![None; images.len()];
    // First a.jpg.png for a.jpg, which cannot be meant for a.png.
    for identities in [whole, stems] {
        let masks: Vec<usize> = (0..files.len())
            .filter(|mask| !found.contains(&Some(*mask)))
            .collect();
        let open: Vec<usize> = (0..images.len())
            .filter(|image| found[*image].is_none())
            .collect();
        let name = |at: usize| files[masks[at]].1.as_str();
        let stem = |at| name(at).rfind('.').map_or(name(at), |dot| &name(at)[..dot]);
        let names: Vec<&str> = (0..masks.len()).map(stem).collect();
        let identities: Vec<Identity> = open
            .iter()
            .map(|&image| identities[image].clone())
            .collect();
        let assigned = assign(&names, &identities).map_err(|ambiguity| {
            let reason = ambiguity.describe(name, |at| &images[open[at]].1);
            Error::input(
                folder,
                format!(
                    "{reason}; name a mask as its image with its folder, such as left/a.jpg.png"
                ),
            )
        })?;
        for (image, mask) in open.into_iter().zip(assigned) {
            found[image] = mask.map(|at| masks[at]);
        }
    }
    let found = found
        .into_iter()
        .map(|mask| mask.map(|at| files[at].0.clone()))
        .collect();
    Ok((files, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which mask each image gets, by the masks' names in their folder.
    fn masks(files: &[&str], images: &[&str]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let paths: Vec<PathBuf> = images.iter().map(PathBuf::from).collect();
        let names = mast3r::views::names::unique_names(&paths);
        let (_, found) = in_folder(
            folder.path(),
            &paths.into_iter().zip(names).collect::<Vec<_>>(),
        )?;
        let name = |path: &PathBuf| {
            path.strip_prefix(folder.path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        Ok(found
            .iter()
            .map(|path| path.as_ref().map_or("-".into(), name))
            .collect())
    }

    #[test]
    fn a_mask_is_named_as_its_image() {
        assert_eq!(
            masks(
                &["a.png", "b.JPG.png", "d.png"],
                &["p/a.jpg", "p/b.JPG", "p/c.jpg"]
            )
            .unwrap(),
            ["a.png", "b.JPG.png", "-"]
        );
        let rig = ["rig/left/0.jpg", "rig/right/0.jpg", "rig/right/1.jpg"];
        assert_eq!(
            masks(&["left/0.png", "right/0.jpg.png"], &rig).unwrap(),
            ["left/0.png", "right/0.jpg.png", "-"]
        );
        assert_eq!(
            masks(&["right/0.png"], &rig).unwrap(),
            ["-", "right/0.png", "-"]
        );
        assert_eq!(
            masks(&["left/0.png", "right/0.png"], &rig[1..]).unwrap(),
            ["right/0.png", "-"]
        );
        // Both of one image: the name that leaves no doubt.
        assert_eq!(
            masks(&["a.png", "a.jpg.png"], &["p/a.jpg"]).unwrap(),
            ["a.jpg.png"]
        );
        assert_eq!(
            masks(&["a.png", "a.jpg.png"], &["p/a.jpg", "p/a.png"]).unwrap(),
            ["a.jpg.png", "a.png"]
        );
    }

    #[test]
    fn a_mask_that_could_be_for_several_images_is_refused() {
        let refusal =
            |files: &[&str], images: &[&str]| masks(files, images).unwrap_err().to_string();
        let message = refusal(&["0.png"], &["rig/left/0.jpg", "rig/right/0.jpg"]);
        assert!(
            message.contains("0.png may be left/0.jpg or right/0.jpg; name a mask as its image"),
            "{message}"
        );
        let message = refusal(&["a.png"], &["p/a.jpg", "p/a.png"]);
        assert!(
            message.contains("a.png may be a.jpg or a.png; name a mask as its image"),
            "{message}"
        );
    }
}
