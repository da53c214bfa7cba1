/* SPDX-License-Identifier: MIT
 *
 * POST /v1/migrations: what a source asks first (migrate_in.h).
 */
#include "daemon/api.h"
#include "daemon/migrate_in.h"

const struct api_verb api_incoming = {
    .id = "incoming",
    .method = "POST",
    .path = "/v1/migrations",
    .summary =
        "Between daemons: a machine is to come here, which is refused if it cannot. Over TCP, "
        "of daemons that accept migrations",
    .body =
        "{\"type\": \"object\", \"required\": [\"name\", \"from\", \"source\"], "
        "\"additionalProperties\": false, \"properties\": {\"name\": {\"type\": \"string\"}, "
        "\"from\": {\"type\": \"string\", \"description\": \"what the source calls itself\"}, "
        "\"source\": {\"type\": \"string\", \"description\": \"its store\"}, \"texts\": {\"type\": "
        "\"object\", \"additionalProperties\": false, \"properties\": {\"nvram\": {\"type\": "
        "\"string\"}, \"known-hosts\": {\"type\": \"string\"}}}, \"live\": {\"type\": \"object\", "
        "\"description\": \"it runs\", \"additionalProperties\": false, \"properties\": {\"vmx\": "
        "{\"type\": \"string\", \"description\": \"its description, with its disks\"}, \"proofs\": "
        "{\"type\": \"object\", \"description\": \"of each disk's path the name of a file beside "
        "it, by which it is known to be the same\", \"additionalProperties\": {\"type\": "
        "\"string\"}}, \"disks\": {\"type\": \"array\", \"items\": {\"type\": \"object\", "
        "\"properties\": {\"size\": {\"type\": \"integer\", \"description\": \"bytes\"}, "
        "\"data\": {\"type\": \"integer\", \"description\": \"bytes that it takes\"}, \"top\": "
        "{\"type\": \"boolean\", \"description\": \"it lies upon what comes with the "
        "snapshots\"}}}}, "
        "\"copy-storage\": {\"type\": \"boolean\", \"description\": \"disks that are not the same "
        "come along\"}, \"streams\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 16}}}, "
        "\"tree\": {\"type\": \"object\", \"description\": \"it has snapshots\", "
        "\"additionalProperties\": false, \"properties\": {\"data\": {\"type\": \"integer\", "
        "\"description\": \"bytes of what comes in any case\"}, \"proofs\": {\"type\": "
        "\"object\", \"additionalProperties\": {\"type\": \"string\"}}, \"files\": {\"type\": "
        "\"array\", \"description\": \"what may be the same on both sides\", \"items\": {\"type\": "
        "\"object\", \"required\": [\"file\", \"data\"], \"properties\": {\"file\": "
        "{\"type\": \"string\"}, \"format\": {\"type\": \"string\"}, \"data\": {\"type\": "
        "\"integer\"}}}}}}}}",
    .answer =
        "{\"type\": \"object\", \"required\": [\"id\", \"store\"], \"properties\": {\"id\": "
        "{\"type\": \"string\", \"description\": \"the migration's name\"}, \"store\": {\"type\": "
        "\"string\", \"description\": \"this daemon's\"}, \"archive\": {\"type\": \"integer\", "
        "\"description\": \"the latest format of archives that is known here; 3 if it is not "
        "said\"}, \"disks\": {\"type\": \"array\", "
        "\"items\": "
        "{\"type\": \"string\", \"enum\": [\"shared\", \"copy\", \"file\", \"top\"]}, "
        "\"description\": \"of one that runs: what becomes of each\"}, \"stays\": {\"type\": "
        "\"array\", \"items\": {\"type\": \"boolean\"}, \"description\": \"of each of the "
        "tree's files whether it does\"}}}",
    .status = 201,
    .remote = true,
    .run = migrate_in_reserve,
};
