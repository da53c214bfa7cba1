/* SPDX-License-Identifier: MIT
 *
 * A CLI command is one const struct in one file of cli/, plus one line in commands.list:
 *
 *     const struct cli_command cli_command_run = { .name = "run", … };
 *
 * From the option tables come parsing, --help, "did you mean", shell completion and the man
 * page; nothing about an option is written twice.
 *
 * Threads: the CLI is single-threaded.
 */
#ifndef TRAPEZE_CLI_CLI_H
#define TRAPEZE_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct error;

/* Exit statuses of the trapeze command. A bare-metal guest's own code (1..255) is passed
 * through as it is; ours are taken from 120 up, where test programs rarely go. */
enum cli_status {
    CLI_OK = 0,
    CLI_USAGE = 120,       /* the command line or a configuration makes no sense */
    CLI_HOST_FAILURE = 121, /* a file, memory or a system call failed; the worker died */
    CLI_GUEST_CRASH = 122,  /* kernel panic, failure reported through SBI, wedged */
    CLI_INTERRUPTED = 130   /* Ctrl-C, SIGTERM: the VM was ended from outside */
};

struct cli_option {
    const char *name;  /* long name, without dashes */
    char letter;       /* short name, 0 = none */
    const char *value; /* what follows, "FILE"; NULL for a switch; "[N]" if optional */
    const char *help;  /* one or more sentences; a paragraph in the man page */
    const char *group; /* heading in --help; NULL: as the row before */
};

struct cli_example {
    const char *command;
    const char *explanation;
};

/* One option as given, in the order given. */
struct cli_value {
    const struct cli_option *option;
    const char *text; /* NULL if it had no value */
};

struct cli_args {
    const struct cli_value *values;
    size_t value_count;
    char *const *operands;
    size_t operand_count;
};

/* A word that a command knows among its operands, for help, manual and completion. */
struct cli_word {
    char name[48];    /* "cpus=" */
    const char *form; /* what follows directly, "N"; NULL: nothing */
    const char *help;
};

struct cli_command {
    const char *name;
    const char *operands;    /* for the usage line: "NAME [FILE...]"; NULL: none allowed */
    const char *summary;     /* a line, no full stop */
    const char *description; /* paragraphs, separated by an empty line */
    const struct cli_option *options;
    size_t option_count;
    bool (*words)(size_t index, struct cli_word *word); /* false behind the last; NULL: none */
    const char *words_title;                            /* heading in --help */
    const struct cli_example *examples;
    size_t example_count;
    bool hidden;
    /* Returns the exit status. An error becomes one printed sentence and, by its kind,
     * CLI_USAGE or CLI_HOST_FAILURE. */
    int (*run)(const struct cli_args *args, struct error **err);
};

/* The control sockets of the user's running machines; the list ends with NULL. NULL: err. */
char **cli_machines(struct error **err);
void cli_machines_free(char **paths);
/* Whether it is the name of an instance, and not a socket in the current folder. */
bool cli_is_instance(const char *word);
/* The control socket that the operands name: the only one, which is an instance's name or a
 * socket's path, or, if there is none, that of the only machine that runs. Caller frees. NULL: err. */
char *cli_machine(const struct cli_args *args, struct error **err);

/* Options before the command: which daemon it talks to (client/remote.h). Each sets the environment
 * variable of its row, which is the same for whatever else is started. */
struct cli_global {
    struct cli_option option;
    const char *variable;
};
extern const struct cli_global cli_globals[];
size_t cli_global_count(void);

int cli_main(int argc, char **argv);

size_t cli_command_count(void);
const struct cli_command *cli_command_at(size_t index);
const struct cli_command *cli_command_find(const char *name);

/* The last value given for an option; NULL if it was not given (or has no value). */
const char *cli_last(const struct cli_args *args, const char *option);
bool cli_given(const struct cli_args *args, const char *option);

void cli_print_overview(FILE *out);
void cli_print_help(const struct cli_command *command, FILE *out);
void cli_print_man(FILE *out);

#endif
