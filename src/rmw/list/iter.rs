//! A list's elements one by one, from both ends.

use std::collections::vec_deque;

use super::super::value::Bytes;
use super::Chunk;
use crate::sync::unmodelled::Arc;

/// The elements of a [`List`](super::List), from [`iter`](super::List::iter) or
/// [`range`](super::List::range).
///
/// ```
/// use latchwork::rmw::List;
///
/// let list: List = ["a", "b"].into_iter().collect();
/// assert_eq!(list.iter().len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    /// The whole chunks in the middle.
    pub(super) chunks: vec_deque::Iter<'a, Arc<Chunk>>,
    pub(super) front: Option<vec_deque::Iter<'a, Bytes>>,
    pub(super) back: Option<vec_deque::Iter<'a, Bytes>>,
    pub(super) left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Bytes;

    fn next(&mut self) -> Option<&'a Bytes> {
        self.left = self.left.checked_sub(1)?;
        loop {
            if let Some(value) = self.front.as_mut().and_then(Iterator::next) {
                return Some(value);
            }
            self.front = match self.chunks.next() {
                Some(chunk) => Some(chunk.iter()),
                None => return self.back.as_mut().and_then(Iterator::next),
            };
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        loop {
            if let Some(value) = self.back.as_mut().and_then(DoubleEndedIterator::next_back) {
                return Some(value);
            }
            self.back = match self.chunks.next_back() {
                Some(chunk) => Some(chunk.iter()),
                None => return self.front.as_mut().and_then(DoubleEndedIterator::next_back),
            };
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}
