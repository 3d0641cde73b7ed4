//! What a fresh process must find when nobody holds anything: all permits, and not one more.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::child;
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::TryAcquireError;

/// Far beyond any recovery: who has not got its permits by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Takes every permit that the semaphore says it has, in a process of its own.
///
/// `permits` are those it was made with, `expected` those it must have now.
pub(crate) fn capacity(path: &Path, permits: u32, expected: u32) -> Result<()> {
    audit(path, permits, &[expected], false)
}

/// As [`capacity`], where a process may have been killed on its way from one maximum to another:
/// one of the two holds, and the other can be set.
pub(crate) fn capacity_between(path: &Path, permits: u32, either: [u32; 2]) -> Result<()> {
    audit(path, permits, &either, false)
}

/// As [`capacity_between`], for a strict semaphore: what its dead held may be free a little later.
pub(crate) fn capacity_strict(path: &Path, permits: u32, either: [u32; 2]) -> Result<()> {
    audit(path, permits, &either, true)
}

fn audit(path: &Path, permits: u32, expected: &[u32], strict: bool) -> Result<()> {
    let question = || {
        let semaphore = SharedSemaphore::builder(path)
            .permits(permits)
            .strict(strict)
            .open()
            .context("open")?;
        let max = semaphore.max();
        ensure!(
            expected.contains(&max),
            "max() is {max}, not in {expected:?}"
        );
        take_all(&semaphore)?;
        if max != permits {
            semaphore.set_max(permits).context("set_max")?;
            take_all(&semaphore).context("after set_max")?;
        }
        Ok(String::new())
    };
    child::ask(question).map(drop)
}

/// Takes all permits, finds that no more can be had, and gives them back.
fn take_all(semaphore: &SharedSemaphore) -> Result<()> {
    let max = semaphore.max();
    let before = semaphore.current();
    let all = match semaphore.try_acquire_many(max) {
        Ok(all) => all,
        Err(refused) => match semaphore.acquire_many_timeout(max, PATIENCE) {
            Ok(all) if semaphore.is_strict() => all,
            Ok(_) => bail!("{before} of {max} taken: {refused}, though they came back later"),
            Err(error) => bail!(
                "{before} of {max} taken, and all of them cannot be had: {error}; {:?}",
                semaphore.holders()
            ),
        },
    };
    ensure!(
        semaphore.current() == max,
        "current() is {} with all {max} taken",
        semaphore.current()
    );
    match semaphore.try_acquire() {
        Err(TryAcquireError::WouldBlock) => {}
        Err(error) => bail!("one more than all: {error}"),
        Ok(_) => bail!("over-granted: one more than all {max} could be taken"),
    }
    drop(all);
    ensure!(
        semaphore.current() == 0,
        "current() is {} with nothing taken",
        semaphore.current()
    );
    ensure!(
        semaphore.waiters() == 0,
        "waiters() is {} with nobody there",
        semaphore.waiters()
    );
    Ok(())
}
