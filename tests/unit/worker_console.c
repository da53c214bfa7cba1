/* SPDX-License-Identifier: MIT
 *
 * The console between a guest and whoever takes its output, or does not.
 */
#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "worker/console.h"

struct world {
    struct loop *loop;
    struct console *console;
    struct sockaddr_un address; /* CONSOLE_LISTEN */
    size_t room;                /* what the device takes next */
    char input[64];             /* what it took */
    size_t input_size;
};

static size_t on_input(void *device, const uint8_t *data, size_t size)
{
    struct world *w = device;
    size_t taken = size < w->room ? size : w->room;
    assert_true(w->input_size + taken < sizeof(w->input));
    memcpy(w->input + w->input_size, data, taken);
    w->input_size += taken;
    w->room -= taken;
    return taken;
}

static void on_panic(void *opaque, const char *line)
{
    (void)opaque, (void)line;
    fail();
}

static void world_open(struct world *w, enum console_kind kind, int fd)
{
    struct error *error = NULL;
    w->loop = loop_new(&error);
    w->console = console_new(w->loop, kind, fd, on_panic, w, &error);
    assert_no_error(error);
    struct char_backend *backend = console_backend(w->console);
    backend->device = w;
    backend->on_input = on_input;
}

static void world_close(struct world *w)
{
    console_free(w->console);
    loop_free(w->loop);
}

static void quit(void *opaque)
{
    loop_quit(opaque, 0);
}

static void turn(struct world *w)
{
    loop_post(w->loop, quit, w->loop);
    loop_run(w->loop);
}

static void say(struct world *w, const void *text, size_t size)
{
    struct char_backend *backend = console_backend(w->console);
    backend->write(backend, text, size);
}

static void listen_open(struct world *w)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    *w = (struct world){.address = {.sun_family = AF_UNIX}};
    snprintf(w->address.sun_path + 1, sizeof(w->address.sun_path) - 1, "tz-console-%d", getpid());
    assert_int_equal(bind(fd, (struct sockaddr *)&w->address, sizeof(w->address)), 0);
    assert_int_equal(listen(fd, 8), 0);
    world_open(w, CONSOLE_LISTEN, fd);
}

static int client(struct world *w, const char *text)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&w->address, sizeof(w->address)), 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

/* The guest says something until this client has seen it. */
static void is_served(struct world *w, int fd)
{
    char byte;
    for (unsigned tries = 0; read(fd, &byte, 1) != 1; tries++) {
        assert_true(tries < 100);
        turn(w);
        say(w, "x", 1);
    }
    while (read(fd, &byte, 1) == 1)
        ;
}

static void a_hang_up_makes_room_for_the_next_client(void **state)
{
    (void)state;
    struct world w;
    listen_open(&w);
    int first = client(&w, "first ");
    is_served(&w, first);
    close(first); /* and the guest has not read what it sent */
    int second = client(&w, "second");
    is_served(&w, second);
    w.room = sizeof(w.input) - 1;
    console_backend(w.console)->resume_input(console_backend(w.console));
    for (unsigned i = 0; i < 10; i++)
        turn(&w);
    assert_string_equal(w.input, "first second");

    /* Nor does one that fills every buffer there is. */
    static uint8_t much[4096];
    w.room = 0;
    while (write(second, much, sizeof(much)) > 0)
        turn(&w);
    close(second);
    int third = client(&w, "");
    is_served(&w, third);
    close(third);
    assert_int_equal(console_lost(w.console), 0);
    world_close(&w);
}

/* One end of a pair becomes the console's. -1: refused, with `part` in the sentence. */
static int attach(struct world *w, enum console_role role, const char *who, const char *part)
{
    struct error *error = NULL;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    if (console_attach(w->console, pair[1], role, who, &error)) {
        assert_null(part);
        return pair[0];
    }
    assert_non_null(part);
    assert_non_null(strstr(error_message(error), part));
    error_free(error);
    close(pair[0]);
    return -1;
}

static void reads(struct world *w, int fd, const char *wanted)
{
    char text[200] = "";
    size_t size = 0;
    for (unsigned tries = 0; tries < 10; tries++) {
        ssize_t count = read(fd, text + size, sizeof(text) - 1 - size);
        size += count > 0 ? (size_t)count : 0;
        turn(w);
    }
    assert_string_equal(text, wanted);
}

