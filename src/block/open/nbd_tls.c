/* SPDX-License-Identifier: MIT
 *
 * See nbd_tls.h. The handshake of NBD (its proto.md, "Fixed newstyle negotiation") up to TLS is
 * spoken here; the client gets the server's greeting again, and from then on all bytes are the
 * client's and the server's own.
 */
#include "block/open/nbd_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { HANDSHAKE_MS = 5000, GREETING = 18, CLIENT_FLAGS = 4, RELAY_BYTES = 64 * 1024 };

/* One direction's bytes that the other side has not yet taken. */
struct pipe {
    size_t at, size;
    uint8_t bytes[RELAY_BYTES];
};

struct relay {
    gnutls_session_t session;
    gnutls_certificate_credentials_t certificates;
    gnutls_psk_client_credentials_t keys;
    int server, client;
    struct pipe down, up; /* to the client, to the server */
};

static void relay_free(struct relay *relay)
{
    if (relay->session != NULL)
        gnutls_deinit(relay->session);
    if (relay->certificates != NULL)
        gnutls_certificate_free_credentials(relay->certificates);
    if (relay->keys != NULL)
        gnutls_psk_free_client_credentials(relay->keys);
    if (relay->server >= 0)
        close(relay->server);
    if (relay->client >= 0)
        close(relay->client);
    free(relay);
}

/* --- credentials --- */

static bool tls_error(struct error **err, const char *what, int code)
{
    return error_set(err, ERROR_HOST, "%s: %s", what, gnutls_strerror(code));
}

/* The key behind "user:" in the file, in hexadecimal; the caller frees it. NULL: err. */
static char *find_key(const char *path, const char *user, struct error **err)
{
    FILE *file = fopen(path, "re");
    char *line = NULL, *key = NULL;
    size_t room = 0, length = strlen(user);
    if (file == NULL) {
        error_set_errno(err, errno, "tls-psk-file '%s'", path);
        return NULL;
    }
    while (key == NULL && getline(&line, &room, file) > 0)
        if (strncmp(line, user, length) == 0 && line[length] == ':') {
            line[strcspn(line, "\r\n")] = '\0';
            key = alloc_string(line + length + 1);
        }
    free(line);
    fclose(file);
    if (key == NULL)
        error_set(err, ERROR_USAGE, "tls-psk-file '%s' has no key of user '%s'", path, user);
    return key;
}

static bool use_keys(struct relay *relay, const struct nbd_uri *uri, struct error **err)
{
    const struct passwd *self = uri->user == NULL ? getpwuid(geteuid()) : NULL;
    const char *user = uri->user != NULL ? uri->user : self != NULL ? self->pw_name : "nobody";
    char *key = find_key(uri->psk_file, user, err);
    if (key == NULL)
        return false;
    const gnutls_datum_t datum = {(unsigned char *)key, (unsigned)strlen(key)};
    int code = gnutls_psk_allocate_client_credentials(&relay->keys);
    if (code >= 0)
        code = gnutls_psk_set_client_credentials(relay->keys, user, &datum, GNUTLS_PSK_KEY_HEX);
    free(key);
    if (code >= 0)
        code = gnutls_priority_set_direct(relay->session, "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK",
                                          NULL);
    if (code >= 0)
        code = gnutls_credentials_set(relay->session, GNUTLS_CRD_PSK, relay->keys);
    return code >= 0 || tls_error(err, "TLS with a pre-shared key", code);
}

