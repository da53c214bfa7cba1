/* SPDX-License-Identifier: MIT
 *
 * block/chain.h: disks that cross from a process that opens names to one that does not, and
 * connections that another process makes (block/nbd_socket.h).
 */
#include "support.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/chain.h"
#include "block/nbd_library.h"
#include "block/nbd_socket.h"
#include "block/open/nbd_uri.h"
#include "block/open/open.h"

#define SIZE (1 * MIB)

struct world {
    char folder[64];
    char path[4][96];
};

static void world_open(struct world *w)
{
    strcpy(w->folder, "/tmp/trapeze-test-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    for (unsigned i = 0; i < 4; i++)
        snprintf(w->path[i], sizeof(w->path[i]), "%s/%u.img", w->folder, i);
}

static void world_close(struct world *w)
{
    for (unsigned i = 0; i < 4; i++)
        unlink(w->path[i]);
    rmdir(w->folder);
}

static void make(const char *path, const char *format, const char *backing, const char *below,
                 uint8_t byte, uint64_t at)
{
    struct error *err = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const struct block_create create = {.size = SIZE, .backing = backing, .backing_format = below};
    struct block_file *file = block_file_new(fd, false, BLOCK_CACHE_WRITEBACK, &err);
    assert_non_null(file);
    assert_true(block_format_find(format)->create(file, &create, &err));
    block_file_close(file);
    uint8_t sector[512];
    memset(sector, byte, sizeof(sector));
    const struct block_open_options how = {.format = format};
    struct block_image *image = block_open(path, &how, &err);
    assert_no_error(err);
    assert_int_equal(block_image_write(image, at, sector, sizeof(sector)), 0);
    block_image_close(image);
}

/* Three layers; their names are relative to the folder. */
static void make_layers(struct world *w)
{
    make(w->path[2], "raw", NULL, NULL, 'c', 0);
    make(w->path[1], "qcow2", "2.img", "raw", 'b', 65536);
    make(w->path[0], "qcow2", "1.img", "qcow2", 'a', 131072);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static const struct block_open_options top = {.format = "qcow2"};
static const struct block_chain_options taken = {.format = "qcow2"};

static void a_chain_needs_no_names(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    struct block_chain chain;
    uint8_t byte;
    world_open(&w);
    make_layers(&w);
    unsigned before = open_descriptors();
    assert_true(block_open_chain(w.path[0], &top, &chain, &err));
    assert_no_error(err);
    assert_int_equal(chain.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        int mode = fcntl(chain.fds[i], F_GETFL) & O_ACCMODE;
        assert_int_equal(mode, i == 0 ? O_RDWR : O_RDONLY);
        assert_int_equal(unlink(w.path[i]), 0);
    }
    struct block_image *image = block_chain_open(&chain, w.path[0], &taken, &err);
    assert_no_error(err);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(block_image_read(image, i * 65536, &byte, 1), 0);
        assert_int_equal(byte, 'c' - (int)i);
    }
    assert_string_equal(image->backing->backing->name + strlen(w.folder), "/2.img");
    block_image_close(image);
    assert_int_equal(open_descriptors(), before);
    world_close(&w);
}

static void locks_go_with_the_descriptors(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    struct block_chain chain, other;
    world_open(&w);
    make_layers(&w);
    assert_true(block_open_chain(w.path[0], &top, &chain, &err));
    assert_false(block_open_chain(w.path[0], &top, &other, &err));
    assert_error(&err, ERROR_HOST, "is using it");
    struct block_image *image = block_chain_open(&chain, w.path[0], &taken, &err);
    assert_no_error(err);
    /* The layer below may be read by others, and not be written to. */
    assert_false(block_open_chain(w.path[1], &top, &other, &err));
    assert_error(&err, ERROR_HOST, "is using it");
    block_image_close(image);
    assert_true(block_open_chain(w.path[0], &top, &other, &err));
    block_chain_close(&other);
    assert_true(block_open_chain(w.path[1], &top, &other, &err));
    block_chain_close(&other);
    world_close(&w);
}

static void what_was_not_handed_over_is_missed(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    struct block_chain chain;
    world_open(&w);
    make_layers(&w);
    unsigned before = open_descriptors();
    for (unsigned missing = 0; missing < 3; missing++) {
        assert_true(block_open_chain(w.path[0], &top, &chain, &err));
        for (size_t i = missing; i < chain.count; i++)
            close(chain.fds[i]);
        chain.count = missing;
        assert_null(block_chain_open(&chain, "the disk", &taken, &err));
        assert_error(&err, ERROR_HOST, "did not hand this file over");
        assert_int_equal(open_descriptors(), before);
    }
    /* More than there is a use for is closed. */
    assert_true(block_open_chain(w.path[0], &top, &chain, &err));
    chain.fds[chain.count++] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    block_image_close(block_chain_open(&chain, "the disk", &taken, &err));
    assert_no_error(err);
    assert_int_equal(open_descriptors(), before);
    world_close(&w);
}

/* What the disk has been until now, and a new image on top of it, as who asks for that opens them. */
static struct block_chain new_top(struct world *w, unsigned number, const char *backing,
                                  const char *below)
{
    struct error *err = NULL;
    const struct block_create create = {
        .size = SIZE, .backing = backing, .backing_format = "qcow2"};
    int fd = open(w->path[number], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct block_file *file = block_file_new(dup(fd), false, BLOCK_CACHE_WRITEBACK, &err);
    assert_true(block_format_find("qcow2")->create(file, &create, &err));
    block_file_close(file);
    return (struct block_chain){{fd, open(below, O_RDONLY | O_CLOEXEC)}, 2};
}

static void an_image_on_top_of_one_in_use(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    struct block_chain chain;
    uint8_t byte;
    world_open(&w);
    make_layers(&w);
    unsigned before = open_descriptors();
    assert_true(block_open_chain(w.path[0], &top, &chain, &err));
    struct block_image *below = block_chain_open(&chain, w.path[0], &taken, &err);
    assert_no_error(err);
    byte = 'n'; /* in memory, and nowhere in the file but for the flush */
    assert_int_equal(block_image_write(below, 196608, &byte, 1), 0);

    /* Something else than it, or what lies on something else, is refused; it is used on. */
    chain = new_top(&w, 3, "0.img", w.path[1]);
    struct block_image *image = block_chain_open_top(&chain, w.path[3], &taken, &err);
    assert_false(block_chain_put_on_top(below, image, &chain, &taken, &err));
    assert_error(&err, ERROR_USAGE, "was not made for it");
    block_image_close(image);
    assert_int_equal(block_image_write(below, 262144, &byte, 1), 0);

    for (unsigned turn = 0; turn < 2; turn++) {
        chain = new_top(&w, 3, "0.img", w.path[0]);
        image = block_chain_open_top(&chain, w.path[3], &taken, &err);
        assert_non_null(image);
        byte = (uint8_t)('n' + turn); /* opened before or not: what was written last counts */
        assert_int_equal(block_image_write(below, 196608, &byte, 1), 0);
        assert_true(block_chain_put_on_top(below, image, &chain, &taken, &err));
        assert_no_error(err);
        assert_true(image->backing->read_only && !image->read_only);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(block_image_read(image, i * 65536, &byte, 1), 0);
            assert_int_equal(byte, i == 3 ? 'n' + (int)turn : "cba n"[i]);
        }
        if (turn == 0) { /* it was not to be */
            block_chain_drop(image, below);
            assert_int_equal(block_image_read(below, 0, &byte, 1), 0);
            assert_int_equal(byte, 'c');
            continue;
        }
        byte = 't';
        assert_int_equal(block_image_write(image, 0, &byte, 1), 0);
        block_image_close(below);
        assert_int_equal(block_image_read(image, 65536, &byte, 1), 0);
        assert_int_equal(byte, 'b');
        block_image_close(image);
    }
    assert_int_equal(open_descriptors(), before);
    world_close(&w);
}

/* Its own extensions stay; what it is read with afterwards is what it names. */
static void another_name_of_what_it_lies_on(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    static const struct block_open_options alone = {.format = "qcow2", .alone = true};
    char longest[1500];
    world_open(&w);
    make_layers(&w);
    struct block_image *image = block_open(w.path[0], &alone, &err);
    assert_true(image->format->rebase(image, "2.img", "raw", &err));
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_false(image->format->rebase(image, longest, "raw", &err));
    assert_error(&err, ERROR_USAGE, "no room");
    block_image_close(image);
    uint8_t byte;
    image = block_open(w.path[0], &top, &err);
    assert_no_error(err);
    assert_string_equal(image->backing_name, "2.img");
    assert_string_equal(image->backing_format, "raw");
    assert_int_equal(block_image_read(image, 131072, &byte, 1), 0);
    assert_int_equal(byte, 'a');
    assert_int_equal(block_image_read(image, 65536, &byte, 1), 0);
    assert_int_equal(byte, 0);
    assert_int_equal(block_image_read(image, 0, &byte, 1), 0);
    assert_int_equal(byte, 'c');
    block_image_close(image);
    world_close(&w);
}

/* Sentences of who opens: about names, and about what may be trusted. */
static void names_are_read_as_carefully_as_images(void **state)
{
    (void)state;
    static const struct block_open_options guessed = {.format = NULL}, raw = {.format = "raw"};
    struct world w;
    struct error *err = NULL;
    struct block_chain chain;
    world_open(&w);
    make_layers(&w);
    assert_false(block_open_chain(w.path[0], &guessed, &chain, &err));
    assert_error(&err, ERROR_USAGE, "a guest could have written");
    assert_true(block_open_chain(w.path[0], &raw, &chain, &err));
    assert_int_equal(chain.count, 1);
    block_chain_close(&chain);
    assert_false(block_open_chain(w.path[2], &top, &chain, &err));
    assert_error(&err, ERROR_USAGE, "no qcow2 image");
    assert_int_equal(unlink(w.path[2]), 0);
    assert_false(block_open_chain(w.path[0], &top, &chain, &err));
    assert_error(&err, ERROR_HOST, "2.img");
    /* Below itself, read-only so that its own lock does not hinder. */
    assert_int_equal(symlink("0.img", w.path[2]), 0);
    static const struct block_open_options reading = {.format = "qcow2", .read_only = true};
    assert_false(block_open_chain(w.path[0], &reading, &chain, &err));
    error_free(err);
    world_close(&w);
}

/* A header that claims a disk larger than any gets a sentence from who opens it for good. */
static void impossible_sizes_do_not_stop_the_opener(void **state)
{
    (void)state;
    struct world w;
    struct error *err = NULL;
    struct block_chain chain;
    world_open(&w);
    make(w.path[0], "qcow2", NULL, NULL, 'a', 0);
    int fd = open(w.path[0], O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 24), 8);
    close(fd);
    assert_true(block_open_chain(w.path[0], &top, &chain, &err));
    assert_null(block_chain_open(&chain, "the disk", &taken, &err));
    assert_error(&err, ERROR_USAGE, "positive");
    world_close(&w);
}

