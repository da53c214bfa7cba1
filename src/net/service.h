/* SPDX-License-Identifier: MIT
 *
 * A TCP service at an IPv4 address that is on a guest's link alone: answers ARP for the address,
 * and what a peer sends to its port goes to a function that makes answers of it. It is for short
 * requests over a link that seldom loses anything: what comes out of order is sent again by its
 * sender, an answer is sent again from where it was acknowledged, and there is no other congestion
 * control than the peer's window. libslirp has no such thing: its guest forwards do not tell
 * connections apart.
 *
 * Frames come from a guest, which is hostile: they are checked, and what it can make us keep is
 * SERVICE_PEERS connections of SERVICE_REQUEST_MAX bytes and an answer each; who comes when all are
 * in use takes the place of the one that has been quiet longest.
 *
 * Threads: one.
 */
#ifndef TRAPEZE_NET_SERVICE_H
#define TRAPEZE_NET_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/frame.h"

#define SERVICE_PEERS       16
#define SERVICE_REQUEST_MAX 4096u /* bytes */

struct service;

struct service_answer {
    uint8_t *data; /* malloc()ed; the service frees it */
    size_t size;
    bool last; /* the connection is closed behind it */
};

/* Looks at what a peer has sent so far: how many bytes of it a whole request has, of which it makes
 * an answer; 0: more has to come; -1: this will never be a request. */
typedef int service_request_fn(void *opaque, const uint8_t *data, size_t size,
                               struct service_answer *answer);

struct service_config {
    uint8_t address[4], mac[NET_MAC_BYTES];
    uint16_t port;
    service_request_fn *request;
    void *requests;    /* its opaque */
    net_emit_fn *emit; /* frames to the guest, finished */
    void *opaque;
};

struct service *service_new(const struct service_config *config);
void service_free(struct service *service); /* NULL is fine */

/* A frame of the guest's, checked (net_frame_check()); true: it was for the service. */
bool service_take(struct service *service, const struct net_frame *frame, int64_t now_ms);
/* Does what is due; ms until something is again, -1: never. */
int service_tick(struct service *service, int64_t now_ms);
/* For tests. */
size_t service_connections(const struct service *service);

#endif
