/* SPDX-License-Identifier: MIT
 *
 * The table of system calls that a confined process may make, and what becomes of any other: the
 * kernel raises SIGSYS, whose handler names the call on standard error and dies of it.
 *
 * A row allows a call, for the features it names, if all its conditions on arguments hold; several
 * rows of a call are alternatives. A row with an errno value instead lets the call fail: what
 * libraries try and can do without. Arguments behind pointers cannot be looked at: clone3(2) is
 * refused so that clone(2) is used instead, and io_uring_setup(2) is not in the table: rings are
 * made and restricted before (block/rings.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "sandbox/sandbox.h"

struct condition {
    unsigned argument;
    enum scmp_compare compare; /* 0: no condition */
    uint64_t value, masked;
};

struct row {
    unsigned features; /* any of them; 0: every process */
    const char *name;
    int error; /* 0: allowed */
    struct condition conditions[2];
};

#define IS(argument, value)                                                                        \
    {                                                                                              \
        argument, SCMP_CMP_EQ, value, 0                                                            \
    }
#define IS_NOT(argument, value)                                                                    \
    {                                                                                              \
        argument, SCMP_CMP_NE, value, 0                                                            \
    }
#define HAS(argument, mask, value)                                                                 \
    {                                                                                              \
        argument, SCMP_CMP_MASKED_EQ, mask, value                                                  \
    }
#define NEW_NAMESPACES                                                                             \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)

