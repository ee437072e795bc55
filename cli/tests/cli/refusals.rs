//! Images and arguments that cannot be used: a message that names the thing and the way out, and
//! no trace.

use std::fs;

use super::sandbox::{Sandbox, fixture};

/// The usual rest of a line: a small network at a small size.
const NET: &str = "--weights net.pth --res 56x42";
const DUNE: &str = "--weights dune.pth --res 56x42";

/// The first bytes of a PNG of this size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
        &size[..],
        b"\x08\x02\0\0\0\0\0\0\0",
    ]
    .concat()
}

/// The header of a BMP of this size, 24 bits a pixel.
fn bmp_header(width: i32, height: i32) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [
        b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        &size[..],
        b"\x01\0\x18\0",
        &[0; 24],
    ]
    .concat()
}

#[test]
fn images_that_cannot_be_used_are_named_with_a_way_out() {
    let sandbox = Sandbox::new();
    let half = |name: &str| {
        let mut bytes = fs::read(fixture(name)).unwrap();
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    sandbox.write("cut.jpg", half("images/exif_6.jpg"));
    sandbox.write("cut.png", half("images/large_601x433.png"));
    sandbox.write("notes.jpg", "Dear diary,\n");
    sandbox.write("huge.png", png_header(60_000, 60_000));
    sandbox.write("huge.bmp", bmp_header(60_000, 60_000));
    sandbox.write("empty.png", "");
    sandbox.write("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    sandbox.write("film.gif", b"GIF89a\x01\0\x01\0\0\0\0;");
    fs::create_dir(sandbox.path("holiday")).unwrap();
    image::RgbImage::new(900, 3)
        .save(sandbox.path("thin.png"))
        .unwrap();

    for (image, parts) in [
        (
            "cut.jpg",
            &["damaged or incomplete JPEG", "copy it again"][..],
        ),
        ("cut.png", &["damaged or incomplete PNG", "copy it again"]),
        ("notes.jpg", &["a text file, not an image", "Dear diary"]),
        (
            "huge.png",
            &[
                "60000x60000 pixels, the limit is 32768x32768",
                "save a smaller image",
            ],
        ),
        (
            "huge.bmp",
            &[
                "60000x60000 pixels, the limit is 32768x32768",
                "save a smaller image",
            ],
        ),
        (
            "empty.png",
            &["the file is empty (0 bytes)", "copy it again"],
        ),
        // A folder stands for the images in it.
        (
            "holiday",
            &["no images that can be read are in this folder: it is empty"],
        ),
        ("missing.png", &["no such file", "check the spelling"]),
        (
            "phone.jpg",
            &["damaged or incomplete HEIC file", "copy it again"],
        ),
        ("film.gif", &["a GIF image", "convert it to JPEG or PNG"]),
    ] {
        let named = format!("error: {image}: ");
        let parts = [&[&*named], parts].concat();
        sandbox.refuse(
            &format!("reconstruct a.png {image} {NET} -o cloud.ply --depth maps"),
            3,
            &parts,
        );
        sandbox.refuse(
            &format!("encode a.png b.png {image} {DUNE} -o features.safetensors --pca p.png"),
            3,
            &parts,
        );
        sandbox.refuse(
            &format!("encode {image} a.png {DUNE} -o features"),
            3,
            &parts,
        );
    }
    let thin = [
        "error: thin.png: ",
        "900x3 image becomes 56x0",
        "less than one patch",
        "larger size",
    ];
    sandbox.refuse(
        "reconstruct a.png thin.png --weights net.pth --res 56 -o cloud.ply",
        3,
        &thin,
    );
}

#[test]
fn arguments_that_cannot_be_served_are_wrong_usage() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("folder")).unwrap();
    sandbox.write("a.txt", "notes");
    let pair = format!("reconstruct a.png b.png {NET}");
    let free = "reconstruct a.png b.png --weights net.pth";
    let many = format!("encode a.png b.png {DUNE}");
    for (line, parts) in [
        // Images.
        (
            format!("reconstruct a.png {NET} -o c.ply"),
            &["1 image", "two views of a scene"][..],
        ),
        // Outputs.
        (
            format!("{pair} -o missing/c.ply"),
            &[
                "missing/c.ply",
                "folder missing does not exist",
                "create it first",
            ],
        ),
        (
            format!("{many} -o missing/f.safetensors"),
            &["folder missing does not exist", "create it first"],
        ),
        (
            format!("{pair} -o folder"),
            &[
                "folder",
                "no extension",
                ".ply, .glb, .las, .laz, .html or .txt",
            ],
        ),
        (
            format!("{pair} --cameras folder"),
            &["cannot write folder", "it is a folder", "name a file in it"],
        ),
        (
            format!("{pair} -o c.xyz"),
            &[
                "c.xyz: unknown extension .xyz",
                "name it .ply, .glb, .las, .laz, .html or .txt",
            ],
        ),
        (
            format!("{pair} -o cloud"),
            &[
                "cloud: no extension",
                "name it .ply, .glb, .las, .laz, .html or .txt",
            ],
        ),
        (
            format!("{pair} --depth a.txt"),
            &["cannot write a.txt", "it is a file", "name a folder"],
        ),
        (
            format!("{pair} -o a.txt/c.ply"),
            &["cannot write a.txt/c.ply", "a.txt is a file, not a folder"],
        ),
        (
            format!("{many} -o f.txt"),
            &[
                "f.txt: unknown extension .txt",
                ".safetensors",
                ".npy files into a folder",
            ],
        ),
        (
            format!("{many} -o f --pca missing/p.png"),
            &["folder missing does not exist"],
        ),
        (
            format!("{pair} -o c.ply --json --cameras folder/../c.ply"),
            &["c.ply", "two outputs"],
        ),
        (
            format!("{pair} -o c.ply --depth c.ply"),
            &["c.ply", "two outputs"],
        ),
        (format!("{pair} --matches b.png"), &["b.png", "is an input"]),
        (
            format!("{pair} --predictions net.pth"),
            &["net.pth", "is an input"],
        ),
        (
            format!("{many} -o f --pca a.png"),
            &["a.png", "is an input"],
        ),
        (
            format!("{many} -o f.safetensors --pca f.safetensors"),
            &["f.safetensors", "two outputs"],
        ),
        (
            format!("{pair} --cameras -"),
            &["only a point cloud goes to standard output", "name a file"],
        ),
        (
            format!("{pair} --depth -"),
            &["only a point cloud goes to standard output", "name a file"],
        ),
        (
            format!("{many} -o -"),
            &["only a point cloud goes to standard output", "name a file"],
        ),
        (
            format!("{pair} --preview -"),
            &["only a point cloud goes to standard output", "name a file"],
        ),
        (
            format!("{pair} --preview p.jpg"),
            &["p.jpg: the preview is a PNG", "name it .png"],
        ),
        (
            format!("{pair} --preview missing/p.png"),
            &["missing/p.png", "folder missing does not exist"],
        ),
        (
            format!("{pair} --preview folder"),
            &["cannot write folder", "it is a folder"],
        ),
        (format!("{pair} --preview a.png"), &["a.png", "is an input"]),
        (
            format!("{many} -o f --pca p.jpg"),
            &["p.jpg: the preview is a PNG", "name it .png"],
        ),
        (
            format!("{pair} -o - --json"),
            &["--json and -o -", "give one of them a file"],
        ),
        // Sizes.
        (
            "reconstruct a.png b.png --weights net.pth --res 57x42 -o c.ply".into(),
            &["57x42", "not a multiple of the patch size 14", "56x42"],
        ),
        (
            "encode a.png --model mast3r-encoder --weights random:0 --res 500x300 -o f".into(),
            &["500x300", "not a multiple of the patch size 16", "496x288"],
        ),
        (
            "encode a.png --weights dune.pth --res 8 -o f".into(),
            &["size 8", "one patch of 14", "larger size"],
        ),
        (
            format!("{free} -o c.ply --res nonsense"),
            &["--res", "`nonsense`", "WIDTHxHEIGHT"],
        ),
        (
            format!("{free} -o c.ply --res 0"),
            &["--res", "512x384", "1 to 16384"],
        ),
        (
            format!("{free} -o c.ply --res 99999x14"),
            &["--res", "1 to 16384"],
        ),
        // Networks.
        (
            format!("{pair} -o c.ply --model mastr"),
            &[
                "unknown model 'mastr'",
                "the nearest is mast3r,",
                "dunemast3r-base",
            ],
        ),
        (
            format!("{pair} -o c.ply --weights random:1"),
            &["random:SEED", "stands alone"],
        ),
        (
            format!("{pair} -o c.ply --weights net.pth --weights dune.pth"),
            &["one file, or two"],
        ),
        (
            format!("reconstruct a.png b.png {DUNE} -o c.ply"),
            &[
                "is an encoder alone",
                "such as mast3r",
                "encode takes this one",
            ],
        ),
        (
            "reconstruct a.png b.png --model dune-small --weights random:0 -o c.ply".into(),
            &["dune-small is an encoder alone", "encode takes this one"],
        ),
        // Where and how.
        (
            format!("{pair} -o c.ply --device gpu"),
            &["--device", "\"gpu\"", "auto, cpu, cuda"],
        ),
        (
            format!("{pair} -o c.ply --precision f64"),
            &["--precision", "\"f64\"", "f32, tf32, f16, bf16 or int8"],
        ),
        (
            format!("{pair} -o c.ply --threads 0"),
            &["--threads", "0 is not in 1..=1024"],
        ),
        (
            format!("{pair} -o c.ply --threads 1000000"),
            &["--threads", "1000000 is not in 1..=1024"],
        ),
        // Choices of points and matches.
        (
            format!("{pair} -o c.ply --keep-percentile 0"),
            &["--keep-percentile", "above 0 and at most 100, got 0"],
        ),
        (
            format!("{pair} -o c.ply --keep-percentile -5"),
            &["--keep-percentile", "above 0 and at most 100, got -5"],
        ),
        (
            format!("{pair} -o c.ply --keep-percentile 150"),
            &["--keep-percentile", "at most 100, got 150"],
        ),
        (
            format!("{pair} -o c.ply --min-confidence nan"),
            &["--min-confidence", "a finite number, got NaN"],
        ),
        (
            format!("{pair} -o c.ply --min-confidence 1e30"),
            &["keeps none of 4704 points", "lower the minimum"],
        ),
        (
            format!("{pair} -o c.ply --consistency 0"),
            &["--consistency", "finite number of pixels above 0, got 0"],
        ),
        (
            format!("{pair} -o c.ply --consistency -1"),
            &["--consistency", "finite number of pixels above 0, got -1"],
        ),
        (
            format!("{pair} -o c.ply --consistency nan"),
            &["--consistency", "finite number of pixels above 0, got NaN"],
        ),
        (
            format!("{pair} -o c.ply --consistency inf"),
            &["--consistency", "finite number of pixels above 0, got inf"],
        ),
        (
            format!("{pair} -o c.ply --consistency two"),
            &["'two'", "--consistency", "invalid float"],
        ),
        (
            format!("{pair} --cameras c.json --consistency 2"),
            &["--consistency", "neither --output nor --preview"],
        ),
        (
            "reconstruct a.png b.png --weights missing.pth -o c.ply --consistency 0".into(),
            &["--consistency", "finite number of pixels above 0, got 0"],
        ),
        // Previews.
        (
            format!("{pair} --preview p.png --preview-size 640"),
            &["--preview-size", "'640'", "WIDTHxHEIGHT"],
        ),
        (
            format!("{pair} --preview p.png --preview-size 0x480"),
            &["--preview", "1 to 8192 pixels a side, got 0x480"],
        ),
        (
            format!("{pair} --preview p.png --preview-size 640x9999"),
            &["--preview", "a side, got 640x9999"],
        ),
        (
            format!("{pair} --preview p.png --preview-angle 35"),
            &["--preview-angle", "'35'", "AZIMUTH,ELEVATION"],
        ),
        (
            format!("{pair} --preview p.png --preview-angle 0,91"),
            &["--preview", "-90 to 90 degrees, got 0,91"],
        ),
        (
            format!("{pair} --preview p.png --preview-angle nan,0"),
            &["--preview", "any azimuth", "got NaN,0"],
        ),
        (
            format!("{pair} -o c.ply --preview-size 640x480"),
            &["--preview", "not provided"],
        ),
        (
            format!("{pair} -o c.ply --preview-angle 0,0"),
            &["--preview", "not provided"],
        ),
        (
            format!("{pair} --preview p.png --min-confidence 1e30"),
            &["keeps none of 4704 points", "lower the minimum"],
        ),
        (
            format!("{pair} -o c.ply --match-step 0"),
            &["--match-step", "0"],
        ),
        // What the parser itself finds.
        (pair.clone(), &["--output", "required"]),
        (many.clone(), &["--output", "required"]),
        (
            format!("{pair} -o c.ply --frob"),
            &["--frob", "Usage: mast3r"],
        ),
        (format!("{pair} -o c.ply -q -v"), &["cannot be used with"]),
        (format!("reconstruct {NET} -o c.ply"), &["IMAGE"]),
        ("frob".into(), &["unrecognized subcommand 'frob'"]),
    ] {
        sandbox.refuse(&line, 2, parts);
    }
}

