//! `examples/slots` from outside: real processes, signals and kills.

mod command;
mod killed;
mod load;
#[path = "../support/random.rs"]
mod random;
mod support;
mod terminal;
mod tools;
