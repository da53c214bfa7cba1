/* SPDX-License-Identifier: MIT
 *
 * See vmdk.h. The checks are of what qemu-img would follow: a descriptor's extents and parent
 * (VMware's Virtual Disk Format 5.0, "The Descriptor File").
 */
#include "archive/vmdk.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { DESCRIPTOR_MAX = 256 << 10, HEADER_BYTES = 512 };
#define METADATA_SPARE (64 * MIB)

int vmdk_scratch(const char *folder, struct error **err)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        error_set_errno(err, errno, "cannot make a file in '%s'", folder);
    return fd;
}

/* A sparse file: it says how large it is, so that qemu-img takes its own descriptor's extents for
 * nothing. */
static bool check_header(const uint8_t *header, uint64_t capacity, uint64_t *size,
                         struct error **err)
{
    uint64_t sectors = 0;
    memcpy(&sectors, header + 12, sizeof(sectors)); /* little-endian, as we are */
    if (sectors == 0 || sectors > BLOCK_SIZE_MAX / BLOCK_SECTOR)
        return error_set(err, ERROR_HOST, "its header makes no sense");
    *size = sectors * BLOCK_SECTOR;
    return capacity == 0 || *size <= capacity ||
           error_set(err, ERROR_HOST, "it has %llu bytes, and was announced with %llu",
                     (unsigned long long)*size, (unsigned long long)capacity);
}

/* An extent's file lies beside the descriptor and leads nowhere else. */
static bool check_extent(const char *path, const char *name, size_t length, struct error **err)
{
    const char *slash = strrchr(path, '/');
    char *beside = NULL;
    uint8_t header[HEADER_BYTES] = {0};
    struct stat status;
    uint64_t size;
    if (length == 0 || name[0] == '.' || memchr(name, '/', length) != NULL ||
        asprintf(&beside, "%.*s%.*s", slash != NULL ? (int)(slash + 1 - path) : 0, path,
                 (int)length, name) < 0)
        return error_set(err, ERROR_HOST, "it names a file that is not a part of it: '%.*s'",
                         (int)(length < 80 ? length : 80), name);
    int fd = open(beside, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool good = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                pread(fd, header, sizeof(header), 0) >= 0;
    if (!good)
        error_set(err, ERROR_HOST, "it has a part '%s' that is no file", beside);
    good = good && (memcmp(header, "KDMV", 4) != 0 || check_header(header, 0, &size, err));
    if (fd >= 0)
        close(fd);
    free(beside);
    return good;
}

static bool check_line(const char *line, const char *path, struct error **err)
{
    static const char *const extents[] = {"RW", "RDONLY", "NOACCESS"};
    const char *quote = strchr(line, '"');
    if (strncasecmp(line, "parentFileNameHint", strlen("parentFileNameHint")) == 0)
        return error_set(err, ERROR_USAGE, "it lies on another disk, and has to stand alone");
    for (size_t i = 0; i < ARRAY_SIZE(extents); i++)
        if (strncasecmp(line, extents[i], strlen(extents[i])) == 0) {
            if (path == NULL)
                return error_set(err, ERROR_HOST, "it consists of other files");
            return quote != NULL /* for scanf(), the rest may stand on the next line */
                       ? check_extent(path, quote + 1, strcspn(quote + 1, "\""), err)
                       : error_set(err, ERROR_HOST, "its descriptor makes no sense");
        }
    return true;
}

/* A descriptor alone, whose extents are other files. */
static bool check_descriptor(int fd, const char *path, struct error **err)
{
    char *text = alloc_zeroed(1, DESCRIPTOR_MAX + 1), *rest = text, *line;
    ssize_t size = pread(fd, text, DESCRIPTOR_MAX, 0);
    bool good = size > 0 && size < DESCRIPTOR_MAX; /* zeros may fill it up */
    if (!good)
        error_set(err, ERROR_HOST, "its descriptor makes no sense");
    while (good && (line = strsep(&rest, "\r\n")) != NULL)
        good = check_line(line + strspn(line, " \t\v\f"), path, err); /* as isspace() has it */
    free(text);
    return good;
}

/* In the child. */
static _Noreturn void run_qemu_img(const char *from, int to, uint64_t limit)
{
    char target[48];
    int null = open("/dev/null", O_RDWR);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", to);
    if (limit != 0)
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, limit});
    bool shows = isatty(STDERR_FILENO) == 1;
    dup2(null, STDIN_FILENO);
    dup2(shows ? STDERR_FILENO : null, STDOUT_FILENO);
    fcntl(to, F_SETFD, 0);
    execlp("qemu-img", "qemu-img", "convert", shows ? "-p" : "-q", "-O", "qcow2", from, target,
           (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

/* `from` is a description of ours for qemu-img, not a name. */
static bool convert(const char *from, int keep, int to, uint64_t limit, struct error **err)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (keep >= 0)
            fcntl(keep, F_SETFD, 0);
        run_qemu_img(from, to, limit);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127) {
        error_set(err, ERROR_HOST,
                  "it is a VMDK, which qemu-img has to read, and there is no "
                  "qemu-img");
        error_hint(err, "Install it: apt-get install qemu-utils");
        return false;
    }
    return error_set(err, ERROR_HOST, "qemu-img could not convert it");
}

