//! Published weights fetched into a cache, from a server on this machine that plays the real ones.

#![cfg(feature = "hub")]
// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod fixtures;
// Not all that it forges is needed here.
#[allow(dead_code)]
#[path = "../../src/model/checkpoint/forge.rs"]
mod forge;
mod hugging_face;
mod naver;
mod server;
