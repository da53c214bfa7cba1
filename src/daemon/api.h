/* SPDX-License-Identifier: MIT
 *
 * The daemon's REST interface. A verb is one const struct in one file api_NAME.c, plus one line in
 * verbs.list:
 *
 *     const struct api_verb api_start = { .id = "start", .method = "POST", … };
 *
 * From the same rows come dispatching and the OpenAPI document (/v1/openapi.json).
 *
 * A verb answers each call exactly once, at once or later, by api_reply() or api_fail(). Errors
 * are {"error": "sentence"}: 400 what was asked for makes no sense, 404 there is no such thing,
 * 409 not now, 500 the host failed; over TCP also 401 who are you, 403 not from there, 429 later.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_API_H
#define TRAPEZE_DAEMON_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "daemon/daemon.h"
#include "daemon/instance.h"

#define API_MAX_BODY ((size_t)4 << 20) /* bytes of a request's */

/* Schemas that several verbs have: of a reply's, and of a request's body. */
#define API_ANSWER_NAME                                                                            \
    "{\"type\": \"object\", \"required\": [\"name\"], \"properties\": {\"name\": "                 \
    "{\"type\": \"string\"}}}"
#define API_ANSWER_STATE                                                                           \
    "{\"type\": \"object\", \"required\": [\"name\", \"state\"], \"properties\": "                 \
    "{\"name\": {\"type\": \"string\"}, \"state\": {\"type\": \"string\"}}}"
#define API_BODY_EXPIRES                                                                           \
    "{\"type\": \"string\", \"description\": \"a moment of UTC, 2026-12-24T18:00:00Z\"}"
#define API_BODY_TO                                                                                \
    "{\"type\": \"object\", \"required\": [\"to\"], \"additionalProperties\": false, "             \
    "\"properties\": {\"to\": {\"type\": \"string\"}}}"

/* Work in a child process. Its result is the reply; NULL: err. */
typedef json_t *api_job_fn(struct daemon *daemon, const char *instance, const json_t *arguments,
                           struct error **err);

struct api_call {
    struct daemon *daemon;
    const struct api_verb *verb;
    char name[INSTANCE_MAX_NAME + 1]; /* the instance of the path; "" if it has none */
    json_t *body;                     /* an object; {} if there was none */
    const char *who; /* over TCP: who it is (remote.h); NULL: the owner, at the unix socket */
    struct api_call *next;            /* of the verb's own list, if it has one */
    json_t *kept;                     /* the verb's own, freed with the call */
    long long number;                 /* the verb's own */
    bool shared;                      /* the instance is only read, others may do so too */
    char template[INSTANCE_MAX_NAME + 1]; /* another that is read meanwhile; "" if there is none */
    api_job_fn *job;                  /* api_job()'s */
};

/* Bytes instead of JSON, of any length, between the client and the verb's job: the job's end of a
 * socket is call->body's "stream". */
enum api_stream {
    API_NO_STREAM,
    API_TAKES_STREAM, /* the request's body, until its end */
    API_GIVES_STREAM  /* the answer's, behind a line of JSON that becomes the header Trapeze-About */
};

struct api_verb {
    const char *id;
    const char *method;
    const char *path; /* "/v1/instances/{name}/start" */
    const char *summary;
    const char *query;  /* OpenAPI parameters beside {name}, a JSON array; NULL: none */
    const char *body;   /* JSON schema of the request; NULL: none */
    json_t *(*describe_body)(void); /* instead, where it is made from a table */
    const char *answer; /* JSON schema of a good reply */
    const char *type;   /* of its text, which is no JSON; NULL: it is */
    int status;         /* of a good reply */
    enum api_stream stream;
    /* May be asked for over TCP: it names nothing of the daemon's host (files, sockets, networks)
     * but instances that are there. */
    bool remote;
    void (*run)(struct api_call *call);
};

void api_reply(struct api_call *call, json_t *answer); /* steals it; the verb's status */
/* 400 for ERROR_USAGE and 500 otherwise, if `status` is 0. Takes the error over. */
void api_fail(struct api_call *call, int status, struct error *error);
void api_refuse(struct api_call *call, int status, const char *sentence);

/* A JSON string; of what is no UTF-8, with '?' for what is not ASCII. */
json_t *api_text(const char *bytes);

/* A parameter of the query; NULL: not given. */
const char *api_query(const struct api_call *call, const char *name);
/* A whole number of the query, `standard` if it is not given or makes no sense. */
long long api_query_number(const struct api_call *call, const char *name, long long standard);

/* Opens the call's instance; otherwise answers 404 or 500. */
bool api_open(struct api_call *call, struct instance *instance);
/* machine_take() for the call's instance, and for its template; otherwise answers 409. */
bool api_take(struct api_call *call);
/* The same for one that exists; otherwise answers 404 or 500. */
bool api_take_existing(struct api_call *call);

/* Runs the job for the call's instance, which is given back then, and answers with its result. */
void api_job(struct api_call *call, api_job_fn *fn);
/* Runs the job for no instance in particular, and answers with its result. */
void api_query_job(struct api_call *call, const json_t *arguments, api_job_fn *fn);
/* api_take_existing() and api_job(); answers 409 if the machine runs. */
void api_change(struct api_call *call, api_job_fn *fn);

/* The same for verbs whose body is {"to": another name}. */
void api_change_to(struct api_call *call, api_job_fn *fn);

/* What is known of an instance: schema Instance. NULL: err. */
json_t *api_describe(struct daemon *daemon, const char *name, struct error **err);

/* The row for a request; NULL: none, and *known tells whether the path exists. */
const struct api_verb *api_find(const char *method, const char *path, char name[64], bool *known);
json_t *api_openapi(void);
/* Of api_events.c: a new event is there. */
void api_events_wake(struct daemon *daemon);

#endif
