//! Blocking pops and moves: for threads, which sleep, and for event loops, which are called.
//!
//! A call first tries without waiting. If its keys are empty, it takes their latches, looks once
//! more and gets in their lines, see `blocked`; `serve` says who serves it there.

use std::time::Duration;

use super::blocked::{Blocked, Outcome, Popped, Waiter, Want};
use super::error::RmwError;
use super::list::ListEnd;
use super::store::{Key, Store};
use super::value::Bytes;
use super::{Rmw, Transaction};
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant};
use crate::waiter::{Callback, Delivery, Pending, dispatcher};

/// How a try ended.
enum Tried {
    Got(Popped),
    InLine,
}

impl<S: Store> Rmw<S> {
    /// Tries under the latches, and gets the waiter in line if there is nothing.
    fn try_or_join(
        &self,
        blocked: &Blocked,
        keys: &[Key<'_>],
        waiter: &Arc<Waiter>,
    ) -> Result<Tried, RmwError> {
        if keys.is_empty() {
            return Err(RmwError::NoSuchKey);
        }
        let mut latched = keys.to_vec();
        if let Want::Move { destination, .. } = &waiter.want {
            latched.push(destination.as_key());
        }
        let late = mutant::enabled("rmw-blocked-registers-late");
        let operation = |tx: &Transaction| match tx.try_want(keys, &waiter.want)? {
            Some(popped) => Ok(Tried::Got(popped)),
            None if late => Ok(Tried::InLine),
            None => blocked.register(waiter).map(|()| Tried::InLine),
        };
        let tried = self.transact(&latched, operation, || ());
        if late && let Ok(Ok(Tried::InLine)) = tried {
            blocked.register(waiter)?;
        }
        tried?
    }

    /// Waits until one of the keys is a list with an element, at most until `deadline`.
    pub(super) fn block(
        &self,
        keys: &[Key<'_>],
        want: Want,
        deadline: Option<Instant>,
    ) -> Result<Option<Popped>, RmwError> {
        if let Some(popped) = self.try_want(keys, &want)? {
            return Ok(Some(popped));
        }
        let Some(blocked) = &self.core.blocked else {
            // Whoever could push waits for this transaction's end.
            return deadline.map(|_| None).ok_or(RmwError::Reentrant);
        };
        let waiter = Waiter::thread(keys, want);
        match self.try_or_join(blocked, keys, &waiter) {
            Ok(Tried::Got(popped)) => return Ok(Some(popped)),
            Ok(Tried::InLine) => {}
            Err(error) => {
                if waiter.give_up() {
                    blocked.remove(&waiter);
                    return Err(error);
                }
            }
        }
        let until = [deadline, self.deadline].into_iter().flatten().min();
        match blocked.wait(&waiter, until) {
            Some(outcome) => outcome.map(Some),
            None if deadline == until => Ok(None),
            None => Err(RmwError::TimedOut),
        }
    }

    /// Waits for ever.
    pub(super) fn block_on(&self, keys: &[Key<'_>], want: Want) -> Result<Popped, RmwError> {
        match self.block(keys, want, None) {
            Ok(popped) => popped.ok_or(RmwError::TimedOut),
            Err(error) => Err(error),
        }
    }

    /// Has `call` called with what one of the keys gets.
    pub(super) fn block_with(
        &self,
        keys: &[Key<'_>],
        want: Want,
        call: impl FnOnce(Outcome) + Send + 'static,
    ) -> Pending {
        dispatcher::start().expect("a thread for callbacks could not be started");
        let delivery = Delivery::new();
        let run = Box::new(move |outcome, is_wanted| {
            if is_wanted {
                call(outcome);
            }
        });
        let callback = Callback {
            run,
            delivery: delivery.clone(),
        };
        let waiter = Waiter::callback(keys, want, callback);
        let tried = match &self.core.blocked {
            Some(blocked) => self.try_or_join(blocked, keys, &waiter),
            None => self
                .try_want(keys, &waiter.want)
                .and_then(|popped| popped.map(Tried::Got).ok_or(RmwError::Reentrant)),
        };
        let outcome = match tried {
            Ok(Tried::InLine) => None,
            Ok(Tried::Got(popped)) => Some(Ok(popped)),
            Err(error) => Some(Err(error)),
        };
        if let Some(outcome) = outcome
            && waiter.give_up()
        {
            if let Some(blocked) = &self.core.blocked {
                blocked.remove(&waiter);
            }
            waiter.tell(outcome);
            return Pending::delivered(delivery);
        }
        let blocked = self.core.blocked.clone();
        Pending::new(delivery, move || {
            if let Some(blocked) = &blocked {
                blocked.remove(&waiter);
            }
        })
    }

    pub(super) fn keys_of<'k, K: AsRef<[u8]>>(&self, keys: &'k [K]) -> Vec<Key<'k>> {
        keys.iter().map(|key| self.key(key.as_ref())).collect()
    }

    /// Takes the first element of the first of the keys that is a list, and says which one of
    /// them that was (`BLPOP`). While there is none, it waits for whichever gets an element first.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// let (key, value) = std::thread::scope(|scope| {
    ///     let popped = scope.spawn(|| rmw.blpop(&["high", "low"]));
    ///     rmw.rpush("low", ["job"]).unwrap();
    ///     popped.join().unwrap()
    /// })?;
    /// assert_eq!((key, value), (1, "job".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType) for a key before the first list, or any if there is
    /// none; a key that becomes something else later does not end the wait.
    /// [`NoSuchKey`](RmwError::NoSuchKey) if no key is named.
    /// [`Reentrant`](RmwError::Reentrant) inside an update or a transaction, where nobody could
    /// push; [`Busy`](RmwError::Busy); [`TimedOut`](RmwError::TimedOut) under a
    /// [deadline](Self::with_deadline).
    ///
    /// # Blocking
    /// Until there is an element.
    ///
    /// # Fairness
    /// Of those who wait for a key, whoever came first is served first.
    pub fn blpop<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<(usize, Bytes), RmwError> {
        let popped = self.block_on(&self.keys_of(keys), pop_one(ListEnd::Front))?;
        one(popped)
    }

    /// As [`blpop`](Self::blpop), for `timeout` at most. `None`: no element came, and none was
    /// taken.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # use std::time::Duration;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.blpop_timeout(&["k"], Duration::from_millis(1))?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop).
    ///
    /// # Blocking
    /// For `timeout` at most, beside what a pop waits.
    pub fn blpop_timeout<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        timeout: Duration,
    ) -> Result<Option<(usize, Bytes)>, RmwError> {
        match now().checked_add(timeout) {
            Some(deadline) => self.blpop_deadline(keys, deadline),
            None => self.blpop(keys).map(Some),
        }
    }

    /// As [`blpop`](Self::blpop), until `deadline` at most; `None`: nothing came, nothing was
    /// taken.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # use std::time::Instant;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.blpop_deadline(&["k"], Instant::now())?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`blpop`](Self::blpop).
    ///
    /// # Blocking
    /// Until `deadline` at most, beside what a pop waits.
    pub fn blpop_deadline<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        deadline: Instant,
    ) -> Result<Option<(usize, Bytes)>, RmwError> {
        let want = pop_one(ListEnd::Front);
        let popped = self.block(&self.keys_of(keys), want, Some(deadline))?;
        popped.map(one).transpose()
    }

