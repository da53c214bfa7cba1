/* SPDX-License-Identifier: MIT
 *
 * From argv to a command's run(): getopt_long does the parsing, from a table made of the
 * command's options; what it refuses becomes a sentence that names the nearest option.
 */
#include "cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "config/suggest.h"

#define X(name) extern const struct cli_command cli_command_##name;
#include "cli/commands.inc"
#undef X

static const struct cli_command *const commands[] = {
#define X(name) &cli_command_##name,
#include "cli/commands.inc"
#undef X
};

size_t cli_command_count(void)
{
    return ARRAY_SIZE(commands);
}

const struct cli_command *cli_command_at(size_t index)
{
    return commands[index];
}

const struct cli_command *cli_command_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

const char *cli_last(const struct cli_args *args, const char *option)
{
    const char *text = NULL;
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, option) == 0)
            text = args->values[i].text;
    return text;
}

bool cli_given(const struct cli_args *args, const char *option)
{
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, option) == 0)
            return true;
    return false;
}

enum { HELP = 1, FIRST_OPTION = 256 }; /* getopt_long() results beyond the letters */

struct getopt_tables {
    struct option *longs;
    char *letters;
};

static struct getopt_tables tables_make(const struct cli_command *command)
{
    struct getopt_tables tables = {
        .longs = alloc_zeroed(command->option_count + 2, sizeof(struct option)),
        .letters = alloc_zeroed(command->option_count * 3 + 4, 1),
    };
    char *letter = tables.letters;
    *letter++ = ':'; /* "missing value" is reported apart from "unknown" */
    *letter++ = 'h';
    for (size_t i = 0; i < command->option_count; i++) {
        const struct cli_option *option = &command->options[i];
        int value = option->value == NULL        ? no_argument
                    : option->value[0] == '['    ? optional_argument
                                                 : required_argument;
        tables.longs[i] = (struct option){option->name, value, NULL, FIRST_OPTION + (int)i};
        if (option->letter == 0)
            continue;
        *letter++ = option->letter;
        for (int colons = 0; colons < value; colons++)
            *letter++ = ':';
    }
    tables.longs[command->option_count] = (struct option){"help", no_argument, NULL, HELP};
    return tables;
}

static const struct cli_option *option_for(const struct cli_command *command, int result)
{
    if (result >= FIRST_OPTION)
        return &command->options[result - FIRST_OPTION];
    for (size_t i = 0; i < command->option_count; i++)
        if (command->options[i].letter == result)
            return &command->options[i];
    return NULL;
}

static void hint_help(const struct cli_command *command, const char *nearest, struct error **err)
{
    if (nearest != NULL)
        error_hint(err, "Did you mean --%s?", nearest);
    else
        error_hint(err, "'trapeze %s --help' lists the options.", command->name);
}

static bool unknown_option(const struct cli_command *command, const char *word, struct error **err)
{
    size_t length = strcspn(word, "=");
    char *spelled = alloc_string(word);
    spelled[length] = '\0';
    error_set(err, ERROR_USAGE, "'trapeze %s' has no option '%.*s'", command->name, (int)length,
              word);
    struct suggest suggest;
    suggest_start(&suggest, spelled + strspn(spelled, "-"));
    for (size_t i = 0; i < command->option_count; i++)
        suggest_offer(&suggest, command->options[i].name);
    hint_help(command, suggest.best, err);
    free(spelled);
    return false;
}

/* False: err is set, or --help was asked for (then *help). `values` has room for argc. */
static bool parse(const struct cli_command *command, int argc, char **argv,
                  struct cli_value *values, struct cli_args *args, bool *help, struct error **err)
{
    struct getopt_tables tables = tables_make(command);
    bool good = true;
    int result;
    opterr = 0;
    optind = 1;
    while (good && (result = getopt_long(argc, argv, tables.letters, tables.longs, NULL)) != -1) {
        const struct cli_option *option = option_for(command, result);
        if (result == HELP || (result == 'h' && option == NULL)) {
            *help = true;
            good = false;
        } else if (result == ':') {
            good = error_set(err, ERROR_USAGE, "option '%s' needs a value", argv[optind - 1]);
            hint_help(command, NULL, err);
        } else if (option == NULL) {
            const char *word = argv[optind - 1];
            char letter[3] = {'-', (char)optopt, 0};
            good = unknown_option(command, word[0] == '-' && word[1] == '-' ? word : letter, err);
        } else {
            values[args->value_count++] = (struct cli_value){option, optarg};
        }
    }
    free(tables.longs);
    free(tables.letters);
    if (!good)
        return false;
    args->values = values;
    args->operands = argv + optind;
    args->operand_count = (size_t)(argc - optind);
    if (command->operands == NULL && args->operand_count > 0) {
        error_set(err, ERROR_USAGE, "'trapeze %s' takes options only, not '%s'", command->name,
                  args->operands[0]);
        hint_help(command, NULL, err);
        return false;
    }
    return true;
}

