/* SPDX-License-Identifier: MIT
 *
 * Bit fields, alignment, overflow-checked arithmetic and unaligned little-endian
 * access: the few expressions that are easy to get wrong by hand.
 */
#ifndef TRAPEZE_BASE_BITS_H
#define TRAPEZE_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Bits [low, low+length) of value, 1 <= length <= 64. */
static inline uint64_t bits_get(uint64_t value, unsigned low, unsigned length)
{
    return (value >> low) & (~UINT64_C(0) >> (64 - length));
}

static inline uint64_t bits_set(uint64_t value, unsigned low, unsigned length, uint64_t field)
{
    uint64_t mask = (~UINT64_C(0) >> (64 - length)) << low;
    return (value & ~mask) | ((field << low) & mask);
}

/* Sign-extends the low `length` bits. */
static inline int64_t sign_extend(uint64_t value, unsigned length)
{
    return (int64_t)(value << (64 - length)) >> (64 - length);
}

static inline uint64_t align_down(uint64_t value, uint64_t power_of_two)
{
    return value & ~(power_of_two - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t power_of_two)
{
    return (value + power_of_two - 1) & ~(power_of_two - 1);
}

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* True if [start, start+size) lies in [0, limit), without overflowing. */
static inline bool range_within(uint64_t start, uint64_t size, uint64_t limit)
{
    return size <= limit && start <= limit - size;
}

#define BITS_DEFINE_LE(width)                                          \
    static inline uint##width##_t load_le##width(const void *from)     \
    {                                                                  \
        const uint8_t *bytes = from;                                   \
        uint##width##_t value = 0;                                     \
        for (unsigned i = 0; i < (width) / 8; i++)                     \
            value |= (uint##width##_t)((uint##width##_t)bytes[i] << (8 * i)); \
        return value;                                                  \
    }                                                                  \
    static inline void store_le##width(void *to, uint##width##_t value) \
    {                                                                  \
        uint8_t *bytes = to;                                           \
        for (unsigned i = 0; i < (width) / 8; i++)                     \
            bytes[i] = (uint8_t)(value >> (8 * i));                    \
    }
BITS_DEFINE_LE(16)
BITS_DEFINE_LE(32)
BITS_DEFINE_LE(64)
#undef BITS_DEFINE_LE

#endif
