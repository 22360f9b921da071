/* Processes on a card: their start and end, their functions, and requests to them. */
#define _GNU_SOURCE
#include "process.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "events.h"
#include "settings.h"
#include "spawn.h"

struct function {
    uint64_t address;
    struct function *next;
    char name[COI_MAX_FUNCTION_NAME_LENGTH];
};

struct process {
    unsigned card;
    pid_t pid;
    int socket;
    pthread_mutex_t lock; /* one request at a time; guards `socket` and `functions` */
    atomic_bool ended;
    atomic_ullong to_card, from_card; /* bytes moved */
    struct queue *transfers;
    struct function *functions;
};

unsigned process_card(const struct process *process) {
    return process->card;
}

struct queue *process_transfers(struct process *process) {
    return process->transfers;
}

uint64_t function_address(COIFUNCTION function) {
    return function->address;
}

const char *function_name(COIFUNCTION function) {
    return function->name;
}

static void note_end(struct process *process, const char *how) {
    if (atomic_exchange(&process->ended, true))
        return;
    card_log(process->card, "%s after %llu bytes to the card, %llu bytes from it", how, atomic_load(&process->to_card),
             atomic_load(&process->from_card));
    events_end_of_users();
}

/* Whether the process closes its end of the socket, as it does when it ends, within that many milliseconds. */
static bool ends_within(struct process *process, int milliseconds) {
    struct pollfd socket = {.fd = process->socket};
    return poll(&socket, 1, milliseconds) > 0;
}

bool process_ended(struct process *process) {
    if (!atomic_load(&process->ended) && ends_within(process, 0))
        note_end(process, "died");
    return atomic_load(&process->ended);
}

void process_moved(struct process *process, uint64_t to_card, uint64_t from_card) {
    atomic_fetch_add(&process->to_card, to_card);
    atomic_fetch_add(&process->from_card, from_card);
}

COIRESULT process_request(struct process *process, const struct request *request, const void *body, int descriptor,
                          uint64_t *value, void *returned) {
    struct reply reply;
    pthread_mutex_lock(&process->lock);
    bool replied = !atomic_load(&process->ended) &&
                   wire_send(process->socket, request, sizeof *request, descriptor) &&
                   wire_send(process->socket, body, request->body_length, -1) &&
                   wire_receive(process->socket, &reply, sizeof reply, NULL) &&
                   wire_receive(process->socket, returned, request->return_length, NULL);
    pthread_mutex_unlock(&process->lock);
    if (!replied) {
        note_end(process, "died");
        return COI_PROCESS_DIED;
    }
    if (value)
        *value = reply.value;
    return COI_SUCCESS;
}

/* COI: sends a program to a card and starts it there with these arguments (its name is put before them), the host's
 * environment if `inherit`, and some variables more; its output comes back if `output`; waits until the program calls
 * COIPipelineStartExecutingRunFunctions.
 * Stand-in: a process on the host that gets a copy of the file; STANDIN_CARD_LIBRARIES comes before the library path.
 * Standard error is the host's whatever `output` says. No memory is set aside for buffers beforehand. */
COIRESULT COIProcessCreateFromFile(COIENGINE engine, const char *program, int argc, const char **arguments,
                                   uint8_t inherit, const char **additional, uint8_t output, const char *reserved,
                                   uint64_t buffer_space, const char *libraries, COIPROCESS *created) {
    (void)reserved;
    (void)buffer_space;
    if (!engine)
        return COI_INVALID_HANDLE;
    if (!program || !created)
        return COI_INVALID_POINTER;
    if (argc < 0)
        return COI_OUT_OF_RANGE;
    if ((argc > 0) != (arguments != NULL))
        return COI_ARGUMENT_MISMATCH;
    if (access(program, R_OK))
        return COI_DOES_NOT_EXIST;

    struct process *process = allocate(sizeof *process);
    process->card = engine_card(engine);
    process->socket = spawn_on_card(process->card, program, argc, arguments, inherit, additional, output, libraries,
                                    &process->pid);
    struct reply hello;
    bool started = process->socket >= 0 && wire_receive(process->socket, &hello, sizeof hello, NULL);
    if (started)
        process->transfers = queue_create(process);
    if (!process->transfers) {
        card_log(process->card, "%s did not start", program);
        if (process->socket >= 0) {
            kill(process->pid, SIGKILL);
            waitpid(process->pid, NULL, 0);
            close(process->socket);
        }
        free(process);
        return started ? COI_RESOURCE_EXHAUSTED : COI_PROCESS_DIED;
    }
    pthread_mutex_init(&process->lock, NULL);
    card_log(process->card, "started as process %d of type %s", (int)process->pid,
             card_type() == COI_DEVICE_KNC ? "KNC" : "KNL");
    *created = process;
    return COI_SUCCESS;
}

