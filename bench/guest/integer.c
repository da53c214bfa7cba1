/* SPDX-License-Identifier: MIT
 *
 * The kinds of work EEMBC's CoreMark consists of, in code of our own: linked lists (search,
 * reverse, merge sort), products of small integer matrices, a state machine that classifies
 * numerals, and a CRC of every result. Branches are unpredictable, data fits the first-level cache.
 */
#include <stddef.h>
#include <string.h>

#include "rows.h"

#define TURNS 4000
#define NODES 200
#define SIDE  12
#define TEXT  sizeof(numerals)

struct node {
    struct node *next;
    int16_t key;
    uint16_t payload;
};

static const char numerals[] = "12,-7,3.14,+0.5,x1,1e9,-2.5e-3,..,77,1e,+,0x1f,999999,-.5,5.,e5,"
                               "42,-42,6.02e+23,1.6e-19,abc,1-2,3..4,7e7e7,0,00,+1.0,-1.0,9e,8";

static uint16_t crc16(uint16_t crc, uint32_t value)
{
    for (int bit = 0; bit < 32; bit++) {
        unsigned feedback = (crc ^ value) & 1;
        crc = (uint16_t)(crc >> 1);
        if (feedback)
            crc ^= 0xa001;
        value >>= 1;
    }
    return crc;
}

static struct node *reverse(struct node *list)
{
    struct node *done = NULL;
    while (list) {
        struct node *next = list->next;
        list->next = done;
        done = list;
        list = next;
    }
    return done;
}

static struct node *merge(struct node *a, struct node *b)
{
    struct node head, *tail = &head;
    while (a && b) {
        struct node **from = a->key <= b->key ? &a : &b;
        tail->next = *from;
        tail = *from;
        *from = tail->next;
    }
    tail->next = a ? a : b;
    return head.next;
}

static struct node *sort(struct node *list)
{
    if (!list || !list->next)
        return list;
    struct node *middle = list;
    for (struct node *end = list->next; end && end->next; end = end->next->next)
        middle = middle->next;
    struct node *second = middle->next;
    middle->next = NULL;
    return merge(sort(list), sort(second));
}

static uint16_t do_lists(uint16_t crc, uint64_t *random)
{
    struct node nodes[NODES];
    for (size_t i = 0; i < NODES; i++) {
        nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : NULL;
        nodes[i].key = (int16_t)next_random(random);
        nodes[i].payload = (uint16_t)i;
    }
    struct node *list = &nodes[0];
    for (int search = 0; search < 8; search++) {
        int16_t bound = (int16_t)next_random(random);
        const struct node *found = list;
        while (found && (found->key < bound || (found->payload & 7) != (search & 7)))
            found = found->next;
        crc = crc16(crc, found ? found->payload : 0xffff);
        list = reverse(list);
    }
    list = sort(list);
    for (int i = 0; i < 16; i++, list = list->next)
        crc = crc16(crc, (uint32_t)(uint16_t)list->key << 16 | list->payload);
    return crc;
}

static uint16_t do_matrices(uint16_t crc, uint64_t *random)
{
    int16_t a[SIDE][SIDE], b[SIDE][SIDE];
    for (int i = 0; i < SIDE; i++) {
        for (int j = 0; j < SIDE; j++) {
            a[i][j] = (int16_t)next_random(random);
            b[i][j] = (int16_t)(a[i][j] >> 5 ^ i * j);
        }
    }
    for (int i = 0; i < SIDE; i++) {
        uint32_t row = 0;
        for (int j = 0; j < SIDE; j++) {
            int32_t sum = 0;
            for (int k = 0; k < SIDE; k++) {
                int32_t product = a[i][k] * b[k][j];
                sum += (product >> 2 & 15) * (product >> 5 & 127);
            }
            row = row * 31 + (uint32_t)sum;
        }
        crc = crc16(crc, row);
    }
    return crc;
}

enum state { START, SIGN, WHOLE, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, POWER, BAD, STATES };

static enum state step(enum state state, char c)
{
    int digit = c >= '0' && c <= '9', sign = c == '+' || c == '-';
    switch (state) {
    case START:
        return digit ? WHOLE : sign ? SIGN : c == '.' ? POINT : BAD;
    case SIGN:
        return digit ? WHOLE : c == '.' ? POINT : BAD;
    case WHOLE:
        return digit ? WHOLE : c == '.' ? FRACTION : c == 'e' ? EXPONENT : BAD;
    case POINT:
        return digit ? FRACTION : BAD;
    case FRACTION:
        return digit ? FRACTION : c == 'e' ? EXPONENT : BAD;
    case EXPONENT:
        return digit ? POWER : sign ? EXPONENT_SIGN : BAD;
    case EXPONENT_SIGN:
    case POWER:
        return digit ? POWER : BAD;
    default:
        return BAD;
    }
}

static uint16_t do_states(uint16_t crc, uint64_t *random)
{
    char text[TEXT];
    uint32_t ends[STATES] = {0}, visits[STATES] = {0};
    memcpy(text, numerals, TEXT);
    for (int i = 0; i < 4; i++)
        text[next_random(random) % (TEXT - 1)] ^= 1;
    enum state state = START;
    for (const char *p = text; *p; p++) {
        if (*p == ',') {
            ends[state]++;
            state = START;
        } else {
            state = step(state, *p);
            visits[state]++;
        }
    }
    for (int i = 0; i < STATES; i++)
        crc = crc16(crc, ends[i] << 16 | visits[i]);
    return crc;
}

uint64_t row_integer(void)
{
    uint64_t random = 88172645463325252u, checksum = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        uint16_t crc = (uint16_t)turn;
        crc = do_lists(crc, &random);
        crc = do_matrices(crc, &random);
        for (int i = 0; i < 4; i++)
            crc = do_states(crc, &random);
        checksum = mix(checksum, crc);
    }
    return checksum;
}
