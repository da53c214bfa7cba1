/* SPDX-License-Identifier: MIT
 *
 * net/metadata.h: what each request is answered, in both versions.
 */
#include "support.h"

#include <stdio.h>

#include "base/bits.h"
#include "net/metadata.h"

#define KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define STORE                                                                                      \
    "{\"latest\": {\"meta-data\": {\"b\": \"two\", \"a\": \"one\", \"n\": 4, \"o\": {}, \"l\": "   \
    "[\"x\", {\"y\": \"z\"}]}, \"~/\": \"odd\"}, \"empty\": \"\"}"

struct world {
    struct metadata *metadata;
    char answer[8192], *body;
    bool last;
    int taken;
    int64_t now;
};

static void tell(struct world *w, int version, const char *more)
{
    char text[1024];
    snprintf(text, sizeof(text), "{\"id\": \"vm\", \"key\": \"" KEY "\", \"version\": %d%s}",
             version, more);
    assert_true(metadata_tell(w->metadata, text, strlen(text)));
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct error *err = NULL;
    w->metadata = metadata_new(&err);
    assert_no_error(err);
    w->now = 5000;
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    metadata_free(w->metadata);
    free(w);
    return 0;
}

/* `head` has \n for ends of lines. */
static int ask(struct world *w, const char *head)
{
    char text[4096];
    size_t size = 0;
    struct service_answer answer = {0};
    int status;
    for (; *head != '\0'; head++) {
        if (*head == '\n')
            text[size++] = '\r';
        text[size++] = *head;
    }
    memcpy(text + size, "\r\n", 2);
    size += 2;
    w->taken = metadata_request_at(w->metadata, (const uint8_t *)text, size, w->now, &answer);
    assert_int_equal(w->taken, size);
    assert_true(answer.size < sizeof(w->answer));
    memcpy(w->answer, answer.data, answer.size);
    w->answer[answer.size] = '\0';
    w->last = answer.last;
    free(answer.data);
    w->body = strstr(w->answer, "\r\n\r\n") + 4;
    assert_int_equal(sscanf(w->answer, "HTTP/1.1 %d ", &status), 1);
    snprintf(text, sizeof(text), "Content-Length: %zu\r\n", strlen(w->body));
    assert_non_null(strstr(w->answer, text));
    return status;
}

static void gets(struct world *w, const char *head, int status, const char *body)
{
    assert_int_equal(ask(w, head), status);
    assert_string_equal(w->body, body);
}

static void a_document_is_read(void **state)
{
    struct world *w = *state;
    gets(w, "GET /latest HTTP/1.1\n", 404, "Resource not found: /latest.");
    tell(w, 1, ", \"store\": " STORE);
    gets(w, "GET / HTTP/1.1\n", 200, "empty\nlatest/");
    gets(w, "GET /latest HTTP/1.1\nHost: x\n", 200, "meta-data/\n~/");
    gets(w, "GET //latest///meta-data/ HTTP/1.1\n", 200, "a\nb\nl\nn\no/");
    gets(w, "GET /latest/meta-data/a HTTP/1.1\n", 200, "one");
    gets(w, "GET http://169.254.169.254/latest/meta-data/a HTTP/1.1\n", 200, "one");
    gets(w, "GET /latest/~0~1 HTTP/1.1\n", 200, "odd");
    gets(w, "GET /latest/meta-data/l/1/y HTTP/1.1\n", 200, "z");
    gets(w, "GET /latest/meta-data/l/2 HTTP/1.1\n", 404,
         "Resource not found: /latest/meta-data/l/2.");
    gets(w, "GET /latest/meta-data/l/01 HTTP/1.1\n", 404,
         "Resource not found: /latest/meta-data/l/01.");
    gets(w, "GET /latest/meta-data/a/b HTTP/1.1\n", 404,
         "Resource not found: /latest/meta-data/a/b.");
    gets(w, "GET /empty HTTP/1.1\n", 200, "");
    gets(w, "GET /latest/meta-data/n HTTP/1.1\n", 501,
         "Cannot retrieve value. The value has an unsupported type.");
    gets(w, "GET /latest/meta-data HTTP/1.1\nAccept: application/json\n", 200,
         "{\"a\":\"one\",\"b\":\"two\",\"l\":[\"x\",{\"y\":\"z\"}],\"n\":4,\"o\":{}}");
    assert_non_null(strstr(w->answer, "Content-Type: application/json\r\n"));
    gets(w, "GET /latest/meta-data/n HTTP/1.1\naccept:application/json\n", 200, "4");
    gets(w, "GET /latest/meta-data/a HTTP/1.1\nAccept: */*\n", 200, "one");
    assert_non_null(strstr(w->answer, "Content-Type: text/plain\r\n"));
    tell(w, 1, ", \"plain\": true, \"store\": " STORE);
    gets(w, "GET /latest/meta-data/a HTTP/1.1\nAccept: application/json\n", 200, "one");
    tell(w, 1, "");
    gets(w, "GET / HTTP/1.1\n", 404, "Resource not found: /.");
}

