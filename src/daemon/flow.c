/* SPDX-License-Identifier: MIT
 *
 * See flow.h.
 */
#include "daemon/flow.h"

#include <stdio.h>

#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/machine.h"

enum { STOP_S = 60, FORCE_S = 30 };

static void refuse(struct api_call *call, int status, const char *sentence)
{
    machine_give_back(call->daemon, call->name, false);
    api_refuse(call, status, sentence);
}

static void succeed(struct api_call *call)
{
    json_t *answer = json_pack("{s:s, s:s}", "name", call->name, "state",
                               machine_state(call->daemon, call->name));
    machine_give_back(call->daemon, call->name, false);
    api_reply(call, answer);
}

/* ---- start ---- */

/* The worker answers when its loop runs, so when the machine does; if it cannot be built the link
 * ends with the reason. */
static void on_status(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    (void)result;
    if (error != NULL)
        refuse(call, 500, error);
    else
        succeed(call);
}

static void on_launched(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    struct error *link_error = NULL;
    if (result == NULL) {
        refuse(call, error_kind(error) == ERROR_USAGE ? 409 : 500, error_message(error));
    } else if (!machine_link(call->daemon, call->name, &link_error)) {
        refuse(call, 500, error_message(link_error));
        error_free(link_error);
    } else {
        daemon_event(call->daemon, call->name, "start", json_deep_copy(result));
        machine_ask(call->daemon, call->name, "status", NULL, on_status, call);
    }
}

static void on_ended(void *opaque, const json_t *end);

void flow_start(struct api_call *call)
{
    if (machine_is_ending(call->daemon, call->name)) {
        call->number = 1;
        machine_await_end(call->daemon, call->name, FORCE_S, on_ended, call);
        return;
    }
    job_start(call->daemon, call->name, call->body, machine_launch, on_launched, call);
}

/* ---- stop ---- */

static void on_ended(void *opaque, const json_t *end)
{
    struct api_call *call = opaque;
    (void)end;
    if (machine_is_linked(call->daemon, call->name))
        refuse(call, 409,
               "the guest has not switched itself off in time. It may not listen to the "
               "power button ('stop --force' pulls the plug)");
    else if (call->number != 0)
        flow_start(call);
    else
        succeed(call);
}

static void on_asked_to_stop(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    bool force = json_is_true(json_object_get(call->body, "force"));
    const json_t *timeout = json_object_get(call->body, "timeout");
    unsigned seconds = json_is_integer(timeout) ? (unsigned)json_integer_value(timeout) : STOP_S;
    (void)result;
    /* The answer to "quit" may be the end itself. */
    if (error != NULL && machine_is_linked(call->daemon, call->name)) {
        char sentence[600];
        snprintf(sentence, sizeof(sentence), "%s%s", error,
                 force ? "" : " ('stop --force' pulls the plug.)");
        refuse(call, 409, sentence);
    } else {
        machine_await_end(call->daemon, call->name, force ? FORCE_S : seconds, on_ended, call);
    }
}

void flow_stop(struct api_call *call, bool then_start)
{
    int force = 0;
    json_int_t timeout = STOP_S;
    call->number = then_start;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?b, s?I}", "force", &force, "timeout",
                       &timeout) != 0 ||
        timeout < 1 || timeout > 3600)
        refuse(call, 400, "force is true or false, timeout a number of seconds from 1 to 3600");
    else if (!machine_is_linked(call->daemon, call->name))
        refuse(call, 409, "the instance is not running");
    else if (machine_is_ending(call->daemon, call->name))
        machine_await_end(call->daemon, call->name, (unsigned)timeout, on_ended, call);
    else
        machine_ask(call->daemon, call->name, force ? "quit" : "powerdown", NULL, on_asked_to_stop,
                    call);
}

/* ---- one question ---- */

static void on_answer(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    (void)result;
    if (error != NULL)
        refuse(call, 409, error);
    else
        succeed(call);
}

void flow_ask(struct api_call *call, const char *verb)
{
    machine_ask(call->daemon, call->name, verb, NULL, on_answer, call);
}
