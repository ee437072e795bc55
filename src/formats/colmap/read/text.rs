//! `cameras.txt` and `images.txt`.

use super::super::super::Inside;
use super::models::inside;
use super::{Cameras, Image};
use crate::error::Visible;

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

pub(super) fn text_cameras(text: &str) -> Result<Cameras, String> {
    let camera = |line: &str| -> Option<(u32, Inside)> {
        let mut words = line.split_whitespace();
        let (id, model) = (words.next()?.parse().ok()?, words.next()?);
        let numbers = words
            .map(|word| word.parse().ok())
            .collect::<Option<Vec<f64>>>()?;
        let [width, height, parameters @ ..] = &numbers[..] else {
            return None;
        };
        Some((id, inside(model, [*width, *height], parameters)))
    };
    let mut cameras = Cameras::default();
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !is_comment(line) && !line.trim().is_empty())
    {
        let (id, inside) = camera(line).ok_or_else(|| {
            let found = excerpt(line);
            format!("line {number}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS..., found \"{found}\"")
        })?;
        cameras.known.insert(id, inside);
    }
    Ok(cameras)
}

/// The images of a text model. After the line of an image comes one with its keypoints, which may
/// be empty; programs that have none often leave it out.
pub(super) fn text_images(text: &str) -> Result<Vec<Image>, String> {
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !is_comment(line))
        .peekable();
    let mut images = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        images.push(text_image(line).ok_or_else(|| {
            let found = excerpt(line);
            format!("line {number}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found \"{found}\"")
        })?);
        lines.next_if(|(_, line)| are_keypoints(line));
    }
    Ok(images)
}

/// An image's number, seven of its pose, its camera's, and its name, which may have spaces.
fn text_image(line: &str) -> Option<Image> {
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(char::is_whitespace)?;
        rest = after;
        Some(word)
    };
    word()?.parse::<u32>().ok()?;
    let mut pose = [0.0; 7];
    for value in &mut pose {
        *value = word()?.parse().ok()?;
    }
    let camera = word()?.parse().ok()?;
    let name = rest.trim().to_owned();
    let [qw, qx, qy, qz, translation @ ..] = pose;
    (!name.is_empty()).then_some(Image {
        name,
        rotation: [qw, qx, qy, qz],
        translation,
        camera,
    })
}

/// Whether a line is one of keypoints, X Y POINT3D_ID each: an image's has ten words, or a name
/// that is not a number.
fn are_keypoints(line: &str) -> bool {
    let mut count = 0;
    let numbers = line
        .split_whitespace()
        .inspect(|_| count += 1)
        .all(|word| word.parse::<f64>().is_ok());
    numbers && count % 3 == 0
}

/// The beginning of a line, for a message.
fn excerpt(line: &str) -> String {
    const MOST: usize = 60;
    let end = line
        .char_indices()
        .nth(MOST)
        .map_or(line.len(), |(at, _)| at);
    format!(
        "{}{}",
        Visible(&line[..end]),
        if end < line.len() { "..." } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_keypoints_may_be_missing() {
        let image = |id: u32, name: &str| format!("{id} 1 0 0 0 0 0 {id} 1 {name}\n");
        let [a, b, c] = ["a.jpg", "left/b c.jpg", "d e f.jpg"]
            .into_iter()
            .zip(1..)
            .map(|(name, id)| image(id, name))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let keypoints = "1.5 2.5 -1 3 4 17 5 6 7 8 9 10\n";
        for text in [
            format!("{a}\n{b}\n{c}\n"),
            format!("{a}{b}{c}"),
            format!("# x\n{a}{keypoints}{b}{c}{keypoints}"),
            format!("{a}{keypoints}\n{b}\n\n{c}"),
            format!("{a}# between\n\n{b}{keypoints}{c}")
                .replace(' ', "\t")
                .replace("b\tc", "b c")
                .replace("d\te\tf", "d e f"),
        ] {
            let images = text_images(&text).unwrap();
            let names: Vec<&str> = images.iter().map(|image| &*image.name).collect();
            assert_eq!(names, ["a.jpg", "left/b c.jpg", "d e f.jpg"], "{text}");
            assert_eq!(images[2].translation, [0.0, 0.0, 3.0]);
        }
        let message = text_images(&format!("{a}{b}one two\n")).err().unwrap();
        assert_eq!(
            message,
            "line 3: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found \"one two\""
        );
    }
}
