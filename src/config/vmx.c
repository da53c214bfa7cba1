/* SPDX-License-Identifier: MIT
 *
 * See vmx.h. One row per key says its name, its kind and where it lives; keys of a numbered
 * device ("scsi0:3.fileName") are rows of their own table, with the place cut out first.
 *
 * A text is updated by comparison: what it says and what it shall say are both rendered in our
 * own spelling, and only keys that differ are touched.
 */
#include "config/vmx.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "config/foreign.h"
#include "config/suggest.h"

enum kind {
    KIND_STRING,
    KIND_PATH, /* of a file; relative to the folder of the .vmx */
    KIND_UINT,
    KIND_UINT64,
    KIND_KIB,
    KIND_MIB,
    KIND_BOOL, /* words[0] is false */
    KIND_WORD  /* an enum, by its words */
};

struct key {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *const *words; /* NULL at the end */
};

/* In the order of their enums. */
static const char *const truth_words[] = {"FALSE", "TRUE", NULL};
static const char *const mode_words[] = {"persistent", "trapeze-readonly", NULL};
static const char *const ram_words[] = {"anonymous", "memfd", NULL};
static const char *const virtio_words[] = {"pci", "mmio", NULL};
static const char *const net_words[] = {"nat", "hostonly", "bridged", "custom", NULL};
static const char *const restart_words[] = {"no", "on-failure", "always", NULL};
static const char *const serial_words[] = {"trapeze-terminal", "file", "pipe", NULL};

#define FIELD(member) offsetof(struct machine_config, member)
static const struct key keys[] = {
    {"displayName", KIND_STRING, FIELD(name), NULL},
    {"trapeze.owner", KIND_STRING, FIELD(owner), NULL},
    {"guestOS", KIND_STRING, FIELD(guest_os), NULL},
    {"memsize", KIND_MIB, FIELD(memory), NULL},
    {"numvcpus", KIND_UINT, FIELD(cpus), NULL},
    {"trapeze.maxcpus", KIND_UINT, FIELD(max_cpus), NULL},
    {"trapeze.arch", KIND_STRING, FIELD(arch), NULL},
    {"trapeze.engine", KIND_STRING, FIELD(engine), NULL},
    {"trapeze.cpu", KIND_STRING, FIELD(cpu), NULL},
    {"trapeze.codeCache", KIND_KIB, FIELD(code_cache), NULL},
    {"trapeze.hostCpuFeatures", KIND_STRING, FIELD(host_features), NULL},
    {"trapeze.interrupts", KIND_STRING, FIELD(interrupts), NULL},
    {"trapeze.countBlocks", KIND_BOOL, FIELD(count_blocks), truth_words},
    {"trapeze.trace", KIND_STRING, FIELD(trace), NULL},
    {"trapeze.perf", KIND_STRING, FIELD(perf), NULL},
    {"trapeze.kernel", KIND_PATH, FIELD(kernel), NULL},
    {"trapeze.initrd", KIND_PATH, FIELD(initrd), NULL},
    {"trapeze.append", KIND_STRING, FIELD(append), NULL},
    {"trapeze.firmware", KIND_PATH, FIELD(firmware), NULL},
    {"trapeze.noReboot", KIND_BOOL, FIELD(no_reboot), truth_words},
    {"trapeze.deterministic", KIND_BOOL, FIELD(deterministic), truth_words},
    {"trapeze.seed", KIND_UINT64, FIELD(seed), NULL},
    {"trapeze.cpuWeight", KIND_UINT, FIELD(cpu_weight), NULL},
    {"trapeze.cpuCap", KIND_UINT, FIELD(cpu_cap), NULL},
    {"trapeze.balloon", KIND_BOOL, FIELD(balloon), truth_words},
    {"trapeze.pciSlots", KIND_UINT, FIELD(pci_slots), NULL},
    {"trapeze.vsockCid", KIND_UINT, FIELD(vsock_cid), NULL},
    {"trapeze.vsockSocket", KIND_PATH, FIELD(vsock_socket), NULL},
    {"trapeze.autostart", KIND_BOOL, FIELD(autostart), truth_words},
    {"trapeze.restart", KIND_WORD, FIELD(restart), restart_words},
    {"trapeze.restartTries", KIND_UINT, FIELD(restart_tries), NULL},
    {"sched.mem.max", KIND_MIB, FIELD(balloon_size), NULL},
    {"serial0.fileType", KIND_WORD, FIELD(serial), serial_words},
    {"serial0.fileName", KIND_PATH, FIELD(serial_path), NULL},
    {"trapeze.virtioConsole", KIND_BOOL, FIELD(virtio_console), truth_words},
    {"trapeze.memoryBackend", KIND_WORD, FIELD(ram_backend), ram_words},
    {"trapeze.virtio", KIND_WORD, FIELD(virtio), virtio_words},
    {"trapeze.balloonKeeps", KIND_BOOL, FIELD(balloon_keeps), truth_words},
    {"trapeze.keyboard", KIND_BOOL, FIELD(keyboard), truth_words},
    {"trapeze.bootTimer", KIND_BOOL, FIELD(boot_timer), truth_words},
    {"trapeze.dumpDeviceTree", KIND_PATH, FIELD(dump_fdt), NULL},
    {"trapeze.parent", KIND_STRING, FIELD(parent), NULL},
    {"trapeze.snapshot", KIND_UINT, FIELD(snapshot), NULL},
    {"trapeze.expires", KIND_STRING, FIELD(expires), NULL},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_disk, member)
