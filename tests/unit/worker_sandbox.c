/* SPDX-License-Identifier: MIT
 *
 * A worker that was taken over. This program is started as its own worker (client/spawn.h), begins
 * as every worker does (worker_begin()), and then tries what one that does a stranger's will would
 * try: each attempt has to fail as its row says, or to be its last, with its name in the log.
 *
 * Each row is tried in the sandbox as the host gives it, and again where the host refuses
 * namespaces (a filter of system calls stands in for such a host): the second wall has to hold
 * alone.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "block/queue_internal.h"
#include "client/disks.h"
#include "client/network.h"
#include "client/spawn.h"
#include "client/vsock.h"
#include "config/machine.h"
#include "sandbox/sandbox.h"
#include "sandbox_calls.h"
#include "vm/files.h"
#include "worker/worker.h"

enum { SUCCESS = 0, KILLED = -1, BEGIN_FAILED = 250, NO_ANSWER = 251 };

/* ---- what is tried; inside, with few system calls left; an errno value, or SUCCESS ---- */

/* What the attacker knows of the world outside. */
struct knowledge {
    const struct vm_files *files;
    const char *folder; /* with "other.img", "catalogue.db", "daemon.sock", "shared/inside" */
    pid_t victim;
    int port; /* where somebody listens on 127.0.0.1 */
};

static int result_of(long got)
{
    return got >= 0 ? SUCCESS : errno;
}

/* The two walls that a file may be behind, whichever comes first: there is no such name, or one
 * may not; which one depends on whether this is root's host, too. */
static int no_way(int error)
{
    return error == ENOENT || error == EROFS ? EACCES : error;
}

static int open_by_name(const struct knowledge *k, const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", k->folder, name);
    return result_of(openat(AT_FDCWD, path, O_RDONLY));
}

static int another_disk(const struct knowledge *k)
{
    return open_by_name(k, "other.img");
}

static int the_catalogue(const struct knowledge *k)
{
    return open_by_name(k, "catalogue.db");
}

static int others_processes(const struct knowledge *k)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)k->victim);
    return result_of(openat(AT_FDCWD, path, O_RDONLY));
}

/* Up from whatever it has: the errno value of the best attempt. */
static int climb(const struct knowledge *k)
{
    char path[256];
    int best = EBADF;
    snprintf(path, sizeof(path), "../../../../../../../../..%s/other.img", k->folder);
    for (int fd = 0; fd < 64; fd++) {
        int error = result_of(openat(fd, path, O_RDONLY));
        if (error == SUCCESS)
            return SUCCESS;
        if (error != EBADF && error != ENOTDIR)
            best = error;
    }
    return no_way(best);
}

static int climb_a_little(const struct knowledge *k)
{
    return no_way(result_of(openat(k->files->shares[0], "../other.img", O_RDONLY)));
}

static int climb_in_proc(const struct knowledge *k)
{
    char path[64];
    snprintf(path, sizeof(path), "../../%d/cmdline", (int)k->victim);
    return no_way(result_of(openat(k->files->own_fds, path, O_RDONLY)));
}

static int what_is_shared(const struct knowledge *k)
{
    return result_of(openat(k->files->shares[0], "inside", O_RDWR));
}

static int what_is_shared_for_reading(const struct knowledge *k)
{
    return no_way(result_of(openat(k->files->shares[1], "inside", O_RDWR)));
}

static int run_what_is_shared(const struct knowledge *k)
{
    return result_of(syscall(SYS_execveat, k->files->shares[0], "inside", NULL, NULL, 0));
}

/* Landlock refuses it before it is found that we may not. */
static int make_a_device(const struct knowledge *k)
{
    int error = result_of(mknodat(k->files->shares[0], "null", S_IFCHR | 0666, 0x103));
    return error == EACCES ? EPERM : error;
}

static int try_socket(int family)
{
    return result_of(socket(family, SOCK_STREAM, 0));
}

static int the_network(const struct knowledge *k)
{
    (void)k;
    return try_socket(AF_INET);
}

static int the_daemon(const struct knowledge *k)
{
    (void)k;
    return try_socket(AF_UNIX);
}

static int netlink(const struct knowledge *k)
{
    (void)k;
    return try_socket(AF_NETLINK);
}

/* With a socket that it has. */
static int an_abstract_name(const struct knowledge *k)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0trapeze"};
    (void)k;
    return result_of(connect(3, (struct sockaddr *)&address, sizeof(address)));
}

