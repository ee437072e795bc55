//! Weights from a server into the cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ureq::Body;
use ureq::http::header::{CONTENT_LENGTH, ETAG};
use ureq::http::{Response, StatusCode};

use super::cache::{Cache, MAIN, Repository, create_folder, not_written};
use super::client::{Client, Failure, named, refusal, retry, shown};
use super::environment::{Servers, is_offline};
use super::transfer::{Arrived, Identity, Transfer, number};
use super::{Event, Listener};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::published::{Source, WeightFile};
use crate::model::registry::Network;

/// Beside MASt3R's weights, with the arguments that the network was made with.
const SETTINGS: &str = "config.json";
/// Where the hub says which file it is of those that are kept elsewhere: their SHA-256.
const LINKED_ETAG: &str = "x-linked-etag";

/// The servers of published weights, and the cache that they are fetched into.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Where weights go.
    pub cache: Cache,
    /// Where they come from.
    pub servers: Servers,
    /// Whether nothing may be fetched.
    pub offline: bool,
}

/// What to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Long side of the images that the weights are for, if one of several files is meant.
    pub long_side: Option<u32>,
    /// Branch, tag or commit of a repository of the Hugging Face hub; its main branch, if none.
    pub revision: Option<String>,
    /// Fetch what is in the cache already, too.
    pub force: bool,
}

/// The weights of a network, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The files: one, or a DuneMASt3R decoder and its encoder.
    pub files: Vec<PulledFile>,
}

/// A weight file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Where it is.
    pub path: PathBuf,
    /// What arrived; none for a file that was there.
    pub received: Option<Received>,
}

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes the file has.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Whether the server had told that SHA-256.
    pub announced: bool,
    /// The SHA-256 of the file that was fetched from the same server before, if it was another.
    pub before: Option<String>,
}

/// What is kept beside a file of the authors' server.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    address: String,
    bytes: u64,
    sha256: String,
}

/// What the hub says of a file.
#[derive(Debug)]
struct Metadata {
    commit: String,
    etag: String,
    bytes: Option<u64>,
}

