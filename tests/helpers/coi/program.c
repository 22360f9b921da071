/* A program for the card, whose functions the tests run. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coi.h"

COIRESULT COIPipelineStartExecutingRunFunctions(void);
COIRESULT COIProcessWaitForShutdown(void);

run_function scale, wait_long, crash, variable;

/* Multiplies all floats of the first buffer by the misc data's; returns their sum. */
void scale(uint32_t buffer_count, void **buffers, uint64_t *lengths, void *misc, uint16_t misc_length, void *returned,
           uint16_t returned_length) {
    float factor, *values = buffers[0], sum = 0;
    if (buffer_count != 1 || misc_length != sizeof factor || returned_length != sizeof sum)
        abort();
    memcpy(&factor, misc, sizeof factor);
    for (uint64_t i = 0; i < lengths[0] / sizeof *values; i++)
        sum += values[i] *= factor;
    memcpy(returned, &sum, sizeof sum);
}

/* Takes as many milliseconds as the misc data says. */
void wait_long(uint32_t buffer_count, void **buffers, uint64_t *lengths, void *misc, uint16_t misc_length,
               void *returned, uint16_t returned_length) {
    (void)buffer_count, (void)buffers, (void)lengths, (void)misc_length, (void)returned, (void)returned_length;
    uint32_t milliseconds;
    memcpy(&milliseconds, misc, sizeof milliseconds);
    usleep(milliseconds * 1000);
}

/* Never returns. */
void crash(uint32_t buffer_count, void **buffers, uint64_t *lengths, void *misc, uint16_t misc_length, void *returned,
           uint16_t returned_length) {
    (void)buffer_count, (void)buffers, (void)lengths, (void)misc, (void)misc_length, (void)returned;
    (void)returned_length;
    usleep(100000);
    raise(SIGKILL);
}

/* Returns the environment variable that the misc data names. */
void variable(uint32_t buffer_count, void **buffers, uint64_t *lengths, void *misc, uint16_t misc_length,
              void *returned, uint16_t returned_length) {
    (void)buffer_count, (void)buffers, (void)lengths, (void)misc_length;
    const char *value = getenv(misc);
    snprintf(returned, returned_length, "%s", value ? value : "unset");
}

int main(int argc, char **argv) {
    (void)argv;
    COIPipelineStartExecutingRunFunctions();
    COIProcessWaitForShutdown();
    return argc;
}
