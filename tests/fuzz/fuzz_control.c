/* SPDX-License-Identifier: MIT
 *
 * A worker's control socket against clients that send anything, on a running machine.
 *
 * Input: records, each a byte that says what a client does (enum record), a byte that says which
 * client, and for SEND and SEND_FDS a byte of length and that many bytes, which go out as they are. The checks
 * are those of asserts and sanitizers, and: another client, which behaves, still gets its answer.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/frame.h"
#include "base/log.h"
#include "base/loop.h"
#include "boot_files.h"
#include "config/machine.h"
#include "vm/vm.h"
#include "worker/console.h"
#include "worker/control.h"

#define CLIENTS 4u

enum record {
    SEND,
    RUN,   /* the worker has a turn */
    READ,  /* the client reads what has come */
    LEAVE, /* and another one takes its place */
    SHUT,  /* half of the connection */
    SEND_FDS, /* as SEND, with as many descriptors as it has bytes */
    RECORD_COUNT
};

struct target {
    struct loop *loop;
    struct log log;
    struct machine_config config;
    char path[32];
    int program;
    struct control_target acts_on;
    struct control *control;
    struct sockaddr_un address;
    int link; /* of the client that behaves */
    int frames[2]; /* a frame socket */
    int clients[CLIENTS];
    bool link_lost;
};

static void on_end(void *opaque, enum vm_end end, uint32_t code)
{
    (void)opaque, (void)end, (void)code;
}

static void on_panic(void *opaque, const char *line)
{
    (void)opaque, (void)line;
}

static void on_link_lost(void *opaque)
{
    ((struct target *)opaque)->link_lost = true;
}

static int new_client(struct target *t)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    fuzz_check(connect(fd, (struct sockaddr *)&t->address, sizeof(t->address)) == 0);
    return fd;
}

static void target_make(struct target *t)
{
    /* lui t0,0x10000; sb t0,0(t0); 1: wfi; j 1b: says something, then leaves the host's CPU alone
     */
    static const uint32_t program[] = {0x100002b7, 0x00528023, 0x10500073, 0xffdff06f};
    int pair[2], listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *t = (struct target){.address = {.sun_family = AF_UNIX}};
    log_init(&t->log, LOG_LEVEL_ERROR, -1, "");
    t->loop = loop_new(NULL);
    t->program = put_file(program, sizeof(program), t->path);
    machine_config_init(&t->config);
    free(t->config.engine);
    t->config.engine = strdup("interp");
    t->config.memory = 32 * MIB;
    t->config.firmware = strdup(t->path);
    t->acts_on.console = console_new(t->loop, CONSOLE_NONE, dup(t->program), on_panic, t, NULL);
    const struct vm_env env = {.loop = t->loop,
                               .log = &t->log,
                               .console = console_backend(t->acts_on.console),
                               .on_end = on_end,
                               .opaque = t};
    t->acts_on.vm = vm_new(&t->config, &env, NULL);
    fuzz_check(t->acts_on.vm != NULL && vm_start(t->acts_on.vm, NULL));

    snprintf(t->address.sun_path + 1, sizeof(t->address.sun_path) - 1, "tz-fuzz-%d", getpid());
    fuzz_check(bind(listen_fd, (struct sockaddr *)&t->address, sizeof(t->address)) == 0 &&
               listen(listen_fd, 64) == 0 &&
               socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0 &&
               socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, t->frames) == 0);
    t->link = pair[0];
    t->control = control_new(t->loop, pair[1], listen_fd, &t->acts_on, on_link_lost, t, NULL);
    fuzz_check(t->control != NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        t->clients[i] = new_client(t);
}

static void quit(void *opaque)
{
    loop_quit(opaque, 0);
}

static void run(struct target *t)
{
    loop_post(t->loop, quit, t->loop);
    loop_run(t->loop);
}

/* Reads until the connection has nothing more; returns whether `text` was in it. */
static bool read_all(int fd, const char *text)
{
    static char bytes[65536];
    ssize_t count;
    bool found = false;
    while ((count = recv(fd, bytes, sizeof(bytes), 0)) > 0)
        found = found || (text != NULL && memmem(bytes, (size_t)count, text, strlen(text)) != NULL);
    return found;
}

static void link_is_answered(struct target *t)
{
    static const char request[] = "{\"id\":\"me\",\"verb\":\"window-size\"}";
    uint8_t prefix[4];
    store_le32(prefix, sizeof(request) - 1);
    fuzz_check(send(t->link, prefix, 4, MSG_NOSIGNAL) == 4 &&
               send(t->link, request, sizeof(request) - 1, MSG_NOSIGNAL) ==
                   (ssize_t)sizeof(request) - 1);
    bool answered = false;
    for (unsigned turns = 0; !answered; turns++) {
        fuzz_check(turns < 1000);
        run(t);
        answered = read_all(t->link, "{\"id\":\"me\",\"error\":\"columns");
    }
    fuzz_check(!t->link_lost);
}

