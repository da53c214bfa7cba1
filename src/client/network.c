/* SPDX-License-Identifier: MIT
 *
 * See network.h.
 */
#include "client/network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "client/backend.h"
#include "client/worker.h"
#include "net/link.h"

enum { MTU_DEFAULT = 1500, NAME_MAX_BYTES = 32 };

/* A backend with one end of a new frame socket; `prepare` adds what follows. */
static bool start_own(struct client_network *network, size_t index, const char *name,
                      void (*prepare)(struct backend *backend, void *opaque), void *opaque,
                      struct error **err)
{
    struct backend backend;
    int status[2], pair[2];
    if (!backend_pipe(status, err))
        return false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        close(status[0]);
        close(status[1]);
        return error_set_errno(err, errno, "cannot make a frame socket");
    }
    backend_begin(&backend, name, status[1]);
    backend_add_fd(&backend, pair[1]);
    prepare(&backend, opaque);
    pid_t pid = backend_spawn(&backend, status, network->orphans, err);
    close(pair[1]);
    network->links[index] = pair[0];
    network->backends[index] = pid > 0 ? pid : 0;
    return pid >= 0;
}

/* ---- NAT ---- */

struct nat_arguments {
    const struct machine_nic *nic;
    char mtu[16];
    char *forwards; /* cut into words; freed after the start */
};

static void prepare_nat(struct backend *backend, void *opaque)
{
    struct nat_arguments *nat = opaque;
    char *rest = nat->forwards, *word;
    backend_add(backend, nat->nic->net == MACHINE_NET_HOSTONLY ? "restricted"
                         : nat->nic->host_loopback             ? "host"
                                                               : "open");
    backend_add(backend, nat->mtu);
    backend_add(backend, nat->nic->mac);
    while ((word = strsep(&rest, " ")) != NULL)
        if (word[0] != '\0')
            backend_add(backend, word);
}

static bool start_nat(struct client_network *network, size_t index, const struct machine_nic *nic,
                      struct error **err)
{
    struct nat_arguments nat = {.nic = nic,
                                .forwards = strdup(nic->forward != NULL ? nic->forward : "")};
    snprintf(nat.mtu, sizeof(nat.mtu), "%u", nic->mtu != 0 ? nic->mtu : MTU_DEFAULT);
    bool good = start_own(network, index, "net-nat", prepare_nat, &nat, err);
    free(nat.forwards);
    return good;
}

/* ---- tap devices and bridges ---- */

static bool tap_failed(const char *what, const char *name, struct error **err)
{
    int number = errno;
    error_set_errno(err, number, "%s '%s'", what, name);
    if (number == EPERM || number == EACCES)
        error_hint(err, "The host's network is the administrator's: 'ip tuntap add dev NAME mode "
                        "tap user YOU' makes a tap of your own for --net tap:NAME; or take --net "
                        "nat.");
    return false;
}

/* A tap device with offload headers; name "" or with %d: a new one. Writes the real name back. */
static int open_tap(char name[IFNAMSIZ], struct error **err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    memcpy(request.ifr_name, name, IFNAMSIZ);
    if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0) {
        memcpy(name, request.ifr_name, IFNAMSIZ);
        return fd;
    }
    tap_failed(fd < 0 ? "cannot open /dev/net/tun for" : "cannot use the tap device", name, err);
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool join_bridge(const char *bridge, const char *tap, struct error **err)
{
    struct ifreq request = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
    request.ifr_ifindex = (int)if_nametoindex(tap);
    bool good = fd >= 0 && ioctl(fd, SIOCBRADDIF, &request) == 0;
    if (good) {
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", tap);
        good = ioctl(fd, SIOCGIFFLAGS, &request) == 0;
        request.ifr_flags |= IFF_UP;
        good = good && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    }
    if (!good)
        tap_failed("cannot connect to the bridge", bridge, err);
    if (fd >= 0)
        close(fd);
    return good;
}