/* FOLDER/NAME if it can be read, else NULL; the caller frees it. */
static char *file_in(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return NULL;
    if (access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* Where libnbd looks too; NULL: nowhere. */
static char *default_folder(void)
{
    static const char *const in_home[] = {".pki/libnbd", ".config/pki/libnbd"};
    const char *home = getenv("HOME");
    for (size_t i = 0; i <= ARRAY_SIZE(in_home); i++) {
        char *folder = NULL, *authority;
        if (i == ARRAY_SIZE(in_home))
            folder = alloc_string("/etc/pki/libnbd");
        else if (home == NULL || asprintf(&folder, "%s/%s", home, in_home[i]) < 0)
            continue;
        authority = file_in(folder, "ca-cert.pem");
        free(authority);
        if (authority != NULL)
            return folder;
        free(folder);
    }
    return NULL;
}

/* gnutls_certificate_set_… fail with a negative code. */
static int load_folder(struct relay *relay, const char *folder, struct error **err)
{
    char *authority = file_in(folder, "ca-cert.pem"), *revoked = file_in(folder, "ca-crl.pem");
    char *mine = file_in(folder, "client-cert.pem"), *key = file_in(folder, "client-key.pem");
    int code = -1;
    if (authority == NULL)
        error_set(err, ERROR_USAGE, "cannot read '%s/ca-cert.pem'", folder);
    else
        code = gnutls_certificate_set_x509_trust_file(relay->certificates, authority,
                                                      GNUTLS_X509_FMT_PEM);
    if (code >= 0 && revoked != NULL)
        code =
            gnutls_certificate_set_x509_crl_file(relay->certificates, revoked, GNUTLS_X509_FMT_PEM);
    if (code >= 0 && mine != NULL && key != NULL)
        code = gnutls_certificate_set_x509_key_file(relay->certificates, mine, key,
                                                    GNUTLS_X509_FMT_PEM);
    if (code < 0 && authority != NULL)
        tls_error(err, folder, code);
    free(authority);
    free(revoked);
    free(mine);
    free(key);
    return code;
}

static bool use_certificates(struct relay *relay, const struct nbd_uri *uri, struct error **err)
{
    const char *name = uri->hostname != NULL ? uri->hostname : uri->host;
    char *folder = uri->certificates != NULL ? alloc_string(uri->certificates) : default_folder();
    int code = gnutls_certificate_allocate_credentials(&relay->certificates);
    bool good = code >= 0 && (folder == NULL || load_folder(relay, folder, err) >= 0);
    if (folder == NULL && good)
        code = gnutls_certificate_set_x509_system_trust(relay->certificates);
    free(folder);
    if (!good)
        return false;
    if (code >= 0)
        code = gnutls_set_default_priority(relay->session);
    if (code >= 0)
        code = gnutls_credentials_set(relay->session, GNUTLS_CRD_CERTIFICATE, relay->certificates);
    if (code < 0)
        return tls_error(err, "TLS", code);
    if (name != NULL)
        (void)gnutls_server_name_set(relay->session, GNUTLS_NAME_DNS, name, strlen(name));
    if (!uri->trusting)
        gnutls_session_set_verify_cert(relay->session, name, 0);
    return true;
}

/* --- the handshake --- */

static bool read_all(int fd, void *data, size_t size)
{
    return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size;
}

static uint32_t client_flags(const uint8_t greeting[GREETING])
{
    return (uint32_t)(greeting[17] & 3); /* fixed newstyle, no zeroes: what we both know */
}

static bool ask_for_tls(int fd, uint8_t greeting[GREETING], struct error **err)
{
    static const uint8_t accepted[] = {0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0,
                                       0, 5, 0,    0,    0, 1,    0,    0,    0, 0};
    uint8_t request[] = {0,   0,   0, 0, 'I', 'H', 'A', 'V', 'E', 'O',
                         'P', 'T', 0, 0, 0,   5,   0,   0,   0,   0};
    uint8_t reply[sizeof(accepted)];
    if (!read_all(fd, greeting, GREETING) || memcmp(greeting, "NBDMAGICIHAVEOPT", 16) != 0 ||
        (greeting[17] & 1) == 0)
        return error_set(err, ERROR_HOST, "the server does not speak NBD, or none that knows TLS");
    request[3] = (uint8_t)client_flags(greeting);
    if (send(fd, request, sizeof(request), MSG_NOSIGNAL) == sizeof(request) &&
        read_all(fd, reply, sizeof(reply)) && memcmp(reply, accepted, sizeof(reply)) == 0)
        return true;
    return error_set(err, ERROR_HOST, "the server does not want TLS");
}

static bool shake_hands(struct relay *relay, struct error **err)
{
    int code;
    gnutls_transport_set_int(relay->session, relay->server);
    gnutls_handshake_set_timeout(relay->session, HANDSHAKE_MS);
    do
        code = gnutls_handshake(relay->session);
    while (code < 0 && gnutls_error_is_fatal(code) == 0);
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        gnutls_datum_t text;
        unsigned status = gnutls_session_get_verify_cert_status(relay->session);
        if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
            error_set(err, ERROR_HOST, "TLS: %s", (const char *)text.data);
            gnutls_free(text.data);
            return false;
        }
    }
    return code >= 0 || tls_error(err, "TLS", code);
}

