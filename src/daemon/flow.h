/* SPDX-License-Identifier: MIT
 *
 * What takes several steps between a call and its answer: starting and stopping. The call's
 * instance is taken (api_take), and given back with the answer.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_FLOW_H
#define TRAPEZE_DAEMON_FLOW_H

#include <stdbool.h>

struct api_call;

#define FLOW_STOP_BODY                                                                             \
    "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"force\": "         \
    "{\"type\": \"boolean\", \"description\": \"at once, as by pulling the plug\"}, "              \
    "\"timeout\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 3600, "                     \
    "\"description\": \"seconds that the guest has to switch itself off; 60\"}}}"

void flow_start(struct api_call *call);
/* By the body, which is one of FLOW_STOP_BODY. */
void flow_stop(struct api_call *call, bool then_start);
/* By the body. */
void flow_suspend(struct api_call *call);
/* One verb of the worker. */
void flow_ask(struct api_call *call, const char *verb);

#endif
