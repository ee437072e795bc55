//! `mast3r bench`, with the smallest network at a small size.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const SMALL: &str = "bench --model dune-small --res 56x70 --warmup 1 --runs 3";

fn rows(report: &Value) -> &Vec<Value> {
    report["results"].as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn every_run_and_all_terms_are_in_the_exports() {
    let sandbox = Sandbox::new();
    let exports = "--export-json r.json --export-markdown r.md --export-csv r.csv";
    let outcome = sandbox.succeed(&format!(
        "{SMALL} --precision bf16,f32 --batch 1,2 {exports}"
    ));
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(
        text.contains("weights: random, seed 0") && text.contains("dune-small"),
        "{text}"
    );

    let report = sandbox.json("r.json");
    assert!(number(&report["machine"]["memory_gib"]) > 0.1);
    assert!(number(&report["peaks"]["f32"]) > 0.1 && number(&report["peaks"]["bf16"]) > 0.1);
    let terms: Vec<_> = rows(&report)
        .iter()
        .map(|row| {
            (
                row["precision"].as_str().unwrap(),
                row["batch"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        terms,
        [("f32", 1), ("f32", 2), ("bf16", 1), ("bf16", 2)],
        "float32 comes first"
    );
    for row in rows(&report) {
        let runs: Vec<f64> = row["runs_ms"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        assert_eq!(runs.len(), 3);
        let (min, median, max) = (
            number(&row["min_ms"]),
            number(&row["median_ms"]),
            number(&row["max_ms"]),
        );
        assert!(
            min > 0.0 && runs.contains(&min) && runs.contains(&median) && runs.contains(&max),
            "{row}"
        );
        assert_eq!(
            (row["resolution"].as_str(), row["stage"].as_str()),
            (Some("56x70"), Some("full"))
        );
        // 25 tokens through 12 blocks of 384 channels, two operations for each of 21 M weights and
        // a token.
        let gflop = number(&row["gflop"]) / number(&row["batch"]);
        assert!((1.0..1.4).contains(&gflop), "{gflop} GFLOP");
        let share = number(&row["per_second"]) * gflop
            / number(&report["peaks"][row["precision"].as_str().unwrap()]);
        assert!((share / number(&row["peak_share"]) - 1.0).abs() < 1e-6);
        if cfg!(target_os = "linux") {
            assert!(
                number(&row["peak_rss_mib"]) > number(&row["weights_mib"]),
                "{row}"
            );
        }
    }
    let agreement = &rows(&report)[2]["agreement"][0];
    assert_eq!(agreement["output"], "features");
    let pearson = number(&agreement["pearson"]);
    assert!(
        (0.999..1.0).contains(&pearson),
        "bfloat16 rounds: r {pearson}"
    );

    let csv = String::from_utf8(sandbox.read("r.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    let markdown = String::from_utf8(sandbox.read("r.md")).unwrap();
    assert!(
        markdown.starts_with("## ") && markdown.matches("| dune-small ").count() == 4,
        "{markdown}"
    );
}

#[test]
fn json_on_standard_output_stands_alone() {
    let sandbox = Sandbox::new();
    let report = sandbox.succeed(&format!("{SMALL} --export-json -")).json();
    assert_eq!(rows(&report).len(), 1);
    assert_eq!(rows(&report)[0]["weights"], "random, seed 0");
    assert_eq!(rows(&report)[0]["images"], "generated");
}

#[test]
fn finished_rows_are_not_measured_again() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&format!("{SMALL} --resume r.json"));
    let first = sandbox.json("r.json");
    sandbox.succeed(&format!(
        "{SMALL} --batch 1,2 --without fused-rope,fused-layer-norm --resume r.json"
    ));
    let more = sandbox.json("r.json");
    let variants: Vec<&str> = rows(&more)
        .iter()
        .map(|row| row["variant"].as_str().unwrap())
        .collect();
    let without = "without fused-layer-norm, fused-rope";
    assert_eq!(variants, ["default", without, without]);
    assert_eq!(
        rows(&more)[0],
        rows(&first)[0],
        "the row of before, run for run"
    );
    assert_eq!(
        rows(&more)[1]["beside_runs_ms"].as_array().unwrap().len(),
        3,
        "runs with everything beside"
    );

    let mut elsewhere = first.clone();
    elsewhere["machine"]["cpu"] = "Another 4004".into();
    sandbox.write("r.json", elsewhere.to_string());
    sandbox.refuse(
        &format!("{SMALL} --resume r.json"),
        3,
        &["r.json", "Another 4004", "name another file"],
    );
}

#[test]
fn weights_and_outputs_travel_as_files() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&format!(
        "{SMALL} --save-weights w.safetensors --outputs ours --export-json ours/r.json"
    ));
    sandbox.succeed(&format!(
        "{SMALL} --weights w.safetensors --outputs theirs --export-json theirs/r.json"
    ));
    let name = "dune-small-56x70-f32.safetensors";
    assert_eq!(
        sandbox.read(&format!("ours/{name}")),
        sandbox.read(&format!("theirs/{name}")),
        "the same outputs"
    );
    let mut theirs = sandbox.json("theirs/r.json");
    assert!(
        theirs["results"][0]["weights"]
            .as_str()
            .unwrap()
            .starts_with("w.safetensors, sha256 ")
    );

    // As another program's report, of the same weights.
    theirs["results"][0]["framework"] = "other 1.0".into();
    theirs["results"][0]["variant"] = "tuned".into();
    theirs["results"][0]["weights"] = "random, seed 0".into();
    theirs["results"][0]["unheard_of"] = json!([1]);
    sandbox.write("theirs/r.json", theirs.to_string());
    let outcome = sandbox.succeed("bench --show ours/r.json --against theirs/r.json");
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(
        text.contains("other 1.0 tuned") && text.contains("Outputs beside") && text.contains("0e0"),
        "{text}"
    );

    theirs["results"][0]
        .as_object_mut()
        .unwrap()
        .remove("model");
    sandbox.write("theirs/r.json", theirs.to_string());
    sandbox.refuse(
        "bench --show ours/r.json --against theirs/r.json",
        3,
        &["theirs/r.json", "model"],
    );
}

#[test]
fn images_of_the_user_are_measured_with() {
    let sandbox = Sandbox::new();
    let report = sandbox
        .succeed(&format!("{SMALL} --image a.png --export-json -"))
        .json();
    assert_eq!(rows(&report)[0]["images"], "a.png");
    // Brought to one long side they are of two shapes.
    let line = "bench --model dunemast3r-small --res 70 --image a.png b.png";
    sandbox.refuse(line, 2, &["one size", "give WIDTHxHEIGHT"]);
}

#[test]
fn times_on_apple_gpus_are_predicted_from_one_run() {
    let sandbox = Sandbox::new();
    let line = "bench --predict --model dune-small --res 56x70 --precision f32,f16";
    let text = String::from_utf8(sandbox.succeed(line).stdout).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0][2..5], ["launches", "command buffers", "GB"]);
    let (single, half) = (&rows[2], &rows[3]);
    assert_eq!(
        (single[1], half[1]),
        ("`dune-small` 56x70 f32", "`dune-small` 56x70 f16")
    );
    // Twelve blocks of two norms, four products with their ends, and attention with a copy.
    let launches: usize = single[2].parse().unwrap();
    assert!((144..170).contains(&launches), "{text}");
    assert_eq!((single[2], single[5]), (half[2], half[5]));
    let m1 = rows[0].iter().position(|&title| title == "M1").unwrap();
    let ms = |row: &Vec<&str>| row[m1].parse::<f64>().unwrap();
    assert!(ms(half) < ms(single) && ms(half) > 0., "{text}");
    sandbox.refuse(
        &format!("{line} --export-json r.json"),
        2,
        &["--export-json"],
    );
}

#[test]
fn bad_use_is_refused_before_anything_loads() {
    let sandbox = Sandbox::new();
    let cases: &[(&str, i32, &[&str])] = &[
        ("bench", 2, &["--model", "--suite"]),
        ("bench --model dune-bas", 2, &["the nearest is dune-base"]),
        (
            "bench --model dune-base --res 100x100",
            2,
            &["100x100", "14"],
        ),
        (
            "bench --model dune-small,mast3r --stage decode",
            2,
            &["dune-small is an encoder alone"],
        ),
        (
            "bench --model dune-small --stage all",
            2,
            &["encode, decode, heads, match, pairs, full"],
        ),
        ("bench --model dune-small --batch 0", 2, &["--batch"]),
        (
            "bench --model dune-base --batch 1000000",
            2,
            &["GiB of memory are needed", "smaller batch"],
        ),
        (
            "bench --model dune-base --res 16380x16380 --precision bf16",
            2,
            &["GiB of memory are needed"],
        ),
        (
            "bench --model dune-base --export-json none/r.json",
            2,
            &["none"],
        ),
        (
            "bench --model dune-base --export-json r.json --export-csv r.json",
            2,
            &["two outputs"],
        ),
        (
            "bench --model dune-base --export-json - --export-csv -",
            2,
            &["standard output"],
        ),
        ("bench --model dune-base --resume none/r.json", 2, &["none"]),
        (
            "bench --model dune-base --image missing.png",
            3,
            &["missing.png"],
        ),
        (
            "bench --model mast3r --image a.png --res 64x64",
            2,
            &["wants two images, got 1"],
        ),
        (
            "bench --model dune-base --weights missing.pth",
            4,
            &["missing.pth"],
        ),
        ("bench --model mast3r --weights dune.pth", 4, &["dune.pth"]),
        ("bench --weights net.pth", 4, &["net.pth"]),
        (
            "bench --model dune-base --without everything",
            2,
            &["fused-attention"],
        ),
        ("bench --model dune-base --min-time=-1", 2, &["--min-time"]),
        ("bench --quick", 2, &["--suite"]),
        ("bench --suite --model dune-base", 2, &["--model"]),
        ("bench --show missing.json", 3, &["missing.json"]),
        ("bench --show a.png", 3, &["a.png"]),
        (
            "bench --model dune-small,dune-base --save-weights w.safetensors",
            2,
            &["several networks"],
        ),
        (
            "encode a.png -o f.safetensors --precision f32,bf16 --weights random:0",
            2,
            &["takes one"],
        ),
    ];
    for (line, code, parts) in cases {
        sandbox.refuse(line, *code, parts);
    }
}