static int report(struct error *error)
{
    int status = error_kind(error) == ERROR_USAGE ? CLI_USAGE : CLI_HOST_FAILURE;
    fprintf(stderr, "trapeze: %s\n", error_message(error));
    error_free(error);
    return status;
}

static int run_command(const struct cli_command *command, int argc, char **argv)
{
    struct error *error = NULL;
    struct cli_args args = {0};
    bool help = false;
    int status = CLI_OK;
    struct cli_value *values = alloc_zeroed((size_t)argc + 1, sizeof(*values));
    if (parse(command, argc, argv, values, &args, &help, &error))
        status = command->run(&args, &error);
    else if (help)
        cli_print_help(command, stdout);
    free(values);
    return error != NULL ? report(error) : status;
}

static int unknown_command(const char *word)
{
    struct error *error = NULL;
    struct suggest suggest;
    error_set(&error, ERROR_USAGE, "there is no command '%s'", word);
    suggest_start(&suggest, word);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (!commands[i]->hidden)
            suggest_offer(&suggest, commands[i]->name);
    if (suggest.best != NULL)
        error_hint(&error, "Did you mean 'trapeze %s'?", suggest.best);
    else
        error_hint(&error, "'trapeze help' lists the commands.");
    return report(error);
}

const struct cli_global cli_globals[] = {
    {{"host", 0, "URL",
      "The daemon to talk to: https://NAME[:7443], or the absolute path of a daemon's socket; 'local' "
      "is this user's. Default: $TRAPEZE_HOST, else 'host' in ~/.config/trapeze/client.conf, else "
      "local.",
      NULL},
     "TRAPEZE_HOST"},
    {{"ca", 0, "FILE", "Who has signed its certificate (PEM), if this host does not trust them.",
      NULL},
     "TRAPEZE_CA"},
    {{"certificate", 0, "FILE", "The certificate to show it (PEM).", NULL}, "TRAPEZE_CERTIFICATE"},
    {{"key", 0, "FILE", "Its key (PEM).", NULL}, "TRAPEZE_KEY"},
    {{"token-file", 0, "FILE", "The token to show it, in a file of mode 0600.", NULL},
     "TRAPEZE_TOKEN_FILE"},
};

size_t cli_global_count(void)
{
    return ARRAY_SIZE(cli_globals);
}

/* "--host=URL" or "--host URL" at argv[1]: how many words it takes; 0: it is none of them. */
static int take_global(int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_SIZE(cli_globals); i++) {
        const char *name = cli_globals[i].option.name, *word = argv[1];
        size_t length = strlen(name);
        if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, name, length) != 0)
            continue;
        const char *value = word[2 + length] == '='              ? word + 2 + length + 1
                            : word[2 + length] == '\0' && argc > 2 ? argv[2]
                                                                 : NULL;
        if (value == NULL)
            continue;
        setenv(cli_globals[i].variable, value, 1);
        return value == argv[argc > 2 ? 2 : 1] ? 2 : 1;
    }
    return 0;
}

int cli_main(int argc, char **argv)
{
    for (int taken; argc > 1 && (taken = take_global(argc, argv)) > 0; argc -= taken)
        argv += taken;
    if (argc < 2) {
        cli_print_overview(stderr);
        return CLI_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        word = "help";
    else if (strcmp(word, "--version") == 0)
        word = "version";
    const struct cli_command *command = cli_command_find(word);
    if (command == NULL)
        return unknown_command(word);
    int status = run_command(command, argc - 1, argv + 1);
    if (fflush(stdout) != 0 && status == CLI_OK)
        status = CLI_HOST_FAILURE;
    return status;
}
