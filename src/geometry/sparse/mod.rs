//! Systems of many cameras, of which each has to do with few others.

mod ordering;
mod tiles;

pub(crate) use ordering::elimination_order;
pub(crate) use tiles::SymmetricTiles;
