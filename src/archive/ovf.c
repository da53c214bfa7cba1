/* SPDX-License-Identifier: MIT
 *
 * See ovf.h.
 */
#include "archive/ovf.h"

#include <errno.h>
#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "archive/pack.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "config/text.h"

enum { DEPTH_MAX = 32, CONTENT_MAX = 1024, NOTE_MAX = 300, UNITS_MAX = 16 /* of a controller */ };

/* CIM_ResourceAllocationSettingData.ResourceType */
enum resource {
    PROCESSOR = 3,
    MEMORY = 4,
    IDE = 5,
    SCSI = 6,
    ETHERNET = 10,
    FLOPPY = 14,
    CD = 15,
    DVD = 16,
    DISK = 17,
    STORAGE = 20,
    GRAPHICS = 24
};

struct parsing {
    XML_Parser parser;
    struct ovf *ovf;
    unsigned depth, item_depth; /* of the item that is open; 0: none */
    char path[DEPTH_MAX + 1][48];
    char content[CONTENT_MAX + 1];
    size_t length;
    char reason[120]; /* why it was stopped; "" */
};

static void stop(struct parsing *p, const char *reason)
{
    if (p->reason[0] == '\0')
        snprintf(p->reason, sizeof(p->reason), "%s", reason);
    XML_StopParser(p->parser, XML_FALSE);
}

static const char *local(const char *name)
{
    const char *bar = strrchr(name, '|');
    return bar != NULL ? bar + 1 : name;
}

static const char *attribute(const char **attributes, const char *name)
{
    for (; attributes[0] != NULL; attributes += 2)
        if (strcmp(local(attributes[0]), name) == 0)
            return attributes[1];
    return NULL;
}

static char *copy(const char *text)
{
    return text != NULL ? alloc_string(text) : NULL;
}

static void replace(char **to, const char *text)
{
    free(*to);
    *to = copy(text);
}

/* "byte * 2^20", "MegaBytes", "GB": how many bytes; 0: unknown. */
static uint64_t unit_of(const char *text)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } names[] = {{"byte", 1},        {"bytes", 1},
                 {"KB", KIB},        {"KiloBytes", KIB},
                 {"MB", MIB},        {"MegaBytes", MIB},
                 {"GB", GIB},        {"GigaBytes", GIB},
                 {"TB", 1024 * GIB}, {"TeraBytes", 1024 * GIB}};
    unsigned power;
    char end;
    if (sscanf(text, " byte * 2^%u%c", &power, &end) == 1)
        return power < 50 ? UINT64_C(1) << power : 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcasecmp(text, names[i].name) == 0)
            return names[i].bytes;
    return 0;
}

/* False: it is no number, or too large. */
static bool bytes_of(const char *number, const char *units, uint64_t standard, uint64_t *bytes)
{
    char *end;
    uint64_t unit = units != NULL ? unit_of(units) : standard;
    errno = 0;
    unsigned long long value = strtoull(number, &end, 10);
    if (number[0] < '0' || number[0] > '9' || *end != '\0' || errno != 0 || unit == 0 ||
        value > PACK_MAX_SIZE / unit)
        return false;
    *bytes = value * unit;
    return true;
}

/* ---- elements ---- */

static void on_file(struct parsing *p, const char **attributes)
{
    struct ovf *ovf = p->ovf;
    const char *id = attribute(attributes, "id"), *href = attribute(attributes, "href");
    const char *size = attribute(attributes, "size");
    const char *compression = attribute(attributes, "compression");
    if (ovf->file_count == OVF_MAX_FILES || id == NULL || href == NULL) {
        stop(p, "its list of files makes no sense");
        return;
    }
    struct ovf_file *file = &ovf->files[ovf->file_count++];
    file->id = copy(id);
    file->href = copy(href);
    if (compression != NULL && compression[0] != '\0' && strcmp(compression, "identity") != 0)
        file->unhandled = copy(compression);
    if (attribute(attributes, "chunkSize") != NULL)
        replace(&file->unhandled, "in chunks");
    if (size != NULL && !bytes_of(size, NULL, 1, &file->size))
        stop(p, "the size of a file makes no sense");
}

