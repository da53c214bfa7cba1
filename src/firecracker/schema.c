/* SPDX-License-Identifier: MIT
 *
 * See schema.h.
 */
#include "firecracker/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static bool refuse(char fault[FC_FAULT_MAX], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool refuse(char fault[FC_FAULT_MAX], const char *format, ...)
{
    static const char prefix[] =
        "An error occurred when deserializing the json body of a request: ";
    va_list arguments;
    memcpy(fault, prefix, sizeof(prefix));
    va_start(arguments, format);
    vsnprintf(fault + sizeof(prefix) - 1, FC_FAULT_MAX - sizeof(prefix), format, arguments);
    va_end(arguments);
    strncat(fault, ".", FC_FAULT_MAX - strlen(fault) - 1);
    error_plain(fault); /* it may quote what a client sent */
    return false;
}

static const struct fc_field *find(const struct fc_field *fields, const char *name)
{
    for (const struct fc_field *field = fields; field->kind != FC_END; field++)
        if (strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

static bool check_text(const struct fc_field *field, const json_t *value, char fault[FC_FAULT_MAX])
{
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value))
        return refuse(fault, "`%s` has a zero byte in it", field->name);
    if (field->choices == NULL)
        return true;
    for (size_t i = 0; field->choices[i] != NULL; i++)
        if (strcmp(field->choices[i], text) == 0)
            return true;
    return refuse(fault, "unknown variant `%.64s` of `%s`", text, field->name);
}

static bool check_object(const struct fc_field *fields, json_t *object, bool part,
                         char fault[FC_FAULT_MAX]);

static bool check_list(const struct fc_field *field, json_t *list, char fault[FC_FAULT_MAX])
{
    static const struct fc_field text = {.name = "", .kind = FC_TEXT};
    size_t index;
    json_t *entry;
    json_array_foreach(list, index, entry)
    {
        if (field->fields != NULL ? !json_is_object(entry) : !json_is_string(entry))
            return refuse(fault, "invalid type of an entry of `%s`, expected %s", field->name,
                          field->fields != NULL ? "an object" : "a string");
        if (field->fields != NULL ? !check_object(field->fields, entry, false, fault)
                                  : !check_text(&text, entry, fault))
            return false;
    }
    return true;
}

static bool are_texts(json_t *value)
{
    const char *name;
    json_t *entry;
    json_object_foreach(value, name, entry)
    {
        if (!json_is_string(entry))
            return false;
    }
    return json_is_object(value);
}

static bool check_value(const struct fc_field *field, json_t *value, bool part,
                        char fault[FC_FAULT_MAX])
{
    static const char *const kinds[] = {
        [FC_BOOL] = "a boolean", [FC_UINT] = "an unsigned integer",
        [FC_TEXT] = "a string",  [FC_OBJECT] = "an object",
        [FC_LIST] = "an array",  [FC_TEXTS] = "an object of strings",
        [FC_ANY] = "",           [FC_UNSUPPORTED] = "",
    };
    bool fits =
        (field->kind == FC_BOOL && json_is_boolean(value)) ||
        (field->kind == FC_UINT && json_is_integer(value) && json_integer_value(value) >= 0) ||
        (field->kind == FC_TEXT && json_is_string(value)) ||
        (field->kind == FC_OBJECT && json_is_object(value)) ||
        (field->kind == FC_LIST && json_is_array(value)) ||
        (field->kind == FC_TEXTS && are_texts(value));
    if (field->kind == FC_UNSUPPORTED) {
        snprintf(fault, FC_FAULT_MAX, "trapeze does not support `%s`.", field->name);
        return false;
    }
    if (!fits)
        return refuse(fault, "invalid type of `%s`, expected %s", field->name, kinds[field->kind]);
    uint64_t number = (uint64_t)json_integer_value(value);
    if (field->kind == FC_UINT && (number < field->min || (field->max != 0 && number > field->max)))
        return refuse(fault, "invalid value of `%s`: %llu", field->name,
                      (unsigned long long)number);
    if (field->kind == FC_TEXT)
        return check_text(field, value, fault);
    if (field->kind == FC_LIST)
        return check_list(field, value, fault);
    return field->kind != FC_OBJECT || check_object(field->fields, value, part, fault);
}

static bool check_object(const struct fc_field *fields, json_t *object, bool part,
                         char fault[FC_FAULT_MAX])
{
    const char *name;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, name, value)
    {
        const struct fc_field *field = find(fields, name);
        if (field == NULL)
            return refuse(fault, "unknown field `%.64s`", name);
        if (json_is_null(value) && !field->required)
            json_object_del(object, name);
        else if (!check_value(field, value, part, fault))
            return false;
    }
    for (const struct fc_field *field = fields; field->kind != FC_END && !part; field++) {
        if (json_object_get(object, field->name) != NULL)
            continue;
        if (field->required)
            return refuse(fault, "missing field `%s`", field->name);
        if (field->preset != NULL)
            json_object_set_new(object, field->name,
                                json_loads(field->preset, JSON_DECODE_ANY, NULL));
    }
    return true;
}

bool fc_check_object(const struct fc_field *fields, json_t *object, char fault[FC_FAULT_MAX])
{
    return json_is_object(object) ? check_object(fields, object, false, fault)
                                  : refuse(fault, "invalid type, expected an object");
}

static json_t *check(const struct fc_field *fields, const char *body, size_t size, bool part,
                     char fault[FC_FAULT_MAX])
{
    json_error_t error;
    bool any = fields->kind == FC_ANY;
    json_t *object = json_loadb(body, size, any ? JSON_DECODE_ANY : JSON_REJECT_DUPLICATES, &error);
    if (object != NULL && any)
        return object;
    if (object == NULL)
        refuse(fault, "%.160s at line %d column %d", error.text, error.line, error.column);
    else if (!json_is_object(object))
        refuse(fault, "invalid type, expected an object");
    else if (check_object(fields, object, part, fault))
        return object;
    json_decref(object);
    return NULL;
}

json_t *fc_check(const struct fc_field *fields, const char *body, size_t size,
                 char fault[FC_FAULT_MAX])
{
    return check(fields, body, size, false, fault);
}

json_t *fc_check_part(const struct fc_field *fields, const char *body, size_t size,
                      char fault[FC_FAULT_MAX])
{
    return check(fields, body, size, true, fault);
}
