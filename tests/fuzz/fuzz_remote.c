/* SPDX-License-Identifier: MIT
 *
 * What strangers say to the daemon over TCP, before it knows them: the HTTP server as it is there,
 * on a store with one token, against clients that send anything.
 *
 * Input: records, each a byte that says what happens (enum record), a byte that says to which
 * client, and for SEND a byte of length and that many bytes. The checks are those of asserts and
 * sanitizers, and: nobody who has not sent the token gets a good answer, and the owner's socket
 * still answers. Also: the parts of the command line that parse what a server or a user says.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <netinet/in.h>
#include <fcntl.h>

#include "base/error.h"
#include "base/loop.h"
#include "client/remote.h"
#include "daemon/catalogue.h"
#include "daemon/daemon.h"
#include "daemon/http.h"
#include "daemon/tokens.h"

#define CLIENTS 4u

enum record { SEND, RUN, LEAVE, SHUT, TICK, RECORD_COUNT };

struct target {
    struct daemon *daemon;
    uint16_t port;
    int clients[CLIENTS];
    bool good[CLIENTS]; /* it has got "HTTP/1.1 2" */
};

static void stop(void *opaque)
{
    loop_quit(opaque, 0);
}

static void run(struct target *target)
{
    for (int i = 0; i < 3; i++) { /* what is posted meanwhile comes behind */
        loop_post(target->daemon->loop, stop, target->daemon->loop);
        loop_run(target->daemon->loop);
    }
}

