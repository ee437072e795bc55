//! What good runs write, with small networks.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use super::sandbox::{Sandbox, floats, npy, ply};

const PAIR: &str = "reconstruct a.png b.png --weights net.pth --res 56x42";
const MANY: &str = "encode a.png b.png --weights dune.pth --res 56x42";
/// Pixels of both views at that size.
const POINTS: usize = 2 * 56 * 42;

fn metadata(bytes: &[u8]) -> std::collections::HashMap<String, String> {
    SafeTensors::read_metadata(bytes)
        .unwrap()
        .1
        .metadata()
        .clone()
        .unwrap()
}

fn is_number_or_null(value: &Value) -> bool {
    value.is_null() || value.as_f64().is_some_and(f64::is_finite)
}

#[test]
fn a_pair_becomes_a_cloud_and_everything_else_that_is_asked_for() {
    let sandbox = Sandbox::new();
    let outputs = "-o cloud.ply --cameras cameras.json --matches matches.csv --depth maps --predictions raw.safetensors";
    let outcome = sandbox.succeed_but_for_cameras(&format!("{PAIR} {outputs} --json"));
    for name in [
        "cloud.ply",
        "cameras.json",
        "matches.csv",
        "maps",
        "raw.safetensors",
    ] {
        outcome.assert_says(name);
    }

    let cloud = ply(&sandbox.read("cloud.ply"));
    assert_eq!(cloud.positions.len(), POINTS);
    assert!(
        cloud
            .positions
            .as_flattened()
            .iter()
            .all(|value| value.is_finite())
    );
    assert!(
        cloud
            .confidences
            .iter()
            .all(|value| *value >= 1.0 && value.is_finite())
    );

    let summary = outcome.json();
    assert_eq!(summary["points"]["total"], POINTS);
    assert_eq!(summary["points"]["kept"], POINTS);
    assert_eq!(summary["outputs"]["cloud"], "cloud.ply");
    assert_eq!(summary["views"][1]["name"], "b.png");
    assert_eq!(summary["precision"], "f32");
    assert_eq!(
        (&summary["format"], &summary["version"]),
        (&"mast3r-summary".into(), &1.into())
    );
    assert!(
        summary["weights"].as_str().unwrap().contains("DuneMASt3R"),
        "{summary}"
    );
    assert!(summary["seconds"]["total"].as_f64().unwrap() > 0.0);

    let cameras = sandbox.json("cameras.json");
    assert_eq!(
        (&cameras["format"], &cameras["version"]),
        (&"mast3r-cameras".into(), &1.into())
    );
    assert_eq!(cameras["images"].as_array().unwrap().len(), 2);
    for (index, (name, file_size)) in [("a.png", [161, 107]), ("b.png", [61, 90])]
        .into_iter()
        .enumerate()
    {
        let image = &cameras["images"][index];
        assert_eq!(image["name"], name);
        for (size, intrinsics) in [([56, 42], image), (file_size, &image["file"])] {
            assert_eq!([&intrinsics["width"], &intrinsics["height"]], size);
            let keys = ["fx", "fy", "cx", "cy"];
            assert!(
                keys.iter()
                    .all(|key| is_number_or_null(intrinsics.get(*key).unwrap())),
                "{intrinsics}"
            );
        }
        let pose = image.get("world_from_camera").unwrap();
        let is_row = |row: &Value| {
            row.as_array()
                .is_some_and(|row| row.len() == 4 && row.iter().all(Value::is_number))
        };
        let is_matrix = pose
            .as_array()
            .is_some_and(|rows| rows.len() == 4 && rows.iter().all(is_row));
        assert!(
            is_matrix || (pose.is_null() && summary["cameras_error"].is_string()),
            "{pose}"
        );
    }

    let matches = String::from_utf8(sandbox.read("matches.csv")).unwrap();
    let mut lines = matches.lines();
    assert_eq!(
        lines.next(),
        Some("x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2")
    );
    let rows: Vec<Vec<f64>> = lines
        .map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect())
        .collect();
    assert_eq!(summary["matches"], rows.len());
    for row in rows {
        let most = [55.0, 41.0, 55.0, 41.0, f64::MAX, 161.0, 107.0, 61.0, 90.0];
        assert!(
            row.len() == 9
                && row
                    .iter()
                    .zip(most)
                    .all(|(cell, most)| (-0.5..=most).contains(cell)),
            "{row:?}"
        );
    }

    for stem in ["a", "b"] {
        let png =
            image::load_from_memory(&sandbox.read(&format!("maps/{stem}.depth.png"))).unwrap();
        assert_eq!(
            (png.width(), png.height(), png.color()),
            (56, 42, image::ColorType::L16)
        );
        let preview =
            image::load_from_memory(&sandbox.read(&format!("maps/{stem}.depth.preview.png")))
                .unwrap();
        assert_eq!((preview.width(), preview.height()), (56, 42));
        let (shape, _) = npy(&sandbox.read(&format!("maps/{stem}.depth.npy")));
        assert_eq!(shape, [42, 56]);
        let (shape, confidences) = npy(&sandbox.read(&format!("maps/{stem}.confidence.npy")));
        assert!(shape == [42, 56] && confidences.iter().all(|value| *value >= 1.0));
    }

    let raw = sandbox.read("raw.safetensors");
    let tensors = SafeTensors::deserialize(&raw).unwrap();
    for view in [1, 2] {
        for (name, shape) in [
            ("pts3d", &[42, 56, 3][..]),
            ("conf", &[42, 56]),
            ("desc", &[42, 56, 6]),
            ("desc_conf", &[42, 56]),
        ] {
            let tensor = tensors.tensor(&format!("{name}.{view}")).unwrap();
            assert_eq!(
                (tensor.shape(), tensor.dtype()),
                (shape, safetensors::Dtype::F32),
                "{name}.{view}"
            );
        }
        let framing: Value =
            serde_json::from_str(&metadata(&raw)[&format!("view.{view}")]).unwrap();
        assert_eq!(framing["name"], ["a.png", "b.png"][view - 1]);
        assert_eq!([&framing["width"], &framing["height"]], [56, 42]);
    }
    let points = floats(tensors.tensor("pts3d.1").unwrap().data());
    assert_eq!(points[..3], cloud.positions[0]);
}

