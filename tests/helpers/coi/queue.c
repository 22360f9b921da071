/* Queues of operations: see queue.h. */
#include "queue.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "settings.h"

struct queue {
    struct process *process;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct operation *first;
    struct operation **end;
    bool stopped;
};

static void finish(struct operation *operation, COIRESULT result) {
    COIEVENT completion = operation->completion;
    operation->release(operation);
    free(operation->dependencies);
    free(operation);
    if (completion.opaque[0])
        event_end(completion, result);
}

static void *work(void *argument) {
    struct queue *queue = argument;
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        while (!queue->first && !queue->stopped)
            pthread_cond_wait(&queue->filled, &queue->lock);
        struct operation *operation = queue->first;
        if (operation && !(queue->first = operation->next))
            queue->end = &queue->first;
        pthread_mutex_unlock(&queue->lock);
        if (!operation)
            return NULL;
        COIRESULT result = COI_SUCCESS;
        for (uint32_t i = 0; i < operation->dependency_count && result == COI_SUCCESS; i++)
            result = COIEventWait(1, &operation->dependencies[i], -1, 1, NULL, NULL);
        finish(operation, result == COI_SUCCESS ? operation->perform(operation) : result);
    }
}

struct queue *queue_create(struct process *process) {
    struct queue *queue = allocate(sizeof *queue);
    queue->process = process;
    queue->end = &queue->first;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->filled, NULL);
    if (pthread_create(&queue->thread, NULL, work, queue)) {
        queue->stopped = true;
        queue_free(queue);
        return NULL;
    }
    return queue;
}

struct process *queue_process(const struct queue *queue) {
    return queue->process;
}

COIRESULT queue_submit(struct queue *queue, struct operation *operation, uint32_t dependency_count,
                       const COIEVENT *dependencies, COIEVENT *completion) {
    operation->dependency_count = dependency_count;
    operation->dependencies = allocate(dependency_count * sizeof *dependencies);
    if (dependency_count)
        memcpy(operation->dependencies, dependencies, dependency_count * sizeof *dependencies);
    /* Nobody can wait for an operation without an event; MKL moves a matrix row by row in such operations. */
    COIEVENT event = {{0, 0}};
    if (completion != COI_EVENT_ASYNC)
        event = operation->completion = event_create(false);
    /* From the moment it is in the queue, the operation may be gone. */
    pthread_mutex_lock(&queue->lock);
    bool stopped = queue->stopped;
    if (!stopped) {
        *queue->end = operation;
        queue->end = &operation->next;
        pthread_cond_signal(&queue->filled);
    }
    pthread_mutex_unlock(&queue->lock);
    if (stopped)
        finish(operation, COI_PROCESS_DIED);
    if (completion == COI_EVENT_SYNC)
        return COIEventWait(1, &event, -1, 1, NULL, NULL);
    if (completion != COI_EVENT_ASYNC)
        *completion = event;
    return COI_SUCCESS;
}

void queue_stop(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    bool running = !queue->stopped;
    queue->stopped = true;
    pthread_cond_signal(&queue->filled);
    pthread_mutex_unlock(&queue->lock);
    if (running)
        pthread_join(queue->thread, NULL);
}

void queue_free(struct queue *queue) {
    pthread_mutex_destroy(&queue->lock);
    pthread_cond_destroy(&queue->filled);
    free(queue);
}
