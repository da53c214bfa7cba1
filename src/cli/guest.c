/* SPDX-License-Identifier: MIT
 *
 * See guest.h.
 */
#include "cli/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "cli/instance.h"
#include "cli/size.h"
#include "client/api.h"
#include "client/guest.h"
#include "client/guest_ssh.h"
#include "client/remote.h"
#include "client/worker.h"

#define TIMEOUT_S 120
#define LATER_S   30 /* for one that has answered already */

/* Of CLI_GUEST_OPTIONS. */
static bool parse_timeout(const struct cli_args *args, unsigned *seconds, struct error **err)
{
    const char *text = cli_last(args, "timeout");
    uint64_t number = TIMEOUT_S;
    if (text != NULL && (!cli_parse_count(text, 86400, &number) || number == 0))
        return error_set(err, ERROR_USAGE,
                         "--timeout: '%s' is no number of seconds from 1 to 86400", text);
    *seconds = (unsigned)number;
    return true;
}

const char *cli_guest_name(const struct cli_args *args, struct error **err)
{
    struct cli_args first = *args;
    first.operand_count = args->operand_count > 0 ? 1 : 0;
    return cli_instance(&first, 0, 1, err);
}

/* ---- reaching it ---- */

/* The way to a guest's ssh server; the texts are freed by who has the struct. */
struct way {
    const char *name;
    char *socket; /* NULL: through the API of a daemon elsewhere */
    char *key, *hosts, *certificate, *alias;
    char *folder; /* of our own, with the key for this once; NULL: none */
    unsigned seconds;
};