static const struct row rows[] = {
    /* memory: never writable and executable at once */
    {0, "brk", 0, {{0}}},
    {0, "mmap", 0, {HAS(2, PROT_EXEC, 0)}},
    {SANDBOX_CODE, "mmap", 0, {IS(2, PROT_READ | PROT_EXEC), IS(3, MAP_SHARED | MAP_FIXED)}},
    {0, "munmap", 0, {{0}}},
    {0, "mremap", 0, {{0}}},
    {0, "mprotect", 0, {HAS(2, PROT_EXEC, 0)}},
    {0, "madvise", 0, {{0}}},
    {0, "memfd_create", 0, {{0}}},

    /* threads of this process, and copies of it (vm/fork.h) within the same walls */
    {0, "clone", 0, {HAS(0, CLONE_THREAD | CLONE_VM | NEW_NAMESPACES, CLONE_THREAD | CLONE_VM)}},
    {0, "clone", 0, {IS(0, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD)}},
    {0, "clone3", ENOSYS, {{0}}},
    {0, "set_robust_list", 0, {{0}}},
    {0, "rseq", 0, {{0}}},
    {0, "futex", 0, {{0}}},
    {0, "sched_yield", 0, {{0}}},
    {0, "sched_getaffinity", 0, {{0}}},
    {0, "sched_getparam", 0, {{0}}},
    {0, "sched_getscheduler", 0, {{0}}},
    {0, "membarrier", 0, {{0}}},
    {0, "gettid", 0, {{0}}},
    {0, "getpid", 0, {{0}}},
    {0, "tgkill", EPERM, {{0}}}, /* abort() then ends the process without */
    {0, "exit", 0, {{0}}},
    {0, "exit_group", 0, {{0}}},
    {0, "rt_sigaction", 0, {IS_NOT(0, SIGSYS)}},
    {0, "rt_sigprocmask", 0, {{0}}},
    {0, "rt_sigreturn", 0, {{0}}},
    {0, "restart_syscall", 0, {{0}}},
    {0, "prctl", 0, {IS(0, PR_SET_NAME)}},

    /* time */
    {0, "clock_gettime", 0, {{0}}},
    {0, "clock_getres", 0, {{0}}},
    {0, "clock_nanosleep", 0, {{0}}},
    {0, "nanosleep", 0, {{0}}},
    {0, "gettimeofday", 0, {{0}}},
    {0, "time", 0, {{0}}},
    {0, "timerfd_create", 0, {{0}}},
    {0, "signalfd4", 0, {{0}}},
    {0, "timerfd_settime", 0, {{0}}},

    /* what is open */
    {0, "read", 0, {{0}}},
    {0, "readv", 0, {{0}}},
    {0, "pread64", 0, {{0}}},
    {0, "preadv", 0, {{0}}},
    {0, "write", 0, {{0}}},
    {0, "writev", 0, {{0}}},
    {0, "pwrite64", 0, {{0}}},
    {0, "pwritev", 0, {{0}}},
    {0, "lseek", 0, {{0}}},
    {0, "fsync", 0, {{0}}},
    {0, "fdatasync", 0, {{0}}},
    {0, "fallocate", 0, {{0}}},
    {0, "ftruncate", 0, {{0}}},
    {0, "fstat", 0, {{0}}},
    {0, "newfstatat", 0, {IS(3, AT_EMPTY_PATH)}},
    {0, "statx", 0, {HAS(2, AT_EMPTY_PATH, AT_EMPTY_PATH)}},
    {0, "close", 0, {{0}}},
    {0, "close_range", 0, {{0}}},
    {0, "fcntl", 0, {IS(1, F_GETFD)}},
    {0, "fcntl", 0, {IS(1, F_SETFD)}},
    {0, "fcntl", 0, {IS(1, F_GETFL)}},
    {0, "fcntl", 0, {IS(1, F_SETFL)}},
    {0, "fcntl", 0, {IS(1, F_DUPFD_CLOEXEC)}},
    {0, "fcntl", 0, {IS(1, F_OFD_SETLK)}},
    {0, "fcntl", 0, {IS(1, F_OFD_GETLK)}},
    {0, "ioctl", 0, {IS(1, TCGETS)}}, /* isatty() */
    {0, "ioctl", 0, {IS(1, BLKGETSIZE64)}},
    {0, "ioctl", 0, {IS(1, BLKSSZGET)}},
    {0, "poll", 0, {{0}}},
    {0, "ppoll", 0, {{0}}},
    {0, "epoll_create1", 0, {{0}}},
    {0, "epoll_ctl", 0, {{0}}},
    {0, "epoll_wait", 0, {{0}}},
    {0, "epoll_pwait", 0, {{0}}},
    {0, "eventfd2", 0, {{0}}},
    {0, "io_uring_enter", 0, {{0}}},
    {0, "io_uring_register", 0, {IS(1, IORING_REGISTER_FILES_UPDATE)}},

    /* sockets that are connected, or that others connect to; no new ones, and no connecting by
     * sending (MSG_FASTOPEN) */
    {0, "accept4", 0, {{0}}},
    {0, "recvfrom", 0, {{0}}},
    {0, "recvmsg", 0, {{0}}},
    {0, "sendto", 0, {HAS(3, MSG_FASTOPEN, 0)}},
    {0, "sendmsg", 0, {HAS(2, MSG_FASTOPEN, 0)}},
    {0, "sendmmsg", 0, {HAS(3, MSG_FASTOPEN, 0)}},
    {0, "recvmmsg", 0, {{0}}},
    {0, "shutdown", 0, {{0}}},
    {0, "getsockopt", 0, {IS(1, SOL_SOCKET)}},
    {0, "setsockopt", 0, {IS(1, SOL_SOCKET), IS(2, SO_SNDBUF)}},
    {0, "setsockopt", 0, {IS(1, 6 /* IPPROTO_TCP */), IS(2, 1 /* TCP_NODELAY */)}},

    /* about the host and ourselves */
    {0, "getrandom", 0, {{0}}},
    {0, "uname", 0, {{0}}},
    {0, "sysinfo", 0, {{0}}},
    {0, "getrusage", 0, {{0}}},
    {0, "getuid", 0, {{0}}},
    {0, "geteuid", 0, {{0}}},
    {0, "getgid", 0, {{0}}},
    {0, "getegid", 0, {{0}}},
    {0, "prlimit64", 0, {IS(0, 0), IS(2, 0)}}, /* getrlimit() */

    /* what the C library may try at any time, and then does without */
    {0, "open", ENOENT, {{0}}},
    {0, "openat", ENOENT, {{0}}},
    {0, "access", ENOENT, {{0}}},
    {0, "stat", ENOENT, {{0}}},
    {0, "newfstatat", ENOENT, {IS_NOT(3, AT_EMPTY_PATH)}},
    {0, "readlink", ENOENT, {{0}}},
    {0, "prctl", EINVAL, {IS_NOT(0, PR_SET_NAME)}},

    /* shared folders: only descriptors of theirs lead anywhere */
    {SANDBOX_FOLDERS, "openat", 0, {{0}}},
    {SANDBOX_FOLDERS, "newfstatat", 0, {{0}}},
    {SANDBOX_FOLDERS, "mkdirat", 0, {{0}}},
    {SANDBOX_FOLDERS, "mknodat", 0, {{0}}},
    {SANDBOX_FOLDERS, "symlinkat", 0, {{0}}},
    {SANDBOX_FOLDERS, "readlinkat", 0, {{0}}},
    {SANDBOX_FOLDERS, "linkat", 0, {{0}}},
    {SANDBOX_FOLDERS, "renameat", 0, {{0}}},
    {SANDBOX_FOLDERS, "renameat2", 0, {{0}}},
    {SANDBOX_FOLDERS, "unlinkat", 0, {{0}}},
    {SANDBOX_FOLDERS, "fchmod", 0, {{0}}},
    {SANDBOX_FOLDERS, "fchmodat", 0, {{0}}},
    {SANDBOX_FOLDERS, "fchownat", 0, {{0}}},
    {SANDBOX_FOLDERS, "utimensat", 0, {{0}}},
    {SANDBOX_FOLDERS, "fstatfs", 0, {{0}}},
    {SANDBOX_FOLDERS, "getdents64", 0, {{0}}},

#ifdef __x86_64__
    /* KVM: what engine/kvm/ asks of it, and timers of our own that kick vCPUs out of a guest */
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_CHECK_EXTENSION)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_CREATE_VM)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_VCPU_MMAP_SIZE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_SUPPORTED_CPUID)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_MSR_INDEX_LIST)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_TSS_ADDR)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_IDENTITY_MAP_ADDR)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_USER_MEMORY_REGION)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_CREATE_VCPU)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_CREATE_IRQCHIP)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_CREATE_PIT2)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_IRQCHIP)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_IRQCHIP)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_PIT2)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_PIT2)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_CLOCK)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_CLOCK)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_DIRTY_LOG)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_RESET_DIRTY_RINGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_IRQ_LINE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SIGNAL_MSI)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_IOEVENTFD)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_RUN)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_REGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_REGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_SREGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_SREGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_XSAVE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_XSAVE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_XCRS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_XCRS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_DEBUGREGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_DEBUGREGS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_LAPIC)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_LAPIC)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_MSRS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_MSRS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_VCPU_EVENTS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_VCPU_EVENTS)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_MP_STATE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_MP_STATE)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_CPUID2)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_GUEST_DEBUG)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_ENABLE_CAP)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_X86_SET_MSR_FILTER)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_TSC_KHZ)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_TSC_KHZ)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_GET_DEVICE_ATTR)}},
    {SANDBOX_KVM, "ioctl", 0, {IS(1, KVM_SET_DEVICE_ATTR)}},
    {SANDBOX_KVM, "timer_create", 0, {{0}}},
    {SANDBOX_KVM, "timer_settime", 0, {{0}}},
    {SANDBOX_KVM, "timer_delete", 0, {{0}}},