static const struct key disk_keys[] = {
    {"fileName", KIND_PATH, FIELD(path), NULL},
    {"mode", KIND_BOOL, FIELD(read_only), mode_words},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_nic, member)
static const struct key nic_keys[] = {
    {"connectionType", KIND_WORD, FIELD(net), net_words},
    {"vnet", KIND_STRING, FIELD(vnet), NULL},
    {"virtualDev", KIND_STRING, FIELD(model), NULL},
    {"address", KIND_STRING, FIELD(mac), NULL},
    {"trapeze.mtu", KIND_UINT, FIELD(mtu), NULL},
    {"trapeze.vlan", KIND_UINT, FIELD(vlan), NULL},
    {"trapeze.queues", KIND_UINT, FIELD(queues), NULL},
    {"trapeze.rate", KIND_UINT64, FIELD(rate), NULL},
    {"trapeze.capture", KIND_PATH, FIELD(capture), NULL},
    {"trapeze.forward", KIND_STRING, FIELD(forward), NULL},
    {"trapeze.hostLoopback", KIND_BOOL, FIELD(host_loopback), truth_words},
};
#undef FIELD

#define FIELD(member) offsetof(struct machine_share, member)
static const struct key share_keys[] = {
    {"hostPath", KIND_PATH, FIELD(path), NULL},
    {"guestName", KIND_STRING, FIELD(tag), NULL},
    {"writeAccess", KIND_BOOL, FIELD(writable), truth_words},
};
#undef FIELD

static void init_disk(void *item)
{
    machine_disk_init(item);
}

static bool set_disk(void *item, const char *name, const char *value, struct error **err)
{
    return machine_disk_set(item, name, value, err);
}

static void render_disk(struct text *text, const char *prefix, const void *item)
{
    for (size_t k = 0; k < machine_disk_property_count(); k++) {
        char number[24], key[80];
        const char *name, *value = machine_disk_get(item, k, number, &name);
        snprintf(key, sizeof(key), "%strapeze.%s", prefix, name);
        if (value != NULL)
            text_set(text, key, value);
    }
}

enum family_number { DISKS, NICS, SHARES, FAMILY_COUNT };

