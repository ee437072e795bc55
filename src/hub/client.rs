//! Requests: redirects by hand, so that the token stays with its server, and failures sorted by
//! what to do about them.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use super::environment::Servers;
use super::{Event, Listener};
use crate::error::{Error, Result};

const CONNECT: Duration = Duration::from_secs(30);
/// Without a byte for so long a connection counts as lost; a slow one may take as long as it likes.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;
/// How often a failed request is repeated, if nothing at all was received since the last one.
const REPETITIONS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) struct Client {
    agent: Agent,
    /// For this machine's own addresses, which no proxy knows.
    direct: Agent,
    /// What goes to the hub's own address alone.
    secret: Option<(Origin, String)>,
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go better soon, after this long if the server says so.
    Passing(String, Option<Duration>),
    /// The server cannot be reached: hopeless, unless it could be a moment ago.
    Unreachable(String),
    /// It will not go better.
    Final(Error),
}

/// Scheme, host and port: what a secret is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Client {
    pub(super) fn new(servers: &Servers) -> Self {
        let settings = || {
            Agent::config_builder()
                .tls_config(tls())
                .user_agent(concat!("mast3r/", env!("CARGO_PKG_VERSION")))
                .http_status_as_error(false)
                .max_redirects(0)
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
        };
        let agent = settings().build().new_agent();
        let direct = settings().proxy(None).build().new_agent();
        let hub = servers
            .hub
            .parse::<Uri>()
            .ok()
            .and_then(|address| Origin::of(&address));
        let secret = hub.zip(servers.token.as_ref().map(super::Token::bearer));
        Self {
            agent,
            direct,
            secret,
        }
    }

    /// Whether a token goes along to the hub.
    pub(super) fn has_token(&self) -> bool {
        self.secret.is_some()
    }

    /// The server's first answer about `address` that is about the file: it has the header `mark`,
    /// or does not point to another place of the same server.
    pub(super) fn head(&self, address: &str, mark: &str) -> Result<Response<Body>, Failure> {
        let elsewhere =
            |answer: &Response<Body>, moved: bool| moved && !answer.headers().contains_key(mark);
        self.request(Method::HEAD, address, &HeaderMap::new(), elsewhere)
    }

    /// The answer to a request for `address`, wherever it is given.
    pub(super) fn get(
        &self,
        address: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        self.request(Method::GET, address, headers, |_, _| true)
    }

    /// Goes from place to place as long as `follow` says so of an answer, and of whether its target
    /// is on the same server.
    fn request(
        &self,
        method: Method,
        address: &str,
        headers: &HeaderMap,
        follow: impl Fn(&Response<Body>, bool) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let unusable = || {
            Failure::Final(Error::download(
                shown(address),
                "is not an address that can be asked",
            ))
        };
        let mut place: Uri = address.parse().map_err(|_| unusable())?;
        for _ in 0..=REDIRECTS {
            let origin = Origin::of(&place).ok_or_else(unusable)?;
            let mut request = Request::builder()
                .method(&method)
                .uri(&place)
                .header(ACCEPT_ENCODING, "identity");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some((_, bearer)) = self.secret.as_ref().filter(|(hub, _)| *hub == origin) {
                request = request.header(AUTHORIZATION, bearer);
            }
            let request = request.body(()).map_err(|_| unusable())?;
            let agent = if origin.is_here() {
                &self.direct
            } else {
                &self.agent
            };
            let answer = agent
                .run(request)
                .map_err(|error| failure(error, &origin, address))?;
            let target = match answer.headers().get(LOCATION) {
                Some(target) if answer.status().is_redirection() => target.to_str().ok(),
                _ => return Ok(answer),
            };
            let target = target
                .and_then(|target| origin.target(target))
                .ok_or_else(|| {
                    Failure::Final(Error::download(
                        shown(address),
                        format!("{} points to no usable place", origin.host),
                    ))
                })?;
            let next = Origin::of(&target).ok_or_else(unusable)?;
            if origin.scheme == "https" && next.scheme != "https" {
                let reason = format!("{} points to {} without encryption", origin.host, next.host);
                return Err(Failure::Final(Error::download(shown(address), reason)));
            }
            if !follow(&answer, next == origin) {
                return Ok(answer);
            }
            place = target;
        }
        Err(Failure::Final(Error::download(
            shown(address),
            format!("more than {REDIRECTS} redirects"),
        )))
    }
}

/// The system's own TLS and certificates where the build has them.
fn tls() -> TlsConfig {
    let settings = if cfg!(any(target_vendor = "apple", windows)) {
        TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier)
    } else {
        TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::WebPki)
    };
    settings.build()
}

impl Origin {
    fn of(place: &Uri) -> Option<Self> {
        let scheme = place.scheme_str()?.to_ascii_lowercase();
        let port = place.port_u16().or(match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        })?;
        Some(Self {
            scheme,
            host: place.host()?.to_ascii_lowercase(),
            port,
        })
    }

    fn is_here(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// The place that `target` means in an answer from here.
    fn target(&self, target: &str) -> Option<Uri> {
        let Self { scheme, host, port } = self;
        if target.starts_with("//") {
            format!("{scheme}:{target}").parse().ok()
        } else if target.starts_with('/') {
            format!("{scheme}://{host}:{port}{target}").parse().ok()
        } else {
            target.parse().ok()
        }
    }
}