static void who_comes_second_hears_who_has_it(void **state)
{
    (void)state;
    struct world w;
    char byte;
    listen_open(&w);
    int raw = client(&w, "");
    is_served(&w, raw);
    attach(&w, CONSOLE_OWNS, "b", "a client of its socket has it since 20");
    int first = attach(&w, CONSOLE_STEALS, "ann\033[2J", NULL);
    assert_int_equal(write(first, "1", 1), 1);
    attach(&w, CONSOLE_OWNS, "b", "ann?[2J has it since 20");
    int waits = client(&w, "later"); /* by the socket: until its turn */
    int second = attach(&w, CONSOLE_STEALS, "bob", NULL);
    assert_int_equal(write(second, "2", 1), 1);
    say(&w, "hello", 5);
    reads(&w, first, "\r\n[trapeze: bob took the console]\r\n");
    assert_int_equal(read(first, &byte, 1), 0);
    reads(&w, second, "hello");
    assert_int_equal(read(waits, &byte, 1), -1);
    close(second);
    is_served(&w, waits);
    w.room = sizeof(w.input) - 1;
    console_backend(w.console)->resume_input(console_backend(w.console));
    for (unsigned i = 0; i < 10; i++)
        turn(&w);
    /* What the first had sent when it was taken from him was never read. */
    assert_string_equal(w.input, "2later");
    close(raw), close(first), close(waits);
    world_close(&w);

    int pair[2]; /* who started the machine keeps it */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    world_open(&w, CONSOLE_STREAM, pair[1]);
    attach(&w, CONSOLE_STEALS, "bob", "who started the machine");
    struct error *error = NULL;
    assert_false(console_attach(w.console, open("/dev/null", O_RDWR), CONSOLE_WATCHES, "x", &error));
    assert_non_null(strstr(error_message(error), "no socket"));
    error_free(error);
    world_close(&w);
    close(pair[0]);
}

/* All that is there. */
static size_t take_all(struct world *w, int fd, char **text)
{
    size_t size = 0, room = 1 << 20;
    char *bytes = malloc(room);
    for (unsigned idle = 0; idle < 5;) {
        ssize_t count = read(fd, bytes + size, room - 1 - size);
        size += count > 0 ? (size_t)count : 0;
        idle = count > 0 ? 0 : idle + 1;
        turn(w);
    }
    bytes[size] = '\0';
    *text = bytes;
    return size;
}

static void those_who_watch_miss_what_they_do_not_take(void **state)
{
    (void)state;
    struct world w;
    int all[8];
    char *text;
    listen_open(&w);
    say(&w, "before", 6);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        all[i] = attach(&w, CONSOLE_WATCHES, "x", NULL);
    attach(&w, CONSOLE_WATCHES, "x", "8 watch");
    assert_int_equal(write(all[0], "typed", 5), 5);
    say(&w, "now", 3);
    turn(&w);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        reads(&w, all[i], "now");
    close(all[7]);
    turn(&w);
    all[7] = attach(&w, CONSOLE_WATCHES, "x", NULL);
    assert_int_equal(w.input_size, 0);

    /* A mebibyte; one keeps up with it, the others do not read. */
    static char block[4096];
    size_t seen = 0;
    memset(block, 'a', sizeof(block));
    for (unsigned i = 0; i < 256; i++) {
        say(&w, block, sizeof(block));
        turn(&w);
        ssize_t count;
        while ((count = read(all[1], block, sizeof(block))) > 0)
            seen += (size_t)count;
    }
    assert_int_equal(seen, 256 * sizeof(block));
    size_t size = take_all(&w, all[0], &text);
    assert_true(size >= CONSOLE_RING_SIZE && size < 256 * sizeof(block));
    const char *notice = strstr(text, "\r\n[trapeze: ");
    assert_non_null(notice);
    unsigned long long missed = strtoull(notice + strlen("\r\n[trapeze: "), NULL, 10);
    size_t words = (size_t)(strstr(notice, "out]\r\n") + strlen("out]\r\n") - notice);
    assert_int_equal(size - words + missed, 256 * sizeof(block));
    free(text);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        close(all[i]);
    world_close(&w);
}

static void the_end_of_input_is_not_the_end_of_output(void **state)
{
    (void)state;
    struct world w;
    listen_open(&w);
    w.room = 8;
    int fd = client(&w, "ls\n");
    shutdown(fd, SHUT_WR);
    for (unsigned i = 0; i < 10; i++)
        turn(&w);
    assert_string_equal(w.input, "ls\n");
    is_served(&w, fd);
    is_served(&w, fd);
    close(fd);
    int next = client(&w, "");
    is_served(&w, next);
    close(next);
    world_close(&w);
}

static size_t drain(int fd)
{
    static uint8_t buffer[65536];
    size_t total = 0;
    ssize_t count;
    while ((count = read(fd, buffer, sizeof(buffer))) > 0)
        total += (size_t)count;
    return total;
}

