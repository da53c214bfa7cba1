/* SPDX-License-Identifier: MIT
 *
 * An archive of anybody's making is unpacked, and its machine adopted.
 *
 * Input: 1 byte of flags, then patches of a tar that is good otherwise: 2 bytes of offset (with
 * ANYWHERE times 7, so that all of it is reached), 1 byte of how many bytes, those bytes. With
 * CHECKSUMS the headers get new checksums then, with SUMS a last patch's bytes count as the
 * description. With TREE it is one with a tree of snapshots (daemon/migrate_tree.h), and such a one is
 * taken. With WHOLE the input is the tar itself; with FRAME it is the compressed file.
 *
 * The checks are those of asserts and sanitizers, and: what is refused says why; what lies in the
 * folder was announced; the machine names nothing but files of the archive or of its own making.
 */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/machine.h"
#include "archive/zstream.h"
#include "base/error.h"
#include "config/nvram.h"
#include "config/vmx.h"

enum flag { CHECKSUMS = 1, ANYWHERE = 2, WHOLE = 4, FRAME = 8, SAME = 16, TREE = 32 };
enum { TAR_MAX = 64 << 10, BLOCK = 512, HEADER_SUM = 148, HEADER_SUM_SIZE = 8, PIECE = 1000 };

static const char vmx[] = "memsize = \"64\"\n"
                          "trapeze.firmware = \"firmware\"\n"
                          "scsi0:0.fileName = \"disk.img\"\n"
                          "scsi0:0.trapeze.format = \"qcow2\"\n"
                          "scsi0:1.fileName = \"/etc/passwd\"\n"
                          "sharedFolder0.hostPath = \"/\"\n"
                          "sharedFolder0.guestName = \"x\"\n"
                          "ethernet0.connectionType = \"nat\"\n";

struct bytes {
    uint8_t data[TAR_MAX];
    size_t size, at;
};

