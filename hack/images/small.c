/* The smallest stateful web service: counts requests, on port 8080, IPv4 and IPv6, with keep-alive.
 * One process, one thread, no heap: what a sleep and a wake cost at least. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 0, MAX_FDS = 64, BUFFER = 4096 };

static struct pollfd fds[MAX_FDS];
static char requests[MAX_FDS][BUFFER];
static size_t lengths[MAX_FDS];
static unsigned long counter;

static void end(int signal) {
    (void)signal;
    _exit(0);
}

static void drop(int at) {
    close(fds[at].fd);
    fds[at].fd = -1; /* poll skips it */
}

static void welcome(void) {
    int fd = accept(fds[LISTENER].fd, 0, 0);
    if (fd < 0) return;
    for (int at = 1; at < MAX_FDS; at++) {
        if (fds[at].fd >= 0) continue;
        fds[at].fd = fd;
        fds[at].events = POLLIN;
        lengths[at] = 0;
        return;
    }
    close(fd);
}

static void serve(int at) {
    ssize_t got = read(fds[at].fd, requests[at] + lengths[at], BUFFER - 1 - lengths[at]);
    if (got <= 0) {
        drop(at);
        return;
    }
    lengths[at] += (size_t)got;
    requests[at][lengths[at]] = 0;
    char *rest;
    while ((rest = strstr(requests[at], "\r\n\r\n"))) {
        char body[32], answer[160];
        int size = snprintf(body, sizeof body, "%lu\n", ++counter);
        int total = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body);
        if (write(fds[at].fd, answer, (size_t)total) != total) {
            drop(at);
            return;
        }
        memmove(requests[at], rest + 4, strlen(rest + 4) + 1);
        lengths[at] = strlen(requests[at]);
    }
    if (lengths[at] == BUFFER - 1) drop(at);
}

int main(void) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(8080)};
    int on = 1, off = 0, listener = socket(AF_INET6, SOCK_STREAM, 0);
    signal(SIGTERM, end);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 128)) {
        perror("port 8080");
        return 1;
    }
    for (int at = 0; at < MAX_FDS; at++) fds[at].fd = -1;
    fds[LISTENER] = (struct pollfd){.fd = listener, .events = POLLIN};
    puts("listening");
    fflush(stdout);
    for (;;) {
        if (poll(fds, MAX_FDS, -1) < 0) continue;
        for (int at = 1; at < MAX_FDS; at++)
            if (fds[at].fd >= 0 && fds[at].revents) serve(at);
        if (fds[LISTENER].revents) welcome();
    }
}
