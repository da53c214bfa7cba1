/* SPDX-License-Identifier: MIT
 *
 * See remote.h.
 */
#include "client/remote.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/open/connector.h"
#include "block/open/tls_relay.h"
#include "client/api.h"
#include "config/text.h"

enum { TOKEN_MAX = 200, PEM_MAX = 256 << 10, UNHEARD_MS = 30000 };
static const char standard_port[] = "7443";

/* ---- settings ---- */

static struct text *load_file(struct error **err)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int length = -1;
    if (xdg != NULL && xdg[0] == '/')
        length = asprintf(&path, "%s/trapeze/client.conf", xdg);
    else if (home != NULL && home[0] == '/')
        length = asprintf(&path, "%s/.config/trapeze/client.conf", home);
    struct text *text =
        length > 0 && access(path, F_OK) == 0 ? text_load(path, err) : text_new("client.conf");
    free(path);
    return text;
}

/* Caller frees; NULL: neither there nor there. */
static char *setting(const struct text *file, const char *variable, const char *key)
{
    const char *value = getenv(variable);
    if (value == NULL || value[0] == '\0')
        value = text_get(file, key);
    return value != NULL && value[0] != '\0' ? alloc_string(value) : NULL;
}

/* It goes into a header's line. */
static bool token_check(char *token, struct error **err)
{
    token[strcspn(token, "\r\n")] = '\0';
    for (const char *at = token; *at != '\0' || at == token; at++)
        if (*at <= 0x20 || *at > 0x7e)
            return error_set(err, ERROR_USAGE, "the token has a character that no token has");
    return true;
}

static char *load_token(const char *path, struct error **err)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *token = alloc_zeroed(1, TOKEN_MAX + 1);
    bool good = fd >= 0 && fstat(fd, &status) == 0 && read(fd, token, TOKEN_MAX) >= 0;
    if (!good) {
        error_set_errno(err, errno, "cannot read the token in '%s'", path);
    } else if ((status.st_mode & 077) != 0) {
        good = error_set(err, ERROR_USAGE, "others can read the token in '%s'", path);
        error_hint(err, "Make its mode 0600.");
    }
    if (fd >= 0)
        close(fd);
    if (good)
        return token;
    free(token);
    return NULL;
}

static bool is_loopback_name(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           strncmp(host, "127.", 4) == 0;
}

