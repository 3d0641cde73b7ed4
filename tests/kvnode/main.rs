//! `examples/kvnode` from outside: real processes, talked to over TCP, and compared with a real
//! redis-server.

mod blocking;
mod commands;
mod differential;
#[path = "../support/dir.rs"]
mod dir;
#[path = "../support/example.rs"]
mod example;
mod hostile;
mod hot_key;
mod persistence;
mod process;
mod python;
#[path = "../support/random.rs"]
mod random;
mod redis;
mod requests;
mod schedule;
mod support;
mod tools;
mod tracer;
mod transactions;
mod wire;
