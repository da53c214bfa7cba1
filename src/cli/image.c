/* SPDX-License-Identifier: MIT
 *
 * trapeze image: the images in the user's cache. Those with a recipe are made by the image builder
 * (images/build), which explains itself.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "client/image.h"
#include "client/image_store.h"

static const struct cli_option options[] = {
    {"sha256", 0, "SUM",
     "Of pull: the SHA-256 sum that the source must have, 64 hexadecimal digits.", NULL},
    {"json", 0, NULL, "Of list: print JSON.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze image list", "Which images there are, their size on disk, and who uses them."},
    {"trapeze image build debian", "Build the Debian image now rather than at its first run."},
    {"trapeze image pull https://HOST/debian-13-generic-riscv64.qcow2 cloud",
     "A disk image from a server, as the image 'cloud'."},
    {"trapeze create web --image cloud --ssh-key ~/.ssh/id_ed25519.pub", "A machine of it."},
    {"trapeze image remove cloud", "Away with it; instances have copies of their own."},
};

static const struct cli_word verbs[] = {
    {"list", NULL, "The images, their size on disk and age, and the instances that use them."},
    {"build", " NAME",
     "Makes one from Debian's own packages, whose signatures are checked, without root; what must "
     "run on the guest's processor runs in a virtual machine."},
    {"pull", " SOURCE [NAME]",
     "Takes one from an http or https URL or from a file: a whole disk (raw or qcow2, such as a "
     "distribution's cloud image), or an archive by 'trapeze export' of a machine with a kernel "
     "and at most one disk. A download that breaks off goes on where it was, also the next time. "
     "Compressed disk images are not taken: decompress them first."},
    {"remove", " NAME", "Removes one, unless an instance's disk lies on it."},
    {"path", " NAME", "Prints its folder."},
    {"clean", " [NAME]",
     "Removes what only builds and downloads use, or one image that can be built again."},
};

static bool word_at(size_t index, struct cli_word *word)
{
    if (index >= ARRAY_SIZE(verbs))
        return false;
    *word = verbs[index];
    return true;
}

/* ---- list ---- */

static void print_row(const struct image_entry *entry)
{
    char size[24] = "-", age[24] = "-";
    if (entry->made != 0) {
        long days = (long)((time(NULL) - entry->made) / 86400);
        snprintf(size, sizeof(size), "%llu MiB", (unsigned long long)(entry->bytes / MIB));
        snprintf(age, sizeof(age), days == 1 ? "%ld day" : "%ld days", days);
    }
    printf("%-20s %-7s %9s %9s  %s%s%s\n", entry->name,
           entry->made == 0 ? "-" : (entry->pulled ? "pulled" : "built"), size, age,
           entry->title != NULL ? entry->title : "(damaged)",
           entry->uses != NULL ? "; used by " : "", entry->uses != NULL ? entry->uses : "");
}

static void list_json(const struct image_entry *list, size_t count)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(rows,
                              json_pack("{s:s, s:s, s:I, s:I, s:b, s:s}", "name", list[i].name,
                                        "title", list[i].title != NULL ? list[i].title : "",
                                        "bytes", (json_int_t)list[i].bytes, "made",
                                        (json_int_t)list[i].made, "pulled", (int)list[i].pulled,
                                        "used-by", list[i].uses != NULL ? list[i].uses : ""));
    cli_print_json(rows);
    json_decref(rows);
}

static bool is_in(const struct image_entry *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return true;
    return false;
}

static int list(const struct cli_args *args, struct error **err)
{
    size_t count;
    struct image_entry *list = image_list(&count, err);
    if (cli_given(args, "json")) {
        list_json(list, count);
    } else {
        for (size_t i = 0; i < count; i++)
            print_row(&list[i]);
        for (size_t i = 0; image_recipe_at(i) != NULL; i++) {
            char *name = strdup(image_recipe_at(i)),
                 *title = strdup(image_recipe_title(image_recipe_at(i)));
            if (!is_in(list, count, name))
                print_row(&(struct image_entry){.name = name, .title = title});
            free(name);
            free(title);
        }
    }
    image_list_free(list, count);
    return CLI_OK;
}

