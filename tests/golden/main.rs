//! Comparisons with recorded results of the reference implementation. The data are found under `MAST3R_GOLDEN`, or
//! beside this file.

mod checkpoint;
mod common;
