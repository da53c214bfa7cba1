/* SPDX-License-Identifier: MIT
 *
 * See worker.h. worker_begin() and worker_main() read like the start order: descriptors,
 * configuration, loop, control, names, sandbox; console, machine; then the loop runs until the
 * machine ends.
 */
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/chain.h"
#include "block/nbd_library.h"
#include "block/rings.h"
#include "config/vmx.h"
#include "migrate/save.h"
#include "sandbox/sandbox.h"
#include "vm/files.h"
#include "vm/fork.h"
#include "vm/vm.h"
#include "worker/confine.h"
#include "worker/console.h"
#include "worker/control.h"
#include "worker/hatch.h"
#include "worker/nvram.h"
#include "worker/verbs.h"

/* A panicking kernel prints some lines more; one with panic=N may reboot by itself. */
enum { PANIC_GRACE_S = 2 };

struct worker {
    struct loop *loop;
    struct log log;
    struct console *console;
    struct control *control;
    struct control_target target;
    struct machine_config config;
    struct resume *resume; /* NULL: it began at its beginning */
    char *folder;          /* in which we were started */
    int nics[MACHINE_MAX_NICS];
    int vsock_listen, vsock_connector;
    struct block_chain disks[MACHINE_MAX_DISKS];
    struct vm_files files;
    int console_fd, transcript_fd, gdb_fd, share_fd, resume_fd, memory_fd;
    enum console_kind console_kind;
    bool gdb_wait, paused;
    char sandbox[128];
    int panic_timer, signals;
    int pagemap; /* until the machine takes it; 0: none */
    struct loop_watch *panic_watch, *signal_watch;
    char panic_line[200];
    bool ended;
    int report; /* a file that learns how the machine ended, or -1 */
    int nvram;  /* a file that keeps what the hardware remembers, or -1 */
};

static void report(struct worker *worker, const char *end, uint32_t code, const char *message,
                   bool usage)
{
    if (worker->ended)
        return;
    worker->ended = true;
    json_t *event =
        json_pack("{s:s, s:s, s:I, s:o, s:b}", "event", "end", "end", end, "code",
                  (json_int_t)code, "message", control_text(message), "usage", (int)usage);
    if (worker->report >= 0) {
        json_dumpfd(event, worker->report, JSON_COMPACT);
        fdatasync(worker->report);
    }
    if (worker->control != NULL)
        control_event(worker->control, event);
    else
        json_decref(event);
}

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    struct worker *worker = opaque;
    char message[256] = "";
    const char *name = "quit";
    switch (end) {
    case VM_END_POWEROFF:
        name = "poweroff";
        break;
    case VM_END_RESET:
        name = "reset";
        break;
    case VM_END_QUIT:
        break;
    case VM_END_SUSPENDED:
        name = "suspended";
        break;
    case VM_END_MIGRATED:
        name = "migrated";
        break;
    case VM_END_EXIT_CODE:
        name = "exit-code";
        break;
    case VM_END_GUEST_CRASH:
        name = "crash";
        snprintf(message, sizeof(message), "the guest crashed: it %s",
                 code == 0 ? "traps without end at its own trap vector"
                           : "reported a failure when it switched itself off");
        break;
    }
    if (worker->panic_line[0] != '\0' && end != VM_END_QUIT && end != VM_END_POWEROFF &&
        end != VM_END_SUSPENDED && end != VM_END_MIGRATED) {
        name = "crash";
        snprintf(message, sizeof(message), "the guest crashed: %s", worker->panic_line);
    }
    report(worker, name, code, message, false);
    loop_quit(worker->loop, 0);
}

static void on_state(void *opaque, enum vm_state state)
{
    struct worker *worker = opaque;
    if (worker->control != NULL)
        control_event(worker->control, json_pack("{s:s, s:s}", "event", "state", "state",
                                                 vm_state_name(state)));
}

static void on_clock(void *opaque, int64_t offset)
{
    struct worker *worker = opaque;
    const struct nvram nvram = {.rtc_offset = offset};
    nvram_write_file(worker->nvram, &nvram, &worker->log);
}

static void on_booted(void *opaque, int64_t at_ns, int64_t cpu_ns)
{
    struct worker *worker = opaque;
    if (worker->control != NULL)
        control_event(worker->control,
                      json_pack("{s:s, s:I, s:I}", "event", "booted", "at-ns", (json_int_t)at_ns,
                                "cpu-ns", (json_int_t)cpu_ns));
}

