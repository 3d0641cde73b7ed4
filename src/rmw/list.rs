//! Lists: deques of shared chunks.
//!
//! A list is a spine of counted chunks, each a deque of up to 128 elements. Its ends are a step
//! away. A clone shares the chunks and costs their number; a change then copies only the chunk it
//! touches, and only while somebody shares it. So a snapshot is cheap, and what looks through a
//! whole list does so on one, while others push and pop.
//!
//! An element in the middle is found by walking the spine from the nearer end. Chunks that removals
//! have emptied are merged, so there is never many times the number that the length asks for.
//!
//! [`ListEdit`] is a change as data.

mod edit;
mod iter;
mod owned;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

pub use edit::ListEdit;
pub use iter::Iter;
pub(super) use owned::OwnedEdit;

use super::value::Bytes;
use crate::sync::unmodelled::Arc;

/// Elements of a chunk at most: a copy of one takes about a microsecond.
const CHUNK: usize = 128;

/// Neighbours with no more elements than this between them become one chunk.
const MERGED: usize = CHUNK / 2;

type Chunk = VecDeque<Bytes>;

/// An end of a list.
///
/// ```
/// use latchwork::rmw::{ListEnd, Rmw};
///
/// let rmw = Rmw::new();
/// rmw.rpush("from", ["a", "b"])?;
/// rmw.lmove("from", "to", ListEnd::Back, ListEnd::Front)?;
/// assert_eq!(rmw.lrange("to", 0, -1)?, ["b".into()]);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListEnd {
    /// The first element's (`LEFT`).
    Front,
    /// The last element's (`RIGHT`).
    Back,
}

/// A list of byte strings: the value of a list key.
///
/// The list commands work on it in the store; take one out with
/// [`get_with`](super::Rmw::get_with), or build one to [`set`](super::Rmw::set) as a whole. A
/// clone shares its contents until either changes. An empty list is stored as a missing key.
///
/// ```
/// use latchwork::rmw::{List, ListEnd, Rmw, Value};
///
/// let rmw = Rmw::new();
/// rmw.rpush("jobs", ["a", "b"])?;
/// rmw.update("jobs", |entry| {
///     let Some(Value::List(jobs)) = entry.get() else { return };
///     let mut jobs = List::clone(jobs);
///     jobs.push(ListEnd::Back, "c");
///     entry.set(jobs);
/// })?;
/// assert_eq!(rmw.lrange("jobs", 0, -1)?, ["a".into(), "b".into(), "c".into()]);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Default)]
pub struct List {
    /// None of them is empty.
    chunks: VecDeque<Arc<Chunk>>,
    len: usize,
    /// No element is longer.
    longest: usize,
}

impl List {
    /// An empty list.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// assert!(List::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// How many elements there are.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// assert_eq!(["a", "b"].into_iter().collect::<List>().len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// assert!(List::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A length in bytes that no element exceeds.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The element at an end.
    ///
    /// ```
    /// # use latchwork::rmw::{List, ListEnd};
    /// let list: List = ["a", "b"].into_iter().collect();
    /// assert_eq!(list.peek(ListEnd::Back), Some(&"b".into()));
    /// ```
    pub fn peek(&self, end: ListEnd) -> Option<&Bytes> {
        match end {
            ListEnd::Front => self.chunks.front()?.front(),
            ListEnd::Back => self.chunks.back()?.back(),
        }
    }

    /// The element at an index. It takes a step for every 128 elements or so between it and the
    /// nearer end.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let list: List = ["a", "b"].into_iter().collect();
    /// assert_eq!(list.get(1), Some(&"b".into()));
    /// assert_eq!(list.get(2), None);
    /// ```
    pub fn get(&self, index: usize) -> Option<&Bytes> {
        if index >= self.len {
            return None;
        }
        let (chunk, offset) = self.locate(index);
        self.chunks[chunk].get(offset)
    }

    /// Adds an element at an end.
    ///
    /// ```
    /// # use latchwork::rmw::{List, ListEnd};
    /// let mut list = List::new();
    /// list.push(ListEnd::Back, "b");
    /// list.push(ListEnd::Front, "a");
    /// assert_eq!(list.get(0), Some(&"a".into()));
    /// ```
    pub fn push(&mut self, end: ListEnd, value: impl Into<Bytes>) {
        let value = value.into();
        self.note(&value);
        self.len += 1;
        let last = match end {
            ListEnd::Front => self.chunks.front_mut(),
            ListEnd::Back => self.chunks.back_mut(),
        };
        match last {
            Some(chunk) if chunk.len() < CHUNK => {
                let chunk = Arc::make_mut(chunk);
                match end {
                    ListEnd::Front => chunk.push_front(value),
                    ListEnd::Back => chunk.push_back(value),
                }
            }
            // A second chunk is one of many: no growing in steps. A short list stays small.
            last => {
                let room = if last.is_some() { CHUNK } else { 1 };
                let mut chunk = Chunk::with_capacity(room);
                chunk.push_back(value);
                match end {
                    ListEnd::Front => self.chunks.push_front(Arc::new(chunk)),
                    ListEnd::Back => self.chunks.push_back(Arc::new(chunk)),
                }
            }
        }
    }