/* A certificate or a key; what it says, GnuTLS looks at. */
static char *load_pem(const char *path, struct error **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = alloc_zeroed(1, PEM_MAX + 1);
    if (fd < 0 || read(fd, text, PEM_MAX) < 0) {
        error_set_errno(err, errno, "cannot read '%s'", path);
        free(text);
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    return text;
}

bool client_remote_parse(const char *url, struct client_remote *remote, struct error **err)
{
    *remote = (struct client_remote){.is_remote = url[0] == '/'};
    if (remote->is_remote) {
        remote->url = alloc_string(url);
        remote->path = alloc_string(url);
        return true;
    }
    const char *at = url + strcspn(url, ":");
    bool tls = strncmp(url, "https://", 8) == 0, plain = strncmp(url, "http://", 7) == 0;
    at = tls ? url + 8 : plain ? url + 7 : "";
    bool brackets = *at == '[';
    const char *start = at + brackets, *end = start + strcspn(start, brackets ? "]" : ":/");
    const char *rest = brackets && *end == ']' ? end + 1 : end;
    const char *port = *rest == ':' ? rest + 1 : NULL;
    size_t digits = port != NULL ? strspn(port, "0123456789") : 0;
    const char *tail = port != NULL ? port + digits : rest;
    bool good = end > start && (!brackets || *end == ']') && (port == NULL || digits > 0) &&
                digits <= 5 && (*tail == '\0' || strcmp(tail, "/") == 0);
    for (const char *c = start; good && c < end; c++)
        good = *c > 0x20 && *c < 0x7f && strchr("/@?#%\\", *c) == NULL;
    if (!good) {
        error_set(err, ERROR_USAGE, "'%s' is no address of a daemon", url);
        error_hint(err, "Write https://NAME:PORT, or the absolute path of a daemon's socket.");
        return false;
    }
    remote->is_remote = true;
    remote->url = alloc_string(url);
    remote->tls = tls;
    remote->host = strndup(start, (size_t)(end - start));
    remote->port = port != NULL ? strndup(port, digits) : alloc_string(standard_port);
    if (tls || is_loopback_name(remote->host))
        return true;
    error_set(err, ERROR_USAGE, "'%s' is without TLS, which only this host's own addresses may be",
              url);
    error_hint(err, "Write https://NAME:PORT.");
    client_remote_clear(remote);
    return false;
}

/* The file that an option, the environment or the settings name, in that order; "": none does. */
static bool take_file(const struct text *file, const char *given, const char *variable,
                      const char *key, char *(*load)(const char *path, struct error **err),
                      char **content, struct error **err)
{
    char *path = given != NULL ? alloc_string(given) : setting(file, variable, key);
    if (path != NULL)
        *content = load(path, err);
    bool good = path == NULL || *content != NULL;
    free(path);
    return good;
}

static bool take_token(const struct text *file, const char *given, struct client_remote *remote,
                       struct error **err)
{
    const char *token = getenv("TRAPEZE_TOKEN");
    if (given == NULL && token != NULL && token[0] != '\0')
        remote->token = alloc_string(token);
    else if (!take_file(file, given, "TRAPEZE_TOKEN_FILE", "token-file", load_token, &remote->token,
                        err))
        return false;
    return remote->token == NULL || token_check(remote->token, err);
}

static bool take_certificates(const struct text *file, const struct client_remote_files *files,
                              struct client_remote *remote, struct error **err)
{
    return take_file(file, files->ca, "TRAPEZE_CA", "ca", load_pem, &remote->ca, err) &&
           take_file(file, files->certificate, "TRAPEZE_CERTIFICATE", "certificate", load_pem,
                     &remote->certificate, err) &&
           take_file(file, files->key, "TRAPEZE_KEY", "key", load_pem, &remote->key, err);
}

bool client_remote_load(struct client_remote *remote, struct error **err)
{
    static const struct client_remote_files none = {NULL, NULL, NULL, NULL};
    struct text *file = load_file(err);
    *remote = (struct client_remote){.is_remote = false};
    if (file == NULL)
        return false;
    char *url = setting(file, "TRAPEZE_HOST", "host");
    bool good = true;
    if (url != NULL && strcmp(url, "local") != 0) {
        good = client_remote_parse(url, remote, err);
        if (good && remote->path == NULL)
            good =
                take_certificates(file, &none, remote, err) && take_token(file, NULL, remote, err);
    }
    if (!good)
        client_remote_clear(remote);
    free(url);
    text_free(file);
    return good;
}

bool client_remote_choose(const char *url, const struct client_remote_files *files,
                          struct client_remote *remote, struct error **err)
{
    struct text *file = load_file(err);
    *remote = (struct client_remote){.is_remote = false};
    if (file == NULL)
        return false;
    bool good = client_remote_parse(url, remote, err);
    if (good && remote->path == NULL) {
        char *host = setting(file, "TRAPEZE_HOST", "host");
        bool same = host == NULL || strcmp(host, "local") == 0 || strcmp(host, url) == 0;
        good = take_certificates(file, files, remote, err) &&
               ((files->token == NULL && !same) || take_token(file, files->token, remote, err));
        free(host);
    }
    if (!good)
        client_remote_clear(remote);
    text_free(file);
    return good;
}

/* ---- from one process to another ---- */

json_t *client_remote_pack(const struct client_remote *remote)
{
    return json_pack("{s:s, s:s*, s:s*, s:s*, s:s*}", "url", remote->url, "ca", remote->ca,
                     "certificate", remote->certificate, "key", remote->key, "token",
                     remote->token);
}

bool client_remote_unpack(const json_t *way, struct client_remote *remote, struct error **err)
{
    const char *url, *ca = NULL, *certificate = NULL, *key = NULL, *token = NULL;
    *remote = (struct client_remote){.is_remote = false};
    if (json_unpack_ex((json_t *)(uintptr_t)way, NULL, JSON_STRICT, "{s:s, s?s, s?s, s?s, s?s}",
                       "url", &url, "ca", &ca, "certificate", &certificate, "key", &key, "token",
                       &token) != 0)
        return error_set(err, ERROR_USAGE,
                         "a daemon is an object with 'url', and perhaps 'ca', "
                         "'certificate', 'key' and 'token'");
    if (!client_remote_parse(url, remote, err))
        return false;
    remote->ca = ca != NULL ? alloc_string(ca) : NULL;
    remote->certificate = certificate != NULL ? alloc_string(certificate) : NULL;
    remote->key = key != NULL ? alloc_string(key) : NULL;
    remote->token = token != NULL ? alloc_string(token) : NULL;
    if (remote->token == NULL || token_check(remote->token, err))
        return true;
    client_remote_clear(remote);
    return false;
}

void client_remote_clear(struct client_remote *remote)
{
    char *const all[] = {remote->url, remote->path,        remote->host, remote->port,
                         remote->ca,  remote->certificate, remote->key,  remote->token};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i] != NULL) /* keys and tokens among them */
            explicit_bzero(all[i], strlen(all[i]));
        free(all[i]);
    }
    *remote = (struct client_remote){.is_remote = false};
}

