/* SPDX-License-Identifier: MIT
 *
 * Framing over a socket pair: messages cut anywhere, announced too large, peers that leave.
 */
#include "support.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/frame.h"

static void make_pair(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    int pair[2];
    make_pair(pair);
    struct frame_writer writer = {0};
    assert_true(frame_writer_add(&writer, "hello", 5));
    assert_true(frame_writer_add(&writer, "", 0));
    assert_true(frame_writer_add(&writer, "world!", 6));
    static const char *const wanted[] = {"hello", "", "world!"};
    struct frame_reader reader = {0};
    size_t got = 0;
    for (size_t i = 0; i < writer.size; i++) {
        assert_int_equal(write(pair[0], writer.data + i, 1), 1);
        assert_int_equal(frame_reader_fill(&reader, pair[1]), FRAME_MORE);
        const uint8_t *data;
        size_t size;
        while (frame_reader_next(&reader, 100, &data, &size) == FRAME_MESSAGE) {
            assert_int_equal(size, strlen(wanted[got]));
            assert_memory_equal(data, wanted[got], size);
            got++;
        }
    }
    assert_int_equal(got, 3);
    assert_int_equal(frame_reader_fill(&reader, pair[1]), FRAME_MORE); /* nothing there */
    close(pair[0]);
    assert_int_equal(frame_reader_fill(&reader, pair[1]), FRAME_CLOSED);
    close(pair[1]);
    frame_reader_clear(&reader);
    frame_writer_clear(&writer);
}

static void test_too_large(void **state)
{
    (void)state;
    int pair[2];
    make_pair(pair);
    uint8_t prefix[4];
    store_le32(prefix, 101);
    assert_int_equal(write(pair[0], prefix, 4), 4);
    struct frame_reader reader = {0};
    const uint8_t *data;
    size_t size;
    assert_int_equal(frame_reader_fill(&reader, pair[1]), FRAME_MORE);
    assert_int_equal(frame_reader_next(&reader, 100, &data, &size), FRAME_BROKEN);
    assert_int_equal(frame_reader_next(&reader, 101, &data, &size), FRAME_MORE);
    frame_reader_clear(&reader);
    close(pair[0]);
    close(pair[1]);
}

static void test_slow_and_gone_reader(void **state)
{
    (void)state;
    static uint8_t block[1 << 20];
    int pair[2];
    make_pair(pair);
    struct frame_writer writer = {0};
    size_t queued = 0;
    while (frame_writer_add(&writer, block, sizeof(block)))
        queued++;
    assert_in_range(queued, 16, 18); /* bounded: 4 x FRAME_MAX and one message */
    assert_false(frame_writer_add(&writer, block, (size_t)FRAME_MAX + 1));
    assert_int_equal(frame_writer_flush(&writer, pair[0]), FRAME_MORE);
    close(pair[1]);
    assert_int_equal(frame_writer_flush(&writer, pair[0]), FRAME_BROKEN);
    close(pair[0]);
    frame_writer_clear(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_slow_and_gone_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
