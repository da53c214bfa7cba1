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

void flow_start(struct api_call *call);
/* By the body's "force" and "timeout". */
void flow_stop(struct api_call *call, bool then_start);
/* One verb of the worker. */
void flow_ask(struct api_call *call, const char *verb);

#endif
