//! The system calls that this program needs, as safe functions. All unsafe code of the crate is here.
#![expect(
    unsafe_code,
    reason = "these calls have no safe form in std, and the shim has no room for a larger dependency"
)]

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read},
    marker::PhantomData,
    mem,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) enum Forked {
    Parent(i32),
    Child,
}

pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: this program never starts a thread, so the child may do all that the parent may.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Starts a child that shares this process's memory until it executes a program or ends; this process stands still meanwhile. That
/// spares the copy of all that is never used. `child` does system calls and nothing else: it may be killed at any moment, and what it
/// leaves half-done in memory, it leaves here. What it returns is its exit code.
pub(crate) fn fork_sharing_memory(child: &mut dyn FnMut() -> i32) -> io::Result<i32> {
    extern "C" fn enter(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: what is pointed to lives on the stack of the caller, which does not return before this process is gone from its memory.
        let child = unsafe { &mut *child.cast::<&mut dyn FnMut() -> i32>() };
        child()
    }
    const STACK_BYTES: usize = 64 * 1024;
    let mut child = child;
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    // SAFETY: the stack is the child's alone, aligned as its 16-byte units are, and outlives it; this program never starts a thread, and
    // its one thread is held until the child has left.
    check(unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity()).cast();
        libc::clone(enter, top, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut child).cast())
    })
}

/// Ends at once: no destructors, which belong to the process that was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: has no preconditions.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Processes that lose their parent anywhere below become our children.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Closes whatever the agent left open by mistake. Called before anything is opened here.
pub(crate) fn close_inherited() {
    // SAFETY: takes numbers only, and nothing in this process owns a descriptor above 2 yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return;
    }
    for fd in 3..4096 {
        // SAFETY: as above; closing what is not open is an error and nothing else.
        unsafe { libc::close(fd) };
    }
}

/// Holds back every signal and hands them out by [`next_signal`].
pub(crate) fn signals_as_file() -> io::Result<File> {
    // SAFETY: `set` is initialised by sigfillset before it is read; the new descriptor is owned by nobody else.
    unsafe {
        // Ignored by an ancestor, it would make the kernel throw exit codes away.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set = mem::zeroed();
        libc::sigfillset(&mut set);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// As this process is shown; at most 15 bytes count.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: reads one string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The next message: how long it is, and the file that came with it. None: the other end is closed.
pub(crate) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<File>)>> {
    // An array of the largest unit is aligned for what the kernel puts there.
    let mut control = [0u64; 8];
    // SAFETY: the kernel fills a buffer and room for one descriptor, both of the lengths that are given, and says what it used; the
    // descriptor is new and owned by nobody else.
    let (length, file, flags) = unsafe {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let length = libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC);
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&message).as_ref().filter(|header| header.cmsg_type == libc::SCM_RIGHTS);
        let file = header.map(|header| File::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()));
        (length as usize, file, message.msg_flags)
    };
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::other("a message that is too long"));
    }
    Ok((length > 0).then_some((length, file)))
}

pub(crate) fn next_signal(signals: &File) -> Option<i32> {
    next_signal_from(signals).map(|(signal, _)| signal)
}

/// The signal, and the process that sent it: 0 when that is not in this process's world of numbers.
pub(crate) fn next_signal_from(signals: &File) -> Option<(i32, u32)> {
    let mut info = [0; mem::size_of::<libc::signalfd_siginfo>()];
    (&mut &*signals).read_exact(&mut info).ok()?;
    // The number is the first field, the sender the fourth.
    Some((i32::from_ne_bytes(*info.first_chunk()?), u32::from_ne_bytes(*info[12..].first_chunk()?)))
}

/// A timer by [`boot_ms`]: one that came due while the machine slept fires when it wakes up.
pub(crate) fn boot_timer() -> io::Result<File> {
    // SAFETY: takes numbers only; the new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?;
        Ok(File::from_raw_fd(fd))
    }
}

/// Readable from this moment on, until it is set again.
pub(crate) fn set_timer(timer: &File, at_boot_ms: u64) -> io::Result<()> {
    // Zero would mean never.
    let at = at_boot_ms.max(1);
    let time = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: (at / 1_000) as _, tv_nsec: (at % 1_000 * 1_000_000) as _ },
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(timer);
    // SAFETY: reads one plain struct, and is not asked for the old value.
    check(unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &time, ptr::null_mut()) }).map(drop)
}

pub(crate) fn lead_group() -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setpgid(0, 0) }).map(drop)
}

/// Undoes what the shim and Rust did to signals, as a program expects it.
pub(crate) fn reset_signals() {
    default_signals();
    unblock_signals();
}

/// What an ancestor has ignored would be ignored by every program that is executed.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: default actions run no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ends what [`signals_as_file`] has begun.
pub(crate) fn unblock_signals() {
    // SAFETY: `set` is initialised by sigemptyset.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Both ends close themselves when a program is executed.
pub(crate) fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are written to an array of two, and are then owned by the two files alone.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])))
    }
}

/// Of an end of [`pipe`], which has no other flag that could be lost.
pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

/// Waits until one can be read, or its other end is closed. A negative descriptor stands for none; no timeout is for ever.
pub(crate) fn poll<const N: usize>(fds: [RawFd; N], timeout: Option<Duration>) -> [bool; N] {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let millis = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis() + 1).unwrap_or(i32::MAX));
    // SAFETY: the array has N entries.
    unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, millis) };
    polled.map(|entry| entry.revents != 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(i32),
    Signalled(i32),
}