    /// Takes the element at an end.
    ///
    /// ```
    /// # use latchwork::rmw::{List, ListEnd};
    /// let mut list: List = ["a", "b"].into_iter().collect();
    /// assert_eq!(list.pop(ListEnd::Back), Some("b".into()));
    /// ```
    pub fn pop(&mut self, end: ListEnd) -> Option<Bytes> {
        let chunk = match end {
            ListEnd::Front => self.chunks.front_mut()?,
            ListEnd::Back => self.chunks.back_mut()?,
        };
        self.len -= 1;
        if chunk.len() == 1 {
            let value = chunk.front().cloned();
            self.drop_chunk(end);
            return value;
        }
        let chunk = Arc::make_mut(chunk);
        match end {
            ListEnd::Front => chunk.pop_front(),
            ListEnd::Back => chunk.pop_back(),
        }
    }

    /// Takes off up to `count` elements and drops them.
    fn drop_end(&mut self, end: ListEnd, mut count: usize) {
        loop {
            let chunk = match end {
                ListEnd::Front => self.chunks.front_mut(),
                ListEnd::Back => self.chunks.back_mut(),
            };
            let Some(chunk) = chunk.filter(|_| count > 0) else {
                return;
            };
            let here = chunk.len();
            if here <= count {
                self.len -= here;
                count -= here;
                self.drop_chunk(end);
                continue;
            }
            self.len -= count;
            let chunk = Arc::make_mut(chunk);
            match end {
                ListEnd::Front => drop(chunk.drain(..count)),
                ListEnd::Back => chunk.truncate(here - count),
            }
            return;
        }
    }

    fn drop_chunk(&mut self, end: ListEnd) {
        match end {
            ListEnd::Front => self.chunks.pop_front(),
            ListEnd::Back => self.chunks.pop_back(),
        };
        // A spine that a long list has left behind.
        if self.chunks.capacity() > 64 && self.chunks.len() < self.chunks.capacity() / 8 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    /// Replaces the element at an index; `None`: there is none.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let mut list: List = ["a", "b"].into_iter().collect();
    /// assert_eq!(list.set(1, "x"), Some("b".into()));
    /// assert_eq!(list.set(2, "x"), None);
    /// ```
    pub fn set(&mut self, index: usize, value: impl Into<Bytes>) -> Option<Bytes> {
        if index >= self.len {
            return None;
        }
        let value = value.into();
        self.note(&value);
        let (chunk, offset) = self.locate(index);
        let place = Arc::make_mut(&mut self.chunks[chunk]).get_mut(offset)?;
        Some(std::mem::replace(place, value))
    }

    /// Inserts an element, which gets this index; beyond the end it becomes the last.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let mut list: List = ["a", "c"].into_iter().collect();
    /// list.insert(1, "b");
    /// assert_eq!(list.get(1), Some(&"b".into()));
    /// ```
    pub fn insert(&mut self, index: usize, value: impl Into<Bytes>) {
        let value = value.into();
        match index {
            0 => return self.push(ListEnd::Front, value),
            _ if index >= self.len => return self.push(ListEnd::Back, value),
            _ => {}
        }
        self.note(&value);
        let (mut at, mut offset) = self.locate(index);
        if self.chunks[at].len() == CHUNK {
            let upper = Arc::make_mut(&mut self.chunks[at]).split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Arc::new(upper));
            if offset > CHUNK / 2 {
                at += 1;
                offset -= CHUNK / 2;
            }
        }
        Arc::make_mut(&mut self.chunks[at]).insert(offset, value);
        self.len += 1;
    }

