//! `examples/slots` from outside: real processes, signals and kills.

mod command;
#[path = "../support/dir.rs"]
mod dir;
#[path = "../support/example.rs"]
mod example;
mod killed;
mod load;
#[path = "../support/random.rs"]
mod random;
mod support;
mod terminal;
mod tools;
