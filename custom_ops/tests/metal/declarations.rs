//! The shaders' own declarations against what the host binds: argument by argument, field by field.

use std::mem::{offset_of, size_of};

use super::emulator::kernels;
use crate::conv2d::shader::{SHADER as TAPS, TapsParams};
use crate::grid_sample::{self, GridSampleParams};
use crate::launch::shader::{Shader, Use};
use crate::rope2d::{self, RopeParams};
use crate::upsample_bilinear2d::{self, UpsampleParams};

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
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Where the declared arguments of a shader's kernel differ from the host's table.
fn differing_arguments(shader: &Shader, source: &str) -> Vec<String> {
    let declared = words(between(
        &code(source),
        &format!("[[kernel]] void {}(", shader.op),
        ") {",
    ));
    let declared: Vec<&str> = declared.split(", ").collect();
    let mut wanted: Vec<String> = shader
        .arguments
        .iter()
        .enumerate()
        .map(|(index, argument)| {
            let (name, element) = (argument.name, argument.element);
            match argument.used {
                Use::Read => format!("device const {element}* {name} [[buffer({index})]]"),
                Use::Written => format!("device {element}* {name} [[buffer({index})]]"),
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

fn rope_fields() -> Vec<Field> {
    type P = RopeParams;
    vec![
        field("tokens", offset_of!(P, tokens), |p: &P| &p.tokens),
        field("heads", offset_of!(P, heads), |p: &P| &p.heads),
        field("quarter", offset_of!(P, quarter), |p: &P| &p.quarter),
        field("batch_stride", offset_of!(P, batch_stride), |p: &P| {
            &p.batch_stride
        }),
        field("token_stride", offset_of!(P, token_stride), |p: &P| {
            &p.token_stride
        }),
        field("head_stride", offset_of!(P, head_stride), |p: &P| {
            &p.head_stride
        }),
        field(
            "second_batch_stride",
            offset_of!(P, second_batch_stride),
            |p: &P| &p.second_batch_stride,
        ),
        field(
            "second_token_stride",
            offset_of!(P, second_token_stride),
            |p: &P| &p.second_token_stride,
        ),
        field(
            "second_head_stride",
            offset_of!(P, second_head_stride),
            |p: &P| &p.second_head_stride,
        ),
    ]
}

fn upsample_fields() -> Vec<Field> {
    type P = UpsampleParams;
    vec![
        field("height", offset_of!(P, height), |p: &P| &p.height),
        field("width", offset_of!(P, width), |p: &P| &p.width),
        field("channels", offset_of!(P, channels), |p: &P| &p.channels),
        field("to_height", offset_of!(P, to_height), |p: &P| &p.to_height),
        field("to_width", offset_of!(P, to_width), |p: &P| &p.to_width),
        field("batch_stride", offset_of!(P, batch_stride), |p: &P| {
            &p.batch_stride
        }),
        field("row_stride", offset_of!(P, row_stride), |p: &P| {
            &p.row_stride
        }),
        field("column_stride", offset_of!(P, column_stride), |p: &P| {
            &p.column_stride
        }),
        field("align_corners", offset_of!(P, align_corners), |p: &P| {
            &p.align_corners
        }),
        field("row_step", offset_of!(P, row_step), |p: &P| &p.row_step),
        field("column_step", offset_of!(P, column_step), |p: &P| {
            &p.column_step
        }),
    ]
}

fn grid_sample_fields() -> Vec<Field> {
    type P = GridSampleParams;
    vec![
        field("height", offset_of!(P, height), |p: &P| &p.height),
        field("width", offset_of!(P, width), |p: &P| &p.width),
        field("channels", offset_of!(P, channels), |p: &P| &p.channels),
        field("places", offset_of!(P, places), |p: &P| &p.places),
        field("batch_stride", offset_of!(P, batch_stride), |p: &P| {
            &p.batch_stride
        }),
        field("row_stride", offset_of!(P, row_stride), |p: &P| {
            &p.row_stride
        }),
        field("column_stride", offset_of!(P, column_stride), |p: &P| {
            &p.column_stride
        }),
        field("border", offset_of!(P, border), |p: &P| &p.border),
        field("align_corners", offset_of!(P, align_corners), |p: &P| {
            &p.align_corners
        }),
    ]
}

fn taps_fields() -> Vec<Field> {
    type P = TapsParams;
    vec![
        field("height", offset_of!(P, height), |p: &P| &p.height),
        field("width", offset_of!(P, width), |p: &P| &p.width),
        field("channels", offset_of!(P, channels), |p: &P| &p.channels),
        field("first_row", offset_of!(P, first_row), |p: &P| &p.first_row),
        field("relu", offset_of!(P, relu), |p: &P| &p.relu),
    ]
}

#[test]
fn shaders_declare_what_the_host_binds() {
    let ops = [
        (
            &rope2d::shader::SHADER,
            size_of::<RopeParams>(),
            rope_fields(),
        ),
        (
            &upsample_bilinear2d::shader::SHADER,
            size_of::<UpsampleParams>(),
            upsample_fields(),
        ),
        (
            &grid_sample::shader::SHADER,
            size_of::<GridSampleParams>(),
            grid_sample_fields(),
        ),
        (&TAPS, size_of::<TapsParams>(), taps_fields()),
    ];
    for (shader, size, fields) in ops {
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
        for (name, function) in kernels(shader.source) {
            let vector = if name.ends_with("_x4") { "4" } else { "" };
            let element = match name.trim_start_matches(shader.op).trim_end_matches("_x4") {
                "_f32" => "float",
                "_f16" => "half",
                "_bf16" => "bfloat",
                other => panic!("{name}: no dtype is called {other}"),
            };
            assert_eq!(
                function,
                format!("{}<{element}{vector}, float{vector}>", shader.op),
                "{name}"
            );
        }
        assert_eq!(
            kernels(shader.source).len(),
            6,
            "{}: three dtypes, single and by four",
            shader.op
        );
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
    let size = size_of::<RopeParams>();
    for source in [
        exchange("uint tokens;", "uint heads;"),
        shader.source.replace("uint quarter;", "float quarter;"),
        shader.source.replace("uint quarter;", ""),
    ] {
        assert!(
            !differing_fields("RopeParams", &source, size, &rope_fields()).is_empty(),
            "{source}"
        );
    }
}
