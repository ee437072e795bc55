//! Custom tensor operations.
