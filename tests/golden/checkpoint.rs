//! Every weight file of the golden data holds exactly the tensors of the recipe, whatever its
//! format.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::{Config, EncoderKind};
use mast3r::model::registry::Network;

use crate::common::{TinyNetwork, tiny_networks};

/// The sets of files in the network's folder that each make up its weights, and whether they record
/// head counts.
fn containers(network: &TinyNetwork) -> Vec<(Vec<PathBuf>, bool)> {
    let sets: [(&[&str], bool); 11] = [
        (&["weights.safetensors"], false),
        (&["checkpoint.pth"], true),
        (&["checkpoint_module.pth"], true),
        (&["checkpoint_full_f16.pth"], true),
        (&["checkpoint.pth", "dune_backbone.safetensors"], true),
        (&["dune_backbone.safetensors", "checkpoint.pth"], true),
        (&["mlx/unified.safetensors"], false),
        (&["mlx/unified_mlx.safetensors"], false),
        (&["mlx/encoder.safetensors"], false),
        (
            &["mlx/encoder.safetensors", "mlx/decoder.safetensors"],
            false,
        ),
        (
            &["mlx/decoder.safetensors", "mlx/encoder.safetensors"],
            false,
        ),
    ];
    let is_whole = |files: &[&str]| {
        let dunemast3r = network.config.is_dune() && network.config.two_view.is_some();
        files.len() == 2
            || !dunemast3r
            || matches!(files, ["weights.safetensors" | "checkpoint_full_f16.pth"])
    };
    let sets = sets.into_iter().filter(|(files, _)| is_whole(files));
    let sets = sets.map(|(files, heads)| {
        (
            files
                .iter()
                .map(|file| network.folder.join(file))
                .collect::<Vec<_>>(),
            heads,
        )
    });
    sets.filter(|(files, _)| files.iter().all(|file| file.is_file()))
        .collect()
}