static bool append(void *opaque, const void *data, size_t size, struct error **err)
{
    struct bytes *bytes = opaque;
    (void)err;
    fuzz_check(size <= TAR_MAX - bytes->size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return true;
}

static int file_of(const void *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    fuzz_check(write(fd, data, size) == (ssize_t)size);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

/* A small disk with holes. */
static struct block_image *disk(void)
{
    const struct block_image_options options = {.format = "raw"};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    fuzz_check(ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "data", 4, 600000) == 4);
    struct block_file *file = block_file_new(fd, false, BLOCK_CACHE_UNSAFE, NULL);
    struct block_image *image = block_image_open(file, "fuzz", &options, NULL);
    fuzz_check(image != NULL);
    return image;
}

static bool add_parts(struct pack *pack)
{
    pack_set_tree(pack, json_pack("{s:i, s:[{s:i, s:s}], s:[]}", "current", 0, "files", "part", 0, "as",
                                  "disk.img", "snapshots"));
    int holes = file_of("data", 4);
    fuzz_check(ftruncate(holes, 1 << 20) == 0);
    return pack_add_part(pack, file_of("\x7f" "ELF", 4), NULL) &&
           pack_add_part(pack, file_of("", 0), NULL) && pack_add_part(pack, holes, NULL) &&
           pack_add_nvram(pack, file_of("trapeze.nvram = \"1\"\n", 20), NULL);
}

static bool add_files(struct pack *pack)
{
    return pack_add_file(pack, "firmware", file_of("\x7f" "ELF", 4), NULL) &&
           pack_add_disk(pack, "disk.img", disk(), "qcow2", NULL) &&
           pack_add_saved(pack, file_of("state", 5), NULL) &&
           pack_add_nvram(pack, file_of("trapeze.nvram = \"1\"\n", 20), NULL);
}

/* A good one; the same every time, so it is made once. */
static void make_tar(struct bytes *tar, bool tree)
{
    struct text *text = text_parse(vmx, sizeof(vmx) - 1, "vmx", NULL);
    struct pack *pack = pack_new("web", text);
    int compressed = memfd_create("fuzz", MFD_CLOEXEC);
    const void *piece;
    size_t size = 1;
    pack_note(pack, "a note");
    pack_set_clock(pack, -1234567);
    fuzz_check((tree ? add_parts(pack) : add_files(pack)) && pack_write(pack, compressed, NULL));
    lseek(compressed, 0, SEEK_SET);
    struct zstream_reader *reader = zstream_reader_new(compressed, NULL);
    *tar = (struct bytes){.size = 0};
    while (size > 0) {
        fuzz_check(zstream_read(reader, &piece, &size, NULL));
        append(tar, piece, size, NULL);
    }
    zstream_reader_free(reader);
    close(compressed);
    pack_free(pack);
    text_free(text);
}

static void patch(struct bytes *tar, struct fuzz_input *input, unsigned flags)
{
    while (input->left >= 4) {
        size_t offset = (size_t)fuzz_take(input, 2) * (flags & ANYWHERE ? 7 : 1);
        for (unsigned count = (unsigned)fuzz_take(input, 1); count > 0; count--, offset++)
            tar->data[offset % tar->size] = (uint8_t)fuzz_take(input, 1);
    }
}

static void renew_checksums(struct bytes *tar)
{
    for (size_t at = 0; at + BLOCK <= tar->size; at += BLOCK) {
        uint8_t *header = tar->data + at;
        unsigned sum = 0;
        char text[HEADER_SUM_SIZE + 1];
        if (memcmp(header + 257, "ustar", 5) != 0)
            continue;
        memset(header + HEADER_SUM, ' ', HEADER_SUM_SIZE);
        for (size_t i = 0; i < BLOCK; i++)
            sum += header[i];
        snprintf(text, sizeof(text), "%06o%c ", sum, 0);
        memcpy(header + HEADER_SUM, text, HEADER_SUM_SIZE);
    }
}

static bool next_piece(void *opaque, const void **bytes, size_t *size, struct error **err)
{
    struct bytes *tar = opaque;
    size_t left = tar->size - tar->at;
    (void)err;
    *bytes = tar->data + tar->at;
    *size = left < PIECE ? left : PIECE;
    tar->at += *size;
    return true;
}

static bool is_announced(const struct unpacked *unpacked, const char *name)
{
    for (size_t i = 0; i < json_array_size(unpacked->files); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(unpacked->files, i), "name")),
                   name) == 0)
            return true;
    return false;
}

/* Removes everything, too. */
static void check_folder(int folder, const struct unpacked *unpacked)
{
    DIR *listing = fdopendir(folder);
    const struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        fuzz_check(fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                   S_ISREG(status.st_mode) && pack_name_is_plain(entry->d_name));
        fuzz_check(unpacked == NULL || is_announced(unpacked, entry->d_name));
        fuzz_check(unlinkat(folder, entry->d_name, 0) == 0);
    }
    closedir(listing);
}

static void check_path(const struct unpacked *unpacked, const char *path)
{
    fuzz_check(path == NULL || !pack_name_is_reserved(path));
    fuzz_check(path == NULL || path[0] == '\0' || is_announced(unpacked, path));
}

static bool is_allowed(const char *name)
{
    size_t length = strlen(name);
    return length < 4 || strcmp(name + length - 4, ".vmx") != 0;
}

static void check_machine(const struct unpacked *unpacked)
{
    struct machine_config config;
    machine_config_init(&config);
    fuzz_check(vmx_read(unpacked->text, &config, NULL, NULL));
    check_path(unpacked, config.kernel);
    check_path(unpacked, config.initrd);
    check_path(unpacked, config.firmware);
    for (size_t i = 0; i < config.disk_count; i++)
        fuzz_check(config.disks[i].path[0] == '\0' || config.disks[i].format != NULL);
    for (size_t i = 0; i < config.disk_count; i++)
        check_path(unpacked, config.disks[i].path);
    fuzz_check(config.share_count == 0 && config.perf == NULL && config.trace == NULL);
    for (size_t i = 0; i < config.nic_count; i++)
        fuzz_check(config.nics[i].vnet == NULL && config.nics[i].forward == NULL &&
                   !config.nics[i].host_loopback);
    fuzz_check(unpacked->rtc_offset > -NVRAM_MAX_OFFSET && unpacked->rtc_offset < NVRAM_MAX_OFFSET);
    const char *const made[] = {config.serial_path, config.dump_fdt, config.vsock_socket};
    for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
        fuzz_check(made[i] == NULL || (pack_name_is_plain(made[i]) && is_allowed(made[i]) &&
                                       !pack_name_is_reserved(made[i])));
    machine_config_clear(&config);
}

