//! Published weights: found in the cache, or fetched into it.
//!
//! What looks into the cache is in every build, what fetches in those with the feature `hub`.
//!
//! ```no_run
//! use mast3r::hub::{Cache, Hub, PullOptions};
//! use mast3r::model::registry::Network;
//!
//! let network = Network::find("mast3r")?;
//! let cache = Cache::from_env()?;
//! let weights = match cache.find(network, None)? {
//!     Some(paths) => paths,
//!     // Whoever calls this accepts the terms in `network.weights_license`.
//!     None => Hub::from_env()?.pull(network, &PullOptions::default(), &mut |_| {})?.paths(),
//! };
//! # Ok::<(), mast3r::Error>(())
//! ```
//!
//! [`Cache::find`] never asks the network for anything, and nothing but [`Hub::pull`] does.
//! MASt3R's file comes from the Hugging Face hub and lies in the cache that all its programs share;
//! see [`Cache`] for where. The files of the authors' server lie in a folder beside it.
//!
//! A file takes its name in the cache when all of it has arrived and was checked: its size, its
//! SHA-256 where the server tells it (the hub does, the authors' server does not), and that it
//! holds the network. What is interrupted goes on where it stopped, if it is still the same file.
//! None of this was ever tried with the real servers, only with one that the tests play.

// Without the feature nothing is fetched, and half of what is about the cache's files is not used.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
mod environment;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod transfer;

use std::time::Duration;

pub use cache::Cache;
pub use environment::{Servers, Token, is_offline};
#[cfg(feature = "hub")]
pub use pull::{Hub, PullOptions, Pulled, PulledFile, Received};

/// Whoever is told how a transfer goes.
pub type Listener<'a> = dyn FnMut(Event<'_>) + 'a;

/// What happens while weights are fetched.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file is next.
    File {
        /// Its name.
        name: &'a str,
        /// Where it is.
        address: &'a str,
    },
    /// Another process fetches the same file; this one goes on when that has ended.
    Waiting,
    /// The server begins to send.
    Started {
        /// Bytes of the whole file, if the server says how many.
        total: Option<u64>,
        /// Bytes that an earlier transfer left.
        kept: u64,
    },
    /// More has arrived.
    Received {
        /// Bytes of the file that are there now.
        bytes: u64,
    },
    /// Something went wrong that may go better.
    Retrying {
        /// What.
        reason: &'a str,
        /// After how long it is tried again.
        wait: Duration,
    },
    /// All has arrived and is checked.
    Checking,
}