static int join(struct target *target)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(target->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fuzz_check(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static void look(struct target *target, unsigned number)
{
    char answer[4096];
    ssize_t size = recv(target->clients[number], answer, sizeof(answer) - 1, MSG_DONTWAIT);
    for (ssize_t i = 0; i + 10 <= size; i++)
        if (memcmp(answer + i, "HTTP/1.1 2", 10) == 0)
            target->good[number] = true;
}

static void remove_store(void)
{
    char command[100];
    snprintf(command, sizeof(command), "rm -rf /tmp/trapeze-fuzz-remote-%d", (int)getpid());
    fuzz_check(system(command) == 0);
}

/* What all inputs share: disks are slow. */
static struct daemon *make_daemon(void)
{
    static struct daemon daemon;
    char folder[64];
    struct error *error = NULL;
    if (daemon.loop != NULL)
        return &daemon;
    snprintf(folder, sizeof(folder), "/tmp/trapeze-fuzz-remote-%d", (int)getpid());
    log_init(&daemon.log, LOG_LEVEL_WARNING, open("/dev/null", O_WRONLY | O_CLOEXEC), "fuzz");
    fuzz_check(store_open(&daemon.store, folder, &error));
    daemon.catalogue = catalogue_open(&daemon.store, &daemon.log, &error);
    free(tokens_create(&daemon.store, "token", &error));
    daemon.loop = loop_new(&error);
    fuzz_check(daemon.loop != NULL && error == NULL);
    atexit(remove_store);
    return &daemon;
}

static void set_up(struct target *target)
{
    struct error *error = NULL;
    struct daemon *daemon = target->daemon = make_daemon();
    const struct remote_options options = {.listen = "tcp:127.0.0.1:0", .insecure = true};
    struct sockaddr_in where;
    socklen_t size = sizeof(where);
    daemon->remote = remote_new(&options, -1, &daemon->store, &daemon->log, &error);
    fuzz_check(daemon->remote != NULL);
    int fd = remote_take_socket(daemon->remote);
    fuzz_check(getsockname(fd, (struct sockaddr *)&where, &size) == 0);
    target->port = ntohs(where.sin_port);
    daemon->remote_http = http_new(daemon, fd, daemon->remote, &error);
    fuzz_check(daemon->remote_http != NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        target->clients[i] = join(target);
}

static void tear_down(struct target *target)
{
    struct daemon *daemon = target->daemon;
    for (unsigned i = 0; i < CLIENTS; i++)
        close(target->clients[i]);
    http_free(daemon->remote_http);
    remote_free(daemon->remote);
    http_forget_counts(daemon);
}

static void check_parsers(const uint8_t *data, size_t size)
{
    char *text = strndup((const char *)data, size), *address = NULL, *port = NULL;
    struct client_remote remote = {.is_remote = false};
    const char *digits = tokens_digits(text);
    fuzz_check(digits == NULL || strlen(digits) == TOKEN_DIGITS);
    if (remote_parse(text, &address, &port, NULL))
        fuzz_check(strlen(address) > 0 && strlen(port) > 0);
    free(address);
    free(port);
    if (client_remote_parse(text, &remote, NULL)) {
        if (remote.path != NULL) /* a socket's, which has no host */
            fuzz_check(strcmp(remote.path, text) == 0 && text[0] == '/' && remote.host == NULL);
        else
            fuzz_check(strpbrk(remote.host, " \r\n/@") == NULL && strlen(remote.port) > 0);
    }
    client_remote_clear(&remote);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target target = {.port = 0};
    struct fuzz_input input = {data, size};
    check_parsers(data, size);
    set_up(&target);
    while (input.left > 0) {
        unsigned kind = (unsigned)(fuzz_take(&input, 1) % RECORD_COUNT);
        unsigned number = (unsigned)(fuzz_take(&input, 1) % CLIENTS);
        size_t length = kind == SEND ? (size_t)fuzz_take(&input, 1) : 0;
        if (length > input.left)
            length = input.left;
        if (kind == SEND) {
            (void)send(target.clients[number], input.data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
            input.data += length;
            input.left -= length;
        } else if (kind == LEAVE) {
            close(target.clients[number]);
            target.clients[number] = join(&target);
        } else if (kind == SHUT) {
            shutdown(target.clients[number], SHUT_WR);
        } else if (kind == TICK) {
            http_tick(target.daemon->remote_http);
        }
        run(&target);
        look(&target, number);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        look(&target, i);
        fuzz_check(!target.good[i]);
    }
    tear_down(&target);
    return 0;
}

/* Requests that mean something, mostly, in pieces. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const lines[] = {
        "GET /v1/instances HTTP/1.1\r\n",
        "GET /v1/openapi.json HTTP/1.0\r\n",
        "POST /v1/instances HTTP/1.1\r\n",
        "DELETE /v1/tokens/token HTTP/1.1\r\n",
        "GET /v1/instances/a/console HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
        "GET http://x/v1/version?%00=%zz HTTP/1.1\r\n",
        "Host: x\r\n",
        "Connection: Upgrade, close\r\n",
        "Upgrade: trapeze-console\r\n",
        "Expect: 100-continue\r\n",
        "Content-Length: 10\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Authorization: Bearer "
        "trapeze-0000000000000000000000000000000000000000000000000000000000000000\r\n",
        "authorization: bearer   trapeze-00\r\n",
        "Authorization: Basic eDp5\r\n",
        "Cookie: a=b; c\r\n",
        " folded\r\n",
        "\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "{\"name\": \"x\"}",
    };
    size_t size = 0;
    for (unsigned i = 2 + (unsigned)(fuzz_random(seed) % 30); i > 0; i--) {
        uint64_t r = fuzz_random(seed);
        data[size++] = (uint8_t)((r & 7) < 6 ? SEND : (r >> 3) % RECORD_COUNT);
        data[size++] = (uint8_t)(r >> 8 & 1);
        if (data[size - 2] != SEND)
            continue;
        const char *line = lines[(r >> 16) % (sizeof(lines) / sizeof(lines[0]))];
        size_t length = strlen(line);
        if ((r >> 32 & 15) == 0)
            length = (size_t)(r >> 40) % (length + 1);
        data[size++] = (uint8_t)length;
        memcpy(data + size, line, length);
        if (length > 0 && (r >> 36 & 15) == 0)
            data[size + (size_t)(r >> 50) % length] ^= (uint8_t)(r >> 56);
        size += length;
    }
    return size;
}
