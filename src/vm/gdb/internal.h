/* SPDX-License-Identifier: MIT
 *
 * The inside of the GDB server: what its files know of each other. Everything belongs to the
 * loop's thread, except for `posted`.
 *
 *   packet.c   bytes ↔ packets, and reading and writing what is in them
 *   command.c  what each packet does
 *   describe.c long answers: target description, list of threads
 *   run.c      stopping and letting go
 *   gdb.c      sockets, life
 */
#ifndef TRAPEZE_VM_GDB_INTERNAL_H
#define TRAPEZE_VM_GDB_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>

#include "vm/gdb/gdb.h"
#include "vm/machine.h"

#define GDB_PACKET_MAX 16384 /* bytes of a packet's contents, either way */

enum gdb_parse { GDB_IDLE, GDB_CONTENTS, GDB_ESCAPED, GDB_SUM_HIGH, GDB_SUM_LOW };

struct gdb {
    struct vm *vm;
    int listen_fd, fd; /* fd -1: no client */
    struct loop_watch *listen_watch, *watch;

    /* packet.c: in */
    enum gdb_parse parse;
    uint8_t sum, sum_got;
    char packet[GDB_PACKET_MAX + 1]; /* contents, unescaped, and a NUL */
    size_t packet_size;
    bool no_ack; /* no_ack_next: from the packet after this one on */
    bool no_ack_next;
    bool broken; /* the client does not keep to the protocol: it loses its connection */
    /* packet.c: out */
    char reply[GDB_PACKET_MAX]; /* contents of the last packet that was sent, or is being made */
    size_t reply_size;
    bool replying; /* reply[] is complete, to be sent when the command returns */
    uint8_t *out;  /* what the socket has not taken yet */
    size_t out_size, out_capacity;

    /* command.c */
    unsigned g_cpu;   /* whose registers and address space */
    int c_cpu;        /* whom the old 'c' and 's' are about; -1: all */
    bool physical;    /* addresses of m, M, X are guest-physical */
    bool names_kinds; /* the client understands "swbreak" and "hwbreak" */
    char *description;
    size_t description_size;

    /* run.c */
    bool stopped; /* we hold the machine */
    struct vcpu_points points;
    struct vcpu_debug *debug[MACHINE_MAX_CPUS];
    char stop_reply[96];
    _Atomic bool posted; /* on_stop() is on its way; the vCPU's hold is on the machine */
};

/* ---- packet.c ---- */

/* Bytes from the client; packets in them are acted upon. */
void gdb_receive(struct gdb *gdb, const uint8_t *data, size_t size);
/* Back to how a connection begins. */
void gdb_packet_reset(struct gdb *gdb);

/* Contents of the reply under way. What does not fit is a bug: callers bound their answers. */
void gdb_put(struct gdb *gdb, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gdb_put_hex(struct gdb *gdb, const void *bytes, size_t size);
void gdb_put_escaped(struct gdb *gdb, const void *bytes, size_t size);
/* The reply as a whole, replacing what was put. */
void gdb_reply(struct gdb *gdb, const char *text);
/* Sends reply[] as a packet now: stop replies. */
void gdb_send(struct gdb *gdb);

/* What is left of a packet's contents. Every scan_ function passes over what it read, or
 * returns false and leaves `at` anywhere. */
struct scan {
    const char *at, *end;
};
bool scan_char(struct scan *scan, char wanted);
bool scan_text(struct scan *scan, const char *wanted);
bool scan_hex(struct scan *scan, uint64_t *value); /* 1 to 16 digits */
bool scan_bytes(struct scan *scan, uint8_t *bytes, size_t size);
/* A thread: *cpu is its index, -1 for all, `any` for "any". False: there is none such. */
bool scan_thread(struct scan *scan, const struct gdb *gdb, int any, int *cpu);

/* ---- command.c ---- */

void gdb_command(struct gdb *gdb); /* gdb->packet; replies, or leaves replying false */

/* ---- describe.c ---- */

char *gdb_describe_target(const struct isa_debug *isa, size_t *size); /* malloc()ed */
char *gdb_describe_threads(const struct gdb *gdb, size_t *size);
void gdb_describe_thread(const struct gdb *gdb, unsigned cpu, char *text, size_t size);

/* ---- run.c ---- */

enum gdb_action { GDB_STAY, GDB_CONTINUE, GDB_STEP };
struct gdb_plan {
    enum gdb_action action;
    uint64_t first, last; /* GDB_STEP: until pc leaves [first, last); empty: one instruction */
};

void gdb_attach(struct gdb *gdb);    /* a client came: the machine stops */
void gdb_detach(struct gdb *gdb);    /* it went: no points, the machine runs */
void gdb_interrupt(struct gdb *gdb); /* Ctrl-C */
/* plans[vm->cpu_count]. The stop reply comes by itself, perhaps at once. */
void gdb_resume(struct gdb *gdb, const struct gdb_plan *plans);
bool gdb_point_add(struct gdb *gdb, const struct vcpu_point *point); /* false: too many */
void gdb_point_remove(struct gdb *gdb, const struct vcpu_point *point);
void gdb_forget_posts(struct gdb *gdb);

/* ---- gdb.c ---- */

void gdb_flush(struct gdb *gdb); /* hands the socket what it takes of out[] */

#endif
