//! The reasons that several operations share.
//!
//! Errors of a single operation live beside their type.

use std::fmt;

/// The component was closed: nobody gets anything from it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed")
    }
}

impl std::error::Error for Closed {}
