/* SPDX-License-Identifier: MIT
 *
 * Whether a suspended machine's disks are what they were: a disk that was written to since has a file
 * system that the guest's memory contradicts, and both would be lost.
 *
 * A line for each disk: its number, and size and time of the last change of each of its files, from the
 * top down; "-" for what has none (a server, a device, an empty drive).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "block/chain.h"
#include "block/image.h"
#include "migrate/image.h"

static void describe_file(FILE *out, int fd)
{
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        fputs(" -", out);
    else
        fprintf(out, " %" PRIu64 "@%" PRId64 ".%09ld", (uint64_t)status.st_size,
                (int64_t)status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

char *saved_describe_disks(struct block_image *const *images, size_t count)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; out != NULL && i < count; i++) {
        fprintf(out, "%zu", i);
        for (const struct block_image *image = images[i]; image != NULL; image = image->backing)
            describe_file(out, image->file->fd);
        fputc('\n', out);
    }
    if (out != NULL)
        fclose(out);
    return text;
}

char *saved_describe_chains(const struct block_chain *chains, size_t count)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; out != NULL && i < count; i++) {
        fprintf(out, "%zu", i);
        for (size_t k = 0; k < chains[i].count; k++)
            describe_file(out, chains[i].fds[k]);
        fputc('\n', out);
    }
    if (out != NULL)
        fclose(out);
    return text;
}

/* A copy may have lost what is below a second. */
static bool same_line(const char *now, const char *then)
{
    while (*now != '\0' && *now == *then)
        now++, then++;
    if (*now == *then)
        return true;
    if (strncmp(now, "000000000", 9) == 0 && strspn(then, "0123456789") == 9 && then[-1] == '.')
        return same_line(now + 9, then + 9);
    return false;
}

bool saved_check_disks(const struct saved_image *image, const struct block_chain *chains,
                       size_t count, struct error **err)
{
    char *now = saved_describe_chains(chains, count), *now_rest = now;
    char *then_rest = (char *)image->sections[SAVED_DISKS].data;
    bool good = now != NULL;
    for (size_t i = 0; good && (now_rest[0] != '\0' || then_rest[0] != '\0'); i++) {
        size_t now_length = strcspn(now_rest, "\n"), then_length = strcspn(then_rest, "\n");
        char *now_line = strndup(now_rest, now_length), *then_line = strndup(then_rest, then_length);
        good = now_line != NULL && then_line != NULL && same_line(now_line, then_line);
        if (!good) {
            error_set(err, ERROR_USAGE, "disk %zu is not as it was when the machine was suspended", i);
            error_hint(err, "Something wrote to it since. Going on (--force) would damage its file "
                            "system; without the suspended state it is as after a loss of power.");
        }
        free(now_line);
        free(then_line);
        now_rest += now_length + (now_rest[now_length] == '\n');
        then_rest += then_length + (then_rest[then_length] == '\n');
    }
    free(now);
    return good;
}
