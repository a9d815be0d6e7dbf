/* The server of the load generator: echoes polls in one epoll loop, swallows and sends bulk with a thread per
   connection, counts datagrams. It is the server that counts what it has taken, so that bytes which still sit in
   somebody's buffer are no throughput. */
#include "common.h"

#define CONNECTIONS 65536
#define RUNS 256

static struct {
  size_t got;
  struct order order;
} connections[CONNECTIONS];

struct bulk {
  int fd;
  struct order order;
};

static void *source(void *argument) {
  struct bulk *bulk = argument;
  char *memory = calloc(1, bulk->order.write);
  while (now() < bulk->order.until && send_all(bulk->fd, memory, bulk->order.write)) {
  }
  free(memory);
  return NULL;
}

/* Bytes that arrive between the two times, until the client has sent its last. */
static uint64_t swallow(const struct bulk *bulk) {
  char *memory = malloc(CHUNK);
  uint64_t total = 0;
  for (;;) {
    ssize_t count = recv(bulk->fd, memory, CHUNK, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    uint64_t time = now();
    if (time >= bulk->order.from && time < bulk->order.until) total += (uint64_t)count;
  }
  free(memory);
  return total;
}

static void *bulk_connection(void *argument) {
  struct bulk *bulk = argument;
  if (bulk->order.mode == DOWN) {
    source(bulk);
    shutdown(bulk->fd, SHUT_WR);
    swallow(bulk);
  } else {
    pthread_t sender = 0;
    if (bulk->order.mode == BOTH) sender = start_thread(source, bulk);
    uint64_t total = swallow(bulk);
    if (sender) pthread_join(sender, NULL);
    send_all(bulk->fd, &total, sizeof total);
  }
  close(bulk->fd);
  free(bulk);
  return NULL;
}

static void *count_datagrams(void *argument) {
  int fd = *(int *)argument;
  static struct {
    uint64_t run, count;
  } runs[RUNS];
  char memory[65536];
  for (;;) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t size = recvfrom(fd, memory, sizeof memory, 0, (struct sockaddr *)&from, &length);
    struct note note;
    if (size < (ssize_t)sizeof note) continue;
    memcpy(&note, memory, sizeof note);
    size_t place = note.run % RUNS;
    if (note.kind == COUNT) {
      if (runs[place].run != note.run) runs[place].run = note.run, runs[place].count = 0;
      runs[place].count++;
    } else if (note.kind == ASK) {
      note.count = runs[place].run == note.run ? runs[place].count : 0;
      sendto(fd, &note, sizeof note, 0, (struct sockaddr *)&from, length);
    }
  }
  return NULL;
}

static void drop(int fd) {
  close(fd); /* which takes it out of the epoll set as well */
}

/* What has arrived on a connection of the loop: the rest of its order, then polls. */
static void on_readable(int fd) {
  char memory[65536];
  size_t missing = sizeof(struct order) - connections[fd].got;
  if (missing > 0) {
    char *order = (char *)&connections[fd].order;
    ssize_t count = recv(fd, order + connections[fd].got, missing, MSG_DONTWAIT);
    if (count <= 0) {
      if (count == 0 || errno != EAGAIN) drop(fd);
      return;
    }
    connections[fd].got += (size_t)count;
    if ((size_t)count < missing) return;
  }
  if (connections[fd].order.mode != ECHO) return;
  ssize_t count = recv(fd, memory, sizeof memory, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0 || !send_all(fd, memory, (size_t)count)) drop(fd);
}

/* A bulk connection leaves the loop as soon as its order is known. */
static void hand_over(int loop, int fd) {
  struct bulk *bulk = malloc(sizeof *bulk);
  bulk->fd = fd;
  bulk->order = connections[fd].order;
  if (bulk->order.write == 0 || bulk->order.write > CHUNK) bulk->order.write = CHUNK;
  epoll_ctl(loop, EPOLL_CTL_DEL, fd, NULL);
  connections[fd].got = 0;
  pthread_detach(start_thread(bulk_connection, bulk));
}

void serve(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  int one = 1, memory = 16 << 20;
  int listener = socket(AF_INET, SOCK_STREAM, 0), datagrams = socket(AF_INET, SOCK_DGRAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(datagrams, SOL_SOCKET, SO_RCVBUFFORCE, &memory, sizeof memory);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096) ||
      bind(datagrams, (struct sockaddr *)&address, sizeof address))
    fail("port %d: %s", port, strerror(errno));
  start_thread(count_datagrams, &datagrams);

  int loop = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
  epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    struct epoll_event events[256];
    int count = epoll_wait(loop, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd != listener) {
        int known = connections[fd].got == sizeof(struct order);
        on_readable(fd);
        if (!known && connections[fd].got == sizeof(struct order) &&
            connections[fd].order.mode != ECHO)
          hand_over(loop, fd);
        continue;
      }
      int client = accept(listener, NULL, NULL);
      if (client < 0) continue;
      if (client >= CONNECTIONS) {
        close(client);
        continue;
      }
      no_delay(client);
      connections[client].got = 0;
      struct epoll_event readable = {.events = EPOLLIN, .data.fd = client};
      epoll_ctl(loop, EPOLL_CTL_ADD, client, &readable);
    }
  }
}
