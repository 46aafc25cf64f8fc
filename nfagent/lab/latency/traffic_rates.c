// Traffic for the packet rows: small enough to measure the kernel's path, not the sender.
//
//   traffic serve ADDRESS PORT     short connections and datagrams on PORT, streams on PORT + 1; says "ready"
//   traffic client ADDRESS PORT    sends to such a server, as the lines of its standard input command:
//       stream MS                  send on one TCP connection, until all has been read
//       connect MS PARALLEL        connect, a byte each way, close
//       datagrams MS A_SECOND      UDP, at an even rate
//       scatter MS A_SECOND        the same, each to a random port
//   and answers each by a line "COUNT NANOSECONDS": of bytes, connections, or datagrams.
//
// Both end when their standard input does. The server closes a short connection first, so that the client's ports
// are free again at once.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "c_program.h"

#define EVENTS 256
#define CHUNK (256 * 1024)
#define RECEIPT (1024 * 1024) // bytes of a stream for which the server sends an acknowledging byte
#define BURST 16

// Kinds of the server's descriptors.
enum { SHORT, STREAM, SHORT_LISTENER, STREAM_LISTENER, DATAGRAMS, STDIN };

static char buffer[CHUNK];

// Fixed: by default the kernel tunes the window of each connection, and streams would differ by that.
static const int window = 512 * 1024;

static socklen_t address(const char *host, int port, struct sockaddr_storage *found)
{
    struct addrinfo wanted = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *list;
    char service[16];
    socklen_t size;

    snprintf(service, sizeof(service), "%d", port);
    if (getaddrinfo(host, service, &wanted, &list)) {
        fprintf(stderr, "traffic: %s isn't an address\n", host);
        exit(2);
    }
    memcpy(found, list->ai_addr, list->ai_addrlen);
    size = list->ai_addrlen;
    freeaddrinfo(list);
    return size;
}

// An event has its descriptor in the lower half, and the kind in the upper one.
static void watch(int epoll, int descriptor, int role, uint32_t events)
{
    struct epoll_event event = { .events = events };

    event.data.u64 = ((uint64_t)(uint32_t)role << 32) | (uint32_t)descriptor;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event))
        die("epoll_ctl");
}

static int opened(const char *host, int port, int type)
{
    struct sockaddr_storage where;
    socklen_t size = address(host, port, &where);
    int one = 1, sock = socket(where.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (sock < 0)
        die("socket");
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &window, sizeof(window));
    if (bind(sock, (struct sockaddr *)&where, size))
        die("bind");
    if (type == SOCK_STREAM && listen(sock, 4096))
        die("listen");
    return sock;
}

static void take_all(int epoll, int listener, int accepted)
{
    int connection;

    while ((connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        watch(epoll, connection, accepted, EPOLLIN);
}

static void swallow(int connection)
{
    static size_t had; // one stream at a time: a server has one client
    ssize_t size;

    while ((size = recv(connection, buffer, CHUNK, 0)) > 0)
        for (had += size; had >= RECEIPT; had -= RECEIPT)
            send(connection, buffer, 1, MSG_NOSIGNAL);
    if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(connection);
        had = 0;
    }
}

static int serve(const char *host, int port)
{
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC), count;
    char byte;

    watch(epoll, opened(host, port, SOCK_STREAM), SHORT_LISTENER, EPOLLIN);
    watch(epoll, opened(host, port + 1, SOCK_STREAM), STREAM_LISTENER, EPOLLIN);
    watch(epoll, opened(host, port, SOCK_DGRAM), DATAGRAMS, EPOLLIN);
    watch(epoll, STDIN_FILENO, STDIN, EPOLLIN);
    puts("ready");
    fflush(stdout);
    for (;;) {
        count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int descriptor = (int)(uint32_t)events[i].data.u64, role = (int)(events[i].data.u64 >> 32);
            switch (role) {
            case STDIN:
                if (read(STDIN_FILENO, &byte, 1) <= 0)
                    return 0;
                break;
            case SHORT_LISTENER:
                take_all(epoll, descriptor, SHORT);
                break;
            case STREAM_LISTENER:
                take_all(epoll, descriptor, STREAM);
                break;
            case DATAGRAMS:
                while (recv(descriptor, buffer, CHUNK, 0) >= 0)
                    ;
                break;
            case STREAM:
                swallow(descriptor);
                break;
            case SHORT:
                if (recv(descriptor, &byte, 1, 0) == 1)
                    send(descriptor, &byte, 1, MSG_NOSIGNAL);
                close(descriptor);
            }
        }
    }
}

static void say(int64_t count, int64_t began)
{
    printf("%lld %lld\n", (long long)count, (long long)(now() - began));
}

static int connected(const struct sockaddr_storage *where, socklen_t size)
{
    int sock = socket(where->ss_family, SOCK_STREAM, 0);

    if (sock >= 0)
        setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &window, sizeof(window));
    if (sock < 0 || connect(sock, (const struct sockaddr *)where, size))
        die("connect");
    return sock;
}

