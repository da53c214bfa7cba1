/* SPDX-License-Identifier: MIT
 *
 * See image.h. The builder is a script (images/build), found through $TRAPEZE_BUILDER, beside
 * this executable if it was installed, or in the source tree it was built from.
 */
#include "client/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "build.h"
#include "client/copy.h"
#include "client/signals.h"

static const struct {
    const char *name, *title;
    bool needs_kvm; /* to be made: it configures itself in a guest */
} recipes[] = {
    {"debian", "Debian 13 (trixie), with systemd, ssh and apt", false},
    {"debian-dev", "the same with compiler, Python and stress-ng, for tests", false},
    {"tiny", "Debian's kernel and busybox; a shell in seconds", false},
    {"kernel", "only the kernel, a part of the others", false},
    {"debian-x86_64", "the debian image for x86-64; needs KVM", true},
    {"debian-dev-x86_64", "the debian-dev image for x86-64; needs KVM", true},
    {"tiny-x86_64", "the tiny image for x86-64", false},
    {"kernel-x86_64", "only the kernel for x86-64", false},
};

const char *image_recipe_title(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
        if (strcmp(recipes[i].name, name) == 0)
            return recipes[i].title;
    return NULL;
}

bool image_recipe_needs_kvm(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
        if (strcmp(recipes[i].name, name) == 0)
            return recipes[i].needs_kvm;
    return false;
}

const char *image_recipe_at(size_t index)
{
    return index < ARRAY_SIZE(recipes) ? recipes[index].name : NULL;
}

static char *cache_folder(struct error **err)
{
    const char *own = getenv("TRAPEZE_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    char *path = NULL;
    int length = -1;
    if (own != NULL && own[0] != '\0')
        length = asprintf(&path, "%s", own);
    else if (xdg != NULL && xdg[0] != '\0')
        length = asprintf(&path, "%s/trapeze", xdg);
    else if (home != NULL)
        length = asprintf(&path, "%s/.cache/trapeze", home);
    if (length >= 0)
        return path;
    error_set(err, ERROR_HOST, "there is no place for guest images");
    error_hint(err, "Set TRAPEZE_CACHE to a folder.");
    return NULL;
}

char *image_folder(const char *name, struct error **err)
{
    char *cache = cache_folder(err), *path = NULL;
    if (cache != NULL && asprintf(&path, "%s/%s", cache, name) < 0)
        path = NULL;
    free(cache);
    return path;
}

static const struct boot_loader {
    const char *isa, *name, *variable, *path, *package;
    bool is_kernel; /* to the machine */
} boot_loaders[] = {
    {"riscv64", "U-Boot", "TRAPEZE_UBOOT", "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf",
     "u-boot-qemu", true},
    {"x86_64", "SeaBIOS", "TRAPEZE_SEABIOS", "/usr/share/seabios/bios-256k.bin", "seabios", false},
    {"x86_64", "OVMF", "TRAPEZE_OVMF", "/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", false},
};

/* The one that the user names, or else the first for that architecture. */
static const struct boot_loader *choose_loader(const char *isa)
{
    const struct boot_loader *chosen = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(boot_loaders); i++) {
        const struct boot_loader *loader = &boot_loaders[i];
        if (strcmp(loader->isa, isa) == 0 && (chosen == NULL || getenv(loader->variable) != NULL))
            chosen = loader;
    }
    return chosen;
}

bool image_boot_loader(const char *isa, char **kernel, char **firmware, struct error **err)
{
    const struct boot_loader *loader = choose_loader(isa);
    if (loader == NULL)
        return error_set(err, ERROR_INTERNAL, "whole disks for %s have nothing to start them", isa);
    const char *named = getenv(loader->variable), *path = named != NULL ? named : loader->path;
    if (access(path, R_OK) != 0) {
        error_set(err, ERROR_HOST,
                  "the image is a whole disk with a boot loader, which %s starts, and there is "
                  "no '%s'",
                  loader->name, path);
        error_hint(err, "Install it: apt-get install %s", loader->package);
        return false;
    }
    *(loader->is_kernel ? kernel : firmware) = strdup(path);
    return true;
}

/* The builder that was installed with this executable: PREFIX/bin/trapeze has it in
 * PREFIX/share, wherever PREFIX is now (a package is installed somewhere else than it is built
 * for, and a folder moves). NULL: this executable does not lie in a folder bin. */
static char *installed_builder(void)
{
    static const char data[] = TRAPEZE_BUILDER_INSTALLED;
    char self[PATH_MAX], *path = NULL;
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self));
    if (length <= 0 || (size_t)length == sizeof(self))
        return NULL;
    self[length] = '\0';
    const char *name = strrchr(self, '/');
    size_t folder = name == NULL ? 0 : (size_t)(name - self), bin = strlen(TRAPEZE_BINDIR);
    if (folder < bin || memcmp(self + folder - bin, TRAPEZE_BINDIR, bin) != 0)
        return NULL;
    int prefix = data[0] == '/' ? 0 : (int)(folder - bin);
    return asprintf(&path, "%.*s%s%s", prefix, self, prefix == 0 ? "" : "/", data) < 0 ? NULL
                                                                                       : path;
}

