//! The shaders' own declarations against what the host binds: argument by argument, field by field.

use std::mem::{offset_of, size_of};

use super::emulator::kernels;
use crate::conv2d::shader::{SHADER as TAPS, TapsParams};
use crate::grid_sample::{self, GridSampleParams};
use crate::launch::shader::{Shader, Use};
use crate::layer_norm::shader::LayerNormParams;
use crate::linear::shader::FinishParams;
use crate::outputs::shader::{DESCRIPTORS, DescriptorParams, GEOMETRY, GeometryParams};
use crate::reciprocal::shader::SearchParams;
use crate::rope2d::{self, RopeParams};
use crate::upsample_bilinear2d::{self, UpsampleParams};
use crate::{layer_norm, linear, reciprocal};

/// `text` between the first `open` and the next `close` after it.
fn between<'a>(text: &'a str, open: &str, close: &str) -> &'a str {
    let (_, rest) = text
        .split_once(open)
        .unwrap_or_else(|| panic!("no {open:?}"));
    rest.split_once(close)
        .unwrap_or_else(|| panic!("no {close:?} after {open:?}"))
        .0
}

/// `text` with single spaces.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The source without its comments.
fn code(source: &str) -> String {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Where the declared arguments of a shader's kernel differ from the host's table.
fn differing_arguments(shader: &Shader, source: &str) -> Vec<String> {
    // Several kernels of one source have their arguments from a macro.
    let code = code(source);
    let declared = if code.contains("#define SEARCH_ARGUMENTS") {
        between(&code, "#define SEARCH_ARGUMENTS", "\n\n").replace('\\', "")
    } else {
        let kernel = format!("[[kernel]] void {}(", shader.op);
        between(&code, &kernel, ") {").to_string()
    };
    let declared = words(&declared);
    let declared: Vec<&str> = declared.split(", ").collect();
    let mut wanted: Vec<String> = shader
        .arguments
        .iter()
        .enumerate()
        .map(|(index, argument)| {
            let (name, element) = (argument.name, argument.element);
            match argument.used {
                Use::Read => format!("device const {element}* {name} [[buffer({index})]]"),
                Use::Written | Use::Changed => {
                    format!("device {element}* {name} [[buffer({index})]]")
                }
                Use::Params => format!("constant {element}& {name} [[buffer({index})]]"),
            }
        })
        .collect();
    // The emulation hands these over in this order.
    wanted.push("uint3 position [[thread_position_in_grid]]".into());
    wanted.push("uint3 groups [[threadgroups_per_grid]]".into());
    wanted.truncate(declared.len().max(shader.arguments.len() + 1));
    let mut differing: Vec<String> = declared
        .iter()
        .zip(&wanted)
        .filter(|(declared, wanted)| declared != wanted)
        .map(|(declared, wanted)| format!("{}: declared {declared:?}, bound {wanted:?}", shader.op))
        .collect();
    if declared.len() != wanted.len() {
        differing.push(format!(
            "{}: {} arguments declared, {} bound",
            shader.op,
            declared.len(),
            wanted.len()
        ));
    }
    differing
}

/// A field of a parameter block: its name, its offset, and how a shader spells its type.
type Field = (&'static str, usize, &'static str);

/// Takes the type of a field from the field itself.
fn field<P, F: 'static>(name: &'static str, offset: usize, _: fn(&P) -> &F) -> Field {
    let spelled = match std::any::type_name::<F>() {
        "u32" => "uint",
        "f32" => "float",
        other => panic!("{name}: no shader spelling for {other}"),
    };
    (name, offset, spelled)
}

/// Where the declared block of a shader differs from the host's struct of `size` bytes.
fn differing_fields(block: &str, source: &str, size: usize, fields: &[Field]) -> Vec<String> {
    let declared = words(between(&code(source), &format!("struct {block} {{"), "};"));
    let declared: Vec<&str> = declared
        .split(';')
        .map(str::trim)
        .filter(|field| !field.is_empty())
        .collect();
    let mut differing = Vec::new();
    // Fields of four bytes each, one after the other: then all of them are listed, and none is
    // padded.
    if size != 4 * fields.len() || declared.len() != fields.len() {
        differing.push(format!(
            "{block}: {size} bytes, {} fields, {} declared",
            fields.len(),
            declared.len()
        ));
    }
    for (index, (declared, (name, offset, spelled))) in declared.iter().zip(fields).enumerate() {
        if *declared != format!("{spelled} {name}") || *offset != 4 * index {
            differing.push(format!(
                "{block}: declared {declared:?} at {}, bound {spelled} {name} at {offset}",
                4 * index
            ));
        }
    }
    differing
}