/* COI: asks the process to return from main and waits that many milliseconds (-1: without limit); then kills it
 * if `force`. With 0 it is killed at once or, without `force`, only looked at: COI_TIME_OUT_REACHED if it still
 * runs. Tells what main returned and the signal, if one killed it. Destroys the process's pipelines as well.
 * Stand-in: pipelines are left to their own destruction; what the card has not begun then ends with COI_PROCESS_DIED.
 * The handle's few bytes are kept, so that buffers and pipelines may be destroyed after their process. */
COIRESULT COIProcessDestroy(COIPROCESS process, int32_t milliseconds, uint8_t force, int8_t *main_returned,
                            uint32_t *signal) {
    if (!process || process->socket < 0)
        return COI_INVALID_HANDLE;
    if (milliseconds < -1)
        return COI_OUT_OF_RANGE;
    if (milliseconds == -1 && force)
        return COI_ARGUMENT_MISMATCH;
    if (milliseconds != 0)
        shutdown(process->socket, SHUT_WR); /* the card's side reads the end when it has replied to all */
    if (!ends_within(process, milliseconds)) {
        if (!force)
            return COI_TIME_OUT_REACHED;
        kill(process->pid, SIGKILL);
    }
    int status = 0;
    waitpid(process->pid, &status, 0);
    note_end(process, "ended");
    if (main_returned)
        *main_returned = WIFEXITED(status) ? (int8_t)WEXITSTATUS(status) : -1;
    if (signal)
        *signal = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;

    queue_stop(process->transfers);
    pthread_mutex_lock(&process->lock);
    close(process->socket);
    process->socket = -1;
    while (process->functions) {
        struct function *next = process->functions->next;
        free(process->functions);
        process->functions = next;
    }
    pthread_mutex_unlock(&process->lock);
    return COI_SUCCESS;
}

/* COI: handles of functions that the process exports; NULL for a name it lacks, and then COI_DOES_NOT_EXIST in all. */
COIRESULT COIProcessGetFunctionHandles(COIPROCESS process, uint32_t count, const char **names, COIFUNCTION *handles) {
    if (!process)
        return COI_INVALID_HANDLE;
    if (count == 0)
        return COI_OUT_OF_RANGE;
    if (!names || !handles)
        return COI_INVALID_POINTER;
    COIRESULT result = COI_SUCCESS;
    for (uint32_t i = 0; i < count; i++) {
        handles[i] = NULL;
        size_t length = strlen(names[i]) + 1;
        if (length > COI_MAX_FUNCTION_NAME_LENGTH)
            return COI_OUT_OF_RANGE;
        struct request request = {.kind = FIND, .body_length = (uint32_t)length};
        uint64_t address;
        COIRESULT asked = process_request(process, &request, names[i], -1, &address, NULL);
        if (asked != COI_SUCCESS)
            return asked;
        if (!address) {
            result = COI_DOES_NOT_EXIST;
            continue;
        }
        struct function *function = allocate(sizeof *function);
        function->address = address;
        memcpy(function->name, names[i], length);
        pthread_mutex_lock(&process->lock);
        function->next = process->functions;
        process->functions = function;
        pthread_mutex_unlock(&process->lock);
        handles[i] = function;
    }
    return result;
}
