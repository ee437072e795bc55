//! Weight files that cannot be used: exit code 4, what is wrong, the way out, and nothing written.

use std::fs;

use serde_json::Value;

use super::sandbox::{Sandbox, fixture};

// Not all that it forges is needed here.
#[allow(dead_code)]
#[path = "../../../src/model/checkpoint/forge.rs"]
mod forge;

/// What MASt3R's published config.json says, for the small network.
const CONFIG: &str = r#"{"conf_mode": ["exp", 1, Infinity], "depth_mode": ["exp", -Infinity, Infinity],
    "desc_conf_mode": ["exp", 0, Infinity], "two_confs": true, "output_mode": "pts3d+desc6",
    "enc_num_heads": 2, "dec_num_heads": 2}"#;

/// The small MASt3R as safetensors, its header open for changes.
struct Mast3rFile {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Mast3rFile {
    fn new() -> Self {
        let bytes = fs::read(fixture("golden/mast3r_tiny/mlx/unified_mlx.safetensors")).unwrap();
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self {
            header: serde_json::from_slice(header).unwrap(),
            data: data.to_vec(),
        }
    }

    fn fill(&mut self, tensor: &str, half: [u8; 2]) {
        let offsets = &self.header[tensor]["data_offsets"];
        let [begin, end] = [0, 1].map(|at| offsets[at].as_u64().unwrap() as usize);
        self.data[begin..end].as_chunks_mut().0.fill(half);
    }

    fn bytes(&self) -> Vec<u8> {
        forge::safetensors(&serde_json::to_string(&self.header).unwrap(), &self.data)
    }
}

/// Runs `weights` in both commands.
fn refuse(sandbox: &Sandbox, weights: &str, parts: &[&str]) {
    sandbox.write("cloud.ply", "an older cloud");
    let pair = format!("reconstruct a.png b.png --res 64x48 --weights {weights}");
    sandbox.refuse(
        &format!("{pair} -o cloud.ply --cameras cameras.json --predictions p.safetensors"),
        4,
        parts,
    );
    sandbox.refuse(
        &format!("encode a.png b.png --res 64x48 --weights {weights} -o f.safetensors"),
        4,
        parts,
    );
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("checkpoints")).unwrap();
    let length = |length: u64| [&length.to_le_bytes()[..], b"{\"a\":"].concat();
    let page = "<!DOCTYPE html><html><body>Please accept our licence</body></html>";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2754910614\n";
    let command = b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch pwned\n\x85R.";
    let list = forge::Pickle::new()
        .raw(b"](")
        .int(1)
        .int(2)
        .raw(b"e")
        .end();
    let dict = forge::Pickle::new()
        .raw(b"}(")
        .text("epoch")
        .int(3)
        .raw(b"u")
        .end();
    for (name, bytes, parts) in [
        (
            "empty.pth",
            vec![],
            &["the file is empty", "download it again"][..],
        ),
        ("page.pth", page.into(), &["HTML", "download it again"]),
        (
            "pointer.safetensors",
            pointer.into(),
            &["git-lfs pointer", "git lfs pull"],
        ),
        (
            "notes.pth",
            b"hello, these are notes".to_vec(),
            &["neither a safetensors file nor a PyTorch checkpoint"],
        ),
        (
            "bare.pth",
            b"\x80\x04\x95\x00\x00\x00\x00\x00}.".to_vec(),
            &["bare pickle", "torch.save"],
        ),
        (
            "list.pth",
            forge::zip(&[("a/data.pkl", &list)]),
            &["holds a list, not a dict of tensors", "torch.save"],
        ),
        (
            "dict.pth",
            forge::zip(&[("a/data.pkl", &dict)]),
            &["holds no tensors under `model`; it has epoch"],
        ),
        (
            "command.pth",
            forge::zip(&[("a/data.pkl", command)]),
            &["not a dict of tensors"],
        ),
        (
            "photos.zip",
            forge::zip(&[("a.jpg", b"a")]),
            &["a zip archive without a data.pkl"],
        ),
        (
            "long.safetensors",
            length(1 << 63),
            &["claims 9223372036854775808 bytes"],
        ),
        (
            "large.safetensors",
            length(4 << 30),
            &["claims 4294967296 bytes"],
        ),
        (
            "short.safetensors",
            length(90_000_000),
            &["ends inside its header", "the download is incomplete"],
        ),
    ] {
        sandbox.write(name, bytes);
        refuse(
            &sandbox,
            name,
            &[&[&*format!("error: {name}: ")], parts].concat(),
        );
    }
    refuse(
        &sandbox,
        "missing.pth",
        &[
            "error: missing.pth: no such file",
            "give the path of a checkpoint",
        ],
    );
    refuse(
        &sandbox,
        "checkpoints",
        &[
            "error: checkpoints: is a folder",
            "the weight file inside it",
        ],
    );
}