fn numbers(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .expect("an f32 tensor on the CPU");
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn weight_files_hold_the_tensors_of_the_recipe() {
    let mut compared = 0;
    for network in tiny_networks() {
        let recipe = Checkpoint::random(&network.config, &network.seed);
        for (files, records_heads) in containers(&network) {
            let heads = |config: &mut Config| {
                config.encoder.stack.heads = network.config.encoder.stack.heads;
                if let (Some(two_view), Some(tiny)) =
                    (&mut config.two_view, &network.config.two_view)
                {
                    two_view.decoder.heads = tiny.decoder.heads;
                }
            };
            let opened = if records_heads {
                Checkpoint::open(&files)
            } else {
                Checkpoint::open_with(&files, heads)
            };
            let opened = opened.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(*opened.config(), network.config, "{opened:?}");

            let half = opened.describe().ends_with("f16");
            for spec in network.config.tensors() {
                let expected = recipe.tensor(&spec.name, DType::F32, &Device::Cpu).unwrap();
                assert_eq!(expected.dims(), spec.shape, "{}", spec.name);
                let expected = if half {
                    expected
                        .to_dtype(DType::F16)
                        .and_then(|half| half.to_dtype(DType::F32))
                        .unwrap()
                } else {
                    expected
                };
                let found = opened.tensor(&spec.name, DType::F32, &Device::Cpu).unwrap();
                assert_eq!(found.dims(), spec.shape, "{}", spec.name);
                assert!(
                    numbers(&found) == numbers(&expected),
                    "{opened:?}: {} differs",
                    spec.name
                );
            }
            compared += 1;
        }
    }
    assert!(compared >= 4, "only {compared} sets of files were found");
}

#[test]
fn a_decoder_and_its_encoder_are_joined_in_either_order() {
    let networks = tiny_networks();
    let network = networks
        .iter()
        .find(|network| network.json["kind"] == "dunemast3r")
        .expect("a small DuneMASt3R");
    let recipe = Checkpoint::random(&network.config, &network.seed);
    let folder = tempfile::tempdir().unwrap();
    let (mut decoder, mut encoder) = (HashMap::new(), HashMap::new());
    for spec in network.config.tensors() {
        let tensor = recipe
            .tensor(&spec.name, DType::BF16, &Device::Cpu)
            .unwrap();
        match spec.name.strip_prefix("dune_backbone.") {
            Some(name) => encoder.insert(format!("encoder.{name}"), tensor),
            None => decoder.insert(spec.name, tensor),
        };
    }
    let [decoder_path, encoder_path] = ["a", "b"].map(|name| folder.path().join(name));
    candle_core::safetensors::save(&decoder, &decoder_path).unwrap();
    candle_core::safetensors::save(&encoder, &encoder_path).unwrap();
    for paths in [
        [&decoder_path, &encoder_path],
        [&encoder_path, &decoder_path],
    ] {
        let opened = Checkpoint::open_with(&paths.map(Clone::clone), |config| {
            *config = network.config.clone()
        })
        .unwrap();
        assert_eq!(opened.describe(), "DuneMASt3R, two safetensors, bf16");
        for spec in network.config.tensors() {
            let [expected, found] = [&recipe, &opened].map(|checkpoint| {
                let rounded = checkpoint
                    .tensor(&spec.name, DType::BF16, &Device::Cpu)
                    .unwrap();
                numbers(&rounded.to_dtype(DType::F32).unwrap())
            });
            assert!(expected == found, "{} differs", spec.name);
        }
    }
    // Some encoders of the MLX port have no register tokens; a decoder of another width is no
    // partner.
    encoder.remove("encoder.register_tokens");
    candle_core::safetensors::save(&encoder, &encoder_path).unwrap();
    let mut registers = None;
    let opened = Checkpoint::open_with(&[decoder_path.clone(), encoder_path], |config| {
        let EncoderKind::Dune {
            registers: found, ..
        } = config.encoder.kind
        else {
            panic!("a DUNE encoder")
        };
        registers = Some(found);
        config.encoder.stack.heads = 2;
        config.two_view.as_mut().expect("a decoder").decoder.heads = 2;
    });
    assert!(opened.is_ok() && registers == Some(0), "{opened:?}");
    let wider = Config {
        two_view: None,
        ..Network::find("dune-small").unwrap().config.clone()
    };
    let wider = Checkpoint::random(&wider, "0");
    let tensors = wider.config().tensors().into_iter().map(|spec| {
        let tensor = wider.tensor(&spec.name, DType::F16, &Device::Cpu).unwrap();
        (spec.name, tensor)
    });
    let wider_path = folder.path().join("c");
    candle_core::safetensors::save(&tensors.collect::<HashMap<_, _>>(), &wider_path).unwrap();
    let message = Checkpoint::open(&[wider_path, decoder_path])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("made for an encoder 24 channels wide, and this one has 384"),
        "{message}"
    );
}

#[test]
fn the_tensor_lists_agree_with_the_manifests() {
    for network in tiny_networks() {
        let manifest = network.json["tensors"].as_object().expect("a manifest");
        for spec in network.config.tensors() {
            let shape = serde_json::to_value(&spec.shape).unwrap();
            assert_eq!(manifest[&spec.name]["shape"], shape, "{}", spec.name);
        }
        let constants = manifest
            .keys()
            .filter(|name| name.starts_with("imagenet_"))
            .count()
            * 3;
        let published = network.json["param_count"].as_u64().unwrap() as usize - constants;
        assert_eq!(
            network.config.parameters(),
            published,
            "{}",
            network.folder.display()
        );
    }
}

#[test]
fn random_weights_serve_a_network_builder() {
    let network = Network::find("dune-small").unwrap();
    let checkpoint = Checkpoint::random(&network.config, "0");
    checkpoint.expect(network).unwrap();
    let weights = checkpoint.var_builder(DType::F16, &Device::Cpu);
    let norm = weights.pp("blocks.0.3.norm1").get(384, "weight").unwrap();
    assert_eq!((norm.dims(), norm.dtype()), (&[384][..], DType::F16));
    assert!(weights.contains_tensor("cls_token") && !weights.contains_tensor("mask_token"));
    let message = weights.get((1, 1), "cls_token").unwrap_err().to_string();
    assert!(
        message.contains("cls_token as [1, 1], and it is [1, 1, 384]"),
        "{message}"
    );
    assert!(weights.get(3, "nothing").is_err());
}
