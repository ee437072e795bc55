//! The cases of the published tables, and ours.

use crate::{Case, Stage};
use mast3r::Result;
use mast3r::model::config::Predicts;
use mast3r::model::registry::Network;
use mast3r::runtime::{Optimisation, Optimisations, Precision, Runtime};

/// How the published page calls a network at a size, and what it says of it.
///
/// The figures are those of mlx-mast3r's page: Apple M4 Max, MLX in float16 and PyTorch on Metal in
/// float32, ten runs on uniform noise. They were published by others and measured on another
/// machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// As `--model` takes it.
    pub model: &'static str,
    /// Width and height; the page writes height by width.
    pub size: [u32; 2],
    /// The page's name for the row.
    pub name: &'static str,
    /// MLX in float16, milliseconds.
    pub mlx_ms: f64,
    /// PyTorch on Metal, milliseconds.
    pub torch_ms: f64,
}

/// The page's rows with a time.
pub const PUBLISHED: &[Published] = &[
    published("dune-small", [336, 336], "DUNE Small @ 336", 11.2, 20.3),
    published("dune-base", [336, 336], "DUNE Base @ 336", 32.1, 51.8),
    published("dune-small", [448, 448], "DUNE Small @ 448", 19.4, 35.1),
    published("dune-base", [448, 448], "DUNE Base @ 448", 56.2, 91.6),
    published(
        "mast3r-encoder",
        [672, 512],
        "MASt3R ViT-L @ 512",
        254.0,
        380.0,
    ),
    published("mast3r", [672, 512], "MASt3R Full @ 512", 805.0, 1210.0),
    published(
        "dunemast3r-small",
        [336, 336],
        "DuneMASt3R Small @ 336",
        184.0,
        810.0,
    ),
    published(
        "dunemast3r-small",
        [448, 448],
        "DuneMASt3R Small @ 448",
        320.0,
        1420.0,
    ),
    published(
        "dunemast3r-base",
        [336, 336],
        "DuneMASt3R Base @ 336",
        207.0,
        805.0,
    ),
    published(
        "dunemast3r-base",
        [448, 448],
        "DuneMASt3R Base @ 448",
        355.0,
        1380.0,
    ),
];

const fn published(
    model: &'static str,
    size: [u32; 2],
    name: &'static str,
    mlx_ms: f64,
    torch_ms: f64,
) -> Published {
    Published {
        model,
        size,
        name,
        mlx_ms,
        torch_ms,
    }
}

/// The size that `mast3r` was trained at and that its users give it; the page has none of it.
const USUAL: (&str, [u32; 2]) = ("mast3r", [512, 384]);
/// Small enough for a smoke run on two cores.
const QUICK: [(&str, [u32; 2]); 3] = [
    ("dune-small", [336, 336]),
    ("dune-base", [336, 336]),
    ("dunemast3r-small", [112, 112]),
];

/// Which networks at which sizes the suite times, network by network.
pub fn networks(quick: bool) -> Vec<(&'static str, [u32; 2])> {
    if quick {
        return QUICK.into();
    }
    let mut list: Vec<_> = PUBLISHED.iter().map(|row| (row.model, row.size)).collect();
    list.push(USUAL);
    let order = |model: &str| {
        mast3r::model::registry::NETWORKS
            .iter()
            .position(|network| network.name == model)
    };
    list.sort_by_key(|&(model, size)| (order(model), size[0] * size[1]));
    list
}

