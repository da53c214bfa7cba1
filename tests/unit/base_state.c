/* SPDX-License-Identifier: MIT
 *
 * base/state.h: the wire format byte by byte, versions, and hostile streams.
 */
#include "support.h"

#include <stdatomic.h>

#include "base/bits.h"

enum colour { RED, GREEN, BLUE };

struct part {
    uint16_t level;
    bool on;
};

struct thing {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int32_t negative;
    enum colour colour;
    _Atomic uint32_t counter;
    bool flag;
    uint16_t list[3];
    uint8_t bytes[5];
    struct part one;
    struct part many[2];
    struct state_buffer buffer;
    unsigned derived;   /* not saved: u8 + 1 */
    unsigned pre_saves; /* calls */
};

static bool check_part(void *object, struct error **err)
{
    const struct part *part = object;
    if (part->level > 1000)
        return error_set(err, ERROR_HOST, "level %u is above 1000", part->level);
    return true;
}

static const struct state_field part_fields[] = {
    STATE_UINT(struct part, level, "level"),
    STATE_BOOL(struct part, on, "on"),
    STATE_END,
};
static const struct state_table part_state = {"part", 1, part_fields, NULL, check_part};

static void count_save(void *object)
{
    ((struct thing *)object)->pre_saves++;
}

static bool rebuild(void *object, struct error **err)
{
    struct thing *thing = object;
    if (thing->colour > BLUE)
        return error_set(err, ERROR_HOST, "no such colour");
    thing->derived = thing->u8 + 1U;
    return true;
}

static const struct state_field thing_fields[] = {
    STATE_UINT(struct thing, u8, "u8"),
    STATE_UINT(struct thing, u16, "u16"),
    STATE_UINT(struct thing, u32, "u32"),
    STATE_UINT(struct thing, u64, "u64"),
    STATE_UINT(struct thing, negative, "negative"),
    STATE_UINT(struct thing, colour, "colour"),
    STATE_UINT(struct thing, counter, "counter"),
    STATE_BOOL(struct thing, flag, "flag"),
    STATE_UINTS(struct thing, list, "list"),
    STATE_BYTES(struct thing, bytes, "bytes"),
    STATE_STRUCT(struct thing, one, "one", &part_state),
    STATE_STRUCTS(struct thing, many, "many", &part_state),
    STATE_BUFFER(struct thing, buffer, "buffer"),
    STATE_END,
};
static const struct state_table thing_state = {"thing", 3, thing_fields, count_save, rebuild};

static void fill(struct thing *thing)
{
    *thing = (struct thing){
        .u8 = 0xfe,
        .u16 = 0x1234,
        .u32 = 0x89abcdef,
        .u64 = UINT64_C(0x0123456789abcdef),
        .negative = -2,
        .colour = BLUE,
        .flag = true,
        .list = {1, 0xffff, 3},
        .bytes = {9, 8, 7, 6, 5},
        .one = {1000, true},
        .many = {{1, false}, {2, true}},
    };
    atomic_init(&thing->counter, 77);
}

static void everything_round_trips(void **state)
{
    (void)state;
    struct thing thing, blank = {0};
    fill(&thing);
    state_buffer_add(&thing.buffer, "any length", 10);
    state_buffer_add(&blank.buffer, "what was there before", 21);
    assert_state_round_trip(&thing_state, &thing, &blank);
    assert_int_equal(blank.buffer.size, 10);
    assert_memory_equal(blank.buffer.data, "any length", 10);
    thing.buffer.size = 0;
    thing.pre_saves--;
    assert_state_round_trip(&thing_state, &thing, &blank);
    assert_int_equal(blank.buffer.size, 0);
    state_buffer_free(&thing.buffer);
    state_buffer_free(&blank.buffer);
    assert_int_equal(thing.pre_saves, 1);
    assert_int_equal(blank.derived, 0xff);
    assert_int_equal(blank.u64, thing.u64);
    assert_int_equal(blank.negative, -2);
    assert_int_equal(blank.colour, BLUE);
    assert_int_equal(atomic_load(&blank.counter), 77);
    assert_true(blank.flag);
    assert_memory_equal(blank.list, thing.list, sizeof(thing.list));
    assert_memory_equal(blank.bytes, thing.bytes, sizeof(thing.bytes));
    assert_int_equal(blank.many[1].level, 2);
    assert_true(blank.many[1].on);
}