static void target_free(struct target *t)
{
    vm_free(t->acts_on.vm);
    console_free(t->acts_on.console);
    control_free(t->control);
    loop_free(t->loop);
    machine_config_clear(&t->config);
    close(t->program);
    close(t->link);
    close(t->frames[0]);
    close(t->frames[1]);
    for (unsigned i = 0; i < CLIENTS; i++)
        close(t->clients[i]);
}

static void send_fds(struct target *t, int client, const uint8_t *bytes, size_t size)
{
    int fds[FRAME_FD_MAX];
    struct frame_writer writer = {.data = malloc(size + 1), .size = size};
    memcpy(writer.data, bytes, size);
    for (size_t i = 0; i < FRAME_FD_MAX; i++)
        fds[i] = (size + i) % 3 == 0 ? t->program : t->frames[0];
    (void)frame_writer_flush_fds(&writer, client, fds, size < FRAME_FD_MAX ? size : FRAME_FD_MAX);
    frame_writer_clear(&writer);
}

static void step(struct target *t, struct fuzz_input *in)
{
    uint8_t kind = (uint8_t)fuzz_take(in, 1);
    int *client = &t->clients[fuzz_take(in, 1) % CLIENTS];
    size_t size;
    switch (kind % RECORD_COUNT) {
    case SEND:
    case SEND_FDS:
        size = (size_t)fuzz_take(in, 1);
        size = size < in->left ? size : in->left;
        if (kind % RECORD_COUNT == SEND_FDS)
            send_fds(t, *client, in->data, size);
        else
            (void)send(*client, in->data, size, MSG_NOSIGNAL);
        in->data += size;
        in->left -= size;
        break;
    case RUN:
        run(t);
        (void)read_all(t->link, NULL); /* it behaves: it reads its events */
        break;
    case READ:
        (void)read_all(*client, NULL);
        break;
    case LEAVE:
        close(*client);
        run(t); /* so that there is room in the queue of those that wait */
        *client = new_client(t);
        break;
    case SHUT:
        shutdown(*client, SHUT_WR);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct target *t = malloc(sizeof(*t));
    target_make(t);
    while (in.left > 0)
        step(t, &in);
    link_is_answered(t);
    target_free(t);
    free(t);
    return 0;
}

/* One request, whole and well-formed or nearly so; returns its size. */
static size_t make_request(uint64_t *seed, uint8_t *out)
{
    static const char *const values[] = {"status", "pause",   "resume",      "reset",   "powerdown",
                                         "quit",   "console", "window-size", "\\u0000", "st\xff",
                                         "nic-attach", "nic-detach"};
    static const char *const shapes[] = {
        "{\"id\":%u,\"verb\":\"%s\"}",
        "{\"id\":%u,\"verb\":\"%s\",\"arguments\":{\"columns\":80,\"rows\":-1}}",
        "{\"id\":[[%u]],\"verb\":\"%s\",\"arguments\":[1]}",
        "{\"verb\":{\"a\":%u},\"id\":\"%s\"}",
        "[%u,\"%s\"]",
        "{\"id\":%u,\"id\":1,\"verb\":\"%s\"}",
        "{\"id\":%u,\"verb\":\"%s\",\"arguments\":{\"mac\":\"02:00:00:00:00:01\",\"nic\":0}}",
    };
    uint64_t r = fuzz_random(seed);
    int length =
        snprintf((char *)out + 4, 120, shapes[(r & 7) < 3 ? (r >> 3) % ARRAY_SIZE(shapes) : 0],
                 (unsigned)(r >> 40), values[(r >> 8) % ARRAY_SIZE(values)]);
    size_t size = (size_t)length;
    store_le32(out, (uint32_t)size);
    if ((r >> 16 & 15) == 0)
        out[(r >> 20) % (size + 4)] ^= (uint8_t)(r >> 32);
    return size + 4;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    uint8_t *at = data;
    for (unsigned i = 1 + (unsigned)(fuzz_random(seed) % 25); i > 0; i--) {
        uint64_t r = fuzz_random(seed);
        unsigned sends = (r >> 48 & 3) == 0 ? SEND_FDS : SEND;
        *at++ = (uint8_t)((r & 15) < 10 ? sends : (r >> 4) % RECORD_COUNT);
        *at++ = (uint8_t)(r >> 8);
        if (at[-2] != SEND && at[-2] != SEND_FDS)
            continue;
        uint8_t *length = at++;
        size_t size = make_request(seed, at);
        if ((r >> 16 & 7) == 0) /* in two halves, or for ever without the second */
            size /= 2;
        *length = (uint8_t)size;
        at += size;
        *at++ = RUN;
        *at++ = 0;
    }
    return (size_t)(at - data);
}
