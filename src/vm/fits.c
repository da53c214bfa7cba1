/* SPDX-License-Identifier: MIT
 *
 * Whether a state fits a machine: their layouts (layout.c) are compared, and the first line that
 * differs says why not. Disks and NICs are compared in the order in which they came; their numbers
 * and places may differ, for arrange.c to put right. Layouts without places are from before there
 * were any: such machines had them all as a new one has.
 */
#include "vm/fits.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "vm/vm.h"

enum { LAYOUT_MAX = 64 << 10 }; /* bytes, which is plenty */

static bool has_extension(const char *ours, const char *word, size_t length)
{
    while (*ours == '_' && (strcspn(ours + 1, "_") != length || strncmp(ours + 1, word, length) != 0))
        ours += 1 + strcspn(ours + 1, "_");
    return *ours != '\0';
}

/* Whether every extension of `saved` is in `ours`: a guest does not miss what it never looked for.
 * False, and `missing` names those that are not, unless the bases differ. */
static bool has_extensions(const char *ours, const char *saved, char *missing, size_t size)
{
    size_t base = strcspn(saved, "_"), at = 0;
    missing[0] = '\0';
    if (strcspn(ours, "_") != base || strncmp(ours, saved, base) != 0)
        return false;
    for (saved += base; *saved == '_'; saved += strcspn(saved, "_")) {
        size_t length = strcspn(++saved, "_");
        if (!has_extension(ours + base, saved, length) && at < size)
            at += (size_t)snprintf(missing + at, size - at, "%s'%.*s'", at > 0 ? ", " : "",
                                   length > 200 ? 200 : (int)length, saved);
    }
    return at == 0;
}

/* Up to the address, that is. */
static bool is_same_nic(const char *ours, const char *saved)
{
    const char *end = strrchr(ours, ' ');
    if (end == NULL || strncmp(ours, "nic ", 4) != 0)
        return false;
    size_t length = (size_t)(end - ours);
    return strncmp(ours, saved, length + 1) == 0 && strrchr(saved, ' ') == saved + length;
}

static bool another_folder(const char *tag, struct error **err)
{
    error_set(err, ERROR_USAGE, "the shared folder '%.*s' is another one", (int)strcspn(tag, " "),
              tag);
    error_hint(err,
               "The guest has its files open: it has to be the same folder of a file system that "
               "both hosts reach. Otherwise stop the machine, or suspend it.");
    return false;
}

static bool line_fits(const char *ours, const char *saved, bool clone, struct error **err)
{
    char missing[512] = "";
    bool isa = strncmp(ours, "isa ", 4) == 0 && strncmp(saved, "isa ", 4) == 0;
    if (isa ? has_extensions(ours + 4, saved + 4, missing, sizeof(missing))
            : strcmp(ours, saved) == 0 || (clone && is_same_nic(ours, saved)))
        return true;
    if (missing[0] != '\0')
        return error_set(err, ERROR_USAGE,
                         "the guest may use %s, which the CPU that it would get does not have",
                         missing);
    if (strncmp(ours, "folder ", 7) == 0 && strncmp(saved, "folder ", 7) == 0)
        return another_folder(saved + 7, err);
    return error_set(err, ERROR_USAGE, "where there was '%.200s' there is '%.200s'",
                     saved[0] != '\0' ? saved : "nothing", ours[0] != '\0' ? ours : "nothing");
}

static bool same_lines(const char *layout, const char *saved, bool clone, struct error **err)
{
    char *ours = alloc_string(layout), *theirs = alloc_string(saved);
    char *our_rest = ours, *their_rest = theirs;
    bool good = true;
    while (good && (our_rest != NULL || their_rest != NULL)) {
        const char *our_line = our_rest != NULL ? strsep(&our_rest, "\n") : "";
        const char *their_line = their_rest != NULL ? strsep(&their_rest, "\n") : "";
        /* Machines were without it, and their guests do not miss it. */
        if (our_rest != NULL && strcmp(our_line, "device vmgenid vmgenid") == 0 &&
            strcmp(their_line, our_line) != 0)
            our_line = strsep(&our_rest, "\n");
        good = line_fits(our_line, their_line, clone, err);
    }
    free(ours);
    free(theirs);
    return good;
}

/* ---- lines without places, and without numbers ---- */

