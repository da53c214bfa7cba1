/* SPDX-License-Identifier: MIT
 *
 * See machine.h. What can only be judged with the files at hand (is this a kernel? is there
 * room for it?) is judged where they are opened, in vm/.
 */
#include "config/machine.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"

void machine_config_init(struct machine_config *config)
{
    *config = (struct machine_config){
        .arch = strdup("riscv64"),
        .engine = strdup("auto"),
        .interrupts = strdup("auto"),
        .memory = 512 * MIB,
        .cpus = 1,
        .restart_tries = 10,
    };
}

unsigned machine_max_cpus(const struct machine_config *config)
{
    return config->max_cpus > config->cpus ? config->max_cpus : config->cpus;
}

void machine_nic_clear(struct machine_nic *nic)
{
    char *const texts[] = {nic->vnet, nic->model, nic->mac, nic->capture, nic->forward};
    for (size_t k = 0; k < ARRAY_SIZE(texts); k++)
        free(texts[k]);
    *nic = (struct machine_nic){0};
}

void machine_nic_copy(struct machine_nic *to, const struct machine_nic *from)
{
    *to = *from;
    char **const texts[] = {&to->vnet, &to->model, &to->mac, &to->capture, &to->forward};
    for (size_t k = 0; k < ARRAY_SIZE(texts); k++)
        if (*texts[k] != NULL)
            *texts[k] = strdup(*texts[k]);
}

#define STRING(member) offsetof(struct machine_config, member)
static const size_t strings[] = {
    STRING(name),     STRING(owner),      STRING(guest_os),      STRING(arch),
    STRING(engine),   STRING(interrupts), STRING(host_features), STRING(trace),
    STRING(perf),     STRING(kernel),     STRING(initrd),        STRING(append),
    STRING(firmware), STRING(dump_fdt),   STRING(vsock_socket),  STRING(serial_path),
    STRING(parent),   STRING(expires),    STRING(cpu),
};
#undef STRING

static char **string_at(struct machine_config *config, size_t index)
{
    return (char **)(void *)((char *)config + strings[index]);
}

void machine_config_copy(struct machine_config *to, const struct machine_config *from)
{
    *to = *from;
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        if (*string_at(to, i) != NULL)
            *string_at(to, i) = strdup(*string_at(to, i));
    for (size_t i = 0; i < to->disk_count; i++)
        machine_disk_copy(&to->disks[i], &from->disks[i]);
    for (size_t i = 0; i < to->nic_count; i++)
        machine_nic_copy(&to->nics[i], &from->nics[i]);
    for (size_t i = 0; i < to->share_count; i++) {
        to->shares[i].path = strdup(from->shares[i].path);
        to->shares[i].tag = strdup(from->shares[i].tag);
    }
}

void machine_config_clear(struct machine_config *config)
{
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        free(*string_at(config, i));
    for (size_t i = 0; i < config->disk_count; i++)
        machine_disk_clear(&config->disks[i]);
    for (size_t i = 0; i < config->nic_count; i++)
        machine_nic_clear(&config->nics[i]);
    for (size_t i = 0; i < config->share_count; i++) {
        free(config->shares[i].path);
        free(config->shares[i].tag);
    }
    *config = (struct machine_config){0};
}

static bool check_share(const struct machine_config *config, size_t number, struct error **err)
{
    const struct machine_share *share = &config->shares[number];
    if (share->path == NULL || share->path[0] == '\0' || share->tag == NULL ||
        share->tag[0] == '\0' || strlen(share->tag) > MACHINE_MAX_TAG)
        return error_set(err, ERROR_USAGE,
                         "a shared folder has a path and a tag of 1 to %d bytes", MACHINE_MAX_TAG);
    for (size_t i = 0; i < number; i++)
        if (strcmp(config->shares[i].tag, share->tag) == 0)
            return error_set(err, ERROR_USAGE, "two shared folders have the tag '%s'", share->tag);
    return true;
}

/* 0 to 2 and the highest one have meanings of their own (virtio 1.2, 5.10.4). */
static bool check_vsock(const struct machine_config *config, struct error **err)
{
    const char *path = config->vsock_socket;
    if (config->vsock_cid == 0 && path == NULL)
        return true;
    if (config->vsock_cid < 3 || config->vsock_cid == UINT32_MAX)
        return error_set(err, ERROR_USAGE, "a guest's CID is from 3 to 4294967294, not %u",
                         config->vsock_cid);
    if (path != NULL && (path[0] == '\0' || strlen(path) > MACHINE_MAX_VSOCK_PATH))
        return error_set(err, ERROR_USAGE, "a vsock has a socket whose path has 1 to %d bytes",
                         MACHINE_MAX_VSOCK_PATH);
    if (config->deterministic)
        return error_set(err, ERROR_USAGE, "a deterministic machine has no vsock: what comes from "
                                           "it depends on real time");
    return true;
}

