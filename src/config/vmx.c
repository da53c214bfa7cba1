/* SPDX-License-Identifier: MIT
 *
 * See vmx.h. One row per key says its name, its kind and where it lives; keys of a numbered
 * device ("scsi0:3.fileName") are rows of their own table, with the number cut out first.
 */
#include "config/vmx.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/suggest.h"

enum kind {
    KIND_STRING,
    KIND_UINT,
    KIND_UINT64,
    KIND_KIB,
    KIND_MIB,
    KIND_BOOL,
    KIND_RAM,
    KIND_MODE,
    KIND_NET
};

struct key {
    const char *name;
    enum kind kind;
    size_t offset;
};

#define FIELD(member) offsetof(struct machine_config, member)
static const struct key keys[] = {
    {"displayName", KIND_STRING, FIELD(name)},
    {"memsize", KIND_MIB, FIELD(memory)},
    {"numvcpus", KIND_UINT, FIELD(cpus)},
    {"trapeze.arch", KIND_STRING, FIELD(arch)},
    {"trapeze.engine", KIND_STRING, FIELD(engine)},
    {"trapeze.codeCache", KIND_KIB, FIELD(code_cache)},
    {"trapeze.hostCpuFeatures", KIND_STRING, FIELD(host_features)},
    {"trapeze.interrupts", KIND_STRING, FIELD(interrupts)},
    {"trapeze.countBlocks", KIND_BOOL, FIELD(count_blocks)},
    {"trapeze.trace", KIND_STRING, FIELD(trace)},
    {"trapeze.perf", KIND_STRING, FIELD(perf)},
    {"trapeze.kernel", KIND_STRING, FIELD(kernel)},
    {"trapeze.initrd", KIND_STRING, FIELD(initrd)},
    {"trapeze.append", KIND_STRING, FIELD(append)},
    {"trapeze.firmware", KIND_STRING, FIELD(firmware)},
    {"trapeze.noReboot", KIND_BOOL, FIELD(no_reboot)},
    {"trapeze.deterministic", KIND_BOOL, FIELD(deterministic)},
    {"trapeze.seed", KIND_UINT64, FIELD(seed)},
    {"trapeze.balloon", KIND_BOOL, FIELD(balloon)},
    {"trapeze.vsockCid", KIND_UINT, FIELD(vsock_cid)},
    {"trapeze.vsockSocket", KIND_STRING, FIELD(vsock_socket)},
    {"sched.mem.max", KIND_MIB, FIELD(balloon_size)},
    {"trapeze.virtioConsole", KIND_BOOL, FIELD(virtio_console)},
    {"trapeze.memoryBackend", KIND_RAM, FIELD(ram_backend)},
    {"trapeze.dumpDeviceTree", KIND_STRING, FIELD(dump_fdt)},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_disk, member)
static const struct key disk_keys[] = {
    {"fileName", KIND_STRING, FIELD(path)},
    {"mode", KIND_MODE, FIELD(read_only)},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_nic, member)
static const struct key nic_keys[] = {
    {"connectionType", KIND_NET, FIELD(net)},
    {"vnet", KIND_STRING, FIELD(vnet)},
    {"virtualDev", KIND_STRING, FIELD(model)},
    {"address", KIND_STRING, FIELD(mac)},
    {"trapeze.mtu", KIND_UINT, FIELD(mtu)},
    {"trapeze.vlan", KIND_UINT, FIELD(vlan)},
    {"trapeze.rate", KIND_UINT64, FIELD(rate)},
    {"trapeze.capture", KIND_STRING, FIELD(capture)},
    {"trapeze.forward", KIND_STRING, FIELD(forward)},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_share, member)
static const struct key share_keys[] = {
    {"hostPath", KIND_STRING, FIELD(path)},
    {"guestName", KIND_STRING, FIELD(tag)},
    {"writeAccess", KIND_BOOL, FIELD(writable)},
};
#undef FIELD

static void init_share(void *item)
{
    *(struct machine_share *)item = (struct machine_share){0};
}

static void init_disk(void *item)
{
    machine_disk_init(item);
}

static bool set_disk(void *item, const char *name, const char *value, struct error **err)
{
    return machine_disk_set(item, name, value, err);
}