static void on_disk(struct parsing *p, const char **attributes)
{
    struct ovf *ovf = p->ovf;
    const char *id = attribute(attributes, "diskId"), *number = attribute(attributes, "capacity");
    if (ovf->disk_count == OVF_MAX_DISKS || id == NULL || number == NULL) {
        stop(p, "its list of disks makes no sense");
        return;
    }
    struct ovf_disk *disk = &ovf->disks[ovf->disk_count++];
    disk->id = copy(id);
    disk->file = copy(attribute(attributes, "fileRef"));
    disk->has_parent = attribute(attributes, "parentRef") != NULL;
    if (!bytes_of(number, attribute(attributes, "capacityAllocationUnits"), 1, &disk->capacity))
        stop(p, "the capacity of a disk makes no sense");
}

static bool is_item(const char *name)
{
    return strcmp(name, "Item") == 0 || strcmp(name, "StorageItem") == 0 ||
           strcmp(name, "EthernetPortItem") == 0;
}

static void on_begin(void *opaque, const char *name, const char **attributes)
{
    struct parsing *p = opaque;
    name = local(name);
    if (++p->depth > DEPTH_MAX) {
        stop(p, "its elements lie too deep in each other");
        return;
    }
    snprintf(p->path[p->depth], sizeof(p->path[0]), "%.47s", name);
    p->length = 0;
    if (strcmp(name, "File") == 0) {
        on_file(p, attributes);
    } else if (strcmp(name, "Disk") == 0) {
        on_disk(p, attributes);
    } else if (strcmp(name, "VirtualSystem") == 0) {
        if (++p->ovf->systems == 1)
            replace(&p->ovf->name, attribute(attributes, "id"));
    } else if (strcmp(name, "OperatingSystemSection") == 0) {
        replace(&p->ovf->os, attribute(attributes, "osType"));
    } else if (is_item(name) && p->item_depth == 0) {
        if (p->ovf->item_count == OVF_MAX_ITEMS) {
            stop(p, "it has too many items of hardware");
            return;
        }
        p->ovf->item_count++;
        p->item_depth = p->depth;
    }
}

static void end_of_item_field(struct parsing *p, const char *name)
{
    struct ovf_item *item = &p->ovf->items[p->ovf->item_count - 1];
    const struct {
        const char *name;
        char **text;
    } fields[] = {{"AllocationUnits", &item->units}, {"InstanceID", &item->id},
                  {"Parent", &item->parent},         {"ResourceSubType", &item->subtype},
                  {"HostResource", &item->host},     {"AddressOnParent", &item->address},
                  {"ElementName", &item->name}};
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        if (strcmp(name, fields[i].name) == 0)
            replace(fields[i].text, p->content);
    if (strcmp(name, "ResourceType") == 0)
        item->type = (unsigned)strtoul(p->content, NULL, 10);
    else if (strcmp(name, "VirtualQuantity") == 0)
        item->quantity = strtoull(p->content, NULL, 10);
}

static void on_end(void *opaque, const char *name)
{
    struct parsing *p = opaque;
    name = local(name);
    p->content[p->length] = '\0';
    if (p->item_depth != 0 && p->depth == p->item_depth + 1) {
        end_of_item_field(p, name);
    } else if (p->depth == p->item_depth) {
        p->item_depth = 0;
    } else if (p->depth > 1) {
        const char *above = p->path[p->depth - 1];
        if (strcmp(name, "Name") == 0 && strcmp(above, "VirtualSystem") == 0)
            replace(&p->ovf->name, p->content);
        else if (strcmp(name, "Description") == 0 && p->ovf->os == NULL &&
                 strcmp(above, "OperatingSystemSection") == 0)
            replace(&p->ovf->os, p->content);
    }
    p->length = 0;
    p->depth--;
}

static void on_content(void *opaque, const char *bytes, int size)
{
    struct parsing *p = opaque;
    size_t left = CONTENT_MAX - p->length, count = (size_t)size < left ? (size_t)size : left;
    memcpy(p->content + p->length, bytes, count); /* what is longer is a description's */
    p->length += count;
}

static void on_document_type(void *opaque, const char *name, const char *system, const char *public,
                             int has_internal)
{
    (void)name, (void)system, (void)public, (void)has_internal;
    stop(opaque, "it has a document type, and so perhaps entities");
}

