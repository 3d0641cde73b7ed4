//! The bytes of one file: a length, and the pages that something was written to.
//!
//! A page that is not there reads as zeros, so a preallocated file costs nothing. Pages are shared
//! between copies until one of them is written to, so a copy of a file costs its list of pages; and
//! each remembers its hash, so that a copy in which little has changed is hashed quickly.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sync::unmodelled::{Arc, OnceLock};

const PAGE: usize = 4096;

/// Bytes, and their hash if it has been asked for since they were written.
#[derive(Debug)]
struct Page {
    bytes: [u8; PAGE],
    hash: OnceLock<u64>,
}

impl Page {
    fn zeroed() -> Self {
        Self {
            bytes: [0; PAGE],
            hash: OnceLock::new(),
        }
    }

    /// The bytes of a page, which becomes the caller's own.
    fn bytes_mut(page: &mut Arc<Self>) -> &mut [u8; PAGE] {
        let page = Arc::make_mut(page);
        page.hash.take();
        &mut page.bytes
    }

    /// 0 for zeros only.
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            if self.bytes.iter().all(|&byte| byte == 0) {
                return 0;
            }
            let mut hasher = DefaultHasher::new();
            hasher.write(&self.bytes);
            hasher.finish().max(1)
        })
    }
}

/// The copy is there to be written to: its hash is another one.
impl Clone for Page {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes,
            hash: OnceLock::new(),
        }
    }
}

/// A sparse run of bytes.
///
/// Invariant: nothing but zeros is stored at or beyond `len`, so that a longer length shows zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// Where a byte is: the page, and the place in it.
fn place(offset: u64) -> (u64, usize) {
    (offset / PAGE as u64, (offset % PAGE as u64) as usize)
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Copies what there is from `offset` on into `buffer`, and says how much that is.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = self.len.saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut done = 0;
        while done < count {
            let (page, start) = place(offset + done as u64);
            let part = (PAGE - start).min(count - done);
            let to = &mut buffer[done..done + part];
            match self.pages.get(&page) {
                Some(page) => to.copy_from_slice(&page.bytes[start..start + part]),
                None => to.fill(0),
            }
            done += part;
        }
        count
    }

    /// Puts `bytes` at `offset`; the length becomes at least their end.
    pub(crate) fn write_at(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, start) = place(offset + done as u64);
            let part = (PAGE - start).min(bytes.len() - done);
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new(Page::zeroed()));
            Page::bytes_mut(page)[start..start + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        if !bytes.is_empty() {
            self.extend(offset + bytes.len() as u64);
        }
    }

    /// The length becomes at least `len`.
    pub(crate) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// The length becomes `len`; what lay beyond is forgotten.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (last, start) = place(len);
            drop(self.pages.split_off(&(last + 1)));
            if start == 0 {
                self.pages.remove(&last);
            } else if let Some(page) = self.pages.get_mut(&last) {
                Page::bytes_mut(page)[start..].fill(0);
            }
        }
        self.len = len;
    }
}

/// Two contents that read alike hash alike: a page of zeros counts as one that is not there.
impl Hash for Content {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.len.hash(hasher);
        for (index, page) in &self.pages {
            let hash = page.hash();
            if hash != 0 {
                (index, hash).hash(hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xEE; content.len() as usize + 10];
        let count = content.read_at(&mut bytes, 0);
        bytes.truncate(count);
        bytes
    }

    fn hash(content: &Content) -> u64 {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn a_hole_reads_as_zeros() {
        let mut content = Content::default();
        content.write_at(b"end", 9000);
        assert_eq!(content.len(), 9003);
        let read = bytes(&content);
        assert!(read[..9000].iter().all(|&byte| byte == 0));
        assert_eq!(&read[9000..], b"end");
    }

    #[test]
    fn what_was_cut_off_does_not_come_back_when_the_file_grows() {
        let mut content = Content::default();
        content.write_at(&[7; 10_000], 0);
        for len in [9_999, 8_192, 4_097, 4_096, 1, 0] {
            content.set_len(len);
            content.set_len(10_000);
            let read = bytes(&content);
            assert!(
                read[len as usize..].iter().all(|&byte| byte == 0),
                "cut at {len}"
            );
            assert!(read[..len as usize].iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut content = Content::default();
        content.write_at(b"one", 4095);
        let copy = content.clone();
        content.write_at(b"two", 4095);
        assert_eq!(&bytes(&copy)[4095..], b"one");
        assert_eq!(&bytes(&content)[4095..], b"two");
    }

    #[test]
    fn written_zeros_hash_like_a_hole() {
        let (mut written, mut hole) = (Content::default(), Content::default());
        written.write_at(&[0; 5000], 100);
        hole.extend(5100);
        assert_eq!(hash(&written), hash(&hole));
        hole.extend(5101);
        assert_ne!(hash(&written), hash(&hole), "another length");
        let before = hash(&written);
        written.write_at(&[1], 99);
        assert_ne!(hash(&written), before, "another byte");
        written.set_len(99);
        written.set_len(5100);
        assert_eq!(hash(&written), before, "zeros again");
    }
}