/* The caller frees it; NULL if memory is short. */
static char *find_builder(void)
{
    const char *chosen = getenv("TRAPEZE_BUILDER");
    if (chosen != NULL)
        return strdup(chosen);
    char *installed = installed_builder();
    if (installed != NULL && access(installed, F_OK) == 0)
        return installed;
    free(installed);
    return strdup(TRAPEZE_BUILDER_SOURCE);
}

int image_builder_run(char *const *arguments, struct error **err)
{
    char *builder = find_builder();
    if (builder == NULL || access(builder, X_OK) != 0) {
        error_set_errno(err, errno, "the image builder '%s' cannot be run",
                        builder != NULL ? builder : "");
        error_hint(err, "Set TRAPEZE_BUILDER to images/build of the source tree.");
        free(builder);
        return -1;
    }
    size_t count = 0;
    while (arguments[count] != NULL)
        count++;
    const char **argv = calloc(count + 2, sizeof(*argv));
    argv[0] = builder;
    for (size_t i = 0; i < count; i++)
        argv[i + 1] = arguments[i];
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY);
        dup2(null, STDIN_FILENO);
        execv(builder, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    free(argv);
    free(builder);
    if (pid < 0) {
        error_set_errno(err, errno, "cannot start the image builder");
        return -1;
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A string of the manifest, `folder`/ in front of it if folder is given; NULL if absent. */
static char *manifest_text(const json_t *manifest, const char *key, const char *folder)
{
    const char *text = json_string_value(json_object_get(manifest, key));
    char *out = NULL;
    if (text == NULL)
        return NULL;
    if (folder == NULL)
        return strdup(text);
    return asprintf(&out, "%s/%s", folder, text) < 0 ? NULL : out;
}

bool image_read(const char *folder, struct image *image, struct error **err)
{
    *image = (struct image){0};
    char *path = NULL;
    json_error_t where;
    if (asprintf(&path, "%s/image.json", folder) < 0)
        return error_set(err, ERROR_HOST, "out of memory");
    json_t *manifest = json_load_file(path, 0, &where);
    bool good = json_integer_value(json_object_get(manifest, "format")) == IMAGE_MANIFEST_FORMAT;
    if (good) {
        image->title = manifest_text(manifest, "title", NULL);
        image->append = manifest_text(manifest, "append", NULL);
        image->login = manifest_text(manifest, "login", NULL);
        image->kernel = manifest_text(manifest, "kernel", folder);
        image->initrd = manifest_text(manifest, "initrd", folder);
        image->disk = manifest_text(manifest, "disk", folder);
        image->disk_format = manifest_text(manifest, "disk_format", NULL);
        image->isa = manifest_text(manifest, "isa", NULL);
        image->source = manifest_text(manifest, "source", NULL);
        image->memory =
            (uint64_t)json_integer_value(json_object_get(manifest, "memory_mib")) * MIB;
        image->cpus = (unsigned)json_integer_value(json_object_get(manifest, "cpus"));
        good = (image->kernel != NULL || image->disk != NULL) && image->title != NULL;
    }
    if (!good) {
        error_set(err, ERROR_HOST, "'%s' is not a manifest that this version understands", path);
        error_hint(err, "Remove the image ('trapeze image remove NAME') and run again: it is "
                        "rebuilt.");
    }
    json_decref(manifest);
    free(path);
    return good;
}

static bool build(const char *name, const char *folder, struct error **err)
{
    char self[64];
    snprintf(self, sizeof(self), "/proc/%d/exe", (int)getpid());
    /* The builder names the finished folder on standard output; here only the user's own
     * output belongs there. */
    fprintf(stderr, "trapeze: the image '%s' is not there yet; building it once.\n", name);
    fflush(stdout);
    int out = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDOUT_FILENO);
    char *arguments[] = {(char *)(uintptr_t)name, (char *)(uintptr_t) "--trapeze", self, NULL};
    int status = image_builder_run(arguments, err);
    dup2(out, STDOUT_FILENO);
    close(out);
    close(null);
    if (status == 0 && access(folder, F_OK) == 0)
        return true;
    if (status < 0)
        return false;
    if (status == 2) {
        error_set(err, ERROR_USAGE, "there is no image '%s'", name);
        error_hint(err, "'trapeze image list' names the images there are.");
        return false;
    }
    return error_set(err, ERROR_HOST, "the image '%s' could not be built (see above)", name);
}

bool image_find(const char *name, struct image *image, struct error **err)
{
    char *cache = cache_folder(err), *folder = NULL;
    *image = (struct image){0};
    if (cache == NULL)
        return false;
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL) {
        free(cache);
        return error_set(err, ERROR_USAGE, "'%s' is not the name of an image", name);
    }
    bool good = asprintf(&folder, "%s/images/%s", cache, name) >= 0;
    if (good && access(folder, F_OK) != 0)
        good = build(name, folder, err);
    good = good && image_read(folder, image, err);
    free(folder);
    free(cache);
    return good;
}

