//! Wrong, damaged and hostile weight files: a clear message each, no panic, and no memory beyond
//! the file's own size.

// The counting allocator below is the only unsafe code of the tests.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::{NETWORKS, Network};
use mast3r::{Error, ErrorKind};

#[path = "../src/model/checkpoint/forge.rs"]
mod forge;

/// Remembers the largest single allocation of the current thread.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every request goes to the system's allocator unchanged; the cell has no destructor and
// allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as required of our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as required of our caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
        // SAFETY: as required of our caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as required of our caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The largest single allocation of this thread while `work` runs.
fn largest_allocation(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file)
}

/// Heads of the small networks, which safetensors do not record.
fn two_heads(config: &mut mast3r::model::config::Config) {
    config.encoder.stack.heads = 2;
    if let Some(two_view) = &mut config.two_view {
        two_view.decoder.heads = 2;
    }
}

/// Opens `bytes` as a weight file and reads every tensor.
fn read_all(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    // Not emptied first, because some file systems then wait for the disk.
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let checkpoint = Checkpoint::open_with(&[path.to_path_buf()], two_heads)?;
    for spec in checkpoint.config().tensors() {
        checkpoint.tensor(&spec.name, DType::F32, &Device::Cpu)?;
    }
    Ok(())
}

fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let error = read_all(&path, bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights, "{error}");
    let message = error.to_string();
    assert!(
        message.starts_with(&path.display().to_string()),
        "{message}"
    );
    message
}

/// splitmix64: enough for mutations, and the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((word ^ (word >> 31)) % sides as u64) as usize
    }
}

/// One damage to `bytes`, at a place that `regions` make likely.
fn mutate(bytes: &mut Vec<u8>, regions: &[std::ops::Range<usize>], dice: &mut Dice) {
    let region = &regions[dice.roll(regions.len())];
    let at = (region.start + dice.roll(region.len())).min(bytes.len() - 1);
    let end = (at + 1 + dice.roll(8)).min(bytes.len());
    match dice.roll(8) {
        0 => bytes[at] ^= 1 << dice.roll(8),
        1 => bytes[at] = dice.roll(256) as u8,
        2 => bytes[at..end].fill(0xFF),
        3 => bytes[at..end].fill(0),
        4 => bytes.truncate(at.max(1)),
        5 => drop(bytes.drain(at..end)),
        6 => drop(bytes.splice(at..at, [dice.roll(256) as u8, 0xFF])),
        _ => {
            let from = region.start + dice.roll(region.len());
            let copied = bytes[from.min(bytes.len() - 1)..(from + 16).min(bytes.len())].to_vec();
            drop(bytes.splice(at..end, copied));
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

#[test]
fn damaged_files_are_refused_or_read_without_panic_or_large_allocations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let mut dice = Dice(7);
    let (mut refused, mut read) = (0, 0);
    let pth = fs::read(golden("dune_tiny/checkpoint.pth")).unwrap();
    let pth_regions = [
        0..9600,
        0..9600,
        pth.len() - 8000..pth.len(),
        pth.len() - 40..pth.len(),
        0..pth.len(),
    ];
    let safetensors = fs::read(golden("dune_tiny/mlx/encoder.safetensors")).unwrap();
    let safetensors_regions = [0..10, 8..4000, 0..safetensors.len()];
    for (original, regions) in [
        (&pth, &pth_regions[..]),
        (&safetensors, &safetensors_regions[..]),
    ] {
        assert!(read_all(&path, original).is_ok());
        for _ in 0..1200 {
            let mut bytes = original.clone();
            for _ in 0..1 + dice.roll(3) {
                mutate(&mut bytes, regions, &mut dice);
            }
            let mut outcome = Ok(());
            let largest = largest_allocation(|| outcome = read_all(&path, &bytes));
            assert!(
                largest <= 2 * original.len() + (64 << 10),
                "{largest} bytes at once: {outcome:?}"
            );
            match outcome {
                Ok(()) => read += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Weights, "{error}");
                    refused += 1;
                }
            }
        }
    }
    // Damage to the numbers themselves cannot be told from other numbers; the rest must be caught.
    assert!(
        refused > 1200 && read > 100,
        "{refused} refused, {read} read"
    );
}

