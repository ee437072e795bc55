//! The authors' server: files without announced checksums.

use std::fs;
use std::time::Duration;

use mast3r::hub::{Event, PullOptions};

use super::fixtures::{Setup, dune, dune_network, fixture, mast3r, sha256, two_files};
use super::forge;
use super::server::{Answer, Request, Server};

const PATH: &str = "/dune/dune.pth";

/// A server of the small DUNE's weights, the answers to which `change` may spoil.
fn serving(change: impl Fn(&Request, usize, Answer) -> Answer + Send + Sync + 'static) -> Server {
    let bytes = dune();
    Server::start(move |request, count| {
        change(request, count, Answer::file(request, &bytes, "\"one\""))
    })
}

#[test]
fn a_file_is_fetched_once_and_described() {
    let server = serving(|_, _, answer| answer);
    let setup = Setup::new(&server.address);
    let network = dune_network();
    assert_eq!(
        setup.hub.cached(&network, &PullOptions::default()).unwrap(),
        None
    );

    let pulled = setup.pull(&network).unwrap();
    let received = pulled.files[0].received.clone().unwrap();
    assert_eq!(
        (received.bytes, received.sha256),
        (dune().len() as u64, sha256(&dune()))
    );
    assert!(!received.announced && received.before.is_none());
    assert_eq!(pulled.paths(), [setup.own("dune.pth")]);
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(
        setup.files("mast3r").into_keys().collect::<Vec<_>>(),
        ["dune.pth", "dune.pth.json"]
    );
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(setup.own("dune.pth.json")).unwrap()).unwrap();
    assert_eq!(record["sha256"], sha256(&dune()));
    assert_eq!(
        setup.hub.cache.find(&network, None).unwrap(),
        Some(pulled.paths())
    );

    assert_eq!(setup.pull(&network).unwrap().files[0].received, None);
    assert_eq!(server.log(), [format!("GET {PATH}")]);
    assert!(
        server.requests()[0]
            .header("user-agent")
            .unwrap()
            .starts_with("mast3r/")
    );
}

