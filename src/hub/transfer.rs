//! One file from a server to a partial file, which a later transfer goes on with.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::cache::not_written;
use super::client::{Client, Failure, refusal, retry, shown};
use super::{Event, Listener};
use crate::checksum::hexadecimal;
use crate::error::{Error, Result};

const BUFFER: usize = 1 << 17;

/// What is to be fetched.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    pub(super) address: &'a str,
    /// The file that grows.
    pub(super) partial: &'a Path,
    /// How many bytes there must be, if that is known.
    pub(super) bytes: Option<u64>,
    /// The SHA-256 that they must have, if that is known.
    pub(super) sha256: Option<&'a str>,
    pub(super) identity: Identity,
}

/// What tells whether a partial file is of the same file that the server has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its name, which is made of its content's.
    Name,
    /// What the server said when it began, kept beside it.
    Validator,
    /// Nothing: it is never gone on with.
    None,
}

/// A file that arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What the server said of the file when a partial one was begun.
#[derive(Debug, Deserialize, Serialize)]
struct Validator {
    address: String,
    /// A strong ETag or a date, for `If-Range`.
    value: String,
}

/// The partial file and the digest of what is in it.
struct Growing {
    file: File,
    bytes: u64,
    digest: Sha256,
}

impl Transfer<'_> {
    /// Fetches what is missing, and all of it once more if the whole is not what it must be.
    pub(super) fn run(&self, client: &Client, listener: &mut Listener<'_>) -> Result<Arrived> {
        if self.identity == Identity::None {
            self.discard()?;
        }
        let went_on = fs::metadata(self.partial).is_ok_and(|kept| kept.len() > 0);
        match self.once(client, listener)? {
            Ok(arrived) => Ok(arrived),
            Err(reason) if went_on => {
                // What was kept may have been damaged here, and the server's file be fine.
                self.discard()?;
                listener(Event::Retrying {
                    reason: &reason,
                    wait: Duration::ZERO,
                });
                self.once(client, listener)?
                    .map_err(|reason| self.spoiled(&reason))
            }
            Err(reason) => Err(self.spoiled(&reason)),
        }
    }

    /// Removes what is there of the file.
    pub(super) fn discard(&self) -> Result<()> {
        for path in [self.partial, &self.validator_path()] {
            match fs::remove_file(path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(not_written(path, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn spoiled(&self, reason: &str) -> Error {
        let tail = "the server or something on the way changed it, and it was thrown away";
        // Nothing that could be said of a failed removal would help more than this.
        let _ = self.discard();
        Error::weights(shown(self.address), format!("{reason}; {tail}"))
    }

    /// Fetches what is missing. The inner error says that the whole is not what it must be.
    fn once(
        &self,
        client: &Client,
        listener: &mut Listener<'_>,
    ) -> Result<Result<Arrived, String>> {
        let mut growing = Growing::open(self.partial)?;
        if self.identity == Identity::Validator && growing.bytes > 0 && self.validator().is_none() {
            growing.restart(self.partial)?;
        }
        let complete = self.bytes.is_some_and(|bytes| bytes == growing.bytes);
        if !complete {
            retry(self.address, listener, |listener, arrived| {
                let done = self.attempt(client, &mut growing, listener);
                *arrived = growing.bytes;
                done
            })?;
        }
        listener(Event::Checking);
        growing
            .file
            .sync_all()
            .map_err(|source| not_written(self.partial, source))?;
        let sha256 = hexadecimal(&growing.digest.finalize());
        if let Some(expected) = self.sha256.filter(|expected| *expected != sha256) {
            return Ok(Err(format!(
                "what arrived has SHA-256 {sha256} and must have {expected}"
            )));
        }
        Ok(Ok(Arrived {
            bytes: growing.bytes,
            sha256,
        }))
    }

    fn attempt(
        &self,
        client: &Client,
        growing: &mut Growing,
        listener: &mut Listener<'_>,
    ) -> Result<(), Failure> {
        let answer = client.get(self.address, &self.range(growing.bytes))?;
        let total = match answer.status() {
            StatusCode::OK => {
                growing.restart(self.partial).map_err(Failure::Final)?;
                self.remember(answer.headers()).map_err(Failure::Final)?;
                number(answer.headers().get(CONTENT_LENGTH))
            }
            StatusCode::PARTIAL_CONTENT => match content_range(&answer) {
                Some((start, total)) if start == growing.bytes => Some(total),
                _ => {
                    return Err(self
                        .begin_again(growing, "the server sent another part than was asked for"));
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if content_size(&answer) == Some(growing.bytes) => {
                return Ok(());
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.begin_again(
                    growing,
                    "the server's file is shorter than what was received",
                ));
            }
            _ => return Err(refusal(self.address, &answer)),
        };
        let announced = self.bytes.or(total);
        if let (Some(expected), Some(total)) = (self.bytes, total)
            && expected != total
        {
            let reason = format!("the file has {total} bytes there and must have {expected}");
            return Err(Failure::Final(self.spoiled(&reason)));
        }
        listener(Event::Started {
            total: announced,
            kept: growing.bytes,
        });
        self.receive(answer.into_body(), announced, growing, listener)
    }

    fn receive(
        &self,
        body: Body,
        announced: Option<u64>,
        growing: &mut Growing,
        listener: &mut Listener<'_>,
    ) -> Result<(), Failure> {
        let mut body = body.into_reader();
        let mut buffer = vec![0; BUFFER];
        let broke = |bytes: u64, reason: &str| {
            let of = announced
                .map(|total| format!(" of {total}"))
                .unwrap_or_default();
            Failure::Passing(
                format!("the connection broke after {bytes}{of} bytes{reason}"),
                None,
            )
        };
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(broke(growing.bytes, &format!(": {error}"))),
            };
            if count == 0 {
                break;
            }
            growing
                .append(&buffer[..count])
                .map_err(|source| Failure::Final(not_written(self.partial, source)))?;
            listener(Event::Received {
                bytes: growing.bytes,
            });
        }
        match announced {
            Some(total) if growing.bytes < total => Err(broke(growing.bytes, "")),
            Some(total) if growing.bytes > total => {
                let reason = format!(
                    "{} bytes arrived, and {total} were announced",
                    growing.bytes
                );
                Err(Failure::Final(self.spoiled(&reason)))
            }
            _ => Ok(()),
        }
    }

    fn begin_again(&self, growing: &mut Growing, reason: &str) -> Failure {
        match growing.restart(self.partial) {
            Ok(()) => Failure::Passing(reason.to_string(), Some(Duration::ZERO)),
            Err(error) => Failure::Final(error),
        }
    }

    /// Asks for what comes after the first `bytes`, if it is of the same file.
    fn range(&self, bytes: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if bytes == 0 {
            return headers;
        }
        let validator = self
            .validator()
            .and_then(|validator| HeaderValue::try_from(validator.value).ok());
        match (self.identity, validator) {
            (Identity::Name, _) => {}
            (Identity::Validator, Some(validator)) => drop(headers.insert(IF_RANGE, validator)),
            _ => return headers,
        }
        if let Ok(range) = HeaderValue::try_from(format!("bytes={bytes}-")) {
            headers.insert(RANGE, range);
        }
        headers
    }

    fn validator_path(&self) -> PathBuf {
        self.partial.with_added_extension("json")
    }

    fn validator(&self) -> Option<Validator> {
        let text = fs::read(self.validator_path()).ok()?;
        serde_json::from_slice::<Validator>(&text)
            .ok()
            .filter(|validator| validator.address == shown(self.address))
    }

    /// Keeps what tells whether a later answer is about the same file.
    fn remember(&self, headers: &HeaderMap) -> Result<()> {
        if self.identity != Identity::Validator {
            return Ok(());
        }
        let path = self.validator_path();
        // A weak ETag does not promise the same bytes.
        let strong = headers
            .get(ETAG)
            .filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        let value = strong
            .or(headers.get(LAST_MODIFIED))
            .and_then(|value| value.to_str().ok());
        let written = match value {
            Some(value) => {
                let validator = Validator {
                    address: shown(self.address),
                    value: value.to_string(),
                };
                serde_json::to_vec(&validator)
                    .map_err(Into::into)
                    .and_then(|text| fs::write(&path, text))
            }
            None => match fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => Err(source),
                _ => Ok(()),
            },
        };
        written.map_err(|source| not_written(&path, source))
    }
}

impl Growing {
    /// Opens what there is of a file and digests it.
    fn open(path: &Path) -> Result<Self> {
        let failed = |source| not_written(path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let (mut bytes, mut digest, mut buffer) = (0, Sha256::new(), vec![0; BUFFER]);
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                count => {
                    digest.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Self {
            file,
            bytes,
            digest,
        })
    }

    fn restart(&mut self, path: &Path) -> Result<()> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| not_written(path, source))?;
        (self.bytes, self.digest) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // So that the file is what the digest is of, as far as the disk lets it.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// The size of the whole where no part is sent, from `bytes */200`.
fn content_size(answer: &Response<Body>) -> Option<u64> {
    let text = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes */")?.trim().parse().ok()
}

/// First byte and size of the whole, from `bytes 100-199/200`.
fn content_range(answer: &Response<Body>) -> Option<(u64, u64)> {
    let text = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
}

pub(super) fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}