static void write_string(FILE *out, const char *prefix, const char *name, const char *value);

static void write_disk(FILE *out, const char *prefix, const void *item)
{
    for (size_t k = 0; k < machine_disk_property_count(); k++) {
        char number[24], key[40];
        const char *name, *value = machine_disk_get(item, k, number, &name);
        snprintf(key, sizeof(key), "trapeze.%s", name);
        if (value != NULL)
            write_string(out, prefix, key, value);
    }
}

static void init_nic(void *item)
{
    *(struct machine_nic *)item = (struct machine_nic){0};
}

/* Devices that there are several of: "scsi0:3.fileName", "ethernet0.address". */
static const struct family {
    const char *prefix, *what;
    const struct key *keys;
    size_t key_count;
    size_t count_offset, first_offset, item_size, max;
    void (*init)(void *item);
    /* Properties by name, "trapeze.NAME", beside the keys; or NULL. */
    bool (*set)(void *item, const char *name, const char *value, struct error **err);
    void (*write)(FILE *out, const char *prefix, const void *item);
} families[] = {
    {"scsi0:", "disks", disk_keys, ARRAY_SIZE(disk_keys),
     offsetof(struct machine_config, disk_count), offsetof(struct machine_config, disks),
     sizeof(struct machine_disk), MACHINE_MAX_DISKS, init_disk, set_disk, write_disk},
    {"ethernet", "NICs", nic_keys, ARRAY_SIZE(nic_keys), offsetof(struct machine_config, nic_count),
     offsetof(struct machine_config, nics), sizeof(struct machine_nic), MACHINE_MAX_NICS, init_nic,
     NULL, NULL},
    {"sharedFolder", "shared folders", share_keys, ARRAY_SIZE(share_keys),
     offsetof(struct machine_config, share_count), offsetof(struct machine_config, shares),
     sizeof(struct machine_share), MACHINE_MAX_SHARES, init_share, NULL, NULL},
};

/* Two-valued words: index 0 is false. */
static const char *const bool_words[] = {"FALSE", "TRUE"};
static const char *const ram_words[] = {"anonymous", "memfd"};
static const char *const mode_words[] = {"persistent", "trapeze-readonly"};
static const char *const net_words[] = {"nat", "hostonly", "bridged", "custom"}; /* enum order */

struct position {
    const char *name;
    unsigned line;
};

static bool fail(const struct position *at, struct error **err, const char *what, const char *word)
{
    return error_set(err, ERROR_USAGE, "%s:%u: %s '%s'", at->name, at->line, what, word);
}

static bool parse_number(const char *text, uint64_t limit, uint64_t *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long long number = strtoull(text, &end, 10);
    *value = number;
    return errno == 0 && *end == '\0' && number <= limit;
}

static bool parse_word(const char *text, const char *const words[2], unsigned *index)
{
    for (*index = 0; *index < 2; (*index)++)
        if (strcasecmp(text, words[*index]) == 0)
            return true;
    return false;
}

static bool set_word(const struct position *at, const char *value, const char *const words[2],
                     unsigned *index, struct error **err)
{
    if (parse_word(value, words, index))
        return true;
    return error_set(err, ERROR_USAGE, "%s:%u: '%s' is neither \"%s\" nor \"%s\"", at->name,
                     at->line, value, words[0], words[1]);
}

