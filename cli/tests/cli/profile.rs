//! `profile`: tables that add up, traces that nest, refusals before anything is loaded.

use serde_json::Value;

use super::sandbox::Sandbox;

const PAIR: &str = "profile a.png b.png --weights net.pth --res 56x42 --warmup 0 --runs 2";

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

/// That the rows which add up come to their table's total, each table.
fn check_sums(profile: &Value) {
    for table in profile["tables"].as_array().unwrap() {
        let rows = table["rows"].as_array().unwrap();
        let parts = rows
            .iter()
            .filter(|row| row["adds_up"] == true && row["ms"].is_number());
        let sum: f64 = parts.clone().map(|row| number(&row["ms"])).sum();
        let total = rows.iter().find(|row| row["component"] == "total").unwrap();
        assert!(
            (sum / number(&total["ms"]) - 1.0).abs() < 0.02,
            "{sum} of {total}\n{table}"
        );
        let shares: f64 = parts.map(|row| number(&row["share"])).sum();
        assert!((98.0..=102.0).contains(&shares), "{shares} %\n{table}");
        assert!(
            rows.iter()
                .any(|row| row["component"] == "unaccounted" && row["adds_up"] == true),
            "{table}"
        );
    }
}

#[test]
fn a_profile_of_a_pair_adds_up_in_every_format() {
    let sandbox = Sandbox::new();
    let outputs = "--export-json p.json --export-markdown p.md --trace t.json --flame f.svg";
    let outcome = sandbox.succeed(&format!("{PAIR} {outputs}"));
    for name in ["p.json", "p.md", "t.json", "f.svg"] {
        outcome.assert_says(name);
    }
    let profile = sandbox.json("p.json");
    check_sums(&profile);
    let titles: Vec<&str> = profile["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles.len(), 6, "{titles:?}");
    let stages = &profile["tables"][0]["rows"];
    let total = stages
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["component"] == "total")
        .unwrap();
    assert!(
        (number(&total["ms"]) / number(&profile["total_ms"]) - 1.0).abs() < 1e-6,
        "{profile}"
    );
    assert_eq!(
        (&profile["resolution"], &profile["runs"]),
        (&"56x42".into(), &2.into())
    );
    assert_eq!(
        (&profile["device"], &profile["precision"]),
        (&"cpu".into(), &"f32".into())
    );
    assert_eq!(profile["synchronized"], false);
    assert!(
        number(&profile["total_unprofiled_ms"]) > 0.0
            && number(&profile["network_unprofiled_ms"]) > 0.0
    );
    assert!(number(&profile["machine"]["threads"]) >= 1.0);

    let (text, page) = (
        String::from_utf8(outcome.stdout).unwrap(),
        String::from_utf8(sandbox.read("p.md")).unwrap(),
    );
    for title in titles {
        assert!(
            text.contains(&format!("\n{title}\n| component")),
            "{title}\n{text}"
        );
        assert!(
            page.contains(&format!("\n## {title}\n\n| component")),
            "{title}\n{page}"
        );
    }
    assert!(
        text.contains("weights: net.pth") && text.contains("means of 2 runs after 0"),
        "{text}"
    );
    assert!(
        String::from_utf8(sandbox.read("f.svg"))
            .unwrap()
            .contains("</svg>")
    );
}

#[test]
fn a_trace_holds_events_that_nest() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&format!("{PAIR} --trace t.json"));
    let trace = sandbox.json("t.json");
    let events: Vec<&Value> = trace["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["ph"] == "X")
        .collect();
    // Microseconds with three digits are whole nanoseconds, rounded.
    const SLACK: f64 = 0.002;
    let mut open: Vec<(f64, &Value)> = Vec::new();
    for event in &events {
        let (start, duration) = (number(&event["ts"]), number(&event["dur"]));
        open.retain(|(end, _)| *end > start + SLACK);
        if let Some((end, around)) = open.last() {
            assert!(
                start + duration <= end + SLACK,
                "{event} is not inside {around}"
            );
        }
        open.push((start + duration, event));
    }
    for name in [
        "weights",
        "run",
        "image_decode",
        "encode",
        "encoder",
        "decode",
        "decoder",
        "fetch",
        "match",
        "solve",
    ] {
        assert!(
            events.iter().any(|event| event["name"] == name),
            "no {name}"
        );
    }
    assert!(
        events
            .iter()
            .any(|event| event["name"] == "linear qkv" && event["args"]["role"] == "qkv")
    );
}