bool image_is_built(const char *name)
{
    char *cache = cache_folder(NULL), *manifest = NULL;
    bool built = cache != NULL && asprintf(&manifest, "%s/images/%s/image.json", cache, name) > 0 &&
                 access(manifest, F_OK) == 0;
    free(manifest);
    free(cache);
    return built;
}

void image_clear(struct image *image)
{
    free(image->title);
    free(image->kernel);
    free(image->firmware);
    free(image->initrd);
    free(image->disk);
    free(image->disk_format);
    free(image->isa);
    free(image->source);
    free(image->append);
    free(image->login);
    *image = (struct image){0};
}

/* ---- private copies ---- */

struct progress {
    time_t begin;
    bool shown;
};

/* Progress on a terminal after two seconds. */
static bool show_progress(void *opaque, off_t done, off_t size)
{
    enum { SHOW_AFTER_S = 2 };
    struct progress *progress = opaque;
    if (isatty(STDERR_FILENO) &&
        (progress->shown || time(NULL) - progress->begin >= SHOW_AFTER_S)) {
        fprintf(stderr, "\rtrapeze: copying the disk: %3d %%",
                (int)(100 * done / (size > 0 ? size : 1)));
        progress->shown = true;
    }
    return !signals_waiting();
}

static bool copy_disk(int from, int to, struct error **err)
{
    struct progress progress = {.begin = time(NULL)};
    bool good = copy_file(from, to, show_progress, &progress, err);
    if (progress.shown)
        fputs("\r\033[K", stderr);
    return good;
}

static int make_copy_file(const char *folder, char **path, struct error **err)
{
    if (asprintf(path, "%s/disk-XXXXXX", folder) < 0)
        return -1;
    int fd = mkostemp(*path, O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot make a file in '%s'", folder);
        free(*path);
        *path = NULL;
    } else {
        flock(fd, LOCK_EX);
    }
    return fd;
}

/* Of a copy that image_copy_keep() was told to keep: a bit that means nothing else for a file. */
#define KEPT S_ISVTX

/* Removes copies of runs that did not get to remove theirs (power cut, SIGKILL): a living
 * run holds the lock. */
static void remove_abandoned(const char *folder)
{
    DIR *listing = opendir(folder);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        int fd = openat(dirfd(listing), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        struct stat status;
        /* A new file is locked a moment after it was made. */
        if (strncmp(entry->d_name, "disk-", 5) == 0 && fd >= 0 && fstat(fd, &status) == 0 &&
            (status.st_mode & KEPT) == 0 && status.st_ctime < time(NULL) - 10 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlinkat(dirfd(listing), entry->d_name, 0);
        if (fd >= 0)
            close(fd);
    }
    if (listing != NULL)
        closedir(listing);
}

bool image_copy_make(const char *original, struct image_copy *copy, struct error **err)
{
    char *cache = cache_folder(err), *folder = NULL;
    sigset_t held;
    *copy = (struct image_copy){.hold = -1};
    if (cache == NULL || asprintf(&folder, "%s/runs", cache) < 0) {
        free(cache);
        return false;
    }
    free(cache);
    signals_of_the_end(&held);
    sigprocmask(SIG_BLOCK, &held, &copy->before);
    mkdir(folder, 0700);
    remove_abandoned(folder);
    int from = open(original, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        error_set_errno(err, errno, "cannot open the image's disk '%s'", original);
    copy->hold = from < 0 ? -1 : make_copy_file(folder, &copy->path, err);
    free(folder);
    bool good = copy->hold >= 0 && copy_disk(from, copy->hold, err);
    if (from >= 0)
        close(from);
    if (good)
        return true;
    if (copy->path != NULL)
        image_copy_remove(copy);
    else
        sigprocmask(SIG_SETMASK, &copy->before, NULL);
    return false;
}

void image_copy_keep(struct image_copy *copy)
{
    if (copy->path == NULL)
        return;
    (void)fchmod(copy->hold, S_IRUSR | S_IWUSR | KEPT);
    free(copy->path);
    close(copy->hold);
    sigprocmask(SIG_SETMASK, &copy->before, NULL);
    *copy = (struct image_copy){.hold = -1};
}

void image_copy_remove(struct image_copy *copy)
{
    if (copy->path == NULL)
        return;
    unlink(copy->path);
    free(copy->path);
    close(copy->hold);
    sigprocmask(SIG_SETMASK, &copy->before, NULL);
    *copy = (struct image_copy){.hold = -1};
}
