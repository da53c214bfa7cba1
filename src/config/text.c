/* SPDX-License-Identifier: MIT
 *
 * See text.h. A text is its lines, each as it stood; a line that says something also knows its
 * key, its value and where between the quotes the value stands. Entries are found through a
 * second array, sorted by key.
 */
#include "config/text.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

struct line {
    char *raw;                   /* with its line end, if it has one */
    char *key;                   /* NULL: a comment or an empty line */
    char *value;                 /* unescaped */
    size_t value_at, value_size; /* between the quotes, in raw */
    unsigned number;
};

struct text {
    char *name;
    struct line **lines;
    size_t line_count;
    struct line **entries; /* those with a key, sorted */
    size_t entry_count;
};

static void line_free(struct line *line)
{
    free(line->raw);
    free(line->key);
    free(line->value);
    free(line);
}

void text_free(struct text *text)
{
    if (text == NULL)
        return;
    for (size_t i = 0; i < text->line_count; i++)
        line_free(text->lines[i]);
    free(text->lines);
    free(text->entries);
    free(text->name);
    free(text);
}

struct text *text_new(const char *name)
{
    struct text *text = alloc_zeroed(1, sizeof(*text));
    text->name = alloc_string(name);
    return text;
}

const char *text_name(const struct text *text)
{
    return text->name;
}

/* ---- characters ---- */

/* Bytes of the UTF-8 character at `at` (RFC 3629: no overlong forms, no surrogates, at most
 * U+10FFFF); 0: there is none. Reads no further than a 0 byte. */