#[test]
fn a_preview_shows_more_than_its_background() {
    let sandbox = Sandbox::new();
    let line =
        format!("{PAIR} --preview p.PNG --preview-size 320x200 --preview-angle -30,45 --json");
    let summary = sandbox.succeed_but_for_cameras(&line).json();
    assert_eq!(
        (&summary["outputs"]["preview"], &summary["points"]["kept"]),
        (&"p.PNG".into(), &POINTS.into())
    );
    let image = image::load_from_memory(&sandbox.read("p.PNG"))
        .unwrap()
        .to_rgb8();
    assert_eq!(image.dimensions(), (320, 200));
    let background = image.get_pixel(0, 0);
    let drawn = image.pixels().filter(|pixel| *pixel != background).count();
    assert!(drawn > 320 * 200 / 20, "{drawn} pixels are drawn");

    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o c.ply --preview whole.png --threads 1"));
    sandbox.succeed_but_for_cameras(&format!("{PAIR} --preview again.png --threads 2"));
    let whole = sandbox.read("whole.png");
    assert!(
        whole == sandbox.read("again.png"),
        "threads and other outputs change nothing"
    );
    assert_eq!(
        image::load_from_memory(&whole)
            .unwrap()
            .to_rgb8()
            .dimensions(),
        (1280, 960)
    );
}

#[test]
fn standard_output_takes_the_same_cloud() {
    let sandbox = Sandbox::new();
    let quiet = sandbox.succeed_but_for_cameras(&format!("{PAIR} -o cloud.ply -q"));
    assert!(
        quiet.stderr.lines().count() == 1 && quiet.stdout.is_empty(),
        "{}",
        quiet.stderr
    );
    let piped = sandbox.succeed_but_for_cameras(&format!("{PAIR} -o - --cameras c.json"));
    assert!(
        piped.stdout == sandbox.read("cloud.ply") && piped.stderr.contains("c.json"),
        "{}",
        piped.stderr
    );
}