/* --- connections --- */

struct peer {
    int fd;
    unsigned stale; /* answers to earlier questions, sent first */
    bool answers;
};

static void *peer_thread(void *opaque)
{
    struct peer *peer = opaque;
    uint32_t number;
    char answer[64];
    if (recv(peer->fd, &number, sizeof(number), 0) == sizeof(number) && peer->answers)
        for (unsigned i = 0; i <= peer->stale; i++) {
            uint32_t about = number - peer->stale + i;
            memcpy(answer, &about, 4);
            strcpy(answer + 4, i == peer->stale ? "the cat sits on it" : "too late");
            assert_int_equal(send(peer->fd, answer, 4 + strlen(answer + 4), 0),
                             4 + strlen(answer + 4));
        }
    close(peer->fd);
    return NULL;
}

/* What cannot be loaded in a sandbox is not tried there. Before the first test that loads it. */
static void without_the_library_nobody_is_asked(void **state)
{
    (void)state;
    static const struct block_chain_options how = {.format = "raw"};
    struct error *err = NULL;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    struct block_chain chain = {.fds = {pair[0]}, .count = 1};
    assert_true(block_chain_needs_nbd(&chain));
    assert_null(block_chain_open(&chain, "nbd://there", &how, &err));
    assert_error(&err, ERROR_USAGE, "before it is started anew");
    close(pair[1]);
}

