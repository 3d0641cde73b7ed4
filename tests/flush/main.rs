//! A flush pipeline: what the original got wrong, every form of every wait, failures, and the end.
#![cfg(not(latchwork_loom))]

mod batches;
mod ending;
mod failures;
mod faults;
mod forked;
mod forms;
#[path = "../support/in_child.rs"]
mod in_child;
mod late;
mod own;
mod support;
