//! The reference's outputs through the executed shaders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::emulator::{Emulator, Requests, decode};
use super::flat;
use crate::grid_sample::{GridSample, Padding};
use crate::launch::shader::{Plan, Shader};
use crate::launch::with_contiguous_channels;
use crate::rope2d::RopeTable;
use crate::upsample_bilinear2d::Upsample;
use crate::{grid_sample, rope2d, upsample_bilinear2d};

/// Largest difference over the largest magnitude, as for the other devices.
const MARK: f64 = 1e-5;

/// A file of reference tensors; of a large one it may hold every `stride`-th value only.
struct Reference {
    tensors: HashMap<String, Tensor>,
    sampled: Value,
}

impl Reference {
    fn open(op: &str) -> Self {
        let folder: PathBuf = match std::env::var_os("MAST3R_GOLDEN") {
            Some(folder) => folder.into(),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden"),
        };
        let path = folder.join("ops").join(format!("{op}.safetensors"));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let sampled = header
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get("sampled"));
        let sampled = sampled.map_or(Value::Null, |json| serde_json::from_str(json).unwrap());
        Self {
            tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap(),
            sampled,
        }
    }

    /// The names of the cases with a tensor `name<suffix>`, sorted; at least one.
    fn cases(&self, suffix: &str) -> Vec<String> {
        let names = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_suffix(suffix))
            .map(str::to_string);
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert!(!names.is_empty(), "no case with {suffix}");
        names
    }

    /// The shape of the whole tensor.
    fn shape(&self, name: &str) -> Vec<usize> {
        match self.sampled.get(name) {
            Some(entry) => serde_json::from_value(entry["shape"].clone()).unwrap(),
            None => self.tensors[name].dims().to_vec(),
        }
    }

    /// `got` row major in the reference's order of axes.
    fn compare(&self, name: &str, got: &[f64]) {
        assert_eq!(
            got.len(),
            self.shape(name).iter().product::<usize>(),
            "{name}"
        );
        let stride = self
            .sampled
            .get(name)
            .map_or(1, |entry| entry["stride"].as_u64().unwrap() as usize);
        let want = flat(&self.tensors[name]);
        assert_eq!(want.len(), got.len().div_ceil(stride), "{name}");
        let largest = want.iter().fold(0f64, |most, value| most.max(value.abs()));
        for (index, (got, want)) in got.iter().step_by(stride).zip(&want).enumerate() {
            assert!(
                (got - want).abs() <= MARK * largest,
                "{name}[{}]: {got}, should be {want}",
                index * stride
            );
        }
    }
}

/// The output of one launch, as a tensor of `dims`.
fn run<P>(
    emulator: &Emulator,
    shader: &Shader,
    plan: &Plan<P>,
    reads: &[(&str, &Tensor)],
    dims: &[usize],
) -> Tensor {
    let mut requests = Requests::default();
    requests.add(shader, plan, reads, DType::F32, 1024);
    let values = decode(&emulator.run(&requests)[0], DType::F32);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn channels_last(x: &Tensor) -> Tensor {
    with_contiguous_channels(&x.permute((0, 2, 3, 1)).unwrap()).unwrap()
}

fn channels_first(x: &Tensor) -> Vec<f64> {
    flat(&x.permute((0, 3, 1, 2)).unwrap())
}

#[test]
fn the_rotation_meets_the_reference() {
    let reference = Reference::open("rope2d");
    let shader = &rope2d::shader::SHADER;
    let emulator = Emulator::new(shader.op, shader.source);
    for case in reference.cases(".in") {
        let tokens = reference.tensors[&format!("{case}.in")]
            .transpose(1, 2)
            .unwrap();
        let positions = reference.tensors[&format!("{case}.pos")]
            .to_dtype(DType::F32)
            .unwrap();
        let mut rotated = Vec::new();
        for (item, positions) in positions.to_vec3::<f32>().unwrap().iter().enumerate() {
            let positions: Vec<[f32; 2]> =
                positions.iter().map(|place| [place[0], place[1]]).collect();
            let tokens = tokens.narrow(0, item, 1).unwrap();
            let table = RopeTable::new(&positions, tokens.dims()[3], 100., &Device::Cpu).unwrap();
            let plan = rope2d::shader::plan(&[tokens.layout()], DType::F32).unwrap();
            let reads = [
                ("first", &tokens),
                ("second", &tokens),
                ("table", table.tensor()),
            ];
            rotated.push(run(&emulator, shader, &plan, &reads, tokens.dims()));
        }
        let got = Tensor::cat(&rotated, 0).unwrap().transpose(1, 2).unwrap();
        reference.compare(&format!("{case}.out"), &flat(&got));
    }
}

#[test]
fn the_resampling_meets_the_reference_in_both_conventions() {
    let reference = Reference::open("bilinear");
    let shader = &upsample_bilinear2d::shader::SHADER;
    let emulator = Emulator::new(shader.op, shader.source);
    let mut compared = [0; 2];
    for case in reference.cases(".in") {
        let x = channels_last(&reference.tensors[&format!("{case}.in")]);
        for (name, align_corners) in [
            (format!("{case}.out"), true),
            (format!("{case}_half_pixel.out"), false),
        ] {
            if reference.tensors.contains_key(&name) {
                let shape = reference.shape(&name);
                let op = Upsample {
                    to: [shape[2], shape[3]],
                    align_corners,
                    base: None,
                };
                let plan = upsample_bilinear2d::shader::plan(&op, x.layout(), DType::F32).unwrap();
                let dims = [shape[0], shape[2], shape[3], shape[1]];
                let got = run(&emulator, shader, &plan, &[("x", &x)], &dims);
                reference.compare(&name, &channels_first(&got));
                compared[usize::from(align_corners)] += 1;
            }
        }
    }
    assert!(
        compared.iter().all(|&count| count > 0),
        "both conventions expected: {compared:?}"
    );
}

#[test]
fn the_sampling_meets_the_reference_with_both_paddings() {
    let reference = Reference::open("grid_sample");
    let shader = &grid_sample::shader::SHADER;
    let emulator = Emulator::new(shader.op, shader.source);
    let (x, grid) = (
        channels_last(&reference.tensors["in"]),
        &reference.tensors["grid"],
    );
    for (padding, padding_name) in [(Padding::Zeros, "zeros"), (Padding::Border, "border")] {
        for align_corners in [false, true] {
            let name = format!("bilinear_{padding_name}_ac{}.out", u8::from(align_corners));
            let shape = reference.shape(&name);
            let op = GridSample {
                to: [shape[2], shape[3]],
                padding,
                align_corners,
            };
            let plan = grid_sample::shader::plan(&op, x.layout(), DType::F32).unwrap();
            let dims = [shape[0], shape[2], shape[3], shape[1]];
            let got = run(
                &emulator,
                shader,
                &plan,
                &[("x", &x), ("grid", grid)],
                &dims,
            );
            reference.compare(&name, &channels_first(&got));
        }
    }
}
