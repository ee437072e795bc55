//! What an alignment has to know of a view beside its predictions.

use crate::views::{Crop, View};

/// A view without its pixels.
#[derive(Clone, Debug)]
pub struct ViewShape {
    /// The image's file name.
    pub name: String,
    /// Where in its file the image lies.
    pub crop: Crop,
    /// Of what the network sees, pixels.
    pub width: usize,
    /// Of what the network sees, pixels.
    pub height: usize,
}

impl ViewShape {
    /// Of a view.
    pub fn of(view: &View) -> Self {
        Self {
            name: view.name.clone(),
            crop: view.crop,
            width: view.rgb.width() as usize,
            height: view.rgb.height() as usize,
        }
    }
}
