/* SPDX-License-Identifier: MIT
 *
 * The description of a snapshot, as a folder that was copied from somewhere may have it. The input:
 * a byte of the snapshot's number, then the file. What is taken for one has a name and a parent that
 * the rest can rely on, and is the same when it was written and read again.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "daemon/snapshot.h"

static size_t read_back(int folder, char *bytes, size_t room)
{
    int fd = openat(folder, "description", O_RDONLY | O_CLOEXEC);
    fuzz_check(fd >= 0);
    ssize_t size = read(fd, bytes, room);
    fuzz_check(size > 0);
    close(fd);
    return (size_t)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/tmp/trapeze-fuzz-snapshot-XXXXXX", again[1024];
    struct snapshot snapshot, other;
    unsigned id = size > 0 ? data[0] : 0;
    if (size == 0 || !snapshot_parse((const char *)data + 1, size - 1, id, &snapshot, NULL))
        return 0;
    fuzz_check(instance_name_check(snapshot.name, NULL));
    fuzz_check(snapshot.id == id && (snapshot.parent < id || snapshot.parent == 0));
    fuzz_check(snapshot.made >= 0);
    fuzz_check(mkdtemp(path) != NULL);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fuzz_check(folder >= 0 && snapshot_write(folder, &snapshot, NULL));
    size_t length = read_back(folder, again, sizeof(again));
    fuzz_check(snapshot_parse(again, length, id, &other, NULL));
    fuzz_check(strcmp(other.name, snapshot.name) == 0 && other.parent == snapshot.parent &&
               other.made == snapshot.made && other.memory == snapshot.memory);
    unlinkat(folder, "description", 0);
    close(folder);
    rmdir(path);
    return 0;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const keys[] = {"displayName", "parent", "created", "memory", "other"};
    static const char *const values[] = {"a", "before-upgrade", "..", "", "0", "1", "4294967296",
                                         "-1", "9223372036854775808", "TRUE", "no", "|2F"};
    size_t size = 1;
    data[0] = (uint8_t)fuzz_random(seed);
    for (uint64_t lines = fuzz_random(seed) % 8; lines > 0; lines--)
        size += (size_t)snprintf((char *)data + size, FUZZ_INPUT_MAX - size, "%s = \"%s\"\n",
                                 keys[fuzz_random(seed) % 5], values[fuzz_random(seed) % 12]);
    for (uint64_t changes = fuzz_random(seed) % 3; changes > 0; changes--)
        data[fuzz_random(seed) % size] = (uint8_t)fuzz_random(seed);
    return size;
}