static void who_connects_may_fail_lag_and_die(void **state)
{
    (void)state;
    static const struct block_chain_options how = {.format = "raw"};
    static const struct {
        struct peer peer;
        const char *sentence;
    } cases[] = {{{-1, 0, true}, "the cat sits on it"},
                 {{-1, 3, true}, "the cat sits on it"},
                 {{-1, 0, false}, "is gone"}};
    struct nbd_library library;
    struct error *err = NULL;
    assert_true(nbd_library_load(&library, &err));
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct peer peer = cases[i].peer;
        pthread_t thread;
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        peer.fd = pair[1];
        assert_int_equal(pthread_create(&thread, NULL, peer_thread, &peer), 0);
        struct block_chain chain = {.fds = {pair[0]}, .count = 1};
        assert_null(block_chain_open(&chain, "nbd://there", &how, &err));
        assert_error(&err, ERROR_HOST, cases[i].sentence);
        pthread_join(thread, NULL);
    }
    assert_int_equal(open_descriptors(), before);
}

/* --- addresses --- */

static void same(const char *got, const char *wanted)
{
    if (wanted == NULL)
        assert_null(got);
    else
        assert_string_equal(got, wanted);
}

static void addresses_of_servers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct nbd_uri uri;
    } cases[] = {
        {"nbd://host", {.host = "host", .port = "10809", .export = ""}},
        {"nbd://host/", {.host = "host", .port = "10809", .export = ""}},
        {"nbd://h:99/a/b", {.host = "h", .port = "99", .export = "a/b"}},
        {"nbd://[::1]:7/x", {.host = "::1", .port = "7", .export = "x"}},
        {"nbds://me@[fe80::2]",
         {.tls = true, .user = "me", .host = "fe80::2", .port = "10809", .export = ""}},
        {"nbds://h/%41%2f?tls-certificates=/c%20d&tls-verify-peer=false",
         {.tls = true,
          .trusting = true,
          .host = "h",
          .port = "10809",
          .export = "A/",
          .certificates = "/c d"}},
        {"nbd+unix:///?socket=/s", {.socket = "/s", .export = ""}},
        {"nbd+unix:///e?socket=/s;", {.socket = "/s", .export = "e"}},
        {"nbds+unix://alice@/?socket=s&tls-psk-file=k&tls-hostname=n",
         {.tls = true,
          .user = "alice",
          .socket = "s",
          .export = "",
          .psk_file = "k",
          .hostname = "n"}},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct error *err = NULL;
        struct nbd_uri uri;
        const struct nbd_uri *wanted = &cases[i].uri;
        assert_true(nbd_uri_parse(cases[i].text, &uri, &err));
        assert_int_equal(uri.tls, wanted->tls);
        assert_int_equal(uri.trusting, wanted->trusting);
        same(uri.user, wanted->user);
        same(uri.host, wanted->host);
        same(uri.port, wanted->port);
        same(uri.socket, wanted->socket);
        same(uri.export, wanted->export);
        same(uri.certificates, wanted->certificates);
        same(uri.psk_file, wanted->psk_file);
        same(uri.hostname, wanted->hostname);
        nbd_uri_clear(&uri);
    }
}

