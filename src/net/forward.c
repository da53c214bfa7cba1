/* SPDX-License-Identifier: MIT
 *
 * See forward.h.
 */
#include "net/forward.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static bool bad(const char *text, struct error **err)
{
    error_set(err, ERROR_USAGE, "'%s' is no port forwarding", text);
    error_hint(err, "Write tcp:2222:22 (or udp:...): a port of this host, then one of the guest; "
                    "tcp:0.0.0.0:2222:22 lets other hosts in.");
    return false;
}

static bool parse_port(const char *text, uint16_t *port)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || number < 1 || number > 65535)
        return false;
    *port = (uint16_t)number;
    return true;
}

static bool set_host(struct net_forward *forward, const char *address, uint16_t port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&forward->host;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&forward->host;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return true;
    }
    if (inet_pton(AF_INET6, address, &v6->sin6_addr) != 1)
        return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return true;
}

bool net_forward_parse(const char *text, struct net_forward *forward, struct error **err)
{
    char copy[128], loopback[] = "127.0.0.1", *address = copy + 4;
    *forward = (struct net_forward){.udp = strncmp(text, "udp:", 4) == 0};
    if ((!forward->udp && strncmp(text, "tcp:", 4) != 0) || strlen(text) >= sizeof(copy))
        return bad(text, err);
    snprintf(copy, sizeof(copy), "%s", text);
    char *guest = strrchr(address, ':'), *host = address;
    uint16_t port;
    if (guest == NULL)
        return bad(text, err);
    *guest++ = '\0';
    char *colon = strrchr(address, ':');
    if (colon != NULL) {
        *colon = '\0';
        host = colon + 1;
        size_t length = strlen(address);
        if (length > 1 && address[0] == '[' && address[length - 1] == ']') {
            address[length - 1] = '\0';
            address++;
        }
    } else {
        address = loopback;
    }
    if (!parse_port(host, &port) || !parse_port(guest, &forward->guest_port) ||
        !set_host(forward, address, port))
        return bad(text, err);
    return true;
}
