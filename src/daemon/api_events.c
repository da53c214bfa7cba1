/* SPDX-License-Identifier: MIT
 *
 * GET /v1/events: what happened; and, with wait=, what happens next.
 */
#include <time.h>

#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"

enum { AT_ONCE = 1000, WAIT_MAX_S = 600 };

static void answer(struct api_call *call)
{
    long long after = api_query_number(call, "after", 0);
    api_reply(call, json_pack("{s:o}", "events",
                              catalogue_events(call->daemon->catalogue, after, AT_ONCE)));
}

static long long now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* Answers those that have something to hear, or have waited long enough (call->number). */
void api_events_wake(struct daemon *daemon)
{
    struct api_call *waiting = daemon->event_waits;
    daemon->event_waits = NULL;
    while (waiting != NULL) {
        struct api_call *call = waiting;
        waiting = call->next;
        json_t *events = catalogue_events(daemon->catalogue, api_query_number(call, "after", 0), 1);
        if (json_array_size(events) > 0 || call->number <= now_s()) {
            answer(call);
        } else {
            call->next = daemon->event_waits;
            daemon->event_waits = call;
        }
        json_decref(events);
    }
}

static void run(struct api_call *call)
{
    long long wait = api_query_number(call, "wait", 0);
    if (wait < 0 || wait > WAIT_MAX_S) {
        api_refuse(call, 400, "wait is a number of seconds from 0 to 600");
        return;
    }
    call->number = now_s() + wait;
    call->next = call->daemon->event_waits;
    call->daemon->event_waits = call;
    api_events_wake(call->daemon);
}

const struct api_verb api_events = {
    .id = "events",
    .method = "GET",
    .path = "/v1/events",
    .summary = "What happened, the oldest first, at most 1000; waits if there is nothing yet",
    .query = "[{\"name\": \"after\", \"in\": \"query\", \"description\": \"only events with "
             "larger numbers\", \"schema\": {\"type\": \"integer\"}}, {\"name\": \"wait\", "
             "\"in\": \"query\", \"description\": \"so many seconds for the first one\", "
             "\"schema\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 600}}]",
    .answer = "{\"type\": \"object\", \"required\": [\"events\"], \"properties\": {\"events\": "
              "{\"type\": \"array\", \"items\": {\"$ref\": \"#/components/schemas/Event\"}}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