/* ---- connecting ---- */

static bool is_address(const char *host)
{
    struct in6_addr address;
    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

static gnutls_datum_t datum(const char *text)
{
    return (gnutls_datum_t){(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
}

static bool use_certificates(gnutls_certificate_credentials_t credentials,
                             const struct client_remote *remote, struct error **err)
{
    int code;
    if (remote->ca != NULL) {
        gnutls_datum_t ca = datum(remote->ca);
        code = gnutls_certificate_set_x509_trust_mem(credentials, &ca, GNUTLS_X509_FMT_PEM);
    } else {
        code = gnutls_certificate_set_x509_system_trust(credentials);
    }
    if (code < 0)
        return tls_error(err,
                         remote->ca != NULL ? "the authority's certificate (ca)"
                                            : "this host's authorities",
                         code);
    if (remote->certificate == NULL && remote->key == NULL)
        return true;
    if (remote->certificate == NULL || remote->key == NULL)
        return error_set(err, ERROR_USAGE, "a certificate and its key go together");
    gnutls_datum_t certificate = datum(remote->certificate), key = datum(remote->key);
    code =
        gnutls_certificate_set_x509_key_mem(credentials, &certificate, &key, GNUTLS_X509_FMT_PEM);
    return code >= 0 || tls_error(err, "our certificate and its key", code);
}

static bool prepare(struct tls_relay *relay, const struct client_remote *remote, struct error **err)
{
    gnutls_session_t session = tls_relay_session(relay);
    gnutls_certificate_credentials_t credentials = tls_relay_certificates(relay);
    if (credentials == NULL)
        return tls_error(err, "TLS", GNUTLS_E_MEMORY_ERROR);
    if (!use_certificates(credentials, remote, err))
        return false;
    int code =
        gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2", NULL);
    if (code >= 0)
        code = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    if (code >= 0 && !is_address(remote->host))
        code = gnutls_server_name_set(session, GNUTLS_NAME_DNS, remote->host, strlen(remote->host));
    if (code < 0)
        return tls_error(err, "TLS", code);
    gnutls_session_set_verify_cert(session, remote->host, 0);
    return true;
}

static int connect_to_path(const char *path, struct error **err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == path ? alloc_string("/") : strndup(path, (size_t)(slash - path));
    int fd = api_connect_in(folder, slash + 1, err);
    free(folder);
    return fd;
}

/* A link that is cut in silence is noticed. */
static void limit_silence(int fd)
{
    int on = 1, unheard = UNHEARD_MS, seconds = UNHEARD_MS / 3000, probes = 3;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard, sizeof(unheard));
}

int client_remote_connect(const struct client_remote *remote, struct error **err)
{
    if (remote->path != NULL)
        return connect_to_path(remote->path, err);
    int fd = block_connect_tcp(remote->host, remote->port, err);
    if (fd >= 0)
        limit_silence(fd);
    struct tls_relay *relay = fd >= 0 && remote->tls ? tls_relay_new(fd, err) : NULL;
    if (relay != NULL && prepare(relay, remote, err) && tls_relay_shake_hands(relay, err)) {
        fd = tls_relay_start(relay, NULL, 0, 0, err);
    } else if (relay != NULL || (fd >= 0 && remote->tls)) {
        tls_relay_free(relay);
        fd = -1;
    }
    if (fd < 0)
        error_prefix(err, "cannot reach the daemon at %s, port %s", remote->host, remote->port);
    return fd;
}
