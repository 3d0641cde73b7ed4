//! A System V semaphore whose operations the kernel undoes at the end of the process.
#![allow(unsafe_code)]

use std::io;

/// A set of one semaphore, by its id. The id stays until `remove`, whoever ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SemUndo(libc::c_int);

impl SemUndo {
    /// A new one with `permits` permits.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub(crate) fn create(permits: u32) -> io::Result<SemUndo> {
        // SAFETY: the call takes numbers only.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, libc::IPC_CREAT | 0o600) };
        if id == -1 {
            return Err(io::Error::last_os_error());
        }
        let this = SemUndo(id);
        // SAFETY: SETVAL takes an integer as its last argument.
        let status = unsafe { libc::semctl(id, 0, libc::SETVAL, permits as libc::c_int) };
        if status == -1 {
            let error = io::Error::last_os_error();
            this.remove();
            return Err(error);
        }
        Ok(this)
    }

    pub(crate) fn from_id(id: i32) -> SemUndo {
        SemUndo(id)
    }

    pub(crate) fn id(self) -> i32 {
        self.0
    }

    pub(crate) fn wait(self) -> io::Result<()> {
        self.add(-1)
    }

    pub(crate) fn post(self) -> io::Result<()> {
        self.add(1)
    }

    /// Removes the set, if it is there still. Who waits gets an error.
    pub(crate) fn remove(self) {
        // SAFETY: IPC_RMID takes no last argument.
        unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) };
    }

    fn add(self, by: libc::c_short) -> io::Result<()> {
        let mut operation = libc::sembuf {
            sem_num: 0,
            sem_op: by,
            sem_flg: libc::SEM_UNDO as libc::c_short,
        };
        loop {
            // SAFETY: one operation, which lives as long as the call.
            if unsafe { libc::semop(self.0, &mut operation, 1) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_take_what_posts_give_until_it_is_removed() {
        let semaphore = SemUndo::create(1).unwrap();
        for _ in 0..3 {
            semaphore.wait().unwrap();
            semaphore.post().unwrap();
        }
        semaphore.remove();
        assert!(semaphore.wait().is_err());
    }
}
