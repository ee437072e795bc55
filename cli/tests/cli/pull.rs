//! `mast3r pull` and `mast3r models`, and weights found in the cache, all against a server on this
//! machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use mast3r::export::{ElementType, write_checkpoint};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::registry::{NETWORKS, Network};
use serde_json::Value;

use super::sandbox::{Outcome, Sandbox, fixture, send, start};
use super::server::{Answer, Request, Server};

const TOKEN: &str = "hf_verysecret";
const REPOSITORY: &str = "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric";

/// The smallest published network, with weights that nobody published.
fn dune_small() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dune.safetensors");
        let checkpoint = Checkpoint::random(&Network::find("dune-small").unwrap().config, "1");
        write_checkpoint(&checkpoint, ElementType::F16, &path).unwrap();
        fs::read(path).unwrap()
    })
}

/// `line` in a sandbox whose servers are both this one.
fn command(sandbox: &Sandbox, server: &Server, line: &str) -> Command {
    let mut command = sandbox.command(line);
    ask(&mut command, server);
    command
}

fn ask(command: &mut Command, server: &Server) {
    command
        .env("HF_ENDPOINT", &server.address)
        .env("MAST3R_DUNE_ENDPOINT", format!("{}/dune/", server.address));
}

fn run(mut command: Command) -> Outcome {
    Outcome::new(command.output().unwrap())
}

/// Runs what must fail; it may leave a lock behind.
fn fail(command: Command, code: i32, parts: &[&str]) -> String {
    let outcome = run(command);
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    for part in parts {
        outcome.assert_says(part);
    }
    assert!(
        outcome.stdout.is_empty() && !outcome.stderr.contains(TOKEN),
        "{}",
        outcome.stderr
    );
    outcome.stderr
}

fn cached(sandbox: &Sandbox, name: &str) -> Value {
    let models = sandbox.succeed("models --json").json();
    let models = models["models"].as_array().unwrap().clone();
    models
        .into_iter()
        .find(|model| model["name"] == name)
        .unwrap()["cached"]
        .clone()
}

