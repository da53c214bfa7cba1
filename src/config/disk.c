/* SPDX-License-Identifier: MIT
 *
 * A disk's properties, described once: for --disk FILE,NAME=VALUE and for the .vmx key
 * "scsi0:N.trapeze.NAME".
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "config/suggest.h"

enum kind { KIND_TEXT, KIND_WORD, KIND_NUMBER };

#define WORDS_MAX 4

/* In the order of the enums of machine.h; the first word is the default. */
static const char *const cache_words[WORDS_MAX] = {"writeback", "none", "unsafe"};
static const char *const error_words[WORDS_MAX] = {"enospc", "report", "stop"};
static const char *const bus_words[WORDS_MAX] = {"auto", "virtio", "scsi", "ahci"};
static const char *const media_words[WORDS_MAX] = {"disk", "cdrom"};
static const char *const discard_words[WORDS_MAX] = {"on", "off"};

static const struct property {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *const *words;
    uint64_t standard; /* of a number */
} properties[] = {
    {"format", KIND_TEXT, offsetof(struct machine_disk, format), NULL, 0},
    {"serial", KIND_TEXT, offsetof(struct machine_disk, serial), NULL, 0},
    {"backing", KIND_TEXT, offsetof(struct machine_disk, backing), NULL, 0},
    {"bus", KIND_WORD, offsetof(struct machine_disk, bus), bus_words, 0},
    {"media", KIND_WORD, offsetof(struct machine_disk, media), media_words, 0},
    {"address", KIND_TEXT, offsetof(struct machine_disk, address), NULL, 0},
    {"cache", KIND_WORD, offsetof(struct machine_disk, cache), cache_words, 0},
    {"discard", KIND_WORD, offsetof(struct machine_disk, discard), discard_words, 0},
    {"werror", KIND_WORD, offsetof(struct machine_disk, werror), error_words, 0},
    {"rerror", KIND_WORD, offsetof(struct machine_disk, rerror), error_words, 0},
    {"iops", KIND_NUMBER, offsetof(struct machine_disk, iops), NULL, 0},
    {"bps", KIND_NUMBER, offsetof(struct machine_disk, bps), NULL, 0},
    {"reconnect", KIND_NUMBER, offsetof(struct machine_disk, reconnect), NULL,
     MACHINE_DISK_RECONNECT},
    {"queues", KIND_NUMBER, offsetof(struct machine_disk, queues), NULL, 0},
};

void machine_disk_init(struct machine_disk *disk)
{
    *disk = (struct machine_disk){.path = NULL};
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++)
        if (properties[i].kind == KIND_NUMBER)
            *(uint64_t *)(void *)((char *)disk + properties[i].offset) = properties[i].standard;
}

void machine_disk_copy(struct machine_disk *to, const struct machine_disk *from)
{
    *to = *from;
    to->path = from->path != NULL ? strdup(from->path) : NULL;
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
        char **member = (char **)(void *)((char *)to + properties[i].offset);
        if (properties[i].kind == KIND_TEXT && *member != NULL)
            *member = strdup(*member);
    }
}

void machine_disk_clear(struct machine_disk *disk)
{
    free(disk->path);
    free(disk->format);
    free(disk->serial);
    free(disk->backing);
    free(disk->address);
    *disk = (struct machine_disk){.path = NULL};
}

enum machine_disk_bus machine_disk_bus(const struct machine_disk *disk)
{
    if (disk->bus != MACHINE_BUS_AUTO)
        return (enum machine_disk_bus)disk->bus;
    return disk->media != 0 ? MACHINE_BUS_SCSI : MACHINE_BUS_VIRTIO;
}

static bool parse_number(const char *text, uint64_t *number)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    *number = strtoull(text, &end, 10);
    if (*end != '\0') {
        const char *units = "KMGT", *found = strchr(units, toupper((unsigned char)*end));
        if (found == NULL || __builtin_mul_overflow(*number, KIB << (10 * (found - units)), number))
            return false;
        end++;
    }
    return errno == 0 && *end == '\0';
}

