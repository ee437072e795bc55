//! Name and size of a view.

use crate::views::{Crop, View};

/// Name and size of a view, which is all that the alignment needs of its image.
#[derive(Clone, Debug)]
pub struct ViewShape {
    /// The image's file name.
    pub name: String,
    /// Where in its file the image lies.
    pub crop: Crop,
    /// Width at the network's size, pixels.
    pub width: usize,
    /// Height at the network's size, pixels.
    pub height: usize,
}

impl ViewShape {
    /// Name and size of `view`.
    pub fn of(view: &View) -> Self {
        Self {
            name: view.name.clone(),
            crop: view.crop,
            width: view.rgb.width() as usize,
            height: view.rgb.height() as usize,
        }
    }
}