#[test]
fn a_glb_is_told_by_its_extension() {
    let sandbox = Sandbox::new();
    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o cloud.GLB"));
    let bytes = sandbox.read("cloud.GLB");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(
        (&bytes[..4], word(4), word(8) as usize),
        (&b"glTF"[..], 2, bytes.len())
    );
    let json: Value = serde_json::from_slice(&bytes[20..20 + word(12) as usize]).unwrap();
    assert_eq!(
        (&json["asset"]["version"], &bytes[16..20]),
        (&"2.0".into(), &b"JSON"[..])
    );
}

#[test]
fn an_older_cloud_stays_whole_until_the_new_one_is() {
    let sandbox = Sandbox::new();
    sandbox.write("cloud.ply", "an older cloud");
    sandbox.refuse(
        &format!("{PAIR} -o cloud.ply --min-confidence 1e30"),
        2,
        &["keeps none of 4704 points"],
    );
    assert_eq!(sandbox.read("cloud.ply"), b"an older cloud");
    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o cloud.ply"));
    assert_eq!(ply(&sandbox.read("cloud.ply")).positions.len(), POINTS);
}

#[test]
fn filters_keep_the_confident_points() {
    let sandbox = Sandbox::new();
    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o all.ply --symmetric --match-step 4"));
    let mut all = ply(&sandbox.read("all.ply")).confidences;
    all.sort_by(f32::total_cmp);
    let median = all[all.len() / 2];
    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o some.ply --min-confidence {median}"));
    let some = ply(&sandbox.read("some.ply")).confidences;
    assert_eq!(
        some.len(),
        all.iter()
            .filter(|confidence| **confidence >= median)
            .count()
    );
    let both = format!("{PAIR} -o few.ply --keep-percentile 10 --min-confidence {median} --json");
    let points = &sandbox.succeed_but_for_cameras(&both).json()["points"];
    let counts = [
        "masked",
        "not_finite",
        "contradicted",
        "below_min_confidence",
        "below_percentile",
        "kept",
    ]
    .map(|name| points[name].as_u64().unwrap() as usize);
    assert_eq!(counts.iter().sum::<usize>(), POINTS, "{points}");
    assert_eq!(counts[..3], [0; 3], "{points}");
    assert!(counts[3..].iter().all(|count| *count > 0), "{points}");
    assert_eq!(counts[5], ply(&sandbox.read("few.ply")).positions.len());
    sandbox.succeed_but_for_cameras(&format!("{PAIR} -o few.ply --keep-percentile 10"));
    let few = ply(&sandbox.read("few.ply")).confidences;
    assert!(
        (all.len() / 10..=all.len() / 9).contains(&few.len()),
        "{} of {}",
        few.len(),
        all.len()
    );
    assert!(few.iter().all(|confidence| *confidence >= median));
}