static void the_wire_format_is_what_the_header_says(void **state)
{
    (void)state;
    struct part part = {0x0102, true};
    struct state_buffer out = {0};
    state_save(&part_state, &part, &out);
    static const uint8_t expected[] = {
        4, 'p', 'a', 'r', 't', 1,   0, 0, 0, 2, 0, 0,    0,    /* name, version, fields */
        5, 'l', 'e', 'v', 'e', 'l', 2, 2, 0, 0, 0, 0x02, 0x01, /* name, kind, length, value */
        2, 'o', 'n', 1,   1,   0,   0, 0, 1,
    };
    assert_int_equal(out.size, sizeof(expected));
    assert_memory_equal(out.data, expected, sizeof(expected));
    state_buffer_free(&out);
    assert_null(out.data);
}

static void tables_follow_one_another(void **state)
{
    (void)state;
    struct part first = {1, true}, second = {2, false}, got = {0};
    struct state_buffer out = {0};
    state_save(&part_state, &first, &out);
    size_t middle = out.size;
    state_save(&part_state, &second, &out);
    size_t at = 0;
    assert_true(state_restore(&part_state, &got, out.data, out.size, &at, NULL));
    assert_int_equal(at, middle);
    assert_int_equal(got.level, 1);
    assert_true(state_restore(&part_state, &got, out.data, out.size, &at, NULL));
    assert_int_equal(at, out.size);
    assert_int_equal(got.level, 2);
    assert_false(state_restore(&part_state, &got, out.data, out.size, &at, NULL));
    state_buffer_free(&out);
}

/* A field that came with version 2 of its table. */
struct grown {
    uint32_t old, new;
};
static const struct state_field grown_fields[] = {
    STATE_UINT(struct grown, old, "old"),
    {"new", STATE_KIND_UINT, offsetof(struct grown, new), 4, 1, 2, NULL},
    STATE_END,
};
static const struct state_table grown_v1 = {"grown", 1, grown_fields, NULL, NULL};
static const struct state_table grown_v2 = {"grown", 2, grown_fields, NULL, NULL};

static void old_streams_are_read_and_newer_ones_refused(void **state)
{
    (void)state;
    struct grown object = {1, 2};
    struct state_buffer old = {0}, new = {0};
    state_save(&grown_v1, &object, &old);
    state_save(&grown_v2, &object, &new);
    assert_true(new.size > old.size);

    struct grown got = {0, 42};
    struct error *err = NULL;
    size_t at = 0;
    assert_true(state_restore(&grown_v2, &got, old.data, old.size, &at, &err));
    assert_int_equal(got.old, 1);
    assert_int_equal(got.new, 42); /* its default */
    at = 0;
    assert_false(state_restore(&grown_v1, &got, new.data, new.size, &at, &err));
    assert_error(&err, ERROR_HOST, "version 2");

    /* Version 1 that has version 2's field, and the other way round. */
    store_le32(new.data + 6, 1);
    assert_false(state_restore(&grown_v2, &got, new.data, new.size, &at, &err));
    assert_error(&err, ERROR_HOST, "wrong number of fields");
    store_le32(old.data + 6, 2);
    assert_false(state_restore(&grown_v2, &got, old.data, old.size, &at, &err));
    assert_error(&err, ERROR_HOST, "wrong number of fields");
    store_le32(old.data + 6, 0);
    assert_false(state_restore(&grown_v2, &got, old.data, old.size, &at, &err));
    assert_error(&err, ERROR_HOST, "no version");
    state_buffer_free(&old);
    state_buffer_free(&new);
}

/* What is damaged in the 35 bytes of the_wire_format_is_what_the_header_says(). */
static const struct damage {
    size_t at;
    uint8_t value;
    const char *said;
} damages[] = {
    {0, 3, "no state of 'part'"},
    {0, 255, "no state of 'part'"},
    {4, 'x', "no state of 'part'"},
    {5, 2, "has version 2, and this Trapeze knows 1"},
    {8, 0x80, "has version"},
    {9, 3, "wrong number of fields in the state of 'part'"},
    {9, 1, "wrong number of fields in the state of 'part'"},
    {13, 4, "missing field 'level'"},
    {14, 'L', "missing field 'level'"},
    {19, STATE_KIND_BYTES, "wrong kind of field 'level'"},
    {20, 1, "too few bytes for field 'level'"},
    {20, 3, "too many bytes for field 'level'"},
    {23, 0xff, "too few bytes for field 'level'"},
    {25, 0x7f, "level 32514 is above 1000"},
    {27, 'x', "missing field 'on'"},
    {34, 2, "neither true nor false"},
};

