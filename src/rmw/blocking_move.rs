//! Blocking moves between lists, and blocking pops of several elements.

use std::time::Duration;

use super::Rmw;
use super::blocked::{Popped, Want};
use super::blocking::one;
use super::error::RmwError;
use super::list::ListEnd;
use super::store::{Key, Store};
use super::value::Bytes;
use crate::sync::time::{Instant, now};
use crate::waiter::Pending;

/// The one element of a move.
fn value(popped: Popped) -> Result<Bytes, RmwError> {
    one(popped).map(|(_, value)| value)
}

fn several(popped: Popped) -> (usize, Vec<Bytes>) {
    (popped.index, popped.values)
}

impl<S: Store> Rmw<S> {
    fn want_move(&self, destination: &[u8], from: ListEnd, to: ListEnd) -> Want {
        let destination: Key<'_> = self.key(destination);
        Want::Move {
            from,
            to,
            destination: destination.into(),
        }
    }

    /// Moves an element from an end of one list to an end of another, as [`lmove`](Self::lmove),
    /// and waits for one if `source` is empty (`BLMOVE`). Whoever waits for `destination` in turn
    /// is served at the same moment.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// let moved = std::thread::scope(|scope| {
    ///     let moved = scope.spawn(|| rmw.blmove("from", "to", ListEnd::Front, ListEnd::Back));
    ///     rmw.rpush("from", ["job"]).unwrap();
    ///     moved.join().unwrap()
    /// })?;
    /// assert_eq!(&*moved, b"job");
    /// assert_eq!(rmw.llen("to")?, 1);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop); also [`WrongType`](RmwError::WrongType) if `destination` holds
    /// something else when the element comes: then it is not moved.
    ///
    /// # Blocking
    /// Until there is an element.
    ///
    /// # Fairness
    /// Of those who wait for a key, whoever came first is served first.
    pub fn blmove(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        from: ListEnd,
        to: ListEnd,
    ) -> Result<Bytes, RmwError> {
        let want = self.want_move(destination.as_ref(), from, to);
        value(self.block_on(&[self.key(source.as_ref())], want)?)
    }

    /// As [`blmove`](Self::blmove), for `timeout` at most; `None`: nothing came, nothing was moved.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Duration;
    /// let rmw = Rmw::new();
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(rmw.blmove_timeout("from", "to", ListEnd::Front, ListEnd::Back, soon)?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blmove`](Self::blmove).
    ///
    /// # Blocking
    /// For `timeout` at most, beside what a move waits.
    pub fn blmove_timeout(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        from: ListEnd,
        to: ListEnd,
        timeout: Duration,
    ) -> Result<Option<Bytes>, RmwError> {
        match now().checked_add(timeout) {
            Some(deadline) => self.blmove_deadline(source, destination, from, to, deadline),
            None => self.blmove(source, destination, from, to).map(Some),
        }
    }

    /// As [`blmove`](Self::blmove), until `deadline` at most; `None`: nothing came, nothing was
    /// moved.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Instant;
    /// let rmw = Rmw::new();
    /// let moved = rmw.blmove_deadline("from", "to", ListEnd::Front, ListEnd::Back, Instant::now())?;
    /// assert_eq!(moved, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blmove`](Self::blmove).
    ///
    /// # Blocking
    /// Until `deadline` at most, beside what a move waits.
    pub fn blmove_deadline(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        from: ListEnd,
        to: ListEnd,
        deadline: Instant,
    ) -> Result<Option<Bytes>, RmwError> {
        let want = self.want_move(destination.as_ref(), from, to);
        let popped = self.block(&[self.key(source.as_ref())], want, Some(deadline))?;
        popped.map(value).transpose()
    }

    /// As [`blmove`](Self::blmove), for event loops: `callback` is called with the element, as
    /// [`blpop_with`](Self::blpop_with) does.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// let pending = rmw.blmove_with("from", "to", ListEnd::Front, ListEnd::Back, drop);
    /// assert!(pending.cancel());
    /// rmw.rpush("from", ["job"])?;
    /// assert_eq!(rmw.llen("from")?, 1);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// The callback gets those of [`blmove`](Self::blmove).
    ///
    /// # Panics
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn blmove_with(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        from: ListEnd,
        to: ListEnd,
        callback: impl FnOnce(Result<Bytes, RmwError>) + Send + 'static,
    ) -> Pending {
        let want = self.want_move(destination.as_ref(), from, to);
        self.block_with(&[self.key(source.as_ref())], want, move |outcome| {
            callback(outcome.and_then(value));
        })
    }

    /// Moves the last element of one list to the front of another, as
    /// [`rpoplpush`](Self::rpoplpush), and waits for one if `source` is empty (`BRPOPLPUSH`).
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// let moved = std::thread::scope(|scope| {
    ///     let moved = scope.spawn(|| rmw.brpoplpush("from", "to"));
    ///     rmw.rpush("from", ["job"]).unwrap();
    ///     moved.join().unwrap()
    /// })?;
    /// assert_eq!(&*moved, b"job");
    /// assert_eq!(rmw.llen("to")?, 1);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blmove`](Self::blmove).
    ///
    /// # Blocking
    /// Until there is an element.
    ///
    /// # Fairness
    /// Of those who wait for a key, whoever came first is served first.
    pub fn brpoplpush(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
    ) -> Result<Bytes, RmwError> {
        let want = self.want_move(destination.as_ref(), ListEnd::Back, ListEnd::Front);
        value(self.block_on(&[self.key(source.as_ref())], want)?)
    }