static bool bad_value(const struct property *property, const char *value, struct error **err)
{
    error_set(err, ERROR_USAGE, "a disk's %s cannot be '%s'", property->name, value);
    if (property->kind == KIND_WORD) {
        char text[80] = "";
        for (unsigned i = 0; i < WORDS_MAX && property->words[i] != NULL; i++) {
            bool last = i + 1 == WORDS_MAX || property->words[i + 1] == NULL;
            size_t length = strlen(text);
            snprintf(text + length, sizeof(text) - length, "%s%s",
                     i == 0 ? "" : last ? " or " : ", ", property->words[i]);
        }
        error_hint(err, "It is %s", text);
    } else
        error_hint(err, "It is a number, perhaps with K, M, G or T behind it");
    return false;
}

static bool set(const struct property *property, void *member, const char *value,
                struct error **err)
{
    switch (property->kind) {
    case KIND_TEXT:
        free(*(char **)member);
        *(char **)member = strdup(value);
        return true;
    case KIND_WORD:
        for (unsigned i = 0; i < WORDS_MAX && property->words[i] != NULL; i++)
            if (strcmp(property->words[i], value) == 0) {
                *(unsigned *)member = i;
                return true;
            }
        return bad_value(property, value, err);
    case KIND_NUMBER:
        return parse_number(value, member) || bad_value(property, value, err);
    }
    return false;
}

bool machine_disk_check(const struct machine_disk *disk, struct error **err)
{
    bool optical = disk->media != 0, virtio = machine_disk_bus(disk) == MACHINE_BUS_VIRTIO;
    if (disk->serial != NULL && strlen(disk->serial) > 20)
        return error_set(err, ERROR_USAGE, "disk serial '%s' is longer than 20 bytes",
                         disk->serial);
    if (disk->path[0] == '\0' && !optical)
        return error_set(err, ERROR_USAGE, "a disk needs a file");
    if (optical && virtio) {
        error_set(err, ERROR_USAGE, "there are no optical drives on bus=virtio");
        error_hint(err, "bus=scsi and bus=ahci have them.");
        return false;
    }
    if (disk->address != NULL && virtio) {
        error_set(err, ERROR_USAGE, "a disk on bus=virtio has no address=");
        error_hint(err, "address= goes with bus=scsi (TARGET or TARGET:LUN) and bus=ahci (PORT).");
        return false;
    }
    return true;
}

bool machine_disk_set(struct machine_disk *disk, const char *name, const char *value,
                      struct error **err)
{
    struct suggest suggest;
    suggest_start(&suggest, name);
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
        if (strcmp(properties[i].name, name) == 0)
            return set(&properties[i], (char *)disk + properties[i].offset, value, err);
        suggest_offer(&suggest, properties[i].name);
    }
    error_set(err, ERROR_USAGE, "a disk has no property '%s'", name);
    if (suggest.best != NULL)
        error_hint(err, "Did you mean %s=?", suggest.best);
    else
        error_hint(err, "There are readonly, format=, serial=, bus=, media=, address=, cache=, discard=, "
                        "werror=, rerror=, iops=, bps=, reconnect= and queues=; a comma in a file "
                        "name is written twice");
    return false;
}

const char *machine_disk_get(const struct machine_disk *disk, size_t index, char buffer[24],
                             const char **name)
{
    const struct property *property = &properties[index];
    const void *member = (const char *)disk + property->offset;
    *name = property->name;
    switch (property->kind) {
    case KIND_TEXT:
        return *(char *const *)member;
    case KIND_WORD:
        return *(const unsigned *)member == 0 ? NULL : property->words[*(const unsigned *)member];
    case KIND_NUMBER:
        if (*(const uint64_t *)member == property->standard)
            return NULL;
        snprintf(buffer, 24, "%llu", (unsigned long long)*(const uint64_t *)member);
        return buffer;
    }
    return NULL;
}

size_t machine_disk_property_count(void)
{
    return ARRAY_SIZE(properties);
}
