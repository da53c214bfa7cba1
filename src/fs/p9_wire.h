/* SPDX-License-Identifier: MIT
 *
 * Fields of 9P messages, in order: little-endian numbers, strings with a 16-bit length.
 * A message that is too short reads as zeros and is marked bad; a reply that is too long is.
 */
#ifndef TRAPEZE_FS_P9_WIRE_H
#define TRAPEZE_FS_P9_WIRE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct p9_in {
    const uint8_t *at;
    size_t left;
    bool bad;
};

struct p9_out {
    uint8_t *start;
    size_t used, room;
    bool bad;
};

static inline uint64_t p9_get(struct p9_in *in, unsigned bytes)
{
    uint64_t value = 0;
    if (in->left < bytes) {
        in->bad = true;
        in->left = 0;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)in->at[i] << (8 * i);
    in->at += bytes;
    in->left -= bytes;
    return value;
}

static inline uint32_t p9_get32(struct p9_in *in)
{
    return (uint32_t)p9_get(in, 4);
}

/* Copies a string; one that is too long or holds a zero is bad. */
static inline void p9_get_string(struct p9_in *in, char *to, size_t room)
{
    size_t length = (size_t)p9_get(in, 2);
    to[0] = '\0';
    if (length > in->left || length >= room || memchr(in->at, '\0', length) != NULL) {
        in->bad = true;
        in->left = 0;
        return;
    }
    memcpy(to, in->at, length);
    to[length] = '\0';
    in->at += length;
    in->left -= length;
}

static inline void p9_put(struct p9_out *out, uint64_t value, unsigned bytes)
{
    if (out->room - out->used < bytes) {
        out->bad = true;
        return;
    }
    for (unsigned i = 0; i < bytes; i++)
        out->start[out->used++] = (uint8_t)(value >> (8 * i));
}

static inline void p9_put_string(struct p9_out *out, const char *text)
{
    size_t length = strlen(text);
    p9_put(out, length, 2);
    if (out->bad || length > UINT16_MAX || out->room - out->used < length) {
        out->bad = true;
        return;
    }
    memcpy(out->start + out->used, text, length);
    out->used += length;
}

#endif
