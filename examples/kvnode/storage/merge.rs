//! Several segments as one: of each key, what it held last.
//!
//! Flushes read their keys while others do, so an older segment may hold a newer state of a key:
//! what decides is the record that the entry says it came after.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use itertools::Itertools;

use super::core::Core;
use super::error::StorageError;
use super::manifest::Segment;
use super::segment::{Item, Reader, Writer};

/// What has expired for less than this stays: a command that has begun may have read the clock
/// before.
const EXPIRED_SINCE: Duration = Duration::from_secs(60);

/// The keys from `from` on that are below `to`, in order, each once.
pub(super) fn merged<'a>(
    readers: &'a [Reader],
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
    read: &'a AtomicU64,
) -> Box<dyn Iterator<Item = Result<Item, StorageError>> + 'a> {
    if let [reader] = readers {
        return Box::new(reader.range(from, to, read));
    }
    let parts = readers.iter().map(|reader| reader.range(from, to, read));
    let newest_first = parts.kmerge_by(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => (&*a.key, b.lsn) < (&*b.key, a.lsn),
        (a, _) => a.is_err(),
    });
    Box::new(newest_first.dedup_by(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => a.key == b.key,
        _ => false,
    }))
}

/// Merges segments into a new one, which may be none.
///
/// `position` is the manifest's. What a flush that is not in the manifest yet will bring is newer
/// than that, so an entry up to there that says nothing hides nothing.
pub(super) fn merge(
    core: &Core,
    inputs: &[Segment],
    position: u64,
) -> Result<Option<Segment>, StorageError> {
    let readers = inputs
        .iter()
        .map(|segment| Reader::open(&*core.fs, &core.dir, segment));
    let readers: Vec<Reader> = readers.collect::<Result<_, _>>()?;
    let mut writer = Writer::create(&core.fs, &core.dir, core.new_number())?;
    let read = AtomicU64::new(0);
    let long_ago = EXPIRED_SINCE.as_millis() as u64;
    let long_ago = core.clock.now().saturating_sub(long_ago);
    for item in merged(&readers, None, None, &read) {
        if core.is_closing.load(Ordering::Relaxed) {
            return Err(StorageError::closed());
        }
        let item = item?;
        let says_nothing = match &item.record {
            None => true,
            Some(record) => record.is_expired(long_ago) && is_settled(core, &item),
        };
        if !says_nothing || item.lsn.get() > position {
            writer.add(&item.key, item.lsn, item.record.as_ref())?;
        }
    }
    let output = writer.finish()?;
    core.sync_dir()?;
    Ok(output)
}

/// Whether no record of the log is left that may depend on what this expired key held.
fn is_settled(core: &Core, item: &Item) -> bool {
    let key = core.hasher.key(&item.key);
    core.gate.enter().last(key).is_none()
}