static char *join(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

/* Here: the store's own key, and what is known of the guest is in its folder. */
static bool find_here(struct way *way, const json_t *info, struct error **err)
{
    char *store = api_store_path(err);
    bool good = store != NULL && guest_key_make(store, err);
    if (good) {
        way->socket = alloc_string(json_string_value(json_object_get(info, "vsock")));
        way->key = guest_key_path(store);
        way->hosts = join(json_string_value(json_object_get(info, "path")), "known_hosts");
        way->alias = alloc_string(GUEST_SSH_HOST);
    }
    free(store);
    return good;
}

static bool write_text(const char *path, const char *text, struct error **err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (!good)
        error_set_errno(err, errno, "cannot write '%s'", path);
    if (fd >= 0)
        close(fd);
    return good;
}

/* A key of our own for this once, which the daemon there certifies. */
static bool certify(struct way *way, const char *user, struct error **err)
{
    char line[200] = "", *open_key = NULL;
    way->key = join(way->folder, "id");
    way->certificate = join(way->folder, "id-cert.pub");
    open_key = join(way->folder, "id.pub");
    if (!guest_key_new(way->key, err)) {
        free(open_key);
        return false;
    }
    FILE *file = fopen(open_key, "re");
    bool good = file != NULL && fgets(line, sizeof(line), file) != NULL;
    if (!good)
        error_set_errno(err, errno, "cannot read '%s'", open_key);
    if (file != NULL)
        fclose(file);
    free(open_key);
    char *comment = good ? strchr(line + strcspn(line, " ") + 1, ' ') : NULL;
    if (comment != NULL)
        *comment = '\0';
    json_t *answer =
        good ? cli_api("POST", json_pack("{s:s, s:s}", "public-key", line, "user", user), err,
                       "/v1/instances/%s/certify", way->name)
             : NULL;
    const char *text = json_string_value(json_object_get(answer, "certificate"));
    good = text != NULL && write_text(way->certificate, text, err);
    json_decref(answer);
    return good;
}

/* What is known of guests elsewhere is in our store; one that was made anew there is another. */
static bool find_there(struct way *way, const json_t *info, const char *user, struct error **err)
{
    struct client_remote remote;
    char *runtime = client_runtime_folder(err),
         *store = runtime != NULL ? api_store_path(err) : NULL;
    bool good = store != NULL && api_make_folders(store, err) && client_remote_load(&remote, err);
    if (good) {
        way->hosts = join(store, "known_hosts");
        if (asprintf(&way->alias, "%s.%lld.%s.%s", way->name,
                     (long long)json_integer_value(json_object_get(info, "created")),
                     remote.path != NULL ? "localhost" : remote.host,
                     remote.path != NULL ? "socket" : remote.port) < 0)
            abort();
        client_remote_clear(&remote);
        char *folder = join(runtime, "ssh-XXXXXX");
        good = mkdtemp(folder) != NULL ||
               error_set_errno(err, errno, "cannot make a folder in '%s'", runtime);
        if (good)
            way->folder = folder;
        else
            free(folder);
    }
    free(runtime);
    free(store);
    return good && certify(way, user, err);
}

/* False: err. */
static bool find_way(struct way *way, const char *user, struct error **err)
{
    const char *name = way->name;
    json_t *info = cli_api("GET", NULL, err, "/v1/instances/%s", name);
    const char *state = json_string_value(json_object_get(info, "state"));
    const char *folder = json_string_value(json_object_get(info, "path"));
    bool good = false;
    if (info == NULL) {
        /* err */
    } else if (strcmp(state, "stopped") == 0 || strcmp(state, "restarting") == 0 ||
               strcmp(state, "suspended") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is not running", name);
        error_hint(err, "'trapeze start %s' starts it.", name);
    } else if (strcmp(state, "paused") == 0) {
        error_set(err, ERROR_USAGE, "the instance '%s' is paused", name);
        error_hint(err, "'trapeze resume %s' lets it go on.", name);
    } else if (json_object_get(info, "vsock") == NULL) {
        error_set(err, ERROR_USAGE, "the instance '%s' has no vsock", name);
        error_hint(err, "Write trapeze.vsockCid = \"3\" into '%s/%s.vmx', and start it anew.",
                   folder, name);
    } else {
        good = api_is_remote() ? find_there(way, info, user, err) : find_here(way, info, err);
    }
    json_decref(info);
    return good;
}

static void way_clear(struct way *way)
{
    static const char *const files[] = {"id", "id.pub", "id-cert.pub"};
    for (size_t i = 0; way->folder != NULL && i < ARRAY_SIZE(files); i++) {
        char *path = join(way->folder, files[i]);
        (void)unlink(path);
        free(path);
    }
    if (way->folder != NULL)
        (void)rmdir(way->folder);
    char *const texts[] = {way->socket,      way->key,   way->hosts,
                           way->certificate, way->alias, way->folder};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        free(texts[i]);
}

static int open_there(void *opaque, struct error **err)
{
    const struct way *way = opaque;
    char *path = NULL;
    if (asprintf(&path, "/v1/instances/%s/vsock", way->name) < 0)
        abort();
    int fd = cli_stream(path, "trapeze-vsock", err);
    free(path);
    return fd;
}

static int connect_to(void *opaque, bool again, struct error **err)
{
    struct way *way = opaque;
    const struct guest_patience patience = {.listen_s = again ? LATER_S : way->seconds,
                                            .costly = way->socket == NULL};
    if (way->socket != NULL)
        return guest_connect(guest_open_socket, way->socket, way->name, GUEST_SSH_PORT, &patience,
                             err);
    return guest_connect(open_there, way, way->name, GUEST_SSH_PORT, &patience, err);
}

typedef int use_fn(const struct guest_ssh *ssh, void *opaque, struct error **err);

static int go(const struct cli_args *args, const char *name, use_fn *use, void *opaque,
              struct error **err)
{
    struct way way = {.name = name};
    const char *user = cli_last(args, "user");
    int status = -1;
    if (!parse_timeout(args, &way.seconds, err))
        return -1;
    if (user == NULL)
        user = "root";
    if (find_way(&way, user, err)) {
        const struct guest_ssh ssh = {.connect = connect_to,
                                      .opaque = &way,
                                      .user = user,
                                      .key = way.key,
                                      .hosts = way.hosts,
                                      .certificate = way.certificate,
                                      .alias = way.alias};
        status = use(&ssh, opaque, err);
    }
    way_clear(&way);
    return status;
}

struct command {
    const char *program;
    char *const *words;
    size_t count;
};

static int run_command(const struct guest_ssh *ssh, void *opaque, struct error **err)
{
    const struct command *command = opaque;
    return guest_ssh_run(ssh, command->program, command->words, command->count, err);
}

int cli_guest_run(const struct cli_args *args, const char *name, const char *program,
                  char *const *words, size_t count, struct error **err)
{
    struct command command = {program, words, count};
    return go(args, name, run_command, &command, err);
}

struct script {
    const char *text, *word;
    unsigned seconds;
};

static int run_script(const struct guest_ssh *ssh, void *opaque, struct error **err)
{
    const struct script *script = opaque;
    char said[256];
    int status = guest_ssh_tell(ssh, script->text, script->word, script->seconds, said, err);
    if (status > 0)
        error_set(err, ERROR_HOST, "the guest did not do it%s%s", said[0] != '\0' ? ": " : "",
                  said);
    return status;
}

int cli_guest_tell(const struct cli_args *args, const char *name, const char *text,
                   const char *word, struct error **err)
{
    struct script script = {text, word, 0};
    return parse_timeout(args, &script.seconds, err) ? go(args, name, run_script, &script, err)
                                                     : -1;
}
