//! A fork's child, which has the pipeline and none of its threads.

use std::sync::Mutex;

use latchwork::flush::{DrainError, ReserveError, Shutdown, WaitError};

use crate::in_child::in_child;
use crate::support::{Gate, copy, pipeline, submit};

#[test]
fn a_fork_s_child_ends_its_copy_without_waiting_and_changes_nothing() {
    let (flush, lines) = pipeline(|builder| builder);
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    gate.await_entered(1);
    let its = Mutex::new(Some(flush.clone()));
    assert!(in_child(move || {
        let flush = its.lock().unwrap().take().unwrap();
        let finds_nothing = flush.shutdown(Shutdown::DrainAll).is_empty();
        let pending = flush.pending();
        drop(flush);
        finds_nothing && pending == 1
    }));
    gate.open();
    assert_eq!(ticket.wait().unwrap(), 10);
    assert_eq!(submit(&flush, 11, copy).wait().unwrap(), 11);
    assert_eq!(lines.read(), ["0 done: 10", "1 done: 11"]);
}

#[test]
fn a_fork_s_child_waits_for_nothing() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    gate.await_entered(1);
    let its = Mutex::new(Some((flush.clone(), ticket)));
    assert!(in_child(move || {
        let (flush, ticket) = its.lock().unwrap().take().unwrap();
        assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
        assert_eq!(flush.drain(), Err(DrainError::ShutDown));
        matches!(ticket.wait(), Err(WaitError::ShutDown))
    }));
    gate.open();
    flush.drain().unwrap();
}

#[test]
fn the_last_handle_may_be_dropped_in_a_fork_s_child() {
    let (flush, _) = pipeline(|builder| builder);
    submit(&flush, 10, copy).wait().unwrap();
    let only = Mutex::new(Some(flush));
    // The parent drops its copy, with the closure, and joins the threads.
    assert!(in_child(move || only.lock().unwrap().take().is_some()));
}
