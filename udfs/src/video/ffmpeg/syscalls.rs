//! The system calls that a decoder may not make, as a program of the kernel's packet filter (seccomp).
//!
//! What is refused reaches the network, another process, or changes files: a decoder reads its input, computes, and writes
//! to its pipes. Refused calls fail with EPERM, so that a library that can do without goes on. The filter needs no
//! privileges. On other processors than x86-64 and 64-bit ARM it only lets everything pass.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use libc::*;

/// Instructions of the filter.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn filter() -> Vec<libc::sock_filter> {
    vec![libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }]
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in what the filter sees of a call: its number, the architecture, and the lower halves of its arguments.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod seen {
    pub(super) const NUMBER: u32 = 0;
    pub(super) const ARCHITECTURE: u32 = 4;
    pub(super) const fn argument(i: u32) -> u32 {
        16 + 8 * i
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const REFUSED: &[c_long] = &[
    // Network, and calls that would pass by this filter.
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_io_setup,
    // Files.
    SYS_unlinkat,
    SYS_renameat2,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_truncate,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_copy_file_range,
    SYS_open_by_handle_at,
    // Other processes.
    SYS_kill,
    SYS_tkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pidfd_getfd,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_setpgid,
    SYS_setsid,
    SYS_shmget,
    SYS_msgget,
    SYS_semget,
    SYS_mq_open,
    // The system.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_quotactl,
    SYS_fanotify_init,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsmount,
];

/// Older calls that 64-bit ARM never had.
#[cfg(target_arch = "x86_64")]
const REFUSED_TOO: &[c_long] = &[
    SYS_fork,
    SYS_vfork,
    SYS_creat,
    SYS_unlink,
    SYS_rename,
    SYS_renameat,
    SYS_mkdir,
    SYS_rmdir,
    SYS_mknod,
    SYS_link,
    SYS_symlink,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_modify_ldt,
    SYS_ioperm,
    SYS_iopl,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_TOO: &[c_long] = &[SYS_renameat];

/// Calls whose flags are behind a pointer, which the filter cannot follow. They seem not to exist, and libraries make the
/// older ones.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const MISSING: &[c_long] = &[SYS_clone3, SYS_openat2];

/// Flags of opening that write.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const WRITES: u32 = (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & !O_DIRECTORY)) as u32;

/// Instructions of the filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn filter() -> Vec<sock_filter> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let load = |offset: u32| step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
    let ends = |action: u32| step(BPF_RET | BPF_K, 0, 0, action);
    // The next instruction is for the equal, the second next for others.
    let equal = |k: u32, skipped: u8| step(BPF_JMP | BPF_JEQ | BPF_K, 0, skipped, k);
    let refused = ends(SECCOMP_RET_ERRNO | EPERM as u32);
    let allowed = ends(SECCOMP_RET_ALLOW);
    let mut filter = vec![
        load(seen::ARCHITECTURE),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCHITECTURE),
        ends(SECCOMP_RET_KILL_PROCESS),
        load(seen::NUMBER),
        // Calls of x86-64 with 32-bit pointers have numbers of their own.
        step(BPF_JMP | BPF_JGE | BPF_K, 0, 1, 0x4000_0000),
        ends(SECCOMP_RET_KILL_PROCESS),
    ];
    for call in REFUSED.iter().chain(REFUSED_TOO) {
        filter.extend([equal(*call as u32, 1), refused]);
    }
    for call in MISSING {
        filter.extend([equal(*call as u32, 1), ends(SECCOMP_RET_ERRNO | ENOSYS as u32)]);
    }
    // Of the flags any that is set: the next instruction; else the second next.
    let any = |flags: u32| step(BPF_JMP | BPF_JSET | BPF_K, 0, 1, flags);
    filter.extend([equal(SYS_openat as u32, 4), load(seen::argument(2)), any(WRITES), refused, allowed]);
    #[cfg(target_arch = "x86_64")]
    filter.extend([equal(SYS_open as u32, 4), load(seen::argument(1)), any(WRITES), refused, allowed]);
    // A thread, but no process.
    filter.extend([equal(SYS_clone as u32, 4), load(seen::argument(0)), any(CLONE_THREAD as u32), allowed, refused]);
    filter.push(allowed);
    filter
}