/* Gives an interface that nobody else has yet its address, and sets it up. */
static bool set_address(const char *tap, const char *host, unsigned length, unsigned mtu,
                        struct error **err)
{
    struct ifreq request = {.ifr_mtu = (int)mtu};
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", tap);
    bool good = fd >= 0 && ioctl(fd, SIOCSIFMTU, &request) == 0;
    inet_pton(AF_INET, host, &address.sin_addr);
    memcpy(&request.ifr_addr, &address, sizeof(address));
    good = good && ioctl(fd, SIOCSIFADDR, &request) == 0;
    address.sin_addr.s_addr = htonl(~0u << (32 - length));
    memcpy(&request.ifr_netmask, &address, sizeof(address));
    good =
        good && ioctl(fd, SIOCSIFNETMASK, &request) == 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0;
    request.ifr_flags |= IFF_UP;
    good = good && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    if (!good)
        tap_failed("cannot give this host the address", host, err);
    if (fd >= 0)
        close(fd);
    return good;
}

struct tap_arguments {
    int fd;
    char address[16], length[16]; /* of a host-only network, or empty */
    const char *metadata;         /* where its service is; NULL: nowhere */
    int talk;
};

static void prepare_tap(struct backend *backend, void *opaque)
{
    const struct tap_arguments *tap = opaque;
    backend_add_fd(backend, tap->fd);
    if (tap->metadata != NULL) {
        backend_add(backend, tap->metadata);
        backend_add(backend, "metadata");
        backend_add_fd(backend, tap->talk);
    }
    if (tap->address[0] == '\0')
        return;
    backend_add(backend, tap->address);
    backend_add(backend, tap->length);
}

/* The guest's network with an interface of this host, which goes when the guest does. */
static bool start_hostonly(struct client_network *network, size_t index,
                           const struct machine_nic *nic, struct error **err)
{
    char name[IFNAMSIZ] = "trapeze%d";
    struct tap_arguments tap = {.fd = -1};
    unsigned length;
    if (!machine_parse_network(nic->vnet, tap.address, &length))
        return error_set(err, ERROR_USAGE, "'%s' is no address in a network", nic->vnet);
    snprintf(tap.length, sizeof(tap.length), "%u", length);
    tap.fd = open_tap(name, err);
    bool good =
        tap.fd >= 0 &&
        set_address(name, tap.address, length, nic->mtu != 0 ? nic->mtu : MTU_DEFAULT, err) &&
        start_own(network, index, "net-tap", prepare_tap, &tap, err);
    if (tap.fd >= 0)
        close(tap.fd);
    if (!good)
        error_hint(err, "Without rights there is --net hostonly, with --forward for the ways in.");
    return good;
}

static bool start_tap(struct client_network *network, size_t index, const char *interface,
                      const char *bridge, struct error **err)
{
    char name[IFNAMSIZ] = {0};
    const char *wanted = bridge != NULL ? bridge : interface;
    if (strlen(wanted) >= sizeof(name))
        return error_set(err, ERROR_USAGE, "'%s' is too long for the name of an interface", wanted);
    snprintf(name, sizeof(name), "%s", bridge != NULL ? "trapeze%d" : interface);
    struct tap_arguments tap = {.fd = open_tap(name, err)};
    const struct client_metadata *metadata = network->metadata;
    if (metadata != NULL && metadata->talks[index] >= 0) {
        tap.metadata = metadata->address;
        tap.talk = metadata->talks[index];
    }
    bool good = tap.fd >= 0 && (bridge == NULL || join_bridge(bridge, name, err)) &&
                start_own(network, index, "net-tap", prepare_tap, &tap, err);
    if (tap.fd >= 0)
        close(tap.fd);
    return good;
}

/* ---- internal networks ---- */

static int switch_socket(const char *path, bool listens)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd >= 0 && (listens ? bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                                  listen(fd, MACHINE_MAX_NICS) == 0
                            : connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool start_switch(const char *path, struct error **err)
{
    struct backend backend;
    int status[2];
    if (!backend_pipe(status, err))
        return false;
    unlink(path);
    int fd = switch_socket(path, true);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot make the socket '%s'", path);
        close(status[0]);
        close(status[1]);
        return false;
    }
    backend_begin(&backend, "net-switch", status[1]);
    backend_add_fd(&backend, fd);
    backend_add(&backend, path);
    pid_t pid = backend_spawn(&backend, status, true, err);
    close(fd);
    return pid >= 0;
}