/* ---- pull ---- */

static void on_step(void *opaque, uint64_t done, uint64_t total)
{
    struct progress *progress = opaque;
    progress->total = total;
    progress_step(progress, done);
}

static int pull(const struct cli_args *args, const char *source, const char *name,
                struct error **err)
{
    struct progress progress;
    const struct image_pull how = {.source = source,
                                   .name = name,
                                   .sha256 = cli_last(args, "sha256"),
                                   .step = on_step,
                                   .opaque = &progress};
    progress_start(&progress, "pulling", 0);
    char *made = image_pull(&how, err);
    progress_end(&progress);
    if (made != NULL)
        printf("%s\n", made);
    free(made);
    return made != NULL ? CLI_OK : CLI_HOST_FAILURE;
}

/* ---- the others ---- */

static int builder(char *const *arguments, struct error **err)
{
    int status = image_builder_run(arguments, err);
    return status <= 0 ? (status == 0 ? CLI_OK : CLI_HOST_FAILURE)
                       : (status == 2 ? CLI_USAGE : CLI_HOST_FAILURE);
}

static int path(char *name, struct error **err)
{
    if (image_recipe_title(name) != NULL)
        return builder((char *[]){(char *)(uintptr_t) "path", name, NULL}, err);
    char *folder = image_folder("images", err);
    bool good = folder != NULL && image_is_built(name);
    if (good)
        printf("%s/%s\n", folder, name);
    else if (folder != NULL)
        error_set(err, ERROR_USAGE, "there is no image '%s'", name);
    free(folder);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

static int build(char *name, struct error **err)
{
    char *self = realpath("/proc/self/exe", NULL);
    int status = builder((char *[]){name, (char *)(uintptr_t) "--trapeze", self, NULL}, err);
    free(self);
    return status;
}

static int run(const struct cli_args *args, struct error **err)
{
    size_t count = args->operand_count;
    const char *verb = count > 0 ? args->operands[0] : "list";
    char *name = count > 1 ? args->operands[1] : NULL;
    if (strcmp(verb, "list") == 0 && count < 2)
        return list(args, err);
    if (strcmp(verb, "build") == 0 && count == 2)
        return build(name, err);
    if (strcmp(verb, "pull") == 0 && (count == 2 || count == 3))
        return pull(args, name, count == 3 ? args->operands[2] : NULL, err);
    if (strcmp(verb, "remove") == 0 && count == 2)
        return image_remove(name, err) ? CLI_OK : CLI_HOST_FAILURE;
    if (strcmp(verb, "path") == 0 && count == 2)
        return path(name, err);
    if (strcmp(verb, "clean") == 0 && count == 1)
        image_clean_pulls();
    if (strcmp(verb, "clean") == 0 && count <= 2)
        return builder((char *[]){(char *)(uintptr_t)verb, name, NULL}, err);
    error_set(err, ERROR_USAGE,
              "'trapeze image' takes list, build NAME, pull SOURCE [NAME], "
              "remove NAME, path NAME or clean [NAME]");
    error_hint(err, "'trapeze image --help' explains them.");
    return CLI_USAGE;
}

const struct cli_command cli_command_image = {
    .name = "image",
    .operands = "list | build NAME | pull SOURCE [NAME] | remove NAME | path NAME | clean [NAME]",
    .summary = "List, build, pull and remove guest images",
    .description =
        "Guest images live in the user's cache (TRAPEZE_CACHE, or trapeze/ in XDG_CACHE_HOME or "
        "~/.cache). An image never changes: every run boots a private copy of its disk.\n\n"
        "A whole disk for riscv64 is booted by U-Boot (Debian's package u-boot-qemu, or the file "
        "that TRAPEZE_UBOOT names), which runs the EFI boot loader on it; one for "
        "x86_64 by SeaBIOS (Debian's package seabios, or TRAPEZE_SEABIOS), which runs the boot loader "
        "in its first sector, or by the OVMF that TRAPEZE_OVMF names. One for another processor can be "
        "pulled, but this build cannot run it.",
    .words = word_at,
    .words_title = "What to do",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
