/* SPDX-License-Identifier: MIT
 *
 * Requests to the daemon whose body or answer is not JSON but bytes, of any length.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_API_STREAM_H
#define TRAPEZE_CLIENT_API_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

struct api_taker {
    /* The header Trapeze-About, before anything else. */
    bool (*about)(void *opaque, const char *text, struct error **err);
    bool (*take)(void *opaque, const void *bytes, size_t size, struct error **err);
    void *opaque;
};

/* GET: true if the answer came to its end and was taken. *status other than 2xx: *refusal is the
 * answer, JSON (caller frees), and nothing was taken. */
bool api_download(const char *path, const struct api_taker *taker, int *status, char **refusal,
                  struct error **err);

/* POST: the body is what can be read from `fd` until its end; `sent` (may be NULL) is told how much
 * that was. As api_call() otherwise. */
char *api_upload(const char *path, int fd, void (*sent)(void *opaque, uint64_t bytes), void *opaque,
                 int *status, struct error **err);
/* The same to a daemon that the settings do not name: as api_call_at(). */
struct client_remote;
char *api_upload_at(const struct client_remote *at, const char *path, int fd,
                    void (*sent)(void *opaque, uint64_t bytes), void *opaque, int *status,
                    struct error **err);

#endif