/// Makes `bytes` the file that the hub's cache has for `mast3r`.
fn put_mast3r(cache: &Path, bytes: &[u8]) -> PathBuf {
    let folder = cache.join(format!("models--{}", REPOSITORY.replace('/', "--")));
    for below in ["refs", "snapshots/abc"] {
        fs::create_dir_all(folder.join(below)).unwrap();
    }
    fs::write(folder.join("refs/main"), "abc\n").unwrap();
    let path = folder.join("snapshots/abc/model.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn weights_are_fetched_once_and_found_by_every_command() {
    let sandbox = Sandbox::new();
    let server = Server::start(|request, _| Answer::file(request, dune_small(), "\"one\""));
    let line = "pull dune-small --accept-license";
    let outcome = run(command(&sandbox, &server, line));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let path = sandbox.path("cache").join("mast3r/dune_vitsmall14_336.pth");
    assert_eq!(
        String::from_utf8(outcome.stdout.clone()).unwrap(),
        format!("{}\n", path.display())
    );
    for part in [
        "non-commercial",
        "fetching http://127.0.0.1",
        "SHA-256",
        "the server announces none",
    ] {
        outcome.assert_says(part);
    }
    assert_eq!(fs::read(&path).unwrap(), dune_small());
    assert_eq!(server.log(), ["GET /dune/dune_vitsmall14_336.pth"]);

    // No question now, and no request.
    let outcome = run(command(&sandbox, &server, "pull dune-small"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.assert_says("already in the cache");
    assert_eq!(server.log().len(), 1);

    let here = &cached(&sandbox, "dune-small")[0];
    assert_eq!(
        (here["path"].as_str(), here["bytes"].as_u64()),
        (path.to_str(), Some(dune_small().len() as u64))
    );
    assert!(cached(&sandbox, "dune-base").is_null());
    // Also for a size that has a file of its own, which is not here.
    for res in ["56x42", "448x448"] {
        sandbox.succeed(&format!(
            "encode b.png --model dune-small --res {res} -o f.safetensors"
        ));
    }
    let copy = sandbox.path("copy.pth");
    fs::copy(&path, &copy).unwrap();
    sandbox.succeed("encode b.png --model dune-small --res 56x42 -o cached.safetensors");
    sandbox.refuse(
        "encode b.png -o f",
        4,
        &[
            "mast3r-encoder: no weights",
            "those of dune-small with --model dune-small",
        ],
    );
    sandbox.succeed("encode b.png --weights copy.pth --res 56x42 -o given.safetensors");
    assert!(sandbox.read("cached.safetensors") == sandbox.read("given.safetensors"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_is_gone_on_with() {
    use std::time::{Duration, Instant};
    let sandbox = Sandbox::new();
    let server = Server::start(|request, count| {
        let pause = (count == 0).then_some(Duration::from_millis(200));
        Answer {
            pause,
            ..Answer::file(request, dune_small(), "\"one\"")
        }
    });
    dune_small();
    let line = "pull dune-small --accept-license";
    let mut interrupted = command(&sandbox, &server, line);
    let child = start(&mut interrupted);
    let partial = sandbox.path("cache/mast3r/dune_vitsmall14_336.pth.incomplete");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !partial.metadata().is_ok_and(|file| file.len() > 5_000_000) {
        assert!(Instant::now() < deadline, "nothing arrived");
        std::thread::sleep(Duration::from_millis(5));
    }
    send("-INT", &child);
    let outcome = Outcome::of(child);
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    let kept = partial.metadata().unwrap().len();
    assert!(cached(&sandbox, "dune-small").is_null());

    let outcome = run(command(&sandbox, &server, line));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.assert_says("are here already");
    assert_eq!(
        server.log()[1],
        format!("GET /dune/dune_vitsmall14_336.pth from {kept}")
    );
    assert_eq!(
        sandbox.read("cache/mast3r/dune_vitsmall14_336.pth"),
        dune_small()
    );
}

#[test]
fn the_licence_is_accepted_first() {
    let sandbox = Sandbox::new();
    let server = Server::start(|request, _| Answer::file(request, dune_small(), "\"one\""));
    for name in ["dune-small", "mast3r", "dunemast3r-base dune-base"] {
        let line = format!("pull {name}");
        let parts = ["non-commercial use only", "--accept-license"];
        sandbox.refuse_run(&line, &mut command(&sandbox, &server, &line), 2, &parts);
    }
    assert!(server.log().is_empty());
}

/// `line` on a terminal, at which `answer` is typed; none where no terminal can be made.
#[cfg(target_os = "linux")]
fn on_a_terminal(sandbox: &Sandbox, server: &Server, line: &str, answer: &str) -> Option<Outcome> {
    use std::io::Write as _;
    use std::process::Stdio;
    if Command::new("script").arg("--version").output().is_err() {
        return None;
    }
    let mut command = Command::new("script");
    command
        .args([
            "-qec",
            &format!("{} {line}", super::sandbox::PROGRAM),
            "/dev/null",
        ])
        .current_dir(sandbox.path("."));
    sandbox.keep_apart(&mut command);
    ask(&mut command, server);
    let mut child = start(command.stdin(Stdio::piped()));
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(answer.as_bytes()).unwrap();
    drop(keyboard);
    Some(Outcome::of(child))
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_the_licence_is_asked_for() {
    let sandbox = Sandbox::new();
    let server = Server::start(|request, _| Answer::file(request, dune_small(), "\"one\""));
    for (answer, code) in [("no\n", 2), ("\n", 2), ("yes\n", 0)] {
        assert!(server.log().is_empty());
        let Some(outcome) = on_a_terminal(&sandbox, &server, "pull dune-small", answer) else {
            return eprintln!("skipped: no terminal can be made here");
        };
        let shown = String::from_utf8(outcome.stdout).unwrap();
        assert_eq!(outcome.code, Some(code), "{shown}");
        assert!(
            shown.contains("non-commercial use only") && shown.contains("Type yes"),
            "{shown}"
        );
    }
    assert_eq!(server.log().len(), 1);
}

#[test]
fn a_pull_that_cannot_be_served_is_wrong_usage() {
    let sandbox = Sandbox::new();
    for (line, parts) in [
        ("pull", &["NAME"][..]),
        ("pull tiny", &["tiny needs no download"]),
        (
            "pull mastr",
            &["unknown model 'mastr'", "the nearest is mast3r"],
        ),
        (
            "pull dune-small --revision v1",
            &["revisions are of repositories of the Hugging Face hub"],
        ),
        (
            "pull mast3r --revision ../../x",
            &["revision ../../x", "letters, digits"],
        ),
    ] {
        sandbox.refuse(&format!("{line} --accept-license"), 2, parts);
    }
    for name in ["HF_ENDPOINT", "MAST3R_DUNE_ENDPOINT"] {
        let mut command = sandbox.command("pull dune-small --accept-license");
        let address = "ftp://me:password@mirror";
        sandbox.refuse_run(
            name,
            command.env(name, address),
            2,
            &[name, "is not an address such as https://"],
        );
        let stderr = fail(command, 2, &[]);
        assert!(!stderr.contains("password"), "{stderr}");
    }
    let mut models = sandbox.command("models");
    let listed = models
        .env("HF_ENDPOINT", "https://me:password@mirror/hf/")
        .output()
        .unwrap()
        .stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(
        listed.contains("https://mirror/hf/naver/") && !listed.contains("password"),
        "{listed}"
    );
    let mut command = sandbox.command("pull mast3r --accept-license");
    sandbox.refuse_run(
        "token",
        command.env("HF_TOKEN", "hf a b"),
        2,
        &["token", "characters that no token has"],
    );
}

#[test]
fn offline_nothing_is_fetched() {
    let sandbox = Sandbox::new();
    let server = Server::start(|_, _| Answer::status(200));
    for name in ["mast3r", "dune-small"] {
        let line = format!("pull {name}");
        let mut command = command(&sandbox, &server, &line);
        sandbox.refuse_run(
            &line,
            command.env("HF_HUB_OFFLINE", "1"),
            1,
            &["HF_HUB_OFFLINE", "fetch nothing"],
        );
    }
    assert!(server.log().is_empty());
}

#[test]
fn weights_of_another_network_are_not_taken() {
    let sandbox = Sandbox::new();
    let small = fs::read(fixture("golden/dune_tiny/checkpoint.pth")).unwrap();
    let server = Server::start(move |request, _| Answer::file(request, &small, "\"one\""));
    let parts = [
        "dune_vitsmall14_336.pth",
        "holds DUNE with 3 encoder blocks 24 wide, not dune-small",
        "nothing of it",
    ];
    fail(
        command(&sandbox, &server, "pull dune-small --accept-license"),
        4,
        &parts,
    );
    assert!(cached(&sandbox, "dune-small").is_null());
    assert!(
        !sandbox
            .path("cache/mast3r/dune_vitsmall14_336.pth")
            .exists()
    );
}

#[test]
fn a_token_is_sent_to_the_hub_and_shown_to_nobody() {
    let server = Server::start(|_, _| Answer::status(403).header("X-Error-Code", "GatedRepo"));
    let bearer = format!("Bearer {TOKEN}");
    let sent = |requests: Vec<Request>| requests[0].header("authorization").map(str::to_string);
    let line = "pull mast3r --accept-license -vv";
    let parts = [
        "403 Forbidden",
        "the token that was sent gives no access",
        "accept terms",
        REPOSITORY,
    ];

    let sandbox = Sandbox::new();
    let mut by_variable = command(&sandbox, &server, line);
    by_variable.env("HF_TOKEN", TOKEN);
    fail(by_variable, 1, &parts);
    assert_eq!(sent(server.requests()), Some(bearer.clone()));

    for by_path in [false, true] {
        let sandbox = Sandbox::new();
        let server = Server::start(|_, _| Answer::status(401));
        let mut by_file = command(&sandbox, &server, line);
        if by_path {
            sandbox.write("secret", format!("{TOKEN}\n"));
            by_file.env("HF_TOKEN_PATH", sandbox.path("secret"));
        } else {
            fs::create_dir(sandbox.path("cache")).unwrap();
            sandbox.write("cache/token", format!("{TOKEN}\n"));
        }
        fail(by_file, 1, &["401 Unauthorized", "the token that was sent"]);
        assert_eq!(sent(server.requests()), Some(bearer.clone()));
    }

    let server = Server::start(|_, _| Answer::status(401));
    fail(
        command(&sandbox, &server, line),
        1,
        &["401 Unauthorized", "HF_TOKEN", "if http://127.0.0.1"],
    );
    assert_eq!(sent(server.requests()), None);
}

#[test]
fn without_weights_there_are_three_ways_on() {
    let sandbox = Sandbox::new();
    let pair = "reconstruct a.png b.png -o cloud.ply";
    let third = if cfg!(feature = "tiny") {
        "--model tiny"
    } else {
        "--weights random:0"
    };
    sandbox.refuse(
        pair,
        4,
        &[
            "error: mast3r: no weights",
            "`mast3r pull mast3r`",
            "--weights FILE",
            third,
        ],
    );
    for (options, pull) in [
        ("", "`mast3r pull mast3r-encoder`"),
        ("--model dune-base", "`mast3r pull dune-base`"),
        (
            "--model dune-base --res 448",
            "`mast3r pull dune-base --res 448`",
        ),
        ("--model dune-base --res 336", "`mast3r pull dune-base`"),
    ] {
        sandbox.refuse(
            &format!("encode a.png -o f {options}"),
            4,
            &[pull, "--weights FILE", "--weights random:0"],
        );
    }
    // A measurement needs no weights, and does not look for any.
    sandbox.succeed("profile --model dune-small --res 28 --warmup 0 --runs 1");
}

#[test]
fn the_cache_of_the_hub_is_looked_into() {
    let sandbox = Sandbox::new();
    let weights = sandbox.read("net.pth");
    let pair = "reconstruct a.png b.png -o cloud.ply";
    let path = put_mast3r(&sandbox.path("cache/hub"), &weights);
    let named = format!("error: {}: holds DuneMASt3R with", path.display());
    sandbox.refuse(pair, 4, &[&named, "not mast3r"]);
    assert_eq!(
        cached(&sandbox, "mast3r")[0]["path"].as_str(),
        path.to_str()
    );
    assert_eq!(
        cached(&sandbox, "mast3r-encoder")[0]["path"].as_str(),
        path.to_str()
    );

    let other = put_mast3r(&sandbox.path("elsewhere"), &weights);
    let mut command = sandbox.command(pair);
    let named = format!("error: {}: holds DuneMASt3R with", other.display());
    sandbox.refuse_run(
        pair,
        command.env("HF_HUB_CACHE", sandbox.path("elsewhere")),
        4,
        &[&named],
    );

    // A pull says that what is there is of no use, and how to replace it.
    fail(
        sandbox.command("pull mast3r"),
        4,
        &["holds DuneMASt3R", "a forced pull fetches it again"],
    );
}

#[test]
fn every_network_is_listed() {
    let sandbox = Sandbox::new();
    let text = String::from_utf8(sandbox.succeed("models").stdout).unwrap();
    let models = sandbox.succeed("models --json").json();
    let models = models["models"].as_array().unwrap();
    assert_eq!(models.len(), NETWORKS.len());
    for (network, model) in NETWORKS.iter().zip(models) {
        assert_eq!(model["name"], network.name);
        assert!(text.contains(&format!("\n{}  ", network.name)), "{text}");
        for (file, json) in network
            .weights
            .iter()
            .zip(model["weights"].as_array().unwrap())
        {
            let address = json["address"].as_str().unwrap();
            assert!(
                address.starts_with("https://") && address.ends_with(file.name),
                "{address}"
            );
            assert!(
                text.contains(address) && text.contains(network.weights_license),
                "{text}"
            );
        }
    }
}

#[cfg(unix)]
#[test]
fn a_cache_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::new();
    let server = Server::start(|request, _| Answer::file(request, dune_small(), "\"one\""));
    fs::create_dir(sandbox.path("cache")).unwrap();
    for (name, mode) in [(".", 0o755), ("cache", 0o555)] {
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let line = "pull dune-small --accept-license";
    let Some(mut command) = super::system::as_plain_user(&sandbox, line) else {
        return eprintln!("skipped: no other user can run the program");
    };
    ask(&mut command, &server);
    fail(
        command,
        1,
        &[
            "cache/mast3r/.locks",
            "ermission denied",
            "set HF_HOME to a folder that can be",
        ],
    );
    assert!(server.log().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_what_was_received() {
    let sandbox = Sandbox::new();
    let Some(_disk) = super::system::SmallDisk::mount(&sandbox) else {
        return eprintln!("skipped: no file system can be mounted here");
    };
    let server = Server::start(|request, _| Answer::file(request, dune_small(), "\"one\""));
    let mut command = command(&sandbox, &server, "pull dune-small --accept-license");
    command.env("HF_HOME", sandbox.path("disk"));
    fail(
        command,
        1,
        &[
            "dune_vitsmall14_336.pth.incomplete: No space left",
            "make room",
            "what was received is kept",
        ],
    );
}