static bool load_variables(void *opaque, uint8_t *to, uint64_t size)
{
    struct worker *worker = opaque;
    return nvram_load_flash(worker->nvram, to, size, &worker->log);
}

static void save_variables(void *opaque, uint64_t offset, const uint8_t *from, uint64_t length)
{
    struct worker *worker = opaque;
    nvram_save_flash(worker->nvram, offset, from, length, &worker->log);
}

static void wait_after_panic(struct worker *worker)
{
    struct itimerspec grace = {.it_value = {.tv_sec = PANIC_GRACE_S}};
    timerfd_settime(worker->panic_timer, 0, &grace, NULL);
}

static void on_panic_timer(void *opaque, int fd, unsigned events)
{
    struct worker *worker = opaque;
    char message[256];
    (void)fd, (void)events;
    if (migration_is_away(worker->target.migration)) { /* ... and may not come back */
        wait_after_panic(worker);
        return;
    }
    snprintf(message, sizeof(message), "the guest crashed: %s", worker->panic_line);
    report(worker, "crash", 0, message, false);
    loop_quit(worker->loop, 0);
}

static void on_panic(void *opaque, const char *line)
{
    struct worker *worker = opaque;
    snprintf(worker->panic_line, sizeof(worker->panic_line), "%s", line);
    /* The user asked the kernel to reboot after a panic: then that is what happens. */
    const char *append = worker->config.append;
    bool reboots = append != NULL && (strncmp(append, "panic=", 6) == 0 ||
                                      strstr(append, " panic=") != NULL);
    if (reboots && !worker->config.no_reboot) {
        worker->panic_line[0] = '\0';
        return;
    }
    wait_after_panic(worker);
}

static void on_link_lost(void *opaque)
{
    struct worker *worker = opaque;
    if (worker->target.vm != NULL)
        vm_quit(worker->target.vm);
    loop_quit(worker->loop, 0);
}

static bool read_config(struct worker *worker, int fd, struct error **err)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size <= 0 || (size_t)status.st_size > TEXT_MAX_SIZE)
        return error_set(err, ERROR_INTERNAL, "the worker was started without a configuration");
    size_t size = (size_t)status.st_size;
    void *text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED)
        return error_set_errno(err, errno, "cannot read the configuration");
    bool good = vmx_parse(text, size, "configuration", &worker->config, err);
    munmap(text, size);
    close(fd);
    return good;
}

static bool console_kind_from(const char *word, enum console_kind *kind)
{
    static const char *const words[] = {"stream", "file", "listen", "none"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(words[i], word) == 0) {
            *kind = (enum console_kind)i;
            return true;
        }
    return false;
}

static void take_nics(struct worker *worker, const char *list)
{
    char *end;
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++, list = *end == ',' ? end + 1 : end) {
        long fd = strtol(list, &end, 10);
        worker->nics[i] = end != list ? (int)fd : -1;
        if (worker->nics[i] >= 0)
            fcntl(worker->nics[i], F_SETFD, FD_CLOEXEC);
    }
}

/* "3:4,5": disks apart by commas, the files of each by colons. */
static void take_disks(struct worker *worker, const char *list)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS && *list != '\0';) {
        char *end;
        int fd = (int)strtol(list, &end, 10);
        struct block_chain *chain = &worker->disks[i];
        if (end > list && chain->count < BLOCK_DEPTH_MAX) {
            fcntl(fd, F_SETFD, FD_CLOEXEC);
            chain->fds[chain->count++] = fd;
        }
        i += *end == ',';
        list = *end != '\0' ? end + 1 : end;
    }
}

/* Its memory is gone for good. */
static void on_lost(void *opaque, const struct error *error)
{
    struct worker *worker = opaque;
    report(worker, "lost", 0, error_message(error), false);
    vm_quit(worker->target.vm);
}

static void on_incoming_failed(struct control_target *target, const struct error *error)
{
    struct worker *worker = CONTAINER_OF(target, struct worker, target);
    report(worker, "refused", 0, error_message(error), false);
    loop_quit(worker->loop, 0);
}

/* A machine that was suspended goes on where it was. A file of memory alone is for several of them, and
 * there to stay. */