bool ovf_parse(const char *bytes, size_t size, struct ovf *ovf, struct error **err)
{
    struct parsing *p = alloc_zeroed(1, sizeof(*p));
    *ovf = (struct ovf){0};
    p->ovf = ovf;
    p->parser = XML_ParserCreateNS(NULL, '|');
    bool good = p->parser != NULL && size <= OVF_MAX_SIZE;
    if (!good)
        error_set(err, ERROR_HOST, "the OVF description is too large");
    if (good) {
        XML_SetUserData(p->parser, p);
        XML_SetElementHandler(p->parser, on_begin, on_end);
        XML_SetCharacterDataHandler(p->parser, on_content);
        XML_SetStartDoctypeDeclHandler(p->parser, on_document_type);
        if (XML_Parse(p->parser, bytes, (int)size, 1) != XML_STATUS_OK)
            good = error_set(err, ERROR_HOST, "the OVF description, line %lu: %s",
                             (unsigned long)XML_GetCurrentLineNumber(p->parser),
                             p->reason[0] != '\0' ? p->reason
                                                  : XML_ErrorString(XML_GetErrorCode(p->parser)));
        else if (ovf->systems != 1)
            good = error_set(err, ERROR_USAGE,
                             "the OVF description has %u machines; only one can be imported",
                             ovf->systems);
    }
    if (p->parser != NULL)
        XML_ParserFree(p->parser);
    free(p);
    if (!good)
        ovf_clear(ovf);
    return good;
}

void ovf_clear(struct ovf *ovf)
{
    for (size_t i = 0; i < ovf->file_count; i++) {
        free(ovf->files[i].id);
        free(ovf->files[i].href);
        free(ovf->files[i].unhandled);
    }
    for (size_t i = 0; i < ovf->disk_count; i++) {
        free(ovf->disks[i].id);
        free(ovf->disks[i].file);
    }
    for (size_t i = 0; i < ovf->item_count; i++) {
        struct ovf_item *item = &ovf->items[i];
        char *const texts[] = {item->units, item->id,      item->parent, item->subtype,
                               item->host,  item->address, item->name};
        for (size_t k = 0; k < ARRAY_SIZE(texts); k++)
            free(texts[k]);
    }
    free(ovf->name);
    free(ovf->os);
    *ovf = (struct ovf){0};
}

/* ---- as a .vmx ---- */

struct describing {
    const struct ovf *ovf;
    struct text *text;
    json_t *notes;
    unsigned nics;
};

static void note(struct describing *d, const char *format, const char *what)
{
    char text[NOTE_MAX];
    json_t *sentence;
    snprintf(text, sizeof(text), format, what != NULL ? what : "?");
    sentence = json_string(text);
    json_array_append_new(d->notes, sentence != NULL ? sentence
                                                     : json_string("something is left "
                                                                   "out"));
}

static void set_number(struct text *text, const char *key, uint64_t number)
{
    char value[24];
    snprintf(value, sizeof(value), "%llu", (unsigned long long)number);
    text_set(text, key, value);
}

static const struct ovf_file *find_file(const struct ovf *ovf, const char *id)
{
    for (size_t i = 0; i < ovf->file_count; i++)
        if (id != NULL && strcmp(ovf->files[i].id, id) == 0)
            return &ovf->files[i];
    return NULL;
}

const struct ovf_disk *ovf_disk_of(const struct ovf *ovf, const char *href)
{
    for (size_t i = 0; i < ovf->disk_count; i++) {
        const struct ovf_file *file = find_file(ovf, ovf->disks[i].file);
        if (file != NULL && strcmp(file->href, href) == 0)
            return &ovf->disks[i];
    }
    return NULL;
}

/* "ovf:/disk/vmdisk1" */
static const struct ovf_disk *find_disk(const struct ovf *ovf, const char *host)
{
    const char *id = host != NULL ? strstr(host, "/disk/") : NULL;
    for (size_t i = 0; i < ovf->disk_count && id != NULL; i++)
        if (strcmp(ovf->disks[i].id, id + strlen("/disk/")) == 0)
            return &ovf->disks[i];
    return NULL;
}