/// Every case of the suite, ordered so that each network is loaded once for each precision; then
/// the network of [`switched`] without each optimisation that applies, and without them all.
///
/// # Errors
/// None, as long as the tables name networks that there are.
pub fn cases(quick: bool, precisions: &[Precision], runtime: &Runtime) -> Result<Vec<Case>> {
    let networks = networks(quick);
    let mut models: Vec<&str> = networks.iter().map(|&(model, _)| model).collect();
    models.dedup();
    let mut cases = Vec::new();
    for model in models {
        let network = Network::find(model)?;
        let sizes: Vec<[u32; 2]> = networks
            .iter()
            .filter(|(name, _)| *name == model)
            .map(|&(_, size)| size)
            .collect();
        // DUNE alone has weights of its own for each size, so sizes are the outer loop.
        let groups: Vec<Vec<[u32; 2]>> = if network.predicts() == Predicts::Pairs {
            vec![sizes]
        } else {
            sizes.into_iter().map(|size| vec![size]).collect()
        };
        for sizes in groups {
            for &precision in precisions {
                for &size in &sizes {
                    let case = |stage, batch| Case {
                        network,
                        size,
                        precision,
                        stage,
                        batch,
                        optimisations: Optimisations::all(),
                    };
                    cases.push(case(Stage::Full, 1));
                    if (model, size) == stage_by_stage(quick) {
                        let parts = Stage::ALL
                            .into_iter()
                            .filter(|stage| !matches!(stage, Stage::Pairs | Stage::Full));
                        cases.extend(parts.map(|stage| case(stage, 1)));
                    }
                    if batched(quick).contains(&(model, size)) {
                        cases.extend(batches(quick).iter().map(|&batch| case(Stage::Full, batch)));
                    }
                }
            }
        }
    }
    let (model, size) = switched(quick, runtime.device().is_cpu());
    let network = Network::find(model)?;
    // Plain expressions in half precision take minutes on a CPU, where nobody would choose them.
    let few = if runtime.device().is_cpu() {
        1
    } else {
        precisions.len()
    };
    for &precision in precisions.iter().take(few) {
        let all = Optimisations::all();
        // A full run ends before matches are sought.
        let applying = Optimisation::ALL.iter().filter(|&&optimisation| {
            optimisation != Optimisation::DeviceMatching
                && optimisation.applies(runtime.device(), precision)
        });
        for optimisations in applying
            .map(|&one| all.without(one))
            .chain([Optimisations::none()])
        {
            cases.push(Case {
                network,
                size,
                precision,
                stage: Stage::Full,
                batch: 1,
                optimisations,
            });
        }
    }
    Ok(cases)
}

/// The network whose optimisations are switched off in turn, smaller on a CPU, where plain
/// expressions take long.
pub fn switched(quick: bool, on_cpu: bool) -> (&'static str, [u32; 2]) {
    match (quick, on_cpu) {
        (true, _) => QUICK[2],
        (false, true) => ("dunemast3r-small", [224, 224]),
        (false, false) => ("dunemast3r-small", [336, 336]),
    }
}

/// `WIDTHxHEIGHT`.
pub fn resolution([width, height]: [u32; 2]) -> String {
    format!("{width}x{height}")
}

/// The network that is also timed stage by stage.
pub fn stage_by_stage(quick: bool) -> (&'static str, [u32; 2]) {
    if quick { QUICK[2] } else { USUAL }
}

/// The networks that are also timed in batches.
pub fn batched(quick: bool) -> Vec<(&'static str, [u32; 2])> {
    let encoder = ("dune-base", [336, 336]);
    if quick {
        vec![QUICK[0]]
    } else {
        vec![encoder, ("dunemast3r-small", [336, 336])]
    }
}

/// Batches beyond one.
pub fn batches(quick: bool) -> &'static [usize] {
    if quick { &[2] } else { &[2, 4] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_has_every_published_row_and_loads_each_network_once_a_precision() {
        let precisions = [Precision::F32, Precision::Bf16];
        let runtime = Runtime::new(mast3r::runtime::DeviceChoice::Cpu, Precision::F32).unwrap();
        let cases = cases(false, &precisions, &runtime).unwrap();
        for row in PUBLISHED {
            for precision in precisions {
                let found = cases.iter().any(|case| {
                    (
                        case.network.name,
                        case.size,
                        case.precision,
                        case.stage,
                        case.batch,
                    ) == (row.model, row.size, precision, Stage::Full, 1)
                });
                assert!(found, "{} in {precision}", row.name);
            }
        }
        let key = |case: &Case| {
            (
                case.network.name,
                case.network.config_at(case.size[0]).tensors().len(),
                case.precision.to_string(),
            )
        };
        let (whole, switched): (Vec<_>, Vec<_>) =
            cases.iter().partition(|case| case.variant() == "default");
        assert!(
            switched.len() > 5
                && switched
                    .iter()
                    .any(|case| case.variant() == "without any optimisation")
        );
        let mut keys: Vec<_> = whole.into_iter().map(key).collect();
        keys.dedup();
        // Two DUNE encoders at two sizes, MASt3R's encoder, and three two-view networks, in two
        // precisions.
        assert_eq!(keys.len(), 2 * (2 + 2 + 1 + 3), "{keys:?}");
        for case in &cases {
            assert!(
                case.size
                    .iter()
                    .all(|side| side.is_multiple_of(case.network.patch())),
                "{case}"
            );
        }
    }
}
