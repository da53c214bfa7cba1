/* SPDX-License-Identifier: MIT
 *
 * Control clients that leave at bad moments, with verbs of this test's own.
 */
#include "support.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/frame.h"
#include "base/loop.h"
#include "worker/control.h"

struct world {
    struct control_target target; /* first */
    struct loop *loop;
    struct control *control;
    int link; /* our end */
    struct sockaddr_un address;
    unsigned told, lost;
};

/* Like pause: an event goes out before the answer. */
static json_t *verb_tell(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct world *w = (struct world *)target;
    (void)arguments, (void)err;
    w->told++;
    control_event(w->control, json_pack("{s:s}", "event", "told"));
    return json_object();
}

static json_t *verb_stop(struct control_target *target, const json_t *arguments, struct error **err)
{
    (void)arguments;
    loop_quit(((struct world *)target)->loop, 0);
    error_set(err, ERROR_USAGE, "no \xff here");
    return NULL;
}

const struct control_verb control_verbs[] = {
    {"tell", false, verb_tell, false, false},
    {"stop", false, verb_stop, false, false},
};
const size_t control_verb_count = ARRAY_SIZE(control_verbs);

static void on_link_lost(void *opaque)
{
    ((struct world *)opaque)->lost++;
}

static void world_open(struct world *w)
{
    struct error *error = NULL;
    int pair[2], listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    *w = (struct world){.address = {.sun_family = AF_UNIX}};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    w->link = pair[0];
    /* An abstract name: nothing to clean up. */
    snprintf(w->address.sun_path + 1, sizeof(w->address.sun_path) - 1, "tz-control-%d", getpid());
    assert_int_equal(bind(listen_fd, (struct sockaddr *)&w->address, sizeof(w->address)), 0);
    assert_int_equal(listen(listen_fd, 64), 0);
    w->loop = loop_new(&error);
    w->control = control_new(w->loop, pair[1], listen_fd, &w->target, on_link_lost, w, &error);
    assert_no_error(error);
    assert_non_null(w->control);
}

static void world_close(struct world *w)
{
    control_free(w->control);
    loop_free(w->loop);
    if (w->link >= 0)
        close(w->link);
}

static void ask(int fd, const char *request)
{
    struct frame_writer writer = {0};
    assert_true(frame_writer_add(&writer, request, strlen(request)));
    assert_int_equal(frame_writer_flush(&writer, fd), FRAME_MESSAGE);
    frame_writer_clear(&writer);
}

static int client(struct world *w)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&w->address, sizeof(w->address)), 0);
    return fd;
}

/* What our end of the link has received, as one text. */
static void link_text(struct world *w, char *text, size_t size)
{
    ssize_t count = read(w->link, text, size - 1);
    assert_true(count > 0);
    for (ssize_t i = 0; i < count; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    text[count] = '\0';
}

/* It has asked for something that tells everybody, itself too, and is gone. */
static void a_client_that_left(void **state)
{
    struct world w;
    char text[4096];
    (void)state;
    world_open(&w);
    for (unsigned i = 0; i < 20; i++) {
        int fd = client(&w);
        ask(fd, "{\"id\":1,\"verb\":\"tell\"}");
        ask(fd, "{\"id\":2,\"verb\":\"tell\"}");
        close(fd);
    }
    int last = client(&w);
    ask(last, "{\"id\":1,\"verb\":\"stop\"}");
    loop_run(w.loop);
    close(last);
    assert_true(w.told >= 20); /* the first request of each was heard */
    assert_int_equal(w.lost, 0);
    link_text(&w, text, sizeof(text));
    assert_non_null(strstr(text, "told"));
    world_close(&w);
}

static void the_link_that_left(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    ask(w.link, "{\"id\":1,\"verb\":\"tell\"}");
    close(w.link);
    w.link = -1;
    int last = client(&w);
    ask(last, "{\"id\":1,\"verb\":\"stop\"}");
    loop_run(w.loop);
    close(last);
    assert_int_equal(w.told, 1);
    assert_int_equal(w.lost, 1);
    world_close(&w);
}

/* A sentence with bytes that are no UTF-8 arrives all the same. */
static void any_text_arrives(void **state)
{
    struct world w;
    char text[4096];
    (void)state;
    world_open(&w);
    ask(w.link, "{\"id\":1,\"verb\":\"stop\"}");
    loop_run(w.loop);
    link_text(&w, text, sizeof(text));
    assert_non_null(strstr(text, "no ? here"));
    world_close(&w);

    json_t *kept = control_text("caf\xc3\xa9");
    assert_string_equal(json_string_value(kept), "caf\xc3\xa9");
    json_decref(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_left),
        cmocka_unit_test(the_link_that_left),
        cmocka_unit_test(any_text_arrives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