/* The controller's word and number among those of its kind. */
static const char *find_controller(const struct ovf *ovf, const char *id, unsigned *number)
{
    unsigned counts[STORAGE + 1] = {0};
    for (size_t i = 0; i < ovf->item_count; i++) {
        const struct ovf_item *item = &ovf->items[i];
        if (item->type != IDE && item->type != SCSI && item->type != STORAGE)
            continue;
        if (id != NULL && item->id != NULL && strcmp(item->id, id) == 0) {
            *number = counts[item->type];
            return item->type == IDE ? "ide" : item->type == SCSI ? "scsi" : "sata";
        }
        counts[item->type]++;
    }
    *number = 0;
    return "scsi";
}

static void describe_disk(struct describing *d, const struct ovf_item *item)
{
    const struct ovf_disk *disk = find_disk(d->ovf, item->host);
    const struct ovf_file *file = disk != NULL ? find_file(d->ovf, disk->file) : NULL;
    unsigned number;
    char key[64];
    if (file == NULL) {
        note(d, "the disk '%.100s' is left out: there is nothing in it", item->name);
        return;
    }
    const char *word = find_controller(d->ovf, item->parent, &number);
    unsigned long unit = item->address != NULL ? strtoul(item->address, NULL, 10) : 0;
    if (number >= UNITS_MAX || unit >= UNITS_MAX)
        number = 0, unit = 0;
    do { /* the next free place */
        snprintf(key, sizeof(key), "%s%u:%lu.fileName", word, number, unit++);
        if (unit > UNITS_MAX)
            number++, unit = 0;
    } while (text_get(d->text, key) != NULL || (strcmp(word, "scsi") == 0 && unit == 8));
    text_set(d->text, key, file->href);
}

static void describe_nic(struct describing *d, const struct ovf_item *item)
{
    static const struct {
        const char *theirs, *ours;
        bool differs;
    } models[] = {{"virtio", "virtio", false}, {"E1000", "e1000", false},
                  {"E1000e", "e1000", true},   {"VmxNet3", "virtio", true},
                  {"VmxNet2", "virtio", true}, {"VmxNet", "virtio", true},
                  {"PCNet32", "virtio", true}};
    char key[48];
    if (d->nics == MACHINE_MAX_NICS) {
        note(d, "the NIC '%.100s' is left out: there are too many", item->name);
        return;
    }
    snprintf(key, sizeof(key), "ethernet%u.connectionType", d->nics);
    text_set(d->text, key, "nat");
    snprintf(key, sizeof(key), "ethernet%u.virtualDev", d->nics++);
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        if (item->subtype != NULL && strcasecmp(item->subtype, models[i].theirs) == 0) {
            text_set(d->text, key, models[i].ours);
            if (models[i].differs)
                note(d, "the NIC is another model: %.60s is not there", item->subtype);
            return;
        }
    if (item->subtype != NULL)
        note(d, "the NIC is another model: %.60s is not there", item->subtype);
}

static void describe_item(struct describing *d, const struct ovf_item *item)
{
    uint64_t unit = item->units != NULL ? unit_of(item->units) : MIB;
    switch (item->type) {
    case PROCESSOR:
        if (item->quantity > MACHINE_MAX_CPUS)
            note(d, "it gets fewer processors than it had: %s at most", "8");
        set_number(d->text, "numvcpus",
                   item->quantity < MACHINE_MAX_CPUS ? item->quantity : MACHINE_MAX_CPUS);
        break;
    case MEMORY:
        if (unit != 0 && item->quantity <= MACHINE_MAX_MEMORY / unit)
            set_number(d->text, "memsize", item->quantity * unit / MIB);
        else
            note(d, "the size of its memory makes no sense%s", "");
        break;
    case DISK:
        describe_disk(d, item);
        break;
    case ETHERNET:
        describe_nic(d, item);
        break;
    case IDE:
    case SCSI:
    case STORAGE:
    case GRAPHICS:
        break;
    default:
        note(d, "not honoured: %.100s", item->name);
    }
}

struct text *ovf_describe(const struct ovf *ovf, const char *name, json_t *notes)
{
    struct describing d = {.ovf = ovf, .text = text_new(name), .notes = notes};
    text_set(d.text, "displayName", name);
    for (size_t i = 0; i < ovf->item_count; i++)
        describe_item(&d, &ovf->items[i]);
    if (ovf->os != NULL && ovf->os[0] != '\0' && strlen(ovf->os) < 64)
        text_set(d.text, "guestOS", ovf->os);
    return d.text;
}