/// The fields of a parameter block.
macro_rules! fields {
    ($block:ty: $($name:ident),+) => {
        (
            size_of::<$block>(),
            vec![$(field(
                stringify!($name),
                offset_of!($block, $name),
                |block: &$block| &block.$name,
            )),+],
        )
    };
}

fn rope_fields() -> (usize, Vec<Field>) {
    fields!(RopeParams: tokens, heads, quarter, batch_stride, token_stride, head_stride,
        second_batch_stride, second_token_stride, second_head_stride)
}

/// Every shader, and the block that the host has for it.
fn shaders() -> Vec<(&'static Shader, (usize, Vec<Field>))> {
    vec![
        (&rope2d::shader::SHADER, rope_fields()),
        (
            &upsample_bilinear2d::shader::SHADER,
            fields!(UpsampleParams: height, width, channels, to_height, to_width, batch_stride,
                row_stride, column_stride, align_corners, row_step, column_step),
        ),
        (
            &grid_sample::shader::SHADER,
            fields!(GridSampleParams: height, width, channels, places, batch_stride, row_stride,
                column_stride, border, align_corners),
        ),
        (
            &TAPS,
            fields!(TapsParams: height, width, channels, first_row, step, relu),
        ),
        (
            &layer_norm::shader::SHADER,
            fields!(LayerNormParams: columns, numbers, rows, part, turn, eps),
        ),
        (
            &linear::shader::SHADER,
            fields!(FinishParams: columns, rows, activation, has_bias, has_residual, count),
        ),
        (&GEOMETRY, fields!(GeometryParams: pixels)),
        (
            &DESCRIPTORS,
            fields!(DescriptorParams: rows, columns, patch, channels, has_confidence, pixels,
                floor),
        ),
        (
            &reciprocal::shader::SHADER,
            fields!(SearchParams: pixels, other_pixels, seeds, other_seeds, channels, maps,
                pixel_stride, seed_stride, slices, slice, halves, half_trip, map),
        ),
    ]
}

#[test]
fn shaders_declare_what_the_host_binds() {
    for (shader, (size, fields)) in shaders() {
        assert_eq!(
            differing_arguments(shader, shader.source),
            Vec::<String>::new()
        );
        let block = shader
            .arguments
            .iter()
            .find(|argument| argument.used == Use::Params)
            .unwrap()
            .element;
        assert_eq!(
            differing_fields(block, shader.source, size, &fields),
            Vec::<String>::new()
        );
    }
}

/// Of every kernel, whatever dtypes it is made for.
#[test]
fn kernels_are_of_the_types_in_their_names() {
    for (shader, _) in shaders() {
        let kernels = kernels(shader.source);
        let in_every_dtype = kernels.len() == 6;
        assert!(
            in_every_dtype || kernels.iter().all(|(name, _)| name.contains("_f32")),
            "{}: three dtypes, single and by four, or float32 alone",
            shader.op
        );
        for (name, function) in kernels {
            let vector = if name.ends_with("_x4") { "4" } else { "" };
            let (op, dtype) = name.trim_end_matches("_x4").rsplit_once('_').unwrap();
            let element = match dtype {
                "f32" => "float",
                "f16" => "half",
                "bf16" => "bfloat",
                other => panic!("{name}: no dtype is called {other}"),
            };
            let first = function
                .strip_prefix(op)
                .and_then(|types| types.strip_prefix('<'))
                .and_then(|types| types.split([',', '>']).next());
            assert_eq!(first, Some(format!("{element}{vector}").as_str()), "{name}");
            if in_every_dtype {
                let types = format!("{op}<{element}{vector}, float{vector}>");
                assert_eq!(function, types, "{name}");
            }
            assert!(op.starts_with(shader.op), "{name}");
        }
    }
}

#[test]
fn a_swapped_argument_or_field_is_noticed() {
    let shader = &rope2d::shader::SHADER;
    let exchange = |a: &str, b: &str| {
        assert!(
            shader.source.contains(a) && shader.source.contains(b),
            "{a}, {b}"
        );
        shader
            .source
            .replace(a, "\u{0}")
            .replace(b, a)
            .replace('\u{0}', b)
    };
    let sources = [
        exchange("V* first [[buffer(0)]]", "V* second [[buffer(1)]]"),
        exchange("buffer(2)", "buffer(3)"),
        shader
            .source
            .replace("device const F* table", "device const V* table"),
        shader
            .source
            .replace("device V* out", "device const V* out"),
    ];
    for source in sources {
        assert!(!differing_arguments(shader, &source).is_empty(), "{source}");
    }
    let (size, fields) = rope_fields();
    for source in [
        exchange("uint tokens;", "uint heads;"),
        shader.source.replace("uint quarter;", "float quarter;"),
        shader.source.replace("uint quarter;", ""),
    ] {
        assert!(
            !differing_fields("RopeParams", &source, size, &fields).is_empty(),
            "{source}"
        );
    }
}
