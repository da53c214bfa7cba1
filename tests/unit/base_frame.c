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

static void test_descriptors_come_along(void **state)
{
    (void)state;
    int pair[2], probe[2], many[FRAME_FD_MAX];
    make_pair(pair);
    assert_int_equal(pipe(probe), 0);
    struct frame_writer writer = {0};
    struct frame_reader reader = {0};
    struct frame_fds fds = {.count = 0};
    const uint8_t *data;
    size_t size;
    assert_int_equal(frame_writer_flush_fds(&writer, pair[0], probe, 1), FRAME_BROKEN); /* no byte */
    for (unsigned round = 0; round < 2; round++) {
        assert_true(frame_writer_add(&writer, "take this", 9));
        assert_int_equal(frame_writer_flush_fds(&writer, pair[0], probe, 2), FRAME_MESSAGE);
        assert_int_equal(frame_reader_fill_fds(&reader, pair[1], &fds), FRAME_MORE);
        assert_int_equal(frame_reader_next(&reader, 100, &data, &size), FRAME_MESSAGE);
        assert_int_equal(size, 9);
        assert_int_equal(fds.count, 2);
        assert_int_equal(write(fds.fds[1], "x", 1), 1);
        char byte = 0;
        assert_int_equal(read(probe[0], &byte, 1), 1);
        assert_int_equal(byte, 'x');
        if (round == 0)
            assert_int_equal(close(fds.fds[0]), 0);
        fds.fds[0] = round == 0 ? -1 : fds.fds[0]; /* somebody took it */
        int last = fds.fds[1];
        frame_fds_close(&fds);
        assert_int_equal(close(last), -1);
    }

    /* More than there is room for: none stays open. */
    for (size_t i = 0; i < FRAME_FD_MAX; i++)
        many[i] = probe[0];
    for (unsigned i = 0; i < 2; i++) {
        assert_true(frame_writer_add(&writer, "many", 4));
        assert_int_equal(frame_writer_flush_fds(&writer, pair[0], many, FRAME_FD_MAX),
                         FRAME_MESSAGE);
        assert_int_equal(frame_reader_fill_fds(&reader, pair[1], &fds), FRAME_MORE);
        assert_int_equal(fds.count, FRAME_FD_MAX);
    }
    close(probe[1]);
    close(probe[0]);
    frame_fds_close(&fds);
    int next = dup(pair[0]);
    assert_in_range(next, 0, pair[1] + 8); /* nothing is left of 64 */
    close(next);
    close(pair[0]);
    close(pair[1]);
    frame_reader_clear(&reader);
    frame_writer_clear(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_slow_and_gone_reader),
        cmocka_unit_test(test_descriptors_come_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
