//! Runs code in a fork's child, in the moment before it becomes another program.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs `job` in the child of a fork, and says whether it returned true.
///
/// The job takes no lock that another thread of the parent may have at this moment.
pub(crate) fn in_child(mut job: impl FnMut() -> bool + Send + Sync + 'static) -> bool {
    let mut command = Command::new("true");
    let job = move || match job() {
        true => Ok(()),
        false => Err(io::ErrorKind::Other.into()),
    };
    // SAFETY: the jobs take no lock that a thread which is not in the child may have left taken.
    unsafe { command.pre_exec(job) };
    command.status().is_ok_and(|status| status.success())
}