static int connect_by_sending(const struct knowledge *k)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)k->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return result_of(sendto(3, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof(address)));
}

#define CALL(name, ...)                                                                            \
    static int try_##name(const struct knowledge *k)                                               \
    {                                                                                              \
        (void)k;                                                                                   \
        return result_of(syscall(SYS_##name, __VA_ARGS__));                                        \
    }

CALL(clone3, NULL, 0)
CALL(tgkill, k->victim, k->victim, 0)
SANDBOX_CALLS(CALL)
#ifndef SANITIZED
CALL(socketpair, AF_UNIX, SOCK_STREAM, 0, NULL)
#endif
CALL(unlinkat, AT_FDCWD, "/", 0)
CALL(mkdirat, AT_FDCWD, "/x", 0700)
CALL(renameat, AT_FDCWD, "/x", AT_FDCWD, "/y")

static int fork_itself(const struct knowledge *k)
{
    (void)k;
    return result_of(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0));
}

/* The only way, fork(3)'s: what comes of it is behind the same walls. */
static int copy_itself(const struct knowledge *k)
{
    (void)k;
    pid_t pid = fork();
    if (pid == 0)
        syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); /* its end, and in the log */
    return pid > 0 ? SUCCESS : errno;
}

static int fork_into_namespaces(const struct knowledge *k)
{
    (void)k;
    return result_of(syscall(SYS_clone,
                             CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_NEWUSER | SIGCHLD, NULL,
                             NULL, NULL, 0));
}

static int a_thread_elsewhere(const struct knowledge *k)
{
    (void)k;
    return result_of(syscall(SYS_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWNET,
                             NULL, NULL, NULL, 0));
}

static int more_of_a_limit(const struct knowledge *k)
{
    const struct rlimit limit = {10, 10};
    (void)k;
    return result_of(syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL));
}

static int another_handler(const struct knowledge *k)
{
    (void)k;
    return signal(SIGSYS, SIG_IGN) != SIG_ERR ? SUCCESS : errno;
}

static int type_at_the_terminal(const struct knowledge *k)
{
    (void)k;
    return result_of(ioctl(2, TIOCSTI, "x"));
}

/* Whatever it asks of itself. */
static int other_questions(const struct knowledge *k)
{
    static const int options[] = {PR_SET_DUMPABLE,    PR_SET_PTRACER, PR_SET_MM, PR_CAP_AMBIENT,
                                  PR_SET_SECUREBITS,  PR_SET_TSC,     PR_GET_SECCOMP,
                                  PR_SET_CHILD_SUBREAPER};
    (void)k;
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (prctl(options[i], 1, 0, 0, 0) >= 0 || errno != EINVAL)
            return NO_ANSWER;
    return EINVAL;
}

/* Of whatever socket it has: the errno value of the best attempt. */
static int a_name_for_a_message(const struct knowledge *k)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0trapeze"};
    int best = EBADF;
    (void)k;
    for (int fd = 3; fd < 64; fd++) {
        int error = result_of(
            sendto(fd, "x", 1, MSG_NOSIGNAL, (const struct sockaddr *)&address, sizeof(address)));
        if (error == SUCCESS)
            return SUCCESS;
        if (error != EBADF && error != ENOTSOCK)
            best = error;
    }
    return best;
}

/* What it has open to be read, once more: as /proc/self/fd lets others. */
static int reopen_to_write(const struct knowledge *k)
{
    char name[16];
    snprintf(name, sizeof(name), "%d", k->files->boot.files[BOOT_FIRMWARE].fd);
    return no_way(result_of(openat(k->files->own_fds, name, O_RDWR)));
}

#if defined(__x86_64__)
/* Other ways into the kernel, with numbers of their own. */
static int calls_of_x32(const struct knowledge *k)
{
    (void)k;
    return result_of(syscall(0x40000000 | SYS_getpid));
}

static int calls_of_i386(const struct knowledge *k)
{
    long number = 20 /* getpid */;
    (void)k;
    __asm__ volatile("int $0x80" : "+a"(number) : : "memory", "r8", "r9", "r10", "r11");
    return SUCCESS;
}
#endif

static int signals_from_a_file(const struct knowledge *k)
{
    return result_of(fcntl(3, F_SETOWN, k->victim));
}

/* ---- memory ---- */

static int try_mmap(int protection, int flags, int fd)
{
    return mmap(NULL, 4096, protection, flags, fd, 0) != MAP_FAILED ? SUCCESS : errno;
}