static bool check_name(const char *name, struct error **err)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '-' && name[i] != '_')
            length = 0;
    if (length > 0 && length <= NAME_MAX_BYTES)
        return true;
    return error_set(err, ERROR_USAGE,
                     "an internal network's name is made of at most %d letters, digits, '-' and "
                     "'_', not '%s'",
                     NAME_MAX_BYTES, name);
}

/* Under the lock nobody starts a second switch, and the present one does not end (net/switch.c). */
static bool join_internal(struct client_network *network, size_t index, const char *name,
                          uint16_t vlan, struct error **err)
{
    char path[100], lock[120];
    char *folder = check_name(name, err) ? client_runtime_folder(err) : NULL;
    if (folder == NULL)
        return false;
    bool fits = snprintf(path, sizeof(path), "%s/net-%s", folder, name) < (int)sizeof(path);
    free(folder);
    if (!fits)
        return error_set(err, ERROR_USAGE, "the path of the network's socket '%s' is too long",
                         path);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    int lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd < 0 || flock(lock_fd, LOCK_EX) != 0) {
        error_set_errno(err, errno, "cannot lock '%s'", lock);
        if (lock_fd >= 0)
            close(lock_fd);
        return false;
    }
    bool good = true;
    int fd = switch_socket(path, false);
    if (fd < 0) {
        good = start_switch(path, err);
        fd = good ? switch_socket(path, false) : -1;
    }
    if (good && (fd < 0 || !net_link_join(fd, vlan)))
        good = error_set_errno(err, errno, "cannot join the internal network '%s'", name);
    network->links[index] = fd;
    close(lock_fd);
    return good;
}

/* ---- all of them ---- */

static bool start_one(struct client_network *network, size_t index, const struct machine_nic *nic,
                      struct error **err)
{
    switch (nic->net) {
    case MACHINE_NET_NAT:
        return start_nat(network, index, nic, err);
    case MACHINE_NET_HOSTONLY:
        return nic->vnet != NULL ? start_hostonly(network, index, nic, err)
                                 : start_nat(network, index, nic, err);
    case MACHINE_NET_BRIDGED:
        return start_tap(network, index, NULL, nic->vnet, err);
    case MACHINE_NET_CUSTOM:
        if (strncmp(nic->vnet, "tap:", 4) == 0)
            return start_tap(network, index, nic->vnet + 4, NULL, err);
        return join_internal(network, index, nic->vnet + strlen("internal:"), (uint16_t)nic->vlan,
                             err);
    }
    return false;
}

bool client_network_start(const struct machine_config *config, struct client_network *network,
                          struct error **err)
{
    *network =
        (struct client_network){.count = config->nic_count, .metadata = network->metadata};
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++)
        network->links[i] = -1;
    for (size_t i = 0; i < config->nic_count; i++)
        if (!start_one(network, i, &config->nics[i], err)) {
            client_network_stop(network);
            return false;
        }
    return true;
}

int client_network_attach(const struct machine_nic *nic, struct error **err)
{
    struct client_network network = {.count = 1, .orphans = true};
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++)
        network.links[i] = -1;
    if (start_one(&network, 0, nic, err))
        return network.links[0];
    client_network_stop(&network);
    return -1;
}

void client_network_close_links(struct client_network *network)
{
    for (size_t i = 0; i < network->count; i++) {
        if (network->links[i] >= 0)
            close(network->links[i]);
        network->links[i] = -1;
    }
}

void client_network_stop(struct client_network *network)
{
    client_network_close_links(network);
    for (size_t i = 0; i < network->count; i++) {
        if (network->backends[i] <= 0)
            continue;
        kill(network->backends[i], SIGKILL); /* it has nothing to put in order */
        waitpid(network->backends[i], NULL, 0);
        network->backends[i] = 0;
    }
}