static bool resume(struct worker *worker, int fd, struct error **err)
{
    const struct resume_options options = {
        .map = worker->memory_fd >= 0, .lost = on_lost, .opaque = worker};
    struct saved_image image;
    bool good = saved_open(&image, fd, SAVED_ALL, err) &&
                (!image.apart || worker->memory_fd < 0 ||
                 saved_set_memory(&image, worker->memory_fd, err));
    if (good)
        worker->resume = resume_begin(worker->target.vm, &image, &options, err);
    good = good && worker->resume != NULL;
    if (good && !worker->config.deterministic) /* the file may be gone on from more than once */
        vm_renew_generation(worker->target.vm);
    saved_clear(&image);
    if (!good)
        close(fd);
    if (!good && worker->memory_fd >= 0)
        close(worker->memory_fd);
    return good;
}

/* The machine that the original was a moment ago, with our configuration. */
static bool take_up(struct worker *worker, const struct worker_origin *origin, struct error **err)
{
    bool good = vm_arrange(worker->target.vm, origin->layout, true, err);
    if (!good)
        error_prefix(err, "the clone would not be like the original");
    if (!good || !vm_restore_state(worker->target.vm, origin->state, origin->state_size, err))
        return false;
    vm_renew_generation(worker->target.vm);
    return true;
}

/* `origin`: NULL, or whose copy we are. */
static bool build(struct worker *worker, const struct worker_origin *origin, struct error **err)
{
    struct nvram nvram;
    if (!nvram_read_file(worker->nvram, &nvram, err))
        return false;
    struct vm_env env = {
        .loop = worker->loop,
        .log = &worker->log,
        .console = worker->config.virtio_console ? NULL : console_backend(worker->console),
        .virtio_console = worker->config.virtio_console ? console_backend(worker->console) : NULL,
        .files = &worker->files,
        .nics = worker->nics,
        .disks = worker->disks,
        .vsock_listen = worker->vsock_listen,
        .vsock_connector = worker->vsock_connector,
        .on_end = on_end,
        .on_state = on_state,
        .on_clock = worker->nvram >= 0 ? on_clock : NULL,
        .on_booted = on_booted,
        .load_variables = worker->nvram >= 0 ? load_variables : NULL,
        .save_variables = worker->nvram >= 0 ? save_variables : NULL,
        .clock_offset = nvram.rtc_offset,
        .memory = origin != NULL ? vm_memory(origin->vm) : NULL,
        .pagemap = worker->pagemap,
        .restored = worker->resume_fd >= 0,
        .opaque = worker,
    };
    worker->target.vm = vm_new(&worker->config, &env, err);
    return worker->target.vm != NULL &&
           (origin == NULL || take_up(worker, origin, err)) &&
           (worker->resume_fd < 0 || resume(worker, worker->resume_fd, err)) &&
           (worker->share_fd < 0 || vm_share_cpus(worker->target.vm, worker->share_fd, err)) &&
           (worker->gdb_fd < 0 ||
            vm_debug(worker->target.vm, worker->gdb_fd, worker->gdb_wait, err));
}

/* The guest says no more: hands out what it said last. */
static void finish_console(struct worker *worker)
{
    if (worker->console == NULL)
        return;
    console_flush(worker->console);
    uint64_t lost = console_lost(worker->console);
    if (lost > 0)
        log_warning(&worker->log,
                    "%llu bytes of the guest's console output were dropped: whoever was to take "
                    "them was too slow, had no room or had left",
                    (unsigned long long)lost);
    console_free(worker->console);
}

static void finish(struct worker *worker)
{
    suspension_free(worker->target.suspension);
    migration_free(worker->target.migration);
    resume_stop(worker->resume);
    vm_free(worker->target.vm);
    resume_free(worker->resume);
    finish_console(worker);
    control_free(worker->control);
    loop_watch_remove(worker->panic_watch);
    loop_watch_remove(worker->signal_watch);
    if (worker->panic_timer >= 0)
        close(worker->panic_timer);
    if (worker->signals >= 0)
        close(worker->signals);
    loop_free(worker->loop);
    vm_files_close(&worker->files);
    machine_config_clear(&worker->config);
    free(worker->folder);
    free(worker);
}

/* What happened, to whoever can hear it; the process's exit status. */
static int refuse(struct worker *worker, struct error *error)
{
    int status = worker->control != NULL ? 0 : 1;
    report(worker, "refused", 0, error_message(error), error_kind(error) == ERROR_USAGE);
    if (status != 0) {
        char when[LOG_TIME_BYTES];
        fprintf(stderr, "%strapeze: %s\n", log_time(STDERR_FILENO, when), error_message(error));
    }
    error_free(error);
    finish(worker);
    return status;
}

