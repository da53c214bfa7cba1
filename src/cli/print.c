/* SPDX-License-Identifier: MIT
 *
 * The command tables as text for people: overview, --help, man page (mdoc).
 */
#include <ctype.h>
#include <string.h>

#include "build.h"
#include "cli/cli.h"

enum { WIDTH = 80, HELP_COLUMN = 28 };

/* Prints words wrapped at WIDTH, every line after the first indented; '\n' in the text breaks
 * a line, an empty line a paragraph. `column` is where the cursor stands. */
static void print_wrapped(FILE *out, const char *text, int indent, int column)
{
    while (*text != '\0') {
        if (*text == '\n') {
            fputc('\n', out);
            column = 0;
            text++;
            continue;
        }
        if (*text == ' ') {
            text++;
            continue;
        }
        int length = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + length > WIDTH) {
            fputc('\n', out);
            column = 0;
        }
        if (column < indent)
            column += fprintf(out, "%*s", indent - column, "");
        else if (column > indent)
            column += fprintf(out, " ");
        column += fprintf(out, "%.*s", length, text);
        text += length;
    }
    fputc('\n', out);
}

static void option_spelling(const struct cli_option *option, char *text, size_t size)
{
    char letter[8] = "";
    if (option->letter != 0)
        snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    const char *value = option->value == NULL ? "" : option->value;
    const char *joint = value[0] == '\0' ? "" : value[0] == '[' ? "" : " ";
    snprintf(text, size, "%s--%s%s%s", letter, option->name, joint, value);
}

static void print_row(FILE *out, const char *spelling, const char *help)
{
    int column = fprintf(out, "  %s", spelling);
    if (column > HELP_COLUMN - 2) {
        fputc('\n', out);
        column = 0;
    }
    column += fprintf(out, "%*s", HELP_COLUMN - column, "");
    print_wrapped(out, help, HELP_COLUMN, column);
}

static void print_option(FILE *out, const struct cli_option *option)
{
    char spelling[80];
    option_spelling(option, spelling, sizeof(spelling));
    print_row(out, spelling, option->help);
}

static void print_words(FILE *out, const struct cli_command *command)
{
    struct cli_word word;
    if (command->words != NULL)
        fprintf(out, "\n%s:\n", command->words_title);
    for (size_t i = 0; command->words != NULL && command->words(i, &word); i++) {
        char spelling[80];
        snprintf(spelling, sizeof(spelling), "%s%s", word.name, word.form != NULL ? word.form : "");
        print_row(out, spelling, word.help);
    }
}

void cli_print_overview(FILE *out)
{
    fputs(
        "Trapeze runs virtual machines: unmodified operating systems, on any Linux host, with no\n"
        "root, no daemon and no hardware support needed.\n\n"
        "usage: trapeze COMMAND [OPTION...]\n\n"
        "The first thing to try:\n"
        "  trapeze run --image debian      a Debian 13 machine, at its login prompt\n\n"
        "Commands:\n",
        out);
    for (size_t i = 0; i < cli_command_count(); i++) {
        const struct cli_command *command = cli_command_at(i);
        if (!command->hidden)
            fprintf(out, "  %-14s %s\n", command->name, command->summary);
    }
    fputs("\nOptions before the command, for a daemon on another host:\n", out);
    for (size_t i = 0; i < cli_global_count(); i++)
        print_option(out, &cli_globals[i].option);
    fputs("\n'trapeze COMMAND --help' explains a command; the manual is trapeze(1).\n", out);
}

void cli_print_help(const struct cli_command *command, FILE *out)
{
    fprintf(out, "usage: trapeze %s%s%s%s\n\n", command->name,
            command->option_count > 0 ? " [OPTION...]" : "", command->operands != NULL ? " " : "",
            command->operands != NULL ? command->operands : "");
    print_wrapped(out, command->description, 0, 0);
    for (size_t i = 0; i < command->option_count; i++) {
        if (i == 0 || command->options[i].group != NULL)
            fprintf(out, "\n%s:\n",
                    command->options[i].group != NULL ? command->options[i].group : "Options");
        print_option(out, &command->options[i]);
    }
    print_words(out, command);
    if (command->example_count > 0)
        fputs("\nExamples:\n", out);
    for (size_t i = 0; i < command->example_count; i++) {
        fprintf(out, "  %s\n", command->examples[i].command);
        print_wrapped(out, command->examples[i].explanation, 6, 0);
    }
}

