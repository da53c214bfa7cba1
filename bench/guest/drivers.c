/* SPDX-License-Identifier: MIT
 *
 * What the first process of a tiny image needs before it can use the machine's disks and network.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "drivers.h"

void configure_interface(const char *own)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    inet_pton(AF_INET, own, &address.sin_addr);
    memcpy(&request.ifr_addr, &address, sizeof(address));
    if (fd < 0 || ioctl(fd, SIOCSIFADDR, &request) != 0)
        fail("the address of eth0");
    inet_pton(AF_INET, "255.255.255.0", &address.sin_addr);
    memcpy(&request.ifr_netmask, &address, sizeof(address));
    if (ioctl(fd, SIOCSIFNETMASK, &request) != 0)
        fail("the netmask of eth0");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        fail("eth0 up");
    close(fd);
}

void load_io_drivers(void)
{
    static const char *const modules[] = {
        "drivers/block/virtio_blk",
        "net/core/failover",
        "drivers/net/net_failover",
        "drivers/net/virtio_net",
    };
    struct utsname name;
    char path[512];
    uname(&name);
    mkdir("/dev", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) != 0 && errno != EBUSY)
        fail("mount /dev");
    for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
        snprintf(path, sizeof(path), "/lib/modules/%s/kernel/%s.ko", name.release, modules[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue; /* built into the kernel */
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST))
            fail(path);
        close(fd);
    }
}
