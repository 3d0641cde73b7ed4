//! kvnode's storage, included as a module: what comes back after an end of any kind.
#![cfg(not(latchwork_loom))]

#[macro_use]
#[path = "../support/pass_on.rs"]
mod pass_on;
#[path = "../support/random.rs"]
mod random;
#[allow(dead_code, unused_imports, reason = "the server uses all of it")]
#[path = "../../examples/kvnode/storage.rs"]
mod storage;

mod crash;
mod damage;
mod failures;
mod ledger;
mod restart;
mod support;
