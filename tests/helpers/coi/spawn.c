/* Starting a program as a card's process: its file is copied as if to the card, its environment put together. */
#define _GNU_SOURCE
#include "spawn.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "settings.h"

extern char **environ;

/* A copy of the file in memory, -1 if it cannot be read. COI only reads the program, so it need not be executable. */
static int copy_of(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int copy = file < 0 ? -1 : memfd_create("stand-in card's program", MFD_CLOEXEC);
    ssize_t sent = 0;
    while (copy >= 0 && (sent = sendfile(copy, file, NULL, 1 << 26)) > 0)
        ;
    if (copy >= 0 && sent < 0) {
        close(copy);
        copy = -1;
    }
    if (file >= 0)
        close(file);
    return copy;
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* The card's environment; the list and its first three strings are to be freed. */
static char **environment(unsigned card, int socket, int inherit, const char **additional, const char *libraries) {
    size_t count = 0, most = 4;
    for (char **each = environ; *each; each++)
        most++;
    for (const char **each = additional; each && *each; each++)
        most++;
    char **list = allocate(most * sizeof *list);
    const char *own = getenv("STANDIN_CARD_LIBRARIES");
    if (asprintf(&list[count++], "STANDIN_SOCKET=%d", socket) < 0 ||
        asprintf(&list[count++], "STANDIN_CARD=%u", card) < 0 ||
        asprintf(&list[count++], "LD_LIBRARY_PATH=%s:%s", own ? own : "", libraries ? libraries : "") < 0)
        abort();
    /* The first of a name counts, but for the loader's own variables. */
    for (const char **each = additional; each && *each; each++)
        list[count++] = (char *)*each;
    for (char **each = environ; *each; each++)
        if (starts_with(*each, "STANDIN_") || (inherit && !starts_with(*each, "LD_")))
            list[count++] = *each;
    return list;
}

int spawn_on_card(unsigned card, const char *program, int argc, const char **arguments, int inherit,
                  const char **additional, int output, const char *libraries, pid_t *pid) {
    int copy = copy_of(program), ends[2];
    if (copy < 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
        close(copy);
        return -1;
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
    const char *slash = strrchr(program, '/');
    char **argv = allocate(((size_t)argc + 2) * sizeof *argv);
    argv[0] = (char *)(slash ? slash + 1 : program);
    for (int i = 0; i < argc; i++)
        argv[i + 1] = (char *)arguments[i];
    char **variables = environment(card, ends[1], inherit, additional, libraries);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    /* Onto itself: all that this does is to keep it open. */
    posix_spawn_file_actions_adddup2(&actions, ends[1], ends[1]);
    if (!output)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawn(pid, path, &actions, NULL, argv, variables);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 3; i++)
        free(variables[i]);
    free(variables);
    free(argv);
    close(copy);
    close(ends[1]);
    if (failed)
        close(ends[0]);
    return failed ? -1 : ends[0];
}
