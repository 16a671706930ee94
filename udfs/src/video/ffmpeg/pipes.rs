//! Waiting for the pipes of a process, and its end.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Which of these can be read without waiting, or have ended, after at most `wait`.
pub(super) fn readable(files: [Option<BorrowedFd<'_>>; 2], wait: Duration) -> io::Result<[bool; 2]> {
    // A negative number is left out.
    let mut polled = files.map(|file| libc::pollfd {
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the array outlives the call, which is told its length; the files are open, as they are borrowed.
    let found = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    match io::Error::last_os_error() {
        error if found < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ if found < 0 => Ok([false; 2]),
        _ => Ok(polled.map(|file| file.revents != 0)),
    }
}

/// Kills all processes of a group, whose number is that of its first, a child that was not waited for.
pub(super) fn kill_group(child: u32) {
    if let Ok(group) = i32::try_from(child)
        && group > 1
    {
        // SAFETY: the call takes no pointers. It can fail only because the group has ended.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}