static size_t utf8_length(const char *at)
{
    const unsigned char *byte = (const unsigned char *)at;
    unsigned char low = 0x80, high = 0xbf;
    size_t length;
    if (byte[0] < 0x80)
        return 1;
    if (byte[0] >= 0xc2 && byte[0] <= 0xdf)
        length = 2;
    else if (byte[0] >= 0xe0 && byte[0] <= 0xef)
        length = 3;
    else if (byte[0] >= 0xf0 && byte[0] <= 0xf4)
        length = 4;
    else
        return 0;
    if (byte[0] == 0xe0)
        low = 0xa0;
    else if (byte[0] == 0xed)
        high = 0x9f;
    else if (byte[0] == 0xf0)
        low = 0x90;
    else if (byte[0] == 0xf4)
        high = 0x8f;
    if (byte[1] < low || byte[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (byte[i] < 0x80 || byte[i] > 0xbf)
            return 0;
    return length;
}

static bool is_utf8(const char *string)
{
    for (size_t length; *string != '\0'; string += length)
        if ((length = utf8_length(string)) == 0)
            return false;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    int lower = tolower((unsigned char)c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Undoes |XX in place. */
static bool unescape(char *value)
{
    char *out = value;
    for (const char *in = value; *in != '\0'; in++) {
        if (*in != '|') {
            *out++ = *in;
            continue;
        }
        int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
        if (low < 0 || (high == 0 && low == 0))
            return false;
        *out++ = (char)(high * 16 + low);
        in += 2;
    }
    *out = '\0';
    return true;
}

static void write_escaped(FILE *out, const char *value)
{
    for (size_t length; *value != '\0'; value += length) {
        unsigned char first = (unsigned char)*value;
        length = utf8_length(value);
        if (length == 0 || first < 0x20 || first == '"' || first == '|' || first == 0x7f) {
            fprintf(out, "|%02X", first);
            length = 1;
        } else {
            fwrite(value, 1, length, out);
        }
    }
}

void text_write_line(FILE *out, const char *key, const char *value)
{
    fprintf(out, "%s = \"", key);
    write_escaped(out, value);
    fputs("\"\n", out);
}

/* ---- the sorted entries ---- */

static int compare_entries(const void *a, const void *b)
{
    const struct line *left = *(struct line *const *)a, *right = *(struct line *const *)b;
    int order = strcasecmp(left->key, right->key);
    return order != 0 ? order : (left->number > right->number) - (left->number < right->number);
}

/* Where the key is, or would be. */
static size_t position_of(const struct text *text, const char *key)
{
    size_t low = 0, high = text->entry_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcasecmp(text->entries[middle]->key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct line *find(const struct text *text, const char *key)
{
    size_t at = position_of(text, key);
    bool found = at < text->entry_count && strcasecmp(text->entries[at]->key, key) == 0;
    return found ? text->entries[at] : NULL;
}

size_t text_count(const struct text *text)
{
    return text->entry_count;
}

struct text_entry text_at(const struct text *text, size_t index)
{
    const struct line *line = text->entries[index];
    return (struct text_entry){line->key, line->value, line->number};
}

bool text_find(const struct text *text, const char *key, struct text_entry *entry)
{
    const struct line *line = find(text, key);
    if (line != NULL)
        *entry = (struct text_entry){line->key, line->value, line->number};
    return line != NULL;
}

const char *text_get(const struct text *text, const char *key)
{
    const struct line *line = find(text, key);
    return line != NULL ? line->value : NULL;
}

/* ---- reading ---- */

static bool fail(const struct text *text, const struct line *line, struct error **err,
                 const char *what, const char *word)
{
    int length = (int)strcspn(word, "\r\n");
    return error_set(err, ERROR_USAGE, "%s:%u: %s '%.*s'", text->name, line->number, what,
                     length < 200 ? length : 200, word);
}

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t\r\n\v\f");
}

/* What a key may be made of: printable ASCII that means nothing else here. */
static bool is_key_character(char c)
{
    return c > ' ' && c < 0x7f && strchr("=\"#|", c) == NULL;
}

static bool parse_line(const struct text *text, struct line *line, struct error **err)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    const char *at = line->raw;
    if (!is_utf8(at)) {
        error_set(err, ERROR_USAGE, "%s:%u: this is not UTF-8", text->name, line->number);
        error_hint(err, "'iconv -t UTF-8' converts it from what .encoding names; |XX stands for "
                        "any byte.");
        return false;
    }
    if (line->number == 1 && strncmp(at, byte_order_mark, 3) == 0)
        at += 3;
    at = skip_blanks(at);
    if (*at == '\0' || *at == '#')
        return true;
    const char *key = at;
    while (is_key_character(*at))
        at++;
    size_t length = (size_t)(at - key);
    at = skip_blanks(at);
    if (*at != '=' || length == 0)
        return fail(text, line, err, "expected key = \"value\", found", key);
    if (length > TEXT_MAX_KEY)
        return fail(text, line, err, "this key is longer than 255 bytes:", key);
    at = skip_blanks(at + 1);
    const char *end = *at == '"' ? strchr(at + 1, '"') : NULL;
    const char *rest = end != NULL ? skip_blanks(end + 1) : NULL;
    if (rest == NULL || (*rest != '\0' && *rest != '#'))
        return fail(text, line, err,
                    "the value must stand in double quotes (a quote in it is |22):", at);
    line->value_at = (size_t)(at + 1 - line->raw);
    line->value_size = (size_t)(end - at - 1);
    line->value = strndup(at + 1, line->value_size);
    line->key = strndup(key, length);
    if (!unescape(line->value)) {
        fail(text, line, err, "'|' is not followed by two hexadecimal digits (not 00) in", at);
        return false;
    }
    return true;
}

/* Two lines for one key: whoever wrote the second expected it to count. */
static bool check_duplicates(const struct text *text, struct error **err)
{
    for (size_t i = 1; i < text->entry_count; i++) {
        const struct line *first = text->entries[i - 1], *second = text->entries[i];
        if (strcasecmp(first->key, second->key) == 0)
            return error_set(err, ERROR_USAGE, "%s:%u: the key '%s' stands in line %u already",
                             text->name, second->number, second->key, first->number);
    }
    return true;
}

static bool parse_lines(struct text *text, const char *bytes, size_t size, struct error **err)
{
    size_t count = 0;
    for (const char *at = bytes, *end = bytes + size; at < end; count++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        at = newline != NULL ? newline + 1 : end;
    }
    if (count > TEXT_MAX_LINES)
        return error_set(err, ERROR_USAGE, "%s: more than %d lines, so not a machine description",
                         text->name, TEXT_MAX_LINES);
    text->lines = alloc_zeroed(count, sizeof(*text->lines));
    text->entries = alloc_zeroed(count, sizeof(*text->entries));
    for (const char *at = bytes, *end = bytes + size; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *next = newline != NULL ? newline + 1 : end;
        struct line *line = alloc_zeroed(1, sizeof(*line));
        line->raw = strndup(at, (size_t)(next - at));
        text->lines[text->line_count++] = line;
        line->number = (unsigned)text->line_count;
        if (!parse_line(text, line, err))
            return false;
        if (line->key != NULL)
            text->entries[text->entry_count++] = line;
        at = next;
    }
    if (text->entry_count > 0)
        qsort(text->entries, text->entry_count, sizeof(*text->entries), compare_entries);
    return check_duplicates(text, err);
}

struct text *text_parse(const char *bytes, size_t size, const char *name, struct error **err)
{
    if (size > TEXT_MAX_SIZE) {
        error_set(err, ERROR_USAGE, "%s: larger than 1 MiB, so not a machine description", name);
        return NULL;
    }
    if (size > 0 && memchr(bytes, '\0', size) != NULL) {
        error_set(err, ERROR_USAGE, "%s: not a text file", name);
        return NULL;
    }
    struct text *text = text_new(name);
    if (parse_lines(text, bytes, size, err))
        return text;
    text_free(text);
    return NULL;
}

struct text *text_load(const char *path, struct error **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        error_set_errno(err, errno, "cannot open '%s'", path);
        return NULL;
    }
    char *bytes = alloc_zeroed(1, TEXT_MAX_SIZE + 1);
    size_t size = 0;
    ssize_t count = 0;
    while (size <= TEXT_MAX_SIZE &&
           ((count = read(fd, bytes + size, TEXT_MAX_SIZE + 1 - size)) > 0 ||
            (count < 0 && errno == EINTR)))
        size += count > 0 ? (size_t)count : 0;
    struct text *text = NULL;
    if (count < 0)
        error_set_errno(err, errno, "cannot read '%s'", path);
    else
        text = text_parse(bytes, size, path, err);
    free(bytes);
    close(fd);
    return text;
}

/* ---- changing ---- */

static void set_value(struct line *line, const char *value)
{
    char *raw = NULL;
    size_t size, tail_at = line->value_at + line->value_size;
    FILE *out = open_memstream(&raw, &size);
    assert(out != NULL);
    fwrite(line->raw, 1, line->value_at, out);
    write_escaped(out, value);
    fflush(out);
    line->value_size = size - line->value_at;
    fputs(line->raw + tail_at, out);
    fclose(out);
    free(line->raw);
    line->raw = raw;
    free(line->value);
    line->value = alloc_string(value);
}

/* Bytes of "scsi0:0." in "scsi0:0.fileName"; 0: the key has no relatives. */
static size_t family_length(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot != NULL ? (size_t)(dot + 1 - key) : 0;
}

static size_t place_for(const struct text *text, const char *key)
{
    size_t length = family_length(key);
    for (size_t i = text->line_count; length > 0 && i > 0; i--) {
        const char *other = text->lines[i - 1]->key;
        if (other != NULL && family_length(other) == length && strncasecmp(other, key, length) == 0)
            return i;
    }
    return text->line_count;
}

static void insert(struct line ***array, size_t *count, size_t at, struct line *line)
{
    *array = alloc_resize(*array, *count + 1, sizeof(**array));
    memmove(*array + at + 1, *array + at, (*count - at) * sizeof(**array));
    (*array)[at] = line;
    ++*count;
}

static void end_line(struct line *line, const char *ending)
{
    size_t length = strlen(line->raw);
    if (length > 0 && line->raw[length - 1] == '\n')
        return;
    line->raw = alloc_resize(line->raw, length + 3, 1);
    strcpy(line->raw + length, ending);
}

void text_set(struct text *text, const char *key, const char *value)
{
    struct line *line = find(text, key);
    if (line != NULL) {
        if (strcmp(line->value, value) != 0)
            set_value(line, value);
        return;
    }
    bool dos = text->line_count > 0 && strstr(text->lines[0]->raw, "\r\n") != NULL;
    const char *ending = dos ? "\r\n" : "\n";
    line = alloc_zeroed(1, sizeof(*line));
    line->key = alloc_string(key);
    line->value = alloc_string("");
    line->value_at = strlen(key) + 4;
    line->raw = alloc_zeroed(1, line->value_at + 4);
    sprintf(line->raw, "%s = \"\"%s", key, ending);
    set_value(line, value);
    size_t at = place_for(text, key);
    if (at > 0)
        end_line(text->lines[at - 1], ending);
    insert(&text->lines, &text->line_count, at, line);
    insert(&text->entries, &text->entry_count, position_of(text, key), line);
}

void text_remove(struct text *text, const char *key)
{
    size_t at = position_of(text, key), where = 0;
    struct line *line = find(text, key);
    if (line == NULL)
        return;
    while (text->lines[where] != line)
        where++;
    memmove(text->lines + where, text->lines + where + 1,
            (--text->line_count - where) * sizeof(*text->lines));
    memmove(text->entries + at, text->entries + at + 1,
            (--text->entry_count - at) * sizeof(*text->entries));
    line_free(line);
}

/* ---- writing ---- */

char *text_write(const struct text *text, size_t *size)
{
    char *bytes = NULL;
    FILE *out = open_memstream(&bytes, size);
    assert(out != NULL);
    for (size_t i = 0; i < text->line_count; i++)
        fputs(text->lines[i]->raw, out);
    fclose(out);
    return bytes;
}