impl Pulled {
    /// The files' paths, as [`Checkpoint::open`] takes them.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

impl Hub {
    /// The cache and the servers that the environment names; see [`Cache::from_env`],
    /// [`Servers::from_env`] and [`is_offline`].
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Io`] if the environment cannot be used.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            cache: Cache::from_env()?,
            servers: Servers::from_env()?,
            offline: is_offline(),
        })
    }

    /// The weights of `network` that `options` mean, if they are in the cache; asks no server.
    ///
    /// # Errors
    /// [`Error::Usage`] if the options do not fit; [`Error::Weights`] and [`Error::Io`] if what is
    /// there cannot be read.
    pub fn cached(&self, network: &Network, options: &PullOptions) -> Result<Option<Vec<PathBuf>>> {
        let file = options.file(network)?;
        self.cache
            .find_file(network, file, options.revision.as_deref())
    }

    /// Fetches the weights of `network` that are not in the cache, and checks that they are its
    /// weights. `listener` is told how it goes.
    ///
    /// The terms of the weights ([`Network::weights_license`]) are for the caller to accept.
    ///
    /// # Errors
    /// [`Error::Usage`] if nothing is published for it; [`Error::Download`] if a server cannot be
    /// reached or refuses; [`Error::Weights`] if what it sends is not what it should be;
    /// [`Error::Io`] if the cache cannot be written. What was received stays for the next time,
    /// unless it is wrong.
    pub fn pull(
        &self,
        network: &Network,
        options: &PullOptions,
        listener: &mut Listener<'_>,
    ) -> Result<Pulled> {
        let file = options.file(network)?;
        let pull = Pull {
            hub: self,
            client: Client::new(&self.servers),
            options,
        };
        let whole = pull.obtain(
            file,
            listener,
            &|path| match Checkpoint::missing_encoder(path)? {
                Some(_) if network.may_lack_encoder() => Ok(()),
                _ => Checkpoint::open(&[path.to_path_buf()])?.expect(network),
            },
        )?;
        let mut files = vec![whole];
        if let Some(encoder) = self.cache.encoder_of(network, file, &files[0].path)? {
            let is_whole = |path: &Path| Checkpoint::open(&[path.to_path_buf()]).map(drop);
            files.push(pull.obtain(encoder, listener, &is_whole)?);
        }
        let pulled = Pulled { files };
        let usable =
            Checkpoint::open(&pulled.paths()).and_then(|checkpoint| checkpoint.expect(network));
        usable.map_err(|error| match error {
            Error::Weights { path, reason } => Error::weights(
                path,
                format!("{reason}; it is in the cache; a forced pull fetches it again"),
            ),
            other => other,
        })?;
        Ok(pulled)
    }

    /// Where `file` is fetched from, without a password that a mirror's address may have.
    pub fn address(&self, file: &WeightFile) -> String {
        shown(&self.full_address(file, MAIN))
    }

    fn full_address(&self, file: &WeightFile, revision: &str) -> String {
        match file.source {
            Source::Naver => format!("{}/{}", self.servers.naver, file.name),
            Source::HuggingFace(repository) => self.hub_address(repository, file.name, revision),
        }
    }

    fn hub_address(&self, repository: &str, file: &str, revision: &str) -> String {
        format!(
            "{}/{repository}/resolve/{}/{file}",
            self.servers.hub,
            revision.replace('/', "%2F")
        )
    }
}

impl PullOptions {
    /// The file that is meant.
    fn file(&self, network: &Network) -> Result<&'static WeightFile> {
        let file = network.weights_at(self.long_side).ok_or_else(|| {
            Error::Usage(format!(
                "{} needs no download: no weights of it are published on a server",
                network.name
            ))
        })?;
        match &self.revision {
            Some(_) if file.source == Source::Naver => {
                let reason = "revisions are of repositories of the Hugging Face hub, and these weights are not on it";
                Err(Error::Usage(format!("{}: {reason}", network.name)))
            }
            Some(revision) if !is_revision(revision) => {
                let reason = "a branch, a tag or a commit has letters, digits and . _ - / only";
                Err(Error::Usage(format!("revision {revision}: {reason}")))
            }
            _ => Ok(file),
        }
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

/// One call of [`Hub::pull`].
struct Pull<'a> {
    hub: &'a Hub,
    client: Client,
    options: &'a PullOptions,
}

/// Judges a file that arrived before it is taken.
type Check<'a> = dyn Fn(&Path) -> Result<()> + 'a;

impl Pull<'_> {
    /// One file, from the cache or else from its server.
    fn obtain(
        &self,
        file: &WeightFile,
        listener: &mut Listener<'_>,
        check: &Check<'_>,
    ) -> Result<PulledFile> {
        // An encoder that completes a file has no revision of its own, and no repository either.
        let here = self
            .hub
            .cache
            .path_of(file, self.options.revision.as_deref());
        if let Some(path) = here.filter(|_| !self.options.force) {
            return Ok(PulledFile {
                path,
                received: None,
            });
        }
        let address = self.hub.full_address(file, self.options.revision());
        if self.hub.offline {
            let reason =
                "HF_HUB_OFFLINE says to fetch nothing; unset it, or give a file of weights";
            return Err(Error::download(shown(&address), reason));
        }
        listener(Event::File {
            name: file.name,
            address: &shown(&address),
        });
        match file.source {
            Source::Naver => self.fetch_naver(file, &address, listener, check),
            Source::HuggingFace(repository) => {
                // First, so that the weights are never without it.
                self.fetch_hub(repository, SETTINGS, None, listener, &|_| Ok(()))?;
                // Another revision may hold other weights.
                let known = file.sha256.filter(|_| self.options.revision.is_none());
                let found = self.fetch_hub(repository, file.name, known, listener, check)?;
                found.ok_or_else(|| Error::download(shown(&address), self.no_such_file()))
            }
        }
    }

    fn fetch_naver(
        &self,
        file: &WeightFile,
        address: &str,
        listener: &mut Listener<'_>,
        check: &Check<'_>,
    ) -> Result<PulledFile> {
        let folder = &self.hub.cache.own;
        let path = folder.join(file.name);
        let _lock = lock(
            &folder.join(".locks").join(format!("{}.lock", file.name)),
            listener,
        )?;
        // Another process may have fetched it by now.
        if path.is_file() && !self.options.force {
            return Ok(PulledFile {
                path,
                received: None,
            });
        }
        let partial = path.with_added_extension("incomplete");
        let transfer = Transfer {
            address,
            partial: &partial,
            bytes: None,
            sha256: None,
            identity: Identity::Validator,
        };
        let Arrived { bytes, sha256 } = transfer.run(&self.client, listener)?;
        take(&transfer, &path, check)?;
        let before = keep_record(
            &path,
            Record {
                address: shown(address),
                bytes,
                sha256: sha256.clone(),
            },
        )?;
        let received = Received {
            bytes,
            sha256,
            announced: false,
            before,
        };
        Ok(PulledFile {
            path,
            received: Some(received),
        })
    }

    /// One file of a repository, or none if the repository has no such file; `known` is the SHA-256
    /// that it should have.
    fn fetch_hub(
        &self,
        repository: &str,
        name: &str,
        known: Option<&str>,
        listener: &mut Listener<'_>,
        check: &Check<'_>,
    ) -> Result<Option<PulledFile>> {
        let asked = self
            .hub
            .hub_address(repository, name, self.options.revision());
        let answer = retry(&asked, listener, |_, _| self.metadata(repository, &asked))?;
        let Some(Metadata {
            commit,
            etag,
            bytes,
        }) = answer
        else {
            return Ok(None);
        };
        if let Some(known) = known.filter(|known| is_sha256(&etag) && *known != etag) {
            let reason = format!(
                "the file changed since this program was made: its SHA-256 is {etag}, and {known} is expected; \
                 --revision {commit} takes it all the same"
            );
            return Err(Error::download(shown(&asked), reason));
        }
        let cached = self.hub.cache.repository(repository);
        let _lock = lock(&cached.lock(&etag), listener)?;
        let blob = cached.blob(&etag);
        let is_here =
            fs::metadata(&blob).is_ok_and(|blob| bytes.is_none_or(|bytes| bytes == blob.len()));
        let mut received = None;
        if self.options.force || !is_here {
            let sha256 = is_sha256(&etag).then_some(&*etag);
            // The commit's address, so that it stays the file that was asked about.
            let address = self.hub.hub_address(repository, name, &commit);
            let partial = blob.with_added_extension("incomplete");
            create_parent(&partial)?;
            let identity = if sha256.is_some() {
                Identity::Name
            } else {
                Identity::None
            };
            let transfer = Transfer {
                address: &address,
                partial: &partial,
                bytes,
                sha256,
                identity,
            };
            let Arrived {
                bytes,
                sha256: digest,
            } = transfer.run(&self.client, listener)?;
            take(&transfer, &blob, &|partial| {
                // Judged from where its settings are beside it.
                let file = partial.file_name().unwrap_or_default();
                let beside = cached.link(&commit, &format!(".{name}.new"), file)?;
                let judged = check(&beside);
                fs::remove_file(&beside).map_err(|source| not_written(&beside, source))?;
                judged
            })?;
            received = Some(Received {
                bytes,
                sha256: digest,
                announced: sha256.is_some(),
                before: None,
            });
        }
        let path = cached.link(&commit, name, etag.as_ref())?;
        record_revision(&cached, self.options.revision(), &commit)?;
        Ok(Some(PulledFile { path, received }))
    }

    /// What the hub says of a file; none if the repository has no such file.
    fn metadata(&self, repository: &str, address: &str) -> Result<Option<Metadata>, Failure> {
        let answer = self.client.head(address, LINKED_ETAG)?;
        let headers = answer.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if !(answer.status().is_success() || answer.status().is_redirection()) {
            return match (answer.status(), text("x-error-code")) {
                (StatusCode::NOT_FOUND, Some("EntryNotFound") | None) => Ok(None),
                _ => Err(self.hub_refusal(repository, address, &answer)),
            };
        }
        let failed = |what: &str| {
            let reason = format!(
                "the answer names no {what}, as the Hugging Face hub does; is HF_ENDPOINT a mirror of it?"
            );
            Failure::Final(Error::download(shown(address), reason))
        };
        let commit = text("x-repo-commit")
            .filter(|commit| is_name(commit))
            .ok_or_else(|| failed("commit"))?;
        let etag = text(LINKED_ETAG)
            .or(text(ETAG.as_str()))
            .map(|etag| etag.trim_start_matches("W/"));
        let etag = etag
            .map(|etag| etag.trim_matches('"'))
            .filter(|etag| is_name(etag))
            .ok_or_else(|| failed("ETag"))?;
        let own_size = || {
            if answer.status().is_success() {
                number(headers.get(CONTENT_LENGTH))
            } else {
                None
            }
        };
        let bytes = number(headers.get("x-linked-size")).or_else(own_size);
        Ok(Some(Metadata {
            commit: commit.to_string(),
            etag: etag.to_string(),
            bytes,
        }))
    }

    fn hub_refusal(&self, repository: &str, address: &str, answer: &Response<Body>) -> Failure {
        let page = format!("{}/{repository}", shown(&self.hub.servers.hub));
        let code = answer
            .headers()
            .get("x-error-code")
            .and_then(|code| code.to_str().ok());
        let reason = match (answer.status(), code) {
            (StatusCode::NOT_FOUND, Some("RevisionNotFound")) => {
                format!(
                    "{page} has no revision {} (404 Not Found)",
                    self.options.revision()
                )
            }
            (StatusCode::NOT_FOUND, _) => self.no_such_file(),
            (status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _) => {
                let token = match self.client.has_token() {
                    true => "the token that was sent gives no access: is it valid?",
                    false => "log in: put a token of your account into HF_TOKEN",
                };
                let terms = format!("if {page} asks you to accept terms, accept them there");
                format!("the server answers {}; {token}; {terms}", named(status))
            }
            _ => return refusal(address, answer),
        };
        Failure::Final(Error::download(shown(address), reason))
    }

    fn no_such_file(&self) -> String {
        format!(
            "there is no such file in revision {} (404 Not Found)",
            self.options.revision()
        )
    }
}

/// Gives what arrived its name, once `check` finds it to be what it should be.
fn take(transfer: &Transfer<'_>, path: &Path, check: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    if let Err(error) = check(transfer.partial) {
        let Error::Weights { reason, .. } = error else {
            return Err(error);
        };
        transfer.discard()?;
        let reason = format!("the downloaded file is not valid: {reason}; nothing of it was kept");
        return Err(Error::weights(shown(transfer.address), reason));
    }
    fs::rename(transfer.partial, path).map_err(|source| not_written(path, source))?;
    // What is left is the note on how the transfer may go on.
    transfer.discard()
}

/// Notes what the file at `path` is. Returns the SHA-256 of the one before it, if that was another.
fn keep_record(path: &Path, record: Record) -> Result<Option<String>> {
    let place = path.with_added_extension("json");
    let before = fs::read(&place)
        .ok()
        .and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let written = serde_json::to_vec_pretty(&record)
        .map_err(Into::into)
        .and_then(|text| fs::write(&place, text));
    written.map_err(|source| not_written(&place, source))?;
    Ok(before
        .map(|before| before.sha256)
        .filter(|before| *before != record.sha256))
}

/// Makes the folder that `path` is in.
fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), create_folder)
}

/// Notes which commit `revision` is.
fn record_revision(repository: &Repository, revision: &str, commit: &str) -> Result<()> {
    if revision == commit {
        return Ok(());
    }
    let path = repository.reference(revision);
    create_parent(&path)?;
    fs::write(&path, commit).map_err(|source| not_written(&path, source))
}

/// Waits until no other process fetches the same file; the returned file keeps others waiting while
/// it lives.
fn lock(path: &Path, listener: &mut Listener<'_>) -> Result<File> {
    create_parent(path)?;
    let failed = |source| not_written(path, source);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            listener(Event::Waiting);
            file.lock().map_err(failed)?;
        }
        // Some network file systems have no locks, and one pull at a time works there too.
        Err(TryLockError::Error(source)) if source.kind() != ErrorKind::Unsupported => {
            return Err(failed(source));
        }
        _ => {}
    }
    Ok(file)
}

/// Whether `text` is what it seems in a path and in an address.
fn is_revision(text: &str) -> bool {
    text.split('/').all(is_name)
}

/// Whether `text` can be one part of a path, which the server chooses.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.bytes().all(plain)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_server_stay_in_their_folder() {
        for name in [
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "",
            "c:",
            "a b",
            &"a".repeat(129),
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("0123456789abcdef") && is_name("v1.0_x-y"));
        assert!(is_revision("refs/pr/1"));
        for revision in ["../main", "/main", "main/", "a b", "main?x=1"] {
            assert!(!is_revision(revision), "{revision}");
        }
    }
}
