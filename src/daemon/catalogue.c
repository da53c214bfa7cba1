/* SPDX-License-Identifier: MIT
 *
 * See catalogue.h. Nothing here is fatal: a catalogue that cannot be written (a full disk) costs
 * its content, which the folders have, not the machines.
 */
#include "daemon/catalogue.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/library.h"

enum { VERSION = 1, EVENTS_KEPT = 10000 };

/* Loaded when a daemon begins, and by no other process (base/library.h). */
#define CALLS(X)                                                                                   \
    X(sqlite3_bind_int64)                                                                          \
    X(sqlite3_bind_text)                                                                           \
    X(sqlite3_busy_timeout)                                                                        \
    X(sqlite3_close)                                                                               \
    X(sqlite3_column_int)                                                                          \
    X(sqlite3_column_int64)                                                                        \
    X(sqlite3_column_text)                                                                         \
    X(sqlite3_column_type)                                                                         \
    X(sqlite3_errmsg)                                                                              \
    X(sqlite3_exec)                                                                                \
    X(sqlite3_finalize)                                                                            \
    X(sqlite3_last_insert_rowid)                                                                   \
    X(sqlite3_open)                                                                                \
    X(sqlite3_prepare_v2)                                                                          \
    X(sqlite3_step)

struct library {
    CALLS(LIBRARY_MEMBER)
};

struct catalogue {
    struct library sqlite;
    sqlite3 *db;
    struct log *log;
};