/* The first process of a PID namespace ignores what it does not handle; and who ends a machine by
 * a signal wants it ended well. */
static void on_signal(void *opaque, int fd, unsigned events)
{
    struct worker *worker = opaque;
    struct signalfd_siginfo info;
    (void)events;
    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (worker->target.vm != NULL)
        vm_quit(worker->target.vm);
    else
        loop_quit(worker->loop, 0);
}

static bool heed_signals(struct worker *worker, struct error **err)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* copies of us (vm/fork.h) leave nothing behind */
    /* Our process group is not the terminal's foreground one: with `stty tostop` the first
     * line of the log would stop the machine. */
    signal(SIGTTOU, SIG_IGN);
    worker->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (worker->signals >= 0)
        worker->signal_watch =
            loop_watch_add(worker->loop, worker->signals, LOOP_READABLE, on_signal, worker, err);
    return worker->signal_watch != NULL;
}

enum argument {
    CONFIG = 1,
    CONSOLE,
    LINK,
    LISTEN,
    GDB,
    REPORT,
    TRANSCRIPT,
    VSOCK_LISTEN,
    VSOCK_CONNECTOR,
    HOLD, /* nothing but open, for as long as we live */
    SHARE,
    NVRAM,
    RESUME, /* the file of a machine that was suspended, and ":" that of its memory */
    KIND,
    LEVEL,
    SANDBOX,
    WAIT,
    NICS,
    DISKS,
    FILES, /* of a clone, which opens nothing by name: kernel, initrd, firmware; otherwise "" */
    ARGUMENTS
};
_Static_assert((int)ARGUMENTS <= (int)HATCH_ARGUMENTS, "a clone takes as many");

/* What the host tells a process while it still may ask. */
static void look_around(struct worker *worker)
{
    worker->folder = get_current_dir_name();
    worker->target.folder = worker->folder != NULL ? worker->folder : "/";
    worker->target.pid = sandbox_outer_pid();
    worker->target.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    worker->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); /* a clone has none */
}