static void what_is_dropped_is_counted(void **state)
{
    (void)state;
    enum { CHUNK = 65536, CHUNKS = 48 };
    static uint8_t text[CHUNK], ring[CONSOLE_RING_SIZE];
    struct world w = {0};
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    world_open(&w, CONSOLE_STREAM, pair[0]);
    for (unsigned i = 0; i < CHUNKS; i++) {
        memset(text, (int)('a' + i % 26), sizeof(text));
        say(&w, text, sizeof(text));
    }
    uint64_t lost = console_lost(w.console);
    assert_true(lost > MIB);
    size_t got = 0;
    for (unsigned i = 0; i < 1000 && got + lost < (size_t)CHUNK * CHUNKS; i++) {
        got += drain(pair[1]);
        turn(&w);
    }
    assert_int_equal(got + lost, (size_t)CHUNK * CHUNKS);
    assert_int_equal(console_lost(w.console), lost);
    assert_int_equal(console_ring(w.console, ring), sizeof(ring));
    assert_int_equal(ring[sizeof(ring) - 1], 'a' + (CHUNKS - 1) % 26);

    /* What is left at the end is lost, too. */
    while (console_lost(w.console) == lost)
        say(&w, text, sizeof(text));
    lost = console_lost(w.console);
    console_flush(w.console);
    assert_int_equal(console_lost(w.console), lost + MIB);
    world_close(&w);
    close(pair[1]);
}

static void a_full_disk_loses_output(void **state)
{
    (void)state;
    struct world w = {0};
    world_open(&w, CONSOLE_FILE, open("/dev/full", O_WRONLY | O_CLOEXEC));
    say(&w, "hello", 5);
    turn(&w);
    assert_int_equal(console_lost(w.console), 5);
    world_close(&w);
}

/* Neither a reader that stops reading nor one that leaves holds up the guest. */
static void a_fifo_is_as_good_as_its_reader(void **state)
{
    (void)state;
    static uint8_t text[2 * MIB];
    char path[64];
    struct world w = {0};
    signal(SIGPIPE, SIG_IGN);
    snprintf(path, sizeof(path), "/tmp/trapeze-fifo-%d", getpid());
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    world_open(&w, CONSOLE_FILE, open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    unlink(path);
    say(&w, text, sizeof(text));
    uint64_t lost = console_lost(w.console);
    assert_true(lost > 0);
    size_t got = 0;
    for (unsigned i = 0; i < 1000 && got + lost < sizeof(text); i++) {
        got += drain(reader);
        turn(&w);
    }
    assert_int_equal(got + lost, sizeof(text));
    close(reader);
    turn(&w);
    turn(&w);
    say(&w, "hello", 5);
    assert_int_equal(console_lost(w.console), lost + 5);
    world_close(&w);
}

/* What is in the file is the end of what was said, at least a ring of it and at most two. */
static void a_transcript_is_bounded(void **state)
{
    (void)state;
    enum { TOTAL = 3 * 1000 * 1000 };
    struct world w = {0};
    char path[64];
    uint8_t *all = malloc(TOTAL), *got = malloc(TOTAL);
    uint64_t seed = 1;
    for (size_t i = 0; i < TOTAL; i++)
        all[i] = (uint8_t)random_next(&seed);
    snprintf(path, sizeof(path), "/tmp/trapeze-transcript-%d", getpid());
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    unlink(path);
    world_open(&w, CONSOLE_NONE, open("/dev/null", O_RDWR | O_CLOEXEC));
    console_transcribe(w.console, dup(file));
    for (size_t said = 0; said < TOTAL;) {
        size_t step = 1 + random_next(&seed) % 40000; /* rarely more than a ring between turns */
        step = step < TOTAL - said ? step : TOTAL - said;
        say(&w, all + said, step);
        said += step;
        if (random_next(&seed) % 8 == 0 || said == TOTAL)
            turn(&w);
        if (said != TOTAL && random_next(&seed) % 8 != 0)
            continue;
        console_flush(w.console);
        off_t size = lseek(file, 0, SEEK_END);
        size_t least = said < CONSOLE_RING_SIZE ? said : CONSOLE_RING_SIZE;
        assert_in_range(size, least, 2 * CONSOLE_RING_SIZE);
        assert_int_equal(pread(file, got, (size_t)size, 0), size);
        assert_memory_equal(got, all + said - size, (size_t)size);
    }
    world_close(&w);
    close(file);
    free(all);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hang_up_makes_room_for_the_next_client),
        cmocka_unit_test(who_comes_second_hears_who_has_it),
        cmocka_unit_test(those_who_watch_miss_what_they_do_not_take),
        cmocka_unit_test(the_end_of_input_is_not_the_end_of_output),
        cmocka_unit_test(what_is_dropped_is_counted),
        cmocka_unit_test(a_full_disk_loses_output),
        cmocka_unit_test(a_fifo_is_as_good_as_its_reader),
        cmocka_unit_test(a_transcript_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