static bool set_value(const struct key *key, void *object, const char *value,
                      const struct position *at, struct error **err)
{
    void *member = (char *)object + key->offset;
    uint64_t number;
    unsigned word;
    switch (key->kind) {
    case KIND_STRING:
        free(*(char **)member);
        *(char **)member = strdup(value);
        return true;
    case KIND_UINT:
        if (!parse_number(value, UINT32_MAX, &number))
            return fail(at, err, "not a number:", value);
        *(unsigned *)member = (unsigned)number;
        return true;
    case KIND_UINT64:
        return parse_number(value, UINT64_MAX, member) || fail(at, err, "not a number:", value);
    case KIND_KIB:
        if (!parse_number(value, UINT64_MAX / KIB, &number))
            return fail(at, err, "not a number of KiB:", value);
        *(uint64_t *)member = number * KIB;
        return true;
    case KIND_MIB:
        if (!parse_number(value, UINT64_MAX / MIB, &number))
            return fail(at, err, "not a number of MiB:", value);
        *(uint64_t *)member = number * MIB;
        return true;
    case KIND_BOOL:
    case KIND_MODE:
        if (!set_word(at, value, key->kind == KIND_BOOL ? bool_words : mode_words, &word, err))
            return false;
        *(bool *)member = word != 0;
        return true;
    case KIND_RAM:
        if (!set_word(at, value, ram_words, &word, err))
            return false;
        *(enum machine_ram_backend *)member = word ? MACHINE_RAM_MEMFD : MACHINE_RAM_ANONYMOUS;
        return true;
    case KIND_NET:
        for (word = 0; word < ARRAY_SIZE(net_words); word++)
            if (strcasecmp(value, net_words[word]) == 0) {
                *(enum machine_net *)member = (enum machine_net)word;
                return true;
            }
        return fail(at, err, "neither nat, hostonly, bridged nor custom:", value);
    }
    return false;
}

static const struct key *find_key(const struct key *table, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcasecmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

/* "PREFIXn.rest" of a family: its number and the rest; NULL if the name has another form. */
static const struct family *find_family(const char *name, size_t *number, const char **rest)
{
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        size_t length = strlen(families[i].prefix);
        char *end;
        if (strncasecmp(name, families[i].prefix, length) != 0 ||
            !isdigit((unsigned char)name[length]))
            continue;
        *number = strtoul(name + length, &end, 10);
        *rest = end + 1;
        return *end == '.' ? &families[i] : NULL;
    }
    return NULL;
}

static size_t *family_count(const struct family *family, struct machine_config *config)
{
    return (size_t *)(void *)((char *)config + family->count_offset);
}

static bool unknown_key(const struct position *at, const char *name, struct error **err)
{
    struct suggest suggest;
    suggest_start(&suggest, name);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        suggest_offer(&suggest, keys[i].name);
    fail(at, err, "unknown key", name);
    if (suggest.best != NULL)
        error_hint(err, "Did you mean %s?", suggest.best);
    return false;
}