#[test]
fn an_encoder_is_profiled_without_images_and_without_weights() {
    let sandbox = Sandbox::new();
    let line = "profile --model dune-small --res 56 --warmup 0 --runs 1 --export-json -";
    let before = sandbox.contents();
    let outcome = sandbox.succeed(line);
    let profile = outcome.json();
    check_sums(&profile);
    assert_eq!(
        (&profile["model"], &profile["weights"]),
        (&"dune-small".into(), &"random, seed 0".into())
    );
    assert_eq!(
        (
            &profile["resolution"],
            profile["tables"].as_array().unwrap().len()
        ),
        (&"56x56".into(), 4)
    );
    assert_eq!(
        (&profile["without"], sandbox.contents()),
        (&Value::Array(Vec::new()), before)
    );
    let slower = sandbox
        .succeed(&format!("{line} --without fused-epilogue"))
        .json();
    assert_eq!(slower["without"], serde_json::json!(["fused-epilogue"]));
    check_sums(&slower);
    let gelu = slower["tables"][2]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["component"] == "GELU")
        .unwrap();
    assert!(number(&gelu["ms"]) > 0.0, "{gelu}");
    // The tables and the page are text for whoever reads standard output.
    let page = sandbox.succeed(
        "profile --weights dune.pth a.png --res 56 --warmup 0 --runs 1 --export-markdown -",
    );
    assert!(
        page.stdout.starts_with(b"# Profile of "),
        "{}",
        String::from_utf8_lossy(&page.stdout)
    );
}

#[test]
fn what_cannot_be_profiled_is_refused() {
    let sandbox = Sandbox::new();
    for (line, code, parts) in [
        (
            "profile --model mastr".into(),
            2,
            &["unknown model 'mastr'", "the nearest is mast3r,"][..],
        ),
        (
            "profile --res 500x300".into(),
            2,
            &["500x300", "not a multiple of the patch size 16", "496x288"],
        ),
        (
            "profile --model dune-small --res 57x56".into(),
            2,
            &["57x56", "patch size 14"],
        ),
        (
            format!("{PAIR} --export-json missing/p.json"),
            2,
            &["folder missing does not exist", "create it first"],
        ),
        (
            format!("{PAIR} --trace -"),
            2,
            &["standard output", "name a file"],
        ),
        (
            format!("{PAIR} --flame a.png"),
            2,
            &["a.png", "is an input"],
        ),
        (
            format!("{PAIR} --trace t --flame t"),
            2,
            &["t", "two outputs"],
        ),
        (
            format!("{PAIR} --export-json - --export-markdown -"),
            2,
            &["both want standard output"],
        ),
        ("profile --runs 0".into(), 2, &["--runs", "zero"]),
        (
            "profile --without magic".into(),
            2,
            &["--without", "\"magic\"", "fused-epilogue"],
        ),
        (
            "profile missing.png a.png".into(),
            3,
            &["missing.png", "no such file"],
        ),
        (
            "profile a.png --weights net.pth --res 56".into(),
            2,
            &["two images", "got 1"],
        ),
        (
            "profile a.png b.png a.png --weights dune.pth --res 56".into(),
            2,
            &["one image or two", "got 3"],
        ),
        ("profile --weights missing.pth".into(), 4, &["missing.pth"]),
    ] {
        sandbox.refuse(&line, code, parts);
    }
}
