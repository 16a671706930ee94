//! Limits on a process, by calls of Linux that the standard library lacks.
//!
//! Between `fork` and `exec` a child of a process with threads may only make calls that are safe in a signal handler: no
//! allocation, no lock. [`confine`] therefore prepares everything before, and the child only makes system calls.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::syscalls;

/// Files that the process may have open.
const MOST_FILES: u64 = 64;

/// Files that are looked for where the system cannot close a range of them.
const MOST_INHERITED: libc::c_int = 1 << 16;

/// A file of these bytes that exists in memory only, and that no child inherits unless it is given.
pub(super) fn in_memory(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name ends with a zero byte, and the call keeps no pointer to it.
    let file = unsafe { libc::memfd_create(c"capfilt-video".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened this file, and nothing else owns it.
    let mut file = unsafe { File::from_raw_fd(file) };
    file.write_all(bytes)?;
    Ok(file)
}

/// Limits the process that a command will start: memory in bytes, processor time, few files, of which it has the
/// three standard ones and none that grow, no core, no calls that reach beyond it (see [`syscalls`]). It dies with
/// the thread that starts it.
///
/// The command fails to start where the system refuses any of this.
pub(super) fn confine(command: &mut Command, memory: u64, time: Duration) {
    let seconds = (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1);
    // What is allowed, and what may never be: at the first the process gets a signal that says so.
    let limits = [
        (libc::RLIMIT_AS, memory, memory),
        (libc::RLIMIT_CPU, seconds, seconds + 1),
        (libc::RLIMIT_NOFILE, MOST_FILES, MOST_FILES),
        (libc::RLIMIT_FSIZE, 0, 0),
        (libc::RLIMIT_CORE, 0, 0),
    ];
    let mut filter = syscalls::filter();
    let apply = move || {
        close_others();
        for (resource, soft, hard) in limits {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the structure outlives both calls.
            check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
            limit.rlim_max = limit.rlim_max.min(hard);
            limit.rlim_cur = limit.rlim_max.min(soft);
            // SAFETY: as above.
            check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
        }
        // Their arguments are whole registers.
        let [off, on, kill, mode] = [0, 1, libc::SIGKILL as libc::c_ulong, libc::SECCOMP_MODE_FILTER as libc::c_ulong];
        // SAFETY: these take numbers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, kill, off, off, off) })?;
        // SAFETY: as above.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, off, off, off) })?;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the structure and the instructions that it points to outlive the call, which copies them.
        check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, off, off) })
    };
    // SAFETY: between fork and exec the closure makes the system calls above and reads what it owns; it neither allocates
    // nor frees, takes no lock, and cannot panic. An error is the number of the system's, which needs no memory.
    unsafe { command.pre_exec(apply) };
}

/// Files beyond the three of a process, which it must not inherit, close when the program starts: those of this process
/// that were opened without that flag, by other libraries or by what started it.
fn close_others() {
    // SAFETY: the call takes numbers only. Before Linux 5.11 it fails.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if closed != 0 {
        for file in 3..MOST_INHERITED {
            // SAFETY: the call takes numbers only, and fails for what is not open.
            unsafe { libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
