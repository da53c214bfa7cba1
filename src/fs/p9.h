/* SPDX-License-Identifier: MIT
 *
 * A shared folder's server: 9P2000.L (Linux, Documentation/filesystems/9p.rst and
 * include/net/9p/9p.h; the protocol's text is that of diod), one message at a time.
 *
 *     struct p9 *server = p9_new(folder_fd, own_fds, read_only);
 *     size = p9_handle(server, request, request_size, reply, reply_room);
 *
 * Whoever sends the messages is hostile. It reaches what is below the folder and nothing else:
 * names are single components, opened one by one with O_NOFOLLOW, so that neither ".." nor a
 * symbolic link leads out; only regular files and folders are ever opened for reading and
 * writing; no set-user-ID bits and no device nodes are made. Beyond that it may do what the
 * process may: files belong to the user who runs it.
 *
 * Threads: one at a time per server. Calls block as the file system does.
 */
#ifndef TRAPEZE_FS_P9_H
#define TRAPEZE_FS_P9_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct p9;
struct state_buffer;

#define P9_MESSAGE_MAX (512 * 1024) /* bytes; a client may ask for less */
#define P9_MESSAGE_MIN 4096
#define P9_FIDS_MAX    16384 /* files a client may know at a time */

/* Takes the folder's descriptor (O_PATH will do) over. `own_fds`: one of /proc/self/fd, borrowed.
 * The process may want to raise its limit of descriptors: one or two for each file that the client
 * holds. */
struct p9 *p9_new(int folder, int own_fds, bool read_only);
void p9_free(struct p9 *p9);

/* Forgets all files: the client starts anew. */
void p9_reset(struct p9 *p9);

/* What the client holds: appends it, and brings it back, of which *lost files are not there any
 * more (their fids are answered with ESTALE). On failure nothing is known of any. */
void p9_save(struct p9 *p9, struct state_buffer *out);
bool p9_restore(struct p9 *p9, const uint8_t *data, size_t size, unsigned *lost,
                struct error **err);

/* Answers a request of `size` bytes in `reply`, of which there are `room`; returns the answer's
 * size, 0 if it does not fit or the request is no message. */
size_t p9_handle(struct p9 *p9, const uint8_t *request, size_t size, uint8_t *reply, size_t room);

#endif
