//! What the tests of the log share.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io;
use std::sync::Arc;

use latchwork::fs::Fs;
use latchwork::wal::{Builder, Lsn, Recovery, Wal, WalError};

pub(crate) type Records = Vec<(u64, Vec<u8>)>;

/// A body that says whose it is; each LSN has a length of its own.
pub(crate) fn body(lsn: u64) -> Vec<u8> {
    let len = [3, 700, 0, 40, 1300, 8][(lsn % 6) as usize];
    (0..len).map(|at| (lsn * 31 + at) as u8 | 1).collect()
}

/// A log with small segments in `/log`.
pub(crate) fn builder(fs: &(impl Fs + Clone)) -> Builder {
    Wal::builder("/log")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(4096)
}

/// Opens the log, with what it delivers.
pub(crate) fn open(builder: Builder) -> Result<(Wal, Recovery, Records), WalError> {
    let mut records = Vec::new();
    let (wal, recovery) = builder.open(|lsn: Lsn, body| {
        records.push((lsn.get(), body.to_vec()));
        Ok::<(), io::Error>(())
    })?;
    Ok((wal, recovery, records))
}
