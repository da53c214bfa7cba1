/* SPDX-License-Identifier: MIT
 *
 * 9P messages written from the client's side, for tests and fuzz targets:
 *
 *     p9_begin(&m, 110); p9_u32(&m, fid); ... p9_call(&m, server) → the answer's type
 */
#ifndef TRAPEZE_TESTS_P9_CLIENT_H
#define TRAPEZE_TESTS_P9_CLIENT_H

#include <stdint.h>
#include <string.h>

#include "base/bits.h"
#include "fs/p9.h"

struct p9_message {
    uint8_t request[8192], reply[8192];
    size_t size, answer;
};

static inline void p9_bytes(struct p9_message *m, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes && m->size < sizeof(m->request); i++)
        m->request[m->size++] = (uint8_t)(value >> (8 * i));
}

static inline void p9_u32(struct p9_message *m, uint32_t value)
{
    p9_bytes(m, value, 4);
}

static inline void p9_text(struct p9_message *m, const char *text)
{
    p9_bytes(m, strlen(text), 2);
    for (; *text != '\0'; text++)
        p9_bytes(m, (uint8_t)*text, 1);
}

static inline void p9_begin(struct p9_message *m, uint8_t type)
{
    m->size = 4;
    p9_bytes(m, type, 1);
    p9_bytes(m, 0x1234, 2);
}

/* 0: no answer. */
static inline unsigned p9_call(struct p9_message *m, struct p9 *p9)
{
    store_le32(m->request, (uint32_t)m->size);
    m->answer = p9_handle(p9, m->request, m->size, m->reply, sizeof(m->reply));
    return m->answer == 0 ? 0 : m->reply[4];
}

/* What the answer refuses with, or 0. */
static inline int p9_error(const struct p9_message *m)
{
    return m->reply[4] == 7 ? (int)load_le32(m->reply + 7) : 0;
}

#endif
