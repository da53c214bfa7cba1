/* SPDX-License-Identifier: MIT
 *
 * See remote.h.
 */
#include "daemon/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "daemon/tokens.h"

enum { PEM_MAX = 1 << 20, FAILURES_MAX = 20, SUSPECTS = 256, BACKLOG = 64 };

/* An address that has failed. */
struct suspect {
    uint8_t address[16];
    unsigned failures;
    time_t since; /* monotonic; 0: a free row */
};

/* What a connection may still be using. */
struct old_credentials {
    struct old_credentials *next;
    gnutls_certificate_credentials_t credentials;
};

struct remote {
    struct remote_options options;
    struct old_credentials *old;
    const struct store *store;
    struct log *log;
    struct log_limit limit;
    int fd;
    gnutls_certificate_credentials_t credentials; /* NULL: no TLS */
    bool has_client_ca;
    uint64_t refused;
    struct suspect suspects[SUSPECTS];
};

/* ---- listening ---- */

bool remote_parse(const char *text, char **address, char **port, struct error **err)
{
    const char *start = text + strlen("tcp:");
    const char *colon = strncmp(text, "tcp:", strlen("tcp:")) == 0 ? strrchr(start, ':') : NULL;
    const char *end = colon;
    if (colon != NULL && *start == '[' && colon[-1] == ']') {
        start++;
        end--;
    } else if (colon != NULL && memchr(start, ':', (size_t)(colon - start)) != NULL) {
        colon = NULL; /* an IPv6 address without brackets: where does it end? */
    }
    size_t digits = colon != NULL ? strspn(colon + 1, "0123456789") : 0;
    if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' || atoi(colon + 1) > UINT16_MAX ||
        end <= start) {
        error_set(err, ERROR_USAGE, "'%s' is not a place to listen at", text);
        error_hint(err, "Write tcp:ADDRESS:PORT, an IPv6 address in brackets.");
        return false;
    }
    *address = strndup(start, (size_t)(end - start));
    *port = alloc_string(colon + 1);
    return true;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 ==
               127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static int listen_at(const struct addrinfo *at)
{
    int one = 1, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int number = errno;
    if (fd >= 0)
        close(fd);
    errno = number;
    return -1;
}

static int open_socket(const char *text, struct error **err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char *address, *port;
    int fd = -1;
    if (!remote_parse(text, &address, &port, err))
        return -1;
    int code = getaddrinfo(address, port, &hints, &found);
    if (code != 0) {
        error_set(err, ERROR_USAGE, "--listen '%s': %s", text, gai_strerror(code));
    } else if ((fd = listen_at(found)) < 0) {
        error_set_errno(err, errno, "cannot listen at '%s'", text);
        error_hint(err, "Is the address one of this host's, and the port free?");
    }
    if (found != NULL)
        freeaddrinfo(found);
    free(address);
    free(port);
    return fd;
}

