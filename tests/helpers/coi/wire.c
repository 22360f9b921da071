/* Whole messages over a stream socket: see wire.h. */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Room for one descriptor, aligned as the kernel wants it. */
union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

bool wire_send(int socket, const void *data, size_t bytes, int descriptor) {
    const char *rest = data;
    while (bytes) {
        struct iovec part = {(void *)rest, bytes};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        union control control;
        if (descriptor >= 0) {
            memset(&control, 0, sizeof control);
            message.msg_control = &control;
            message.msg_controllen = sizeof control.room;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof descriptor);
            memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
        }
        ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        descriptor = -1; /* it goes with the first byte */
        rest += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

bool wire_receive(int socket, void *data, size_t bytes, int *descriptor) {
    char *rest = data;
    if (descriptor)
        *descriptor = -1;
    while (bytes) {
        struct iovec part = {rest, bytes};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        union control control;
        if (descriptor) {
            message.msg_control = &control;
            message.msg_controllen = sizeof control.room;
        }
        ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        if (received < 0 && errno == EINTR)
            continue;
        if (received <= 0)
            return false;
        struct cmsghdr *header = descriptor ? CMSG_FIRSTHDR(&message) : NULL;
        if (header && header->cmsg_type == SCM_RIGHTS)
            memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
        rest += received;
        bytes -= (size_t)received;
    }
    return true;
}