static int writable_code(const struct knowledge *k)
{
    (void)k;
    return try_mmap(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static int code_of_a_file(const struct knowledge *k)
{
    return try_mmap(PROT_READ | PROT_EXEC, MAP_PRIVATE, k->files->boot.files[BOOT_FIRMWARE].fd);
}

static int data_becomes_code(const struct knowledge *k)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)k;
    return result_of(mprotect(page, 4096, PROT_READ | PROT_EXEC));
}

/* What the translator does (engine/dbt/cache.c). */
static int the_translators_way(const struct knowledge *k)
{
    int fd = memfd_create("code", MFD_CLOEXEC);
    (void)k;
    if (fd < 0 || ftruncate(fd, 4096) != 0)
        return errno;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mmap(page, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0) == page ? SUCCESS
                                                                                          : errno;
}

/* ---- io_uring, which system calls' filters do not see ---- */

static struct io_uring *ring_of(const struct knowledge *k)
{
    /* struct block_ring begins with it. */
    return (struct io_uring *)block_ring_new(k->files->rings);
}

static int ring_tries(struct io_uring *ring, const struct io_uring_sqe *what)
{
    struct io_uring_sqe *sqe = ring != NULL ? io_uring_get_sqe(ring) : NULL;
    struct io_uring_cqe *cqe;
    if (sqe == NULL)
        return NO_ANSWER;
    *sqe = *what;
    if (io_uring_submit(ring) < 0 || io_uring_wait_cqe(ring, &cqe) != 0)
        return NO_ANSWER;
    int result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result >= 0 ? SUCCESS : -result;
}

static int ring_does(const struct knowledge *k, const struct io_uring_sqe *what)
{
    return ring_tries(ring_of(k), what);
}

