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
#include "daemon/restart.h"

enum {
    STOP_S = 60,
    FORCE_S = 10,  /* for what takes milliseconds, on a host that is busy */
    ANSWER_S = 30, /* a worker that connects to an NBD server says nothing for 20 s */
    BUILD_S = 600, /* a machine with many of these disks */
};
enum { THEN_START = 1, KILLED = 2 }; /* call->number */

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
    if (result == NULL) {
        refuse(call, error_kind(error) == ERROR_USAGE ? 409 : 500, error_message(error));
    } else {
        machine_link(call->daemon, call->name, json_deep_copy(result));
        machine_ask(call->daemon, call->name, "status", BUILD_S, on_status, call);
    }
}

static void on_ended(void *opaque, const json_t *end);

void flow_start(struct api_call *call)
{
    if (machine_is_ending(call->daemon, call->name)) {
        call->number |= THEN_START;
        machine_await_end(call->daemon, call->name, FORCE_S, on_ended, call);
    } else if (machine_is_linked(call->daemon, call->name)) {
        refuse(call, 409, "the instance is running already ('restart' starts it anew)");
    } else {
        job_start(call->daemon, call->name, call->body, machine_launch, on_launched, call);
    }
}

/* ---- stop ---- */

static bool is_forced(const struct api_call *call)
{
    return json_is_true(json_object_get(call->body, "force"));
}

static void on_killed(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result == NULL)
        refuse(call, 500, error_message(error));
    else
        machine_await_end(call->daemon, call->name, FORCE_S, on_ended, call);
}

/* A worker that does not end by itself. */
static void pull_the_plug(struct api_call *call)
{
    call->number |= KILLED;
    job_start(call->daemon, call->name, NULL, machine_kill, on_killed, call);
}

static void on_ended(void *opaque, const json_t *end)
{
    struct api_call *call = opaque;
    (void)end;
    if (!machine_is_linked(call->daemon, call->name) && (call->number & THEN_START) != 0)
        flow_start(call);
    else if (!machine_is_linked(call->daemon, call->name))
        succeed(call);
    else if (is_forced(call) && (call->number & KILLED) == 0)
        pull_the_plug(call);
    else
        refuse(call, 409,
               is_forced(call) ? "the worker's process does not end, although it was killed: the "
                                 "host is at work for it, perhaps on a disk that does not answer"
               : machine_is_ending(call->daemon, call->name)
                   ? "the worker's process has not ended in time ('stop --force' kills it)"
                   : "the guest has not switched itself off in time. It may not listen to the "
                     "power button ('stop --force' pulls the plug)");
}

static void on_asked_to_stop(void *opaque, const json_t *result, const char *error)
{
    struct api_call *call = opaque;
    const json_t *timeout = json_object_get(call->body, "timeout");
    unsigned seconds = json_is_integer(timeout) ? (unsigned)json_integer_value(timeout) : STOP_S;
    (void)result;
    /* The answer to "quit" may be the end itself. */
    if (error == NULL || !machine_is_linked(call->daemon, call->name)) {
        machine_await_end(call->daemon, call->name, is_forced(call) ? FORCE_S : seconds, on_ended,
                          call);
    } else if (is_forced(call)) {
        pull_the_plug(call);
    } else {
        char sentence[600];
        snprintf(sentence, sizeof(sentence), "%s ('stop --force' pulls the plug.)", error);
        refuse(call, 409, sentence);
    }
}

void flow_stop(struct api_call *call, bool then_start)
{
    int force = 0;
    json_int_t timeout = STOP_S;
    call->number = then_start ? THEN_START : 0;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?b, s?I}", "force", &force, "timeout",
                       &timeout) != 0 ||
        timeout < 1 || timeout > 3600)
        refuse(call, 400, "force is true or false, timeout a number of seconds from 1 to 3600");
    else if (restart_stop(call->daemon, call->name) &&
             !machine_is_linked(call->daemon, call->name))
        on_ended(call, NULL);
    else if (!machine_is_linked(call->daemon, call->name))
        refuse(call, 409, "the instance is not running");
    else if (machine_is_ending(call->daemon, call->name))
        machine_await_end(call->daemon, call->name, force ? FORCE_S : (unsigned)timeout, on_ended,
                          call);
    else
        machine_ask(call->daemon, call->name, force ? "quit" : "powerdown",
                    force ? FORCE_S : ANSWER_S, on_asked_to_stop, call);
}

/* ---- suspend ---- */

static void on_suspended_end(void *opaque, const json_t *end)
{
    struct api_call *call = opaque;
    (void)end;
    if (machine_is_linked(call->daemon, call->name))
        refuse(call, 500, "the machine is suspended, but its worker's process does not end "
                          "('stop --force' kills it)");
    else
        succeed(call);
}

static void on_suspended(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result == NULL)
        refuse(call, error_kind(error) == ERROR_USAGE ? 409 : 500, error_message(error));
    else
        machine_await_end(call->daemon, call->name, FORCE_S, on_suspended_end, call);
}

void flow_suspend(struct api_call *call)
{
    int compress = 0;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s?b}", "compress", &compress) != 0)
        refuse(call, 400, "compress is true or false");
    else if (!machine_is_linked(call->daemon, call->name) ||
             machine_is_ending(call->daemon, call->name))
        refuse(call, 409, "the instance is not running");
    else
        job_start(call->daemon, call->name, call->body, machine_suspend, on_suspended, call);
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
    machine_ask(call->daemon, call->name, verb, ANSWER_S, on_answer, call);
}