/// Repeats `attempt` while it may go better. It returns how much has arrived so far, beside its
/// failure.
pub(super) fn retry<T>(
    address: &str,
    listener: &mut Listener<'_>,
    mut attempt: impl FnMut(&mut Listener<'_>, &mut u64) -> Result<T, Failure>,
) -> Result<T> {
    let (mut arrived, mut furthest, mut repeated) = (0, 0, 0);
    loop {
        let (reason, wait) = match attempt(listener, &mut arrived) {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Unreachable(reason)) if furthest == 0 && arrived == 0 => {
                return Err(Error::download(shown(address), reason));
            }
            Err(Failure::Unreachable(reason)) => (reason, None),
            Err(Failure::Passing(reason, wait)) => (reason, wait),
        };
        if arrived > furthest {
            (furthest, repeated) = (arrived, 0);
        }
        if repeated == REPETITIONS {
            let way_out = match furthest {
                0 => "try again later",
                _ => "what was received is kept: the same command goes on from there",
            };
            return Err(Error::download(
                shown(address),
                format!("{reason}; {way_out}"),
            ));
        }
        let wait = wait
            .unwrap_or(FIRST_WAIT * 2_u32.pow(repeated))
            .min(LONGEST_WAIT);
        repeated += 1;
        listener(Event::Retrying {
            reason: &reason,
            wait,
        });
        sleep(wait);
    }
}

/// The failure that an answer with this status is, unless the server's own rules say otherwise.
pub(super) fn refusal(address: &str, answer: &Response<Body>) -> Failure {
    let status = answer.status();
    let named = named(status);
    if status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
    {
        let wait = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        return Failure::Passing(
            format!("the server answers {named}"),
            wait.map(Duration::from_secs),
        );
    }
    Failure::Final(Error::download(
        shown(address),
        format!("the server answers {named}"),
    ))
}

/// `404 Not Found`.
pub(super) fn named(status: StatusCode) -> String {
    format!(
        "{} {}",
        status.as_u16(),
        status.canonical_reason().unwrap_or("(unknown)")
    )
}

/// `address` as it may be shown: passwords and signatures in it are nobody's business.
pub(super) fn shown(address: &str) -> String {
    let plain = address.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!(
                "{scheme}://{}{path}",
                authority.rsplit('@').next().unwrap_or_default()
            )
        }
        None => plain.to_string(),
    }
}

fn failure(error: ureq::Error, from: &Origin, address: &str) -> Failure {
    let host = &from.host;
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Failure::Unreachable(format!(
                "{host} refuses the connection; is the address right, and is a proxy needed?"
            ))
        }
        ureq::Error::Io(error) if is_unreachable(error.kind()) => {
            Failure::Unreachable(format!("{host} cannot be reached: {error}"))
        }
        ureq::Error::Io(error) => {
            Failure::Passing(format!("the connection to {host} broke: {error}"), None)
        }
        ureq::Error::HostNotFound => Failure::Unreachable(format!(
            "{host} was not found; is this machine connected to the network?"
        )),
        ureq::Error::Timeout(_) => Failure::Passing(format!("{host} does not answer"), None),
        ureq::Error::Protocol(error) => {
            Failure::Passing(format!("{host} gave no proper answer: {error}"), None)
        }
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => Failure::Unreachable(
            "the proxy that HTTPS_PROXY or ALL_PROXY names does not help".into(),
        ),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Final(Error::download(
            shown(address),
            "is not an address that can be asked",
        )),
        // What is left is about TLS, and no address or secret is in it.
        error => Failure::Final(Error::download(
            shown(address),
            format!("no connection to {host}: {error}"),
        )),
    }
}

fn is_unreachable(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(
        kind,
        HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(
            shown("https://me:pass@host:8443/a/b.pth?Signature=x#y"),
            "https://host:8443/a/b.pth"
        );
        assert_eq!(shown("http://host"), "http://host");
        assert_eq!(shown("http://host/a@b"), "http://host/a@b");
    }

    #[test]
    fn targets_are_read_as_from_their_server() {
        let from = Origin::of(&"https://hub.example/a/b".parse().unwrap()).unwrap();
        let target = |text: &str| from.target(text).and_then(|place| Origin::of(&place));
        assert_eq!(target("/c/d"), Some(from.clone()));
        assert_eq!(target("https://HUB.example:443/c"), Some(from.clone()));
        for other in [
            "https://hub.example.org/c",
            "https://hub.example:8443/c",
            "http://hub.example/c",
            "//cdn/c",
        ] {
            assert_ne!(target(other), Some(from.clone()), "{other}");
        }
        assert_eq!(target("c/d"), None);
        assert!(target("http://127.0.0.1:80/").is_some_and(|place| place.is_here()));
        assert!(target("http://[::1]/").is_some_and(|place| place.is_here()));
        assert!(!from.is_here());
    }
}