/* Until the descriptor does not block any more. */
static void set_patience(int fd, int ms)
{
    const struct timeval time = {ms / 1000, 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

/* --- carrying bytes --- */

static bool waits(ssize_t code)
{
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

static bool waits_for_socket(ssize_t code)
{
    return code < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Adds what came or takes what went; false: that side is gone. */
static bool came(struct pipe *pipe, ssize_t code, bool wait, bool *moved)
{
    if (wait)
        return true;
    if (code <= 0)
        return false;
    pipe->at = 0;
    pipe->size = (size_t)code;
    return *moved = true;
}

static bool went(struct pipe *pipe, ssize_t code, bool wait, bool *moved)
{
    if (wait)
        return true;
    if (code < 0)
        return false;
    pipe->at += (size_t)code;
    pipe->size -= (size_t)code;
    return *moved = true;
}

/* One round through both directions; false: one side is gone. */
static bool carry(struct relay *relay, bool *moved)
{
    struct pipe *down = &relay->down, *up = &relay->up;
    ssize_t code;
    bool good = true;
    if (down->size == 0) {
        code = gnutls_record_recv(relay->session, down->bytes, RELAY_BYTES);
        good = came(down, code, waits(code), moved);
    }
    if (good && down->size > 0) {
        code = send(relay->client, down->bytes + down->at, down->size, MSG_NOSIGNAL | MSG_DONTWAIT);
        good = went(down, code, waits_for_socket(code), moved);
    }
    if (good && up->size == 0) {
        code = recv(relay->client, up->bytes, RELAY_BYTES, MSG_DONTWAIT);
        good = came(up, code, waits_for_socket(code), moved);
    }
    if (good && up->size > 0) {
        code = gnutls_record_send(relay->session, up->bytes + up->at, up->size);
        good = went(up, code, waits(code), moved);
    }
    return good;
}

static void *relay_thread(void *opaque)
{
    struct relay *relay = opaque;
    uint8_t flags[CLIENT_FLAGS];
    /* The server has them already. */
    bool good = read_all(relay->client, flags, sizeof(flags)) && flags[0] == 0 && flags[1] == 0 &&
                flags[2] == 0;
    while (good) {
        bool moved = false;
        good = carry(relay, &moved);
        if (!good || moved)
            continue;
        struct pollfd set[] = {
            {.fd = relay->server,
             .events = (short)((relay->down.size == 0 ? POLLIN : 0) |
                               (relay->up.size > 0 ? POLLOUT : 0))},
            {.fd = relay->client,
             .events = (short)((relay->up.size == 0 ? POLLIN : 0) |
                               (relay->down.size > 0 ? POLLOUT : 0))},
        };
        good = poll(set, ARRAY_SIZE(set), -1) >= 0 || errno == EINTR;
    }
    (void)gnutls_bye(relay->session, GNUTLS_SHUT_WR);
    relay_free(relay);
    return NULL;
}

static bool start_relay(struct relay *relay, const uint8_t greeting[GREETING], int *client,
                        struct error **err)
{
    int pair[2];
    pthread_t thread;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "cannot make a socket pair");
    relay->client = pair[0];
    bool good = send(pair[0], greeting, GREETING, MSG_NOSIGNAL) == GREETING &&
                fcntl(relay->server, F_SETFL, O_NONBLOCK) == 0;
    int number = good ? pthread_create(&thread, NULL, relay_thread, relay) : errno;
    if (number != 0) {
        close(pair[1]);
        return error_set_errno(err, number, "cannot start a thread for TLS");
    }
    pthread_detach(thread);
    *client = pair[1];
    return true;
}

int block_tls_start(int fd, const struct nbd_uri *uri, struct error **err)
{
    uint8_t greeting[GREETING];
    struct relay *relay = alloc_zeroed(1, sizeof(*relay));
    int client = -1;
    relay->server = fd;
    relay->client = -1;
    int code = gnutls_init(&relay->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    bool good = code >= 0 || tls_error(err, "TLS", code);
    good = good &&
           (uri->psk_file != NULL ? use_keys(relay, uri, err) : use_certificates(relay, uri, err));
    set_patience(fd, HANDSHAKE_MS);
    good = good && ask_for_tls(fd, greeting, err) && shake_hands(relay, err) &&
           start_relay(relay, greeting, &client, err);
    if (!good)
        relay_free(relay);
    return client;
}