    /// Removes up to `limit` elements that are equal to `value`, from an end on, and says how many
    /// they were.
    ///
    /// ```
    /// # use latchwork::rmw::{List, ListEnd};
    /// let mut list: List = ["a", "b", "a", "a"].into_iter().collect();
    /// assert_eq!(list.remove(ListEnd::Back, 2, b"a"), 2);
    /// assert_eq!(list.len(), 2);
    /// ```
    pub fn remove(&mut self, end: ListEnd, limit: usize, value: &[u8]) -> usize {
        let mut removed = 0;
        let count = self.chunks.len();
        for i in 0..count {
            let chunk = match end {
                ListEnd::Front => &mut self.chunks[i],
                ListEnd::Back => &mut self.chunks[count - 1 - i],
            };
            let here = chunk.iter().filter(|element| ***element == *value).count();
            if here == 0 {
                continue;
            }
            let wanted = here.min(limit - removed);
            // From the back, those to keep are the first ones.
            let mut skipped = match end {
                ListEnd::Front => 0,
                ListEnd::Back => here - wanted,
            };
            let mut left = wanted;
            Arc::make_mut(chunk).retain(|element| {
                if **element != *value || left == 0 {
                    return true;
                }
                if skipped > 0 {
                    skipped -= 1;
                    return true;
                }
                left -= 1;
                false
            });
            removed += wanted;
            if removed == limit {
                break;
            }
        }
        if removed > 0 {
            self.len -= removed;
            self.merge();
        }
        removed
    }

    /// Keeps the elements of a range only.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let mut list: List = ["a", "b", "c"].into_iter().collect();
    /// list.trim(1..2);
    /// assert_eq!(list.iter().collect::<Vec<_>>(), [&"b".into()]);
    /// ```
    pub fn trim(&mut self, range: Range<usize>) {
        let end = range.end.min(self.len);
        self.drop_end(ListEnd::Back, self.len - end);
        self.drop_end(ListEnd::Front, range.start);
    }

    /// The elements, first to last.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let list: List = ["a", "b"].into_iter().collect();
    /// assert_eq!(list.iter().rev().next(), Some(&"b".into()));
    /// ```
    pub fn iter(&self) -> Iter<'_> {
        self.range(0..self.len)
    }

    /// The elements of a range; what is beyond the end is left out.
    ///
    /// ```
    /// # use latchwork::rmw::List;
    /// let list: List = ["a", "b", "c"].into_iter().collect();
    /// assert_eq!(list.range(1..9).len(), 2);
    /// ```
    pub fn range(&self, range: Range<usize>) -> Iter<'_> {
        let end = range.end.min(self.len);
        let left = end.saturating_sub(range.start);
        if left == 0 {
            return Iter {
                chunks: self.chunks.range(..0),
                front: None,
                back: None,
                left,
            };
        }
        let (first, skip) = self.locate(range.start);
        let (last, take) = self.locate(end - 1);
        let (front, back) = if first == last {
            (Some(self.chunks[first].range(skip..=take)), None)
        } else {
            (
                Some(self.chunks[first].range(skip..)),
                Some(self.chunks[last].range(..=take)),
            )
        };
        Iter {
            chunks: self.chunks.range(first + 1..last.max(first + 1)),
            front,
            back,
            left,
        }
    }

    /// Steps to an index from the nearer end, at most.
    pub(super) fn walk(&self, index: usize) -> usize {
        let elements = index.min(self.len.saturating_sub(index));
        elements.min(self.chunks.len())
    }

    /// The chunk that an existing index is in, and its offset there.
    fn locate(&self, index: usize) -> (usize, usize) {
        if index < self.len / 2 {
            let mut offset = index;
            for (i, chunk) in self.chunks.iter().enumerate() {
                if offset < chunk.len() {
                    return (i, offset);
                }
                offset -= chunk.len();
            }
        } else {
            // Counted from the last element, which is number zero.
            let mut offset = self.len - 1 - index;
            for (i, chunk) in self.chunks.iter().enumerate().rev() {
                if offset < chunk.len() {
                    return (i, chunk.len() - 1 - offset);
                }
                offset -= chunk.len();
            }
        }
        unreachable!("the chunks hold as many elements as the list's length says")
    }

    fn note(&mut self, value: &Bytes) {
        self.longest = self.longest.max(value.len());
    }

    /// Drops empty chunks and merges small ones.
    fn merge(&mut self) {
        let chunks = std::mem::take(&mut self.chunks);
        for mut chunk in chunks {
            if chunk.is_empty() {
                continue;
            }
            match self.chunks.back_mut() {
                Some(last) if last.len() + chunk.len() <= MERGED => {
                    let last = Arc::make_mut(last);
                    match Arc::get_mut(&mut chunk) {
                        Some(chunk) => last.append(chunk),
                        None => last.extend(chunk.iter().cloned()),
                    }
                }
                _ => self.chunks.push_back(chunk),
            }
        }
    }
}

impl<T: Into<Bytes>> FromIterator<T> for List {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut list = Self::new();
        for value in values {
            list.push(ListEnd::Back, value);
        }
        list
    }
}

impl<'a> IntoIterator for &'a List {
    type Item = &'a Bytes;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other)
    }
}

impl Eq for List {}

/// The first 16 elements, and how many there are.
impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.range(0..16)).finish()?;
        if self.len > 16 {
            write!(f, "… ({} elements)", self.len)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