#[test]
fn a_check_of_consistency_without_cameras_writes_no_points_and_says_why() {
    let sandbox = Sandbox::new();
    let outputs = "-o c.ply --cameras c.json --depth maps --preview p.png --json";
    // The small network's weights are random: what it says of a pair determines no pose.
    for options in [
        "--consistency 2",
        "--consistency 2 --symmetric --min-confidence 2",
    ] {
        let line = format!("reconstruct a.png b.png {NET} {outputs} {options}");
        let outcome = sandbox.run(&line);
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        let errors = outcome.errors();
        let unchecked = "the check of views against one another needs camera poses: a.png has none";
        assert_eq!(
            errors[..2],
            [
                format!("error: c.ply: {unchecked}"),
                format!("error: p.png: {unchecked}")
            ]
        );
        assert!(
            errors.len() == 3 && errors[2].starts_with("error: no relative pose: "),
            "{errors:?}"
        );
        assert!(!sandbox.path("c.ply").exists() && !sandbox.path("p.png").exists());
        assert!(sandbox.path("c.json").is_file() && sandbox.path("maps").is_dir());
    }
    sandbox.succeed_but_for_cameras(&format!("reconstruct a.png b.png {NET} {outputs}"));
}

#[test]
fn a_device_that_this_build_or_machine_lacks_is_wrong_usage() {
    let sandbox = Sandbox::new();
    for (kind, built_in) in [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ] {
        let line = format!("reconstruct a.png b.png {NET} -o c.ply --device {kind}:77");
        let parts = [&*format!("device {kind}"), "use the device cpu"];
        sandbox.refuse(&line, 2, &parts);
        if !built_in {
            sandbox.refuse(
                &line,
                2,
                &[
                    "no {kind} support".replace("{kind}", kind).as_str(),
                    "build with the feature",
                ],
            );
        }
    }
}

#[test]
fn no_arguments_show_the_help_and_help_goes_to_standard_output() {
    let sandbox = Sandbox::new();
    let bare = sandbox.run("");
    assert_eq!((bare.code, &bare.stdout[..]), (Some(2), &b""[..]));
    assert!(
        bare.stderr.contains("reconstruct") && bare.stderr.contains("encode"),
        "{}",
        bare.stderr
    );
    for line in [
        "--help",
        "-h",
        "reconstruct --help",
        "encode --help",
        "profile --help",
        "help encode",
        "--version",
    ] {
        let outcome = sandbox.succeed(line);
        assert!(
            outcome.stderr.is_empty() && !outcome.stdout.is_empty(),
            "{line}: {}",
            outcome.stderr
        );
    }
    let help = String::from_utf8(sandbox.succeed("--help").stdout).unwrap();
    for code in [
        "0  everything",
        "1  disk",
        "2  wrong usage",
        "3  an input file",
        "4  weights",
        "130  interrupted",
    ] {
        assert!(help.contains(code), "{help}");
    }
}
