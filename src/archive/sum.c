/* SPDX-License-Identifier: MIT
 *
 * See sum.h.
 */
#include "archive/sum.h"

#include <gnutls/crypto.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/bits.h"

struct sum {
    gnutls_hash_hd_t hash;
    size_t size;
};

struct sum *sum_new(const char *algorithm)
{
    static const struct {
        const char *name;
        gnutls_digest_algorithm_t digest;
    } known[] = {
        {"sha1", GNUTLS_DIG_SHA1}, {"sha256", GNUTLS_DIG_SHA256}, {"sha512", GNUTLS_DIG_SHA512}};
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (strcasecmp(known[i].name, algorithm) == 0) {
            struct sum *sum = alloc_zeroed(1, sizeof(*sum));
            sum->size = gnutls_hash_get_len(known[i].digest);
            if (gnutls_hash_init(&sum->hash, known[i].digest) == 0)
                return sum;
            free(sum);
        }
    return NULL;
}

void sum_add(struct sum *sum, const void *bytes, size_t size)
{
    gnutls_hash(sum->hash, bytes, size);
}

void sum_add_extents(struct sum *sum, const struct tar_extent *extents, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char line[48];
        int length = snprintf(line, sizeof(line), "%" PRIu64 " %" PRIu64 "\n", extents[i].offset,
                              extents[i].length);
        sum_add(sum, line, (size_t)length);
    }
}

void sum_end(struct sum *sum, char text[SUM_TEXT_MAX])
{
    unsigned char digest[64];
    gnutls_hash_deinit(sum->hash, digest);
    for (size_t i = 0; i < sum->size; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    free(sum);
}

void sum_free(struct sum *sum)
{
    if (sum == NULL)
        return;
    gnutls_hash_deinit(sum->hash, NULL);
    free(sum);
}