/* So that a test, or a person who asked for port 0, knows where. */
static bool look_where(struct remote *remote, struct error **err)
{
    struct sockaddr_storage where;
    socklen_t size = sizeof(where);
    char address[64] = "", port[8] = "";
    if (getsockname(remote->fd, (struct sockaddr *)&where, &size) != 0)
        return error_set_errno(err, errno, "the inherited socket is none that listens");
    getnameinfo((const struct sockaddr *)&where, size, address, sizeof(address), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    if (remote->credentials == NULL && !is_loopback((const struct sockaddr *)&where)) {
        error_set(err, ERROR_USAGE, "--insecure is for loopback addresses, and %s is none",
                  address);
        error_hint(err, "Anybody on the way could read the tokens. Give a --certificate and a "
                        "--key instead.");
        return false;
    }
    log_info(remote->log, "listening at %s, port %s, %s", address, port,
             remote->credentials == NULL ? "without TLS" : "with TLS");
    return true;
}

/* ---- keys ---- */

static char *read_pem(const char *path, bool secret, struct error **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    char *text = alloc_zeroed(1, PEM_MAX + 1);
    ssize_t size = fd >= 0 && fstat(fd, &status) == 0 ? read(fd, text, PEM_MAX) : -1;
    bool good = size >= 0;
    if (!good) {
        error_set_errno(err, errno, "cannot read '%s'", path);
    } else if (secret && (status.st_mode & 077) != 0) {
        good = error_set(err, ERROR_USAGE, "others can read the key '%s'", path);
        error_hint(err, "Make its mode 0600.");
    }
    if (fd >= 0)
        close(fd);
    if (good)
        return text;
    explicit_bzero(text, PEM_MAX);
    free(text);
    return NULL;
}

static bool use_keys(struct remote *remote, const struct remote_options *options,
                     const char *certificate_pem, const char *key_pem, struct error **err)
{
    const gnutls_datum_t certificate = {(unsigned char *)(uintptr_t)certificate_pem,
                                        (unsigned)strlen(certificate_pem)};
    const gnutls_datum_t key = {(unsigned char *)(uintptr_t)key_pem, (unsigned)strlen(key_pem)};
    if (gnutls_certificate_allocate_credentials(&remote->credentials) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    int code = gnutls_certificate_set_x509_key_mem(remote->credentials, &certificate, &key,
                                                   GNUTLS_X509_FMT_PEM);
    return code >= 0 ||
           error_set(err, ERROR_USAGE, "'%s' and '%s' are no certificate and its key: %s",
                     options->certificate, options->key, gnutls_strerror(code));
}

static bool use_client_ca(struct remote *remote, const char *path, struct error **err)
{
    if (path == NULL)
        return true;
    char *pem = read_pem(path, false, err);
    if (pem == NULL)
        return false;
    const gnutls_datum_t authority = {(unsigned char *)pem, (unsigned)strlen(pem)};
    int code =
        gnutls_certificate_set_x509_trust_mem(remote->credentials, &authority, GNUTLS_X509_FMT_PEM);
    free(pem);
    remote->has_client_ca = true;
    return code > 0 || error_set(err, ERROR_USAGE, "'%s' has no certificate of an authority", path);
}

static bool take_keys(struct remote *remote, const struct remote_options *options,
                      struct error **err)
{
    if (options->insecure &&
        (options->certificate != NULL || options->key != NULL || options->client_ca != NULL))
        return error_set(err, ERROR_USAGE, "--insecure is without TLS, so without certificates");
    if (options->insecure)
        return true;
    if (options->certificate == NULL || options->key == NULL) {
        error_set(err, ERROR_USAGE,
                  "serving over TCP needs TLS: --certificate FILE and --key FILE");
        error_hint(err, "On a loopback address, --insecure does without.");
        return false;
    }
    char *certificate = read_pem(options->certificate, false, err);
    char *key = certificate != NULL ? read_pem(options->key, true, err) : NULL;
    bool good = key != NULL && use_keys(remote, options, certificate, key, err) &&
                use_client_ca(remote, options->client_ca, err);
    if (key != NULL)
        explicit_bzero(key, strlen(key));
    free(certificate);
    free(key);
    return good;
}

/* ---- life ---- */

struct remote *remote_new(const struct remote_options *options, int fd, const struct store *store,
                          struct log *log, struct error **err)
{
    struct remote *remote = alloc_zeroed(1, sizeof(*remote));
    remote->options = *options;
    remote->store = store;
    remote->log = log;
    remote->fd = fd;
    if (take_keys(remote, options, err)) {
        if (fd < 0)
            remote->fd = open_socket(options->listen, err);
        if (remote->fd >= 0 && look_where(remote, err))
            return remote;
    }
    remote_free(remote);
    return NULL;
}

bool remote_reload(struct remote *remote, struct error **err)
{
    struct remote fresh = {.options = remote->options};
    if (remote->credentials == NULL)
        return true;
    if (!take_keys(&fresh, &remote->options, err)) {
        if (fresh.credentials != NULL)
            gnutls_certificate_free_credentials(fresh.credentials);
        return false;
    }
    struct old_credentials *old = alloc_zeroed(1, sizeof(*old));
    *old = (struct old_credentials){remote->old, remote->credentials};
    remote->old = old;
    remote->credentials = fresh.credentials;
    remote->has_client_ca = fresh.has_client_ca;
    return true;
}

void remote_free(struct remote *remote)
{
    if (remote == NULL)
        return;
    if (remote->fd >= 0)
        close(remote->fd);
    for (struct old_credentials *old = remote->old, *next; old != NULL; old = next) {
        next = old->next;
        gnutls_certificate_free_credentials(old->credentials);
        free(old);
    }
    if (remote->credentials != NULL)
        gnutls_certificate_free_credentials(remote->credentials);
    free(remote);
}

int remote_take_socket(struct remote *remote)
{
    int fd = remote->fd;
    remote->fd = -1;
    return fd;
}

gnutls_certificate_credentials_t remote_credentials(const struct remote *remote)
{
    return remote->credentials;
}

uint64_t remote_refused(const struct remote *remote)
{
    return remote->refused;
}

void remote_token_who(const char *token, char who[REMOTE_WHO])
{
    snprintf(who, REMOTE_WHO, "token '%s'", token);
}

/* ---- who comes ---- */

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* never 0 */
}

/* The row of an address: its own, a free one or the oldest. */
static struct suspect *suspect_of(struct remote *remote, const struct sockaddr *from)
{
    uint8_t address[16] = {0};
    struct suspect *row = &remote->suspects[0];
    if (from != NULL && from->sa_family == AF_INET6) {
        const struct in6_addr *in = &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
        memcpy(address, in, IN6_IS_ADDR_V4MAPPED(in) ? 16 : 8);
    } else if (from != NULL && from->sa_family == AF_INET) {
        address[10] = address[11] = 0xff;
        memcpy(address + 12, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
    }
    for (size_t i = 0; i < SUSPECTS; i++) {
        struct suspect *at = &remote->suspects[i];
        if (at->since != 0 && memcmp(at->address, address, sizeof(address)) == 0) {
            row = at;
            break;
        }
        if (at->since < row->since)
            row = at;
    }
    if (memcmp(row->address, address, sizeof(address)) != 0 ||
        now_s() - row->since >= REMOTE_WINDOW_S) {
        *row = (struct suspect){.since = 0};
        memcpy(row->address, address, sizeof(address));
    }
    return row;
}

/* Valid today; one that does not say what it is for is for everything. */
bool remote_knows(const struct remote *remote, gnutls_session_t session, char who[REMOTE_WHO])
{
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned status, count = 0;
    gnutls_x509_crt_t certificate;
    char name[64] = "";
    size_t size = sizeof(name);
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
    if (!remote->has_client_ca || chain == NULL || count == 0 ||
        gnutls_certificate_verify_peers(session, &purpose, 1, &status) < 0 || status != 0)
        return false;
    if (gnutls_x509_crt_init(&certificate) < 0)
        return false;
    if (gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER) >= 0)
        (void)gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name,
                                            &size);
    gnutls_x509_crt_deinit(certificate);
    snprintf(who, REMOTE_WHO, "certificate '%s'", name);
    return true;
}

enum remote_verdict remote_admit(struct remote *remote, const struct sockaddr *from,
                                 const char *certificate, const char *authorization,
                                 char who[REMOTE_WHO])
{
    struct suspect *suspect = suspect_of(remote, from);
    char name[TOKEN_NAME_MAX + 1];
    who[0] = '\0';
    if (certificate != NULL) { /* nothing to guess: others of the address do not shut it out */
        snprintf(who, REMOTE_WHO, "%s", certificate);
        return REMOTE_ADMITTED;
    }
    if (suspect->failures >= FAILURES_MAX) {
        remote->refused++;
        return REMOTE_TOO_OFTEN;
    }
    if (tokens_admit(remote->store, authorization, name)) {
        remote_token_who(name, who);
        return REMOTE_ADMITTED;
    }
    char shown[64] = "?";
    if (from != NULL)
        getnameinfo(from,
                    from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                : sizeof(struct sockaddr_in),
                    shown, sizeof(shown), NULL, 0, NI_NUMERICHOST);
    log_guest(remote->log, &remote->limit, "%s came without a token or certificate of ours", shown);
    if (suspect->failures++ == 0)
        suspect->since = now_s();
    remote->refused++;
    return REMOTE_STRANGER;
}
