/* SPDX-License-Identifier: MIT
 *
 * Whose certificate a connection has shown, while descriptors' numbers are used again: strangers
 * and a friend as processes of their own, and this one in the HTTP server's place.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "daemon/remote.h"
#include "daemon/store.h"
#include "daemon/tls_front.h"

enum { GIVEN_MAX = 4, CALM_TURNS = 50 };

struct world {
    char folder[64];
    char paths[3][96]; /* certificate, key, authority */
    struct log log;
    struct store store;
    struct loop *loop;
    struct remote *remote;
    struct tls_front *front;
    struct sockaddr_in address;
    int given[GIVEN_MAX];
    unsigned count;
};

/* ---- a client: connects at once, shakes hands when it is told to ---- */

struct caller {
    pid_t pid;
    int go;
};

static _Noreturn void shake_hands(const struct world *w, int fd, bool friend)
{
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
    gnutls_certificate_allocate_credentials(&credentials);
    if (friend && gnutls_certificate_set_x509_key_file(credentials, w->paths[0], w->paths[1],
                                                       GNUTLS_X509_FMT_PEM) < 0)
        _exit(1);
    gnutls_init(&session, GNUTLS_CLIENT);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(session, fd);
    if (gnutls_handshake(session) < 0)
        _exit(1);
    for (;;) /* and reads nothing */
        pause();
}

static struct caller call(const struct world *w, bool friend)
{
    int go[2], there[2];
    char byte = 'x';
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    assert_int_equal(pipe2(there, O_CLOEXEC), 0);
    struct caller caller = {fork(), go[1]};
    if (caller.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (const struct sockaddr *)&w->address, sizeof(w->address)) != 0 ||
            write(there[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        shake_hands(w, fd, friend);
    }
    assert_int_equal(read(there[0], &byte, 1), 1);
    close(go[0]);
    close(there[0]);
    close(there[1]);
    return caller;
}

static void hang_up(const struct caller *caller)
{
    kill(caller->pid, SIGKILL);
    waitpid(caller->pid, NULL, 0);
    close(caller->go);
}

/* ---- the server ---- */

static void on_client(void *opaque, int fd, const struct sockaddr *from, socklen_t size)
{
    struct world *w = opaque;
    (void)from, (void)size;
    assert_true(w->count < GIVEN_MAX);
    w->given[w->count++] = fd;
    loop_quit(w->loop, 0);
}

static void quit(void *opaque)
{
    loop_quit(opaque, 1);
}

/* Whatever is ready now, once. */
static void turn(struct world *w)
{
    loop_post(w->loop, quit, w->loop);
    loop_run(w->loop);
}

/* The next connection that has shaken hands. */
static int next_given(struct world *w)
{
    unsigned before = w->count;
    assert_int_equal(loop_run(w->loop), 0);
    assert_int_equal(w->count, before + 1);
    return w->given[before];
}

/* More than a client that reads nothing takes: the front is left with some of it. */
static void stuff(struct world *w, int fd)
{
    static const char bytes[65536];
    for (unsigned calm = 0; calm < CALM_TURNS; calm++) {
        while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
            calm = 0;
        turn(w);
    }
}

static void test_a_number_that_is_used_again_is_nobody_s(void **state)
{
    struct world *w = *state;
    struct caller stranger = call(w, false), friend = call(w, true);
    int low = dup(STDERR_FILENO); /* with it a pair of descriptors is free again later */
    assert_int_equal(write(friend.go, "g", 1), 1);
    int first = next_given(w);
    assert_true(low < first);
    assert_string_equal(tls_front_certificate(w->front, first), "certificate 'friend'");
    stuff(w, first);
    close(low);
    close(first); /* the server is done with it, and its client has yet to read */
    assert_int_equal(write(stranger.go, "g", 1), 1);
    int second = next_given(w);
    assert_int_equal(second, first);
    assert_null(tls_front_certificate(w->front, second));
    close(second);
    hang_up(&friend);
    hang_up(&stranger);
}

static void test_each_has_its_own(void **state)
{
    struct world *w = *state;
    struct caller callers[3];
    int fds[3];
    for (int i = 0; i < 3; i++) {
        callers[i] = call(w, i == 1);
        assert_int_equal(write(callers[i].go, "g", 1), 1);
        fds[i] = next_given(w);
    }
    assert_null(tls_front_certificate(w->front, fds[0]));
    assert_string_equal(tls_front_certificate(w->front, fds[1]), "certificate 'friend'");
    assert_null(tls_front_certificate(w->front, fds[2]));
    for (int i = 0; i < 3; i++) {
        close(fds[i]);
        hang_up(&callers[i]);
    }
}

/* ---- around it ---- */

static bool make_keys(const struct world *w)
{
    char command[800];
    snprintf(command, sizeof(command),
             "cd %s && n='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes' && "
             "openssl req -x509 $n -keyout ca.key -out ca.pem -days 2 -subj /CN=authority && "
             "openssl req $n -keyout own.key -out own.csr -subj /CN=friend && "
             "openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
             "-out own.pem && chmod 600 own.key",
             w->folder);
    char *quiet = NULL;
    if (asprintf(&quiet, "( %s ) >/dev/null 2>&1", command) < 0)
        return false;
    bool good = system(quiet) == 0;
    free(quiet);
    return good;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    static const char *const names[] = {"own.pem", "own.key", "ca.pem"};
    struct error *err = NULL;
    socklen_t size = sizeof(w->address);
    *state = w;
    strcpy(w->folder, "/tmp/trapeze-tls-front-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    assert_true(make_keys(w));
    for (int i = 0; i < 3; i++)
        snprintf(w->paths[i], sizeof(w->paths[i]), "%s/%s", w->folder, names[i]);
    log_init(&w->log, LOG_LEVEL_ERROR, STDERR_FILENO, "");
    const struct remote_options options = {.listen = "tcp:127.0.0.1:0",
                                           .certificate = w->paths[0],
                                           .key = w->paths[1],
                                           .client_ca = w->paths[2]};
    w->remote = remote_new(&options, -1, &w->store, &w->log, &err);
    assert_no_error(err);
    w->loop = loop_new(&err);
    assert_no_error(err);
    int fd = remote_take_socket(w->remote);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&w->address, &size), 0);
    w->front = tls_front_new(w->loop, w->remote, fd, on_client, w, &err);
    assert_no_error(err);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char command[128];
    tls_front_free(w->front);
    loop_free(w->loop);
    remote_free(w->remote);
    snprintf(command, sizeof(command), "rm -r %s", w->folder);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_has_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_number_that_is_used_again_is_nobody_s, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
