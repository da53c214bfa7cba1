/* SPDX-License-Identifier: MIT
 *
 * The way to a daemon on another host: where it is and what we show it. Each setting comes from
 * the environment (which the options before a command set, cli.c), else from client.conf in
 * $XDG_CONFIG_HOME/trapeze or ~/.config/trapeze, lines of `key = "value"`:
 *
 *     TRAPEZE_HOST         host         https://NAME[:7443], or the absolute path of a daemon's
 *                                       socket; empty or "local": this host's daemon
 *     TRAPEZE_CA           ca           who has signed the server's certificate; else the
 *                                       authorities that the host trusts
 *     TRAPEZE_CERTIFICATE  certificate  ours, PEM
 *     TRAPEZE_KEY          key          its key
 *     TRAPEZE_TOKEN_FILE   token-file   a token, which nobody else may read
 *     TRAPEZE_TOKEN        -            a token
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_REMOTE_H
#define TRAPEZE_CLIENT_REMOTE_H

#include <jansson.h>
#include <stdbool.h>

struct error;

struct client_remote {
    bool is_remote; /* otherwise the rest is empty */
    bool tls;
    char *url;
    char *path;                           /* of a unix socket; NULL: over TCP */
    char *host, *port;                    /* a name or an address, without brackets */
    char *ca, *certificate, *key, *token; /* the first three PEM; NULL: none */
};

/* False: err, and nothing to clear. */
bool client_remote_load(struct client_remote *remote, struct error **err);
void client_remote_clear(struct client_remote *remote);

/* A stream socket with plain HTTP at its other end. -1: err. */
int client_remote_connect(const struct client_remote *remote, struct error **err);

/* "https://NAME:PORT" in parts; the rest is empty. False: err. */
bool client_remote_parse(const char *url, struct client_remote *remote, struct error **err);

/* For a daemon that the settings do not name: certificates by the files given (NULL: the settings'),
 * the token by its file (NULL: the settings', unless they name another host). False: err. */
struct client_remote_files {
    const char *ca, *certificate, *key, *token;
};
bool client_remote_choose(const char *url, const struct client_remote_files *files,
                          struct client_remote *remote, struct error **err);

/* {"url", "ca", "certificate", "key", "token"}, secrets and all, and back. NULL, false: err. */
json_t *client_remote_pack(const struct client_remote *remote);
bool client_remote_unpack(const json_t *way, struct client_remote *remote, struct error **err);

#endif