static bool assign(struct machine_config *config, const char *name, const char *value,
                   const struct position *at, struct error **err)
{
    size_t number;
    const char *rest;
    const struct key *key = find_key(keys, ARRAY_SIZE(keys), name);
    if (key != NULL)
        return set_value(key, config, value, at, err);
    const struct family *family = find_family(name, &number, &rest);
    if (family == NULL)
        return unknown_key(at, name, err);
    key = find_key(family->keys, family->key_count, rest);
    bool property = key == NULL && family->set != NULL && strncasecmp(rest, "trapeze.", 8) == 0;
    if (key == NULL && !property)
        return unknown_key(at, name, err);
    size_t *count = family_count(family, config);
    if (number > *count || number >= family->max)
        return error_set(err, ERROR_USAGE,
                         "%s:%u: %s%zu: %s are numbered from 0 without gaps, %zu at most", at->name,
                         at->line, family->prefix, number, family->what, family->max);
    char *item = (char *)config + family->first_offset + number * family->item_size;
    if (number == *count) {
        family->init(item);
        ++*count;
    }
    if (property) {
        bool good = family->set(item, rest + 8, value, err);
        error_prefix(err, "%s:%u", at->name, at->line);
        return good;
    }
    return set_value(key, item, value, at, err);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    int lower = tolower((unsigned char)c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Undoes |XX in place. */
static bool unescape(char *value, const struct position *at, struct error **err)
{
    char *out = value;
    for (const char *in = value; *in != '\0'; in++) {
        if (*in != '|') {
            *out++ = *in;
            continue;
        }
        int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
        if (low < 0 || (high == 0 && low == 0))
            return fail(at, err, "'|' is not followed by two hexadecimal digits (not 00) in", value);
        *out++ = (char)(high * 16 + low);
        in += 2;
    }
    *out = '\0';
    return true;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    return text;
}

static bool parse_line(char *line, struct machine_config *config, const struct position *at,
                       struct error **err)
{
    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return true;
    char *equals = strchr(line, '=');
    if (equals == NULL)
        return fail(at, err, "expected key = \"value\", found", line);
    *equals = '\0';
    char *name = trim(line), *value = trim(equals + 1);
    size_t length = strlen(value);
    if (length < 2 || value[0] != '"' || value[length - 1] != '"' ||
        memchr(value + 1, '"', length - 2) != NULL)
        return fail(at, err, "the value must stand in double quotes (a quote in it is |22):",
                    value);
    value[length - 1] = '\0';
    value++;
    return unescape(value, at, err) && assign(config, name, value, at, err);
}

bool vmx_parse(const char *text, size_t size, const char *name, struct machine_config *config,
               struct error **err)
{
    struct position at = {name, 0};
    if (size > VMX_MAX_SIZE)
        return error_set(err, ERROR_USAGE, "%s: larger than 1 MiB, so not a machine description",
                         name);
    if (memchr(text, '\0', size) != NULL)
        return error_set(err, ERROR_USAGE, "%s: not a text file", name);
    char *copy = strndup(text, size);
    bool good = true;
    for (char *line = copy, *next; good && line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        at.line++;
        good = parse_line(line, config, &at, err);
    }
    free(copy);
    for (size_t i = 0; good && i < config->disk_count; i++)
        if (config->disks[i].path == NULL)
            good = error_set(err, ERROR_USAGE, "%s: disk scsi0:%zu has no fileName", name, i);
    return good;
}

static void write_string(FILE *out, const char *prefix, const char *name, const char *value)
{
    fprintf(out, "%s%s = \"", prefix, name);
    for (; *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;
        if (c < 0x20 || c == '"' || c == '|' || c == 0x7f)
            fprintf(out, "|%02X", c);
        else
            putc(c, out);
    }
    fputs("\"\n", out);
}

static void write_value(FILE *out, const char *prefix, const struct key *key, const void *object)
{
    const void *member = (const char *)object + key->offset;
    char number[24];
    const char *text = number;
    switch (key->kind) {
    case KIND_STRING:
        text = *(char *const *)member;
        break;
    case KIND_UINT:
        snprintf(number, sizeof(number), "%u", *(const unsigned *)member);
        break;
    case KIND_UINT64:
        snprintf(number, sizeof(number), "%llu", (unsigned long long)*(const uint64_t *)member);
        break;
    case KIND_KIB:
        snprintf(number, sizeof(number), "%llu",
                 (unsigned long long)(*(const uint64_t *)member / KIB));
        break;
    case KIND_MIB:
        snprintf(number, sizeof(number), "%llu",
                 (unsigned long long)(*(const uint64_t *)member / MIB));
        break;
    case KIND_BOOL:
        text = bool_words[*(const bool *)member];
        break;
    case KIND_MODE:
        text = mode_words[*(const bool *)member];
        break;
    case KIND_NET:
        text = net_words[*(const enum machine_net *)member];
        break;
    case KIND_RAM:
        text = ram_words[*(const enum machine_ram_backend *)member == MACHINE_RAM_MEMFD];
        break;
    }
    if (text != NULL)
        write_string(out, prefix, key->name, text);
}

char *vmx_write(const struct machine_config *config, size_t *size)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, size);
    if (out == NULL)
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        write_value(out, "", &keys[i], config);
    for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
        const struct family *family = &families[f];
        const char *item = (const char *)config + family->first_offset;
        size_t count = *(const size_t *)(const void *)((const char *)config + family->count_offset);
        for (size_t i = 0; i < count; i++, item += family->item_size) {
            char prefix[40];
            snprintf(prefix, sizeof(prefix), "%s%zu.", family->prefix, i);
            for (size_t k = 0; k < family->key_count; k++)
                write_value(out, prefix, &family->keys[k], item);
            if (family->write != NULL)
                family->write(out, prefix, item);
        }
    }
    fclose(out);
    return text;
}

bool vmx_load(const char *path, struct machine_config *config, struct error **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", path);
    char *text = malloc(VMX_MAX_SIZE + 1);
    size_t size = 0;
    ssize_t count = 0;
    while (size <= VMX_MAX_SIZE && (count = read(fd, text + size, VMX_MAX_SIZE + 1 - size)) > 0)
        size += (size_t)count;
    bool good = count < 0 ? error_set_errno(err, errno, "cannot read '%s'", path)
                          : vmx_parse(text, size, path, config, err);
    free(text);
    close(fd);
    return good;
}