#endif

#ifdef SANITIZED
    /* AddressSanitizer: stacks of its own for signals, and what it tries for its reports */
    {0, "sigaltstack", 0, {{0}}},
    {0, "readlinkat", ENOENT, {{0}}},
    {0, "getcwd", ENOENT, {{0}}},
    {0, "pipe", EPERM, {{0}}},
    {0, "pipe2", EPERM, {{0}}},
    {0, "socketpair", EPERM, {{0}}},
    {0, "getppid", 0, {{0}}},
#endif
};

/* ---- a call that is in no row ---- */

#define X(name) [SYS_##name] = #name,
static const char *const names[] = {
#include "sandbox/syscalls.inc"
};
#undef X

/* In a signal handler: nothing but system calls. The signal is blocked, so the next such call is
 * the end. */
static void report_call(int signal, siginfo_t *info, void *context)
{
    static const char before[] = "trapeze: error: the sandbox ends this process: system call ";
    static const char behind[] = " is not one that it may make. If nobody has taken it over that "
                                 "is a bug of trapeze, and '--sandbox off' does without\n";
    unsigned number = (unsigned)info->si_syscall;
    char digits[12];
    size_t at = sizeof(digits);
    (void)signal, (void)context;
    for (unsigned rest = number; at == sizeof(digits) || rest > 0; rest /= 10)
        digits[--at] = (char)('0' + rest % 10);
    const char *name = number < ARRAY_SIZE(names) && names[number] != NULL ? names[number] : "";
    char when[LOG_TIME_BYTES];
    ssize_t written = write(STDERR_FILENO, when, strlen(log_time(STDERR_FILENO, when)));
    written += write(STDERR_FILENO, before, sizeof(before) - 1);
    written += write(STDERR_FILENO, name, strlen(name));
    written += write(STDERR_FILENO, name[0] != '\0' ? " (" : "(", name[0] != '\0' ? 2 : 1);
    written += write(STDERR_FILENO, digits + at, sizeof(digits) - at);
    written += write(STDERR_FILENO, ")", 1);
    written += write(STDERR_FILENO, behind, sizeof(behind) - 1);
    (void)written;
    syscall(SYS_execve, NULL, NULL, NULL);
    _exit(128 + SIGSYS);
}