bool machine_parse_time(const char *text, int64_t *seconds)
{
    struct tm tm = {0}, made;
    int end = -1;
    if (sscanf(text, "%4d-%2d-%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &end) != 3 || end != 10)
        return false;
    if (text[end] == 'T') {
        int rest = -1;
        if (sscanf(text + end, "T%2d:%2d:%2dZ%n", &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &rest) !=
                3 ||
            rest != 10)
            return false;
        end += rest;
    }
    tm.tm_year -= 1900;
    tm.tm_mon--;
    made = tm;
    *seconds = timegm(&made); /* which also makes a day of 32 January */
    return text[end] == '\0' && made.tm_mon == tm.tm_mon && made.tm_mday == tm.tm_mday &&
           made.tm_hour == tm.tm_hour && made.tm_min == tm.tm_min && made.tm_sec == tm.tm_sec;
}

/* "30d": seconds. */
static bool parse_span(const char *text, int64_t *seconds)
{
    static const struct {
        char letter;
        int64_t seconds;
    } units[] = {{'h', 3600}, {'d', 86400}, {'w', 7 * 86400}};
    char *end;
    errno = 0;
    long number = isdigit((unsigned char)text[0]) ? strtol(text, &end, 10) : 0;
    for (size_t i = 0; number > 0 && number < 100000 && i < ARRAY_SIZE(units); i++)
        if (end[0] == units[i].letter && end[1] == '\0') {
            *seconds = number * units[i].seconds;
            return true;
        }
    return false;
}

bool machine_parse_expiry(const char *text, int64_t now, int64_t *seconds)
{
    int64_t span;
    if (!parse_span(text, &span))
        return machine_parse_time(text, seconds);
    *seconds = now + span;
    return true;
}

void machine_print_time(int64_t seconds, char text[24])
{
    time_t moment = (time_t)seconds;
    struct tm tm;
    text[0] = '\0';
    if (gmtime_r(&moment, &tm) != NULL)
        strftime(text, 24, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

bool machine_parse_mac(const char *text, uint8_t mac[6])
{
    int end = 0;
    return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3],
                  &mac[4], &mac[5], &end) == 6 &&
           text[end] == '\0' && (mac[0] & 1) == 0;
}

bool machine_parse_network(const char *text, char address[16], unsigned *length)
{
    struct in_addr ignored;
    const char *slash = strchr(text, '/');
    size_t digits = slash != NULL ? strspn(slash + 1, "0123456789") : 0;
    if (digits == 0 || digits > 2 || slash[1 + digits] != '\0' || slash - text >= 16)
        return false;
    memcpy(address, text, (size_t)(slash - text));
    address[slash - text] = '\0';
    *length = (unsigned)atoi(slash + 1);
    return inet_pton(AF_INET, address, &ignored) == 1 && *length >= 8 && *length <= 26;
}

static bool check_hostonly(const struct machine_nic *nic, size_t number, struct error **err)
{
    char address[16];
    unsigned length;
    if (nic->net != MACHINE_NET_HOSTONLY || nic->vnet == NULL)
        return true;
    if (nic->forward != NULL)
        return error_set(err, ERROR_USAGE,
                         "network %zu: this host has an interface there and forwards no ports",
                         number);
    if (machine_parse_network(nic->vnet, address, &length))
        return true;
    error_set(err, ERROR_USAGE, "network %zu: '%s' is no address of this host in a network", number,
              nic->vnet);
    error_hint(err, "Write hostonly:192.168.77.1/24; the mask has 8 to 26 bits.");
    return false;
}

/* The second bit of 02 says that nobody assigned it. */
bool machine_make_mac(const char *name, size_t index, char text[18], struct error **err)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (const char *at = name; at != NULL && *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    hash = (hash ^ index) * UINT64_C(0x100000001b3);
    if (name == NULL && getrandom(&hash, sizeof(hash), 0) != sizeof(hash))
        return error_set_errno(err, errno, "no random numbers");
    snprintf(text, 18, "02:%02x:%02x:%02x:%02x:%02x", (unsigned)(hash >> 56) & 0xff,
             (unsigned)(hash >> 48) & 0xff, (unsigned)(hash >> 40) & 0xff,
             (unsigned)(hash >> 32) & 0xff, (unsigned)(hash >> 24) & 0xff);
    return true;
}

bool machine_nic_check(const struct machine_nic *nic, size_t number, struct error **err)
{
    uint8_t mac[6];
    if (nic->mac != NULL && !machine_parse_mac(nic->mac, mac)) {
        error_set(err, ERROR_USAGE, "network %zu: '%s' is no MAC address of a single station",
                  number, nic->mac);
        error_hint(err, "One that is free to use looks like 02:00:00:12:34:56.");
        return false;
    }
    if (nic->mtu != 0 && (nic->mtu < 576 || nic->mtu > 65521))
        return error_set(err, ERROR_USAGE, "network %zu: an MTU is from 576 to 65521, not %u",
                         number, nic->mtu);
    if (nic->queues > MACHINE_MAX_QUEUES)
        return error_set(err, ERROR_USAGE, "network %zu: a NIC has 1 to %d pairs of queues, not %u",
                         number, MACHINE_MAX_QUEUES, nic->queues);
    if (nic->vlan > 4094)
        return error_set(err, ERROR_USAGE, "network %zu: VLANs are numbered 1 to 4094", number);
    bool internal = nic->net == MACHINE_NET_CUSTOM && nic->vnet != NULL &&
                    strncmp(nic->vnet, "internal:", 9) == 0 && nic->vnet[9] != '\0';
    if (nic->vlan != 0 && !internal)
        return error_set(err, ERROR_USAGE,
                         "network %zu: 'vlan' goes with an internal network, whose switch knows it",
                         number);
    if (nic->forward != NULL && nic->net != MACHINE_NET_NAT && nic->net != MACHINE_NET_HOSTONLY)
        return error_set(err, ERROR_USAGE,
                         "network %zu: ports are forwarded by 'nat' and 'hostonly' networks only",
                         number);
    if (!check_hostonly(nic, number, err))
        return false;
    if (nic->host_loopback && nic->net != MACHINE_NET_NAT)
        return error_set(err, ERROR_USAGE, "network %zu: 'host-loopback' goes with 'nat'", number);
    if (nic->net == MACHINE_NET_BRIDGED && nic->vnet == NULL)
        return error_set(err, ERROR_USAGE, "network %zu: a bridged network names its bridge",
                         number);
    if (nic->net == MACHINE_NET_CUSTOM && !internal &&
        (nic->vnet == NULL || strncmp(nic->vnet, "tap:", 4) != 0 || nic->vnet[4] == '\0'))
        return error_set(err, ERROR_USAGE,
                         "network %zu: a custom network is 'internal:NAME' or 'tap:INTERFACE'",
                         number);
    if (nic->model != NULL && strcmp(nic->model, "virtio") != 0 &&
        strcmp(nic->model, "e1000") != 0) {
        error_set(err, ERROR_USAGE, "network %zu: there is no NIC model '%s'", number, nic->model);
        error_hint(err, "There are 'virtio' and 'e1000'.");
        return false;
    }
    return true;
}

static bool check_nics(const struct machine_config *config, struct error **err)
{
    for (size_t i = 0; i < config->share_count; i++)
        if (!check_share(config, i, err))
            return false;
    for (size_t i = 0; i < config->nic_count; i++)
        if (!machine_nic_check(&config->nics[i], i, err))
            return false;
    if (config->nic_count > 0 && config->deterministic) {
        error_set(err, ERROR_USAGE, "a deterministic machine has no network: what comes from it "
                                    "depends on real time");
        error_hint(err, "Add --net none.");
        return false;
    }
    return true;
}

bool machine_has_arch(const char *arch)
{
    return strcmp(arch, "riscv64") == 0 || strcmp(arch, "x86_64") == 0;
}

static bool check_config(const struct machine_config *config, bool runs, struct error **err)
{
    if (!machine_has_arch(config->arch)) {
        error_set(err, ERROR_USAGE, "there is no guest architecture '%s'", config->arch);
        error_hint(err, "There are riscv64, on any host, and x86_64, on hosts with KVM.");
        return false;
    }
    if (config->cpu != NULL && strcmp(config->arch, "x86_64") != 0) {
        error_set(err, ERROR_USAGE, "guests for %s have no processor models", config->arch);
        error_hint(err, "--cpu goes with --arch x86_64.");
        return false;
    }
    static const char *const interrupts[] = {"auto", "plic", "aia"};
    size_t kind = 0;
    while (kind < ARRAY_SIZE(interrupts) && strcmp(config->interrupts, interrupts[kind]) != 0)
        kind++;
    if (kind == ARRAY_SIZE(interrupts)) {
        error_set(err, ERROR_USAGE, "there is no interrupt controller '%s'", config->interrupts);
        error_hint(err, "There are 'plic', 'aia' and 'auto'.");
        return false;
    }
    if (config->cpus < 1 || config->cpus > MACHINE_MAX_CPUS)
        return error_set(err, ERROR_USAGE, "a machine has 1 to %d CPUs, not %u", MACHINE_MAX_CPUS,
                         config->cpus);
    if (config->max_cpus > MACHINE_MAX_CPUS)
        return error_set(err, ERROR_USAGE, "a machine has room for 1 to %d CPUs, not %u",
                         MACHINE_MAX_CPUS, config->max_cpus);
    if (config->max_cpus != 0 && config->max_cpus < config->cpus) {
        error_set(err, ERROR_USAGE, "a machine with room for %u CPUs does not start with %u",
                  config->max_cpus, config->cpus);
        error_hint(err, "Raise max-cpus (trapeze.maxcpus) as well.");
        return false;
    }
    if (config->memory < MACHINE_MIN_MEMORY || config->memory > MACHINE_MAX_MEMORY ||
        config->memory % MIB != 0)
        return error_set(err, ERROR_USAGE,
                         "guest memory is a whole number of MiB from %u MiB to %u GiB",
                         (unsigned)(MACHINE_MIN_MEMORY / MIB), (unsigned)(MACHINE_MAX_MEMORY / GIB));
    if (config->code_cache != 0 &&
        (config->code_cache < MACHINE_MIN_CODE_CACHE ||
         config->code_cache > MACHINE_MAX_CODE_CACHE || config->code_cache % KIB != 0))
        return error_set(err, ERROR_USAGE,
                         "a code cache is a whole number of KiB from %u KiB to %u MiB",
                         (unsigned)(MACHINE_MIN_CODE_CACHE / KIB),
                         (unsigned)(MACHINE_MAX_CODE_CACHE / MIB));
    if (runs && config->kernel == NULL && config->firmware == NULL) {
        error_set(err, ERROR_USAGE, "there is nothing to run");
        error_hint(err, "Name an image (--image debian), a kernel (--kernel FILE) or a firmware or "
                        "bare-metal program (--firmware FILE).");
        return false;
    }
    if (config->kernel == NULL && (config->initrd != NULL || config->append != NULL)) {
        error_set(err, ERROR_USAGE, "%s goes with a kernel, and none is named",
                  config->initrd != NULL ? "an initrd" : "a kernel command line");
        error_hint(err, "Add --kernel FILE.");
        return false;
    }
    if (config->append != NULL && strlen(config->append) > MACHINE_MAX_APPEND) {
        error_set(err, ERROR_USAGE, "the kernel command line has %zu bytes, more than %d",
                  strlen(config->append), MACHINE_MAX_APPEND);
        error_hint(err, "Linux looks at the first 1023 only.");
        return false;
    }
    if (config->pci_slots > MACHINE_MAX_PCI_SLOTS)
        return error_set(err, ERROR_USAGE, "a machine has at most %d slots for hot-plug, not %u",
                         MACHINE_MAX_PCI_SLOTS, config->pci_slots);
    if (config->cpu_weight > MACHINE_MAX_CPU_WEIGHT)
        return error_set(err, ERROR_USAGE, "a machine's CPU weight is 1 to %d, not %u",
                         MACHINE_MAX_CPU_WEIGHT, config->cpu_weight);
    if (config->cpu_cap > MACHINE_MAX_CPU_CAP)
        return error_set(err, ERROR_USAGE, "a machine's CPU cap is 1 to %d percent, not %u",
                         MACHINE_MAX_CPU_CAP, config->cpu_cap);
    if (config->balloon_size > config->memory)
        return error_set(err, ERROR_USAGE, "the guest cannot keep more memory than its %llu MiB",
                         (unsigned long long)(config->memory / MIB));
    for (size_t i = 0; i < config->disk_count; i++)
        if (!machine_disk_check(&config->disks[i], err))
            return false;
    if (config->serial != MACHINE_SERIAL_TERMINAL &&
        (config->serial_path == NULL || config->serial_path[0] == '\0'))
        return error_set(err, ERROR_USAGE, "the serial port goes to a %s that is not named",
                         config->serial == MACHINE_SERIAL_FILE ? "file" : "socket");
    for (size_t i = 0; i < config->disk_count; i++)
        if (config->disks[i].queues > MACHINE_MAX_QUEUES)
            return error_set(err, ERROR_USAGE, "a disk has 1 to %d queues, not %llu",
                             MACHINE_MAX_QUEUES, (unsigned long long)config->disks[i].queues);
    int64_t expires;
    if (config->expires != NULL && !machine_parse_time(config->expires, &expires)) {
        error_set(err, ERROR_USAGE, "'%s' is no moment at which it could expire", config->expires);
        error_hint(err, "It is a moment of UTC such as 2026-12-24T18:00:00Z, or a day.");
        return false;
    }
    return check_nics(config, err) && check_vsock(config, err);
}

bool machine_config_check(const struct machine_config *config, struct error **err)
{
    return check_config(config, true, err);
}

bool machine_config_check_parts(const struct machine_config *config, struct error **err)
{
    return check_config(config, false, err);
}