// Send for a time, and wait until the other end has read everything.
static void stream(const struct sockaddr_storage *where, socklen_t size, int64_t ms)
{
    int sock = connected(where, size);
    int64_t began = now(), end = began + ms * MILLISECOND, sent = 0, receipts = 0;
    ssize_t part;

    // At least one receipt's bytes, also where this process stood still for the whole time.
    do {
        part = send(sock, buffer, sent % RECEIPT + CHUNK > RECEIPT ? RECEIPT - sent % RECEIPT : CHUNK, MSG_NOSIGNAL);
        if (part <= 0)
            die("send");
        sent += part;
    } while (now() < end || sent % RECEIPT);
    while (receipts < sent / RECEIPT) {
        part = recv(sock, buffer, sent / RECEIPT - receipts, 0);
        if (part <= 0)
            die("recv");
        receipts += part;
    }
    say(sent, began);
    close(sock);
}

static void begin(int epoll, const struct sockaddr_storage *where, socklen_t size)
{
    int one = 1, sock = socket(where->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (sock < 0)
        die("socket");
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(sock, (const struct sockaddr *)where, size) && errno != EINPROGRESS)
        die("connect");
    watch(epoll, sock, SHORT, EPOLLOUT);
}

// Continue a short connection; return whether it is complete.
static int converse(int epoll, const struct epoll_event *event)
{
    int sock = (int)(uint32_t)event->data.u64;
    struct epoll_event reading = { .events = EPOLLIN, .data.u64 = event->data.u64 };
    char byte = 'x';
    ssize_t got;

    if (event->events & EPOLLOUT) {
        if (send(sock, &byte, 1, MSG_NOSIGNAL) != 1)
            die("send");
        epoll_ctl(epoll, EPOLL_CTL_MOD, sock, &reading);
        return 0;
    }
    got = recv(sock, &byte, 1, 0);
    if (got < 0 && errno != EAGAIN)
        die("recv");
    if (got != 0)
        return 0;
    close(sock);
    return 1;
}

static void connect_many(const struct sockaddr_storage *where, socklen_t size, int64_t ms, int parallel)
{
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC), open = 0, count;
    int64_t began = now(), end = began + ms * MILLISECOND, done = 0;

    for (; open < parallel; open++)
        begin(epoll, where, size);
    while (open > 0) {
        count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (!converse(epoll, &events[i]))
                continue;
            done++;
            if (now() < end)
                begin(epoll, where, size);
            else
                open--;
        }
    }
    say(done, began);
    close(epoll);
}

// Numerical Recipes' generator: its upper bits are the port, so that consecutive datagrams are of other connections.
static void set_random_port(struct sockaddr_storage *where)
{
    static uint32_t drawn = 1;
    uint16_t port;

    drawn = drawn * 1664525 + 1013904223;
    port = htons(1 + (drawn >> 16) % 65535);
    if (where->ss_family == AF_INET)
        ((struct sockaddr_in *)where)->sin_port = port;
    else
        ((struct sockaddr_in6 *)where)->sin6_port = port;
}

static void datagrams(struct sockaddr_storage *where, socklen_t size, int64_t ms, int64_t a_second, int scatter)
{
    int sock = socket(where->ss_family, SOCK_DGRAM, 0);
    int64_t began = now(), end = began + ms * MILLISECOND, sent = 0, due;
    struct timespec rest = { .tv_nsec = 100000 };

    // Some at least, where any are due, also where this process stood still for the whole time.
    while ((due = now()) < end || (!sent && (end - began) * a_second >= SECOND)) {
        due = ((due < end ? due : end) - began) * a_second / SECOND;
        if (due <= sent)
            nanosleep(&rest, NULL);
        for (int i = 0; i < BURST && sent < due; i++, sent++) {
            if (scatter)
                set_random_port(where);
            if (sendto(sock, &sent, sizeof(sent), 0, (const struct sockaddr *)where, size) < 0 && errno != ENOBUFS)
                die("sendto");
        }
    }
    say(sent, began);
    close(sock);
}

static int client(const char *host, int port)
{
    struct sockaddr_storage where, sink;
    socklen_t size = address(host, port, &where), sink_size = address(host, port + 1, &sink);
    long long ms, number;
    char line[64];

    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "stream %lld", &ms) == 1) {
            stream(&sink, sink_size, ms);
        } else if (sscanf(line, "connect %lld %lld", &ms, &number) == 2) {
            connect_many(&where, size, ms, (int)number);
        } else if (sscanf(line, "datagrams %lld %lld", &ms, &number) == 2) {
            datagrams(&where, size, ms, number, 0);
        } else if (sscanf(line, "scatter %lld %lld", &ms, &number) == 2) {
            struct sockaddr_storage one = where;
            datagrams(&one, size, ms, number, 1);
        } else {
            fprintf(stderr, "traffic: no such command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "serve"))
        return serve(words[2], atoi(words[3]));
    if (count == 4 && !strcmp(words[1], "client"))
        return client(words[2], atoi(words[3]));
    fprintf(stderr, "usage: traffic serve|client ADDRESS PORT\n");
    return 2;
}
