//! Requests that wait without a thread: the keeper's looks for them.

use crate::holder::anchor::Anchor;
use crate::os::shared::watcher::Watcher;
use crate::sync::futex::SharedFutex;
use crate::sync::time::now;
use crate::sync::unmodelled::Arc;
use crate::waiter::{Callback, dispatcher};

use super::attempt::{Attempt, Look, Refusal};
use super::core::{Claim, Core};

/// What a registered request is told.
pub(super) type Outcome = Result<Vec<Claim>, Refusal>;

/// The requests of one process.
#[derive(Default)]
pub(super) struct Requests {
    list: Vec<Request>,
    numbered: u64,
    /// Whether the keeper looks after them.
    is_watched: bool,
}

struct Request {
    number: u64,
    attempt: Attempt,
    callback: Callback<Outcome>,
}

/// What the keeper looks after.
struct Looker(Anchor<Core>);

impl Watcher for Looker {
    fn look(&self, watch: &mut dyn FnMut(&SharedFutex, u32, bool)) -> bool {
        let core = &*self.0;
        let mut answered = Vec::new();
        let mut is_current = true;
        let mut requests = core.requests.lock();
        for mut request in std::mem::take(&mut requests.list) {
            match request.attempt.look(core, true) {
                Look::Wait => {
                    is_current &= request
                        .attempt
                        .watch(core, &mut |word, seen, is_life| watch(word, seen, is_life));
                    requests.list.push(request);
                }
                look => answered.push((look, request)),
            }
        }
        requests.is_watched = !requests.list.is_empty();
        let is_watched = requests.is_watched;
        drop(requests);
        for (
            look,
            Request {
                attempt, callback, ..
            },
        ) in answered
        {
            let waited = now().saturating_duration_since(attempt.since());
            core.counters.waits.record(waited);
            core.attached.own_slot().stop_waiting();
            let outcome = match look {
                Look::Refused(refusal) => {
                    attempt.abandon(core);
                    Err(refusal)
                }
                _ => Ok(attempt.into_claims()),
            };
            // The keeper's thread runs nobody's code.
            dispatcher::post(move || callback.deliver(outcome));
        }
        if !is_current {
            core.attached.ring();
        }
        is_watched
    }
}

/// Registers a request, which the keeper looks after from now on. Returns its number.
pub(super) fn register(core: &Anchor<Core>, wanted: usize, callback: Callback<Outcome>) -> u64 {
    let mut requests = core.requests.lock();
    requests.numbered += 1;
    let number = requests.numbered;
    requests.list.push(Request {
        number,
        attempt: Attempt::new(wanted),
        callback,
    });
    core.attached.own_slot().start_waiting();
    let was_watched = std::mem::replace(&mut requests.is_watched, true);
    drop(requests);
    if was_watched {
        core.attached.ring();
    } else {
        core.attached.watch(Arc::new(Looker(core.clone())));
    }
    number
}

/// Takes a request away, if it has not been answered.
pub(super) fn cancel(core: &Core, number: u64) {
    if core.attached.is_inherited() {
        // The request is the parent's.
        return;
    }
    let mut requests = core.requests.lock();
    let place = requests.list.iter().position(|r| r.number == number);
    let request = place.map(|place| requests.list.remove(place));
    drop(requests);
    if let Some(Request {
        attempt, callback, ..
    }) = request
    {
        core.attached.own_slot().stop_waiting();
        attempt.abandon(core);
        // The user's closure is dropped outside the lock.
        drop(callback);
        // With the last request, the keeper lets go of the core.
        core.attached.ring();
    }
}