static struct block_image *open_image(int fd, const char *name, const char *format,
                                      struct error **err)
{
    const struct block_image_options options = {.format = format};
    struct block_file *file = block_file_new(fd, true, BLOCK_CACHE_WRITEBACK, err);
    if (file == NULL) {
        close(fd);
        return NULL;
    }
    struct block_image *image = block_image_open(file, name, &options, err);
    if (image == NULL)
        block_file_close(file);
    return image;
}

static struct block_image *open_vmdk(int fd, const char *path, const char *name,
                                     const char *scratch, uint64_t size, struct error **err)
{
    char self[48];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    json_t *how = json_pack("{s:s, s:n, s:{s:s, s:s}}", "driver", "vmdk", "backing", "file",
                            "driver", "file", "filename", path != NULL ? path : self);
    char *text = how != NULL ? json_dumps(how, JSON_COMPACT) : NULL, *from = NULL;
    int to = text != NULL && asprintf(&from, "json:%s", text) > 0 ? vmdk_scratch(scratch, err) : -1;
    struct block_image *image = NULL;
    uint64_t limit = size != 0 ? size + size / 64 + METADATA_SPARE : 0;
    if (to >= 0 && convert(from, path == NULL ? fd : -1, to, limit, err))
        image = open_image(fcntl(to, F_DUPFD_CLOEXEC, 0), name, "qcow2", err);
    if (to >= 0)
        close(to);
    json_decref(how);
    free(text);
    free(from);
    return image;
}

struct block_image *vmdk_open(int fd, const char *name, const char *path, const char *scratch,
                              uint64_t capacity, struct error **err)
{
    static const char descriptor[] = "# Disk DescriptorFile";
    uint8_t header[HEADER_BYTES] = {0};
    struct block_image *image = NULL;
    uint64_t size = capacity;
    ssize_t count = pread(fd, header, sizeof(header), 0);
    bool sparse = memcmp(header, "KDMV", 4) == 0;
    if (count < 0)
        error_set_errno(err, errno, "cannot read it");
    else if (memcmp(header, "COWD", 4) == 0)
        error_set(err, ERROR_USAGE, "it is a VMDK of ESX's own kind; export it from there as OVF");
    else if (sparse && check_header(header, capacity, &size, err))
        image = open_vmdk(fd, NULL, name, scratch, size, err);
    else if (!sparse && strncasecmp((char *)header, descriptor, sizeof(descriptor) - 1) != 0)
        image = open_image(fcntl(fd, F_DUPFD_CLOEXEC, 0), name, NULL, err);
    else if (!sparse && check_descriptor(fd, path, err))
        image = open_vmdk(fd, path, name, scratch, size, err);
    if (image != NULL && capacity != 0 && image->size > capacity) {
        error_set(err, ERROR_HOST, "it is larger than announced");
        block_image_close(image);
        image = NULL;
    }
    if (image == NULL)
        error_prefix(err, "the disk '%s'", name);
    return image;
}