static void what_is_no_address(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "nbd:",
        "http://h",
        "nbd://",
        "nbd:///x",
        "nbd://h:",
        "nbd://[::1",
        "nbd://[::1]x",
        "nbd://h/%4",
        "nbd://h/%zz",
        "nbd://h/%00",
        "nbd+unix:///e",
        "nbd+unix://h/?socket=/s",
        "nbd://h?socket=/s",
        "nbd://h/?speed=fast",
        "nbds://h?tls-verify-peer",
        "nbds://h?tls-verify-peer=no",
        "nbds://h?tls-verify-peer=01",
        "nbds://h?tls-verify-peer=falsehood",
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error *err = NULL;
        struct nbd_uri uri;
        if (nbd_uri_parse(bad[i], &uri, &err))
            fail_msg("'%s' was taken for an address", bad[i]);
        assert_error(&err, ERROR_USAGE, "NBD server");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_needs_no_names),
        cmocka_unit_test(locks_go_with_the_descriptors),
        cmocka_unit_test(what_was_not_handed_over_is_missed),
        cmocka_unit_test(an_image_on_top_of_one_in_use),
        cmocka_unit_test(another_name_of_what_it_lies_on),
        cmocka_unit_test(names_are_read_as_carefully_as_images),
        cmocka_unit_test(impossible_sizes_do_not_stop_the_opener),
        cmocka_unit_test(without_the_library_nobody_is_asked),
        cmocka_unit_test(who_connects_may_fail_lag_and_die),
        cmocka_unit_test(addresses_of_servers),
        cmocka_unit_test(what_is_no_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