    /// As [`blpop`](Self::blpop), for event loops: `callback` is called with the element, at once
    /// on this thread or later on the one that makes it, outside all latches.
    ///
    /// It must not wait. [`Pending::cancel`] and dropping the [`Pending`] end the wait: then
    /// nothing is taken and `callback` is never called. Where the call had begun, `cancel` returns
    /// `false`.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// use std::sync::mpsc;
    ///
    /// let rmw = Rmw::new();
    /// let (send, receive) = mpsc::channel();
    /// let pending = rmw.blpop_with(&["k"], move |popped| send.send(popped).unwrap());
    /// rmw.rpush("k", ["job"])?; // calls it
    /// assert_eq!(receive.recv().unwrap(), Ok((0, "job".into())));
    /// assert!(!pending.cancel());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// The callback gets those of [`blpop`](Self::blpop).
    ///
    /// # Panics
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn blpop_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        callback: impl FnOnce(Result<(usize, Bytes), RmwError>) + Send + 'static,
    ) -> Pending {
        self.block_with(
            &self.keys_of(keys),
            pop_one(ListEnd::Front),
            move |outcome| {
                callback(outcome.and_then(one));
            },
        )
    }

    /// Takes the last element of the first of the keys that is a list, and says which one of
    /// them that was (`BRPOP`). While there is none, it waits for whichever gets an element first.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// let (key, value) = std::thread::scope(|scope| {
    ///     let popped = scope.spawn(|| rmw.brpop(&["high", "low"]));
    ///     rmw.rpush("low", ["job"]).unwrap();
    ///     popped.join().unwrap()
    /// })?;
    /// assert_eq!((key, value), (1, "job".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType) for a key before the first list, or any if there is
    /// none; a key that becomes something else later does not end the wait.
    /// [`NoSuchKey`](RmwError::NoSuchKey) if no key is named.
    /// [`Reentrant`](RmwError::Reentrant) inside an update or a transaction, where nobody could
    /// push; [`Busy`](RmwError::Busy); [`TimedOut`](RmwError::TimedOut) under a
    /// [deadline](Self::with_deadline).
    ///
    /// # Blocking
    /// Until there is an element.
    ///
    /// # Fairness
    /// Of those who wait for a key, whoever came first is served first.
    pub fn brpop<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<(usize, Bytes), RmwError> {
        let popped = self.block_on(&self.keys_of(keys), pop_one(ListEnd::Back))?;
        one(popped)
    }

    /// As [`brpop`](Self::brpop), for `timeout` at most; `None`: nothing came, nothing was taken.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # use std::time::Duration;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.brpop_timeout(&["k"], Duration::from_millis(1))?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`brpop`](Self::brpop).
    ///
    /// # Blocking
    /// For `timeout` at most, beside what a pop waits.
    pub fn brpop_timeout<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        timeout: Duration,
    ) -> Result<Option<(usize, Bytes)>, RmwError> {
        match now().checked_add(timeout) {
            Some(deadline) => self.brpop_deadline(keys, deadline),
            None => self.brpop(keys).map(Some),
        }
    }

    /// As [`brpop`](Self::brpop), until `deadline` at most; `None`: nothing came, nothing was
    /// taken.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # use std::time::Instant;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.brpop_deadline(&["k"], Instant::now())?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`brpop`](Self::brpop).
    ///
    /// # Blocking
    /// Until `deadline` at most, beside what a pop waits.
    pub fn brpop_deadline<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        deadline: Instant,
    ) -> Result<Option<(usize, Bytes)>, RmwError> {
        let want = pop_one(ListEnd::Back);
        let popped = self.block(&self.keys_of(keys), want, Some(deadline))?;
        popped.map(one).transpose()
    }

    /// As [`brpop`](Self::brpop), for event loops: `callback` is called with the element, at once
    /// on this thread or later on the one that makes it, outside all latches.
    ///
    /// It must not wait. [`Pending::cancel`] and dropping the [`Pending`] end the wait: then
    /// nothing is taken and `callback` is never called. Where the call had begun, `cancel` returns
    /// `false`.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// use std::sync::mpsc;
    ///
    /// let rmw = Rmw::new();
    /// let (send, receive) = mpsc::channel();
    /// let pending = rmw.brpop_with(&["k"], move |popped| send.send(popped).unwrap());
    /// rmw.rpush("k", ["job"])?; // calls it
    /// assert_eq!(receive.recv().unwrap(), Ok((0, "job".into())));
    /// assert!(!pending.cancel());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// The callback gets those of [`brpop`](Self::brpop).
    ///
    /// # Panics
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn brpop_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        callback: impl FnOnce(Result<(usize, Bytes), RmwError>) + Send + 'static,
    ) -> Pending {
        self.block_with(
            &self.keys_of(keys),
            pop_one(ListEnd::Back),
            move |outcome| {
                callback(outcome.and_then(one));
            },
        )
    }
}

fn pop_one(end: ListEnd) -> Want {
    Want::Pop { end, count: 1 }
}

/// The key's index and the one element.
pub(super) fn one(popped: Popped) -> Result<(usize, Bytes), RmwError> {
    let Popped { index, values } = popped;
    let value = values.into_iter().next().ok_or(RmwError::NoSuchKey)?;
    Ok((index, value))
}