/* Devices that there are several of: "scsi0:3.fileName", "ethernet0.address". */
static const struct family {
    const char *const *prefixes; /* NULL at the end; the first is where new ones go */
    bool has_units;              /* "scsi0:3", not "ethernet0" */
    const char *what;
    const struct key *keys;
    size_t key_count;
    size_t count_offset, first_offset, item_size, slot_offset, max;
    void (*init)(void *item); /* NULL: zeros */
    /* Properties by name, "trapeze.NAME", beside the keys; or NULL. */
    bool (*set)(void *item, const char *name, const char *value, struct error **err);
    void (*render)(struct text *text, const char *prefix, const void *item);
} families[FAMILY_COUNT] = {
    [DISKS] = {(const char *const[]){"scsi", "sata", "nvme", "ide", NULL}, true, "disks", disk_keys,
               ARRAY_SIZE(disk_keys), offsetof(struct machine_config, disk_count),
               offsetof(struct machine_config, disks), sizeof(struct machine_disk),
               offsetof(struct machine_disk, slot), MACHINE_MAX_DISKS, init_disk, set_disk,
               render_disk},
    [NICS] = {(const char *const[]){"ethernet", NULL}, false, "NICs", nic_keys,
              ARRAY_SIZE(nic_keys), offsetof(struct machine_config, nic_count),
              offsetof(struct machine_config, nics), sizeof(struct machine_nic),
              offsetof(struct machine_nic, slot), MACHINE_MAX_NICS, NULL, NULL, NULL},
    [SHARES] = {(const char *const[]){"sharedFolder", NULL}, false, "shared folders", share_keys,
                ARRAY_SIZE(share_keys), offsetof(struct machine_config, share_count),
                offsetof(struct machine_config, shares), sizeof(struct machine_share),
                offsetof(struct machine_share, slot), MACHINE_MAX_SHARES, NULL, NULL, NULL},
};

static size_t *family_count(const struct family *family, struct machine_config *config)
{
    return (size_t *)(void *)((char *)config + family->count_offset);
}

static char *family_item(const struct family *family, const struct machine_config *config,
                         size_t index)
{
    return (char *)(uintptr_t)config + family->first_offset + index * family->item_size;
}

static unsigned *item_slot(const struct family *family, char *item)
{
    return (unsigned *)(void *)(item + family->slot_offset);
}

/* ---- places: scsi0:3 and ethernet0 as numbers that order them ---- */

enum {
    UNIT_BITS = 8,
    PLACE_LIMIT = 1 << UNIT_BITS,
    RESERVED_UNIT = 7 /* a SCSI controller's own */
};
#define PREFIX_MAX 40 /* bytes of "scsi255:255." */

/* 0 is no place. */
static unsigned slot_of(size_t prefix, unsigned long number, unsigned long unit)
{
    return 1 +
           ((unsigned)prefix << (2 * UNIT_BITS) | (unsigned)number << UNIT_BITS | (unsigned)unit);
}

static void print_prefix(const struct family *family, unsigned slot, char prefix[PREFIX_MAX])
{
    unsigned place = slot - 1, number = place >> UNIT_BITS & (PLACE_LIMIT - 1);
    const char *word = family->prefixes[place >> (2 * UNIT_BITS)];
    if (family->has_units)
        snprintf(prefix, PREFIX_MAX, "%s%u:%u.", word, number, place & (PLACE_LIMIT - 1));
    else
        snprintf(prefix, PREFIX_MAX, "%s%u.", word, number);
}

static bool take_number(const char **at, unsigned long *number)
{
    char *end;
    if (!isdigit((unsigned char)**at))
        return false;
    *number = strtoul(*at, &end, 10);
    *at = end;
    return true;
}

/* "PREFIXn.rest" of a family: its place (0: there is none with such a number) and the rest; NULL
 * if the name has another form. */
static const struct family *find_family(const char *name, unsigned *slot, const char **rest)
{
    for (size_t f = 0; f < FAMILY_COUNT; f++)
        for (size_t p = 0; families[f].prefixes[p] != NULL; p++) {
            size_t length = strlen(families[f].prefixes[p]);
            const char *at = name + length;
            unsigned long number, unit = 0;
            if (strncasecmp(name, families[f].prefixes[p], length) != 0 ||
                !take_number(&at, &number))
                continue;
            if (families[f].has_units && (*at++ != ':' || !take_number(&at, &unit)))
                return NULL;
            if (*at != '.')
                return NULL;
            *rest = at + 1;
            *slot = number < PLACE_LIMIT && unit < PLACE_LIMIT ? slot_of(p, number, unit) : 0;
            return &families[f];
        }
    return NULL;
}

