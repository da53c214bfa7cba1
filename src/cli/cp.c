/* SPDX-License-Identifier: MIT
 *
 * trapeze cp: OpenSSH's scp, which copies folders, shows how far it is, and speaks SFTP.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/guest.h"

static const struct cli_option options[] = {
    CLI_GUEST_OPTIONS,
    {"preserve", 'p', NULL, "Keep times and modes.", NULL},
    {"quiet", 'q', NULL, "Do not show how far it is.", NULL},
};

static const struct cli_example examples[] = {
    {"trapeze cp site.tar.gz conf.d web:/srv/", "A file and a folder, into the guest."},
    {"trapeze cp web:/var/log/syslog .", "Out of it."},
};

/* The length of NAME in "NAME:PATH"; 0: a file of ours. A slash before the colon makes it one. */
static size_t instance_in(const char *operand)
{
    size_t length = strcspn(operand, ":/");
    if (length == 0 || operand[length] != ':' || !isalnum((unsigned char)operand[0]))
        return 0;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)operand[i]) && strchr("._-", operand[i]) == NULL)
            return 0;
    return length;
}

static int usage(struct error **err, const char *text)
{
    error_set(err, ERROR_USAGE, "%s", text);
    error_hint(err, "Such as: trapeze cp FILE... NAME:PATH, or trapeze cp NAME:PATH... FOLDER; a "
                    "file here whose name has a colon is written ./FILE.");
    return CLI_USAGE;
}

/* The instance that all sources or the target are of; the caller frees it. NULL: err. */
static char *find_instance(const struct cli_args *args, struct error **err)
{
    size_t last = args->operand_count - 1, target = instance_in(args->operands[last]);
    size_t length = target > 0 ? target : instance_in(args->operands[0]);
    const char *one = args->operands[target > 0 ? last : 0];
    if (length == 0) {
        usage(err, "none of these files is an instance's");
        return NULL;
    }
    for (size_t i = 0; i < last; i++) {
        size_t here = instance_in(args->operands[i]);
        if (target > 0 ? here > 0 : here != length || strncmp(args->operands[i], one, here) != 0) {
            usage(err, "all files are copied into one instance, or out of one");
            return NULL;
        }
    }
    return strndup(one, length);
}

/* An operand as scp understands it, whatever characters are in it. */
static char *for_scp(const char *operand)
{
    size_t length = instance_in(operand);
    char *word = NULL;
    bool plain = operand[0] == '/' || length > 0;
    if (asprintf(&word, "%s%s",
                 length > 0 ? GUEST_SSH_HOST
                 : plain    ? ""
                            : "./",
                 operand + length) < 0)
        abort();
    return word;
}

static int run(const struct cli_args *args, struct error **err)
{
    if (args->operand_count < 2)
        return usage(err, "'trapeze cp' takes what to copy, and where to");
    char *name = find_instance(args, err);
    if (name == NULL)
        return CLI_USAGE;
    char **words = alloc_zeroed(args->operand_count + 6, sizeof(*words));
    size_t at = 0, first;
    words[at++] = "-o";
    words[at++] = "BatchMode=yes";
    words[at++] = "-r";
    if (cli_given(args, "preserve"))
        words[at++] = "-p";
    if (cli_given(args, "quiet"))
        words[at++] = "-q";
    words[at++] = "--";
    first = at;
    for (size_t i = 0; i < args->operand_count; i++)
        words[at++] = for_scp(args->operands[i]);
    int status = cli_guest_run(args, name, "scp", words, at, err);
    for (size_t i = first; i < at; i++)
        free(words[i]);
    free(words);
    free(name);
    return status;
}

const struct cli_command cli_command_cp = {
    .name = "cp",
    .operands = "FILE... NAME:PATH | NAME:PATH... FILE",
    .summary = "Copy files into an instance, and out of it",
    .description =
        "Copies files and folders with all that is in them between this host and an instance's "
        "guest, "
        "the way of 'trapeze ssh', which see. A PATH that is not absolute is taken from the user's "
        "home there; patterns in it are the guest's. On a terminal it shows how far it is.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
