/* SPDX-License-Identifier: MIT
 *
 * An internal network: a learning switch in a process of its own, shared by the machines of one
 * user, each of which has a connection. It is started by the first machine that names the
 * network and ends when the last one leaves.
 *
 * Nobody may connect between our last look and our end: whoever connects, or starts a switch,
 * holds the lock file PATH.lock meanwhile, and so do we while we look a last time and remove the
 * socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "net/backends.h"
#include "net/link.h"
#include "net/switch_table.h"

#define PORT_MAX    64
#define QUEUE_LIMIT (2u << 20) /* bytes for a machine that does not keep up */
#define TURN_FRAMES 32

enum { STATUS_FD = 1, LISTEN_FD, PATH, ARGUMENT_COUNT };
enum { FIRST_COMES_MS = 10000, LOCK_RETRY_MS = 20 };

struct network {
    struct net_link ports[PORT_MAX]; /* fd -1: free */
    unsigned port_count;
    int listen_fd, lock_fd;
    const char *path;
    struct net_table table;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* --- the table --- */

static unsigned slot_of(const uint8_t *mac, uint16_t vlan)
{
    uint64_t key = (uint64_t)vlan << 48;
    for (unsigned i = 0; i < NET_MAC_BYTES; i++)
        key |= (uint64_t)mac[i] << (8 * i);
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(key >> 32) % NET_TABLE_SLOTS;
}

void net_table_init(struct net_table *table)
{
    for (unsigned i = 0; i < NET_TABLE_SLOTS; i++)
        table->slots[i] = (struct net_table_entry){.port = -1};
}

void net_table_learn(struct net_table *table, const uint8_t *mac, uint16_t vlan, int port,
                     int64_t now)
{
    if ((mac[0] & 1) != 0)
        return;
    struct net_table_entry *entry = &table->slots[slot_of(mac, vlan)];
    *entry = (struct net_table_entry){.vlan = vlan, .port = port, .seen_ns = now};
    memcpy(entry->mac, mac, NET_MAC_BYTES);
}

int net_table_find(const struct net_table *table, const uint8_t *mac, uint16_t vlan, int64_t now)
{
    const struct net_table_entry *entry = &table->slots[slot_of(mac, vlan)];
    if ((mac[0] & 1) != 0 || entry->port < 0 || entry->vlan != vlan ||
        now - entry->seen_ns > NET_TABLE_AGE_NS || memcmp(entry->mac, mac, NET_MAC_BYTES) != 0)
        return -1;
    return entry->port;
}

void net_table_forget(struct net_table *table, int port)
{
    for (unsigned i = 0; i < NET_TABLE_SLOTS; i++)
        if (table->slots[i].port == port)
            table->slots[i].port = -1;
}

/* --- ports --- */

static void leave(struct network *network, int port)
{
    struct net_link *link = &network->ports[port];
    net_table_forget(&network->table, port);
    close(link->fd);
    net_link_clear(link);
    network->port_count--;
}

static void welcome(struct network *network)
{
    int fd = accept4(network->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    for (int i = 0; i < PORT_MAX; i++)
        if (network->ports[i].fd < 0) {
            net_link_init(&network->ports[i], fd, QUEUE_LIMIT);
            net_link_announce(&network->ports[i],
                              NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4 | NET_ACCEPT_TCP6);
            network->port_count++;
            return;
        }
    close(fd); /* full: the machine's link is down */
}

static void forward(struct network *network, int from, struct net_frame *frame)
{
    int64_t now = now_ns();
    uint16_t vlan = network->ports[from].vlan;
    net_table_learn(&network->table, frame->data + NET_MAC_BYTES, vlan, from, now);
    int to = net_table_find(&network->table, frame->data, vlan, now);
    for (int i = 0; i < PORT_MAX; i++)
        if ((to < 0 || to == i) && i != from && network->ports[i].fd >= 0 &&
            network->ports[i].vlan == vlan)
            net_link_put(&network->ports[i], frame);
}

static void serve_port(struct network *network, int port)
{
    struct net_link *link = &network->ports[port];
    enum net_status status = net_link_flush(link);
    for (unsigned turn = 0; turn < TURN_FRAMES && status != NET_GONE; turn++) {
        struct net_frame frame;
        status = net_link_receive(link, &frame);
        if (status == NET_AGAIN)
            return;
        if (status == NET_DONE)
            forward(network, port, &frame);
    }
    if (status == NET_GONE)
        leave(network, port);
}

/* --- life --- */

/* True: nobody is left, and nobody will come. */
static bool may_end(struct network *network)
{
    if (network->port_count > 0 || flock(network->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return false;
    welcome(network);
    if (network->port_count == 0) {
        unlink(network->path);
        return true;
    }
    flock(network->lock_fd, LOCK_UN);
    return false;
}

static void serve(struct network *network)
{
    struct pollfd polls[PORT_MAX + 1];
    bool had_some = false;
    for (;;) {
        for (int i = 0; i < PORT_MAX; i++) {
            const struct net_link *link = &network->ports[i];
            polls[i] = (struct pollfd){
                .fd = link->fd, .events = (short)(POLLIN | (link->first != NULL ? POLLOUT : 0))};
        }
        polls[PORT_MAX] = (struct pollfd){.fd = network->listen_fd, .events = POLLIN};
        int limit = network->port_count > 0 ? -1 : had_some ? LOCK_RETRY_MS : FIRST_COMES_MS;
        int ready = poll(polls, ARRAY_SIZE(polls), limit);
        if (ready < 0 && errno != EINTR)
            return;
        for (int i = 0; ready > 0 && i < PORT_MAX; i++)
            if (polls[i].fd >= 0 && polls[i].revents != 0)
                serve_port(network, i);
        if (ready > 0 && polls[PORT_MAX].revents != 0)
            welcome(network);
        had_some |= network->port_count > 0;
        if ((had_some || ready == 0) && may_end(network))
            return;
    }
}

int net_switch_main(int argc, char **argv)
{
    char lock[4096];
    if (argc != ARGUMENT_COUNT) {
        fputs("trapeze: 'net-switch' is started by 'trapeze run', not by hand\n", stderr);
        return 1;
    }
    struct network *network = alloc_zeroed(1, sizeof(*network));
    for (int i = 0; i < PORT_MAX; i++)
        network->ports[i].fd = -1;
    net_table_init(&network->table);
    network->listen_fd = atoi(argv[LISTEN_FD]);
    fcntl(network->listen_fd, F_SETFL, fcntl(network->listen_fd, F_GETFL) | O_NONBLOCK);
    network->path = argv[PATH];
    snprintf(lock, sizeof(lock), "%s.lock", network->path);
    network->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int status = net_backend_ready(atoi(argv[STATUS_FD]), NULL);
    serve(network);
    for (int i = 0; i < PORT_MAX; i++)
        if (network->ports[i].fd >= 0)
            leave(network, i);
    free(network);
    return status;
}
