//! Lines of waiters, oldest first, any of which can leave from the middle.
//!
//! A [`Slab`] holds the waiters of all lines under one lock; a [`Line`] is a doubly linked list of
//! its slots, by index. Joining, leaving and serving are a few writes and, once the slab has grown
//! to its use, no allocation. A [`Key`] carries the number of its waiter, which also tells age, so
//! a key whose waiter has been served finds nobody.

const NONE: u32 = u32::MAX;

/// An empty slab that has grown beyond this many slots gives its memory back.
const KEPT: usize = 64;

/// Names one waiter of a slab, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    number: u64,
}

struct Node<T> {
    /// 0: free.
    number: u64,
    previous: u32,
    /// In a line the younger neighbour; in a free slot, the next free one.
    next: u32,
    value: Option<T>,
}

/// The waiters of any number of lines.
pub(crate) struct Slab<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    used: usize,
    numbered: u64,
}

/// One line, oldest first. Its waiters are in the slab that every method is given.
#[derive(Debug)]
pub(crate) struct Line {
    head: u32,
    tail: u32,
    len: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            used: 0,
            numbered: 0,
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.nodes
            .get_mut(key.index as usize)
            .filter(|node| node.number == key.number)
            .and_then(|node| node.value.as_mut())
    }

    fn insert(&mut self, number: u64, value: T) -> u32 {
        self.used += 1;
        let node = Node {
            number,
            previous: NONE,
            next: NONE,
            value: Some(value),
        };
        if self.free == NONE {
            let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 waiters");
            self.nodes.push(node);
            index
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            index
        }
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let node = &mut self.nodes[index as usize];
        node.number = 0;
        node.next = self.free;
        let value = node.value.take();
        self.free = index;
        self.used -= 1;
        if self.used == 0 && self.nodes.len() > KEPT {
            self.nodes = Vec::new();
            self.free = NONE;
        }
        value
    }
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The oldest waiter.
    pub(crate) fn front<'a, T>(&self, slab: &'a mut Slab<T>) -> Option<(Key, &'a mut T)> {
        let node = slab.nodes.get_mut(self.head as usize)?;
        let key = Key {
            index: self.head,
            number: node.number,
        };
        node.value.as_mut().map(|value| (key, value))
    }

    /// Joins at the end.
    pub(crate) fn push<T>(&mut self, slab: &mut Slab<T>, value: T) -> Key {
        slab.numbered += 1;
        let number = slab.numbered;
        self.insert_after(slab, self.tail, number, value)
    }

    /// Leaves, from wherever it stands. The key must be of this line, or of nobody any more.
    pub(crate) fn remove<T>(&mut self, slab: &mut Slab<T>, key: Key) -> Option<T> {
        let node = slab.nodes.get(key.index as usize)?;
        if node.number != key.number {
            return None;
        }
        self.unlink(slab, key.index);
        slab.remove(key.index)
    }

    /// Moves the waiters that `leaves` picks to `other`, where each takes the place of its age.
    /// Their keys stay, and are keys of `other` now.
    pub(crate) fn move_to<T>(
        &mut self,
        other: &mut Line,
        slab: &mut Slab<T>,
        mut leaves: impl FnMut(&mut T) -> bool,
    ) {
        let mut index = self.head;
        while index != NONE {
            let node = &mut slab.nodes[index as usize];
            let next = node.next;
            if node.value.as_mut().is_some_and(&mut leaves) {
                self.unlink(slab, index);
                other.link_by_age(slab, index);
            }
            index = next;
        }
    }

    fn insert_after<T>(&mut self, slab: &mut Slab<T>, after: u32, number: u64, value: T) -> Key {
        let index = slab.insert(number, value);
        self.link_after(slab, after, index);
        Key { index, number }
    }

    fn link_by_age<T>(&mut self, slab: &mut Slab<T>, index: u32) {
        let number = slab.nodes[index as usize].number;
        let mut after = self.tail;
        while after != NONE && slab.nodes[after as usize].number > number {
            after = slab.nodes[after as usize].previous;
        }
        self.link_after(slab, after, index);
    }

    fn link_after<T>(&mut self, slab: &mut Slab<T>, after: u32, index: u32) {
        let next = match after {
            NONE => std::mem::replace(&mut self.head, index),
            _ => std::mem::replace(&mut slab.nodes[after as usize].next, index),
        };
        match next {
            NONE => self.tail = index,
            _ => slab.nodes[next as usize].previous = index,
        }
        let node = &mut slab.nodes[index as usize];
        node.previous = after;
        node.next = next;
        self.len += 1;
    }

    fn unlink<T>(&mut self, slab: &mut Slab<T>, index: u32) {
        let (previous, next) = {
            let node = &slab.nodes[index as usize];
            (node.previous, node.next)
        };
        match previous {
            NONE => self.head = next,
            _ => slab.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.tail = previous,
            _ => slab.nodes[next as usize].previous = previous,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(line: &mut Line, slab: &mut Slab<u32>) -> Vec<u32> {
        let mut ages = Vec::new();
        let mut index = line.head;
        while index != NONE {
            ages.extend(slab.nodes[index as usize].value);
            index = slab.nodes[index as usize].next;
        }
        ages
    }

    #[test]
    fn waiters_leave_from_the_middle_and_the_rest_keep_their_order() {
        let (mut slab, mut line) = (Slab::new(), Line::new());
        let keys: Vec<Key> = (0..5).map(|i| line.push(&mut slab, i)).collect();
        assert_eq!(line.remove(&mut slab, keys[2]), Some(2));
        assert_eq!(line.remove(&mut slab, keys[0]), Some(0));
        assert_eq!(line.remove(&mut slab, keys[4]), Some(4));
        assert_eq!(ages(&mut line, &mut slab), [1, 3]);
        assert_eq!(line.len(), 2);
    }

    #[test]
    fn a_key_whose_waiter_was_served_finds_nobody_in_the_reused_slot() {
        let (mut slab, mut line) = (Slab::new(), Line::new());
        let old = line.push(&mut slab, 1);
        line.remove(&mut slab, old);
        let new = line.push(&mut slab, 2);
        assert_eq!(old.index, new.index);
        assert_eq!(line.remove(&mut slab, old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 2));
    }

    #[test]
    fn parked_waiters_come_back_to_the_place_of_their_age() {
        let (mut slab, mut line, mut parked) = (Slab::new(), Line::new(), Line::new());
        for i in 0..6 {
            line.push(&mut slab, i);
        }
        line.move_to(&mut parked, &mut slab, |i| *i % 2 == 0);
        assert_eq!(ages(&mut line, &mut slab), [1, 3, 5]);
        line.push(&mut slab, 6);
        parked.move_to(&mut line, &mut slab, |i| *i != 2);
        assert_eq!(ages(&mut line, &mut slab), [0, 1, 3, 4, 5, 6]);
        assert_eq!(ages(&mut parked, &mut slab), [2]);
        assert_eq!((line.len(), parked.len(), slab.used), (6, 1, 7));
    }

    #[test]
    fn an_emptied_slab_gives_a_crowds_memory_back() {
        let (mut slab, mut line) = (Slab::new(), Line::new());
        let keys: Vec<Key> = (0..1000).map(|i| line.push(&mut slab, i)).collect();
        for key in keys {
            line.remove(&mut slab, key);
        }
        assert!(slab.nodes.capacity() <= KEPT);
        assert!(line.is_empty());
        let key = line.push(&mut slab, 7);
        assert_eq!(line.front(&mut slab), Some((key, &mut 7)));
    }
}
