/* Pipelines: run functions, one after another, in a card's process. */
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "process.h"
#include "settings.h"

struct run {
    struct operation operation;
    COIPROCESS process;
    COIFUNCTION function;
    uint32_t buffer_count;
    COIBUFFER *buffers;
    struct request request;
    char *body;
    void *returned;
};

static COIRESULT perform(struct operation *operation) {
    struct run *run = (struct run *)operation;
    COIRESULT result = process_request(run->process, &run->request, run->body, -1, NULL, run->returned);
    card_log(process_card(run->process), "ran %s with %u buffers: %s", function_name(run->function), run->buffer_count,
             COIResultGetName(result));
    return result;
}

static void release(struct operation *operation) {
    struct run *run = (struct run *)operation;
    for (uint32_t i = 0; i < run->buffer_count; i++)
        buffer_release(run->buffers[i]);
    free(run->buffers);
    free(run->body);
}

/* COI: makes a pipeline in a process, whose thread on the card runs on the threads of the mask with that much stack.
 * Stand-in: treats mask and stack as hints; functions of all pipelines of a process run one at a time. */
COIRESULT COIPipelineCreate(COIPROCESS process, void *mask, uint32_t stack, COIPIPELINE *created) {
    (void)mask;
    (void)stack;
    if (!process)
        return COI_INVALID_HANDLE;
    if (!created)
        return COI_INVALID_POINTER;
    if (process_ended(process))
        return COI_PROCESS_DIED;
    *created = queue_create(process);
    return *created ? COI_SUCCESS : COI_RESOURCE_EXHAUSTED;
}

/* COI: frees a pipeline when everything queued in it has run. */
COIRESULT COIPipelineDestroy(COIPIPELINE pipeline) {
    if (!pipeline)
        return COI_INVALID_HANDLE;
    queue_stop(pipeline);
    queue_free(pipeline);
    return COI_SUCCESS;
}

/* COI: queues a function with buffers, a copy of the misc data, and room for what it returns; it runs when the
 * dependencies have ended, and then the event ends. Without an event, the end is not signalled.
 * Stand-in: buffers must lie on the card of the pipeline; access flags change nothing, as all memory is shared, and
 * keep no buffer alive after the function (the ..._ADDREF ones are refused). */
COIRESULT COIPipelineRunFunction(COIPIPELINE pipeline, COIFUNCTION function, uint32_t buffer_count,
                                 const COIBUFFER *buffers, const COI_ACCESS_FLAGS *flags, uint32_t dependency_count,
                                 const COIEVENT *dependencies, const void *misc, uint16_t misc_length, void *returned,
                                 uint16_t return_length, COIEVENT *completion) {
    if (!pipeline || !function)
        return COI_INVALID_HANDLE;
    if (buffer_count > COI_PIPELINE_MAX_IN_BUFFERS || misc_length > COI_PIPELINE_MAX_IN_MISC_DATA_LEN)
        return COI_OUT_OF_RANGE;
    if ((buffer_count && (!buffers || !flags)) || (misc_length && !misc) || (return_length && !returned) ||
        (dependency_count != 0) != (dependencies != NULL))
        return COI_ARGUMENT_MISMATCH;
    COIPROCESS process = queue_process(pipeline);
    for (uint32_t i = 0; i < buffer_count; i++) {
        if (!buffers[i])
            return COI_INVALID_HANDLE;
        if (flags[i] > COI_SINK_WRITE_ENTIRE || !buffer_on_card(buffers[i]))
            return COI_NOT_SUPPORTED;
        if (buffer_process(buffers[i]) != process)
            return COI_MISSING_DEPENDENCY;
    }

    size_t spans = buffer_count * sizeof(struct span);
    struct run *run = allocate(sizeof *run);
    *run = (struct run){
        .operation = {.perform = perform, .release = release},
        .process = process,
        .function = function,
        .buffer_count = buffer_count,
        .buffers = allocate(buffer_count * sizeof *buffers),
        .request = {.kind = RUN,
                    .buffer_count = buffer_count,
                    .address = function_address(function),
                    .body_length = (uint32_t)spans + misc_length,
                    .return_length = return_length},
        .body = allocate(spans + misc_length),
        .returned = returned,
    };
    for (uint32_t i = 0; i < buffer_count; i++) {
        struct span span = buffer_span(buffers[i]);
        memcpy(run->body + i * sizeof span, &span, sizeof span);
        run->buffers[i] = buffers[i];
        buffer_hold(buffers[i]);
    }
    if (misc_length)
        memcpy(run->body + spans, misc, misc_length);
    return queue_submit(pipeline, &run->operation, dependency_count, dependencies,
                        completion ? completion : COI_EVENT_ASYNC);
}
