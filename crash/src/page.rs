//! Memory that a scenario's processes share: 64-bit cells, zero at first.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};

const CELL: usize = size_of::<AtomicU64>();

/// A mapping, inherited by forks.
#[derive(Debug)]
pub(crate) struct Page {
    map: MmapRaw,
}

impl Page {
    pub(crate) fn create(path: &Path, cells: usize) -> Result<Page> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len((cells * CELL) as u64)?;
        Page::map(&file)
    }

    pub(crate) fn open(path: &Path) -> Result<Page> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Page::map(&file)
    }

    fn map(file: &File) -> Result<Page> {
        let map = MmapOptions::new().map_raw(file).context("mmap")?;
        Ok(Page { map })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len() / CELL
    }

    pub(crate) fn cell(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len(), "cell {index} of {}", self.len());
        // SAFETY: in bounds by the assertion above.
        let cell = unsafe { self.map.as_mut_ptr().add(index * CELL) };
        // SAFETY: the mapping is page-aligned, lives as long as `self`, and every process reaches
        // it through atomics only. The file is in the scenario's own directory: nobody shrinks it.
        unsafe { AtomicU64::from_ptr(cell.cast()) }
    }
}