/* As unpack() does, but in this process. */
static bool unpack_frame(int frame, int folder, struct unpacked *unpacked, struct error **err)
{
    *unpacked = (struct unpacked){0};
    struct zstream_reader *stream = zstream_reader_new(frame, err);
    bool good = stream != NULL && unpack_tar(zstream_read, stream, folder, NULL, false, unpacked, err);
    zstream_reader_free(stream);
    return good;
}

static void unpack_one(struct bytes *tar, int frame, unsigned flags)
{
    char path[] = "/dev/shm/trapeze-fuzz-XXXXXX"; /* where fsync() costs nothing */
    struct unpacked unpacked;
    struct error *error = NULL;
    fuzz_check(mkdtemp(path) != NULL);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = frame >= 0 ? unpack_frame(frame, folder, &unpacked, &error)
                           : unpack_tar(next_piece, tar, folder, NULL, (flags & TREE) != 0, &unpacked,
                                        &error);
    fuzz_check(good == (error == NULL));
    error_free(error);
    check_folder(folder, good ? &unpacked : NULL);
    fuzz_check(rmdir(path) == 0);
    error = NULL;
    if (good && machine_adopt(&unpacked, "fuzz", (flags & SAME) != 0 ? MACHINE_KEEP_IDENTITY : 0,
                              is_allowed, &error))
        check_machine(&unpacked);
    error_free(error);
    if (good)
        unpacked_clear(&unpacked);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    unsigned flags = (unsigned)fuzz_take(&input, 1);
    struct bytes *tar = malloc(sizeof(*tar));
    int frame = -1;
    if (flags & FRAME) {
        frame = file_of(input.data, input.left);
    } else if (flags & WHOLE) {
        *tar = (struct bytes){.size = 0};
        append(tar, input.data, input.left, NULL);
    } else {
        static struct bytes good[2];
        bool tree = (flags & TREE) != 0;
        if (good[tree].size == 0)
            make_tar(&good[tree], tree);
        *tar = good[tree];
        patch(tar, &input, flags);
        if (flags & CHECKSUMS)
            renew_checksums(tar);
    }
    unpack_one(tar, frame, flags);
    if (frame >= 0)
        close(frame);
    free(tar);
    return 0;
}

/* Few patches, mostly in headers and the manifest, of bytes that mean something there. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const words[] = {"0",
                                        "7",
                                        "1",
                                        "2",
                                        "5",
                                        "L",
                                        "x",
                                        "../",
                                        "/",
                                        ".",
                                        "\"",
                                        "-1",
                                        "raw",
                                        "{}",
                                        "qcow2",
                                        "99",
                                        "e",
                                        "null",
                                        "disk.img",
                                        "web",
                                        "\xff",
                                        "00000000777",
                                        "GNU.sparse.major=1\n"};
    uint64_t random = fuzz_random(seed);
    size_t size = 0;
    data[size++] = (uint8_t)(random % 64 == 0   ? WHOLE
                             : random % 64 == 1 ? FRAME
                                                : random % 4 | (random & (SAME | TREE)));
    for (unsigned patches = (unsigned)(random >> 8) % 4; patches > 0; patches--) {
        uint64_t more = fuzz_random(seed);
        const char *word = words[more % (sizeof(words) / sizeof(words[0]))];
        size_t offset = (size_t)(more >> 8) % 6000, length = strlen(word);
        if (more >> 63) /* a header's field */
            offset = offset / BLOCK * BLOCK + (more >> 40) % 264;
        data[size++] = (uint8_t)offset;
        data[size++] = (uint8_t)(offset >> 8);
        data[size++] = (uint8_t)length;
        memcpy(data + size, word, length);
        size += length;
    }
    return size;
}
