//! What the environment says: folders, addresses, a token, and whether to stay offline.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::model::published::NAVER_FOLDER;

const HUB: &str = "https://huggingface.co";

/// Where published weights are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// The Hugging Face hub, or a mirror of it, without a slash at the end.
    pub hub: String,
    /// The folder of DUNE's and DuneMASt3R's files, likewise.
    pub naver: String,
    /// The account's token, for [`Servers::hub`] alone.
    pub token: Option<Token>,
}

/// A secret that shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Servers {
    /// The servers that the environment names: `HF_ENDPOINT` and `MAST3R_DUNE_ENDPOINT`, with the
    /// token in `HF_TOKEN` or in the file of `HF_TOKEN_PATH`, which is `HF_HOME/token` if not set.
    ///
    /// # Errors
    /// [`Error::Usage`] if a variable cannot be used.
    pub fn from_env() -> Result<Self> {
        let hub = address("HF_ENDPOINT", HUB)?;
        let naver = address("MAST3R_DUNE_ENDPOINT", NAVER_FOLDER)?;
        Ok(Self {
            hub,
            naver,
            token: token()?,
        })
    }
}

impl Token {
    /// A token, once the blanks around it are gone.
    ///
    /// # Errors
    /// [`Error::Usage`] unless it can stand in a request.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_string())),
            false => Err(Error::Usage(
                "the token of the Hugging Face hub has characters that no token has".into(),
            )),
        }
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(..)")
    }
}

/// Whether `HF_HUB_OFFLINE` forbids to fetch anything.
pub fn is_offline() -> bool {
    let value = variable("HF_HUB_OFFLINE").map(|value| value.to_ascii_uppercase());
    value.is_some_and(|value| matches!(&*value, "1" | "ON" | "YES" | "TRUE"))
}

/// A variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.trim().is_empty())
}

/// A variable that names a folder, which may begin with the home folder's sign.
pub(super) fn folder_variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    let in_home = value
        .to_str()
        .and_then(|text| text.strip_prefix("~/"))
        .zip(std::env::home_dir());
    Some(in_home.map_or_else(|| PathBuf::from(&value), |(rest, home)| home.join(rest)))
}

fn address(name: &str, usual: &str) -> Result<String> {
    let Some(value) = variable(name) else {
        return Ok(usual.to_string());
    };
    let value = value.trim().trim_end_matches('/');
    match value
        .strip_prefix("https://")
        .or(value.strip_prefix("http://"))
    {
        Some(rest) if !rest.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(value.to_string())
        }
        // Not repeated, because an address may hold a password.
        _ => Err(Error::Usage(format!(
            "{name} is not an address such as {usual}"
        ))),
    }
}

fn token() -> Result<Option<Token>> {
    let named = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
    let text = match named {
        Some(text) => text,
        None => {
            let path = match folder_variable("HF_TOKEN_PATH") {
                Some(path) => path,
                None => hugging_face_home()?.join("token"),
            };
            match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(&path, error)),
            }
        }
    };
    // An emptied token file is how some programs log out.
    if text.trim().is_empty() {
        Ok(None)
    } else {
        Token::new(&text).map(Some)
    }
}

/// The Hugging Face hub's folder of its own.
pub(super) fn hugging_face_home() -> Result<PathBuf> {
    if let Some(home) = folder_variable("HF_HOME") {
        return Ok(home);
    }
    let caches = match variable("XDG_CACHE_HOME") {
        Some(caches) => PathBuf::from(caches),
        None => match std::env::home_dir() {
            Some(home) if !home.as_os_str().is_empty() => home.join(".cache"),
            _ => {
                return Err(Error::Usage(
                    "there is no home folder for a cache of weights; set HF_HOME".into(),
                ));
            }
        },
    };
    Ok(caches.join("huggingface"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_itself_to_nobody() {
        let token = Token::new(" hf_secret\n").unwrap();
        let servers = Servers {
            hub: String::new(),
            naver: String::new(),
            token: Some(token.clone()),
        };
        assert_eq!(token.bearer(), "Bearer hf_secret");
        assert!(!format!("{servers:?}").contains("secret"));
        for text in ["hf_secret\nX-Header: 1", "", "häf"] {
            let message = Token::new(text).unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