#[test]
fn hostile_lengths_allocate_nothing() {
    let length = |length: u64| [&length.to_le_bytes()[..], b"{\"a\":"].concat();
    let pickled = |pickle: &[u8]| forge::zip(&[("a/data.pkl", pickle)]);
    for (bytes, reason) in [
        (length(1 << 63), "claims 9223372036854775808 bytes"),
        (length(4 << 30), "claims 4294967296 bytes"),
        (length(99_000_000), "ends inside its header"),
        (
            pickled(b"\x80\x02X\xff\xff\xff\xffabc."),
            "4294967295 bytes are announced",
        ),
        (
            pickled(b"\x80\x02\x8b\xff\xff\xff\x7fabc."),
            "2147483647 bytes are announced",
        ),
        (
            pickled(b"\x80\x04\x8d\0\0\0\0\0\0\0\x80abc."),
            "9223372036854775808 bytes are announced",
        ),
        (pickled(b"\x80\x02r\xff\xff\xff\xff."), "stack is empty"),
    ] {
        let mut message = String::new();
        let largest = largest_allocation(|| message = refusal(&bytes));
        assert!(message.contains(reason), "{message}");
        assert!(largest < 64 << 10, "{largest} bytes at once for: {message}");
    }
    // A few megabytes of nested brackets, marks or values end at a bound.
    for opcode in *b"(]N)2" {
        let pickle = [b"\x80\x02N".to_vec(), vec![opcode; 4 << 20]].concat();
        let bytes = pickled(&pickle);
        let mut message = String::new();
        let largest = largest_allocation(|| message = refusal(&bytes));
        assert!(message.contains("more than 524288 values"), "{message}");
        assert!(largest <= 64 << 20, "{largest} bytes at once");
    }
    let nested = forge::safetensors(&"{\"a\":".repeat(1 << 20), b"");
    assert!(refusal(&nested).contains("header is damaged"));
}

#[test]
fn missing_and_misshapen_tensors_are_listed_before_any_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let config = &Network::find("dune-small").unwrap().config;
    // A header can be had without data behind it if every tensor has the right shape and no file is
    // that short.
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for spec in config.tensors() {
        if spec.name.contains("blocks.0.7.") {
            continue;
        }
        let mut shape = spec.shape.clone();
        if spec.name == "blocks.0.2.mlp.fc2.weight" {
            shape.reverse();
        }
        let end = at + 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]});
        header.insert(spec.name, entry);
        at = end;
    }
    let header = serde_json::to_string(&header).unwrap();
    fs::write(&path, forge::safetensors(&header, b"")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    let message = Checkpoint::open(&[path]).unwrap_err().to_string();
    assert!(
        message.contains("15 of the network's 175 tensors are unusable"),
        "{message}"
    );
    assert!(
        message.contains("has shape [1536, 384] and should have [384, 1536]"),
        "{message}"
    );
    assert!(
        message.contains("blocks.0.7.norm1.bias is missing") || message.contains("and 5 more"),
        "{message}"
    );
    assert_eq!(
        message.matches(';').count(),
        10,
        "ten are listed and the rest counted: {message}"
    );
}

#[test]
fn weights_of_another_network_say_which_model_fits() {
    let folder = tempfile::tempdir().unwrap();
    for network in NETWORKS {
        let checkpoint = Checkpoint::random(&network.config, "0");
        for other in NETWORKS {
            let fits = other.name == network.name
                || (other.name, network.name) == ("mast3r-encoder", "mast3r");
            let outcome = checkpoint.expect(other);
            assert_eq!(
                outcome.is_ok(),
                fits,
                "{} as {}: {outcome:?}",
                network.name,
                other.name
            );
            if let Err(error) = outcome {
                let message = error.to_string();
                assert!(
                    message.contains(&format!("they are of the network {}", network.name)),
                    "{message}"
                );
            }
        }
    }
    let tiny = Checkpoint::open(&[golden("dune_tiny/checkpoint.pth")]).unwrap();
    let message = tiny
        .expect(Network::find("dune-base").unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("DUNE with 3 encoder blocks 24 wide, not dune-base; no known network"),
        "{message}"
    );
    assert!(
        tiny.describe().contains("DUNE, PyTorch .pth, f32"),
        "{}",
        tiny.describe()
    );
    drop(folder);
}

#[test]
fn the_right_number_and_kind_of_files_is_asked_for() {
    let dune = golden("dune_tiny/checkpoint.pth");
    let whole = golden("dunemast3r_tiny/checkpoint_full_f16.pth");
    let message = |paths: &[&PathBuf]| {
        let paths: Vec<_> = paths.iter().map(|path| (*path).clone()).collect();
        Checkpoint::open(&paths).unwrap_err().to_string()
    };
    assert!(message(&[]).contains("one file, or two"));
    assert!(message(&[&dune, &dune, &dune]).contains("one file, or two"));
    assert!(message(&[&dune, &dune]).contains("holds a DUNE encoder, and"));
    assert!(message(&[&dune, &whole]).contains("holds the encoder of its DuneMASt3R already"));
    assert!(message(&[&dune.with_file_name("none.pth")]).contains("no such file"));
    assert!(message(&[&golden("dune_tiny")]).contains("is a folder"));
}

