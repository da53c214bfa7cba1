/* SPDX-License-Identifier: MIT
 *
 * What a guest asks its metadata service (Firecracker's MMDS, versions 1 and 2): requests of HTTP
 * about a JSON document, and session tokens.
 *
 *     GET /latest/meta-data            an object's names, one to a line, or a string; with
 *                                      "Accept: application/json" the value as JSON
 *     PUT /latest/api/token            with X-metadata-token-ttl-seconds: a token for
 * X-metadata-token
 *
 * What there is to answer is told by messages (metadata_tell()):
 *
 *     {"id": the machine's, "key": 64 hexadecimal digits, "version": 1 or 2, "plain": true,
 * "store": any}
 *
 * Requests come from a guest, which is hostile; messages do not. Tokens are good at every such
 * service with the same id and key, and none is kept here.
 *
 * Threads: one.
 */
#ifndef TRAPEZE_NET_METADATA_H
#define TRAPEZE_NET_METADATA_H

#include "net/service.h"

struct error;
struct metadata;

/* Before the process is confined: it loads a library. NULL: err. */
struct metadata *metadata_new(struct error **err);
void metadata_free(struct metadata *metadata); /* NULL is fine */
/* False: it is no such message, and nothing has changed. */
bool metadata_tell(struct metadata *metadata, const void *text, size_t size);

/* For a service; opaque: the metadata. */
service_request_fn metadata_request;
/* The same at a given time, for tests. */
int metadata_request_at(struct metadata *metadata, const uint8_t *data, size_t size, int64_t now_ms,
                        struct service_answer *answer);

#endif
