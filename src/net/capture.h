/* SPDX-License-Identifier: MIT
 *
 * Writes the frames that pass a NIC to a pcapng file (draft-ietf-opsawg-pcapng), as Wireshark and
 * tcpdump read it. Frames are those the guest sees: with offloads they may be larger than the
 * MTU and their checksum not yet there.
 *
 * A capture ends, with one word in the log, when the file has reached its bound or cannot be
 * written: a network must not fill a disk, and a full disk must not stop a network.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_CAPTURE_H
#define TRAPEZE_NET_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct log;
struct net_capture;

#define NET_CAPTURE_LIMIT (UINT64_C(1) << 30) /* bytes of a file */

/* Takes the descriptor over, and is the only one to write to it. `name`: of the interface. */
struct net_capture *net_capture_new(int fd, const char *name, uint64_t limit, struct log *log,
                                    struct error **err);
void net_capture_free(struct net_capture *capture); /* writes what is buffered; NULL is fine */
/* `time_ns`: since 1970; `out`: the guest sent it. */
void net_capture_frame(struct net_capture *capture, int64_t time_ns, bool out,
                       const struct iovec *iov, unsigned count);
/* What is buffered goes to the file: when nothing has come for a while. */
void net_capture_flush(struct net_capture *capture);

#endif