/// A child that has ended and was not waited for; None when none has. Error ECHILD: there are no children at all.
pub(crate) fn ended_child() -> io::Result<Option<i32>> {
    peek(libc::P_ALL, 0)
}

/// Whether this child has ended. It stays there as a zombie, so that its process id is nobody else's yet.
pub(crate) fn has_ended(pid: i32) -> io::Result<bool> {
    peek(libc::P_PID, pid as libc::id_t).map(|found| found.is_some())
}

fn peek(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<i32>> {
    // SAFETY: `info` is plain data, zero when nothing was found.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        check(libc::waitid(kind, id, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT))?;
        Ok(Some(info.si_pid()).filter(|pid| *pid != 0))
    }
}

/// Takes an ended child's status and frees its process id. None while it lives.
pub(crate) fn reap(pid: i32) -> io::Result<Option<Status>> {
    let mut status = 0;
    // SAFETY: writes one integer.
    match check(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) })? {
        0 => Ok(None),
        _ if libc::WIFSIGNALED(status) => Ok(Some(Status::Signalled(libc::WTERMSIG(status)))),
        _ => Ok(Some(Status::Exited(libc::WEXITSTATUS(status)))),
    }
}

/// Frees the process id of a child that has ended. False: none has.
pub(crate) fn reap_any() -> bool {
    // SAFETY: takes numbers only; no status is asked for.
    unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) > 0 }
}

/// CPU time in ms of all children that were waited for, and the largest memory that one of them had, in bytes.
pub(crate) fn used_by_children() -> (u64, u64) {
    // SAFETY: `usage` is plain data that the call fills.
    let usage: libc::rusage = unsafe {
        let mut usage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let millis = |time: libc::timeval| time.tv_sec as u64 * 1_000 + time.tv_usec as u64 / 1_000;
    (millis(usage.ru_utime) + millis(usage.ru_stime), usage.ru_maxrss as u64 * 1_024)
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub(crate) fn open_pidfd(pid: i32) -> io::Result<File> {
    // SAFETY: takes numbers only; the new descriptor is owned by nobody else.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32)?;
        Ok(File::from_raw_fd(fd))
    }
}

pub(crate) fn signal_pidfd(pidfd: &File, signal: i32) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(pidfd);
    // SAFETY: no information is passed, as the null says.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<libc::siginfo_t>(), 0) } as i32)
        .map(drop)
}

/// Milliseconds since boot, suspended time included.
pub(crate) fn boot_ms() -> u64 {
    clock_ms(libc::CLOCK_BOOTTIME)
}

/// Milliseconds since 1970, to be shown.
pub(crate) fn wall_ms() -> u64 {
    clock_ms(libc::CLOCK_REALTIME)
}

fn clock_ms(clock: libc::clockid_t) -> u64 {
    // SAFETY: `time` is plain data that the call fills.
    let time: libc::timespec = unsafe {
        let mut time = mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

pub(crate) fn page_bytes() -> u64 {
    // SAFETY: takes a number only.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Makes `to` the same open file as `from`; it stays open when a program is executed.
pub(crate) fn put_at(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only; 0 to 2 are owned by no value here.
    check(unsafe { libc::dup2(from, to) }).map(drop)
}

/// Lowers a limit, as far as it is not lower already.
pub(crate) fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    // SAFETY: reads and writes one plain struct.
    unsafe {
        let mut limits = mem::zeroed();
        check(libc::getrlimit(resource, &mut limits))?;
        let value = limits.rlim_max.min(value);
        check(libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value })).map(drop)
    }
}

/// Becomes a user for good, with the group of the same number and no other.
pub(crate) fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: no groups are passed, as the zero says.
    unsafe {
        check(libc::setgroups(0, ptr::null()))?;
        check(libc::setresgid(uid, uid, uid))?;
        check(libc::setresuid(uid, uid, uid)).map(drop)
    }
}

pub(crate) fn become_user_and_kill_all(uid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::other("refusing to kill all of root's processes"));
    }
    become_user(uid)?;
    match kill(-1, libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// No program executed from here on gains rights by its file.
pub(crate) fn forbid_new_rights() -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// The kernel kills this process when its parent ends.
pub(crate) fn die_with_parent(parent: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        if libc::getppid() == parent { Ok(()) } else { exit_now(137) }
    }
}

pub(crate) fn set_umask(mask: libc::mode_t) {
    // SAFETY: takes a number only.
    unsafe { libc::umask(mask) };
}

/// Leaves all networks for one that has a loopback device and nothing else.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: `request` is plain data; the kernel reads its name and flags. The socket is closed here.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET))?;
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let up = check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request));
        libc::close(socket);
        up.map(drop)
    }
}

/// Writes to a file that is there, without taking memory.
pub(crate) fn write_to(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: reads one string and as many bytes as there are; the descriptor is closed by the file that owns it.
    unsafe {
        let file = File::from_raw_fd(check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        check(libc::write(fd, bytes.as_ptr().cast(), bytes.len()) as i32).map(drop)
    }
}

/// Without taking memory.
pub(crate) fn change_dir(path: &CStr) -> io::Result<()> {
    // SAFETY: reads one string.
    check(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Arguments or variables, as the kernel takes them.
pub(crate) struct Words<'a> {
    pointers: Vec<*const libc::c_char>,
    words: PhantomData<&'a [CString]>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(words: &'a [CString]) -> Self {
        Self { pointers: words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect(), words: PhantomData }
    }
}

/// Executes a program in place of this one. Returns only its failure. Takes no memory.
pub(crate) fn execute(path: &CStr, argv: &Words, env: &Words) -> io::Error {
    // SAFETY: both arrays end with a null, and the strings live as long as the words that are borrowed.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}
