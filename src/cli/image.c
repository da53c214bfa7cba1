/* SPDX-License-Identifier: MIT
 *
 * trapeze image: a thin front of the image builder (images/build), which does the work and
 * explains itself.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/image.h"

static const struct cli_example examples[] = {
    {"trapeze image list", "Which images there are, and which are built."},
    {"trapeze image build debian", "Build the Debian image now rather than at its first run."},
    {"trapeze image path tiny", "Where the finished image is."},
    {"trapeze image clean debian", "Remove it, so that the next run builds it afresh."},
};

static const struct {
    const char *name, *title;
} known[] = {
    {"debian", "Debian 13 (trixie), with systemd, ssh and apt"},
    {"tiny", "Debian's kernel and busybox; a shell in seconds"},
};

static int list(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        printf("%-10s %-10s %s\n", known[i].name, image_is_built(known[i].name) ? "built" : "-",
               known[i].title);
    return CLI_OK;
}

static int builder(char *const *arguments, struct error **err)
{
    int status = image_builder_run(arguments, err);
    return status <= 0 ? (status == 0 ? CLI_OK : CLI_HOST_FAILURE)
                       : (status == 2 ? CLI_USAGE : CLI_HOST_FAILURE);
}

static int run(const struct cli_args *args, struct error **err)
{
    char self[] = "/proc/self/exe";
    char *path = realpath(self, NULL);
    const char *verb = args->operand_count > 0 ? args->operands[0] : "list";
    char *name = args->operand_count > 1 ? args->operands[1] : NULL;
    int status = CLI_USAGE;
    if (strcmp(verb, "list") == 0) {
        status = list();
    } else if (strcmp(verb, "build") == 0 && name != NULL) {
        status = builder((char *[]){name, (char *)(uintptr_t) "--trapeze", path, NULL}, err);
    } else if ((strcmp(verb, "path") == 0 && name != NULL) || strcmp(verb, "clean") == 0) {
        status = builder((char *[]){(char *)(uintptr_t)verb, name, NULL}, err);
    } else {
        error_set(err, ERROR_USAGE, "'trapeze image' takes list, build NAME, path NAME or clean "
                                    "[NAME]");
        error_hint(err, "'trapeze image --help' explains them.");
    }
    free(path);
    return status;
}

const struct cli_command cli_command_image = {
    .name = "image",
    .operands = "list | build NAME | path NAME | clean [NAME]",
    .summary = "List, build and remove guest images",
    .description =
        "Guest images live in the user's cache (TRAPEZE_CACHE, or trapeze/ in XDG_CACHE_HOME or "
        "~/.cache). They are made from Debian's own packages, whose signatures are checked, "
        "without root; what must run on the guest's processor runs in a virtual machine. "
        "An image never changes: every run boots a private copy of its disk.",
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
