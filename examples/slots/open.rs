//! Opening the semaphore, making it where there is none, and removing it.
//!
//! One that is there is opened as it is: `--set` may have changed it, and a command line that still
//! says the old number is no reason not to run. A note tells of it.

use std::path::Path;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::OpenError;

use crate::options::{CEILING, Job};
use crate::{Failure, code};

/// The semaphore that a command is to run in.
pub(crate) fn for_job(job: &Job) -> Result<SharedSemaphore, Failure> {
    loop {
        match open_existing(&job.name) {
            Ok(slots) => {
                if !job.is_quiet {
                    note_differences(job, &slots);
                }
                return Ok(slots);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(unavailable(&job.name, &error)),
        }
        let Some(permits) = job.permits else {
            return Err(missing(&job.name));
        };
        match make(job, permits) {
            Ok(slots) => return Ok(slots),
            // Somebody else has just made it, otherwise.
            Err(error) if error.is_mismatch() => {}
            Err(error) => return Err(unavailable(&job.name, &error)),
        }
    }
}

/// One that has to be there.
pub(crate) fn existing(name: &Path) -> Result<SharedSemaphore, Failure> {
    open_existing(name).map_err(|error| match error.is_not_found() {
        true => missing(name),
        false => unavailable(name, &error),
    })
}

/// Removes it, whatever state it is in.
pub(crate) fn remove(name: &Path) -> Result<(), Failure> {
    let old = open_existing(name).ok();
    match SharedSemaphore::remove(name) {
        Ok(true) => {}
        Ok(false) => return Err(missing(name)),
        Err(error) => return Err(unavailable(name, &error)),
    }
    let (running, waiting) = old.map_or((0, 0), |old| (old.current(), old.waiters()));
    if (running, waiting) != (0, 0) {
        eprintln!(
            "slots: {running} that run and {waiting} that wait go on with the slots that were \
             removed, beside those who come next"
        );
    }
    Ok(())
}

fn open_existing(name: &Path) -> Result<SharedSemaphore, OpenError> {
    let builder = SharedSemaphore::builder(name).existing_only(true);
    builder.track_holders(true).open()
}

fn make(job: &Job, permits: u32) -> Result<SharedSemaphore, OpenError> {
    SharedSemaphore::builder(&job.name)
        .permits(permits)
        .max_permits(job.ceiling.unwrap_or(CEILING.max(permits)))
        .strict(true)
        .track_holders(true)
        .open()
}

fn note_differences(job: &Job, slots: &SharedSemaphore) {
    let (name, max, ceiling) = (job.name.display(), slots.max(), slots.ceiling());
    if let Some(permits) = job.permits.filter(|permits| *permits != max) {
        eprintln!(
            "slots: note: '{name}' has {max} slots now, not {permits}; \
             'slots --name {name} --set {permits}' changes that"
        );
    }
    if let Some(asked) = job.ceiling.filter(|asked| *asked != ceiling) {
        eprintln!(
            "slots: note: '{name}' was made with a ceiling of {ceiling}, not {asked}; \
             only --rm and making it anew changes that"
        );
    }
    if !slots.is_strict() {
        eprintln!(
            "slots: note: '{name}' was not made by slots, and is not strict: the slot comes back \
             when slots is killed, even if the command lives on"
        );
    }
}

fn missing(name: &Path) -> Failure {
    let name = name.display();
    Failure::new(
        code::UNAVAILABLE,
        format!(
            "there is no '{name}' yet; 'slots --name {name} --permits K -- COMMAND' makes it, \
             with K slots"
        ),
    )
}

fn unavailable(name: &Path, error: &OpenError) -> Failure {
    let name = name.display();
    let next = if error.is_invalid() {
        format!("; 'slots --name {name} --rm' does that")
    } else if error.is_full() {
        let path = error.path().display();
        format!("; try again when some have ended, 'fuser {path}' lists them")
    } else {
        String::new()
    };
    Failure::new(code::UNAVAILABLE, format!("{error}{next}"))
}