    /// As [`brpoplpush`](Self::brpoplpush), for `timeout` at most; `None`: nothing came, nothing
    /// was moved.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Duration;
    /// let rmw = Rmw::new();
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(rmw.brpoplpush_timeout("from", "to", soon)?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`brpoplpush`](Self::brpoplpush).
    ///
    /// # Blocking
    /// For `timeout` at most, beside what a move waits.
    pub fn brpoplpush_timeout(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<Option<Bytes>, RmwError> {
        match now().checked_add(timeout) {
            Some(deadline) => self.brpoplpush_deadline(source, destination, deadline),
            None => self.brpoplpush(source, destination).map(Some),
        }
    }

    /// As [`brpoplpush`](Self::brpoplpush), until `deadline` at most; `None`: nothing came, nothing
    /// was moved.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Instant;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.brpoplpush_deadline("from", "to", Instant::now())?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`brpoplpush`](Self::brpoplpush).
    ///
    /// # Blocking
    /// Until `deadline` at most, beside what a move waits.
    pub fn brpoplpush_deadline(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        deadline: Instant,
    ) -> Result<Option<Bytes>, RmwError> {
        let want = self.want_move(destination.as_ref(), ListEnd::Back, ListEnd::Front);
        let popped = self.block(&[self.key(source.as_ref())], want, Some(deadline))?;
        popped.map(value).transpose()
    }

    /// As [`brpoplpush`](Self::brpoplpush), for event loops: `callback` is called with the element,
    /// as [`blpop_with`](Self::blpop_with) does.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// let pending = rmw.brpoplpush_with("from", "to", |moved| drop(moved));
    /// assert!(pending.cancel());
    /// rmw.rpush("from", ["job"])?;
    /// assert_eq!(rmw.llen("from")?, 1);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// The callback gets those of [`brpoplpush`](Self::brpoplpush).
    ///
    /// # Panics
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn brpoplpush_with(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        callback: impl FnOnce(Result<Bytes, RmwError>) + Send + 'static,
    ) -> Pending {
        let want = self.want_move(destination.as_ref(), ListEnd::Back, ListEnd::Front);
        self.block_with(&[self.key(source.as_ref())], want, move |outcome| {
            callback(outcome.and_then(value));
        })
    }

    /// Takes up to `count` elements off an end of the first of the keys that is a list, as
    /// [`lmpop`](Self::lmpop), and waits for one if there is none (`BLMPOP`).
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("low", ["a", "b"])?;
    /// let popped = rmw.blmpop(&["high", "low"], ListEnd::Back, 9)?;
    /// assert_eq!(popped, (1, vec!["b".into(), "a".into()]));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop).
    ///
    /// # Blocking
    /// Until there is an element.
    ///
    /// # Fairness
    /// Of those who wait for a key, whoever came first is served first.
    pub fn blmpop<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        end: ListEnd,
        count: u64,
    ) -> Result<(usize, Vec<Bytes>), RmwError> {
        let want = Want::Pop { end, count };
        self.block_on(&self.keys_of(keys), want).map(several)
    }

    /// As [`blmpop`](Self::blmpop), for `timeout` at most; `None`: nothing came, nothing was taken.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Duration;
    /// let rmw = Rmw::new();
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(rmw.blmpop_timeout(&["k"], ListEnd::Back, 9, soon)?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop).
    ///
    /// # Blocking
    /// For `timeout` at most, beside what a pop waits.
    pub fn blmpop_timeout<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        end: ListEnd,
        count: u64,
        timeout: Duration,
    ) -> Result<Option<(usize, Vec<Bytes>)>, RmwError> {
        match now().checked_add(timeout) {
            Some(deadline) => self.blmpop_deadline(keys, end, count, deadline),
            None => self.blmpop(keys, end, count).map(Some),
        }
    }

    /// As [`blmpop`](Self::blmpop), until `deadline` at most; `None`: nothing came, nothing was
    /// taken.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// # use std::time::Instant;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.blmpop_deadline(&["k"], ListEnd::Back, 9, Instant::now())?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop).
    ///
    /// # Blocking
    /// Until `deadline` at most, beside what a pop waits.
    pub fn blmpop_deadline<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        end: ListEnd,
        count: u64,
        deadline: Instant,
    ) -> Result<Option<(usize, Vec<Bytes>)>, RmwError> {
        let want = Want::Pop { end, count };
        let popped = self.block(&self.keys_of(keys), want, Some(deadline))?;
        Ok(popped.map(several))
    }

    /// As [`blmpop`](Self::blmpop), for event loops: `callback` is called with the elements, as
    /// [`blpop_with`](Self::blpop_with) does.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// let pending = rmw.blmpop_with(&["k"], ListEnd::Back, 9, |popped| drop(popped));
    /// assert_eq!(rmw.stats().blocked, 1);
    /// drop(pending);
    /// assert_eq!(rmw.stats().blocked, 0);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// The callback gets those of [`blpop`](Self::blpop).
    ///
    /// # Panics
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn blmpop_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        end: ListEnd,
        count: u64,
        callback: impl FnOnce(Result<(usize, Vec<Bytes>), RmwError>) + Send + 'static,
    ) -> Pending {
        let want = Want::Pop { end, count };
        self.block_with(&self.keys_of(keys), want, move |outcome| {
            callback(outcome.map(several));
        })
    }
}