static int ring_opens(const struct knowledge *k)
{
    struct io_uring_sqe sqe = {0};
    io_uring_prep_openat(&sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
    sqe.flags = IOSQE_FIXED_FILE;
    return ring_does(k, &sqe);
}

static int ring_makes_a_socket(const struct knowledge *k)
{
    struct io_uring_sqe sqe = {.opcode = 45 /* IORING_OP_SOCKET */, .fd = AF_INET};
    sqe.off = SOCK_STREAM;
    return ring_does(k, &sqe);
}

static int ring_connects(const struct knowledge *k)
{
    static struct sockaddr_in address = {.sin_family = AF_INET};
    struct io_uring_sqe sqe = {0};
    io_uring_prep_connect(&sqe, 0, (struct sockaddr *)&address, sizeof(address));
    sqe.flags = IOSQE_FIXED_FILE;
    return ring_does(k, &sqe);
}

static int ring_reads_what_is_not_registered(const struct knowledge *k)
{
    static char bytes[16];
    static struct iovec iov = {bytes, sizeof(bytes)};
    struct io_uring_sqe sqe = {0};
    io_uring_prep_readv(&sqe, k->files->boot.files[BOOT_FIRMWARE].fd, &iov, 1, 0);
    return ring_does(k, &sqe);
}

static int ring_reads(const struct knowledge *k)
{
    static char bytes[16];
    static struct iovec iov = {bytes, sizeof(bytes)};
    struct io_uring *ring = ring_of(k);
    int fd = k->files->boot.files[BOOT_FIRMWARE].fd;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    if (!block_ring_use((struct block_ring *)ring, fd))
        return errno;
    io_uring_prep_readv(sqe, 0, &iov, 1, 0);
    sqe->flags = IOSQE_FIXED_FILE;
    if (io_uring_submit(ring) < 0 || io_uring_wait_cqe(ring, &cqe) != 0)
        return NO_ANSWER;
    return cqe->res == sizeof(bytes) ? SUCCESS : -cqe->res;
}

/* All that the kernel knows but what rings are for (block/ring.c). */
static int ring_does_nothing_else(const struct knowledge *k)
{
    struct io_uring *ring = ring_of(k);
    for (unsigned code = 0; code < 70; code++) {
        struct io_uring_sqe sqe = {.opcode = (uint8_t)code, .flags = IOSQE_FIXED_FILE};
        if (code == IORING_OP_READV || code == IORING_OP_WRITEV)
            continue;
        int error = ring_tries(ring, &sqe);
        if (error != EACCES && error != EINVAL) /* not allowed, or there is no such */
            return error;
    }
    return EACCES;
}

static int ring_takes_on_a_personality(const struct knowledge *k)
{
    return result_of(
        syscall(SYS_io_uring_register, ring_of(k)->ring_fd, IORING_REGISTER_PERSONALITY, NULL, 0));
}

static int ring_registers_memory(const struct knowledge *k)
{
    return result_of(
        syscall(SYS_io_uring_register, ring_of(k)->ring_fd, IORING_REGISTER_BUFFERS, NULL, 0));
}

/* ---- the rows ---- */

enum kind { TRANSLATES = 1, INTERPRETS = 2, SHARES = 4, ANY = 7 };

static const struct attempt {
    const char *name;
    int (*run)(const struct knowledge *k);
    unsigned kinds;      /* of machines */
    int expected, alone; /* an errno value, SUCCESS or KILLED; and where there are no namespaces */
    const char *call;    /* KILLED: what the log names; NULL: the kernel does not ask us */
} attempts[] = {
#define FAILS(kinds, name, error)                                                                  \
    {                                                                                              \
#name, name, kinds, error, error, NULL                                                     \
    }
#define DIES(kinds, name, call)                                                                    \
    {                                                                                              \
#name, name, kinds, KILLED, KILLED, call                                                   \
    }
#define CALL_DIES(name)                                                                            \
    {                                                                                              \
#name, try_##name, ANY, KILLED, KILLED, #name                                              \
    }
#define ROW(name, ...) CALL_DIES(name),
    FAILS(TRANSLATES | INTERPRETS, another_disk, ENOENT),
    FAILS(TRANSLATES | INTERPRETS, the_catalogue, ENOENT),
    FAILS(TRANSLATES | INTERPRETS, others_processes, ENOENT),
    FAILS(ANY, climb, EACCES),
    {"another_disk", another_disk, SHARES, ENOENT, EACCES, NULL},
    {"the_catalogue", the_catalogue, SHARES, ENOENT, EACCES, NULL},
    {"others_processes", others_processes, SHARES, ENOENT, EACCES, NULL},
    FAILS(SHARES, climb_a_little, EACCES),
    FAILS(SHARES, climb_in_proc, EACCES),
    FAILS(SHARES, what_is_shared, SUCCESS),
    FAILS(SHARES, what_is_shared_for_reading, EACCES),
    DIES(SHARES, run_what_is_shared, "execveat"),
    FAILS(SHARES, make_a_device, EPERM),
    DIES(ANY, the_network, "socket"),
    DIES(ANY, the_daemon, "socket"),
    DIES(ANY, netlink, "socket"),
    DIES(ANY, an_abstract_name, "connect"),
    DIES(ANY, connect_by_sending, "sendto"),
    DIES(ANY, fork_itself, "clone"),
    DIES(ANY, fork_into_namespaces, "clone"),
    FAILS(ANY, copy_itself, SUCCESS),
    DIES(ANY, a_thread_elsewhere, "clone"),
    FAILS(ANY, try_clone3, ENOSYS),
    SANDBOX_CALLS(ROW)
    FAILS(ANY, try_tgkill, EPERM),
    DIES(TRANSLATES | INTERPRETS, try_unlinkat, "unlinkat"),
    DIES(TRANSLATES | INTERPRETS, try_mkdirat, "mkdirat"),
    DIES(TRANSLATES | INTERPRETS, try_renameat, "renameat"),
    DIES(ANY, more_of_a_limit, "prlimit64"),
    DIES(ANY, another_handler, "rt_sigaction"),
    DIES(ANY, type_at_the_terminal, "ioctl"),
    DIES(ANY, signals_from_a_file, "fcntl"),
    FAILS(ANY, other_questions, EINVAL),
    FAILS(ANY, a_name_for_a_message, EISCONN),
    FAILS(SHARES, reopen_to_write, EACCES),
#if defined(__x86_64__)
    DIES(ANY, calls_of_x32, NULL),
    DIES(ANY, calls_of_i386, NULL),
#endif
    DIES(ANY, writable_code, "mmap"),
    DIES(ANY, code_of_a_file, "mmap"),
    DIES(ANY, data_becomes_code, "mprotect"),
    FAILS(TRANSLATES, the_translators_way, SUCCESS),
    DIES(INTERPRETS, the_translators_way, "mmap"),
    DIES(ANY, ring_registers_memory, "io_uring_register"),
    DIES(ANY, ring_takes_on_a_personality, "io_uring_register"),
    FAILS(ANY, ring_does_nothing_else, EACCES),
    FAILS(ANY, ring_opens, EACCES),
    FAILS(ANY, ring_makes_a_socket, EACCES),
    FAILS(ANY, ring_connects, EACCES),
    FAILS(ANY, ring_reads_what_is_not_registered, EACCES),
    FAILS(ANY, ring_reads, SUCCESS),
#ifndef SANITIZED
    CALL_DIES(socketpair), /* AddressSanitizer's attempts only fail */
#endif
};

/* In the worker. */
static int attack(int argc, char **argv)
{
    const struct worker *worker = worker_begin(argc, argv);
    if (worker == NULL)
        _exit(BEGIN_FAILED);
    const struct knowledge knowledge = {.files = worker_files(worker),
                                        .folder = getenv("SANDBOX_FOLDER"),
                                        .victim = atoi(getenv("SANDBOX_VICTIM")),
                                        .port = atoi(getenv("SANDBOX_PORT"))};
    _exit(attempts[atoi(getenv("SANDBOX_ATTEMPT"))].run(&knowledge));
}

/* ---- outside ---- */

struct fixture {
    char folder[64];
    pid_t victim;
    int listening;             /* TCP */
    bool namespaces, landlock; /* what this host has */
};

static void set_number(const char *name, long number)
{
    char text[24];
    snprintf(text, sizeof(text), "%ld", number);
    setenv(name, text, 1);
}

static void put(const struct fixture *f, const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", f->folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0777);
    assert_int_equal(write(fd, "0123456789abcdef", 16), 16);
    assert_int_equal(ftruncate(fd, 65536), 0);
    close(fd);
}

/* A host without namespaces for the likes of us. */
static void refuse_namespaces(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                 SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWNS, CLONE_NEWNS));
    if (error != 0 || seccomp_load(filter) != 0)
        _exit(1);
    seccomp_release(filter);
}