/* A place behind `slot` for a new device; 0: there is none. */
static unsigned slot_after(const struct family *family, unsigned slot)
{
    size_t prefixes = 0;
    if (slot == 0)
        return slot_of(0, 0, 0);
    while (family->prefixes[prefixes] != NULL)
        prefixes++;
    unsigned place = slot - 1 + (family->has_units ? 1 : PLACE_LIMIT);
    if (place >> (2 * UNIT_BITS) == 0 && (place & (PLACE_LIMIT - 1)) == RESERVED_UNIT)
        place++;
    return place >> (2 * UNIT_BITS) < prefixes ? place + 1 : 0;
}

/* ---- notes ---- */

static void add_note(struct vmx_notes *notes, const struct text_entry *entry)
{
    if (notes == NULL)
        return;
    notes->list = alloc_resize(notes->list, notes->count + 1, sizeof(*notes->list));
    notes->list[notes->count++] = (struct vmx_note){
        .key = alloc_string(entry->key), .value = alloc_string(entry->value), .line = entry->line};
}

void vmx_notes_clear(struct vmx_notes *notes)
{
    for (size_t i = 0; i < notes->count; i++) {
        free(notes->list[i].key);
        free(notes->list[i].value);
    }
    free(notes->list);
    *notes = (struct vmx_notes){0};
}

char *vmx_notes_sentence(const struct vmx_notes *notes, const char *name)
{
    char *sentence = NULL;
    size_t size;
    FILE *out = notes->count > 0 ? open_memstream(&sentence, &size) : NULL;
    if (out == NULL)
        return NULL;
    fprintf(out, "%s: not honoured: ", name);
    for (size_t i = 0; i < notes->count; i++)
        fprintf(out, "%s%s (line %u)", i > 0 ? ", " : "", notes->list[i].key, notes->list[i].line);
    fclose(out);
    return sentence;
}

/* ---- from text to values ---- */

struct reader {
    const struct text *text;
    struct machine_config *config;
    struct vmx_notes *notes;
};

static bool fail(const struct reader *reader, const struct text_entry *entry, struct error **err,
                 const char *what, const char *word)
{
    return error_set(err, ERROR_USAGE, "%s:%u: %s '%s'", text_name(reader->text), entry->line, what,
                     word);
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

static bool set_word(const struct reader *reader, const struct text_entry *entry,
                     const struct key *key, void *member, const char *value, struct error **err)
{
    for (unsigned i = 0; key->words[i] != NULL; i++)
        if (strcasecmp(value, key->words[i]) == 0) {
            if (key->kind == KIND_BOOL)
                *(bool *)member = i != 0;
            else
                *(unsigned *)member = i;
            return true;
        }
    fail(reader, entry, err, key->name, value);
    char list[120] = "";
    for (unsigned i = 0; key->words[i] != NULL; i++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof(list) - at, "%s%s", i == 0 ? "" : ", ", key->words[i]);
    }
    error_hint(err, "It is one of: %s", list);
    return false;
}