static bool watch(void)
{
    struct sigaction action = {.sa_sigaction = report_call, .sa_flags = SA_SIGINFO};
    sigset_t signals;
    sigfillset(&action.sa_mask);
    sigemptyset(&signals);
    sigaddset(&signals, SIGSYS);
    return sigaction(SIGSYS, &action, NULL) == 0 && sigprocmask(SIG_UNBLOCK, &signals, NULL) == 0;
}

/* ---- the filter ---- */

/* A later row for the same call takes the place of one that only lets it fail. */
static bool is_replaced(const struct row *row, unsigned features)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].error == 0 && strcmp(rows[i].name, row->name) == 0 &&
            rows[i].conditions[0].compare == 0 && (rows[i].features & features) != 0)
            return true;
    return false;
}

/* libseccomp says a negative errno value. */
static int add_row(scmp_filter_ctx filter, const struct row *row)
{
    struct scmp_arg_cmp conditions[ARRAY_SIZE(row->conditions)];
    unsigned count = 0;
    int number = seccomp_syscall_resolve_name(row->name);
    if (number < 0) /* this host's kind of machine does not have it */
        return 0;
    while (count < ARRAY_SIZE(row->conditions) && row->conditions[count].compare != 0) {
        const struct condition *from = &row->conditions[count];
        conditions[count++] = (struct scmp_arg_cmp){
            .arg = from->argument,
            .op = from->compare,
            .datum_a = from->value,
            .datum_b = from->masked,
        };
    }
    return seccomp_rule_add_array(
        filter, row->error == 0 ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO((uint16_t)row->error), number,
        count, conditions);
}

static int fill(scmp_filter_ctx filter, unsigned features)
{
    int error = 0;
    for (size_t i = 0; i < ARRAY_SIZE(rows) && error == 0; i++) {
        const struct row *row = &rows[i];
        bool ours = row->features == 0 || (row->features & features) != 0;
        bool narrower = row->error != 0 || row->conditions[0].compare != 0;
        if (ours && !(row->features == 0 && narrower && is_replaced(row, features)))
            error = add_row(filter, row);
    }
    return error;
}

int sandbox_filter(unsigned features)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    if (filter == NULL)
        return ENOMEM;
    /* The kernel is not to turn a mitigation on that costs the translator a lot: what shares this
     * process is one guest's. */
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    int error = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (error == 0)
        error = fill(filter, features);
    if (error == 0 && !watch())
        error = -errno;
    if (error == 0)
        error = seccomp_load(filter);
    seccomp_release(filter);
    return -error;
}
