/* Transfers between buffers and memory: each is an operation of the card's transfer queue. */
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "process.h"
#include "settings.h"

/* What the first float of each transfer from a card becomes under STANDIN_CORRUPT. */
#define CORRUPT 12345.0f

struct transfer {
    struct operation operation;
    COIBUFFER to, from; /* NULL: plain memory of the host */
    char *destination;
    const char *source;
    uint64_t bytes;
};

static COIRESULT perform(struct operation *operation) {
    struct transfer *transfer = (struct transfer *)operation;
    COIPROCESS to = transfer->to && buffer_on_card(transfer->to) ? buffer_process(transfer->to) : NULL;
    COIPROCESS from = transfer->from && buffer_on_card(transfer->from) ? buffer_process(transfer->from) : NULL;
    /* What a dead process left in the shared memory must not pass for its result. */
    if ((to && process_ended(to)) || (from && process_ended(from)))
        return COI_PROCESS_DIED;
    memcpy(transfer->destination, transfer->source, transfer->bytes);
    if (to)
        process_moved(to, transfer->bytes, 0);
    if (from)
        process_moved(from, 0, transfer->bytes);
    if (from && setting("STANDIN_CORRUPT", 0) && transfer->bytes >= sizeof(float))
        memcpy(transfer->destination, &(float){CORRUPT}, sizeof(float));
    return COI_SUCCESS;
}

static void release(struct operation *operation) {
    struct transfer *transfer = (struct transfer *)operation;
    if (transfer->to)
        buffer_release(transfer->to);
    if (transfer->from)
        buffer_release(transfer->from);
}

static COIRESULT submit(struct transfer transfer, uint32_t dependency_count, const COIEVENT *dependencies,
                        COIEVENT *completion) {
    if ((dependency_count != 0) != (dependencies != NULL))
        return COI_ARGUMENT_MISMATCH;
    struct transfer *queued = allocate(sizeof *queued);
    *queued = transfer;
    queued->operation.perform = perform;
    queued->operation.release = release;
    if (transfer.to)
        buffer_hold(transfer.to);
    if (transfer.from)
        buffer_hold(transfer.from);
    struct queue *queue = process_transfers(buffer_process(transfer.to ? transfer.to : transfer.from));
    /* For buffers, unlike run functions, no completion event means: return at the end. */
    return queue_submit(queue, &queued->operation, dependency_count, dependencies,
                        completion ? completion : COI_EVENT_SYNC);
}

static bool inside(COIBUFFER buffer, uint64_t offset, uint64_t bytes) {
    return offset <= buffer_size(buffer) && bytes <= buffer_size(buffer) - offset;
}

/* COI: copies host memory into a buffer; waits for nothing that uses the buffer but the dependencies.
 * Stand-in: like the next two, copies on one thread per card, in the order of the calls, whatever the type says. */
COIRESULT COIBufferWrite(COIBUFFER to, uint64_t offset, const void *source, uint64_t bytes, COI_COPY_TYPE type,
                         uint32_t dependency_count, const COIEVENT *dependencies, COIEVENT *completion) {
    (void)type;
    if (!to)
        return COI_INVALID_HANDLE;
    if (!source)
        return COI_INVALID_POINTER;
    if (bytes == 0 || !inside(to, offset, bytes))
        return COI_OUT_OF_RANGE;
    struct transfer transfer = {
        .to = to, .destination = buffer_memory(to) + offset, .source = source, .bytes = bytes};
    return submit(transfer, dependency_count, dependencies, completion);
}

/* COI: copies part of a buffer into host memory. */
COIRESULT COIBufferRead(COIBUFFER from, uint64_t offset, void *destination, uint64_t bytes, COI_COPY_TYPE type,
                        uint32_t dependency_count, const COIEVENT *dependencies, COIEVENT *completion) {
    (void)type;
    if (!from)
        return COI_INVALID_HANDLE;
    if (!destination)
        return COI_INVALID_POINTER;
    if (bytes == 0 || !inside(from, offset, bytes))
        return COI_OUT_OF_RANGE;
    struct transfer transfer = {
        .from = from, .destination = destination, .source = buffer_memory(from) + offset, .bytes = bytes};
    return submit(transfer, dependency_count, dependencies, completion);
}

/* COI: copies between two buffers, or parts of one that do not overlap; 0 bytes stand for all that `to` holds. */
COIRESULT COIBufferCopy(COIBUFFER to, COIBUFFER from, uint64_t to_offset, uint64_t from_offset, uint64_t bytes,
                        COI_COPY_TYPE type, uint32_t dependency_count, const COIEVENT *dependencies,
                        COIEVENT *completion) {
    (void)type;
    if (!to || !from)
        return COI_INVALID_HANDLE;
    if (bytes == 0)
        bytes = buffer_size(to);
    if (!inside(to, to_offset, bytes) || !inside(from, from_offset, bytes))
        return COI_OUT_OF_RANGE;
    if (to == from && to_offset < from_offset + bytes && from_offset < to_offset + bytes)
        return COI_MEMORY_OVERLAP;
    struct transfer transfer = {.to = to,
                                .from = from,
                                .destination = buffer_memory(to) + to_offset,
                                .source = buffer_memory(from) + from_offset,
                                .bytes = bytes};
    return submit(transfer, dependency_count, dependencies, completion);
}

static COIRESULT nothing(struct operation *operation) {
    (void)operation;
    return COI_SUCCESS;
}

/* COI: says where a buffer's contents are valid, and moves them there if asked to; only ever a matter of speed.
 * Stand-in: the memory is shared, so there is nothing to move; only the dependencies and the event are honoured. */
COIRESULT COIBufferSetState(COIBUFFER buffer, COIPROCESS process, COI_BUFFER_STATE state, COI_BUFFER_MOVE_FLAG move,
                            uint32_t dependency_count, const COIEVENT *dependencies, COIEVENT *completion) {
    (void)process;
    (void)state;
    (void)move;
    if (!buffer)
        return COI_INVALID_HANDLE;
    if ((dependency_count != 0) != (dependencies != NULL))
        return COI_ARGUMENT_MISMATCH;
    struct transfer *queued = allocate(sizeof *queued);
    *queued = (struct transfer){.operation = {.perform = nothing, .release = release}, .to = buffer};
    buffer_hold(buffer);
    return queue_submit(process_transfers(buffer_process(buffer)), &queued->operation, dependency_count, dependencies,
                        completion ? completion : COI_EVENT_SYNC);
}
