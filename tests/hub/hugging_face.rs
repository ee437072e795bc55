//! The Hugging Face hub: announced checksums, revisions, a token, and the cache that its programs
//! share.

use std::fs;

use mast3r::hub::{PullOptions, Pulled};
use mast3r::model::registry::Network;

use super::fixtures::{MAST3R_SETTINGS, REPOSITORY, Setup, TOKEN, mast3r, mast3r_network, sha256};
use super::server::{Answer, Request, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SETTINGS_TAG: &str = "89abcdef0123456789abcdef0123456789abcdef";
const FOLDER: &str = "models--someone--small";

/// Another server, where large files really are.
fn store(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(answer)
}

/// The hub, which sends those who want weights to `store`.
fn hub(store: &Server) -> Server {
    let place = format!("{}/bucket/weights?Signature=secret", store.address);
    Server::start(move |request, _| answer(request, &place))
}

fn answer(request: &Request, place: &str) -> Answer {
    let weights = mast3r();
    let known = ["main", "v1", COMMIT]
        .iter()
        .any(|revision| request.path.contains(&format!("/resolve/{revision}/")));
    if !request.path.starts_with(&format!("/{REPOSITORY}/")) {
        Answer::status(401).header("X-Error-Code", "RepoNotFound")
    } else if !known {
        Answer::status(404).header("X-Error-Code", "RevisionNotFound")
    } else if request.path.ends_with("/config.json") {
        let answer = Answer {
            body: MAST3R_SETTINGS.into(),
            ..Answer::status(200)
        };
        answer
            .header("X-Repo-Commit", COMMIT)
            .header("ETag", format!("\"{SETTINGS_TAG}\""))
    } else {
        Answer::status(302)
            .header("X-Repo-Commit", COMMIT)
            .header("X-Linked-Etag", format!("\"{}\"", sha256(&weights)))
            .header("X-Linked-Size", weights.len())
            .header("Location", place)
    }
}

fn pull_revision(setup: &Setup, network: &Network, revision: &str) -> mast3r::Result<Pulled> {
    let options = PullOptions {
        revision: Some(revision.into()),
        ..PullOptions::default()
    };
    setup.hub.pull(network, &options, &mut |_| {})
}

#[test]
fn weights_lie_where_every_program_of_the_hub_looks() {
    let store = store(|request, _| Answer::file(request, &mast3r(), "\"x\""));
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let pulled = setup.pull(&mast3r_network()).unwrap();
    let received = pulled.files[0].received.clone().unwrap();
    assert!(received.announced && received.sha256 == sha256(&mast3r()));

    let folder = setup.hub.cache.hub.join(FOLDER);
    let snapshot = folder.join("snapshots").join(COMMIT);
    assert_eq!(pulled.paths(), [snapshot.join("model.safetensors")]);
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    assert_eq!(
        fs::read(folder.join("blobs").join(sha256(&mast3r()))).unwrap(),
        mast3r()
    );
    assert_eq!(fs::read(&pulled.paths()[0]).unwrap(), mast3r());
    assert_eq!(
        fs::read_to_string(snapshot.join("config.json")).unwrap(),
        MAST3R_SETTINGS
    );
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&pulled.paths()[0]).unwrap(),
        std::path::Path::new("../../blobs").join(sha256(&mast3r()))
    );
    let left: Vec<_> = setup
        .files("hub")
        .into_keys()
        .filter(|name| name.contains("incomplete"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    assert_eq!(
        setup.hub.cache.find(&mast3r_network(), Some(512)).unwrap(),
        Some(pulled.paths())
    );
    let asked = hub.log().len();
    assert!(
        setup.pull(&mast3r_network()).unwrap().files[0]
            .received
            .is_none()
    );
    assert_eq!(hub.log().len(), asked);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let store = store(|request, _| Answer::file(request, &mast3r(), "\"x\""));
    let hub = hub(&store);
    Setup::new(&hub.address).pull(&mast3r_network()).unwrap();
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.header("authorization") == Some(&bearer))
    );
    assert!(!store.requests().is_empty());
    for request in store.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn a_broken_transfer_goes_on_through_the_hub() {
    let store = store(|request, count| {
        let answer = Answer::file(request, &mast3r(), "\"x\"");
        if count == 0 {
            answer.cut_at(700_000)
        } else {
            answer
        }
    });
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let pulled = setup.pull(&mast3r_network()).unwrap();
    assert_eq!(fs::read(&pulled.paths()[0]).unwrap(), mast3r());
    let path = "GET /bucket/weights?Signature=secret";
    assert_eq!(
        store.log(),
        [path.to_string(), format!("{path} from 700000")]
    );
    // Signatures run out, so the place is asked for again; by the commit, so that it is the same
    // file.
    let asked = format!("GET /{REPOSITORY}/resolve/{COMMIT}/model.safetensors");
    assert!(
        hub.log()
            .iter()
            .filter(|line| line.starts_with(&asked))
            .count()
            == 2,
        "{:?}",
        hub.log()
    );
}

#[test]
fn wrong_bytes_are_named_and_not_taken() {
    let store = store(|request, _| {
        let mut bytes = mast3r();
        bytes[1_000_000] ^= 1;
        Answer::file(request, &bytes, "\"x\"")
    });
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let message = setup.refusal(&mast3r_network());
    assert!(
        message.contains("model.safetensors: what arrived has SHA-256"),
        "{message}"
    );
    assert!(
        message.contains(&sha256(&mast3r())) && !message.contains("Signature"),
        "{message}"
    );
    assert!(
        setup
            .files("hub")
            .keys()
            .all(|name| !name.contains("incomplete") && !name.contains("model.safetensors"))
    );
}

