/* SPDX-License-Identifier: MIT
 *
 * trapeze completion: shell completion from the command tables.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"

static const struct cli_example examples[] = {
    {"source <(trapeze completion bash)", "In this shell; in ~/.bashrc for every shell."},
    {"trapeze completion fish > ~/.config/fish/completions/trapeze.fish", "For fish."},
};

/* A command's own words, each behind a space; the first of several devices stands for them all. */
static void print_words(const struct cli_command *command)
{
    struct cli_word word;
    for (size_t i = 0; command->words != NULL && command->words(i, &word); i++) {
        putchar(' ');
        for (const char *at = word.name; *at != '\0'; at++)
            putchar(*at == 'N' ? '0' : *at);
    }
}

/* Options that take a file are left to the shell's own file completion. */
static void print_bash(void)
{
    puts("_trapeze() {\n"
         "  local word=\"${COMP_WORDS[COMP_CWORD]}\" words=\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then words=\"--help --version\"; fi\n"
         "  case \"$([ \"$COMP_CWORD\" -gt 1 ] && echo \"${COMP_WORDS[1]}\")\" in");
    for (size_t i = 0; i < cli_command_count(); i++) {
        const struct cli_command *command = cli_command_at(i);
        printf("  %s) words=\"--help", command->name);
        for (size_t k = 0; k < command->option_count; k++)
            printf(" --%s", command->options[k].name);
        print_words(command);
        puts("\" ;;");
    }
    fputs("  '') words=\"$words", stdout);
    for (size_t i = 0; i < cli_command_count(); i++)
        if (!cli_command_at(i)->hidden)
            printf(" %s", cli_command_at(i)->name);
    puts("\" ;;\n"
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
         "  if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null || :; fi\n"
         "}\n"
         "complete -o default -F _trapeze trapeze");
}

/* In single quotes a quote ends, is escaped, and begins again. */
static void print_quoted(const char *text)
{
    putchar('\'');
    for (; *text != '\0'; text++)
        if (*text == '\'')
            fputs("'\\''", stdout);
        else if (*text == '[' || *text == ']' || *text == ':')
            printf("\\%c", *text); /* zsh's _arguments splits at these */
        else
            putchar(*text);
    putchar('\'');
}

static void print_zsh(void)
{
    puts("#compdef trapeze\n_trapeze() {\n  if (( CURRENT == 2 )); then\n    local -a commands=(");
    for (size_t i = 0; i < cli_command_count(); i++) {
        const struct cli_command *command = cli_command_at(i);
        char text[160];
        snprintf(text, sizeof(text), "%s", command->summary);
        printf("      %s:", command->name);
        print_quoted(text);
        putchar('\n');
    }
    puts("    )\n    _describe command commands\n    return\n  fi\n  local command=${words[2]}\n"
         "  shift words; (( CURRENT-- ))\n  case $command in");
    for (size_t i = 0; i < cli_command_count(); i++) {
        const struct cli_command *command = cli_command_at(i);
        printf("  %s) _arguments '*:%s", command->name,
               command->words == NULL ? "file:_files" : "key:(");
        print_words(command);
        printf("%s' --help", command->words == NULL ? "" : ")");
        for (size_t k = 0; k < command->option_count; k++)
            printf(" '*--%s%s'", command->options[k].name,
                   command->options[k].value == NULL ? "" : "=:value:_files");
        puts(" ;;");
    }
    /* From a folder of $fpath this file is the function's first call, else it is sourced. */
    puts("  esac\n}\n"
         "if [[ ${funcstack[1]} == _trapeze ]]; then _trapeze \"$@\"\n"
         "else compdef _trapeze trapeze; fi");
}

static void print_fish(void)
{
    for (size_t i = 0; i < cli_command_count(); i++) {
        const struct cli_command *command = cli_command_at(i);
        printf("complete -c trapeze -f -n __fish_use_subcommand -a %s -d \"%s\"\n", command->name,
               command->summary);
        if (command->words != NULL) {
            printf("complete -c trapeze -f -n '__fish_seen_subcommand_from %s' -a '", command->name);
            print_words(command);
            puts("'");
        }
        for (size_t k = 0; k < command->option_count; k++)
            printf("complete -c trapeze -n '__fish_seen_subcommand_from %s' -l %s%s\n",
                   command->name, command->options[k].name,
                   command->options[k].value != NULL ? " -r" : "");
    }
}

static int run(const struct cli_args *args, struct error **err)
{
    static const struct {
        const char *shell;
        void (*print)(void);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    for (size_t i = 0; args->operand_count == 1 && i < ARRAY_SIZE(shells); i++)
        if (strcmp(shells[i].shell, args->operands[0]) == 0) {
            shells[i].print();
            return CLI_OK;
        }
    error_set(err, ERROR_USAGE, "'trapeze completion' takes bash, zsh or fish");
    return CLI_USAGE;
}

const struct cli_command cli_command_completion = {
    .name = "completion",
    .operands = "bash | zsh | fish",
    .summary = "Print shell completion",
    .description = "Prints a script that teaches a shell the commands and options of trapeze.",
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