#[test]
fn damaged_weights_are_refused_before_they_are_run() {
    let sandbox = Sandbox::new();
    sandbox.write("config.json", CONFIG);
    let damaged = |name: &str, damage: &dyn Fn(&mut Mast3rFile), parts: &[&str]| {
        let mut file = Mast3rFile::new();
        damage(&mut file);
        sandbox.write(name, file.bytes());
        refuse(&sandbox, name, &[&[name], parts].concat());
    };
    let lacking = |file: &mut Mast3rFile| {
        file.header
            .retain(|name, _| !name.starts_with("dec_blocks.0.cross_attn."))
    };
    damaged(
        "lacking.safetensors",
        &lacking,
        &[
            "tensors are unusable",
            "dec_blocks.0.cross_attn.projq.weight is missing",
        ],
    );
    let misshapen = |file: &mut Mast3rFile| {
        let shape = &mut file.header["dec_blocks.1.mlp.fc1.weight"]["shape"];
        shape.as_array_mut().unwrap().reverse();
    };
    damaged(
        "misshapen.safetensors",
        &misshapen,
        &["dec_blocks.1.mlp.fc1.weight has shape [16, 64] and should have [64, 16]"],
    );
    let cut = |file: &mut Mast3rFile| file.data.truncate(file.data.len() / 2);
    damaged(
        "cut.safetensors",
        &cut,
        &["the download is incomplete or damaged"],
    );
    // The encoder's, so that both commands read it.
    let nan = |file: &mut Mast3rFile| file.fill("enc_norm.weight", [0, 0x7E]);
    damaged(
        "nan.safetensors",
        &nan,
        &[
            "24 of the 24 values of enc_norm.weight are NaN",
            "download it again",
        ],
    );

    let mut pth = sandbox.read("net.pth");
    pth.truncate(pth.len() / 2);
    sandbox.write("cut.pth", pth);
    refuse(&sandbox, "cut.pth", &["error: cut.pth: ", "incomplete"]);
}

#[test]
fn weights_that_give_no_numbers_are_reported_and_not_written() {
    let sandbox = Sandbox::new();
    sandbox.write("config.json", CONFIG);
    // Finite themselves, but the exponential of what they give is not.
    let mut file = Mast3rFile::new();
    file.fill("downstream_head1.dpt.head.4.bias", [0xFF, 0x7B]);
    file.fill("enc_norm.bias", [0xFF, 0x7B]);
    sandbox.write("wild.safetensors", file.bytes());
    sandbox.write("cloud.ply", "an older cloud");
    let line =
        "reconstruct a.png b.png --weights wild.safetensors --res 64x48 -o cloud.ply --depth maps";
    sandbox.refuse(
        line,
        4,
        &[
            "of the first view",
            "values are not finite",
            "weights do not belong",
        ],
    );
}