static char *in_folder(const struct fixture *f, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", f->folder, name) > 0 ? path : NULL;
}

static void describe(const struct fixture *f, enum kind kind, struct machine_config *config)
{
    machine_config_init(config);
    free(config->engine);
    config->engine = strdup(kind == INTERPRETS ? "interp" : "auto");
    config->firmware = in_folder(f, "firmware");
    machine_disk_init(&config->disks[0]);
    config->disks[0].path = in_folder(f, "own.img");
    config->disks[0].format = strdup("raw");
    config->disk_count = 1;
    if (kind != SHARES)
        return;
    for (size_t i = 0; i < 2; i++)
        config->shares[i] = (struct machine_share){.path = in_folder(f, "shared"),
                                                   .tag = strdup(i == 0 ? "rw" : "ro"),
                                                   .writable = i == 0};
    config->share_count = 2;
}

/* The worker's exit status, as of waitpid(), and what it said; in a process of its own. */
static int start_and_wait(const struct fixture *f, enum kind kind, bool alone, int log)
{
    struct machine_config config;
    struct client_network network = {0};
    struct client_disks disks;
    const struct client_vsock vsock = {.listen = -1, .connector = -1};
    int pair[2], status = -1;
    describe(f, kind, &config);
    if (dup2(log, STDERR_FILENO) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 ||
        !client_disks_open(&config, &disks, NULL))
        return -1;
    if (alone)
        refuse_namespaces();
    /* A worker's first descriptor is one of its sockets. */
    int control = fcntl(pair[0], F_DUPFD_CLOEXEC, 3);
    const struct client_spawn spawn = {.console = open("/dev/null", O_RDWR | O_CLOEXEC),
                                       .console_kind = "none",
                                       .control = control,
                                       .listen = -1,
                                       .gdb = -1,
                                       .report = -1,
                                       .transcript = -1,
                                       .hold = -1,
                                       .log_level = 1,
                                       .sandbox = SANDBOX_AUTO,
                                       .network = &network,
                                       .disks = &disks,
                                       .vsock = &vsock};
    pid_t pid = client_spawn(&config, &spawn, NULL);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return status;
}