#[test]
fn a_slow_server_is_waited_for_and_seen_to_go_on() {
    let server = serving(|_, _, answer| Answer {
        pause: Some(Duration::from_millis(20)),
        ..answer
    });
    let setup = Setup::new(&server.address);
    let mut seen = Vec::new();
    let mut listener = |event: Event<'_>| match event {
        Event::Started { total, kept } => seen.push((total.unwrap(), kept)),
        Event::Received { bytes } => seen.push((bytes, 0)),
        _ => {}
    };
    setup
        .hub
        .pull(&dune_network(), &PullOptions::default(), &mut listener)
        .unwrap();
    let total = dune().len() as u64;
    assert_eq!(seen[0], (total, 0));
    assert!(
        seen.len() > 10 && seen[1..].is_sorted() && seen.last() == Some(&(total, 0)),
        "{seen:?}"
    );
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let half = dune().len() / 2;
    let server = serving(move |_, count, answer| {
        if count == 0 {
            answer.cut_at(half)
        } else {
            answer
        }
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(
        server.log(),
        [format!("GET {PATH}"), format!("GET {PATH} from {half}")]
    );
    assert_eq!(server.requests()[1].header("if-range"), Some("\"one\""));
}

#[test]
fn what_a_failed_pull_received_serves_the_next() {
    let third = dune().len() / 3;
    // Nothing more comes after the first part, until the fifth request.
    let server = serving(
        move |request, count, answer| match (count, request.range()) {
            (0, _) => answer.cut_at(third),
            (1..=3, _) => Answer::status(503).header("Retry-After", 0),
            _ => answer,
        },
    );
    let setup = Setup::new(&server.address);
    let message = setup.refusal(&dune_network());
    assert!(
        message.contains("503") && message.contains("what was received is kept"),
        "{message}"
    );
    assert_eq!(setup.files("mast3r")["dune.pth.incomplete"], third as u64);

    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(server.requests().last().unwrap().range(), Some(third));
    assert!(!setup.own("dune.pth.incomplete").exists());
}

#[test]
fn what_had_arrived_whole_is_not_fetched_again() {
    let half = dune().len() / 2;
    let server = serving(move |_, count, answer| match count {
        0 => answer.cut_at(half),
        1..=3 => Answer::status(500),
        _ => answer,
    });
    let setup = Setup::new(&server.address);
    setup.refusal(&dune_network());
    fs::write(setup.own("dune.pth.incomplete"), dune()).unwrap();
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(
        server.requests().last().unwrap().range(),
        Some(dune().len())
    );
    assert_eq!(server.log().len(), 5);
}

#[test]
fn a_file_that_changed_between_its_halves_is_not_glued() {
    let other = mast3r();
    let server = Server::start(move |request, count| match count {
        0 => Answer::file(request, &other, "\"one\"").cut_at(1000),
        _ => Answer::file(request, &dune(), "\"two\""),
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    let second = server.requests()[1].clone();
    assert_eq!(
        (second.range(), second.header("if-range")),
        (Some(1000), Some("\"one\""))
    );
}

#[test]
fn without_ranges_or_anything_to_tell_a_file_by_it_begins_anew() {
    // A weak tag promises nothing, and there is no date.
    let server = Server::start(move |_, count| {
        let answer = Answer::whole_file(&dune()).header("ETag", "W/\"one\"");
        if count == 0 {
            answer.cut_at(1000)
        } else {
            answer
        }
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(server.log(), [format!("GET {PATH}"), format!("GET {PATH}")]);

    // One that could be told by its date, of a server that ignores what it is asked.
    let server = Server::start(move |_, count| {
        let answer =
            Answer::whole_file(&dune()).header("Last-Modified", "Wed, 21 Oct 2025 07:28:00 GMT");
        if count == 0 {
            answer.cut_at(1000)
        } else {
            answer
        }
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(
        server.requests()[1].header("if-range"),
        Some("Wed, 21 Oct 2025 07:28:00 GMT")
    );
}

#[test]
fn a_body_of_unknown_length_is_taken_as_it_ends() {
    let server = serving(|_, _, answer| Answer {
        unsized_body: true,
        ..answer
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
}

#[test]
fn an_error_of_the_server_is_waited_out() {
    let server = serving(|_, count, answer| {
        if count < 2 {
            Answer::status(500 + 3 * count as u16)
        } else {
            answer
        }
    });
    let setup = Setup::new(&server.address);
    let mut reasons = Vec::new();
    let mut listener = |event: Event<'_>| {
        if let Event::Retrying { reason, .. } = event {
            reasons.push(reason.to_string());
        }
    };
    setup
        .hub
        .pull(&dune_network(), &PullOptions::default(), &mut listener)
        .unwrap();
    assert!(
        reasons.len() == 2 && reasons[0].contains("500") && reasons[1].contains("503"),
        "{reasons:?}"
    );
}

#[test]
fn a_connection_cut_in_the_header_is_tried_again_and_then_reported() {
    let cut = || Answer {
        raw: Some(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ..Answer::default()
    };
    let server = serving(move |_, count, answer| if count == 0 { cut() } else { answer });
    Setup::new(&server.address).pull(&dune_network()).unwrap();

    let server = serving(move |_, _, _| cut());
    let message = Setup::new(&server.address).refusal(&dune_network());
    assert!(
        message.starts_with(&format!("{}{PATH}: ", server.address)),
        "{message}"
    );
    assert!(
        message.contains("127.0.0.1") && message.contains("try again later"),
        "{message}"
    );
    assert_eq!(server.log().len(), 4);
}

#[test]
fn a_server_that_is_not_there_or_refuses_is_named() {
    let refused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let message = Setup::new(&format!("http://{refused}")).refusal(&dune_network());
    assert!(
        message.contains("127.0.0.1 refuses the connection"),
        "{message}"
    );

    for status in [401, 403, 404, 410] {
        let server = serving(move |_, _, _| Answer::status(status));
        let message = Setup::new(&server.address).refusal(&dune_network());
        assert!(
            message.contains(&format!("the server answers {status}")),
            "{message}"
        );
        assert_eq!(server.log().len(), 1, "{status}");
    }
}

#[test]
fn what_is_not_the_network_is_not_taken() {
    let page = b"<!DOCTYPE html><html>Moved</html>".to_vec();
    let cut = dune()[..1000].to_vec();
    let other = fixture("dunemast3r_tiny/checkpoint_full_f16.pth");
    for (bytes, reason) in [
        (other, "holds DuneMASt3R"),
        (page, "HTML"),
        (cut, "incomplete"),
        (Vec::new(), "empty"),
    ] {
        let server = Server::start(move |request, _| Answer::file(request, &bytes, "\"one\""));
        let setup = Setup::new(&server.address);
        let message = setup.refusal(&dune_network());
        assert!(
            message.contains(reason) && message.contains("nothing of it was kept"),
            "{reason}: {message}"
        );
        assert!(
            setup.files("mast3r").is_empty(),
            "{:?}",
            setup.files("mast3r")
        );
    }
}

#[test]
fn a_redirect_is_followed_without_the_token() {
    let target = serving(|_, _, answer| answer);
    let place = format!("{}/elsewhere", target.address);
    let server = Server::start(move |_, _| Answer::status(302).header("Location", &place));
    Setup::new(&server.address).pull(&dune_network()).unwrap();
    assert_eq!(target.requests()[0].header("authorization"), None);

    let server = Server::start(|_, _| Answer::status(302).header("Location", "/again"));
    let message = Setup::new(&server.address).refusal(&dune_network());
    assert!(message.contains("redirects"), "{message}");
}

#[test]
fn a_changed_file_is_noticed() {
    let server = Server::start(|request, count| match count {
        0 => Answer::file(request, &dune(), "\"one\""),
        _ => Answer::file(
            request,
            &fixture("dune_tiny/checkpoint_module.pth"),
            "\"two\"",
        ),
    });
    let setup = Setup::new(&server.address);
    setup.pull(&dune_network()).unwrap();
    let again = PullOptions {
        force: true,
        ..PullOptions::default()
    };
    let pulled = setup
        .hub
        .pull(&dune_network(), &again, &mut |_| {})
        .unwrap();
    assert_eq!(
        pulled.files[0].received.as_ref().unwrap().before,
        Some(sha256(&dune()))
    );
    let pulled = setup
        .hub
        .pull(&dune_network(), &again, &mut |_| {})
        .unwrap();
    assert_eq!(pulled.files[0].received.as_ref().unwrap().before, None);
}

#[test]
fn two_pulls_at_a_time_fetch_once() {
    let server = serving(|_, _, answer| Answer {
        pause: Some(Duration::from_millis(20)),
        ..answer
    });
    let setup = Setup::new(&server.address);
    let network = dune_network();
    let waited = std::thread::scope(|scope| {
        let pull = || {
            let mut waited = false;
            let mut listener = |event: Event<'_>| waited |= matches!(event, Event::Waiting);
            setup
                .hub
                .pull(&network, &PullOptions::default(), &mut listener)
                .unwrap();
            waited
        };
        let other = scope.spawn(pull);
        std::thread::sleep(Duration::from_millis(100));
        [pull(), other.join().unwrap()]
    });
    assert_eq!(waited, [true, false]);
    assert_eq!(fs::read(setup.own("dune.pth")).unwrap(), dune());
    assert_eq!(server.log().len(), 1);
}

#[test]
fn a_decoder_without_its_encoder_brings_it_along() {
    let (network, decoder, encoder) = two_files();
    let server = Server::start(move |request, _| match &*request.path {
        "/dune/decoder.pth" => Answer::file(request, &decoder, "\"d\""),
        _ => Answer::file(request, &encoder, "\"e\""),
    });
    let setup = Setup::new(&server.address);
    let pulled = setup.pull(&network).unwrap();
    assert_eq!(
        pulled.paths(),
        [setup.own("decoder.pth"), setup.own("dune.pth")]
    );
    assert_eq!(
        setup.hub.cache.find(&network, None).unwrap(),
        Some(pulled.paths())
    );
    // Without its encoder it is as if it were not there.
    fs::remove_file(setup.own("dune.pth")).unwrap();
    assert_eq!(setup.hub.cache.find(&network, None).unwrap(), None);
    let pulled = setup.pull(&network).unwrap();
    assert!(pulled.files[0].received.is_none() && pulled.files[1].received.is_some());
    assert_eq!(
        server.log(),
        [
            "GET /dune/decoder.pth",
            "GET /dune/dune.pth",
            "GET /dune/dune.pth"
        ]
    );
}

/// A decoder that belongs to the encoder `name`, with next to nothing in it.
fn decoder_of(name: &str) -> Vec<u8> {
    let pickle = forge::Pickle::new()
        .raw(b"}(")
        .text("dune_backbone_name")
        .text(name)
        .text("model")
        .raw(b"}");
    let pickle = pickle.text("mast3r.decoder_embed.weight").tensor(
        "0",
        "FloatStorage",
        6,
        (0, &[2, 3], &[3, 1]),
    );
    forge::zip(&[
        ("a/data.pkl", &pickle.raw(b"su").end()),
        ("a/data/0", &[0; 24]),
    ])
}

#[test]
fn a_decoder_says_which_encoder_it_needs() {
    for (name, reason) in [
        (
            "dune_vitbase_14_448_paper_encoder",
            "dune_vitbase14_448_paper.pth: the server answers 404",
        ),
        (
            "dune_vitgiant_14_448_encoder",
            "needs the encoder dune_vitgiant_14_448_encoder, which is none of the published",
        ),
    ] {
        let decoder = decoder_of(name);
        let server = Server::start(move |request, _| match &*request.path {
            "/dune/decoder.pth" => Answer::file(request, &decoder, "\"d\""),
            _ => Answer::status(404),
        });
        let message = Setup::new(&server.address)
            .pull(&two_files().0)
            .unwrap_err()
            .to_string();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn offline_nothing_is_asked() {
    let server = serving(|_, _, answer| answer);
    let mut setup = Setup::new(&server.address);
    setup.hub.offline = true;
    let message = setup.refusal(&dune_network());
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
    assert!(server.log().is_empty());
    setup.hub.offline = false;
    setup.pull(&dune_network()).unwrap();
    setup.hub.offline = true;
    setup.pull(&dune_network()).unwrap();
    assert_eq!(server.log().len(), 1);
}

#[test]
fn a_place_that_cannot_be_a_cache_is_named() {
    let server = serving(|_, _, answer| answer);
    let setup = Setup::new(&server.address);
    fs::write(setup.folder.path().join("mast3r"), "a file").unwrap();
    let message = setup.refusal(&dune_network());
    assert!(
        message.starts_with(&setup.own(".locks").display().to_string()),
        "{message}"
    );
    assert!(server.log().is_empty());
}
