/* What the server and the clients of the load generator share. Both ends run on one machine, so times are
   nanoseconds of CLOCK_MONOTONIC, which every network namespace sees alike, and numbers keep the host's order. */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 12 /* bytes of a poll: a Modbus/TCP read request */
#define CHUNK (1 << 20)
#define STACK (256 * 1024)

/* The first bytes of every TCP connection: what it is for, and between which times bytes count. */
struct order {
  uint64_t mode; /* ECHO, UP, DOWN or BOTH, as seen by the client */
  uint64_t from, until;
  uint64_t write; /* bytes of one write of the server */
};
enum { ECHO = 'e', UP = 'u', DOWN = 'd', BOTH = 'b' };

/* Every datagram begins with this. COUNT is counted under its run; ASK is answered with the count so far. */
struct note {
  uint64_t kind, run, count;
};
enum { COUNT = 'c', ASK = 'a' };

static inline uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void sleep_until(uint64_t when) {
  struct timespec t = {(time_t)(when / 1000000000u), (long)(when % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
  }
}

/* Ends the program with one line for people. */
static inline void fail(const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  vfprintf(stderr, format, rest);
  va_end(rest);
  fputc('\n', stderr);
  exit(1);
}

static inline void no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Writes all of it, on a blocking socket; 0 when the other side is gone. */
static inline int send_all(int fd, const void *data, size_t size) {
  const char *at = data;
  while (size > 0) {
    ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return 0;
    at += sent;
    size -= (size_t)sent;
  }
  return 1;
}

static inline pthread_t start_thread(void *(*body)(void *), void *argument) {
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK);
  if (pthread_create(&thread, &attributes, body, argument)) fail("no thread could be started");
  return thread;
}

void serve(int port);
int client(int argc, char **argv);

#endif
