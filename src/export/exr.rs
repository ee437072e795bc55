//! OpenEXR: one part, scan lines, 32-bit floats, not compressed.
//!
//! The layout is that of "The OpenEXR File Layout", version 2: a list of attributes, the place of
//! every line in the file, and the lines, each with its row and its size before its channels.

use std::io::{self, Write};

const MAGIC: u32 = 20_000_630;
const VERSION: u32 = 2;
/// Pixel type of a channel.
const FLOAT: u32 = 2;

/// Writes named channels of `width` x `height` values each, row by row; names must be in ascending
/// order, as the format has them.
///
/// # Errors
/// The writer's own; `InvalidInput` for names out of order, or values that do not fill the image.
pub(super) fn write_exr(
    width: u32,
    height: u32,
    channels: &[(&str, &[f32])],
    out: &mut dyn Write,
) -> io::Result<()> {
    let refuse = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    let pixels = width as usize * height as usize;
    if let Some((name, values)) = channels
        .iter()
        .find(|(_, values)| values.len() != pixels || pixels == 0)
    {
        return refuse(format!(
            "{} values of {name} do not fill {width}x{height} pixels",
            values.len()
        ));
    }
    if channels.is_empty() || !channels.is_sorted_by(|one, two| one.0 < two.0) {
        return refuse("an EXR image wants channels in the order of their names".into());
    }
    let header = header(width, height, channels)?;
    out.write_all(&header)?;
    let line_bytes = channels.len() * width as usize * size_of::<f32>();
    let first = header.len() + height as usize * size_of::<u64>();
    for row in 0..height as usize {
        out.write_all(&((first + row * (2 * size_of::<u32>() + line_bytes)) as u64).to_le_bytes())?;
    }
    let mut line = Vec::with_capacity(2 * size_of::<u32>() + line_bytes);
    for row in 0..height as usize {
        line.clear();
        line.extend((row as u32).to_le_bytes());
        line.extend(whole(line_bytes)?.to_le_bytes());
        for (_, values) in channels {
            let values = &values[row * width as usize..][..width as usize];
            line.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        out.write_all(&line)?;
    }
    Ok(())
}

fn header(width: u32, height: u32, channels: &[(&str, &[f32])]) -> io::Result<Vec<u8>> {
    let mut list = Vec::new();
    for (name, _) in channels {
        list.extend(name.bytes());
        // The name's end; the type; not perceptual and three bytes unused; every pixel along x and
        // y.
        list.push(0);
        [FLOAT, 0, 1, 1]
            .iter()
            .for_each(|value| list.extend(value.to_le_bytes()));
    }
    list.push(0);
    let window: Vec<u8> = [0, 0, width - 1, height - 1]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let one = 1.0_f32.to_le_bytes();
    let mut header = [MAGIC.to_le_bytes(), VERSION.to_le_bytes()].concat();
    for (name, kind, value) in [
        ("channels", "chlist", list.as_slice()),
        ("compression", "compression", &[0]),
        ("dataWindow", "box2i", &window),
        ("displayWindow", "box2i", &window),
        ("lineOrder", "lineOrder", &[0]),
        ("pixelAspectRatio", "float", &one),
        ("screenWindowCenter", "v2f", &[0; 8]),
        ("screenWindowWidth", "float", &one),
    ] {
        header.extend(name.bytes().chain([0]).chain(kind.bytes()).chain([0]));
        header.extend(whole(value.len())?.to_le_bytes());
        header.extend(value);
    }
    header.push(0);
    Ok(header)
}

fn whole(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            "a line of an EXR image is too long",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lie_where_the_table_says() {
        let (near, far): (Vec<f32>, Vec<f32>) = (0..6)
            .map(|value| (value as f32, -0.5 * value as f32))
            .unzip();
        let mut bytes = Vec::new();
        write_exr(3, 2, &[("Z", &near), ("confidence", &far)], &mut bytes).unwrap();
        assert_eq!(&bytes[..8], &[0x76, 0x2f, 0x31, 0x01, 2, 0, 0, 0]);
        let line_bytes = 8 + 2 * 3 * 4;
        let lines = bytes.len() - 2 * line_bytes;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        for row in 0..2 {
            let line = lines + row * line_bytes;
            assert_eq!(word(lines - 16 + 8 * row) as usize, line);
            assert_eq!((word(line), word(line + 4)), (row as u32, 24));
            let values: Vec<f32> = (0..6)
                .map(|at| f32::from_bits(word(line + 8 + 4 * at)))
                .collect();
            assert_eq!(
                values,
                [&near[3 * row..3 * row + 3], &far[3 * row..3 * row + 3]].concat()
            );
        }
    }

    #[test]
    fn what_does_not_fill_the_image_or_is_out_of_order_is_refused() {
        let values: &[f32] = &[1.0; 6];
        for (width, channels) in [
            (4, [("Z", values)].as_slice()),
            (0, &[("Z", values)]),
            (3, &[]),
            (3, &[("b", values), ("a", values)]),
        ] {
            let error = write_exr(width, 2, channels, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{channels:?}");
        }
    }
}
