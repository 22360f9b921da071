/* The messages between host and card: one request, its body, one reply, its data, over a stream socket. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum request_kind {
    FIND,  /* body: a function's name; reply: its address on the card, 0 if there is none */
    MAP,   /* `length` bytes of the descriptor that comes along; reply: their address on the card, 0 if it failed */
    UNMAP, /* `length` bytes at `address`; reply: 0 */
    RUN,   /* the function at `address`; body: `buffer_count` spans, the misc data; reply: 0, then the data returned */
};

struct request {
    uint32_t kind;
    uint32_t buffer_count;
    uint64_t address;
    uint64_t length;
    uint32_t body_length;
    uint32_t return_length;
};

/* A buffer on the card. */
struct span {
    uint64_t address;
    uint64_t length;
};

struct reply {
    uint64_t value;
};

/* Sends all of `data`, and `descriptor` with it unless that is -1; false if the other side is gone. */
bool wire_send(int socket, const void *data, size_t bytes, int descriptor);

/* Receives exactly `bytes`, and what descriptor came along (-1: none) if `descriptor` is not NULL; false at the end. */
bool wire_receive(int socket, void *data, size_t bytes, int *descriptor);

#endif
