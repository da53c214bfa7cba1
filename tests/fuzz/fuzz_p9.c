/* SPDX-License-Identifier: MIT
 *
 * A shared folder's server against a client that says anything.
 *
 * Input: 1 byte (bit 0: read-only), then messages: 1 byte type, 1 byte length, that many bytes
 * behind the header; of type 0xff: what was saved of the session is restored, with that many bytes
 * of it changed. Checked beside what sanitizers see: answers are well-formed; what lies
 * outside of the folder is never in an answer and never changes; nor does what lies inside, if
 * the folder is read-only.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/state.h"
#include "p9_client.h"

#define SECRET "outside-of-the-folder"
enum { SAVED = 0xff };

static void put_file(int folder, const char *name, const char *text)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    fuzz_check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void check_file(int folder, const char *name, const char *text)
{
    char bytes[64] = "";
    int fd = openat(folder, name, O_RDONLY);
    fuzz_check(fd >= 0 && read(fd, bytes, sizeof(bytes) - 1) == (ssize_t)strlen(text));
    fuzz_check(strcmp(bytes, text) == 0);
    close(fd);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static void attach(struct p9 *p9, struct p9_message *m)
{
    p9_begin(m, 104);
    p9_u32(m, 0);
    p9_u32(m, ~0u);
    p9_text(m, "");
    p9_text(m, "");
    p9_u32(m, 0);
    fuzz_check(p9_call(m, p9) == 105);
}

static void save_and_restore(struct p9 *p9, struct fuzz_input *input, unsigned changes)
{
    struct state_buffer saved = {0};
    struct error *err = NULL;
    unsigned lost = 0;
    p9_save(p9, &saved);
    for (; changes > 0; changes--) {
        size_t at = (size_t)fuzz_take(input, 2) % saved.size;
        saved.data[at] = (uint8_t)fuzz_take(input, 1);
    }
    bool good = p9_restore(p9, saved.data, saved.size, &lost, &err);
    fuzz_check(good == (err == NULL));
    error_free(err);
    state_buffer_free(&saved);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    char base[] = "/tmp/trapeze-fuzz-p9-XXXXXX";
    struct p9_message *m = malloc(sizeof(*m));
    bool read_only = fuzz_take(&input, 1) & 1;
    fuzz_check(mkdtemp(base) != NULL);
    int outside = open(base, O_PATH | O_DIRECTORY);
    fuzz_check(mkdirat(outside, "in", 0755) == 0 && mkdirat(outside, "in/d", 0755) == 0);
    put_file(outside, "secret", SECRET);
    put_file(outside, "in/f", "inside");
    fuzz_check(symlinkat("../secret", outside, "in/l") == 0);
    int own_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY);
    struct p9 *p9 = p9_new(openat(outside, "in", O_PATH | O_DIRECTORY), own_fds, read_only);
    attach(p9, m);
    while (input.left > 0) {
        uint8_t type = (uint8_t)fuzz_take(&input, 1);
        unsigned left = (unsigned)fuzz_take(&input, 1);
        if (type == SAVED) {
            save_and_restore(p9, &input, left % 8);
            continue;
        }
        p9_begin(m, type);
        for (; left > 0; left--)
            p9_bytes(m, fuzz_take(&input, 1), 1);
        if (p9_call(m, p9) == 0)
            continue;
        fuzz_check(m->answer >= 7 && load_le32(m->reply) == m->answer);
        fuzz_check(load_le16(m->reply + 5) == 0x1234);
        fuzz_check(memmem(m->reply, m->answer, SECRET, strlen(SECRET)) == NULL);
    }
    p9_free(p9);
    close(own_fds);
    check_file(outside, "secret", SECRET);
    if (read_only)
        check_file(outside, "in/f", "inside");
    close(outside);
    (void)nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(m);
    return 0;
}

static void add(uint8_t **at, uint8_t type, const uint8_t *body, uint8_t size)
{
    *(*at)++ = type;
    *(*at)++ = size;
    memcpy(*at, body, size);
    *at += size;
}

static size_t put_name(uint8_t *to, uint64_t random)
{
    static const char *const names[] = {"f", "d", "l", "n", "..", ".", "", "../secret", "/", "x/y"};
    const char *name = names[random % (random >> 8 & 1 ? 4 : 10)];
    store_le16(to, (uint16_t)strlen(name));
    memcpy(to + 2, name, strlen(name));
    return 2 + strlen(name);
}

/* Clients that walk, open, read, write and make things with few fids and names. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const uint8_t types[] = {12, 14, 16, 18,  22,  24,  26,  40,  50,  52, 70,
                                    72, 74, 76, 110, 110, 110, 116, 118, 120, 8,  100};
    uint8_t *at = data;
    *at++ = (uint8_t)fuzz_random(seed);
    for (unsigned i = (unsigned)(fuzz_random(seed) % 40); i > 0; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        uint8_t body[80] = {0}, type = types[r % sizeof(types)];
        size_t size = 4;
        if (r >> 56 < 20) {
            *at++ = SAVED;
            *at++ = r >> 48 & 3;
            for (unsigned n = 3 * (r >> 48 & 3); n > 0; n--, s = s >> 8 | s << 56)
                *at++ = n % 3 == 2 ? 0 : (uint8_t)s;
            continue;
        }
        body[0] = r >> 8 & 3;
        if (type == 110) {
            body[4] = r >> 10 & 3;
            body[8] = r >> 12 & 1 ? 1 : r >> 13 & 3;
            size = 10;
            for (unsigned n = 0; n < body[8]; n++)
                size += put_name(body + size, s >> (16 * n));
        } else if (type == 116 || type == 118 || type == 40) {
            store_le32(body + 12, 64);
            size = 16 + (type == 118 ? 64 : 0);
            body[4] = s & 7;
        } else if (type == 12) {
            store_le32(body + 4, r >> 20 & 0x3403);
            size = 8;
        } else if (type == 26) {
            store_le32(body + 4, s & 0x1ff);
            store_le32(body + 8, (uint32_t)(s >> 32));
            size = 60;
        } else if (type != 22 && type != 24 && type != 120) {
            if (type == 70) {
                body[4] = s >> 40 & 3;
                size = 8;
            }
            size += put_name(body + size, s);
            if (type == 16 || type == 74) {
                if (type == 74)
                    size += 4;
                size += put_name(body + size, s >> 16);
            }
            store_le32(body + size, (uint32_t)(s >> 24) & (r >> 30 & 1 ? 0xffff : 0102));
            store_le32(body + size + 4, 0755);
            size += 16;
        }
        if (fuzz_random(seed) % 16 == 0)
            body[fuzz_random(seed) % size] = (uint8_t)r;
        add(&at, fuzz_random(seed) % 32 == 0 ? (uint8_t)r : type, body, (uint8_t)size);
    }
    return (size_t)(at - data);
}