static const char schema[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE IF NOT EXISTS instances(name TEXT PRIMARY KEY, owner INTEGER NOT NULL,"
    " created INTEGER NOT NULL, started INTEGER, ended INTEGER, last_end TEXT) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS events(number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " time INTEGER NOT NULL, instance TEXT NOT NULL, type TEXT NOT NULL, detail TEXT);"
    "PRAGMA user_version = 1;";

static bool try_open(struct catalogue *catalogue, const char *path)
{
    sqlite3_stmt *check = NULL;
    int version = -1;
    bool good = catalogue->sqlite.sqlite3_open(path, &catalogue->db) == SQLITE_OK;
    if (good &&
        catalogue->sqlite.sqlite3_prepare_v2(catalogue->db, "PRAGMA user_version", -1, &check,
                                             NULL) == SQLITE_OK &&
        catalogue->sqlite.sqlite3_step(check) == SQLITE_ROW)
        version = catalogue->sqlite.sqlite3_column_int(check, 0);
    catalogue->sqlite.sqlite3_finalize(check);
    good = good && (version == 0 || version == VERSION) &&
           catalogue->sqlite.sqlite3_exec(catalogue->db, schema, NULL, NULL, NULL) == SQLITE_OK;
    check = NULL;
    good = good &&
           catalogue->sqlite.sqlite3_prepare_v2(catalogue->db, "PRAGMA quick_check(1)", -1, &check,
                                                NULL) == SQLITE_OK &&
           catalogue->sqlite.sqlite3_step(check) == SQLITE_ROW &&
           strcmp((const char *)catalogue->sqlite.sqlite3_column_text(check, 0), "ok") == 0;
    catalogue->sqlite.sqlite3_finalize(check);
    if (!good) {
        catalogue->sqlite.sqlite3_close(catalogue->db);
        catalogue->db = NULL;
    }
    return good;
}

static void move_aside(const char *path)
{
    static const char *const endings[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        char *from = NULL, *to = NULL;
        if (asprintf(&from, "%s%s", path, endings[i]) > 0 &&
            asprintf(&to, "%s.damaged%s", path, endings[i]) > 0)
            rename(from, to);
        free(from);
        free(to);
    }
}

static bool load(struct library *library, struct error **err)
{
    static const char *const names[] = {"libsqlite3.so.0", NULL}, *const calls[] = {
                                                                      CALLS(LIBRARY_NAME_OF) NULL};
    const char *why;
    if (library_load(names, calls, library, &why))
        return true;
    error_set(err, ERROR_HOST, "the daemon needs SQLite, which cannot be loaded: %s",
              why != NULL ? why : "?");
    error_hint(err, "Install it: apt-get install libsqlite3-0");
    return false;
}

struct catalogue *catalogue_open(const struct store *store, struct log *log, struct error **err)
{
    struct catalogue *catalogue = alloc_zeroed(1, sizeof(*catalogue));
    char *path = NULL;
    if (!load(&catalogue->sqlite, err)) {
        free(catalogue);
        return NULL;
    }
    catalogue->log = log;
    bool good = asprintf(&path, "%s/catalogue.db", store->path) > 0;
    if (good && !try_open(catalogue, path)) {
        log_warning(log,
                    "the catalogue '%s' is damaged or of another version; it is made anew "
                    "from the instances, and the old one kept beside it",
                    path);
        move_aside(path);
        good = try_open(catalogue, path);
    }
    if (!good) {
        error_set(err, ERROR_HOST, "cannot open the catalogue '%s'", path);
        error_hint(err, "Is there space left?");
        catalogue_close(catalogue);
        catalogue = NULL;
    } else {
        catalogue->sqlite.sqlite3_busy_timeout(catalogue->db, 1000);
        catalogue_sync(catalogue, store);
    }
    free(path);
    return catalogue;
}

void catalogue_close(struct catalogue *catalogue)
{
    if (catalogue != NULL)
        catalogue->sqlite.sqlite3_close(catalogue->db);
    free(catalogue);
}

/* A statement with texts and numbers bound in order: 's' text (NULL is fine), 'i' long long. */
static sqlite3_stmt *prepare(struct catalogue *catalogue, const char *sql, const char *kinds, ...)
{
    sqlite3_stmt *statement = NULL;
    va_list values;
    if (catalogue->sqlite.sqlite3_prepare_v2(catalogue->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return NULL;
    va_start(values, kinds);
    for (int i = 0; kinds[i] != '\0'; i++)
        if (kinds[i] == 's')
            catalogue->sqlite.sqlite3_bind_text(statement, i + 1, va_arg(values, const char *), -1,
                                                SQLITE_TRANSIENT);
        else
            catalogue->sqlite.sqlite3_bind_int64(statement, i + 1, va_arg(values, long long));
    va_end(values);
    return statement;
}

static void finish(struct catalogue *catalogue, sqlite3_stmt *statement)
{
    if (statement == NULL || catalogue->sqlite.sqlite3_step(statement) != SQLITE_DONE)
        log_warning(catalogue->log, "the catalogue cannot be written: %s",
                    catalogue->sqlite.sqlite3_errmsg(catalogue->db));
    catalogue->sqlite.sqlite3_finalize(statement);
}

static bool is_listed(char **names, const char *name)
{
    for (; *names != NULL; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

void catalogue_sync(struct catalogue *catalogue, const struct store *store)
{
    char **names = store_list(store, NULL);
    if (names == NULL)
        return;
    catalogue->sqlite.sqlite3_exec(catalogue->db, "BEGIN", NULL, NULL, NULL);
    sqlite3_stmt *rows = prepare(catalogue, "SELECT name FROM instances", "");
    json_t *gone = json_array();
    while (rows != NULL && catalogue->sqlite.sqlite3_step(rows) == SQLITE_ROW) {
        const char *name = (const char *)catalogue->sqlite.sqlite3_column_text(rows, 0);
        if (!is_listed(names, name))
            json_array_append_new(gone, json_string(name));
    }
    catalogue->sqlite.sqlite3_finalize(rows);
    for (size_t i = 0; i < json_array_size(gone); i++)
        finish(catalogue, prepare(catalogue, "DELETE FROM instances WHERE name = ?", "s",
                                  json_string_value(json_array_get(gone, i))));
    json_decref(gone);
    for (char **name = names; *name != NULL; name++) {
        struct statx status;
        if (statx(store->instances, *name, AT_SYMLINK_NOFOLLOW,
                  STATX_UID | STATX_MTIME | STATX_BTIME, &status) == 0)
            finish(catalogue,
                   prepare(catalogue,
                           "INSERT INTO instances(name, owner, created) VALUES(?, ?, ?) "
                           "ON CONFLICT(name) DO NOTHING",
                           "sii", *name, (long long)status.stx_uid, store_made_at(&status)));
    }
    catalogue->sqlite.sqlite3_exec(catalogue->db, "COMMIT", NULL, NULL, NULL);
    store_list_free(names);
}

long long catalogue_event(struct catalogue *catalogue, const char *instance, const char *type,
                          const json_t *detail)
{
    char *text = detail != NULL ? json_dumps(detail, JSON_COMPACT) : NULL;
    long long now = (long long)time(NULL);
    finish(catalogue,
           prepare(catalogue, "INSERT INTO events(time, instance, type, detail) VALUES(?, ?, ?, ?)",
                   "isss", now, instance, type, text));
    long long number = catalogue->sqlite.sqlite3_last_insert_rowid(catalogue->db);
    if (number % 100 == 0)
        finish(catalogue, prepare(catalogue, "DELETE FROM events WHERE number <= ?", "i",
                                  number - EVENTS_KEPT));
    if (strcmp(type, "start") == 0)
        finish(catalogue, prepare(catalogue, "UPDATE instances SET started = ? WHERE name = ?",
                                  "is", now, instance));
    else if (strcmp(type, "ended") == 0)
        finish(catalogue,
               prepare(catalogue, "UPDATE instances SET ended = ?, last_end = ? WHERE name = ?",
                       "iss", now, text, instance));
    free(text);
    return number;
}

json_t *catalogue_events(struct catalogue *catalogue, long long after, int limit)
{
    json_t *list = json_array();
    sqlite3_stmt *rows = prepare(catalogue,
                                 "SELECT number, time, instance, type, detail FROM events WHERE "
                                 "number > ? ORDER BY number LIMIT ?",
                                 "ii", after, (long long)limit);
    while (rows != NULL && catalogue->sqlite.sqlite3_step(rows) == SQLITE_ROW) {
        const char *detail = (const char *)catalogue->sqlite.sqlite3_column_text(rows, 4);
        json_array_append_new(
            list, json_pack("{s:I, s:I, s:s, s:s, s:o*}", "number",
                            (json_int_t)catalogue->sqlite.sqlite3_column_int64(rows, 0), "time",
                            (json_int_t)catalogue->sqlite.sqlite3_column_int64(rows, 1), "instance",
                            (const char *)catalogue->sqlite.sqlite3_column_text(rows, 2), "type",
                            (const char *)catalogue->sqlite.sqlite3_column_text(rows, 3), "detail",
                            detail != NULL ? json_loads(detail, 0, NULL) : NULL));
    }
    catalogue->sqlite.sqlite3_finalize(rows);
    return list;
}

void catalogue_describe(struct catalogue *catalogue, const char *instance, json_t *answer)
{
    static const char *const names[] = {"uid", "created", "started", "ended"};
    sqlite3_stmt *rows = prepare(
        catalogue, "SELECT owner, created, started, ended, last_end FROM instances WHERE name = ?",
        "s", instance);
    if (rows != NULL && catalogue->sqlite.sqlite3_step(rows) == SQLITE_ROW) {
        for (int i = 0; i < 4; i++)
            if (catalogue->sqlite.sqlite3_column_type(rows, i) != SQLITE_NULL)
                json_object_set_new(
                    answer, names[i],
                    json_integer((json_int_t)catalogue->sqlite.sqlite3_column_int64(rows, i)));
        const char *end = (const char *)catalogue->sqlite.sqlite3_column_text(rows, 4);
        json_t *value = end != NULL ? json_loads(end, 0, NULL) : NULL;
        if (value != NULL)
            json_object_set_new(answer, "last-end", value);
    }
    catalogue->sqlite.sqlite3_finalize(rows);
}
