/* SPDX-License-Identifier: MIT
 *
 * The guest's console: a char_backend whose output goes to a descriptor, to a 256 KiB ring
 * that the control socket shows, and past a watcher for kernel panics; input comes from the
 * descriptor.
 *
 * Output never blocks the guest: what the descriptor does not take waits in a 1 MiB queue;
 * beyond that the oldest is dropped and counted (the ring still shows it). Nothing is dropped
 * because nobody is there: what a socket's next client gets begins with its connection.
 *
 * A client that hangs up makes room for the next at once. Of what it sent, up to 4 KiB that the
 * guest has not read yet stay, in front of what the next one sends.
 *
 * Beside the one who has it, some may watch: they get the output from their coming on, out of the ring;
 * who does not keep up with it misses what is overwritten there, and is told how much that was.
 *
 * Threads: char_backend.write and resume_input from any thread; everything else on the
 * loop's. Lock: the console's own mutex, a leaf.
 */
#ifndef TRAPEZE_WORKER_CONSOLE_H
#define TRAPEZE_WORKER_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "bus/backend.h"

#define CONSOLE_RING_SIZE (256 * 1024)

struct console;
struct error;
struct loop;

enum console_kind {
    CONSOLE_STREAM, /* a connected stream, both ways */
    CONSOLE_FILE,   /* output only; a FIFO or terminal does not block (O_NONBLOCK) */
    CONSOLE_LISTEN, /* a listening unix socket; one client at a time, others wait for their turn */
    CONSOLE_NONE    /* the ring only */
};

/* Takes the descriptor over. on_panic(opaque, line) is called on the loop's thread. */
struct console *console_new(struct loop *loop, enum console_kind kind, int fd,
                            void (*on_panic)(void *opaque, const char *line), void *opaque,
                            struct error **err);
/* Also writes the output to a file, taken over: up to two rings of it, then the file begins anew
 * with the last ring's. What the host has no room for is left out. */
void console_transcribe(struct console *console, int fd);
/* Tries for up to a second to hand out what is still queued; what is left then is lost. */
void console_flush(struct console *console);
void console_free(struct console *console);

struct char_backend *console_backend(struct console *console);

/* Copies the ring's contents, oldest first, into out[CONSOLE_RING_SIZE]; returns the size. */
size_t console_ring(struct console *console, uint8_t *out);

/* Bytes of output that were dropped. */
uint64_t console_lost(struct console *console);

enum console_role {
    CONSOLE_OWNS,    /* if nobody has it */
    CONSOLE_STEALS,  /* who has it is told, and let go */
    CONSOLE_WATCHES, /* output only */
    CONSOLE_ROLES
};
#define CONSOLE_WHO 64 /* bytes */
/* One more on the console, at the other end of a stream socket, which is taken over whatever comes of
 * it. `who` is what others are told of him. False: err, for people. */
bool console_attach(struct console *console, int fd, enum console_role role, const char *who,
                    struct error **err);

/* Who has it (until the loop's next turn), and since when; NULL: nobody. */
const char *console_owner(const struct console *console, time_t *since);

void console_resize(struct console *console, uint16_t columns, uint16_t rows);

#endif
