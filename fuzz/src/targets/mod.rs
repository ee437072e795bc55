//! What is fuzzed: each target gives the bytes of an input to a reader, and holds what it accepts
//! to what it promises.

mod cameras;
mod clouds;
mod images;
mod pairs;
mod predictions;
mod weights;

/// A reader with the bytes to give it.
pub struct Target {
    name: &'static str,
    /// Most bytes of memory that reading one input may take.
    pub memory: usize,
    /// Reads an input; panics where the reader accepts nonsense.
    pub run: fn(&[u8]),
}

const MIB: usize = 1 << 20;

const TARGETS: [Target; 14] = [
    Target {
        name: "images",
        memory: images::MEMORY,
        run: images::image,
    },
    Target {
        name: "exif",
        memory: images::MEMORY,
        run: images::exif,
    },
    Target {
        name: "masks",
        memory: images::MEMORY,
        run: images::mask,
    },
    Target {
        name: "safetensors",
        memory: 64 * MIB,
        run: weights::safetensors,
    },
    Target {
        name: "torch",
        memory: 64 * MIB,
        run: weights::torch,
    },
    Target {
        name: "pickle",
        memory: 64 * MIB,
        run: weights::pickle,
    },
    Target {
        name: "colmap_binary",
        memory: 64 * MIB,
        run: cameras::colmap_binary,
    },
    Target {
        name: "colmap_text",
        memory: 64 * MIB,
        run: cameras::colmap_text,
    },
    Target {
        name: "cameras",
        memory: 64 * MIB,
        run: cameras::file,
    },
    Target {
        name: "ply",
        memory: clouds::MEMORY,
        run: clouds::ply,
    },
    Target {
        name: "glb",
        memory: clouds::MEMORY,
        run: clouds::glb,
    },
    Target {
        name: "pair_lists",
        memory: 64 * MIB,
        run: pairs::list,
    },
    Target {
        name: "predictions",
        memory: 64 * MIB,
        run: predictions::together,
    },
    Target {
        name: "work_folder",
        memory: 64 * MIB,
        run: predictions::apart,
    },
];

impl Target {
    /// The one that the environment variable `FUZZ_TARGET` names; the process ends with the list of
    /// all if it names none.
    pub fn chosen() -> Self {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        TARGETS
            .into_iter()
            .find(|target| target.name == name)
            .unwrap_or_else(|| {
                for target in TARGETS {
                    println!("{}", target.name);
                }
                std::process::exit(if name == "list" { 0 } else { 2 });
            })
    }
}