static bool begins(const char *line, const char *with)
{
    return strncmp(line, with, strlen(with)) == 0;
}

/* Whether a line of the text begins so, and goes on with a space: where it does, or NULL. */
static const char *find_line(const char *text, const char *beginning)
{
    size_t length = strlen(beginning);
    for (const char *at = text; at != NULL; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, beginning, length) == 0 && at[length] == ' ')
            return at + length + 1;
    }
    return NULL;
}

/* Of a line of a device or drive: how long it is before its place. */
static size_t before_place(const char *line, size_t length)
{
    const char *word = begins(line, "device ") ? " slot " : begins(line, "disk ") ? " at " : NULL;
    const char *at = word != NULL ? memmem(line, length, word, strlen(word)) : NULL;
    return at != NULL ? (size_t)(at - line) : length;
}

/* A device that another line of the text tells of: an adapter, a disk or a NIC. */
static bool is_told(const char *text, const char *line)
{
    static const char *const kinds[][2] = {{"disk", "disk"}, {"net", "nic"}};
    char id[32], name[64];
    if (sscanf(line, "device %31s", id) != 1)
        return false;
    for (size_t i = 0; i < 2; i++) {
        size_t length = strlen(kinds[i][0]);
        if (strncmp(id, kinds[i][0], length) != 0 || !isdigit((unsigned char)id[length]))
            continue;
        snprintf(name, sizeof(name), "%s %s", kinds[i][1], id + length);
        return find_line(text, name) != NULL;
    }
    return strcmp(id, "scsi0") == 0 || strcmp(id, "ahci0") == 0;
}

/* "nic NUMBER MAC" as "nic COUNT MODEL MAC". */
static void write_nic(FILE *out, const char *text, const char *line, size_t length, unsigned count)
{
    unsigned number = 0;
    int at = 0;
    char device[32];
    if (sscanf(line, "nic %u %n", &number, &at) != 1 || at <= 0 || (size_t)at > length) {
        fprintf(out, "%.*s\n", (int)length, line);
        return;
    }
    snprintf(device, sizeof(device), "device net%u", number);
    const char *model = find_line(text, device);
    fprintf(out, "nic %u %.*s %.*s\n", count, (int)(model != NULL ? strcspn(model, " \n") : 0),
            model != NULL ? model : "", (int)length - at, line + at);
}

/* With `numbers`, only places are left out. */
static char *write_again(const char *layout, bool numbers)
{
    char *text = NULL;
    size_t size = 0;
    unsigned disks = 0, nics = 0;
    FILE *out = open_memstream(&text, &size);
    assert(out != NULL);
    for (const char *line = layout; *line != '\0';) {
        size_t length = strcspn(line, "\n"), front = before_place(line, length);
        bool disk = begins(line, "disk ");
        size_t number = disk ? 5 + strspn(line + 5, "0123456789") : 0;
        if (numbers)
            fprintf(out, "%.*s\n", (int)front, line);
        else if (disk && number <= front)
            fprintf(out, "disk %u%.*s\n", disks++, (int)(front - number), line + number);
        else if (begins(line, "nic "))
            write_nic(out, layout, line, length, nics++);
        else if (!is_told(layout, line))
            fprintf(out, "%.*s\n", (int)front, line);
        line += length + (line[length] == '\n');
    }
    fclose(out);
    return text;
}

static bool has_places(const char *layout)
{
    return strstr(layout, " slot ") != NULL;
}

static bool same_but(bool numbers, const char *layout, const char *saved, bool clone,
                     struct error **err)
{
    if (strlen(saved) > LAYOUT_MAX)
        return error_set(err, ERROR_USAGE, "no machine can have that many parts");
    char *ours = write_again(layout, numbers), *theirs = write_again(saved, numbers);
    bool good = same_lines(ours, theirs, clone, err);
    free(ours);
    free(theirs);
    return good;
}

bool vm_layout_is(const char *layout, const char *saved, bool clone, struct error **err)
{
    return has_places(saved) ? same_lines(layout, saved, clone, err)
                             : same_but(true, layout, saved, clone, err);
}

bool vm_layout_fits(const char *layout, const char *saved, bool clone, struct error **err)
{
    return same_but(!has_places(saved), layout, saved, clone, err);
}

bool vm_fits_layout(const char *layout, const char *saved, struct error **err)
{
    return vm_layout_fits(layout, saved, false, err);
}
