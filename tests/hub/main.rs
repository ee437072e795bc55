//! Published weights fetched into a cache, from a server on this machine that plays the real ones.

#![cfg(feature = "hub")]
// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod fixtures;
mod hugging_face;
mod naver;
mod server;
