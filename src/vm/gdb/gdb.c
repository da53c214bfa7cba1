/* SPDX-License-Identifier: MIT
 *
 * See gdb.h: the listening socket, one client, the life of the server.
 *
 * Replies are queued in out[]. While any of it waits for the socket, nothing more is read: what
 * can pile up is the answers to one READ_SIZE of packets.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "vm/gdb/internal.h"

enum { READ_SIZE = 1024 };

static void disconnect(struct gdb *gdb)
{
    loop_watch_remove(gdb->watch);
    gdb->watch = NULL;
    close(gdb->fd);
    gdb->fd = -1;
    gdb_detach(gdb);
    loop_watch_set(gdb->listen_watch, LOOP_READABLE);
    log_info(gdb->vm->log, "the debugger has gone");
}

void gdb_flush(struct gdb *gdb)
{
    while (gdb->fd >= 0 && gdb->out_size > 0) {
        ssize_t count = send(gdb->fd, gdb->out, gdb->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0) {
            gdb->broken = gdb->broken || errno != EAGAIN;
            break;
        }
        gdb->out_size -= (size_t)count;
        memmove(gdb->out, gdb->out + count, gdb->out_size);
    }
    if (gdb->watch != NULL)
        loop_watch_set(gdb->watch, gdb->out_size > 0 ? LOOP_WRITABLE : LOOP_READABLE);
}

static void on_ready(void *opaque, int fd, unsigned events)
{
    struct gdb *gdb = opaque;
    uint8_t data[READ_SIZE];
    bool gone = false;
    if ((events & (LOOP_READABLE | LOOP_HANGUP)) != 0 && gdb->out_size == 0) {
        ssize_t count = recv(fd, data, sizeof(data), MSG_DONTWAIT);
        if (count > 0)
            gdb_receive(gdb, data, (size_t)count);
        else
            gone = count == 0 || (errno != EAGAIN && errno != EINTR);
    } else if ((events & LOOP_HANGUP) != 0) {
        gone = true;
    }
    gdb_flush(gdb);
    if (gone || gdb->broken)
        disconnect(gdb);
}

static void on_connection(void *opaque, int listen_fd, unsigned events)
{
    struct gdb *gdb = opaque;
    (void)events;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), one = 1;
    if (fd < 0)
        return;
    /* Packets are small and each waits for its answer. Fails on unix sockets: no harm. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    gdb->watch = loop_watch_add(gdb->vm->env.loop, fd, LOOP_READABLE, on_ready, gdb, NULL);
    if (gdb->watch == NULL) {
        close(fd);
        return;
    }
    gdb->fd = fd;
    loop_watch_set(gdb->listen_watch, 0); /* the next one waits its turn */
    gdb_packet_reset(gdb);
    gdb_attach(gdb);
    log_info(gdb->vm->log, "a debugger is here; the machine stands still");
}

void gdb_machine_ended(struct gdb *gdb, enum vm_end how, uint32_t code)
{
    char text[8];
    /* Only a client that waits for a stop reply may be sent one. */
    if (gdb == NULL || gdb->fd < 0 || gdb->stopped)
        return;
    snprintf(text, sizeof(text), "%c%02x", how == VM_END_GUEST_CRASH ? 'X' : 'W',
             how == VM_END_GUEST_CRASH ? 6 /* SIGABRT */ : code & 0xff);
    gdb_reply(gdb, text);
    gdb_send(gdb);
    gdb_flush(gdb);
}

struct gdb *gdb_new(struct vm *vm, int listen_fd, bool wait, struct error **err)
{
    struct gdb *gdb = alloc_zeroed(1, sizeof(*gdb));
    gdb->vm = vm;
    gdb->listen_fd = listen_fd;
    gdb->fd = -1;
    gdb->c_cpu = -1;
    gdb->listen_watch =
        loop_watch_add(vm->env.loop, listen_fd, LOOP_READABLE, on_connection, gdb, err);
    if (gdb->listen_watch == NULL) {
        gdb_free(gdb);
        return NULL;
    }
    if (wait) {
        vm_freeze(vm);
        gdb->stopped = true;
    }
    return gdb;
}

void gdb_free(struct gdb *gdb)
{
    if (gdb == NULL)
        return;
    gdb_forget_posts(gdb);
    loop_watch_remove(gdb->watch);
    loop_watch_remove(gdb->listen_watch);
    if (gdb->fd >= 0)
        close(gdb->fd);
    close(gdb->listen_fd);
    for (unsigned i = 0; i < gdb->vm->cpu_count; i++) {
        if (gdb->vm->vcpus[i] != NULL)
            gdb->vm->vcpus[i]->debug = NULL;
        gdb->vm->isa->debug->detach(gdb->debug[i]);
    }
    free(gdb->description);
    free(gdb->out);
    free(gdb);
}

bool vm_debug(struct vm *vm, int listen_fd, bool wait, struct error **err)
{
    if (vm->isa->debug == NULL) {
        close(listen_fd);
        return error_set(err, ERROR_USAGE, "there is no debugger for %s guests", vm->isa->name);
    }
    vm->gdb = gdb_new(vm, listen_fd, wait, err);
    return vm->gdb != NULL;
}