#[test]
fn images_may_differ_in_size_and_orientation() {
    let sandbox = Sandbox::new();
    sandbox.copy("images/exif_6.jpg", "turned.jpg");
    let line = "reconstruct a.png turned.jpg --weights net.pth --res 56 -o c.ply --predictions p.safetensors --cameras c.json";
    sandbox.succeed_but_for_cameras(line);
    let raw = sandbox.read("p.safetensors");
    let tensors = SafeTensors::deserialize(&raw).unwrap();
    assert_eq!(tensors.tensor("pts3d.1").unwrap().shape(), [28, 56, 3]);
    assert_eq!(tensors.tensor("conf.2").unwrap().shape(), [56, 28]);
    assert_eq!(ply(&sandbox.read("c.ply")).positions.len(), 2 * 28 * 56);
    // Stored lying down, 300x200; upright by its EXIF orientation.
    let file = &sandbox.json("c.json")["images"][1]["file"];
    assert_eq!([&file["width"], &file["height"]], [200, 300]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let sandbox = Sandbox::new();
    for precision in ["f32", "bf16"] {
        for threads in [1, 2] {
            let names = format!(
                "-o {threads}.ply --predictions {threads}.safetensors --matches {threads}.csv"
            );
            sandbox.succeed_but_for_cameras(&format!(
                "{PAIR} {names} --threads {threads} --precision {precision}"
            ));
        }
        for extension in ["ply", "safetensors", "csv"] {
            let [one, two] = [1, 2].map(|threads| sandbox.read(&format!("{threads}.{extension}")));
            assert!(
                one == two,
                "{extension} differs between one and two threads in {precision}"
            );
        }
    }
}

#[test]
fn features_are_the_same_in_a_file_and_in_a_folder() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("other")).unwrap();
    sandbox.copy("images/square.png", "other/a.png");
    let many = "encode a.png b.png other/a.png --weights dune.pth --res 56";
    let summary = sandbox
        .succeed(&format!("{many} -o f.safetensors --pca preview.png --json"))
        .json();
    assert_eq!(
        (&summary["images"], &summary["outputs"]["features"]),
        (&3.into(), &"f.safetensors".into())
    );
    sandbox.succeed(&format!("{many} -o features"));

    let bytes = sandbox.read("f.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let index = sandbox.json("features/index.json");
    let shapes = [
        ("a.png", [2, 4, 24]),
        ("b.png", [4, 2, 24]),
        ("other/a.png", [4, 4, 24]),
    ];
    assert_eq!(tensors.len(), shapes.len());
    for (entry, (name, shape)) in shapes.into_iter().enumerate() {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape, "{name}");
        let entry = &index["tensors"][entry];
        assert_eq!(entry["name"], name);
        let (npy_shape, values) =
            npy(&sandbox.read(&format!("features/{}", entry["file"].as_str().unwrap())));
        assert_eq!(
            (npy_shape, values),
            (shape.to_vec(), floats(tensor.data())),
            "{name}"
        );
        let framing: Value =
            serde_json::from_str(&metadata(&bytes)[&format!("view.{name}")]).unwrap();
        assert_eq!(framing["width"], shape[1] * 14);
    }
    let preview = image::load_from_memory(&sandbox.read("preview.png"))
        .unwrap()
        .to_rgb8();
    assert!(
        preview.width() >= 4 * 12
            && preview
                .pixels()
                .any(|pixel| pixel != preview.get_pixel(0, 0))
    );
}

#[test]
fn the_last_norm_of_dune_is_a_choice() {
    let sandbox = Sandbox::new();
    let read = |options: &str| {
        sandbox.succeed(&format!("{MANY} -o f.safetensors {options}"));
        sandbox.read("f.safetensors")
    };
    let (default, norm, raw) = (read(""), read("--no-norm --norm"), read("--no-norm"));
    assert!(default == norm && norm != raw);
    assert_eq!(
        (&*metadata(&norm)["norm"], &*metadata(&raw)["norm"]),
        ("true", "false")
    );
}

#[test]
fn completions_and_manual_pages_know_every_command_and_option() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script =
            String::from_utf8(sandbox.succeed(&format!("completions {shell}")).stdout).unwrap();
        for word in [
            "reconstruct",
            "profile",
            "keep-percentile",
            "export-markdown",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    sandbox.refuse("completions tcsh", 2, &["tcsh", "bash"]);

    let page = String::from_utf8(sandbox.succeed("man").stdout).unwrap();
    assert!(
        page.contains(".TH mast3r 1") && page.contains("Exit codes"),
        "{page}"
    );
    sandbox.succeed("man --folder .");
    for command in ["reconstruct", "encode", "bench", "profile"] {
        let page = String::from_utf8(sandbox.read(&format!("mast3r-{command}.1"))).unwrap();
        assert!(page.contains("\\-\\-precision"), "{command}: {page}");
    }
}

#[test]
fn the_long_version_names_features_and_devices() {
    let text = String::from_utf8(Sandbox::new().succeed("--version").stdout).unwrap();
    assert!(
        text.starts_with(concat!(
            "mast3r ",
            env!("CARGO_PKG_VERSION"),
            "\nfeatures: "
        )),
        "{text}"
    );
    assert!(text.contains("\ndevices: cpu"), "{text}");
}