#[test]
fn a_damaged_half_is_fetched_again_from_the_start() {
    let store = store(|request, _| Answer::file(request, &mast3r(), "\"x\""));
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let blobs = setup.hub.cache.hub.join(FOLDER).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{}.incomplete", sha256(&mast3r()))),
        vec![7; 5000],
    )
    .unwrap();
    let pulled = setup.pull(&mast3r_network()).unwrap();
    assert_eq!(fs::read(&pulled.paths()[0]).unwrap(), mast3r());
    let ranges: Vec<_> = store.requests().iter().map(Request::range).collect();
    assert_eq!(ranges, [Some(5000), None]);
}

#[test]
fn another_size_than_announced_is_refused() {
    let store = store(|request, _| Answer::file(request, &mast3r()[..5000], "\"x\""));
    let hub = hub(&store);
    let message = Setup::new(&hub.address).refusal(&mast3r_network());
    assert!(
        message.contains("5000 bytes") && message.contains(&mast3r().len().to_string()),
        "{message}"
    );
}

#[test]
fn a_login_that_is_needed_is_explained() {
    for (status, code) in [(401, "RepoNotFound"), (403, "GatedRepo")] {
        let hub = Server::start(move |_, _| Answer::status(status).header("X-Error-Code", code));
        let mut setup = Setup::new(&hub.address);
        let page = format!("{}/{REPOSITORY}", hub.address);
        let message = setup.refusal(&mast3r_network());
        assert!(
            message.contains(&status.to_string()) && message.contains("accept terms"),
            "{message}"
        );
        assert!(
            message.contains(&page) && message.contains("the token that was sent"),
            "{message}"
        );
        setup.hub.servers.token = None;
        let message = setup.refusal(&mast3r_network());
        assert!(message.contains("HF_TOKEN"), "{message}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let missing = Server::start(|_, _| Answer::status(404).header("X-Error-Code", "EntryNotFound"));
    let message = Setup::new(&missing.address).refusal(&mast3r_network());
    assert!(
        message.contains("model.safetensors: there is no such file in revision main (404"),
        "{message}"
    );

    let store = store(|request, _| Answer::file(request, &mast3r(), "\"x\""));
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let message = pull_revision(&setup, &mast3r_network(), "v9")
        .unwrap_err()
        .to_string();
    assert!(message.contains("no revision v9"), "{message}");
    let message = pull_revision(&setup, &mast3r_network(), "../v1")
        .unwrap_err()
        .to_string();
    assert!(message.contains("revision ../v1"), "{message}");

    let page = Server::start(|_, _| Answer {
        body: b"<html>".to_vec(),
        ..Answer::status(200)
    });
    let message = Setup::new(&page.address).refusal(&mast3r_network());
    assert!(message.contains("HF_ENDPOINT"), "{message}");
}

#[test]
fn a_revision_is_found_by_its_name_and_without() {
    let store = store(|request, _| Answer::file(request, &mast3r(), "\"x\""));
    let hub = hub(&store);
    let setup = Setup::new(&hub.address);
    let network = mast3r_network();
    let pulled = pull_revision(&setup, &network, "v1").unwrap();
    assert_eq!(
        setup.hub.cache.find(&network, None).unwrap(),
        Some(pulled.paths())
    );
    let asked = hub.log().len();
    assert!(
        pull_revision(&setup, &network, "v1").unwrap().files[0]
            .received
            .is_none()
    );
    assert!(
        pull_revision(&setup, &network, COMMIT).unwrap().files[0]
            .received
            .is_none()
    );
    assert_eq!(hub.log().len(), asked);
    let refs = setup.hub.cache.hub.join(FOLDER).join("refs");
    assert!(refs.join("v1").exists() && !refs.join("main").exists() && !refs.join(COMMIT).exists());
}

#[test]
fn a_server_that_names_other_places_in_the_cache_is_refused() {
    for (commit, etag) in [
        ("../../..", "abc"),
        (COMMIT, "../../../evil"),
        (COMMIT, ".."),
        ("", "abc"),
    ] {
        let hub = Server::start(move |_, _| {
            Answer::status(200)
                .header("X-Repo-Commit", commit)
                .header("X-Linked-Etag", format!("\"{etag}\""))
        });
        let setup = Setup::new(&hub.address);
        let message = setup.refusal(&mast3r_network());
        assert!(message.contains("the answer names no"), "{message}");
        assert!(setup.files("").is_empty());
    }
}

#[test]
fn redirects_of_the_hub_to_itself_keep_the_token() {
    let place = "/bucket";
    let hub = Server::start(move |request, _| match &*request.path {
        "/bucket" => Answer::file(request, &mast3r(), "\"x\""),
        path if path.starts_with("/moved/") => {
            let path = path.strip_prefix("/moved").unwrap();
            answer(
                &Request {
                    path: path.into(),
                    ..request.clone()
                },
                place,
            )
        }
        path => Answer::status(307).header("Location", format!("/moved{path}")),
    });
    Setup::new(&hub.address).pull(&mast3r_network()).unwrap();
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.header("authorization").is_some())
    );
}
