//! Several devices by `--device`.

use std::fs;

use super::sandbox::{Sandbox, in_repository};

#[test]
fn two_devices_write_what_one_writes() {
    let sandbox = Sandbox::new();
    let images = (1..=4)
        .map(|number| {
            in_repository(&format!("assets/demo_{number}.jpg"))
                .display()
                .to_string()
        })
        .collect::<Vec<_>>()
        .join(" ");
    for (devices, name) in [("cpu", "one"), ("cpu,cpu", "two")] {
        sandbox.succeed(&format!(
            "reconstruct {images} --model tiny --res 168 --no-refine --device {devices} \
             -o {name}.ply --cameras {name}.json"
        ));
        sandbox.succeed(&format!(
            "encode {images} --model dune-small --weights random:0 --res 56 --device {devices} \
             -o {name}.safetensors"
        ));
    }
    for kind in ["ply", "json", "safetensors"] {
        let [one, two] =
            ["one", "two"].map(|name| fs::read(sandbox.path(&format!("{name}.{kind}"))).unwrap());
        assert!(one == two, "{kind} differs");
    }
}

#[test]
fn refuses_devices_that_cannot_share() {
    let sandbox = Sandbox::new();
    for (line, reason) in [
        ("models --device cuda:0,cpu", "devices of one kind"),
        (
            "bench --model dune-small --device cpu,cpu --res 56",
            "stage full runs on one device, only pairs on several",
        ),
        (
            "profile --model dune-small --device cpu,cpu --res 56",
            "profile runs on one device",
        ),
    ] {
        sandbox.refuse(line, 2, &[reason]);
    }
}
