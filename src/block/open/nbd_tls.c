/* SPDX-License-Identifier: MIT
 *
 * See nbd_tls.h. The handshake of NBD (its proto.md, "Fixed newstyle negotiation") up to TLS is
 * spoken here; the client gets the server's greeting again, and from then on all bytes are the
 * client's and the server's own.
 */
#include "block/open/nbd_tls.h"

#include <errno.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/open/tls_relay.h"

enum { GREETING = 18, CLIENT_FLAGS = 4 }; /* bytes; the client's flags the server has already */

/* --- credentials --- */

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

static bool use_keys(struct tls_relay *relay, const struct nbd_uri *uri, struct error **err)
{
    const struct passwd *self = uri->user == NULL ? getpwuid(geteuid()) : NULL;
    const char *user = uri->user != NULL ? uri->user : self != NULL ? self->pw_name : "nobody";
    char *key = find_key(uri->psk_file, user, err);
    if (key == NULL)
        return false;
    const gnutls_datum_t datum = {(unsigned char *)key, (unsigned)strlen(key)};
    gnutls_session_t session = tls_relay_session(relay);
    gnutls_psk_client_credentials_t keys = tls_relay_keys(relay);
    int code = keys != NULL
                   ? gnutls_psk_set_client_credentials(keys, user, &datum, GNUTLS_PSK_KEY_HEX)
                   : GNUTLS_E_MEMORY_ERROR;
    free(key);
    if (code >= 0)
        code = gnutls_priority_set_direct(session, "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK", NULL);
    if (code >= 0)
        code = gnutls_credentials_set(session, GNUTLS_CRD_PSK, keys);
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
static int load_folder(gnutls_certificate_credentials_t certificates, const char *folder,
                       struct error **err)
{
    char *authority = file_in(folder, "ca-cert.pem"), *revoked = file_in(folder, "ca-crl.pem");
    char *mine = file_in(folder, "client-cert.pem"), *key = file_in(folder, "client-key.pem");
    int code = -1;
    if (authority == NULL)
        error_set(err, ERROR_USAGE, "cannot read '%s/ca-cert.pem'", folder);
    else
        code = gnutls_certificate_set_x509_trust_file(certificates, authority, GNUTLS_X509_FMT_PEM);
    if (code >= 0 && revoked != NULL)
        code = gnutls_certificate_set_x509_crl_file(certificates, revoked, GNUTLS_X509_FMT_PEM);
    if (code >= 0 && mine != NULL && key != NULL)
        code = gnutls_certificate_set_x509_key_file(certificates, mine, key, GNUTLS_X509_FMT_PEM);
    if (code < 0 && authority != NULL)
        tls_error(err, folder, code);
    free(authority);
    free(revoked);
    free(mine);
    free(key);
    return code;
}

static bool use_certificates(struct tls_relay *relay, const struct nbd_uri *uri, struct error **err)
{
    const char *name = uri->hostname != NULL ? uri->hostname : uri->host;
    char *folder = uri->certificates != NULL ? alloc_string(uri->certificates) : default_folder();
    gnutls_session_t session = tls_relay_session(relay);
    gnutls_certificate_credentials_t certificates = tls_relay_certificates(relay);
    int code = 0;
    bool good = certificates != NULL || tls_error(err, "TLS", GNUTLS_E_MEMORY_ERROR);
    good = good && (folder == NULL || load_folder(certificates, folder, err) >= 0);
    if (folder == NULL && good)
        code = gnutls_certificate_set_x509_system_trust(certificates);
    free(folder);
    if (!good)
        return false;
    if (code >= 0)
        code = gnutls_set_default_priority(session);
    if (code >= 0)
        code = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificates);
    if (code < 0)
        return tls_error(err, "TLS", code);
    if (name != NULL)
        (void)gnutls_server_name_set(session, GNUTLS_NAME_DNS, name, strlen(name));
    if (!uri->trusting)
        gnutls_session_set_verify_cert(session, name, 0);
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

int block_tls_start(int fd, const struct nbd_uri *uri, struct error **err)
{
    uint8_t greeting[GREETING];
    struct tls_relay *relay = tls_relay_new(fd, err);
    if (relay == NULL)
        return -1;
    if ((uri->psk_file != NULL ? use_keys(relay, uri, err) : use_certificates(relay, uri, err)) &&
        ask_for_tls(fd, greeting, err) && tls_relay_shake_hands(relay, err))
        return tls_relay_start(relay, greeting, GREETING, CLIENT_FLAGS, err);
    tls_relay_free(relay);
    return -1;
}