/* "7:8" */
static int second_fd(const char *list)
{
    const char *colon = strchr(list, ':');
    int fd = colon != NULL ? atoi(colon + 1) : -1;
    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static struct worker *take_arguments(int argc, char **argv, int fds[KIND])
{
    enum console_kind kind;
    if (argc != ARGUMENTS || !console_kind_from(argv[KIND], &kind)) {
        fputs("trapeze: 'worker' is started by 'trapeze run', not by hand\n", stderr);
        return NULL;
    }
    for (int i = CONFIG; i < KIND; i++) {
        fds[i] = atoi(argv[i]);
        if (fds[i] >= 0)
            fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    struct worker *worker = alloc_zeroed(1, sizeof(*worker));
    worker->console_kind = kind;
    worker->console_fd = fds[CONSOLE];
    worker->gdb_fd = fds[GDB];
    worker->share_fd = fds[SHARE];
    worker->gdb_wait = strcmp(argv[WAIT], "wait") == 0;
    worker->paused = strcmp(argv[WAIT], "paused") == 0;
    worker->target.incoming = strcmp(argv[WAIT], "incoming") == 0;
    worker->target.failed = on_incoming_failed;
    worker->report = fds[REPORT];
    worker->nvram = fds[NVRAM];
    worker->transcript_fd = fds[TRANSCRIPT];
    worker->vsock_listen = fds[VSOCK_LISTEN];
    worker->vsock_connector = fds[VSOCK_CONNECTOR];
    worker->resume_fd = fds[RESUME];
    worker->memory_fd = second_fd(argv[RESUME]);
    worker->panic_timer = worker->signals = -1;
    worker->target.sandbox = worker->sandbox;
    take_nics(worker, argv[NICS]);
    take_disks(worker, argv[DISKS]);
    log_init(&worker->log, (enum log_level)atoi(argv[LEVEL]), STDERR_FILENO, "trapeze");
    machine_config_init(&worker->config);
    vm_files_init(&worker->files);
    return worker;
}

static bool begin_talking(struct worker *worker, const int fds[KIND], struct error **err)
{
    worker->loop = loop_new(err);
    if (worker->loop == NULL || !heed_signals(worker, err))
        return false;
    worker->control = control_new(worker->loop, fds[LINK], fds[LISTEN], &worker->target,
                                  on_link_lost, worker, err);
    return worker->control != NULL;
}

/* While files can be opened: for disks on NBD servers, those that are there and those that may come
 * (block/nbd_library.h). Who goes on from a file does not wait for what it does not need. */
static void load_libraries(const struct worker *worker)
{
    struct nbd_library library;
    bool wanted = worker->resume_fd < 0;
    for (size_t i = 0; i < worker->config.disk_count && !wanted; i++)
        wanted = block_chain_needs_nbd(&worker->disks[i]);
    if (wanted)
        (void)nbd_library_load(&library, NULL);
}

struct worker *worker_begin(int argc, char **argv)
{
    struct error *error = NULL;
    int fds[KIND];
    struct worker *worker = take_arguments(argc, argv, fds);
    if (worker == NULL)
        return NULL;
    look_around(worker);
    json_object_seed(0); /* from a file */
    bool good = begin_talking(worker, fds, &error) && read_config(worker, fds[CONFIG], &error) &&
                vm_files_open(&worker->files, &worker->config, worker->target.pid, &error);
    if (good)
        load_libraries(worker);
    if (good)
        worker->files.rings = block_rings_new(vm_files_rings(&worker->config));
    if (good && worker_confine(argv[SANDBOX], &worker->config, &worker->files, &worker->log,
                               worker->sandbox, sizeof(worker->sandbox), &error))
        return worker;
    refuse(worker, error);
    return NULL;
}

const struct vm_files *worker_files(const struct worker *worker)
{
    return &worker->files;
}

static bool begin_console(struct worker *worker, struct error **err)
{
    worker->console = console_new(worker->loop, worker->console_kind, worker->console_fd, on_panic,
                                  worker, err);
    worker->target.console = worker->console;
    if (worker->console == NULL)
        return false;
    if (worker->transcript_fd >= 0)
        console_transcribe(worker->console, worker->transcript_fd);
    worker->panic_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    worker->panic_watch = loop_watch_add(worker->loop, worker->panic_timer, LOOP_READABLE,
                                         on_panic_timer, worker, err);
    return worker->panic_watch != NULL;
}

static bool begin(struct worker *worker, struct error **err)
{
    struct vm *vm = worker->target.vm;
    return worker->target.incoming ||
           (worker->paused ? vm_start_paused(vm, err) : vm_start(vm, err));
}

int worker_main(int argc, char **argv)
{
    struct error *error = NULL;
    struct worker *worker = worker_begin(argc, argv);
    if (worker == NULL)
        return 1;
    if (!begin_console(worker, &error) || !build(worker, NULL, &error) || !begin(worker, &error))
        return refuse(worker, error);
    loop_run(worker->loop);
    finish(worker);
    return 0;
}

/* ---- clones ---- */

static bool begin_clone(struct worker *worker, const struct worker_origin *origin, const int fds[KIND],
                        const char *files, struct error **err)
{
    struct machine_config *config = &worker->config;
    if (!begin_talking(worker, fds, err) || !read_config(worker, fds[CONFIG], err))
        return false;
    free(config->interrupts);
    config->interrupts = alloc_string(vm_interrupts(origin->vm));
    worker->files.rings = block_rings_new(0); /* we may not make any: disks use threads */
    worker->files.kvm = vm_kvm_device(origin->vm); /* for a machine of our own there */
    return vm_files_take(&worker->files, config, files, err) && begin_console(worker, err) &&
           build(worker, origin, err);
}

void worker_hatch(const struct worker_origin *origin, int talk)
{
    struct error *error = NULL;
    struct hatch hatch;
    int fds[KIND];
    if (!hatch_receive(&hatch, talk))
        return;
    struct worker *worker = take_arguments(hatch.argc, hatch.argv, fds);
    if (worker == NULL)
        return;
    worker->target.pid = hatch.pid;
    worker->target.statm = hatch.statm;
    worker->target.folder = "/";
    snprintf(worker->sandbox, sizeof(worker->sandbox), "%s", origin->sandbox);
    bool good = begin_clone(worker, origin, fds, hatch.argv[FILES], &error);
    if (hatch_answer(talk, good ? NULL : error_message(error))) {
        if (vm_start(worker->target.vm, &error))
            loop_run(worker->loop);
        else
            report(worker, "refused", 0, error_message(error), false);
    }
    error_free(error);
    finish(worker);
}
