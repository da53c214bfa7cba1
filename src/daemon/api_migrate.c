/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances/{name}/migrate. Done when the machine is at the other daemon.
 */
#include "daemon/api.h"
#include "daemon/migrate_out.h"

const struct api_verb api_migrate = {
    .id = "migrate",
    .method = "POST",
    .path = "/v1/instances/{name}/migrate",
    .summary =
        "Bring an instance, running or not, to another daemon: it is on exactly one side, "
        "whatever fails. What is given to reach that daemon is kept in the instance's folder "
        "until then",
    .body =
        "{\"type\": \"object\", \"required\": [\"to\"], \"additionalProperties\": false, "
        "\"properties\": {\"to\": {\"type\": \"object\", \"required\": [\"url\"], "
        "\"additionalProperties\": false, \"properties\": {\"url\": {\"type\": \"string\", "
        "\"description\": \"https://NAME[:PORT], or the path of a daemon's socket on this "
        "host\"}, \"ca\": {\"type\": \"string\", \"description\": \"PEM\"}, \"certificate\": "
        "{\"type\": \"string\", \"description\": \"ours, PEM\"}, \"key\": {\"type\": \"string\", "
        "\"description\": \"PEM\"}, \"token\": {\"type\": \"string\"}}}, \"downtime-ns\": "
        "{\"type\": \"integer\", \"description\": \"of one that runs, at most, if that can be: 10 "
        "ms\"}, \"bandwidth\": {\"type\": \"integer\", \"description\": \"bytes per second; 0: no "
        "limit\"}, \"compress\": {\"type\": \"boolean\"}, \"converge\": {\"type\": \"boolean\", "
        "\"description\": \"its vCPUs are slowed down while it writes too fast\"}, "
        "\"post-copy\": {\"type\": \"boolean\", \"description\": \"if it writes too fast, it goes "
        "before its memory\"}, \"copy-storage\": {\"type\": \"boolean\", \"description\": \"of one "
        "that runs, too, the "
        "disks come along that the target does not see\"}, "
        "\"connections\": {\"type\": \"integer\", "
        "\"minimum\": 1, \"maximum\": 16}}}",
    .answer =
        "{\"type\": \"object\", \"required\": [\"name\", \"to\", \"notes\"], \"properties\": "
        "{\"name\": {\"type\": \"string\"}, \"to\": {\"type\": \"string\"}, \"notes\": "
        "{\"type\": \"array\", \"items\": {\"type\": \"string\"}, \"description\": \"what is not "
        "as it was\"}}}",
    .status = 200,
    .remote = true,
    .run = migrate_out,
};
