/* The card's process as the host sees it. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>

#include "coi.h"
#include "queue.h"
#include "wire.h"

/* Which card it runs on. */
unsigned process_card(const struct process *process);

/* The queue of operations that move data to or from the process. */
struct queue *process_transfers(struct process *process);

/* Whether the process has ended, on request or not. */
bool process_ended(struct process *process);

/* Counts bytes moved between host and card. */
void process_moved(struct process *process, uint64_t to_card, uint64_t from_card);

/* Sends a request with its body, and a descriptor unless that is -1; waits for the reply's value and its data.
 * Requests of several threads follow one another. COI_PROCESS_DIED if the process ends before it has replied. */
COIRESULT process_request(struct process *process, const struct request *request, const void *body, int descriptor,
                          uint64_t *value, void *returned);

/* A function's address on the card. */
uint64_t function_address(COIFUNCTION function);

/* A function's name. */
const char *function_name(COIFUNCTION function);

#endif