#[test]
fn a_decoder_alone_asks_for_its_encoder() {
    let tensor =
        |pickle: forge::Pickle| pickle.tensor("0", "FloatStorage", 6, (0, &[2, 3], &[3, 1]));
    let pickle = forge::Pickle::new()
        .raw(b"}(")
        .text("dune_backbone_name")
        .text("dune_vitbase_14_448_paper_encoder");
    let pickle = tensor(
        pickle
            .text("model")
            .raw(b"}")
            .text("mast3r.decoder_embed.weight"),
    )
    .raw(b"su")
    .end();
    let bytes = forge::zip(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 24])]);
    let message = refusal(&bytes);
    assert!(
        message.contains("without its DUNE encoder (dune_vitbase_14_448_paper_encoder)"),
        "{message}"
    );
    assert!(message.contains("and the encoder"), "{message}");

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let missing = |path: &std::path::Path| Checkpoint::missing_encoder(path).unwrap();
    assert_eq!(
        missing(file.path()).as_deref(),
        Some("dune_vitbase_14_448_paper_encoder")
    );
    assert_eq!(
        missing(&golden("dunemast3r_tiny/checkpoint_full_f16.pth")),
        None
    );
    assert_eq!(missing(&golden("dune_tiny/checkpoint.pth")), None);
}

#[test]
fn damaged_numbers_are_named_when_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let mut bytes = fs::read(golden("dune_tiny/mlx/encoder.safetensors")).unwrap();
    // The file ends with `register_tokens`; two NaN of half precision.
    let end = bytes.len();
    bytes[end - 4..].fill(0xFF);
    fs::write(&path, &bytes).unwrap();
    let checkpoint = Checkpoint::open_with(&[path], two_heads).unwrap();
    let weights = checkpoint.var_builder(DType::F32, &Device::Cpu);
    let error = weights.get((1, 4, 24), "register_tokens").unwrap_err();
    let message = checkpoint.explain(error).to_string();
    assert!(
        message.contains("2 of the 96 values of register_tokens are NaN or infinite"),
        "{message}"
    );
    assert!(weights.get(24, "norm.weight").is_ok());
}

#[test]
fn a_config_json_beside_safetensors_gives_head_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::copy(golden("mast3r_tiny/mlx/unified_mlx.safetensors"), &path).unwrap();
    let paths = [path];
    let message = Checkpoint::open(&paths).unwrap_err().to_string();
    assert!(
        message.contains("put the config.json of the weights beside them"),
        "{message}"
    );

    let config = |text: &str| fs::write(folder.path().join("config.json"), text).unwrap();
    let modes = r#""conf_mode": ["exp", 1, Infinity], "depth_mode": ["exp", -Infinity, Infinity], "two_confs": true"#;
    let heads = r#""enc_num_heads": 2, "dec_num_heads": 4, "output_mode": "pts3d+desc6""#;
    config(&format!(
        "{{{modes}, {heads}, \"desc_conf_mode\": [\"exp\", 0, Infinity]}}"
    ));
    let checkpoint = Checkpoint::open(&paths).unwrap();
    let two_view = checkpoint.config().two_view.as_ref().unwrap();
    assert_eq!(
        (
            checkpoint.config().encoder.stack.heads,
            two_view.decoder.heads
        ),
        (2, 4)
    );
    assert_eq!(two_view.head.descriptor_confidence_floor, 0.0);

    config(&format!("{{{modes}, {heads}}}"));
    let checkpoint = Checkpoint::open(&paths).unwrap();
    assert_eq!(
        checkpoint
            .config()
            .two_view
            .as_ref()
            .unwrap()
            .head
            .descriptor_confidence_floor,
        1.0
    );

    for (text, reason) in [
        (
            format!("{{{heads}, \"enc_embed_dim\": 1024}}"),
            "says enc_embed_dim=1024, and the tensors are 24 wide",
        ),
        (
            format!("{{{heads}, \"pos_embed\": \"cosine\"}}"),
            "says pos_embed='cosine', and only 'RoPE100'",
        ),
        (
            format!("{{{heads}}}"),
            "says output_mode='pts3d+desc6', and the tensors make 7 channels",
        ),
        (
            "{\"enc_num_heads\": 5, \"dec_num_heads\": 2, \"two_confs\": true}".into(),
            "5 attention heads do not divide",
        ),
        (
            "{".into(),
            "config.json: is beside the weights and cannot be read",
        ),
    ] {
        config(&text);
        let message = Checkpoint::open(&paths).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    // Another program's file beside an encoder that needs none is left alone.
    let encoder = folder.path().join("encoder.safetensors");
    fs::copy(golden("dune_tiny/mlx/encoder.safetensors"), &encoder).unwrap();
    assert!(Checkpoint::open_with(&[encoder], two_heads).is_ok());
}
