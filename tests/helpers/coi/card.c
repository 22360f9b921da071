/* The card's side, libcoi_device: serves the host's requests in the process that the host library started. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coi.h"
#include "settings.h"
#include "wire.h"

static int host = -1;

/* Runs a function; what it returns lies in `returned`. */
static void run(const struct request *request, char *body, void *returned) {
    static long runs_with_buffers;
    uint32_t count = request->buffer_count;
    void **buffers = allocate(count * sizeof *buffers);
    uint64_t *lengths = allocate(count * sizeof *lengths);
    for (uint32_t i = 0; i < count; i++) {
        struct span span;
        memcpy(&span, body + i * sizeof span, sizeof span);
        buffers[i] = (void *)span.address;
        lengths[i] = span.length;
    }
    size_t spans = count * sizeof(struct span);
    run_function *function = (run_function *)request->address;
    function(count, buffers, lengths, body + spans, (uint16_t)(request->body_length - spans), returned,
             (uint16_t)request->return_length);
    fflush(stdout);
    free(buffers);
    free(lengths);
    if (count && setting("STANDIN_CARD", 0) == 0 && ++runs_with_buffers == setting("STANDIN_DIE_AFTER", 0))
        raise(SIGKILL);
}

/* The reply's value. */
static uint64_t serve(const struct request *request, char *body, int descriptor, void *returned) {
    void *mapped;
    switch (request->kind) {
    case FIND:
        return (uint64_t)dlsym(RTLD_DEFAULT, body);
    case MAP:
        mapped = mmap(NULL, request->length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        return mapped == MAP_FAILED ? 0 : (uint64_t)mapped;
    case UNMAP:
        munmap((void *)request->address, request->length);
        return 0;
    case RUN:
        run(request, body, returned);
        return 0;
    default:
        fprintf(stderr, "stand-in card: request %u is unknown\n", request->kind);
        abort();
    }
}

/* COI: called once by the program's main when it is ready for run functions.
 * Stand-in: tells the host so. COI_NOT_INITIALIZED in a process that the host library did not start. */
COIRESULT COIPipelineStartExecutingRunFunctions(void) {
    host = (int)setting("STANDIN_SOCKET", -1);
    struct reply hello = {0};
    if (host < 0)
        return COI_NOT_INITIALIZED;
    return wire_send(host, &hello, sizeof hello, -1) ? COI_SUCCESS : COI_ERROR;
}

/* COI: called by the program's main; returns when the host destroys the process.
 * Stand-in: the calling thread itself runs the functions; it returns too when the host is gone. */
COIRESULT COIProcessWaitForShutdown(void) {
    struct request request;
    int descriptor;
    bool connected = true;
    while (connected && wire_receive(host, &request, sizeof request, &descriptor)) {
        char *body = allocate(request.body_length);
        void *returned = allocate(request.return_length);
        connected = wire_receive(host, body, request.body_length, NULL);
        if (connected) {
            struct reply reply = {serve(&request, body, descriptor, returned)};
            connected = wire_send(host, &reply, sizeof reply, -1) &&
                        wire_send(host, returned, request.return_length, -1);
        }
        free(body);
        free(returned);
        if (descriptor >= 0)
            close(descriptor);
    }
    return COI_SUCCESS;
}