/* mdoc: a leading dot or quote is a request, a backslash an escape; paragraphs become .Pp. */
static void man_text(FILE *out, const char *text)
{
    bool at_start = true;
    for (; *text != '\0'; text++) {
        if (*text == '\n' && text[1] == '\n') {
            fputs(at_start ? ".Pp\n" : "\n.Pp\n", out);
            at_start = true;
            text++;
            continue;
        }
        if (at_start && (*text == ' ' || *text == '\n'))
            continue;
        if (at_start && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        if (*text == '\\') {
            fputs("\\e", out);
        } else {
            fputc(*text, out);
            /* a new sentence starts a new line (mandoc -T lint) */
            if ((*text == '.' || *text == '?') && text[1] == ' ' && text[2] != '\0' &&
                isupper((unsigned char)text[2])) {
                fputc('\n', out);
                at_start = true;
                text++;
                continue;
            }
        }
        at_start = *text == '\n';
    }
    if (!at_start)
        fputc('\n', out);
}

static void man_words(FILE *out, const struct cli_command *command)
{
    struct cli_word word;
    if (command->words == NULL)
        return;
    fprintf(out, ".Pp\n%s:\n.Bl -tag -width Ds\n", command->words_title);
    for (size_t i = 0; command->words(i, &word); i++) {
        fprintf(out, ".It Cm %s", word.name);
        if (word.form != NULL)
            fprintf(out, " Ns Ar %s", word.form);
        fputc('\n', out);
        man_text(out, word.help);
    }
    fputs(".El\n", out);
}

static void man_option(FILE *out, const struct cli_option *option)
{
    fputs(".It", out);
    if (option->letter != 0)
        fprintf(out, " Fl %c ,", option->letter);
    fprintf(out, " Fl Fl %s", option->name);
    if (option->value != NULL && option->value[0] != '[')
        fprintf(out, " Ar %s", option->value);
    else if (option->value != NULL)
        fprintf(out, " Ns Oo %.*s Oc", (int)strlen(option->value) - 2, option->value + 1);
    fputc('\n', out);
    man_text(out, option->help);
}

static void man_command(FILE *out, const struct cli_command *command)
{
    fprintf(out, ".Ss trapeze %s%s%s%s\n", command->name,
            command->option_count > 0 ? " [OPTION...]" : "", command->operands != NULL ? " " : "",
            command->operands != NULL ? command->operands : "");
    man_text(out, command->description);
    if (command->option_count > 0)
        fputs(".Bl -tag -width Ds\n", out);
    for (size_t i = 0; i < command->option_count; i++)
        man_option(out, &command->options[i]);
    if (command->option_count > 0)
        fputs(".El\n", out);
    man_words(out, command);
    for (size_t i = 0; i < command->example_count; i++) {
        fputs(".Pp\n", out);
        man_text(out, command->examples[i].explanation);
        fprintf(out, ".Dl %s\n", command->examples[i].command);
    }
}

/* Sections in mdoc's conventional order. */
static const char man_surroundings[] =
    ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n"
    ".It Ev TRAPEZE_HOME\nWhere instances are kept, instead of\n"
    ".Pa trapeze\nin\n.Ev XDG_DATA_HOME\nor\n.Pa ~/.local/share .\n"
    ".It Ev TRAPEZE_HOST , TRAPEZE_CA , TRAPEZE_CERTIFICATE , TRAPEZE_KEY , TRAPEZE_TOKEN_FILE\nAs "
    "the options before the command.\n"
    ".It Ev TRAPEZE_TOKEN\nThe token itself.\n"
    ".It Ev TRAPEZE_CACHE\nWhere guest images are kept, instead of\n"
    ".Pa trapeze\nin\n.Ev XDG_CACHE_HOME\nor\n.Pa ~/.cache .\n"
    ".It Ev TRAPEZE_MIRROR\nDebian archive that guest images are made from, instead of the one in "
    "this machine's apt configuration.\n"
    ".It Ev TRAPEZE_KEYRING\nKeyring that checks its signatures, instead of Debian's.\n"
    ".It Ev TRAPEZE_BUILDER\nThe image builder, instead of the one that came with\n.Nm .\n"
    ".El\n"
    ".Sh FILES\n.Bl -tag -width Ds\n"
    ".It Pa ~/.local/share/trapeze/instances/NAME\nAn instance: its description NAME.vmx, disks, "
    "logs.\n"
    ".It Pa ~/.local/share/trapeze/daemon.sock\nThe daemon's API, HTTP; daemon.log beside it.\n"
    ".It Pa ~/.config/trapeze/client.conf\nLines of key = \"value\": host, ca, certificate, key, "
    "token-file.\n"
    ".It Pa ~/.cache/trapeze/images\nGuest images.\n"
    ".It Pa ~/.cache/trapeze/runs\nThe running machines' private copies of their disks.\n"
    ".It Pa $XDG_RUNTIME_DIR/trapeze\nControl sockets of running machines.\n.El\n";

void cli_print_man(FILE *out)
{
    fputs(".\\\" Made by 'trapeze help --man' from the command tables; do not edit.\n"
          ".Dd $Mdocdate$\n.Dt TRAPEZE 1\n.Os Trapeze " TRAPEZE_VERSION "\n.Sh NAME\n.Nm trapeze\n"
          ".Nd run virtual machines\n.Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar option ...\n"
          ".Sh DESCRIPTION\n.Nm\nruns unmodified operating systems in virtual machines on any "
          "Linux host.\nIt needs no root, no daemon and no hardware support.\n"
          ".Pp\nOptions before the command, for a daemon on another host:\n.Bl -tag -width Ds\n",
          out);
    for (size_t i = 0; i < cli_global_count(); i++)
        man_option(out, &cli_globals[i].option);
    fputs(".El\n.Sh COMMANDS\n", out);
    for (size_t i = 0; i < cli_command_count(); i++)
        if (!cli_command_at(i)->hidden)
            man_command(out, cli_command_at(i));
    fputs(man_surroundings, out);
    fprintf(out,
            ".Sh EXIT STATUS\n.Bl -tag -width Ds\n"
            ".It 0\nThe guest switched itself off, or the command did its work.\n"
            ".It %d\nBad usage: the command line or a configuration makes no sense.\n"
            ".It %d\nThe host failed: a file, memory or a system call.\n"
            ".It %d\nThe guest crashed: kernel panic, a failure it reported itself, or endless "
            "traps at its own trap vector.\n"
            ".It %d\nThe machine was ended from outside.\n"
            ".It other\nThe exit code of a bare-metal program\n.Pq Fl Fl firmware .\n.El\n",
            CLI_USAGE, CLI_HOST_FAILURE, CLI_GUEST_CRASH, CLI_INTERRUPTED);
}