static void damage_is_named(void **state)
{
    (void)state;
    struct part part = {2, true};
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        struct state_buffer out = {0};
        state_save(&part_state, &part, &out);
        assert_int_equal(out.size, 35);
        out.data[damages[i].at] = damages[i].value;
        struct part got = {0};
        struct error *err = NULL;
        size_t at = 0;
        assert_false(state_restore(&part_state, &got, out.data, out.size, &at, &err));
        assert_int_equal(at, 0);
        assert_error(&err, ERROR_HOST, damages[i].said);
        state_buffer_free(&out);
    }
}

static void damage_inside_a_nested_table_says_where(void **state)
{
    (void)state;
    struct thing thing, got = {0};
    fill(&thing);
    thing.many[1].level = 1001;
    struct state_buffer out = {0};
    state_save(&thing_state, &thing, &out);
    struct error *err = NULL;
    size_t at = 0;
    assert_false(state_restore(&thing_state, &got, out.data, out.size, &at, &err));
    assert_error(&err, ERROR_HOST, "state of 'thing': field 'many': level 1001 is above 1000");
    state_buffer_free(&out);
}

/* Whatever single byte is changed: a sentence or an object that saves to that very stream. */
static void every_changed_byte_is_refused_or_round_trips(void **state)
{
    (void)state;
    struct thing thing;
    fill(&thing);
    struct state_buffer out = {0};
    state_save(&thing_state, &thing, &out);
    unsigned refused = 0, accepted = 0;
    for (size_t i = 0; i < out.size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            out.data[i] ^= (uint8_t)(1U << bit);
            struct thing got = {0};
            struct error *err = NULL;
            size_t at = 0;
            if (state_restore(&thing_state, &got, out.data, out.size, &at, &err)) {
                struct state_buffer again = {0};
                /* A version that has the same fields is rewritten as ours. */
                state_save(&thing_state, &got, &again);
                if (load_le32(out.data + 6) == 3) {
                    assert_int_equal(again.size, out.size);
                    assert_memory_equal(again.data, out.data, out.size);
                }
                state_buffer_free(&again);
                accepted++;
            } else {
                assert_non_null(err);
                error_free(err);
                refused++;
            }
            out.data[i] ^= (uint8_t)(1U << bit);
        }
    }
    assert_true(refused > 1000);
    assert_true(accepted > 200); /* the values' own bits */
    state_buffer_free(&out);
}

static void random_streams_are_refused(void **state)
{
    (void)state;
    uint64_t seed = 1;
    struct thing thing;
    fill(&thing);
    struct state_buffer out = {0};
    state_save(&thing_state, &thing, &out);
    uint8_t *bytes = malloc(out.size);
    for (unsigned long i = 0; i < tier_count(20000, 1000000); i++) {
        memcpy(bytes, out.data, out.size);
        unsigned changes = 1 + (unsigned)(random_next(&seed) % 8);
        for (unsigned change = 0; change < changes; change++)
            bytes[random_next(&seed) % out.size] = (uint8_t)random_next(&seed);
        size_t size = out.size - random_next(&seed) % (out.size / 4);
        struct thing got = {0};
        struct error *err = NULL;
        size_t at = 0;
        bool restored = state_restore(&thing_state, &got, bytes, size, &at, &err);
        assert_int_equal(restored, err == NULL);
        assert_true(at <= size);
        if (restored)
            assert_true(got.colour <= BLUE && got.one.level <= 1000);
        error_free(err);
    }
    free(bytes);
    state_buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_round_trips),
        cmocka_unit_test(the_wire_format_is_what_the_header_says),
        cmocka_unit_test(tables_follow_one_another),
        cmocka_unit_test(old_streams_are_read_and_newer_ones_refused),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(damage_inside_a_nested_table_says_where),
        cmocka_unit_test(every_changed_byte_is_refused_or_round_trips),
        cmocka_unit_test(random_streams_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