#[test]
fn weights_of_another_network_or_none_are_refused() {
    let sandbox = Sandbox::new();
    let pair = "reconstruct a.png b.png -o cloud.ply";
    sandbox.refuse(
        &format!("{pair} --res 64x48"),
        4,
        &[
            "mast3r: no weights",
            "`mast3r pull mast3r`",
            "--weights FILE",
        ],
    );
    sandbox.refuse(
        "encode a.png -o f --model dune-base",
        4,
        &["dune-base: no weights", "--weights FILE"],
    );
    let wrong = ["error: net.pth: holds DuneMASt3R with", "not mast3r;"];
    sandbox.refuse(
        &format!("{pair} --model mast3r --weights net.pth --res 64x48"),
        4,
        &wrong,
    );
    let wrong = [
        "error: dune.pth: holds DUNE with 3 encoder blocks 24 wide, not dunemast3r-small",
        "no known network",
    ];
    sandbox.refuse(
        &format!("{pair} --model dunemast3r-small --weights dune.pth"),
        4,
        &wrong,
    );
    let twice = [
        "dune.pth holds a DUNE encoder",
        "two files must be a DuneMASt3R decoder and its DUNE encoder",
    ];
    sandbox.refuse(
        &format!("{pair} --weights dune.pth --weights dune.pth"),
        4,
        &twice[1..],
    );
    let whole = [
        "net.pth: holds the encoder of its DuneMASt3R already",
        "leave out dune.pth",
    ];
    sandbox.refuse(
        &format!("{pair} --weights dune.pth --weights net.pth"),
        4,
        &whole,
    );
}

#[test]
fn quantised_weights_are_read_like_all_others_and_mean_almost_the_same() {
    let sandbox = Sandbox::new();
    for number in [1, 2] {
        sandbox.copy_demo_as(number, &format!("demo_{number}.jpg"));
    }
    let cameras = |rest: &str| -> Vec<f64> {
        sandbox.succeed(&format!(
            "reconstruct demo_1.jpg demo_2.jpg --res 224 --no-refine --cameras c.json {rest}"
        ));
        let cameras = sandbox.json("c.json");
        let rows = cameras["images"][1]["world_from_camera"]
            .as_array()
            .unwrap();
        let rows = rows.iter().flat_map(|row| row.as_array().unwrap());
        rows.map(|number| number.as_f64().unwrap()).collect()
    };
    let whole = cameras("--model tiny");
    let mut sizes = Vec::new();
    for (format, most) in [("f16", 0.01), ("int8", 0.03), ("int4", 0.2)] {
        let file = format!("{format}.safetensors");
        let said = sandbox.succeed(&format!("quantize tiny -o {file} --to {format}"));
        said.assert_says(&format!("tiny in {format}"));
        sizes.push(sandbox.read(&file).len());
        for precision in ["f32", "int8"] {
            let found = cameras(&format!("--weights {file} --precision {precision}"));
            for (found, whole) in found.iter().zip(&whole) {
                assert!(
                    (found - whole).abs() < most,
                    "{format} {precision}: {found} {whole}"
                );
            }
        }
    }
    assert!(
        sizes[1] < sizes[0] * 6 / 10 && sizes[2] < sizes[1] * 7 / 10,
        "{sizes:?}"
    );
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("notes.txt", "no weights");
    let refuse = |line: &str, code: i32, parts: &[&str]| {
        sandbox.refuse(&format!("quantize {line}"), code, parts);
    };
    refuse(
        "none.pth -o q.safetensors --to int8",
        4,
        &["none.pth", "no such file"],
    );
    refuse("notes.txt -o q.safetensors --to int8", 4, &["notes.txt"]);
    refuse(
        "mast3r -o q.safetensors --to int8",
        4,
        &["mast3r pull mast3r"],
    );
    refuse(
        "tiny -o none/q.safetensors --to int8",
        2,
        &["none/q.safetensors"],
    );
    refuse("tiny -o q.safetensors --to int3", 2, &["int3", "int4"]);
}