/* SUCCESS, an errno value or KILLED; `said`: on standard error. */
static int outcome(const struct fixture *f, size_t number, enum kind kind, bool alone, char *said,
                   size_t room)
{
    int log = memfd_create("log", 0), answer[2], status = -1;
    assert_true(log >= 0);
    assert_int_equal(pipe(answer), 0);
    set_number("SANDBOX_ATTEMPT", (long)number);
    pid_t pid = fork();
    if (pid == 0) {
        status = start_and_wait(f, kind, alone, log);
        ssize_t written = write(answer[1], &status, sizeof(status));
        _exit(written == sizeof(status) ? 0 : 1);
    }
    close(answer[1]);
    assert_int_equal(read(answer[0], &status, sizeof(status)), sizeof(status));
    close(answer[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    ssize_t size = pread(log, said, room - 1, 0);
    said[size > 0 ? size : 0] = '\0';
    close(log);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return KILLED;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV && attempts[number].call == NULL)
        return KILLED; /* a kernel without that way in */
    if (!WIFEXITED(status))
        fail_msg("%s ended by signal %d: %s", attempts[number].name, WTERMSIG(status), said);
    return WEXITSTATUS(status);
}

static void try_all(const struct fixture *f, enum kind kind, bool alone)
{
    char said[4096], call[64];
    for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
        const struct attempt *a = &attempts[i];
        if ((a->kinds & kind) == 0)
            continue;
        int got = outcome(f, i, kind, alone, said, sizeof(said));
        int expected = alone ? a->alone : a->expected;
        if (got != expected)
            fail_msg("%s: %d instead of %d: %s", a->name, got, expected, said);
        if (expected != KILLED || a->call == NULL)
            continue;
        snprintf(call, sizeof(call), "system call %s (", a->call);
        if (strstr(said, call) == NULL)
            fail_msg("%s: '%s' is not in: %s", a->name, call, said);
    }
}

static void walls_hold(const struct fixture *f, enum kind kind)
{
    if (f->namespaces)
        try_all(f, kind, false);
    else
        print_message("# this host refuses namespaces\n");
    if (f->landlock || kind != SHARES)
        try_all(f, kind, true);
    else
        print_message("# this host has no Landlock\n");
}

static void a_worker_that_translates(void **state)
{
    walls_hold(*state, TRANSLATES);
}

static void a_worker_that_interprets(void **state)
{
    walls_hold(*state, INTERPRETS);
}

static void a_worker_with_shared_folders(void **state)
{
    walls_hold(*state, SHARES);
}

/* Outside all of it works: what fails inside does not fail for other reasons. */
static void outside_it_would_work(void **state)
{
    const struct fixture *f = *state;
    const struct knowledge k = {.folder = f->folder, .victim = f->victim};
    assert_int_equal(another_disk(&k), SUCCESS);
    assert_int_equal(the_catalogue(&k), SUCCESS);
    assert_int_equal(others_processes(&k), SUCCESS);
    assert_int_equal(the_network(&k), SUCCESS);
    assert_int_equal(the_daemon(&k), SUCCESS);
    assert_int_equal(try_kill(&k), SUCCESS);
    assert_int_equal(writable_code(&k), SUCCESS);
}

static int setup(void **state)
{
    static const char *const names[] = {"other.img", "own.img", "catalogue.db", "firmware",
                                        "shared/inside"};
    struct fixture *f = calloc(1, sizeof(*f));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    char path[128];
    strcpy(f->folder, "/tmp/trapeze-sandbox-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(path, sizeof(path), "%s/shared", f->folder);
    assert_int_equal(mkdir(path, 0755), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        put(f, names[i]);
    f->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listening, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(f->listening, 4), 0);
    assert_int_equal(getsockname(f->listening, (struct sockaddr *)&address, &size), 0);
    f->victim = fork();
    if (f->victim == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    int refused;
    pid_t probe = sandbox_fork(SANDBOX_ALONE, &refused);
    if (probe == 0)
        _exit(0);
    waitpid(probe, NULL, 0);
    f->namespaces = refused == 0;
    f->landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 2;
    setenv("SANDBOX_FOLDER", f->folder, 1);
    set_number("SANDBOX_VICTIM", f->victim);
    set_number("SANDBOX_PORT", ntohs(address.sin_port));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    kill(f->victim, SIGKILL);
    waitpid(f->victim, NULL, 0);
    close(f->listening);
    snprintf(command, sizeof(command), "rm -rf %s", f->folder);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outside_it_would_work),
        cmocka_unit_test(a_worker_that_translates),
        cmocka_unit_test(a_worker_that_interprets),
        cmocka_unit_test(a_worker_with_shared_folders),
    };
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return attack(argc - 1, argv + 1);
    return cmocka_run_group_tests(tests, setup, teardown);
}