static bool set_value(const struct reader *reader, const struct text_entry *entry,
                      const struct key *key, void *object, struct error **err)
{
    void *member = (char *)object + key->offset;
    uint64_t number, unit = key->kind == KIND_KIB ? KIB : MIB;
    bool matters;
    const char *value = foreign_value(entry->key, entry->value, &matters);
    if (matters)
        add_note(reader->notes, entry);
    if (value == NULL)
        return true;
    switch (key->kind) {
    case KIND_STRING:
    case KIND_PATH:
        free(*(char **)member);
        *(char **)member = alloc_string(value);
        return true;
    case KIND_UINT:
        if (!parse_number(value, UINT32_MAX, &number))
            return fail(reader, entry, err, "not a number:", value);
        *(unsigned *)member = (unsigned)number;
        return true;
    case KIND_UINT64:
        return parse_number(value, UINT64_MAX, member) ||
               fail(reader, entry, err, "not a number:", value);
    case KIND_KIB:
    case KIND_MIB:
        if (!parse_number(value, UINT64_MAX / unit, &number))
            return fail(reader, entry, err,
                        unit == KIB ? "not a number of KiB:" : "not a number of MiB:", value);
        *(uint64_t *)member = number * unit;
        return true;
    case KIND_BOOL:
    case KIND_WORD:
        return set_word(reader, entry, key, member, value, err);
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

/* `name` is the key, or what is left of it behind the family's prefix. A key of VMware's that we
 * do not know must not be taken for a mistake: it is one if hardly anything is wrong with it. */
static bool unknown_key(const struct reader *reader, const struct text_entry *entry,
                        const struct key *table, size_t count, const char *name, struct error **err)
{
    enum { HARDLY = 2 };
    enum foreign foreign = foreign_key(entry->key, entry->value);
    struct suggest suggest;
    suggest_start(&suggest, name);
    for (size_t i = 0; i < count; i++)
        suggest_offer(&suggest, table[i].name);
    bool ours = strncasecmp(name, "trapeze.", 8) == 0;
    bool near = suggest.best != NULL && (ours || suggest.best_distance <= HARDLY);
    if (foreign == FOREIGN_NOT && (ours || near)) {
        fail(reader, entry, err, "unknown key", entry->key);
        if (near)
            error_hint(err, "Did you mean %.*s%s?", (int)(name - entry->key), entry->key,
                       suggest.best);
        return false;
    }
    if (foreign != FOREIGN_HARMLESS)
        add_note(reader->notes, entry);
    return true;
}

static bool says(const struct text *text, const char *prefix, const char *name, const char *value)
{
    char key[PREFIX_MAX + 24];
    snprintf(key, sizeof(key), "%s%s", prefix, name);
    const char *found = text_get(text, key);
    return found != NULL && strcasecmp(found, value) == 0;
}

/* A device that the machine does not have, whatever else is said of it. */
static bool is_left_out(const struct text *text, const char *prefix)
{
    return says(text, prefix, "present", "FALSE") || says(text, prefix, "enabled", "FALSE") ||
           says(text, prefix, "deviceType", "cdrom-raw") ||
           says(text, prefix, "deviceType", "atapi-cdrom") ||
           says(text, prefix, "deviceType", "scsi-passthru") ||
           (says(text, prefix, "deviceType", "cdrom-image") &&
            says(text, prefix, "startConnected", "FALSE"));
}

/* The device at this place, which is made if it is new; they are kept in order. NULL: too many. */
static char *item_at(const struct family *family, struct machine_config *config, unsigned slot)
{
    size_t *count = family_count(family, config), at = 0;
    while (at < *count && *item_slot(family, family_item(family, config, at)) < slot)
        at++;
    char *item = family_item(family, config, at);
    if (at < *count && *item_slot(family, item) == slot)
        return item;
    if (*count == family->max)
        return NULL;
    memmove(item + family->item_size, item, (*count - at) * family->item_size);
    memset(item, 0, family->item_size);
    if (family->init != NULL)
        family->init(item);
    *item_slot(family, item) = slot;
    ++*count;
    return item;
}

static bool read_device(const struct reader *reader, const struct text_entry *entry,
                        const struct family *family, unsigned slot, const char *rest,
                        struct error **err)
{
    char prefix[PREFIX_MAX];
    bool property = family->set != NULL && strncasecmp(rest, "trapeze.", 8) == 0;
    const struct key *key = find_key(family->keys, family->key_count, rest);
    if (key == NULL && !property)
        return unknown_key(reader, entry, family->keys, family->key_count, rest, err);
    if (slot == 0)
        return fail(reader, entry, err, "there is no such place for a device:", entry->key);
    print_prefix(family, slot, prefix);
    if (is_left_out(reader->text, prefix))
        return true;
    char *item = item_at(family, reader->config, slot);
    if (item == NULL)
        return error_set(err, ERROR_USAGE, "%s:%u: %s: there are at most %zu %s",
                         text_name(reader->text), entry->line, entry->key, family->max,
                         family->what);
    if (key != NULL)
        return set_value(reader, entry, key, item, err);
    bool good = family->set(item, rest + 8, entry->value, err);
    error_prefix(err, "%s:%u", text_name(reader->text), entry->line);
    return good;
}

static bool read_entry(const struct reader *reader, const struct text_entry *entry,
                       struct error **err)
{
    unsigned slot;
    const char *rest;
    const struct key *key = find_key(keys, ARRAY_SIZE(keys), entry->key);
    if (key != NULL)
        return set_value(reader, entry, key, reader->config, err);
    const struct family *family = find_family(entry->key, &slot, &rest);
    if (family != NULL)
        return read_device(reader, entry, family, slot, rest, err);
    return unknown_key(reader, entry, keys, ARRAY_SIZE(keys), entry->key, err);
}

/* ---- what several keys say together ---- */

static bool finish_disks(const struct reader *reader, struct error **err)
{
    for (size_t i = 0; i < reader->config->disk_count; i++) {
        struct machine_disk *disk = &reader->config->disks[i];
        char prefix[PREFIX_MAX];
        print_prefix(&families[DISKS], disk->slot, prefix);
        if (disk->path == NULL) {
            prefix[strlen(prefix) - 1] = '\0';
            return error_set(err, ERROR_USAGE, "%s: disk %s has no fileName",
                             text_name(reader->text), prefix);
        }
        if (says(reader->text, prefix, "deviceType", "cdrom-image"))
            disk->media = 1;
    }
    return true;
}

static void replace(char **string, const char *text)
{
    free(*string);
    *string = text != NULL ? alloc_string(text) : NULL;
}

/* VMware's networks are named by a number; ours by their kind. Its own bridge has no name here. */
static void finish_nic(const struct reader *reader, struct machine_nic *nic)
{
    char prefix[PREFIX_MAX], key[PREFIX_MAX + 24];
    struct text_entry entry;
    print_prefix(&families[NICS], nic->slot, prefix);
    snprintf(key, sizeof(key), "%sgeneratedAddress", prefix);
    if (text_find(reader->text, key, &entry) &&
        (nic->mac == NULL || says(reader->text, prefix, "addressType", "generated")))
        replace(&nic->mac, entry.value);
    snprintf(key, sizeof(key), "%sconnectionType", prefix);
    if (nic->net == MACHINE_NET_BRIDGED && nic->vnet == NULL) {
        nic->net = MACHINE_NET_NAT;
        if (text_find(reader->text, key, &entry))
            add_note(reader->notes, &entry);
    }
    if (nic->net == MACHINE_NET_CUSTOM && nic->vnet != NULL && strchr(nic->vnet, ':') == NULL) {
        const char *slash = strrchr(nic->vnet, '/');
        char *internal = NULL;
        if (asprintf(&internal, "internal:%s", slash != NULL ? slash + 1 : nic->vnet) > 0) {
            free(nic->vnet);
            nic->vnet = internal;
        }
    }
}

bool vmx_read(const struct text *text, struct machine_config *config, struct vmx_notes *notes,
              struct error **err)
{
    const struct reader reader = {text, config, notes};
    for (size_t i = 0; i < text_count(text); i++) {
        struct text_entry entry = text_at(text, i);
        if (!read_entry(&reader, &entry, err))
            return false;
    }
    for (size_t i = 0; i < config->nic_count; i++)
        finish_nic(&reader, &config->nics[i]);
    return finish_disks(&reader, err);
}

/* ---- from values to text ---- */

static void render_value(struct text *text, const char *prefix, const struct key *key,
                         const void *object)
{
    const void *member = (const char *)object + key->offset;
    char number[24], name[PREFIX_MAX + 40];
    const char *value = number;
    uint64_t wide = 0;
    switch (key->kind) {
    case KIND_STRING:
    case KIND_PATH:
        value = *(char *const *)member;
        break;
    case KIND_UINT:
        wide = *(const unsigned *)member;
        break;
    case KIND_UINT64:
        wide = *(const uint64_t *)member;
        break;
    case KIND_KIB:
        wide = *(const uint64_t *)member / KIB;
        break;
    case KIND_MIB:
        wide = *(const uint64_t *)member / MIB;
        break;
    case KIND_BOOL:
        value = key->words[*(const bool *)member];
        break;
    case KIND_WORD:
        value = key->words[*(const unsigned *)member];
        break;
    }
    snprintf(number, sizeof(number), "%llu", (unsigned long long)wide);
    snprintf(name, sizeof(name), "%s%s", prefix, key->name);
    if (value != NULL)
        text_set(text, name, value);
}

/* Where each device goes: where it is, and new ones behind. With places that are not in order
 * (a device was put between two others), or if `anew`, all are numbered from the start. */
static void place_devices(const struct family *family, const struct machine_config *config,
                          bool anew, unsigned *slots)
{
    size_t count = *family_count(family, (struct machine_config *)(uintptr_t)config);
    unsigned last = 0;
    bool ordered = !anew;
    for (size_t i = 0; i < count && ordered; i++) {
        unsigned slot = *item_slot(family, family_item(family, config, i));
        slots[i] = slot != 0 ? slot : slot_after(family, last);
        ordered = slots[i] > last;
        last = slots[i];
    }
    last = 0;
    for (size_t i = 0; i < count && !ordered; i++)
        last = slots[i] = slot_after(family, last);
}

/* All that config says, in our spelling. */
static struct text *render(const struct machine_config *config, bool anew)
{
    struct text *text = text_new("configuration");
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        render_value(text, "", &keys[i], config);
    for (size_t f = 0; f < FAMILY_COUNT; f++) {
        const struct family *family = &families[f];
        unsigned slots[MACHINE_MAX_DISKS];
        assert(family->max <= ARRAY_SIZE(slots));
        place_devices(family, config, anew, slots);
        for (size_t i = 0; i < *family_count(family, (struct machine_config *)(uintptr_t)config);
             i++) {
            const char *item = family_item(family, config, i);
            char prefix[PREFIX_MAX];
            print_prefix(family, slots[i], prefix);
            for (size_t k = 0; k < family->key_count; k++)
                render_value(text, prefix, &family->keys[k], item);
            if (family->render != NULL)
                family->render(text, prefix, item);
        }
    }
    return text;
}

static bool has_prefix(const char *key, const char *prefix)
{
    return strncasecmp(key, prefix, strlen(prefix)) == 0;
}

static void remove_device(struct text *text, const char *prefix)
{
    for (size_t i = text_count(text); i > 0; i--)
        if (has_prefix(text_at(text, i - 1).key, prefix))
            text_remove(text, text_at(text, i - 1).key);
}

static bool has_device(const struct text *text, const char *prefix)
{
    for (size_t i = 0; i < text_count(text); i++)
        if (has_prefix(text_at(text, i).key, prefix))
            return true;
    return false;
}

/* "scsi0:0." of a key of a device; false: it is none of one. */
static bool device_prefix(const char *key, char prefix[PREFIX_MAX])
{
    const char *rest;
    unsigned slot;
    const struct family *family = find_family(key, &slot, &rest);
    if (family != NULL && slot != 0)
        print_prefix(family, slot, prefix);
    return family != NULL && slot != 0;
}

/* Where a device comes to a place that had none, nothing that the text said of the place is meant any
 * more: of a device that was left out, or of none. */
static void clear_places(struct text *text, const struct text *before, const struct text *after)
{
    char prefix[PREFIX_MAX];
    for (size_t i = 0; i < text_count(after); i++)
        if (device_prefix(text_at(after, i).key, prefix) && !has_device(before, prefix))
            remove_device(text, prefix);
}

void vmx_update(struct text *text, const struct machine_config *config)
{
    struct machine_config now;
    char prefix[PREFIX_MAX] = "", type[PREFIX_MAX + 24];
    machine_config_init(&now);
    bool read = vmx_read(text, &now, NULL, NULL);
    assert(read);
    struct text *before = render(&now, false), *after = render(config, false);
    for (size_t i = 0; i < text_count(before); i++) {
        const char *key = text_at(before, i).key;
        if (text_get(after, key) != NULL)
            continue;
        if (device_prefix(key, prefix) && !has_device(after, prefix)) {
            remove_device(text, prefix);
            continue;
        }
        text_remove(text, key);
        snprintf(type, sizeof(type), "%saddress", prefix);
        if (strcasecmp(key, type) == 0) { /* nor is the one that VMware made up meant any more */
            snprintf(type, sizeof(type), "%sgeneratedAddress", prefix);
            text_remove(text, type);
        }
        snprintf(type, sizeof(type), "%strapeze.media", prefix);
        if (strcasecmp(key, type) == 0) { /* an optical drive became a disk */
            snprintf(type, sizeof(type), "%sdeviceType", prefix);
            if (says(text, prefix, "deviceType", "cdrom-image"))
                text_set(text, type, "disk");
        }
    }
    clear_places(text, before, after);
    for (size_t i = 0; i < text_count(after); i++) {
        struct text_entry entry = text_at(after, i);
        const char *old = text_get(before, entry.key);
        if (old != NULL && strcmp(old, entry.value) == 0)
            continue;
        if (device_prefix(entry.key, prefix)) {
            snprintf(type, sizeof(type), "%saddressType", prefix);
            if (says(text, prefix, "addressType", "generated"))
                text_set(text, type, "static");
        }
        text_set(text, entry.key, entry.value);
    }
    text_free(before);
    text_free(after);
    machine_config_clear(&now);
    (void)read;
}

/* ---- files ---- */

static void resolve_object(const struct key *table, size_t count, void *object, const char *folder)
{
    for (size_t i = 0; i < count; i++) {
        char **path = (char **)(void *)((char *)object + table[i].offset), *joined = NULL;
        if (table[i].kind != KIND_PATH || *path == NULL || (*path)[0] == '/' ||
            (*path)[0] == '\0' || strstr(*path, "://") != NULL)
            continue;
        if (asprintf(&joined, "%s/%s", folder, *path) < 0)
            continue;
        free(*path);
        *path = joined;
    }
}

void vmx_resolve(struct machine_config *config, const char *folder)
{
    resolve_object(keys, ARRAY_SIZE(keys), config, folder);
    for (size_t f = 0; f < FAMILY_COUNT; f++)
        for (size_t i = 0; i < *family_count(&families[f], config); i++)
            resolve_object(families[f].keys, families[f].key_count,
                           family_item(&families[f], config, i), folder);
}

bool vmx_load(const char *path, struct machine_config *config, struct vmx_notes *notes,
              struct error **err)
{
    struct text *text = text_load(path, err);
    bool good = text != NULL && vmx_read(text, config, notes, err);
    const char *slash = strrchr(path, '/');
    if (good && slash != NULL) {
        char *folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
        vmx_resolve(config, folder);
        free(folder);
    }
    text_free(text);
    return good;
}

char *vmx_write(const struct machine_config *config, size_t *size)
{
    struct text *text = render(config, true);
    char *bytes = text_write(text, size);
    text_free(text);
    return bytes;
}

bool vmx_parse(const char *bytes, size_t size, const char *name, struct machine_config *config,
               struct error **err)
{
    struct text *text = text_parse(bytes, size, name, err);
    bool good = text != NULL && vmx_read(text, config, NULL, err);
    text_free(text);
    return good;
}
