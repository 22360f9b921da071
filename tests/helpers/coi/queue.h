/* A thread that performs operations one after another, each when the events it depends on have ended. */
#ifndef QUEUE_H
#define QUEUE_H

#include "coi.h"

struct process;

/* The first member of every operation. */
struct operation {
    COIRESULT (*perform)(struct operation *);
    void (*release)(struct operation *); /* frees what it holds, but not the operation itself */
    COIEVENT completion;
    uint32_t dependency_count;
    COIEVENT *dependencies;
    struct operation *next;
};

struct queue *queue_create(struct process *process);

/* The card's process that the queue works for. */
struct process *queue_process(const struct queue *queue);

/* Puts the operation in the queue, which owns it from then on; with COI_EVENT_SYNC, returns its result at its end.
 * An operation whose dependency failed fails the same way. */
COIRESULT queue_submit(struct queue *queue, struct operation *operation, uint32_t dependency_count,
                       const COIEVENT *dependencies, COIEVENT *completion);

/* Performs what is left, and ends the thread; what is submitted later ends with COI_PROCESS_DIED. */
void queue_stop(struct queue *queue);

/* Frees a stopped queue. */
void queue_free(struct queue *queue);

#endif
