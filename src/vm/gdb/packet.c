/* SPDX-License-Identifier: MIT
 *
 * Packets of GDB's remote protocol (E.1): $contents#sum, where sum is the contents' bytes added
 * up modulo 256 in two hexadecimal digits. '}' stands before a byte that could be mistaken for
 * something else, and that is then xored with 0x20. Until QStartNoAckMode each packet is
 * answered by '+', or '-' if its sum is wrong. A byte 3 between packets is Ctrl-C.
 *
 * The client is a stranger: a packet longer than announced ends the connection.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "vm/gdb/internal.h"

enum { RESEND_LIMIT = 64 * 1024 }; /* as long as no more than this waits to be sent */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* ---- out ---- */

static void out_add(struct gdb *gdb, const void *data, size_t size)
{
    if (gdb->out_capacity - gdb->out_size < size) {
        gdb->out_capacity = 2 * (gdb->out_size + size);
        gdb->out = alloc_resize(gdb->out, gdb->out_capacity, 1);
    }
    memcpy(gdb->out + gdb->out_size, data, size);
    gdb->out_size += size;
}

static void put_bytes(struct gdb *gdb, const void *bytes, size_t size)
{
    assert(size <= sizeof(gdb->reply) - gdb->reply_size);
    memcpy(gdb->reply + gdb->reply_size, bytes, size);
    gdb->reply_size += size;
    gdb->replying = true;
}

void gdb_put(struct gdb *gdb, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    assert(length >= 0 && (size_t)length < sizeof(text));
    put_bytes(gdb, text, (size_t)length);
}

void gdb_put_hex(struct gdb *gdb, const void *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = bytes;
    for (size_t i = 0; i < size; i++)
        put_bytes(gdb, (const char[]){digits[at[i] >> 4], digits[at[i] & 15]}, 2);
}

void gdb_put_escaped(struct gdb *gdb, const void *bytes, size_t size)
{
    const char *at = bytes;
    for (size_t i = 0; i < size; i++) {
        if (at[i] != '\0' && strchr("#$}*", at[i]) != NULL)
            put_bytes(gdb, (const char[]){'}', (char)(at[i] ^ 0x20)}, 2);
        else
            put_bytes(gdb, &at[i], 1);
    }
}

void gdb_reply(struct gdb *gdb, const char *text)
{
    gdb->reply_size = 0;
    put_bytes(gdb, text, strlen(text));
}

void gdb_send(struct gdb *gdb)
{
    uint8_t sum = 0;
    char tail[4];
    for (size_t i = 0; i < gdb->reply_size; i++)
        sum = (uint8_t)(sum + (uint8_t)gdb->reply[i]);
    snprintf(tail, sizeof(tail), "#%02x", sum);
    out_add(gdb, "$", 1);
    out_add(gdb, gdb->reply, gdb->reply_size);
    out_add(gdb, tail, 3);
    gdb->replying = false;
}

/* ---- in ---- */

void gdb_packet_reset(struct gdb *gdb)
{
    gdb->parse = GDB_IDLE;
    gdb->no_ack = gdb->no_ack_next = gdb->broken = gdb->replying = false;
    gdb->reply_size = gdb->out_size = 0;
}

static void act(struct gdb *gdb)
{
    if (!gdb->no_ack) {
        bool good = gdb->sum == gdb->sum_got;
        out_add(gdb, good ? "+" : "-", 1);
        if (!good)
            return;
    }
    gdb->packet[gdb->packet_size] = '\0';
    gdb->reply_size = 0;
    gdb->replying = false;
    gdb_command(gdb);
    if (gdb->replying)
        gdb_send(gdb);
    gdb->no_ack = gdb->no_ack || gdb->no_ack_next;
}

static void add_content(struct gdb *gdb, uint8_t byte)
{
    if (gdb->packet_size == GDB_PACKET_MAX)
        gdb->broken = true;
    else
        gdb->packet[gdb->packet_size++] = (char)byte;
}

static void receive_idle(struct gdb *gdb, uint8_t byte)
{
    if (byte == '$') {
        gdb->parse = GDB_CONTENTS;
        gdb->packet_size = 0;
        gdb->sum = 0;
    } else if (byte == 3) {
        gdb_interrupt(gdb);
    } else if (byte == '-' && !gdb->no_ack && gdb->reply_size > 0 && gdb->out_size < RESEND_LIMIT) {
        gdb_send(gdb);
    } /* '+', and line noise: no more to say */
}

static void receive_byte(struct gdb *gdb, uint8_t byte)
{
    int digit = hex_digit((char)byte);
    switch (gdb->parse) {
    case GDB_IDLE:
        receive_idle(gdb, byte);
        return;
    case GDB_CONTENTS:
        if (byte == '#') {
            gdb->parse = GDB_SUM_HIGH;
            return;
        }
        gdb->sum = (uint8_t)(gdb->sum + byte);
        if (byte == '}')
            gdb->parse = GDB_ESCAPED;
        else
            add_content(gdb, byte);
        return;
    case GDB_ESCAPED:
        gdb->sum = (uint8_t)(gdb->sum + byte);
        gdb->parse = GDB_CONTENTS;
        add_content(gdb, byte ^ 0x20);
        return;
    case GDB_SUM_HIGH:
    case GDB_SUM_LOW:
        if (digit < 0) {
            gdb->broken = true;
        } else if (gdb->parse == GDB_SUM_HIGH) {
            gdb->sum_got = (uint8_t)(digit << 4);
            gdb->parse = GDB_SUM_LOW;
        } else {
            gdb->sum_got = (uint8_t)(gdb->sum_got | digit);
            gdb->parse = GDB_IDLE;
            act(gdb);
        }
        return;
    }
}

void gdb_receive(struct gdb *gdb, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size && !gdb->broken; i++)
        receive_byte(gdb, data[i]);
}

/* ---- contents ---- */

bool scan_char(struct scan *scan, char wanted)
{
    if (scan->at == scan->end || *scan->at != wanted)
        return false;
    scan->at++;
    return true;
}

bool scan_text(struct scan *scan, const char *wanted)
{
    size_t size = strlen(wanted);
    if ((size_t)(scan->end - scan->at) < size || memcmp(scan->at, wanted, size) != 0)
        return false;
    scan->at += size;
    return true;
}

bool scan_hex(struct scan *scan, uint64_t *value)
{
    unsigned count = 0;
    *value = 0;
    for (int digit; scan->at < scan->end && (digit = hex_digit(*scan->at)) >= 0; scan->at++) {
        *value = *value << 4 | (unsigned)digit;
        count++;
    }
    return count >= 1 && count <= 16;
}

bool scan_bytes(struct scan *scan, uint8_t *bytes, size_t size)
{
    if ((size_t)(scan->end - scan->at) / 2 < size)
        return false;
    for (size_t i = 0; i < size; i++, scan->at += 2) {
        int high = hex_digit(scan->at[0]), low = hex_digit(scan->at[1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool scan_thread(struct scan *scan, const struct gdb *gdb, int any, int *cpu)
{
    uint64_t number;
    *cpu = -1;
    if (scan_text(scan, "-1"))
        return true;
    if (!scan_hex(scan, &number) || number > gdb->vm->cpu_count)
        return false;
    *cpu = number == 0 ? any : (int)number - 1;
    return true;
}
