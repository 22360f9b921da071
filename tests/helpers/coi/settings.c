/* The environment variables, the log, and memory: see settings.h. */
#include "settings.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtol(value, NULL, 10) : otherwise;
}

COI_DEVICE_TYPE card_type(void) {
    const char *value = getenv("STANDIN_TYPE");
    return value && strcmp(value, "KNC") == 0 ? COI_DEVICE_KNC : COI_DEVICE_KNL;
}

void card_log(unsigned card, const char *format, ...) {
    const char *path = getenv("STANDIN_LOG");
    if (!path || !*path)
        return;
    char line[512];
    int used = snprintf(line, sizeof line, "card %u: ", card);
    va_list values;
    va_start(values, format);
    used += vsnprintf(line + used, sizeof line - 1 - (size_t)used, format, values);
    va_end(values);
    if (used > (int)sizeof line - 2)
        used = (int)sizeof line - 2;
    line[used++] = '\n';
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    /* One write per line, so that lines of several threads and processes do not mix. */
    if (file < 0 || write(file, line, (size_t)used) != used)
        perror("STANDIN_LOG");
    if (file >= 0)
        close(file);
}

void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory) {
        perror("stand-in card");
        abort();
    }
    return memory;
}