static void requests_that_are_none(void **state)
{
    struct world *w = *state;
    static const char *const bad[] = {
        "GET /\n",
        "GET / HTTP/2.0\n",
        "GET / HTTP/1.1 x\n",
        "GET /\x01 HTTP/1.1\n",
        "\n",
        "GET / HTTP/1.1\nno header\n",
        "PUT / HTTP/1.1\nContent-Length: -1\n",
        "PUT / HTTP/1.1\nContent-Length: 99999999999999999999\n",
        "PUT / HTTP/1.1\nTransfer-Encoding: chunked\n",
    };
    struct service_answer answer = {0};
    tell(w, 1, ", \"store\": " STORE);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        gets(w, bad[i], 400, "Invalid request.");
        assert_true(w->last);
    }
    gets(w, "GET x HTTP/1.1\n", 400, "Invalid URI.");
    gets(w, "GET http://host HTTP/1.1\n", 400, "Invalid URI.");
    assert_false(w->last);
    gets(w, "POST / HTTP/1.1\n", 405, "Not allowed HTTP method.");
    assert_non_null(strstr(w->answer, "Allow: GET, PUT\r\n"));
    gets(w, "GET /latest/meta-data/a HTTP/1.0\n", 200, "one");
    assert_true(w->last);
    gets(w, "GET /latest/meta-data/a HTTP/1.1\nConnection: Close\n", 200, "one");
    assert_true(w->last);
    /* What is not whole yet, and a body that there is no room for. */
    static const char part[] = "GET / HTTP/1.1\r\nHost: x\r\n",
                      body[] = "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET",
                      large[] = "PUT / HTTP/1.1\r\nContent-Length: 4090\r\n\r\n";
    assert_int_equal(
        metadata_request_at(w->metadata, (const uint8_t *)part, strlen(part), 0, &answer), 0);
    assert_int_equal(
        metadata_request_at(w->metadata, (const uint8_t *)body, strlen(body) - 4, 0, &answer), 0);
    assert_null(answer.data);
    assert_int_equal(
        metadata_request_at(w->metadata, (const uint8_t *)body, strlen(body), 0, &answer),
        strlen(body) - 3);
    free(answer.data);
    assert_int_equal(
        metadata_request_at(w->metadata, (const uint8_t *)large, strlen(large), 0, &answer), -1);
}

#define NO_TTL                                                                                     \
    "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "                   \
    "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime."
#define NO_TOKEN                                                                                   \
    "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to "      \
    "specify the session token."

static void sessions_have_tokens(void **state)
{
    struct world *w = *state;
    char token[80], head[256];
    tell(w, 2, ", \"store\": " STORE);
    gets(w, "GET /latest/meta-data/a HTTP/1.1\n", 401, NO_TOKEN);
    gets(w, "GET /latest/meta-data/a HTTP/1.1\nX-metadata-token: \n", 401, "MMDS token not valid.");
    gets(w, "PUT /latest/api/token HTTP/1.1\n", 400, NO_TTL);
    gets(w, "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 0\n", 400,
         "Invalid time to live value provided for token: 0. Please provide a value between 1 and "
         "21600.");
    gets(w, "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 21601\n", 400,
         "Invalid time to live value provided for token: 21601. Please provide a value between 1 "
         "and 21600.");
    gets(w, "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 1x\n", 400,
         "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:1x");
    gets(w, "PUT /token HTTP/1.1\nX-metadata-token-ttl-seconds: 60\n", 404,
         "Resource not found: /token.");
    gets(w,
         "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 60\nX-Forwarded-For: x\n",
         400, "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For");
    assert_int_equal(
        ask(w, "PUT //latest/api/token HTTP/1.1\nx-aws-ec2-metadata-token-ttl-seconds: 60\n"), 200);
    assert_non_null(strstr(w->answer, "x-aws-ec2-metadata-token-ttl-seconds: 60\r\n"));
    assert_int_equal(strlen(w->body), 64);
    snprintf(token, sizeof(token), "%s", w->body);
    snprintf(head, sizeof(head), "GET /latest/meta-data/a HTTP/1.1\nX-aws-ec2-metadata-token: %s\n",
             token);
    gets(w, head, 200, "one");
    snprintf(head, sizeof(head), "GET /latest/meta-data/a HTTP/1.1\nX-metadata-token: %s\n", token);
    w->now += 59999;
    gets(w, head, 200, "one");
    w->now++; /* then it has expired */
    gets(w, head, 401, "MMDS token not valid.");
    w->now -= 1000;
    for (size_t i = 0; i < 64; i += 9) { /* nobody makes one, nor a longer life of one */
        char *c = strchr(head, ':') + 2 + i, was = *c;
        *c = was == '0' ? '1' : '0';
        gets(w, head, 401, "MMDS token not valid.");
        *c = was;
    }
    gets(w, head, 200, "one");
    tell(w, 1, ", \"store\": " STORE); /* version 1 knows tokens, and needs none */
    gets(w, "GET /latest/meta-data/a HTTP/1.1\nX-metadata-token: wrong\n", 200, "one");
    assert_int_equal(ask(w, "PUT /latest/api/token HTTP/1.1\nX-metadata-token-ttl-seconds: 9\n"),
                     200);
    static const char other[] = "{\"id\": \"v2\", \"key\": \"" KEY "\", \"version\": 2}";
    assert_true(metadata_tell(w->metadata, other, strlen(other)));
    gets(w, head, 401, "MMDS token not valid."); /* another machine's */
}

static void messages_are_checked(void **state)
{
    struct world *w = *state;
    static const char *const bad[] = {
        "",
        "{",
        "{}",
        "{\"id\": \"vm\", \"key\": \"00\", \"version\": 1}",
        "{\"id\": \"vm\", \"key\": \"" KEY "\", \"version\": 3}",
        "{\"id\": 1, \"key\": \"" KEY "\", \"version\": 1}",
        "{\"id\": \"vm\", \"key\": "
        "\"zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\", "
        "\"version\": 1}",
    };
    tell(w, 1, ", \"store\": " STORE);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(metadata_tell(w->metadata, bad[i], strlen(bad[i])));
    gets(w, "GET /latest/meta-data/a HTTP/1.1\n", 200, "one");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_document_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(requests_that_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(sessions_have_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_are_checked, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
