//! `SharedSemaphore` from outside. Two opens of a file in one process are two attachments, as two
//! processes are; where a process has to die, it is a child.

mod acquiring;
mod child;
mod close;
mod deaths;
#[path = "../support/dir.rs"]
mod dir;
mod files;
mod forked;
mod guards;
mod header;
#[path = "../support/in_child.rs"]
mod in_child;
mod leases;
mod limits;
mod looking;
mod names;
#[path = "../support/random.rs"]
mod random;
mod support;
